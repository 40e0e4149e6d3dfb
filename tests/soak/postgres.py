"""PostgreSQL on a file system on a volume, under a qemu-storage-daemon that is killed.

What can go wrong is what `sqlite.py` says, with more at stake: several sessions at a
time, a write-ahead log that is synced by one for all, checkpoints that write back and
sync hundreds of files meanwhile, pages with checksums that a torn or old block breaks.

A cluster of Debian's PostgreSQL (data checksums on, small log, so that it checkpoints
all the time) lives on ext4 and on XFS. Sessions commit transactions of an inserted row
and a transfer between two accounts; each number is kept here, outside, before it is
sent and after its commit was acknowledged. At a random moment qemu-storage-daemon is
killed, and the cluster after it. Then: the store is checked, the volume opened, the
file system mounted, the cluster recovers; every acknowledged transaction of each
session is there, in order, without a gap, none that was never sent, the sum of all
accounts is what it was, and every row is what was written. In turns pg_amcheck looks
at every table and index, and pg_checksums at every page after a clean end.
"""

import glob
import hashlib
import os
import pwd
import subprocess
import threading

import lab as soak
from lab import Failure, say
from stack import Stack

SESSIONS = 3
ACCOUNTS = 200
SETTINGS = """
listen_addresses = ''
shared_buffers = 8MB
max_connections = 20
wal_level = minimal
max_wal_senders = 0
min_wal_size = 4MB
max_wal_size = 8MB
checkpoint_timeout = 30s
checkpoint_completion_target = 0.5
bgwriter_delay = 20ms
autovacuum_naptime = 2s
fsync = on
full_page_writes = on
synchronous_commit = on
"""


def programs():
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[-2]))
    if not found or not os.path.exists(f"{found[-1]}/initdb"):
        raise soak.Skip("there is no PostgreSQL: install postgresql (scripts/bootstrap soak does)")
    try:
        return found[-1], pwd.getpwnam("postgres")
    except KeyError:
        raise soak.Skip("there is no user postgres, whom PostgreSQL runs as") from None


class Session:
    """One psql that is fed transactions, and what became of them."""

    def __init__(self, cluster, number, dice):
        self.cluster, self.number, self.dice = cluster, number, dice
        self.acknowledged, self.begun = cluster.reached[number]
        self.process = cluster.psql("-q", "-v", "ON_ERROR_STOP=1", stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        """Until the cluster is gone, or this is."""
        try:
            while True:
                number = self.begun + 1
                first, second = self.dice.randrange(ACCOUNTS), self.dice.randrange(ACCOUNTS)
                amount = self.dice.randrange(1, 1000)
                self.begun = number
                row = f"{self.number}, {number}, '{content(self.number, number)}'"
                self.process.stdin.write(
                    f"BEGIN; INSERT INTO rows VALUES ({row});"
                    f"UPDATE accounts SET held = held - {amount} WHERE id = {first};"
                    f"UPDATE accounts SET held = held + {amount} WHERE id = {second};"
                    f"COMMIT;\n\\echo done {number}\n".encode())
                self.process.stdin.flush()
                if self.process.stdout.readline().decode() != f"done {number}\n":
                    return
                self.acknowledged = number
        except (OSError, ValueError):
            return

    def end(self):
        self.process.kill()
        self.process.wait()
        self.thread.join(30)
        self.cluster.reached[self.number] = (self.acknowledged, self.begun)


def content(session, number):
    """What a row holds: anybody can tell whether it is that. Some rows are long."""
    digest = hashlib.sha256(f"{session} {number}".encode()).hexdigest()
    return digest * (1 if number % 7 else 40)


class Cluster:
    """The data base, in `data` on the file system; its sockets are elsewhere."""

    def __init__(self, lab, stack, dice, outside):
        self.lab, self.stack, self.dice = lab, stack, dice
        self.programs, self.user = programs()
        self.data, self.sockets = os.path.join(stack.place, "data"), os.path.join(outside, "sockets")
        self.said = os.path.join(outside, "said")
        self.process = None
        self.reached = {number: (0, 0) for number in range(SESSIONS)}
        os.makedirs(self.sockets)
        os.mkdir(self.data, 0o700)
        for path in (self.data, self.sockets):
            os.chown(path, self.user.pw_uid, self.user.pw_gid)
        # What nobody has been told is there is synced once, before it matters.
        self.tool("initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "--data-checksums",
                  "--wal-segsize=1", "--no-locale", "-E", "UTF8", "--no-sync")
        with open(os.path.join(self.data, "postgresql.conf"), "a", encoding="ascii") as file:
            file.write(SETTINGS + f"unix_socket_directories = '{self.sockets}'\n")
        lab.run("sync", "--file-system", self.data)
        self.start()
        self.query("CREATE TABLE rows (session int, number int, content text, PRIMARY KEY (session, number));"
                   "CREATE TABLE accounts (id int PRIMARY KEY, held bigint);"
                   f"INSERT INTO accounts SELECT n, 1000 FROM generate_series(0, {ACCOUNTS - 1}) n;"
                   "CREATE INDEX ON rows (content); CREATE EXTENSION amcheck")

    def identity(self):
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": [], "cwd": "/"}

    def tool(self, name, *words, **how):
        return self.lab.run(os.path.join(self.programs, name), *words, **self.identity(), **how)

    def psql(self, *words, **how):
        return subprocess.Popen(
            [os.path.join(self.programs, "psql"), "-X", "-A", "-t", "-h", self.sockets, "-U", "postgres",
             "-d", "postgres", *words], env=self.lab.env, preexec_fn=soak.die_with_parent, cwd="/", **how)

    def query(self, text):
        process = self.psql("-v", "ON_ERROR_STOP=1", "-c", text, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        out = process.communicate(timeout=120)[0].decode(errors="replace")
        if process.returncode != 0:
            raise Failure(f"PostgreSQL: {out.strip()[-500:]}; it said: {self.last_words()}")
        return [line.split("|") for line in out.splitlines()]

    def last_words(self):
        with open(self.said, "rb") as file:
            return file.read()[-1500:].decode(errors="replace").strip()

    def start(self):
        """Recovery is over when it answers."""
        with open(self.said, "wb") as said:
            self.process = subprocess.Popen(
                [os.path.join(self.programs, "postgres"), "-D", self.data], env=self.lab.env,
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, preexec_fn=soak.die_with_parent,
                **self.identity())
        end = soak.time.monotonic() + 120
        while True:
            if self.process.poll() is not None:
                raise Failure(f"PostgreSQL does not start: {self.last_words()}")
            ready = self.psql("-c", "SELECT 1", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
            if ready.wait(60) == 0:
                return
            if soak.time.monotonic() > end:
                raise Failure(f"PostgreSQL does not answer within 120 s: {self.last_words()}")
            soak.time.sleep(0.05)

    def stop(self):
        """A fast shutdown, which must come about: the signal is the postmaster's SIGINT."""
        self.process.send_signal(soak.signal.SIGINT)
        if self.process.wait(120) != 0:
            raise Failure(f"PostgreSQL does not end cleanly: {self.last_words()}")

    def die(self, sessions):
        """At once, with all of its processes: SIGQUIT has the postmaster see to them."""
        if self.process.poll() is None:
            self.process.send_signal(soak.signal.SIGQUIT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for session in sessions:
            session.end()

    def load(self):
        return [Session(self, number, soak.random.Random(self.dice.random())) for number in range(SESSIONS)]

    def look(self, deep):
        """Everything that must hold after a recovery."""
        for number, (acknowledged, begun) in self.reached.items():
            rows = self.query(f"SELECT number, content FROM rows WHERE session = {number} ORDER BY number")
            last = int(rows[-1][0]) if rows else 0
            if last < acknowledged:
                raise Failure(f"session {number}: transaction {acknowledged} was acknowledged, "
                              f"and the last is {last}")
            if last > begun:
                raise Failure(f"session {number}: transaction {last} is there, and {begun} is the last "
                              "that was sent")
            if [int(row[0]) for row in rows] != list(range(1, last + 1)):
                raise Failure(f"session {number}: its rows are not 1 to {last} in order")
            for row in rows:
                if row[1] != content(number, int(row[0])):
                    raise Failure(f"session {number}: row {row[0]} is not what was written")
            self.reached[number] = (last, last)
        if self.query("SELECT sum(held), count(*) FROM accounts") != [[str(1000 * ACCOUNTS), str(ACCOUNTS)]]:
            raise Failure("the accounts do not add up: a transfer is there by half")
        if deep and os.path.exists(os.path.join(self.programs, "pg_amcheck")):
            self.tool("pg_amcheck", "-h", self.sockets, "-U", "postgres", "-d", "postgres",
                      "--heapallindexed")

    def checksums(self):
        self.stop()
        self.tool("pg_checksums", "--check", "-D", self.data)
        self.start()

    def committed(self):
        return sum(acknowledged for acknowledged, _ in self.reached.values())


def wait_for_progress(sessions):
    end = soak.time.monotonic() + 120
    began = [session.acknowledged for session in sessions]
    while any(session.acknowledged <= had for session, had in zip(sessions, began)):
        if soak.time.monotonic() > end:
            raise Failure("no transaction is committed within 120 s")
        soak.time.sleep(0.01)


def rounds(lab, dice, kind, count, outside):
    stack = Stack(lab, dice, kind, place=os.path.join(outside, "volume"))
    cluster, deep_every = Cluster(lab, stack, dice, outside), max(1, min(4, count))
    deep = 0
    try:
        for at in range(1, count + 1):
            sessions = cluster.load()
            wait_for_progress(sessions)
            soak.time.sleep(dice.uniform(0, 1.0))
            if dice.random() < 0.4:
                stack.live_snapshot()
                soak.time.sleep(dice.uniform(0, 0.5))
            stack.die(lambda: cluster.die(sessions))
            stack.between()
            stack.up()
            cluster.start()
            cluster.look(at % deep_every == 0)
            if at % deep_every == 0:
                cluster.checksums()
                deep += 1
            if at % 10 == 0:
                say(f"postgres on {kind}: {at} kills, {cluster.committed()} transactions")
        cluster.stop()
    finally:
        cluster.die(())
    stack.down()
    return (f"{kind}: {stack.told()}; {cluster.committed()} transactions of {SESSIONS} sessions, every "
            f"acknowledged one there after each kill; {deep} times every table, index and page verified")


def part(lab, dice, short, words):
    soak.need_mounts()
    programs()
    count = int(words[0]) if words else 1 if short else 30
    # Where PostgreSQL's own user may look; in this mount namespace only.
    lab.run("mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "none", "/mnt")
    lab.mounts.append("/mnt")
    for kind in ("ext4",) if short else ("ext4", "xfs"):
        try:
            soak.need_kind(kind)
        except soak.Skip as reason:
            yield reason
            continue
        inner, outside = soak.Lab(f"postgres-{kind}", lab.keep), os.path.join("/mnt", kind)
        os.makedirs(outside)
        try:
            yield rounds(inner, dice, kind, count, outside)
        finally:
            inner.end()
