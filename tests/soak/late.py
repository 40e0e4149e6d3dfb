"""A write of a process that was killed, which the disk finishes later, does no harm.

What can go wrong: a process is killed while the disk has not finished its writes. Its
lock is free at once, the next holder opens the volume and reads what is there. Then the
disk finishes the old write (a path of a multipath device comes back, say), and what was
read and synced changes by itself, once more, under a guest that relies on it.

So here the disk is one that holds a write until it is told (`holding.py`). The process
is killed, and another opens the volume: it may only have it once the disk is done. And
what it writes then stays.
"""

import os
import queue
import threading
import time

import holding
import lab as soak
import nbd
from lab import Failure, Server, Skip, export_nbd, say, volume_node

BLOCK = 64 << 10
BLOCKS = 64
WRITES = 12
DISK_BYTES = 512 << 20
DELAY_S = 0.3
PATIENCE_S = 3


def serve(lab):
    path = lab.path("nbd")
    if os.path.exists(path):
        os.unlink(path)
    server = Server(lab, *volume_node("vol", "on"), *export_nbd(path))
    return server, nbd.Client(path, "disk")


def ask(client, command, offset=0, length=0, data=b""):
    client.send(1, command, offset, length or len(data), data)
    _, error, answer = client.receive()
    if error:
        raise Failure(f"a request failed with error {error}")
    return answer


def prepare(lab, kind):
    """A store on a disk that holds writes; returns the disk."""
    file = lab.path("memory", "disk.raw")
    lab.run("truncate", "-s", str(DISK_BYTES), file)
    lab.make_file_system(kind, file)
    # What is there already is written in place.
    content = lab.path("content.raw")
    with open(content, "wb") as raw:
        raw.write(b"\1" * (BLOCKS * BLOCK))
    lab.use_store(lab.path("mnt", "store"))
    lab.mount_file(file, lab.path("mnt"), direct="off")
    lab.archipelago("init")
    lab.archipelago("import", "--block-size", str(BLOCK), content, "vol")
    lab.unmount(lab.path("mnt"))
    mountpoint = lab.mountpoint_file("disk-export")
    disk = holding.HoldingDisk(file, mountpoint, DELAY_S)
    lab.mount_file(mountpoint, lab.path("mnt"))
    return disk


def killed_while_held(lab, disk, at):
    """A process that had a write of place `at` with the disk, and is dead. False: it
    does not die, for one of its threads waits for the write."""
    server, client = serve(lab)
    places = [number * BLOCK for number in range(WRITES - 1)] + [at]
    for place in places:
        ask(client, nbd.WRITE, place, data=b"\2" * 4096)
    # The first ones keep its threads busy, so that the last is the kernel's alone.
    for number, place in enumerate(places):
        held = holding.MARK * (4096 // len(holding.MARK))
        client.send(number, nbd.WRITE, place, 4096, held if place == at else b"\2" * 4096)
    if not disk.wait_until_held(30):
        raise Failure("the write did not come to the disk")
    for _ in range(WRITES - 1):
        client.receive()
    server.process.kill()
    try:
        server.process.wait(PATIENCE_S)
    except soak.subprocess.TimeoutExpired:
        return False
    lab.servers.remove(server)
    return True


def one(lab, kind):
    """How long the next holder waited after the disk was done."""
    disk = prepare(lab, kind)
    try:
        return next_holder(lab, kind, disk, 40 * BLOCK)
    finally:
        # Whatever waits for the disk can end.
        disk.release()


def next_holder(lab, kind, disk, at):
    if not killed_while_held(lab, disk, at):
        raise Skip("the write was not one that outlives its process")
    disk.delay_s = 0
    opened = queue.Queue()
    # It stays, for what it has started ends with it.
    opener = threading.Thread(target=lambda: (opened.put(serve(lab)), opened.join()), daemon=True)
    opener.start()
    time.sleep(PATIENCE_S)
    early, released = not opened.empty(), time.monotonic()
    if not early:
        disk.release()
    try:
        server, client = opened.get(timeout=30)
    except queue.Empty:
        raise Failure("the volume does not open after the disk has finished") from None
    waited = time.monotonic() - released
    ask(client, nbd.WRITE, at, data=b"\3" * 4096)
    ask(client, nbd.FLUSH)
    disk.release()
    stays = ask(client, nbd.READ, at, 4096) == b"\3" * 4096
    client.close()
    server.end()
    lab.servers.remove(server)
    lab.unmount(lab.path("mnt"))
    lab.unmount(lab.path("disk-export"))
    if not stays:
        raise Failure(f"{kind}: a write of a process that was killed overwrote what the next holder had "
                      "flushed")
    if early:
        raise Failure(f"{kind}: the volume was open to the next while a write of the last was with the disk")
    return waited


def part(lab, _dice, short, words):
    """The kinds of file system that are named, or ext4, and in the long form XFS."""
    lab.memory(1024)
    for kind in words or (("ext4",) if short else ("ext4", "xfs")):
        try:
            soak.need_kind(kind)
            waited = one(lab, kind)
        except Skip as reason:
            yield reason
            continue
        say(f"{kind}: open {waited:.2f} s after the disk was done")
        yield f"{kind}: who comes next waits until the disk is done with the writes of the dead"
