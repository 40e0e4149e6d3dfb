"""A file system on a volume: FUSE export, loop device, mount; its death and its return.

The kill takes qemu-storage-daemon alone. The file system above it lives on in the
kernel, but its disk answers nothing any more: what it had not written is lost with it,
as in a loss of power of a guest.
"""

import os
import random

from lab import Failure, Server, export_fuse, volume_node


class Stack:
    """One volume with a file system, served, killed and served again."""

    def __init__(self, lab, dice, kind, size="768M", place=None):
        self.lab, self.dice, self.kind = lab, dice, kind
        self.place = place or lab.path("mnt")
        self.volume, self.number = "vol", 0
        self.server = None
        self.kills = self.snapshots = self.clones = self.collections = 0
        lab.archipelago("init")
        lab.archipelago("create", "vol", size, "--block-size", dice.choice(("256K", "1M", "4M")))
        self.serve()
        device = lab.attach(self.file)
        lab.make_file_system(kind, device)
        lab.mount(device, self.place)

    def serve(self):
        self.file = self.lab.mountpoint_file("export")
        self.server = Server(self.lab, *volume_node(self.volume, self.dice.choice(("on", "off"))),
                             *export_fuse(self.file))

    def up(self):
        """Opens the volume again and mounts: the file system replays its journal."""
        self.serve()
        self.lab.mount_file(self.file, self.place)

    def die(self, end_users):
        """SIGKILL, now. Then those who use the file system are ended, and it with them."""
        if not self.server.alive():
            raise Failure(f"qemu-storage-daemon ended by itself under load: {self.server.said()}")
        self.server.kill()
        self.kills += 1
        self.lab.servers.remove(self.server)
        end_users()
        self.lab.unmount(self.place, lazy=True)
        self.lab.unmount(self.file, lazy=True)

    def down(self):
        """A clean end."""
        self.lab.unmount(self.place)
        self.server.end()
        self.lab.servers.remove(self.server)

    def live_snapshot(self):
        """Of the running volume, as over QMP of a running machine."""
        self.number += 1
        name = f"live{self.number}"
        self.server.qmp("blockdev-snapshot-internal-sync", device="disk", name=name)
        self.snapshots += 1
        return name

    def between(self):
        """What is done to a volume while nobody has it open: always a check, often a
        snapshot, so that every block is shared again and small writes go to the log."""
        lab = self.lab
        lab.archipelago("check")
        what = self.dice.random()
        if what < 0.6:
            self.number += 1
            lab.archipelago("snapshot", f"{self.volume}@s{self.number}")
            self.snapshots += 1
            if what < 0.25:
                clone = f"vol{self.number}"
                lab.archipelago("clone", f"{self.volume}@s{self.number}", clone)
                lab.archipelago("rm", self.volume, "--snapshots")
                self.volume = clone
                self.clones += 1
        if self.dice.random() < 0.3:
            lab.archipelago("gc")
            self.collections += 1

    def look_at(self, snapshot, look):
        """Mounts a clone of a live snapshot and calls `look` with its place."""
        lab = self.lab
        lab.archipelago("clone", f"{self.volume}@{snapshot}", "look")
        file, place = lab.mountpoint_file("look-export"), lab.path("look")
        server = Server(lab, *volume_node("look"), *export_fuse(file))
        try:
            # XFS refuses to mount what has the number of a mounted file system.
            lab.mount_file(file, place, "noatime" + (",nouuid" if self.kind == "xfs" else ""))
            look(place)
            lab.unmount(place)
            server.end()
        finally:
            server.kill()
            lab.servers.remove(server)
        lab.archipelago("rm", "look")

    def told(self):
        return (f"{self.kills} kills, {self.snapshots} snapshots, {self.clones} times on a clone, "
                f"{self.collections} collections")


def numbers(path, word):
    """The numbers of a ledger's lines that begin with `word`; a torn line is none."""
    found = []
    if os.path.exists(path):
        with open(path, encoding="ascii") as file:
            found = [int(line.split()[1]) for line in file
                     if line.startswith(word + " ") and line.endswith("\n")]
    return found


def payload(number, salt=0):
    """What transaction `number` writes: anybody can tell whether it is that."""
    dice = random.Random(number * 1000 + salt)
    return dice.randbytes(dice.choice((40, 300, 300, 2000, 9000)))
