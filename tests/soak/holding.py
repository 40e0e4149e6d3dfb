"""A disk that is told when to finish a write: a file, served by the kernel's FUSE.

A write takes a while, so that many are in flight. One that has MARK in it is held:
neither done nor answered before `release`; the others go on. (qemu-storage-daemon's
export does one request after the other.)
"""

import ctypes
import errno
import os
import stat
import struct
import threading
import time

MARK = b"held by the disk"
LIBC = ctypes.CDLL(None, use_errno=True)

# The kernel's protocol, 7.31.
FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, FLUSH, INIT, INTERRUPT = \
    2, 3, 4, 14, 15, 16, 17, 18, 20, 25, 26, 36
IN_HEADER, OUT_HEADER = struct.Struct("<IIQQIIIHH"), struct.Struct("<IiQ")
# Asynchronous reads, large writes, asynchronous direct I/O, and how many pages.
INIT_FLAGS = 1 | 1 << 5 | 1 << 15 | 1 << 22
# Past the page cache, and writes side by side.
OPEN_FLAGS = 1 | 1 << 6
WRITE_MAX = 1 << 20
LARGEST = WRITE_MAX + 4096


class HoldingDisk:
    """`file`, mounted over the file `place`."""

    def __init__(self, file, place, delay_s):
        self.file = os.open(file, os.O_RDWR)
        self.size = os.fstat(self.file).st_size
        self.delay_s = delay_s
        self.changed = threading.Condition()
        self.holds, self.held = True, 0
        self.device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self.device},rootmode={stat.S_IFREG:o},user_id=0,group_id=0,allow_other"
        if LIBC.mount(b"holding", place.encode(), b"fuse", 0, options.encode()) != 0:
            raise OSError(ctypes.get_errno(), f"cannot mount over {place}")
        threading.Thread(target=self.serve, daemon=True).start()

    def release(self):
        """Lets go what is held, and holds nothing any more."""
        with self.changed:
            self.holds = False
            self.changed.notify_all()
            self.changed.wait_for(lambda: not self.held, 10)

    def wait_until_held(self, timeout_s):
        with self.changed:
            return self.changed.wait_for(lambda: self.held, timeout_s)

    def serve(self):
        while True:
            try:
                request = os.read(self.device, LARGEST)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return      # It is not mounted any more.
            opcode, unique = struct.unpack_from("<IQ", request, 4)
            body = request[IN_HEADER.size:]
            if opcode == WRITE:
                threading.Thread(target=self.write, args=(unique, body), daemon=True).start()
            elif opcode not in (FORGET, INTERRUPT):
                self.answer(unique, *self.do(opcode, body))

    def answer(self, unique, error, data=b""):
        try:
            os.write(self.device, OUT_HEADER.pack(OUT_HEADER.size + len(data), -error, unique) + data)
        except OSError:
            pass    # Who asked has gone.

    def do(self, opcode, body):
        if opcode == INIT:
            fields = (7, 31, WRITE_MAX, INIT_FLAGS, 64, 48, WRITE_MAX, 1, WRITE_MAX // 4096, 0, 0)
            return 0, struct.pack("<IIIIHHIIHHI28x", *fields)
        if opcode in (GETATTR, SETATTR):
            attributes = struct.pack("<6Q10I", 1, self.size, self.size // 512, 0, 0, 0, 0, 0, 0,
                                     stat.S_IFREG | 0o600, 1, 0, 0, 0, 4096, 0)
            return 0, struct.pack("<QII", 3600, 0, 0) + attributes
        if opcode == OPEN:
            return 0, struct.pack("<QIi", 0, OPEN_FLAGS, 0)
        if opcode == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return 0, os.pread(self.file, size, offset)
        if opcode in (FSYNC, FLUSH, RELEASE):
            return 0, b""
        if opcode == STATFS:
            return 0, struct.pack("<5Q4I24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
        return errno.ENOSYS, b""

    def write(self, unique, body):
        _, offset, size = struct.unpack_from("<QQI", body)
        data = body[40:40 + size]
        time.sleep(self.delay_s)
        with self.changed:
            if self.holds and MARK in data:
                self.held += 1
                self.changed.notify_all()
                self.changed.wait_for(lambda: not self.holds)
                self.held -= 1
            os.pwrite(self.file, data, offset)
            self.changed.notify_all()
        self.answer(unique, 0, struct.pack("<II", len(data), 0))
