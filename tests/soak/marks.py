"""What a guest's file system wrote to its disk, replayed: no difference from a raw disk.

What can go wrong: a volume gives each request the right answer and yet is not the disk
that the sequence of requests makes: a discard that overtakes a write, zeroes over
something that is being settled, a flush after which the next holder sees another state.

A file system is made on a volume under QEMU's blklogwrites (FUSE export, loop device,
mounted with discard), two SQLite data bases work in it, files come and go; the record
is what a guest's disk saw. It is then replayed onto a model, which is a raw disk, and
onto a fresh volume. At each flush the two are compared where something was written; at
some the whole; at some the volume's process is killed first, or ended, or a snapshot
is taken and writes go to the log from then on; some kills come between two flushes,
and then each sector must be what it was at the flush or what was written since. And at
some flushes a clone is mounted, as after a loss of the guest's power: e2fsck or
xfs_repair finds no fault in what they find none in on the raw disk, and the data bases
hold every transaction that had been acknowledged at that moment.

With a library that answers one write in ten without making it (`planted.c`) the same
replay must fail.
"""

import os
import shutil
import subprocess
import sys

import lab as soak
import nbd
import sqlite
from lab import Failure, Server, export_fuse, export_nbd, say, volume_node
from writelog import DISCARD, FLUSH, SECTOR, WriteLog

ENTRIES_MAX = 15000
SNAPSHOTS_MAX = 4
DISK_BYTES = {"ext4": 96 << 20, "xfs": 320 << 20}


def record(lab, kind, dice, seconds):
    """Makes the record, and the ledgers of the data bases."""
    path, place = lab.path("memory", "record"), lab.path("mnt")
    lab.archipelago("create", "first", str(DISK_BYTES[kind]))
    with open(path, "wb"):
        pass
    file = lab.mountpoint_file("export")
    server = Server(lab, *volume_node("first", name="vol"),
                    "--blockdev", f"driver=file,node-name=record,filename={path},cache.no-flush=on",
                    "--blockdev", "driver=blklogwrites,node-name=disk,file=vol,log=record",
                    *export_fuse(file))
    device = lab.attach(file)
    lab.make_file_system(kind, device)
    lab.mount(device, place, "noatime,discard")
    users = [subprocess.Popen(
        [sys.executable, sqlite.__file__, os.path.join(place, journal), journal,
         lab.path(f"ledger-{journal}"), path], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=soak.die_with_parent)
        for journal in sqlite.JOURNALS]
    end = soak.time.monotonic() + seconds
    while soak.time.monotonic() < end or not all(promised(lab, 1 << 62)[j][0] for j in sqlite.JOURNALS):
        name = os.path.join(place, f"file-{dice.randrange(8)}")
        if os.path.exists(name) and dice.random() < 0.5:
            os.unlink(name)
        else:
            with open(name, "ab") as out:
                out.write(dice.randbytes(dice.randrange(1, 300_000)))
        soak.time.sleep(0.05)
    for user in users:
        user.kill()
        user.wait()
    lab.unmount(place)
    server.end()
    lab.servers.remove(server)
    lab.archipelago("rm", "first")
    return WriteLog(path)


def promised(lab, at):
    """For each data base the last transaction acknowledged when the record was `at` bytes
    long, and the last that was begun at all."""
    held = {}
    for journal in sqlite.JOURNALS:
        acknowledged = begun = 0
        if os.path.exists(lab.path(f"ledger-{journal}")):
            with open(lab.path(f"ledger-{journal}"), encoding="ascii") as file:
                for line in file:
                    word, number, place = (line.split() + ["", "0", "0"])[:3]
                    if word == "begun":
                        begun = int(number)
                    elif word == "acknowledged" and line.endswith("\n") and int(place) <= at:
                        acknowledged = int(number)
        held[journal] = [acknowledged, begun]
    return held


class Replay:
    """The record on its way onto the model and onto a volume."""

    def __init__(self, lab, kind, dice, log, planted=None):
        self.lab, self.kind, self.dice, self.log, self.planted = lab, kind, dice, log, planted
        self.model = bytearray(DISK_BYTES[kind])
        self.live = []          # snapshots
        self.since = []         # what was written since the last flush
        self.marks = self.kills = self.ends = self.snapshots = self.wholes = self.mounts = self.number = 0
        lab.archipelago("create", "vol", str(DISK_BYTES[kind]), "--block-size",
                        dice.choice(("64K", "1M", "4M")))
        self.open()

    def open(self):
        path = self.lab.path("nbd")
        if os.path.exists(path):
            os.unlink(path)
        self.server = Server(self.lab, *volume_node("vol", self.dice.choice(("on", "off"))),
                             *export_nbd(path), env=self.planted)
        self.client = nbd.Client(path, "disk")

    def close(self, how):
        self.client.close()
        getattr(self.server, how)()
        self.lab.servers.remove(self.server)

    def ask(self, command, offset=0, length=0, data=b""):
        try:
            self.client.send(1, command, offset, length, data)
            _, error, content = self.client.receive()
        except nbd.Gone:
            raise Failure(f"the server is gone: {self.server.said()}") from None
        if error:
            raise Failure(f"a request at {offset} failed with error {error}")
        return content

    def write(self, offset, data):
        """NBD takes 32 MiB at most at a time; mkfs zeroes more at once."""
        for at in range(0, len(data), 8 << 20):
            part_of_it = data[at:at + (8 << 20)]
            self.ask(nbd.WRITE, offset + at, len(part_of_it), part_of_it)

    def read(self, offset, length):
        return b"".join(self.ask(nbd.READ, at, min(8 << 20, offset + length - at))
                        for at in range(offset, offset + length, 8 << 20))

    def bytes_of(self, entry):
        if entry.flags & DISCARD:
            return bytes(entry.length)
        return self.log.map[entry.data:entry.data + entry.length]

    def step(self, entry):
        """One request to both. A discarded range is zeroed first: a raw disk may keep
        what was there, and then the two could not be compared."""
        if entry.length:
            data = self.bytes_of(entry)
            if entry.flags & DISCARD:
                self.ask(nbd.WRITE_ZEROES, entry.offset, entry.length)
                self.ask(nbd.TRIM, entry.offset, entry.length)
            else:
                self.write(entry.offset, data)
            self.since.append((entry, bytes(self.model[entry.offset:entry.offset + entry.length])))
            self.model[entry.offset:entry.offset + entry.length] = data
        if entry.flags & FLUSH:
            self.ask(nbd.FLUSH)
            self.mark(entry)
        elif self.dice.random() < 0.003:
            self.die_between()

    # ---- what is looked at ---------------------------------------------------

    def same(self, offset, length, words):
        for at in range(offset, offset + length, 1 << 20):
            size = min(1 << 20, offset + length - at)
            content = self.ask(nbd.READ, at, size)
            if content != self.model[at:at + size]:
                sector = next(i for i in range(0, size, SECTOR)
                              if content[i:i + SECTOR] != self.model[at + i:at + i + SECTOR])
                raise Failure(f"{words}: sector {(at + sector) // SECTOR} is not what a raw disk holds, "
                              f"after {self.marks} flushes and {self.kills} kills")

    def mark(self, entry):
        self.marks += 1
        written = [(write.offset, write.length) for write, _ in self.since]
        self.since.clear()
        what = self.dice.random()
        if what < 0.12:
            if what < 0.08:
                self.close("kill")
                self.kills += 1
            else:
                self.close("end")
                self.ends += 1
            self.open()
        for offset, length in written:
            self.same(offset, length, "at a flush")
        if what < 0.12:
            self.wholes += 1
            self.same(0, len(self.model), "at a flush, with the volume opened again")
        elif what < 0.16:
            self.number += 1
            self.server.qmp("blockdev-snapshot-internal-sync", device="disk", name=f"s{self.number}")
            self.snapshots += 1
            self.live.append(f"s{self.number}")
            if len(self.live) > SNAPSHOTS_MAX:
                self.server.qmp("blockdev-snapshot-delete-internal-sync", device="disk", name=self.live.pop(0))
                self.lab.archipelago("gc")
        elif what < 0.18:
            self.mount(entry)

    def die_between(self):
        """Each sector is what it was, or something that was written since."""
        self.close("kill")
        self.kills += 1
        self.open()
        written = [(entry.offset, entry.offset + entry.length, before, self.bytes_of(entry))
                   for entry, before in self.since]
        for begin, end, _, _ in written:
            content = self.read(begin, end - begin)
            if content == self.model[begin:end]:
                continue
            for place in range(begin, end, SECTOR):
                may = [versions[place - first:place - first + SECTOR]
                       for first, last, *both in written if first <= place < last for versions in both]
                if content[place - begin:place - begin + SECTOR] not in may:
                    raise Failure(f"after a kill between two flushes sector {place // SECTOR} is neither "
                                  "what was flushed nor what was written since")
        # The guest would write again what it knows was not flushed.
        for entry, _ in self.since:
            if entry.flags & DISCARD:
                self.ask(nbd.WRITE_ZEROES, entry.offset, entry.length)
            else:
                self.write(entry.offset, self.bytes_of(entry))
        self.wholes += 1
        self.same(0, len(self.model), "after a kill between two flushes")

    def mount(self, entry):
        """As after a loss of the guest's power at this flush."""
        lab = self.lab
        raw = lab.path("memory", "raw")
        with open(raw, "wb") as file:
            file.write(self.model)
        on_raw = self.look_at(raw, entry, None)
        self.number += 1
        self.server.qmp("blockdev-snapshot-internal-sync", device="disk", name=f"m{self.number}")
        lab.archipelago("clone", f"vol@m{self.number}", "look")
        file = lab.mountpoint_file("look-export")
        server = Server(lab, *volume_node("look"), *export_fuse(file))
        self.look_at(file, entry, on_raw)
        server.end()
        lab.servers.remove(server)
        lab.archipelago("rm", "look")
        self.server.qmp("blockdev-snapshot-delete-internal-sync", device="disk", name=f"m{self.number}")
        self.mounts += on_raw

    def look_at(self, file, entry, wanted):
        """Mounts and looks; True if there was a whole file system, which is `wanted`."""
        lab, place = self.lab, self.lab.path("look")
        try:
            lab.mount_file(file, place, direct="off" if wanted is None else "on")
        except Failure:
            if wanted:
                raise
            return False    # There is none yet: mkfs was at work.
        if wanted is False:
            raise Failure("the volume's file system is mounted, and the raw disk's is not")
        for journal, (acknowledged, begun) in promised(lab, entry.end).items():
            path = os.path.join(place, journal)
            if os.path.exists(path) or acknowledged:
                sqlite.look(path, acknowledged, begun)
        lab.unmount(place)
        if self.kind == "ext4":
            lab.run("e2fsck", "-fn", file)
        elif shutil.which("xfs_repair", path=soak.PATH):
            lab.run("xfs_repair", "-n", "-f", file)
        return True

    def run(self, entries_max=None):
        entries = self.log.entries[:entries_max]
        for entry in entries:
            self.step(entry)
        self.close("end")
        self.lab.archipelago("check")
        return (f"{self.kind}: {len(entries)} requests replayed, the same as on a raw disk at each of "
                f"{self.marks} flushes, {self.wholes} times as a whole; {self.kills} kills, {self.ends} "
                f"clean ends, {self.snapshots} snapshots; {self.mounts} times mounted as if power was lost")


def planted(lab, kind, dice, log):
    env = {"LD_PRELOAD": soak.compiled(lab, "planted.c", "-shared", "-fPIC", "-ldl"), "PLANTED": "write"}
    replay = Replay(lab, kind, dice, log, env)
    try:
        replay.run()
    except Failure as found:
        if "is not what a raw disk holds" in str(found):
            replay.close("kill")
            lab.archipelago("rm", "vol", "--snapshots")
            return f"a library that drops a write in ten is seen: {found}"
        raise
    raise Failure("a library that drops a write in ten was not seen: this test does not see what it is for")


def part(lab, dice, short, words):
    kinds = words or (("ext4",) if short else ("ext4", "xfs"))
    for at, kind in enumerate(kinds):
        try:
            soak.need_kind(kind)
        except soak.Skip as reason:
            yield reason
            continue
        inner = soak.Lab(f"marks-{kind}", lab.keep)
        try:
            inner.use_store(os.path.join(inner.memory(4096), "store"))
            inner.archipelago("init")
            log = record(inner, kind, dice, 1 if short else 8)
            say(f"marks: {len(log.entries)} requests to the disk are recorded on {kind}")
            if at == 0:
                yield planted(inner, kind, dice, log)
            yield Replay(inner, kind, dice, log).run(150 if short else ENTRIES_MAX)
            log.close()
        finally:
            inner.end()
