"""fio's own verification of a disk whose process is killed under it.

What can go wrong: a write that was answered, and flushed, is not there when the next
process has the volume, or is there in an older form, or in another's place.

fio can verify across a death if it is told what had been done: with verify_state_save
each of its jobs writes down, when its disk fails, how many of its writes were answered;
with verify_state_load it makes the same random sequence again and reads back exactly
those, checking checksum, place and seed of each. So: four jobs write blocks of 512
bytes to 64 KiB with checksums to a FUSE export, each write followed by fdatasync, so
that what is written down was flushed, but for the last of each job; qemu-storage-daemon
is killed at a random moment; the volume is checked, opened again, and verified by fio.
Each round has another seed, and a block of an earlier round is not taken for one of
this. That every answered write is read back is counted here as well. (Unlike a loss of
power the death leaves the page cache whole: the last, unflushed write is there too.)

At the end a block is overwritten, and fio must find it.
"""

import json
import mmap
import os
import struct
import subprocess

import lab as soak
from lab import Failure, Server, export_fuse, say, volume_node

JOBS = 4
JOB_BYTES = 32 << 20
MAGIC = struct.pack("<H", 0xACCA)     # how fio's header of a block begins


class Rounds:
    """One volume, killed and verified again and again."""

    def __init__(self, lab, dice):
        self.lab, self.dice, self.volume = lab, dice, "vol"
        self.kills = self.written = self.verified = self.snapshots = self.clones = self.number = 0
        lab.archipelago("init")
        lab.archipelago("create", "vol", str(JOBS * JOB_BYTES), "--block-size",
                        dice.choice(("64K", "1M", "4M")))

    def serve(self):
        self.file = self.lab.mountpoint_file("export")
        return Server(self.lab, *volume_node(self.volume, self.dice.choice(("on", "off"))),
                      *export_fuse(self.file))

    def command(self, seed, smallest):
        return ["fio", "--name=load", f"--filename={self.file}", f"--size={JOB_BYTES}", f"--numjobs={JOBS}",
                f"--offset_increment={JOB_BYTES}", "--rw=randwrite", f"--bsrange={smallest}-64k",
                "--ioengine=psync", "--direct=1", "--fdatasync=1", "--verify=crc32c", "--verify_fatal=1",
                f"--randseed={seed}", "--allow_file_create=0", "--output-format=json"]

    def counted(self, path, what):
        """For each job: how many requests it made, and whether one of them failed."""
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
        try:
            jobs = json.loads(text[text.index("{"):])["jobs"]
        except ValueError as error:
            raise Failure(f"fio says: {text[-500:]}") from error
        return [(job[what]["total_ios"], job["error"] != 0) for job in jobs]

    def round(self):
        seed, smallest = self.dice.randrange(1 << 31), self.dice.choice(("512", "4k"))
        server = self.serve()
        out = self.lab.path("write.json")
        for name in os.listdir(self.lab.dir):
            if name.endswith("-verify.state"):
                os.unlink(self.lab.path(name))
        load = subprocess.Popen([*self.command(seed, smallest), "--do_verify=0", "--verify_state_save=1",
                                 f"--output={out}"], cwd=self.lab.dir, env=self.lab.env,
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, preexec_fn=soak.die_with_parent)
        soak.time.sleep(self.dice.uniform(0.8, 2.5))
        if not server.alive():
            raise Failure(f"qemu-storage-daemon ended by itself under load: {server.said()}")
        early = load.poll() is not None
        server.kill()
        load.wait(60)
        self.lab.unmount(self.file, lazy=True)
        made = self.counted(out, "write")
        if early or not all(count > 1 and failed for count, failed in made):
            return False    # It had not begun, or was through: nobody was killed at work.
        self.kills += 1
        self.lab.archipelago("check")
        server = self.serve()
        self.verify(seed, smallest, made)
        server.end()
        self.last = (seed, smallest, made)
        return True

    def verify(self, seed, smallest, made):
        """The last request that a job made is the one that failed: it alone may lack."""
        out = self.lab.path("verify.json")
        words = self.lab.run(*self.command(seed, smallest), "--verify_only=1", "--verify_state_load=1",
                             f"--output={out}", codes=None, cwd=self.lab.dir)
        for (written, _), (looked_at, failed) in zip(made, self.counted(out, "read")):
            if looked_at < written - (0 if failed else 1):
                raise Failure(f"a job made {written} writes, and fio verified {looked_at - failed}: "
                              f"{words[-600:]}")
            self.written += written - 1
            self.verified += looked_at - failed

    def between(self):
        self.number += 1
        if self.dice.random() < 0.6:
            self.lab.archipelago("snapshot", f"{self.volume}@s{self.number}")
            self.snapshots += 1
            if self.dice.random() < 0.4:
                self.lab.archipelago("clone", f"{self.volume}@s{self.number}", f"vol{self.number}")
                self.lab.archipelago("rm", self.volume, "--snapshots")
                self.volume = f"vol{self.number}"
                self.clones += 1
        if self.dice.random() < 0.3:
            self.lab.archipelago("gc")

    def planted(self):
        """Half a sector of some block of the last round is changed."""
        server = self.serve()
        with open(self.file, "r+b", buffering=0) as file:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                blocks = [at for at in range(0, len(content), 4096) if content[at:at + 2] == MAGIC]
            for at in blocks:
                file.seek(at + 256)
                file.write(b"planted!" * 16)
            os.fsync(file.fileno())
        try:
            self.verify(*self.last)
        except Failure:
            server.end()
            return f"{len(blocks)} blocks that were changed do not pass fio's verification"
        raise Failure(f"{len(blocks)} blocks were changed, and fio finds nothing")


def part(lab, dice, short, words):
    soak.need_mounts()
    soak.need("fio", package="fio")
    count = int(words[0]) if words else 2 if short else 60
    rounds, idle = Rounds(lab, dice), 0
    while rounds.kills < count:
        if rounds.round():
            rounds.between()
            if rounds.kills % 20 == 0:
                say(f"fio: {rounds.kills} kills, {rounds.written} writes were answered")
        else:
            idle += 1
            if idle > 10 + count:
                raise Failure("fio is hardly ever at work when the server is killed: nothing is tested")
    yield rounds.planted()
    yield (f"{rounds.kills} kills under fio, {rounds.snapshots} snapshots, {rounds.clones} times on a clone; "
           f"{rounds.written} flushed writes were answered, {rounds.verified} verified after the kills")
