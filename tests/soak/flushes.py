"""A flush of the guest reaches the disk.

What can go wrong: everything is written to the disk, and stays in the disk's own cache:
nobody told the disk to write that out. All works, kills and all, until the power fails.
File systems tell the disk along with their own log, and some forget it where their log
had nothing new: `syncfs` on XFS, after data was written in place.

So: on each file system, on a loop device, whose flushes the kernel counts, a volume is
written here and there, flushed, written again in the same places at once (so that times
of files stay the same) and flushed. Each flush that has written something to make
durable must be seen by the disk, with few and with many files, through the page cache
and past it.

That it can fail: with a library whose flushes do nothing (`planted.c`) the count stays.
"""

import os

import lab as soak
import nbd
from lab import Failure, Server, export_nbd, volume_node

KINDS = ("ext4", "xfs", "btrfs")
BLOCK = 64 << 10
BLOCKS = 64
DISK_BYTES = 512 << 20


def flushes_of(device):
    """How often the disk was told to write its cache out, by the kernel's count."""
    with open(f"/sys/block/{os.path.basename(device)}/stat", encoding="utf-8") as stat:
        return int(stat.read().split()[15])


def ask(client, command, offset=0, data=b""):
    client.send(1, command, offset, len(data), data)
    _, error, _ = client.receive()
    if error:
        raise Failure(f"a request failed with error {error}")


def rounds(lab, dice, device, client, count):
    """How many flushes the disk was not told of."""
    untold = 0
    for _ in range(count):
        blocks = dice.sample(range(BLOCKS), dice.choice((1, 4, 5, 8, 20)))
        for again in range(2):
            for block in blocks:
                ask(client, nbd.WRITE, block * BLOCK, dice.randbytes(4096))
            before = flushes_of(device)
            ask(client, nbd.FLUSH)
            untold += flushes_of(device) == before and again == 1
    return untold


def one(lab, dice, kind, count, direct, planted=None):
    disk, place = lab.path("memory", "disk.raw"), lab.path("mnt")
    lab.run("truncate", "-s", str(DISK_BYTES), disk)
    lab.make_file_system(kind, disk)
    device = lab.attach(disk, direct="off")
    lab.mount(device, place)
    lab.use_store(lab.path("mnt", "store"))
    lab.archipelago("init")
    # What is there already is written in place.
    content = lab.path("content.raw")
    with open(content, "wb") as file:
        file.write(b"\1" * (BLOCKS * BLOCK))
    lab.archipelago("import", "--block-size", str(BLOCK), content, "vol")
    path = lab.path("nbd")
    if os.path.exists(path):
        os.unlink(path)
    server = Server(lab, *volume_node("vol", direct), *export_nbd(path), env=planted)
    client = nbd.Client(path, "disk")
    untold = rounds(lab, dice, device, client, count)
    client.close()
    server.kill()
    lab.servers.remove(server)
    lab.unmount(place)
    os.unlink(disk)
    return untold


def part(lab, dice, short, words):
    """The kinds of file system that are named, or all."""
    lab.memory(1024)
    count = 40 if short else 400
    soak.need_kind("ext4")
    planted = {"LD_PRELOAD": soak.compiled(lab, "planted.c", "-shared", "-fPIC", "-ldl")}
    untold = one(lab, dice, "ext4", 20, "on", planted)
    if untold < 10:
        raise Failure(f"a library that does not flush had the disk flushed {20 - untold} times of 20: "
                      "this test does not see what it is for")
    yield f"a library that does not flush was seen {untold} times of 20"
    for kind in words or KINDS:
        try:
            soak.need_kind(kind)
        except soak.Skip as reason:
            yield reason
            continue
        for direct in ("on", "off"):
            untold = one(lab, dice, kind, count, direct)
            if untold:
                raise Failure(f"{kind}, cache.direct={direct}: the disk was not told of {untold} of {count} "
                              "flushes: a loss of power loses what they acknowledged")
        yield f"{kind}: the disk was told of each of {2 * count} flushes"
