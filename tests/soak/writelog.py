"""What QEMU's blklogwrites recorded, and the disks that a loss of power could leave.

blklogwrites sits over a disk and writes down each write, discard and flush in the
order in which they reached it (the format is that of the kernel's dm-log-writes). A
disk with a volatile cache promises one thing: what was written before a flush is
there after it. So at any moment the disk after a loss of power is all that came before
the last flush, and any subset of what came later; a write that was being made may be
there up to some sector.
"""

import mmap
import os
import struct
import subprocess

SECTOR = 512
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
SUPER = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")


class Entry:
    """One request that reached the disk; `end` is how long the log was after it."""

    __slots__ = ("offset", "length", "flags", "data", "end")

    def __init__(self, offset, length, flags, data, end):
        self.offset, self.length, self.flags, self.data, self.end = offset, length, flags, data, end


class WriteLog:
    """A recorded log, read once its recorder has ended."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        magic, version, _, sector = SUPER.unpack_from(self.map)
        if magic != MAGIC or version != 1 or sector != SECTOR:
            raise ValueError(f"{path} is no log of blklogwrites")
        self.entries = list(self.parse())

    def parse(self):
        at = SECTOR
        while at + SECTOR <= len(self.map):
            sector, count, flags, _ = ENTRY.unpack_from(self.map, at)
            if count == 0 and flags == 0:
                return
            data, at = at + SECTOR, at + SECTOR
            if not flags & DISCARD:
                at += count * SECTOR
            yield Entry(sector * SECTOR, count * SECTOR, flags, data, at)

    def apply(self, file, entry, sectors=None):
        """Puts a write, or its first sectors, on the disk in `file`."""
        if entry.flags & DISCARD:
            os.pwrite(file, bytes(entry.length), entry.offset)
        elif entry.length:
            length = entry.length if sectors is None else sectors * SECTOR
            os.pwrite(file, self.map[entry.data:entry.data + length], entry.offset)

    def close(self):
        self.map.close()


class Disk:
    """The disk at one moment of the log; it goes forward only.

    `file` is what the flush before the last one left, `flushed` what the last one
    covered, `pending` what came since. So an image can be made with the last flush, as
    it must be, and without it: a test that cannot see that difference sees nothing.
    """

    def __init__(self, log, path):
        self.log, self.path = log, path
        self.file = os.open(path, os.O_RDWR)
        self.at = 0
        self.flushed, self.pending = [], []

    def advance(self, count):
        """To the moment when the first `count` entries had reached the disk."""
        while self.at < count:
            entry = self.log.entries[self.at]
            self.at += 1
            if entry.flags & FUA:
                raise ValueError("a write with FUA was recorded, and this model has none")
            if entry.length:
                self.pending.append(entry)
            if entry.flags & FLUSH:
                for write in self.flushed:
                    self.log.apply(self.file, write)
                self.flushed, self.pending = self.pending, []

    def image(self, path, survivors, torn=None, flush_counts=True):
        """Makes the disk on which of `pending` only the entries in `survivors` are,
        the one in `torn` (entry, sectors) only in part."""
        subprocess.run(["cp", "--sparse=always", self.path, path], check=True)
        file = os.open(path, os.O_RDWR)
        try:
            for entry in self.flushed if flush_counts else []:
                self.log.apply(file, entry)
            for entry in survivors:
                self.log.apply(file, entry, torn[1] if torn and entry is torn[0] else None)
        finally:
            os.close(file)

    def close(self):
        os.close(self.file)
