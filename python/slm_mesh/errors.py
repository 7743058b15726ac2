"""What goes wrong, with types: every error of this package is an :class:`SLMMeshError`.

The kinds are those of the mesh itself (``slm-mesh help exit`` lists their exit codes for scripts).
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Type


class SLMMeshError(Exception):
    """The broker refused, or could not be reached. What callers of slm-mesh 1.x catch."""

    def __init__(self, message: str, status_code: int = 0, response: Optional[Dict[str, Any]] = None) -> None:
        super().__init__(message)
        self.status_code = status_code
        """The HTTP status, where HTTP was spoken; else 0."""
        self.response: Dict[str, Any] = response or {}
        """The answer's body, or the facts that came with the error."""


class MeshError(SLMMeshError):
    """The mesh said no, or something broke; the subclasses say what."""

    kind = "internal"

    @property
    def facts(self) -> Dict[str, Any]:
        """What a program may want to know beyond the sentence."""
        return self.response


class UsageError(MeshError):
    """A wrong or missing argument."""

    kind = "usage"


class NotFound(MeshError):
    """No such peer, message or lock."""

    kind = "not_found"


class Ambiguous(MeshError):
    """The name fits several peers."""

    kind = "ambiguous"


class Refused(MeshError):
    """The rules of the mesh say no to this caller."""

    kind = "refused"


class LockedError(MeshError):
    """The file is locked by somebody else, or by another command of yours.

    With :meth:`Mesh.lock` it comes at once, or when ``wait`` is over.
    """

    kind = "held"

    @property
    def _lock(self) -> Dict[str, Any]:
        lock = self.facts.get("lock")
        return lock if isinstance(lock, dict) else {}

    @property
    def holder(self) -> str:
        """The name of the peer that holds it."""
        return str(self._lock.get("holder", ""))

    @property
    def file_path(self) -> str:
        """The lock that stands in the way; it may be a folder or a glob."""
        return str(self._lock.get("filePath", ""))

    @property
    def reason(self) -> str:
        """What the holder says it does there."""
        return str(self._lock.get("reason", ""))

    @property
    def expires_in(self) -> int:
        """Seconds until the lock falls, unless it is renewed."""
        return int(self._lock.get("expiresInSeconds", 0))

    @property
    def queue(self) -> List[str]:
        """The names of those who wait for it."""
        return [str(name) for name in self.facts.get("queue", [])]


class VersionConflict(MeshError):
    """A compare-and-set found another version."""

    kind = "conflict"

    @property
    def version(self) -> int:
        """The version that is there; 0 when there is no entry."""
        return int(self.facts.get("version", 0))


class RateLimited(MeshError):
    """Too many messages or changes in a short time."""

    kind = "limited"

    @property
    def retry_after(self) -> int:
        """Seconds until more is allowed."""
        return int(self.facts.get("retryAfterSeconds", 0))


class Full(MeshError):
    """A mailbox or a table is full."""

    kind = "full"


class TimedOut(MeshError):
    """Nothing came in the time given, or an answer took too long."""

    kind = "timed_out"


class StorageError(MeshError):
    """The disk or the database failed; nothing was changed."""

    kind = "storage"


class Unavailable(MeshError):
    """There is no broker, and none could be started."""

    kind = "gone"


class ConnectionLost(Unavailable):
    """The connection broke before the answer came: it is not known whether the call was done."""


class LockLost(MeshError):
    """A lock fell while it was held: its lease ended, or the connection did and somebody else came."""


class EventGap(MeshError):
    """Events between the cursor and the oldest that are kept were removed already."""


_KINDS: Dict[str, Type[MeshError]] = {
    error.kind: error
    for error in (
        UsageError, NotFound, Ambiguous, Refused, LockedError, VersionConflict, RateLimited, Full, TimedOut,
        StorageError, Unavailable,
    )
}

_STATUSES: Dict[int, Type[MeshError]] = {
    0: Unavailable, 400: UsageError, 401: Refused, 403: Refused, 404: NotFound, 408: TimedOut, 429: RateLimited,
    507: StorageError,
}


def from_wire(error: Dict[str, Any]) -> MeshError:
    """The exception for a JSON-RPC error of the broker's."""
    data = error.get("data")
    facts = dict(data) if isinstance(data, dict) else {}
    # What JSON-RPC itself refuses carries no kind: a method or a line that the broker doesn't know.
    default = "usage" if error.get("code") in (-32601, -32602, -32600, -32700) else "internal"
    kind = _KINDS.get(str(facts.pop("kind", default)), MeshError)
    return kind(str(error.get("message", "the broker gave no reason")), 0, facts or None)


def from_status(message: str, status: int, response: Optional[Dict[str, Any]] = None) -> MeshError:
    """The exception for an HTTP answer; status 0 means that there was none."""
    return _STATUSES.get(status, MeshError)(message, status, response)
