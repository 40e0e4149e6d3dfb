"""What each sector may hold after a crash.

Every write stamps each of its 512-byte sectors with the write's number and the
sector's own, so that whatever is read back says who wrote it, and where to. The
ledger remembers for each sector the stamps it may hold: the newest that a completed
flush covers, and every one issued later. After a crash each sector must be one of
those: not older, not another sector's, not a mix of two.
"""

import struct

SECTOR = 512
STAMP = struct.Struct("<4sIQ")
MAGIC = b"sect"
ZERO = bytes(SECTOR)


def stamped(first_sector, count, number):
    """The bytes of write `number` to `count` sectors."""
    return b"".join(STAMP.pack(MAGIC, sector, number) * (SECTOR // STAMP.size)
                    for sector in range(first_sector, first_sector + count))


class Ledger:
    """`may[sector]`: (number, is zero) of every acceptable state, oldest first."""

    def __init__(self, sectors):
        self.may = [[(0, True)] for _ in range(sectors)]
        self.open = {}
        self.done = []

    def issued(self, number, first, count, zero=False):
        self.open[number] = (first, count)
        for sector in range(first, first + count):
            self.may[sector].append((number, zero))

    def completed(self, number):
        self.done.append((number, *self.open.pop(number)))

    def flush_begins(self):
        """What a flush that is sent now will have made durable when it is answered."""
        covered, self.done = self.done, []
        return covered

    def flush_failed(self, covered):
        self.done = covered + self.done

    def flush_completed(self, covered):
        for number, first, count in covered:
            for sector in range(first, first + count):
                states = self.may[sector]
                # An earlier flush may have been answered with a later write covered.
                at = next((i for i, state in enumerate(states) if state[0] == number), 0)
                del states[:at]

    def compare(self, content):
        """What is wrong with this content, as sentences; it is the new truth if nothing is."""
        wrong = []
        for sector, states in enumerate(self.may):
            data = content[sector * SECTOR:(sector + 1) * SECTOR]
            fault, state = self.judge(sector, states, data)
            if fault:
                wrong.append(f"sector {sector}: {fault}")
            else:
                # Read once, it must not change any more without a write.
                self.may[sector] = [state]
        self.open.clear()
        self.done.clear()
        return wrong

    @staticmethod
    def judge(sector, states, data):
        if data == ZERO:
            zeroes = [state for state in states if state[1]]
            return (None, zeroes[-1]) if zeroes else ("zeroes, where data was flushed", None)
        magic, place, number = STAMP.unpack_from(data)
        if magic != MAGIC:
            return "bytes that nobody wrote", None
        if data != STAMP.pack(magic, place, number) * (SECTOR // STAMP.size):
            return "a mix of two writes", None
        if place != sector:
            return f"the content of sector {place}", None
        if (number, False) not in states:
            return f"write {number}, which is older than the flushed write {states[0][0]}", None
        return None, (number, False)


def finds_planted_damage():
    """The ledger is worth nothing unless it sees what it is for. Returns what it missed."""
    def fresh():
        ledger = Ledger(4)
        for number in (1, 2):
            ledger.issued(number, 0, 4)
            ledger.completed(number)
            if number == 1:
                ledger.flush_completed(ledger.flush_begins())
        ledger.flush_completed(ledger.flush_begins())
        ledger.issued(3, 0, 2)
        return ledger
    good = stamped(0, 4, 2)
    half = good[:256] + stamped(0, 1, 3)[256:512] + good[512:]
    cases = {
        "an older write": (stamped(0, 4, 1), False), "lost to zeroes": (bytes(4 * SECTOR), False),
        "another sector's": (good[:512] * 4, False), "a torn sector": (half, False),
        "foreign bytes": (b"x" * 4 * SECTOR, False), "as flushed": (good, True),
        "with part of the unanswered write": (stamped(0, 1, 3) + good[512:], True),
    }
    return [what for what, (content, fine) in cases.items() if (fresh().compare(content) == []) != fine]
