"""A loss of power under a store on a real file system: what was flushed is there.

What can go wrong: `dir` believes that something is durable which is only in the page
cache: a file that was synced and its name not, a log segment whose size is not, a
rename that overtakes the data, an fsync on the wrong descriptor, a flush that is
answered before the disk has it. A killed process shows none of it, as the page cache
lives on, and a model of a disk shows only what its author knows of file systems.

So: a file system is made on a disk that QEMU's blklogwrites watches (a raw file, under
the FUSE export of one qemu-storage-daemon and a loop device), a store in it, a volume
in that, served by a second qemu-storage-daemon to a load with a ledger of sectors;
that one is killed and opened again now and then, snapshots are taken and removed, gc
runs. From the record the disks are made that a loss of power could have left: the
state at a flush, at an answer to the guest, and in between, with everything that was
flushed and any subset of what was not, torn writes among it. Each is mounted (its
journal replayed, or e2fsck run where it has none), the store is checked, the volume
opened and read in full, its snapshots too, and compared with what the ledger allowed
at that moment: every flush that had been answered, and after a kill also everything
that the next holder had shown to its guest (ordering rule 10). One of the disks is
what the next life begins on, as it is, so that recovery is recorded and cut as well.

That it can fail: the same comparison is made with disks on which the last flush did
nothing, and with a library whose flushes do nothing (`planted.c`); both must be seen.
"""

import bisect
import copy
import os
import pickle
import random
import subprocess

import lab as soak
import nbd
from lab import Failure, Server, export_fuse, export_nbd, say, volume_node
from ledger import SECTOR, Ledger, stamped
from load import Load, Trace, apply_event, judge
from writelog import Disk, WriteLog

VOLUME_BYTES = 8 * 1024 * 1024 + 5 * SECTOR
DISK_BYTES = 1 << 30
WHEN = ("at an answer", "after an opening", "at a flush", "in between")
MEMORY_MIB = 4096
# Without a journal ext4 itself loses what was flushed (docs/testing.md): by name only.
KINDS = ("ext4", "xfs", "btrfs")


class Volume:
    """What is tested: a volume in a store on the disk."""

    snapshots = True

    def __init__(self, lab):
        self.lab = lab

    def make(self, dice):
        self.lab.archipelago("init")
        self.lab.archipelago("create", "vol", str(VOLUME_BYTES), "--block-size",
                             dice.choice(("64K", "256K", "4M")))

    def node(self, dice):
        return volume_node("vol", dice.choice(("on", "off")))

    def check(self):
        self.lab.archipelago("check")


class RawFile:
    """What it is measured against: QEMU's raw disk, a file on the same disk."""

    snapshots = False

    def __init__(self, lab):
        self.lab, self.path = lab, lab.path("mnt", "raw")

    def make(self, _):
        self.lab.run("truncate", "-s", str(-(-VOLUME_BYTES // 4096) * 4096), self.path)
        self.lab.run("sync")

    def node(self, dice):
        return ("--blockdev", f"driver=file,node-name=disk,filename={self.path},discard=unmap,"
                              f"cache.direct={dice.choice(('on', 'off'))}")

    def check(self):
        pass


class Facts:
    """What holds at one moment beside the ledger of sectors."""

    def __init__(self):
        self.ledger = Ledger(VOLUME_BYTES // SECTOR)
        self.exists = False
        self.snapshots = {}     # name -> [content, whether it must be there, removed]

    def apply(self, event):
        kind, *words = event
        if kind == "volume":
            self.exists = True
        elif kind == "snapshot begins":
            self.snapshots[words[0]] = [words[1], False, False]
        elif kind == "snapshot":
            self.snapshots[words[0]][1] = True
        elif kind == "removing":
            self.snapshots[words[0]][1:] = [False, True]
        else:
            apply_event(self.ledger, event)


class Recorder:
    """One life: the disk under blklogwrites, the store on it, and the load."""

    def __init__(self, lab, subject, disk, facts, dice, planted=None):
        self.lab, self.subject, self.dice, self.planted = lab, subject, dice, planted
        self.record = lab.path("memory", "record")
        self.place = lab.path("mnt")
        with open(self.record, "wb"):
            pass
        self.trace = Trace(self.record, None)
        self.trace.note = self.note
        self.trace.live = facts.ledger
        self.facts = facts
        self.disk = disk
        self.number = max((state[0] for states in facts.ledger.may for state in states), default=0) + 1000
        self.answered = self.flushes = self.kills = 0

    def note(self, *event):
        self.facts.apply(event)
        self.trace.events.append((self.trace.place(), event))

    def run(self, seconds):
        lab, mountpoint = self.lab, self.lab.mountpoint_file("disk-export")
        watcher = Server(
            lab, "--blockdev", f"driver=file,node-name=raw,filename={self.disk},cache.no-flush=on",
            "--blockdev", f"driver=file,node-name=record,filename={self.record},cache.no-flush=on",
            "--blockdev", "driver=blklogwrites,node-name=disk,file=raw,log=record",
            *export_fuse(mountpoint))
        try:
            lab.mount_file(mountpoint, self.place)
            if not self.facts.exists:
                self.subject.make(self.dice)
                self.note("volume")
            end = soak.time.monotonic() + seconds
            while soak.time.monotonic() < end:
                self.session(end)
            lab.unmount(self.place)
            watcher.end()
        finally:
            watcher.kill()

    def session(self, end):
        """From one opening of the volume to its death, or to its clean end."""
        path = self.lab.path("nbd")
        if os.path.exists(path):
            os.unlink(path)
        server = Server(self.lab, *self.subject.node(self.dice), *export_nbd(path), env=self.planted)
        client = nbd.Client(path, "disk")
        self.note("seen", client.read_all())
        gc = None
        for _ in range(self.dice.randrange(1, 5)):
            self.loaded(client, self.dice.uniform(0.1, 0.6))
            if soak.time.monotonic() > end:
                break
            what = self.dice.random() if self.subject.snapshots else 1
            if what < 0.45:
                self.take_snapshot(server, client)
            elif what < 0.6 and gc is None:
                gc = subprocess.Popen([os.environ["ARCHIPELAGO_PROG"], "gc"], env=self.lab.env,
                                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, preexec_fn=soak.die_with_parent)
        if self.dice.random() < 0.7:
            load = Load(self.trace, self.dice, client, self.number)
            load.run(self.dice.uniform(0.05, 0.3))
            self.count(load)
            # With requests in flight.
            while len(load.flights) < 12:
                load.submit()
            self.number = load.number
            server.kill()
            self.kills += 1
        else:
            server.end()
        client.close()
        if gc:
            words = gc.communicate(timeout=60)[0].decode(errors="replace")
            if gc.returncode not in (0, 5):
                raise Failure(f"gc ended with {gc.returncode}: {words.strip()}")

    def loaded(self, client, seconds):
        load = Load(self.trace, self.dice, client, self.number)
        if not load.run(seconds):
            raise Failure("the server died by itself under load")
        self.number = load.number
        self.count(load)

    def count(self, load):
        self.answered += load.answered
        self.flushes += load.flushes

    def take_snapshot(self, server, client):
        known = [name for name, (_, must, _) in self.facts.snapshots.items() if must]
        if len(known) >= 2:
            name = self.dice.choice(known)
            self.note("removing", name)
            server.qmp("blockdev-snapshot-delete-internal-sync", device="disk", name=name)
        name = f"s{self.number}"
        self.note("snapshot begins", name, client.read_all())
        server.qmp("blockdev-snapshot-internal-sync", device="disk", name=name)
        self.note("snapshot", name)


class Inspector:
    """Makes the disks of one record and looks at each."""

    def __init__(self, lab, subject, kind, start_disk, start_facts, events, dice):
        self.lab, self.subject, self.kind, self.dice = lab, subject, kind, dice
        self.log = WriteLog(lab.path("memory", "record"))
        self.disk = Disk(self.log, start_disk)
        self.events, self.next_event = events, 0
        self.facts = start_facts
        self.place = lab.path("mnt")
        self.ends = [entry.end for entry in self.log.entries]
        self.looked_at = {}

    def moments(self, count, only=None):
        """(place in the log, entries that had reached the disk, why), in order."""
        first = next((at for at, (_, event) in enumerate(self.events) if event[0] == "volume"), 0)
        start = self.events[first][0]
        answers = [place for place, event in self.events[first:]
                   if event[0] in ("flushed", "durable", "snapshot", "seen", "volume")]
        openings = [place for place, event in self.events[first:] if event[0] == "seen"]
        flushes = [entry.end for entry in self.log.entries if entry.flags and entry.end >= start]
        others = [end for end in self.ends if end >= start]
        places = []
        while len(places) < count:
            why, among = self.dice.choice((("at an answer", answers), ("at an answer", answers),
                                           ("after an opening", openings), ("at a flush", flushes),
                                           ("in between", others)))
            if only in (None, why):
                places.append((self.dice.choice(among), why))
        return [(place, bisect.bisect_right(self.ends, place), why) for place, why in sorted(places)]

    def go_to(self, place, count):
        while self.next_event < len(self.events) and self.events[self.next_event][0] <= place:
            self.facts.apply(self.events[self.next_event][1])
            self.next_event += 1
        self.disk.advance(count)

    def survivors(self, why):
        """Which of the writes since the last flush are on the disk, and how."""
        pending = self.disk.pending
        how = self.dice.choice(("none", "none", "all", "some", "some", "few"))
        if why == "at a flush" or how == "none" or not pending:
            return [], None, "nothing else"
        if how == "all":
            kept = list(pending)
        else:
            share = 0.5 if how == "some" else self.dice.choice((0.05, 0.95))
            kept = [entry for entry in pending if self.dice.random() < share]
        long = [entry for entry in kept if entry.length > SECTOR and not entry.flags]
        torn = None
        # Without a journal nothing repairs a torn block of the file system's own.
        if long and self.kind != "ext4-nojournal" and self.dice.random() < 0.3:
            entry = self.dice.choice(long)
            torn = (entry, self.dice.randrange(1, entry.length // SECTOR))
        words = f"{len(kept)} of {len(pending)} later writes" + (", one torn" if torn else "")
        return kept, torn, words

    def look(self, image, go_on):
        """Everything that is promised, on one disk. Raises Failure."""
        lab = self.lab
        if self.kind == "ext4-nojournal":
            lab.run("e2fsck", "-fy", image, codes=(0, 1, 2))
        lab.mount_file(image, self.place, direct="off")
        try:
            self.subject.check()
            self.look_at_volume(go_on and self.subject.snapshots)
            if self.subject.snapshots:
                self.look_at_snapshots()
                if go_on:
                    lab.archipelago("gc")
                    lab.archipelago("check")
        finally:
            for server in lab.servers:
                server.kill()
            lab.servers.clear()
            lab.unmount(self.place, lazy=False)

    def look_at_volume(self, go_on):
        path = self.lab.path("nbd")
        if os.path.exists(path):
            os.unlink(path)
        server = Server(self.lab, *self.subject.node(self.dice), *export_nbd(path))
        client = nbd.Client(path, "disk")
        content = client.read_all()
        wrong = judge(self.facts.ledger, content)
        if wrong:
            raise Failure(f"{len(wrong)} sectors are wrong: " + "; ".join(wrong[:6]))
        if go_on:
            sectors = len(self.facts.ledger.may)
            for number in range(40):
                first = self.dice.randrange(sectors - 8)
                client.send(1, nbd.WRITE, first * SECTOR, 8 * SECTOR, stamped(first, 8, 1 << 40 | number))
                if client.receive()[1]:
                    raise Failure(f"a write after the recovery failed; {server.said()}")
                content = content[:first * SECTOR] + stamped(first, 8, 1 << 40 | number) \
                    + content[(first + 8) * SECTOR:]
            if client.read_all() != content:
                raise Failure("what was written after the recovery is not read back")
        client.close()
        server.end()
        if go_on:
            self.lab.archipelago("export", "vol", self.lab.path("memory", "out.raw"), "--force")
            with open(self.lab.path("memory", "out.raw"), "rb") as file:
                if file.read() != content:
                    raise Failure("what was written after the recovery is gone after a clean end")

    def look_at_snapshots(self):
        listed = self.lab.archipelago("ls", "--tree").split()
        for name, (content, must, removed) in self.facts.snapshots.items():
            there = f"@{name}" in listed
            if removed or not there:
                if must:
                    raise Failure(f"snapshot vol@{name} was taken and is gone")
                continue
            out = self.lab.path("memory", "out.raw")
            self.lab.archipelago("export", f"vol@{name}", out, "--force")
            with open(out, "rb") as file:
                if file.read() != content:
                    raise Failure(f"snapshot vol@{name} is not what was taken")

    def close(self):
        self.disk.close()
        self.log.close()


def fresh_disk(lab, kind):
    lab.use_store(lab.path("mnt", "store"))
    if not os.path.isdir(lab.path("memory")):
        lab.memory(MEMORY_MIB)
    disk = lab.path("memory", "start.raw")
    if os.path.exists(disk):
        os.unlink(disk)
    lab.run("truncate", "-s", str(DISK_BYTES), disk)
    lab.make_file_system(kind, disk)
    return disk


def control(lab, dice, seconds, what, enough):
    """Sees a disk whose last flush did nothing, or a library without flushes."""
    kind, planted = "ext4", None
    if what == "library":
        planted = {"LD_PRELOAD": soak.compiled(lab, "planted.c", "-shared", "-fPIC", "-ldl")}
    start_disk = fresh_disk(lab, kind)
    subject, facts = Volume(lab), Facts()
    try:
        recorder = one_life(lab, subject, start_disk, copy.deepcopy(facts), dice, seconds, planted)
    except Failure as error:
        # A block that no flush has recorded is lost with its process already.
        if planted and "sectors are wrong" in str(error):
            for server in reversed(lab.servers):
                server.kill()
            lab.servers.clear()
            lab.unmount(lab.path("mnt"), lazy=True)
            os.unlink(lab.path("memory", "disk.raw"))
            return f"a {what} that does not flush was seen after a kill already"
        raise
    inspector = Inspector(lab, subject, kind, start_disk, facts, recorder.trace.events, dice)
    image, seen, tried = lab.path("memory", "image.raw"), 0, 0
    for place, count, _ in inspector.moments(24, "at an answer"):
        inspector.go_to(place, count)
        if seen == enough:
            break
        tried += 1
        inspector.disk.image(image, [], flush_counts=what == "library")
        try:
            inspector.look(image, False)
        except Failure as error:
            seen += "sectors are wrong" in str(error) or "there is no volume" in str(error)
    inspector.close()
    if not seen:
        raise Failure(f"with a {what} that does not flush, nothing was found on {tried} disks: "
                      "this test does not see what it is for")
    return f"a {what} that does not flush was seen on {seen} of {tried} disks"


def one_life(lab, subject, start_disk, facts, dice, seconds, planted=None):
    """Records a life on a copy of the disk; returns its events and what was done."""
    disk = lab.path("memory", "disk.raw")
    lab.run("cp", "--sparse=always", start_disk, disk)
    recorder = Recorder(lab, subject, disk, facts, dice, planted)
    recorder.run(seconds)
    os.unlink(disk)
    return recorder


def evidence(lab, events, place):
    """Keeps what a failure can be looked at with: times are not part of a seed."""
    folder = os.path.join(os.path.dirname(lab.dir), "soak-failure")
    os.makedirs(folder, exist_ok=True)
    for name in ("record", "start.raw", "image.raw"):
        lab.run("cp", "--sparse=always", lab.path("memory", name), folder)
    with open(os.path.join(folder, "events"), "wb") as file:
        pickle.dump((place, events), file)
    return folder


def run_kind(lab, kind, dice, lives, seconds, images, subject=None):
    """Lives on one kind of file system; returns what was done, in words."""
    subject = subject or Volume(lab)
    start_disk = fresh_disk(lab, kind)
    facts, looked, seen = Facts(), 0, dict.fromkeys(WHEN, 0)
    answered = flushes = kills = writes = 0
    for life in range(1, lives + 1):
        recorder = one_life(lab, subject, start_disk, copy.deepcopy(facts), dice, seconds)
        inspector = Inspector(lab, subject, kind, start_disk, facts, recorder.trace.events, dice)
        answered, flushes = answered + recorder.answered, flushes + recorder.flushes
        kills, writes = kills + recorder.kills, writes + len(inspector.log.entries)
        moments = inspector.moments(images)
        goes_on = dice.randrange(len(moments) // 2, len(moments))
        image, kept = lab.path("memory", "image.raw"), None
        for at, (place, count, why) in enumerate(moments):
            inspector.go_to(place, count)
            survivors, torn, words = inspector.survivors(why)
            inspector.disk.image(image, survivors, torn)
            if at == goes_on:
                lab.run("cp", "--sparse=always", image, lab.path("memory", "next.raw"))
                kept = copy.deepcopy(inspector.facts)
            try:
                inspector.look(image, at % 8 == 0)
            except Failure as error:
                raise Failure(f"{kind}, life {life}, power lost {why}, after {count} requests to the "
                              f"disk, with {words}: {error}; all of it is in "
                              f"{evidence(lab, recorder.trace.events, place)}") from error
            looked, seen[why] = looked + 1, seen[why] + 1
        inspector.close()
        os.replace(lab.path("memory", "next.raw"), start_disk)
        facts = kept
        say(f"{kind}, life {life}: {len(inspector.ends)} requests to the disk, "
            f"{recorder.answered} to the volume, {recorder.flushes} flushes, {recorder.kills} kills; "
            f"{len(moments)} losses of power, each without loss of data")
    at = ", ".join(f"{number} {why}" for why, number in seen.items())
    return (f"{kind}: {looked} losses of power ({at}); "
            f"{answered} requests, {flushes} flushes, {kills} kills, {writes} requests to the disk")


def part(lab, dice, short, words):
    """The two controls, and the kinds of file system that are named, or all. A number
    is how many lives each has."""
    kinds = [word for word in words if not word.isdigit()] or (KINDS[:2] if short else KINDS)
    lives, seconds, images = (1, 1.5, 8) if short else (6, 4, 50)
    lives = next((int(word) for word in words if word.isdigit()), lives)
    for what in ("disk", "library"):
        soak.need_kind("ext4")
        yield control(lab, dice, seconds, what, 1 if short else 24)
    for kind in kinds:
        subject = Volume(lab)
        if kind.endswith(":raw"):
            kind, subject = kind.removesuffix(":raw"), RawFile(lab)
        try:
            soak.need_kind(kind)
        except soak.Skip as reason:
            yield reason
            continue
        yield run_kind(lab, kind, dice, lives, seconds, images, subject)
