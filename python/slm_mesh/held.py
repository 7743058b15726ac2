"""A lock that is held: renewed by the mesh object that took it, given back at the end of a ``with``."""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType
from typing import Any, Dict, List, Optional, Protocol, Type

from .errors import LockLost, MeshError, Unavailable
from .types import LockInfo

_AGAIN_AFTER = 1.0


class Keeper(Protocol):
    """What a lock asks of the connection that took it, and renews it."""

    def _call(self, method: str, params: Dict[str, Any], wait: Optional[float] = None) -> Dict[str, Any]: ...

    def _let_go(self, held: Held) -> None: ...


class Held:
    """What :meth:`Mesh.lock` took. It has the fields of :class:`slm_mesh.Lock`, and belongs to this
    object alone: it is renewed while it lives, and falls when it is released or its process ends.
    """

    def __init__(self, mesh: Keeper, wish: Dict[str, Any], answer: Dict[str, Any], asked_at: float) -> None:
        self._mesh = mesh
        self._pid = os.getpid()
        # A renewal that overtakes the release would take the lock again, for nobody.
        self._one_at_a_time = threading.Lock()
        self._wish = {**wish, "renew": True}
        self.token: int = answer["token"]
        """The fencing token: it only grows from grant to grant, so a late writer can be told."""
        self.lost: Optional[str] = None
        """Why the lock was lost, if it was: somebody else may write there now."""
        self.released = False
        self._note(answer, asked_at)

    def _note(self, answer: Dict[str, Any], asked_at: float) -> None:
        self._info = LockInfo.from_dict(answer["lock"])
        lease = float(answer["expiresInSeconds"])
        self._ends_at = asked_at + lease
        self._renew_at = asked_at + lease / 3

    @property
    def file_path(self) -> str:
        """The file, absolute; the first, if there are several."""
        return self._info.file_path

    @property
    def file_paths(self) -> List[str]:
        """All files of this lock."""
        return list(self._wish["filePaths"])

    @property
    def locked_by(self) -> str:
        """The id of the peer that holds it: yours."""
        return self._info.locked_by

    @property
    def holder(self) -> str:
        """Its name."""
        return self._info.holder

    @property
    def locked_at(self) -> str:
        """When it was taken."""
        return self._info.locked_at

    @property
    def expires_at(self) -> str:
        """When it falls, unless it is renewed before; it will be."""
        return self._info.expires_at

    @property
    def reason(self) -> str:
        """What for."""
        return self._info.reason

    def check(self) -> None:
        """Asks the broker whether the lock is still ours, and renews it.

        :raises LockLost: it is not.
        """
        self._renew()
        if self.lost is not None:
            raise LockLost(self.lost)
        if self.released:
            raise LockLost(f"{self.file_path} was given back before")

    def release(self) -> None:
        """Gives the lock back; a second time does nothing, nor does a child of the process that took it."""
        if self._pid != os.getpid():
            return
        with self._one_at_a_time:
            if self.released:
                return
            self.released = True
            self._mesh._let_go(self)
            if self.lost is not None:
                return
            try:
                self._mesh._call("lock.unlock", self._which())
            except Unavailable:
                pass  # The end of the connection says the same to the broker.

    def _which(self) -> Dict[str, Any]:
        return {"filePaths": self._wish["filePaths"], "bound": self._wish["bound"]}

    def _due(self) -> float:
        return self._renew_at

    def _renew(self) -> None:
        """Renews the lease, and notes if the lock is not the same any more."""
        with self._one_at_a_time:
            if self.released or self.lost is not None:
                return
            asked_at = time.monotonic()
            try:
                answer = self._mesh._call("lock.lock", self._wish)
            except Unavailable as error:
                self._renew_at = asked_at + _AGAIN_AFTER
                if asked_at >= self._ends_at:
                    self.lost = f"{self.file_path}: the lease ended while the broker was away ({error})"
                return
            except MeshError as error:
                self.lost = f"{self.file_path} was lost: {error}"
                return
            if answer["token"] == self.token:
                self._note(answer, asked_at)
                return
            # It is ours again, but it was not in between: somebody may have written there.
            self.lost = f"{self.file_path} was lost for a moment: the connection to the broker broke"
            self._mesh._call("lock.unlock", self._which())

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            self.release()
        except MeshError:
            # The error of the body is the one to hear of.
            if error is None:
                raise
        if error is None and self.lost is not None:
            raise LockLost(self.lost)

    def __repr__(self) -> str:
        state = "lost" if self.lost else "released" if self.released else "held"
        return f"<Held {self.file_path!r} token={self.token} {state}>"
