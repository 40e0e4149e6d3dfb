"""A million random operations through the driver, against a model in memory.

What can go wrong: one of the paths that a request can take (in place, into the log, a
new block, a layer, a range of zeroes, a split over two blocks, the page cache or past
it) returns or stores wrong bytes after some history of the others, or after what is
done to whole volumes in between: a size that changed, a snapshot, a rollback, a clone,
an end and a new opening, a death.

`ops.c` is in the manner of fsx: reads, writes, zeroes and discards at any byte, of one
byte to 1 MiB, up to 15 in flight over qemu-storage-daemon's NBD export, flushes among
them, each read compared with a model, and at the end of each run everything. Between
the runs the volume is closed and opened, killed, made larger and smaller, snapshots
are taken over QMP, read in full, rolled back to, removed, cloned and worked on. One
seed makes the same operations again.

A control run is made on a model in which one byte was changed: it must be found.
"""

import os
import shutil
import subprocess

import lab as soak
from lab import Failure, Server, export_nbd, say, volume_node

SIZE_MAX = 48 << 20


class Run:
    """The volume, its model, and the snapshots' models."""

    def __init__(self, lab, dice):
        self.lab, self.dice = lab, dice
        self.program = soak.compiled(lab, "ops.c")
        self.volume, self.model = "v0", lab.path("model")
        self.socket = lab.path("nbd")
        self.snapshots = {}
        self.number = 0
        self.server = None
        self.done = dict.fromkeys(("reads", "writes", "zeroes", "discards", "flushes"), 0)
        self.between = {}
        self.size = self.some_size()
        # What is tried here needs no disk, and one that is synced costs most of the time.
        if os.geteuid() == 0:
            lab.use_store(os.path.join(lab.memory(4096), "store"))
        lab.archipelago("init")
        lab.archipelago("create", self.volume, str(self.size), "--block-size",
                        dice.choice(("64K", "1M", "4M")))
        with open(self.model, "wb") as file:
            file.truncate(self.size)

    def some_size(self):
        return self.dice.randrange(1 << 20, SIZE_MAX) // 512 * 512

    # ---- the server ---------------------------------------------------------

    def open(self):
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.server = Server(self.lab, *volume_node(self.volume, self.dice.choice(("on", "off"))),
                             *export_nbd(self.socket))

    def close(self):
        if self.server:
            if self.dice.random() < 0.5:
                self.server.end()
            else:
                # All of it has been flushed: a death must change nothing.
                self.server.kill()
                self.count("deaths")
            self.server = None

    def operations(self, count, seed):
        if self.server is None:
            self.open()
        done = subprocess.run(
            [self.program, self.socket, self.model, str(seed), str(count), str(self.dice.choice((1, 4, 15)))],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            preexec_fn=soak.die_with_parent)
        words = done.stdout.decode(errors="replace").strip()
        if done.returncode != 0:
            raise Failure(f"{words.replace(chr(10), '; ')} {self.server.said()}".strip())
        for part in words.split(", "):
            number, what = part.split()
            self.done[what] += int(number)

    # ---- what happens to whole volumes --------------------------------------

    def count(self, what):
        self.between[what] = self.between.get(what, 0) + 1

    def something(self):
        what = self.dice.choices(
            (self.reopen, self.resize, self.snapshot, self.look, self.rollback, self.clone, self.forget),
            (3, 2, 3, 2, 1, 1, 1))[0]
        what()
        self.count(what.__name__)

    def reopen(self):
        self.close()
        if self.dice.random() < 0.3:
            self.lab.archipelago("check")

    def resize(self):
        self.size = self.some_size()
        if self.server and self.dice.random() < 0.7:
            self.server.qmp("block-export-del", id="nbd", mode="hard")
            self.wait_until_gone()
            self.server.qmp("block_resize", node_name="disk", size=self.size)
            self.server.qmp("block-export-add", type="nbd", id="nbd", node_name="disk", writable=True,
                            name="disk")
        else:
            self.close()
            self.lab.archipelago("resize", self.volume, str(self.size), "--shrink")
        os.truncate(self.model, self.size)

    def wait_until_gone(self):
        end = soak.time.monotonic() + 30
        while self.server.qmp("query-block-exports"):
            if soak.time.monotonic() > end:
                raise Failure("an NBD export does not go when it is deleted")
            soak.time.sleep(0.005)

    def snapshot(self):
        self.number += 1
        name = f"s{self.number}"
        if self.server:
            self.server.qmp("blockdev-snapshot-internal-sync", device="disk", name=name)
        else:
            self.lab.archipelago("snapshot", f"{self.volume}@{name}")
        kept = self.lab.path(name)
        self.lab.run("cp", "--sparse=always", self.model, kept)
        self.snapshots[name] = kept
        if len(self.snapshots) > 4:
            self.drop(next(iter(self.snapshots)))

    def drop(self, name):
        if self.server:
            self.server.qmp("blockdev-snapshot-delete-internal-sync", device="disk", name=name)
        else:
            self.lab.archipelago("rm", f"{self.volume}@{name}")
        os.unlink(self.snapshots.pop(name))

    def look(self):
        """A snapshot is what it was, also while its volume is worked on."""
        if not self.snapshots:
            return
        name = self.dice.choice(sorted(self.snapshots))
        out = self.lab.path("out")
        self.lab.archipelago("export", f"{self.volume}@{name}", out, "--force")
        done = subprocess.run(["cmp", out, self.snapshots[name]], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise Failure(f"snapshot {self.volume}@{name} changed: {done.stdout.decode().strip()}")

    def rollback(self):
        if not self.snapshots:
            return
        name = self.dice.choice(sorted(self.snapshots))
        self.close()
        self.lab.archipelago("rollback", f"{self.volume}@{name}")
        self.lab.run("cp", "--sparse=always", self.snapshots[name], self.model)
        self.size = os.stat(self.model).st_size

    def clone(self):
        """From here on a clone is the volume; what it came from is removed."""
        if not self.snapshots:
            return
        name = self.dice.choice(sorted(self.snapshots))
        self.close()
        self.number += 1
        new = f"v{self.number}"
        self.lab.archipelago("clone", f"{self.volume}@{name}", new)
        self.lab.run("cp", "--sparse=always", self.snapshots[name], self.model)
        self.size = os.stat(self.model).st_size
        for old in list(self.snapshots):
            self.drop(old)
        self.lab.archipelago("rm", self.volume)
        self.volume = new

    def forget(self):
        if self.snapshots:
            self.drop(self.dice.choice(sorted(self.snapshots)))
        self.lab.archipelago("gc")


def planted(run):
    """One byte of the model is changed: the next run must find it."""
    with open(run.model, "r+b") as file:
        file.seek(run.size // 3)
        byte = file.read(1)
        file.seek(run.size // 3)
        file.write(bytes([byte[0] ^ 1]))
    try:
        run.operations(1, 1)
    except Failure as found:
        if f"byte {run.size // 3} is" in str(found):
            return f"a byte that differs is found: {str(found).splitlines()[0][:120]}"
        raise
    raise Failure("a byte that differs was not found: this test does not see what it is for")


def part(lab, dice, short, words):
    total = int(words[0]) if words else 30_000 if short else 1_000_000
    run, began, told = Run(lab, dice), soak.time.monotonic(), 0
    while (made := sum(run.done.values())) < total:
        run.operations(min(total - made, dice.choice((200, 1000, 3000, 6000))), dice.randrange(1 << 48))
        run.something()
        if made - told >= 100_000:
            told = made
            say(f"ops: {made} operations, each read as it must be")
    run.operations(1, dice.randrange(1 << 48))
    took_s = soak.time.monotonic() - began
    yield planted(run)
    run.lab.archipelago("check")
    yield (f"{made} operations in {took_s:.0f} s ("
           + ", ".join(f"{number} {what}" for what, number in run.done.items()) + "), in between "
           + ", ".join(f"{number} times {what}" for what, number in sorted(run.between.items())))
