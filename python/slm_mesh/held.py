"""A lock that is held: the mesh object that took it renews it, and the end of a ``with`` releases it."""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType
from typing import Any, Dict, List, Optional, Protocol, Type

from .errors import LockLost, MeshError, NotFound, Unavailable
from .types import LockInfo

_RETRY_SECONDS = 1.0


class Keeper(Protocol):
    """What a lock needs from the connection that took it and renews it."""

    def _call(self, method: str, params: Dict[str, Any], wait: Optional[float] = None) -> Dict[str, Any]: ...

    def _refuse_in_call(self) -> None: ...

    def _notify(self, method: str, params: Dict[str, Any]) -> None: ...

    def _forget(self, held: Held) -> None: ...


class Held:
    """A lock from :meth:`Mesh.lock`, with the fields of :class:`slm_mesh.Lock`. It belongs to this object
    alone, which renews it until it is released or the process ends.
    """

    def __init__(self, mesh: Keeper, request: Dict[str, Any], answer: Dict[str, Any], asked_at: float) -> None:
        self._mesh = mesh
        self._pid = os.getpid()
        # A renewal and the release exclude each other. A renewal after the release would take the lock again, and
        # nothing would release it.
        self._one_at_a_time = threading.RLock()
        self._request = {**request, "renew": True}
        self.token: int = answer["token"]
        """The fencing token. Every new lock has a larger token, so a late writer can be recognized."""
        self.lost: Optional[str] = None
        """Why the lock was lost, or None. After the loss, another peer may write to the file."""
        self.released = False
        self._note(answer, asked_at)

    def _note(self, answer: Dict[str, Any], asked_at: float) -> None:
        self._info = LockInfo.from_dict(answer["lock"])
        lease = float(answer["expiresInSeconds"])
        self._ends_at = asked_at + lease
        self._renew_at = asked_at + lease / 3

    @property
    def file_path(self) -> str:
        """The absolute path of the file, or of the first file if there are several."""
        return self._info.file_path

    @property
    def file_paths(self) -> List[str]:
        """All files of this lock."""
        return list(self._request["filePaths"])

    @property
    def locked_by(self) -> str:
        """The id of the peer that holds the lock, which is you."""
        return self._info.locked_by

    @property
    def holder(self) -> str:
        """The name of the peer that holds the lock."""
        return self._info.holder

    @property
    def locked_at(self) -> str:
        """When the lock was taken."""
        return self._info.locked_at

    @property
    def expires_at(self) -> str:
        """When the lock expires if it is not renewed. It is renewed automatically."""
        return self._info.expires_at

    @property
    def reason(self) -> str:
        """Why the lock was taken."""
        return self._info.reason

    def check(self) -> None:
        """Checks with the broker that the lock is still held, and renews it.

        :raises LockLost: it is no longer held.
        :raises Unavailable: the broker can't be reached, so it is unknown whether the lock is still held.
        """
        self._mesh._refuse_in_call()
        unreachable = self._renew() if self._pid == os.getpid() else None
        self._require_held()
        if unreachable is not None:
            raise unreachable

    def _require_held(self) -> None:
        if self._pid != os.getpid():
            raise LockLost(f"the lock of {self.file_path} belongs to the parent of this process; lock the file in the "
                           "child, or check the lock in the parent")
        if self.lost is not None:
            raise LockLost(self.lost)
        if self.released:
            raise LockLost(f"{self.file_path} was already released; lock it again with Mesh.lock()")

    def release(self) -> None:
        """Releases the lock. Does nothing after the release, or in a child of the process that took the lock."""
        if self._pid != os.getpid():
            return
        self._mesh._refuse_in_call()
        with self._one_at_a_time:
            if self.released:
                return
            self.released = True
            self._mesh._forget(self)
            if self.lost is None:
                self._unlock()

    def _unlock(self) -> None:
        """Releases the lock in the broker, and notes if the lock was already lost."""
        try:
            self._mesh._call("lock.unlock", self._which())
        except Unavailable as error:
            # The end of the connection releases the lock, too, but it is unknown when the connection ended.
            self.lost = f"{self.file_path} may have been lost: the broker can't be reached to release it ({error})"
        except NotFound as error:
            self.lost = f"{self.file_path} was lost before its release: {error}"
        except BaseException:
            # The call took too long, or a signal handler ended it. Without this notification, the lock would stay
            # locked.
            self._mesh._notify("lock.unlock", self._which())
            raise

    def _which(self) -> Dict[str, Any]:
        return {"filePaths": self._request["filePaths"], "command": self._request["command"]}

    def _due(self) -> float:
        return self._renew_at

    def _renew(self) -> Optional[Unavailable]:
        """Renews the lease, and records whether the lock was lost. If the broker can't be reached, returns why."""
        with self._one_at_a_time:
            if self.released or self.lost is not None:
                return None
            asked_at = time.monotonic()
            try:
                answer = self._mesh._call("lock.lock", self._request)
            except Unavailable as error:
                self._renew_at = asked_at + _RETRY_SECONDS
                if asked_at >= self._ends_at:
                    self._lose(f"{self.file_path}: the lease ended while the broker was unreachable ({error})")
                return error
            except MeshError as error:
                self._lose(f"{self.file_path} was lost: {error}")
                return None
            if answer["token"] == self.token:
                self._note(answer, asked_at)
                return None
            # The lock is held again, but it was not held in between, so another peer may have written to the file.
            self._lose(f"{self.file_path} was lost for a moment: the connection to the broker broke off")
            return None

    def _lose(self, why: str) -> None:
        """Notes that the lock is lost. In case the broker knows better, it is told that nobody holds the lock."""
        self.lost = why
        self._mesh._notify("lock.unlock", self._which())

    def __enter__(self) -> Held:
        self._require_held()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            self.release()
        except MeshError:
            # If the body of the `with` statement failed too, its error matters more.
            if error is None:
                raise
        if error is None and self.lost is not None:
            raise LockLost(self.lost)

    def __repr__(self) -> str:
        state = "lost" if self.lost else "released" if self.released else "held"
        return f"<Held {self.file_path!r} token={self.token} {state}>"
