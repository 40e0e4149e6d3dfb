"""A small NBD client over a unix socket: many requests in flight, told as they end.

The kill tests drive QEMU's block layer with it, since they must know for each
single request whether it was answered before the process died.
"""

import socket
import struct

READ, WRITE, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 3, 4, 6
FUA = 1

REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698
INFO_EXPORT = 0
OPT_GO, REPLY_ACK, REPLY_INFO = 7, 1, 3


class Gone(Exception):
    """The server hung up, as it does when its process is killed."""


class Client:
    """One connection. Requests are numbered by the caller."""

    def __init__(self, path, export):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lengths = {}
        greeting = self.exactly(18)
        if greeting[:16] != b"NBDMAGICIHAVEOPT":
            raise OSError("this is no NBD server")
        # Fixed newstyle, no zero padding.
        self.socket.sendall(struct.pack(">I", 3))
        name = export.encode()
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self.socket.sendall(b"IHAVEOPT" + struct.pack(">II", OPT_GO, len(data)) + data)
        self.size_bytes = 0
        while True:
            _, _, kind, length = struct.unpack(">QIII", self.exactly(20))
            data = self.exactly(length)
            if kind == REPLY_ACK:
                return
            if kind != REPLY_INFO:
                raise OSError(f"the NBD server refuses export {export}: {data.decode(errors='replace')}")
            if struct.unpack(">H", data[:2])[0] == INFO_EXPORT:
                self.size_bytes = struct.unpack(">Q", data[2:10])[0]

    def exactly(self, length):
        parts = bytearray()
        while len(parts) < length:
            try:
                got = self.socket.recv(length - len(parts))
            except ConnectionError as error:
                raise Gone from error
            if not got:
                raise Gone
            parts += got
        return bytes(parts)

    def send(self, number, command, offset=0, length=0, data=b"", flags=0):
        self.lengths[number] = length if command == READ else 0
        header = struct.pack(">IHHQQI", REQUEST_MAGIC, flags, command, number, offset, length)
        try:
            self.socket.sendall(header + data)
        except ConnectionError as error:
            raise Gone from error

    def receive(self):
        """The next answer: its number, its error (0: none) and what was read."""
        magic, error, number = struct.unpack(">IIQ", self.exactly(16))
        if magic != REPLY_MAGIC:
            raise OSError("the NBD server's answer has no magic")
        length = self.lengths.pop(number)
        return number, error, self.exactly(length) if length and not error else b""

    def read_all(self, piece=1 << 20):
        """The whole export, in order, with nothing else in flight."""
        content = bytearray()
        for offset in range(0, self.size_bytes, piece):
            self.send(0, READ, offset, min(piece, self.size_bytes - offset))
            _, error, data = self.receive()
            if error:
                raise OSError(error, f"reading at {offset} failed")
            content += data
        return bytes(content)

    def close(self):
        self.socket.close()
