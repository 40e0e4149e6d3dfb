"""SQLite on a file system on a volume, under a qemu-storage-daemon that is killed.

What can go wrong: SQLite believes that a commit is on disk when its fsync returned, the
file system believes it when its disk's flush returned, and the loop driver, FUSE and
QEMU hand that on to the library. If one of them is answered too early, or if something
that was flushed comes back in an older form, an acknowledged transaction is missing
after the next mount, or the data base is torn.

Two data bases on one file system, one with a write-ahead log and one with rollback
journals (synchronous=FULL and EXTRA, which is what makes a commit durable there), each
with a process that commits transactions of some rows in two tables and writes down each
one's number elsewhere before it begins and after it was acknowledged. At a random
moment qemu-storage-daemon is killed. Then the store is checked, the volume opened, the
file system mounted (which replays its journal), and in each data base: integrity_check
says ok, every acknowledged transaction is there, none that was never begun, none twice,
none out of order, none by half. Snapshots are taken while it runs; a clone of one must
hold all that was acknowledged before.
"""

import contextlib
import os
import sqlite3
import subprocess
import sys

import lab as soak
from lab import Failure, say
from stack import Stack, numbers, payload

JOURNALS = ("wal", "delete")
KEPT = 300      # older rows are deleted, so that pages are used again


def work(path, journal, ledger, record=None):
    """The load, in a process of its own, until the file system fails. What is written
    down names the length that a record of the disk had by then, if there is one."""
    length = (lambda: os.stat(record).st_size) if record else (lambda: 0)
    base = sqlite3.connect(path, isolation_level=None, timeout=60)
    base.execute(f"PRAGMA journal_mode={journal}")
    # With FULL a rollback journal's removal is not synced: SQLite itself says that the
    # last commit may be undone by a loss of power then, and it is.
    base.execute(f"PRAGMA synchronous={'FULL' if journal == 'wal' else 'EXTRA'}")
    base.execute("PRAGMA wal_autocheckpoint=100")
    base.execute("CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY, content BLOB)")
    base.execute("CREATE TABLE IF NOT EXISTS total (number INTEGER)")
    base.execute("CREATE INDEX IF NOT EXISTS by_content ON rows (content)")
    number = base.execute("SELECT max(number) FROM rows").fetchone()[0] or 0
    if base.execute("SELECT count(*) FROM total").fetchone()[0] == 0:
        base.execute("INSERT INTO total VALUES (0)")
    out = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    while True:
        number += 1
        os.write(out, f"begun {number} {length()}\n".encode())
        base.execute("BEGIN IMMEDIATE")
        base.execute("INSERT INTO rows VALUES (?, ?)", (number, payload(number)))
        base.execute("UPDATE total SET number = number + 1")
        base.execute("DELETE FROM rows WHERE number <= ?", (number - KEPT,))
        base.execute("COMMIT")
        os.write(out, f"acknowledged {number} {length()}\n".encode())


def contents(path):
    """The rows and the count of a data base that is whole; None if it has no tables yet."""
    name = os.path.basename(path)
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as base:
            verdict = base.execute("PRAGMA integrity_check").fetchall()
            if verdict != [("ok",)]:
                raise Failure(f"{name}: integrity_check says {verdict[:5]}")
            if not base.execute("SELECT 1 FROM sqlite_master WHERE name = 'by_content'").fetchall():
                return None
            rows = base.execute("SELECT number, content FROM rows ORDER BY number").fetchall()
            return rows, (base.execute("SELECT number FROM total").fetchall() or [(0,)])[0][0]
    except sqlite3.Error as error:
        raise Failure(f"{name}: {error}") from error


def look(path, acknowledged, begun):
    """Everything that must hold of one data base; returns its last transaction."""
    name, found = os.path.basename(path), contents(path)
    if found is None:
        if acknowledged:
            raise Failure(f"{name}: {acknowledged} transactions were acknowledged, and there is no table")
        return 0
    rows, total = found
    last = rows[-1][0] if rows else 0
    if last < acknowledged:
        raise Failure(f"{name}: transaction {acknowledged} was acknowledged, and the last is {last}")
    if last > begun:
        raise Failure(f"{name}: transaction {last} is there, and {begun} is the last that was begun")
    if total != last:
        raise Failure(f"{name}: {total} transactions were counted, and the last row is {last}: half of one")
    wanted = range(max(1, last - KEPT + 1), last + 1)
    if [number for number, _ in rows] != list(wanted):
        raise Failure(f"{name}: its rows are not {wanted[0]} to {last} in order")
    for number, content in rows:
        if content != payload(number):
            raise Failure(f"{name}: row {number} is not what was written")
    return last


class Bases:
    """The data bases of one file system, with their ledgers outside of it."""

    def __init__(self, lab, stack):
        self.lab, self.stack = lab, stack

    def ledger(self, journal):
        return self.lab.path(f"ledger-{journal}")

    def promised(self):
        """For each: the last that was acknowledged, the last that was begun, now."""
        return {journal: [max(numbers(self.ledger(journal), word), default=0)
                          for word in ("acknowledged", "begun")] for journal in JOURNALS}

    def start(self):
        return [subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), os.path.join(self.stack.place, journal), journal,
             self.ledger(journal)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, preexec_fn=soak.die_with_parent) for journal in JOURNALS]

    def look(self, place, promised):
        """True to the ledger, whose numbers go on where the data base does."""
        for journal, (acknowledged, begun) in promised.items():
            path = os.path.join(place, journal)
            if os.path.exists(path) or acknowledged:
                last = look(path, acknowledged, begun)
                if place == self.stack.place and last:
                    with open(self.ledger(journal), "a", encoding="ascii") as file:
                        file.write(f"acknowledged {last}\n")


def wait_for_progress(bases, users, before):
    """Until both have committed something: else the kill finds nobody at work."""
    end = soak.time.monotonic() + 120
    while any(now[0] <= then[0] for now, then in zip(bases.promised().values(), before.values())):
        for user in users:
            if user.poll() is not None:
                words = user.stderr.read().decode()[-500:]
                raise Failure(f"the load ended before anything was killed: {words}")
        if soak.time.monotonic() > end:
            raise Failure("no transaction is committed within 120 s")
        soak.time.sleep(0.01)


def end(users):
    """Their file system fails, and they with it; one that does not notice is ended."""
    until = soak.time.monotonic() + 10
    for user in users:
        try:
            user.wait(max(0.1, until - soak.time.monotonic()))
        except subprocess.TimeoutExpired:
            user.kill()
            user.wait()


def rounds(lab, dice, kind, count):
    stack = Stack(lab, dice, kind)
    bases, looked = Bases(lab, stack), 0
    for at in range(1, count + 1):
        before = bases.promised()
        users = bases.start()
        wait_for_progress(bases, users, before)
        soak.time.sleep(dice.uniform(0, 0.8))
        live = None
        if dice.random() < 0.3:
            promised = bases.promised()
            live = stack.live_snapshot()
            # What came later may be in it or not; what was begun by now bounds it.
            promised = {name: [held[0], bases.promised()[name][1]] for name, held in promised.items()}
            soak.time.sleep(dice.uniform(0, 0.3))
        stack.die(lambda: end(users))
        promised_now = bases.promised()
        if live:
            stack.look_at(live, lambda place: bases.look(place, promised))
            looked += 1
        stack.between()
        stack.up()
        bases.look(stack.place, promised_now)
        if at % 10 == 0:
            say(f"sqlite on {kind}: {at} kills, {acknowledged(bases)} transactions")
    stack.down()
    return (f"{kind}: {stack.told()}; {acknowledged(bases)} transactions, every acknowledged one there after "
            f"each kill; {looked} clones of live snapshots whole")


def acknowledged(bases):
    return " and ".join(f"{held[0]} ({name})" for name, held in bases.promised().items())


def part(lab, dice, short, words):
    count = int(words[0]) if words else 1 if short else 40
    for kind in ("ext4", "xfs"):
        try:
            soak.need_kind(kind)
        except soak.Skip as reason:
            yield reason
            continue
        inner = soak.Lab(f"sqlite-{kind}", lab.keep)
        try:
            yield rounds(inner, dice, kind, count)
        finally:
            inner.end()


if __name__ == "__main__":
    work(*sys.argv[1:])
