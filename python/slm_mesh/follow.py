"""Iteration over the events of the mesh, with a cursor."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Deque, Iterator, List, Optional

from .errors import EventGap
from .types import Event

if TYPE_CHECKING:
    from .connection import Connection

_WAIT_MAX = 300.0


class Follow(Iterator[Event]):
    """The events after a cursor, oldest first, and then those that come: what :meth:`Mesh.follow` gives.

    A lost connection costs no event. When the broker has removed events that were not read yet,
    :class:`slm_mesh.EventGap` is raised once; to iterate again goes on behind the gap.
    """

    def __init__(self, mesh: Connection, after: int, types: List[str], wait: Optional[float]) -> None:
        self._mesh = mesh
        self._types = types
        self._wait = wait
        self._read: Deque[Event] = deque()
        self._upto = after
        self.cursor = after
        """The place of the last event handed out; ``follow(after=cursor)`` goes on behind it."""

    def __iter__(self) -> Follow:
        return self

    def __next__(self) -> Event:
        until = None if self._wait is None else time.monotonic() + self._wait
        while not self._read:
            left = _WAIT_MAX if until is None else min(until - time.monotonic(), _WAIT_MAX)
            answer = self._mesh._call("events.read", {"types": self._types, "after": self._upto}, wait=max(left, 0.0))
            self._read.extend(Event.from_dict(row) for row in answer["events"])
            before, self._upto = self._upto, answer["seq"]
            if answer["gap"]:
                raise EventGap(f"events after {before} were removed already; the rest is here", 0, {"after": before})
            if not self._read:
                # What the filter left out was passed, too.
                self.cursor = self._upto
                if until is not None and time.monotonic() >= until:
                    raise StopIteration
        event = self._read.popleft()
        self.cursor = event.seq
        return event
