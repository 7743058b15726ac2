"""What the clients saw, and whether a mesh that keeps its promises can have shown it.

Each write is answered with a number that only grows: the sequence number of a message, the version of an entry, the
token of a lock. So the order of all writes of a kind is known, and it is enough to compare it with the clock.
"""

import threading
import time
from collections import defaultdict


class Operation:
    """One write or read: its kind, its start and end times, and the number in its answer."""

    __slots__ = ("kind", "what", "began", "ended", "number")

    def __init__(self, kind, what, began, ended, number):
        self.kind, self.what, self.began, self.ended, self.number = kind, what, began, ended, number


class Recording:
    """What all clients saw."""

    def __init__(self):
        self.operations, self.attempts, self.guard = [], [], threading.Lock()

    def number(self, kind, what, began, ended, number):
        """Records a write or read that was answered with a number."""
        with self.guard:
            self.operations.append(Operation(kind, what, began, ended, number))

    def attempt(self, name, began, outcome, *words):
        """Records an attempt on an entry or a lock for the second checker. An attempt with an outcome ends now."""
        ended = "-" if outcome is None else time.monotonic_ns()
        with self.guard:
            self.attempts.append("\t".join(map(str, (name, began, ended, *words))))

    def write_attempts(self, path):
        with open(path, "w") as file:
            file.writelines(f"{line}\n" for line in self.attempts)


def faults(operations):
    """Each breach of the promises, in words."""
    found = []
    kinds = defaultdict(list)
    for one in operations:
        kinds[one.kind].append(one)
    for kind in [kind for kind in kinds if not kind.startswith("read ")]:
        writes = kinds[kind]
        owners = {}
        for one in writes:
            if owners.setdefault(one.number, one.what) != one.what:
                found.append(f"{kind}: number {one.number} went to {owners[one.number]} and to {one.what}")
        found += out_of_order(kind, writes)
        found += stale(kind, writes, kinds.get(f"read {kind}", []))
    return found


def out_of_order(kind, writes):
    """Checks that each write that ended before another one began has the smaller number."""
    by_end = sorted(writes, key=lambda one: one.ended)
    found, highest, n = [], None, 0
    for one in sorted(writes, key=lambda one: one.began):
        while n < len(by_end) and by_end[n].ended < one.began:
            if highest is None or by_end[n].number > highest.number:
                highest = by_end[n]
            n += 1
        if highest is not None and highest.number >= one.number and highest.what != one.what:
            found.append(f"{kind}: {highest.what} got {highest.number} and ended before {one.what} began, which got {one.number}")
    return found


def stale(kind, writes, reads):
    """Checks that each read saw at least all writes that had ended before the read began."""
    by_end = sorted(writes, key=lambda one: one.ended)
    found, highest, n = [], 0, 0
    for read in sorted(reads, key=lambda one: one.began):
        while n < len(by_end) and by_end[n].ended < read.began:
            highest = max(highest, by_end[n].number)
            n += 1
        if read.number < highest:
            found.append(f"{kind}: a read saw {read.number} after {highest} was acknowledged")
    return found


def self_test():
    """Checks that `faults` finds each kind of breach, and none in a good history."""
    good = [Operation("message", "a", 0, 1, 1), Operation("message", "b", 2, 3, 2), Operation("read message", "", 4, 5, 2)]
    assert faults(good) == []
    for bad in (
        [Operation("message", "a", 0, 1, 1), Operation("message", "b", 0, 1, 1)],
        [Operation("message", "a", 0, 1, 2), Operation("message", "b", 2, 3, 1)],
        [Operation("message", "a", 0, 1, 2), Operation("read message", "", 2, 3, 1)],
    ):
        assert len(faults(bad)) == 1, bad
