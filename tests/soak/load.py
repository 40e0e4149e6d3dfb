"""Random requests to a volume over NBD, with a ledger of what became of each.

Everything that matters for what may be on the disk is noted as an event, with the
place in a recorded log at which it was known: a request before it is sent, an answer
after it has come. So the ledger can be asked later what held at any moment.
"""

import os
import time

from lab import Failure
import nbd
from ledger import SECTOR, Ledger, stamped

IN_FLIGHT = 16


class Trace:
    """Events in order, each with its place in the recorded log."""

    def __init__(self, recorded, live):
        self.recorded, self.live = recorded, live
        self.events = []

    def place(self):
        return os.stat(self.recorded).st_size

    def note(self, *event):
        apply_event(self.live, event)
        self.events.append((self.place(), event))


def apply_event(ledger, event):
    """One event's meaning for what a disk may hold."""
    kind, *words = event
    if kind == "issued":
        ledger.issued(*words)
    elif kind == "completed":
        ledger.completed(words[0])
    elif kind == "durable":
        # A write with FUA: itself and nothing else.
        number = words[0]
        ledger.completed(number)
        ledger.flush_completed([ledger.done.pop()])
    elif kind == "discarded":
        # A discard may also do nothing: the old content stays acceptable.
        ledger.open.pop(words[0])
    elif kind == "flush begins":
        ledger.flights = getattr(ledger, "flights", {})
        ledger.flights[words[0]] = ledger.flush_begins()
    elif kind == "flushed":
        ledger.flush_completed(ledger.flights.pop(words[0]))
    elif kind == "seen":
        # A holder that opened the volume has read this: it must not vanish any more.
        wrong = ledger.compare(words[0])
        if wrong:
            raise Failure(f"{len(wrong)} sectors are wrong: " + "; ".join(wrong[:6]))


def judge(ledger, content):
    """What is wrong with this content, as sentences; the ledger stays as it is."""
    return [f"sector {sector}: {fault}" for sector, states in enumerate(ledger.may)
            for fault, _ in [Ledger.judge(sector, states,
                                          content[sector * SECTOR:(sector + 1) * SECTOR])] if fault]


class Load:
    """Requests to one server, until time is up or the server is gone."""

    def __init__(self, trace, dice, client, first_number=0):
        self.trace, self.dice, self.client = trace, dice, client
        self.number = first_number
        self.flights = {}
        self.answered = self.flushes = 0

    def run(self, seconds):
        """True if the server was there all the time. Ends with nothing in flight."""
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                while len(self.flights) < IN_FLIGHT:
                    self.submit()
                self.receive()
            while self.flights:
                self.receive()
        except nbd.Gone:
            return False
        return True

    def submit(self):
        self.number += 1
        what = self.dice.random()
        if what < 0.04:
            self.flights[self.number] = ("flush", None)
            self.trace.note("flush begins", self.number)
            self.client.send(self.number, nbd.FLUSH)
            return
        first, count = self.free_place()
        kind = "zeroes" if 0.93 <= what < 0.97 else "discard" if what >= 0.97 else \
            "fua" if what < 0.07 else "write"
        self.flights[self.number] = (kind, (first, count))
        self.trace.note("issued", self.number, first, count, kind in ("zeroes", "discard"))
        if kind in ("write", "fua"):
            self.client.send(self.number, nbd.WRITE, first * SECTOR, count * SECTOR,
                             stamped(first, count, self.number), nbd.FUA if kind == "fua" else 0)
        else:
            self.client.send(self.number, nbd.WRITE_ZEROES if kind == "zeroes" else nbd.TRIM,
                             first * SECTOR, count * SECTOR)

    def free_place(self):
        """Sectors that no request in flight touches: then their order is known."""
        busy = [place for _, place in self.flights.values() if place]
        sectors = len(self.trace.live.may)
        while True:
            count = self.dice.choice((1, 1, 3, 8, 8, 8, 8, 16, 64, 128, 512))
            first = self.dice.randrange(sectors - count)
            if self.dice.random() < 0.5:
                first -= first % 8
            if all(first + count <= at or at + length <= first for at, length in busy):
                return first, count

    def receive(self):
        number, error, _ = self.client.receive()
        kind, _ = self.flights.pop(number)
        if error:
            raise Failure(f"a {kind} failed with error {error} before anything was killed")
        self.answered += 1
        self.flushes += kind == "flush"
        self.trace.note({"flush": "flushed", "discard": "discarded", "fua": "durable"}
                        .get(kind, "completed"), number)
