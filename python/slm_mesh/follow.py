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
    """The events after a cursor, oldest first, then new ones as they arrive; see :meth:`Mesh.follow`.

    No event is missed if the connection is lost. If the broker has deleted events that were not read yet,
    :class:`slm_mesh.EventGap` is raised once. Iterate again to continue after the gap.
    """

    def __init__(self, mesh: Connection, after: int, types: List[str], wait: Optional[float]) -> None:
        self._mesh = mesh
        self._types = types
        self._wait = wait
        self._read: Deque[Event] = deque()
        self._upto = after
        self.cursor = after
        """The sequence number of the last event; ``follow(after=cursor)`` continues after it."""

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
                text = f"events after {before} are already deleted; iterate again to continue after them"
                raise EventGap(text, 0, {"after": before})
            if not self._read:
                # The cursor also moves past events that the filter left out.
                self.cursor = self._upto
                if until is not None and time.monotonic() >= until:
                    raise StopIteration
        event = self._read.popleft()
        self.cursor = event.seq
        return event
