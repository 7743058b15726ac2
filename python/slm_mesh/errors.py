"""The exceptions of this package, all subclasses of :class:`SLMMeshError`.

Their kinds are those of the mesh itself (``slm-mesh help`` lists the exit statuses).
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Type


class SLMMeshError(Exception):
    """The broker refused a call, or could not be reached. Programs written for slm-mesh 1.x catch this."""

    def __init__(self, message: str, status_code: int = 0, response: Optional[Dict[str, Any]] = None) -> None:
        super().__init__(message)
        self.status_code = status_code
        """The HTTP status, or 0 if the call did not use HTTP."""
        self.response: Dict[str, Any] = response or {}
        """The body of the answer, or the details of the error."""


class MeshError(SLMMeshError):
    """The mesh refused a call, or something failed; the subclass says what happened."""

    kind = "internal"

    @property
    def facts(self) -> Dict[str, Any]:
        """The details of the error, for programs."""
        return self.response


class UsageError(MeshError):
    """A wrong or missing argument."""

    kind = "usage"


class NotFound(MeshError):
    """There is no such peer, message or lock."""

    kind = "not_found"


class Ambiguous(MeshError):
    """The name matches several peers."""

    kind = "ambiguous"


class Refused(MeshError):
    """The rules of the mesh do not allow this."""

    kind = "refused"


class LockedError(MeshError):
    """The file is locked by somebody else, or by another command of yours.

    :meth:`Mesh.lock` raises this at once, or after ``wait`` seconds.
    """

    kind = "held"

    @property
    def _lock(self) -> Dict[str, Any]:
        lock = self.facts.get("lock")
        return lock if isinstance(lock, dict) else {}

    @property
    def holder(self) -> str:
        """The name of the peer that holds the lock."""
        return str(self._lock.get("holder", ""))

    @property
    def file_path(self) -> str:
        """The path of the conflicting lock, which may be a folder or a glob."""
        return str(self._lock.get("filePath", ""))

    @property
    def reason(self) -> str:
        """The reason that the holder gave."""
        return str(self._lock.get("reason", ""))

    @property
    def expires_in(self) -> int:
        """Seconds until the lock expires unless it is renewed."""
        return int(self._lock.get("expiresInSeconds", 0))

    @property
    def queue(self) -> List[str]:
        """The names of the peers that wait for the lock."""
        return [str(name) for name in self.facts.get("queue", [])]


class VersionConflict(MeshError):
    """A compare-and-set found a version other than the expected one."""

    kind = "conflict"

    @property
    def version(self) -> int:
        """The current version, or 0 if there is no entry."""
        return int(self.facts.get("version", 0))


class RateLimited(MeshError):
    """Too many messages or changes in a short time."""

    kind = "limited"

    @property
    def retry_after(self) -> int:
        """Seconds to wait before the next message or change is allowed."""
        return int(self.facts.get("retryAfterSeconds", 0))


class Full(MeshError):
    """A mailbox is full or a limit is reached."""

    kind = "full"


class TimedOut(MeshError):
    """Nothing arrived in time, or an answer took too long."""

    kind = "timed_out"


class StorageError(MeshError):
    """The disk or the database failed; nothing was changed."""

    kind = "storage"


class Unavailable(MeshError):
    """No broker is running, and none could be started."""

    kind = "gone"


class ConnectionLost(Unavailable):
    """The connection broke before the answer arrived, so it is unknown whether the call took effect."""


class Standby(Unavailable):
    """This hub is a standby, and another hub leads or is about to lead. The call had no effect."""

    kind = "standby"

    @property
    def leader(self) -> Optional[str]:
        """The address of the hub that leads, if one does."""
        leader = self.facts.get("leader")
        return leader if isinstance(leader, str) else None


class LockLost(MeshError):
    """A held lock was lost: its lease ended, or the connection broke and another peer took the lock."""


class EventGap(MeshError):
    """Some events after the cursor are already deleted."""


_KINDS: Dict[str, Type[MeshError]] = {
    error.kind: error
    for error in (
        UsageError, NotFound, Ambiguous, Refused, LockedError, VersionConflict, RateLimited, Full, TimedOut,
        StorageError, Unavailable, Standby,
    )
}

_STATUSES: Dict[int, Type[MeshError]] = {
    0: Unavailable, 400: UsageError, 401: Refused, 403: Refused, 404: NotFound, 408: TimedOut, 429: RateLimited,
    507: StorageError,
}


def from_wire(error: Dict[str, Any]) -> MeshError:
    """The exception for a JSON-RPC error from the broker."""
    data = error.get("data")
    facts = dict(data) if isinstance(data, dict) else {}
    # Errors of JSON-RPC itself, such as an unknown method, have no kind.
    default = "usage" if error.get("code") in (-32601, -32602, -32600, -32700) else "internal"
    kind = _KINDS.get(str(facts.pop("kind", default)), MeshError)
    return kind(str(error.get("message", "the broker gave no reason")), 0, facts or None)


def from_status(message: str, status: int, response: Optional[Dict[str, Any]] = None) -> MeshError:
    """The exception for an HTTP answer; status 0 means that there was no answer."""
    return _STATUSES.get(status, MeshError)(message, status, response)
