"""What a :class:`slm_mesh.Mesh` stands on: a connection that comes back, and locks that are renewed."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Optional, Type, TypeVar

from . import places, roads
from .errors import ConnectionLost, MeshError, Unavailable
from .held import Held
from .link import Link, NotSent
from .places import StrPath

_PATIENCE = 10.0
"""How long a call looks for a broker that is going and coming, in seconds."""
WAIT_MAX = 3600
"""The longest wait in one call, in seconds."""
_PAUSE_MAX = 5.0

REPEATABLE = frozenset({
    "peers", "whoami", "summary", "inbox", "state.get", "state.list", "state.delete", "lock.lock", "lock.unlock",
    "lock.query", "events.read", "status", "attach", "detach", "shown",
})
"""What may be asked again when its answer was lost. Sending may, too: each message has its key."""

Self = TypeVar("Self", bound="Connection")


class Connection:
    """Asks the broker, from any thread, over a connection that is made anew when it breaks."""

    def __init__(
        self,
        name: Optional[str] = None,
        *,
        agent: str = "python",
        acting: Optional[str] = None,
        data_dir: Optional[StrPath] = None,
        start: bool = True,
        timeout: float = 30.0,
    ) -> None:
        self.data_dir: Path = places.data_dir(data_dir)
        self.timeout = timeout
        self._start = start
        self._seat: Optional[Dict[str, Any]] = None
        self._acting: Dict[str, str] = {}
        if name is not None:
            cwd = Path.cwd()
            self._seat = {
                "name": name, "agent": agent, "project": str(cwd), "pid": os.getpid(),
                # What this process runs acts as this peer; what else its shell runs does not.
                "script": True,
                **places.git_facts(cwd),
            }
        else:
            named = acting or os.environ.get("SLM_MESH_PEER")
            self._acting = {"as": named} if named else {}
        self._you: Optional[Dict[str, str]] = None
        self._closed = False
        self._begin()
        if self._seat is not None:
            self._connected()

    def _begin(self) -> None:
        """Not connected, nothing held: at birth, and in a child process, which has no part in either."""
        self._pid = os.getpid()
        self._link: Optional[Link] = None
        self._connecting = threading.RLock()
        self._held: List[Held] = []
        self._kept = threading.Condition()
        self._keeper: Optional[threading.Thread] = None

    def close(self) -> None:
        """Leaves: locks fall, mail goes on waiting. A second time does nothing."""
        with self._connecting:
            self._closed = True
            link, self._link = self._link, None
        with self._kept:
            self._kept.notify_all()
        if link is not None:
            if self._seat is not None and link.lost is None:
                try:
                    link.call("detach", {}, self.timeout)
                except MeshError:
                    pass  # The end of the connection says the same.
            link.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def _call(self, method: str, params: Dict[str, Any], wait: Optional[float] = None) -> Dict[str, Any]:
        """Asks the broker; on a new connection again, if the call was not sent or does no harm twice."""
        params = {**params, **self._acting}
        until = time.monotonic() + (wait or 0.0)
        gives_up = time.monotonic() + _PATIENCE
        timeout = self.timeout
        while True:
            if wait is not None:
                left = min(max(until - time.monotonic(), 0.0), WAIT_MAX)
                params["waitSeconds"], timeout = math.ceil(left), self.timeout + left
            try:
                return self._connected().call(method, params, timeout)
            except NotSent:
                if time.monotonic() >= gives_up:
                    raise
            except ConnectionLost:
                if time.monotonic() >= max(gives_up, until) or method not in REPEATABLE and method != "send":
                    raise
            time.sleep(0.01)

    def _tell(self, method: str, params: Dict[str, Any]) -> None:
        """Asks for something whose answer nobody awaits, if there is a connection."""
        link = self._link
        if link is not None:
            link.notify(method, {**params, **self._acting})

    def _connected(self, start: Optional[bool] = None) -> Link:
        if self._pid != os.getpid():
            self._begin()
        link = self._link
        if link is not None and link.lost is None:
            return link
        with self._connecting:
            if self._closed:
                raise Unavailable("this Mesh was closed")
            if self._link is None or self._link.lost is not None:
                self._link = self._open(self._start if start is None else start)
            return self._link

    def _open(self, start: bool) -> Link:
        """A new connection, with the seat that was held before."""
        path = self.data_dir / "mesh.sock"
        try:
            link = Link(roads.away(self.data_dir) if roads.is_away(self.data_dir) else roads.here(path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            if not start:
                raise Unavailable(f"no broker is running for {self.data_dir}") from error
            places.start_broker(self.data_dir)
            link = self._dial(path)
        except OSError as error:
            raise Unavailable(f"the broker at {path} can't be reached ({error})") from error
        if self._seat is not None:
            before = {"id": self._you["id"]} if self._you else {}
            self._you = link.call("attach", {**self._seat, **before}, self.timeout)["you"]
        if self._seat is not None or self._keeper is not None:
            link.watch(self._wake_keeper)
            self._keep()
        return link

    @staticmethod
    def _dial(path: Path) -> Link:
        try:
            return Link(roads.here(path))
        except OSError as error:
            raise Unavailable(f"the broker at {path} can't be reached ({error})") from error

    # What goes on in the background: renewing, and coming back after a loss

    def _keep(self) -> None:
        """Has a thread renew locks and come back, until the end of this object."""
        with self._kept:
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep_on, name="slm-mesh keeper", daemon=True)
                self._keeper.start()
        link = self._link
        if link is not None:
            link.watch(self._wake_keeper)

    def _wake_keeper(self) -> None:
        with self._kept:
            self._kept.notify_all()

    def _keep_on(self) -> None:
        pause = 0.0
        while True:
            with self._kept:
                if self._closed:
                    return
                if not (self._is_astray() and pause == 0.0):
                    due = min((held._due() for held in self._held), default=math.inf)
                    sleep = pause if self._is_astray() else due - time.monotonic()
                    if sleep > 0:
                        self._kept.wait(None if sleep == math.inf else min(sleep, 60.0))
                if self._closed:
                    return
                held_now = list(self._held)
            if self._is_astray():
                pause = 0.0 if self._come_back() else min(max(2 * pause, 0.1), _PAUSE_MAX)
                due_now = held_now if pause == 0.0 else []
            else:
                pause = 0.0
                due_now = [held for held in held_now if held._due() <= time.monotonic()]
            for held in due_now:
                self._renew(held)

    def _is_astray(self) -> bool:
        """The connection is lost, and something depends on it."""
        link = self._link
        return link is not None and link.lost is not None and (self._seat is not None or bool(self._held))

    def _come_back(self) -> bool:
        link = self._link
        try:
            # Who stopped the broker on purpose wants it stopped, until somebody calls.
            self._connected(start=self._start and not (link is not None and link.was_stopped))
        except MeshError:
            return self._closed
        return True

    def _renew(self, held: Held) -> None:
        try:
            held._renew()
        except MeshError as error:
            held.lost = held.lost or str(error)
        if held.lost is not None:
            self._let_go(held)

    def _let_go(self, held: Held) -> None:
        with self._kept:
            self._held = [other for other in self._held if other is not held]
