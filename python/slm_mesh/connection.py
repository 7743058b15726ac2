"""The base of :class:`slm_mesh.Mesh`: a connection that reconnects, and locks that are renewed."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Optional, Type, TypeVar

from . import paths, endpoint
from .errors import Ambiguous, ConnectionLost, MeshError, Standby, Unavailable, UsageError
from .held import Held
from .rpc import NotSent, RpcConnection
from .paths import StrPath

_RETRY_SECONDS = 10.0
"""How long a call retries while the broker restarts, in seconds."""
WAIT_MAX = 3600
"""The longest wait in one call, in seconds."""
_STARTS_MAX = 3
"""How often a broker is started that is stopped at once."""
_ABSENT = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)
"""The errors of connecting if no broker is running."""
_PAUSE_MAX = 5.0
_STANDBY_PAUSE = 0.1
"""The pause before a call is repeated at the hub that leads, in seconds: another hub may be about to lead."""

REPEATABLE = frozenset({
    "peers", "whoami", "summary", "inbox", "state.get", "state.list", "lock.lock", "lock.unlock",
    "lock.query", "events.read", "status", "attach", "detach", "inbox.mark_read", "log", "channel.join",
    "channel.leave", "channel.list",
})
"""Methods that are safe to repeat after a lost answer. `send` is safe, too, because each message has a key."""

Self = TypeVar("Self", bound="Connection")


def _acting_params(data_dir: Path, acting: Optional[str]) -> Dict[str, str]:
    """What shows the broker as which peer a script without a name acts: the peer that is named, or else the session or
    the agent in whose shell the script runs. These are the rules of the verbs."""
    settings = endpoint.settings(data_dir)
    named = acting or settings.get("SLM_MESH_PEER")
    if named:
        return {"as": named}
    session = settings.get("SLM_MESH_SESSION")
    if session:
        return {"shellSession": session}
    agent = _agent_kind(os.environ.get("AI_AGENT", ""))
    return {"shellAgent": agent} if agent else {}


def _agent_kind(name: str) -> Optional[str]:
    """The type of the sessions of an agent that calls itself by this name, after which a version may follow; None if
    the text is not a name.

    >>> [_agent_kind(name) for name in (" Goose ", "amp/1.2", "kilo_code@7", "1", "true", "")]
    ['goose', 'amp', 'kilo', None, None, None]
    """
    found = re.match(r"[a-z0-9-]*", name.strip().lower())
    kind = found.group().strip("-") if found else ""
    return kind if re.match(r"[a-z]", kind) and len(kind) <= 40 and kind != "true" else None


class Connection:
    """A connection to the broker. Any thread may use it, and it reconnects when it breaks."""

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
        self.data_dir: Path = paths.data_dir(data_dir)
        self.timeout = timeout
        self._start = start
        self._attach_params: Optional[Dict[str, Any]] = None
        self._acting: Dict[str, str] = {}
        if name is not None:
            self._attach_params = {
                "name": name, "agent": agent, "pid": os.getpid(),
                # Child processes of this process act as this peer, but other programs in the same shell do not.
                "script": True,
                **paths.location(),
            }
        else:
            self._acting = _acting_params(self.data_dir, acting)
        self._you: Optional[Dict[str, str]] = None
        self._closed = False
        self._leader: Optional[str] = None
        self._reset()
        if self._attach_params is not None:
            self._connected()

    def _reset(self) -> None:
        """Begins without connection and locks: at the start, and in a child process, which inherits neither."""
        self._pid = os.getpid()
        self._link: Optional[RpcConnection] = None
        self._connecting = threading.RLock()
        self._held: List[Held] = []
        self._changed = threading.Condition()
        self._keeper: Optional[threading.Thread] = None

    def _forget_parent(self) -> None:
        """In a forked child, leaves the connection and the locks to the parent."""
        if self._pid != os.getpid():
            self._reset()

    def close(self) -> None:
        """Leaves the mesh: releases all locks and keeps the mailbox. Closing twice does no harm.

        In a forked child, this concerns only what the child itself has done.
        """
        self._forget_parent()
        with self._connecting:
            self._closed = True
            link, self._link = self._link, None
        with self._changed:
            held_now, self._held = self._held, []
            self._changed.notify_all()
        for held in held_now:
            held.released = True
        if link is not None:
            if self._attach_params is not None and link.lost is None:
                try:
                    link.call("detach", {}, self.timeout)
                except MeshError:
                    pass  # The end of the connection has the same effect.
            link.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def _call(self, method: str, params: Dict[str, Any], wait: Optional[float] = None) -> Dict[str, Any]:
        """Calls the broker; repeats the call on a new connection if it was not sent or read, or is safe to repeat."""
        if wait is not None and math.isnan(wait):
            raise UsageError("wait: expected a number of seconds, or None to wait forever, got NaN")
        params = {**params, **self._acting}
        waiting_since = int(time.time() * 1000)
        until = time.monotonic() + (wait or 0.0)
        give_up_at = time.monotonic() + _RETRY_SECONDS
        timeout = self.timeout
        has_begun = False
        while True:
            if wait is not None:
                left = min(max(until - time.monotonic(), 0.0), WAIT_MAX)
                params["waitSeconds"], timeout = math.ceil(left), self.timeout + left
            try:
                return self._connected().call(method, params, timeout)
            except Ambiguous as error:
                # This process runs inside an agent, and the mesh knows no session of this agent yet, so begin one.
                if has_begun or "shortName" not in error.facts:
                    raise
                try:
                    self._begin_session(error.facts)
                    has_begun = True
                except NotSent:
                    if time.monotonic() >= give_up_at:
                        raise
                continue
            except NotSent:
                if time.monotonic() >= give_up_at:
                    raise
            except Standby as standby:
                if time.monotonic() >= give_up_at:
                    raise
                self._go_to(standby.leader)
                time.sleep(_STANDBY_PAUSE)
            except ConnectionLost:
                if time.monotonic() >= max(give_up_at, until) or method not in REPEATABLE and method != "send":
                    raise
                if method == "lock.lock":
                    # The repeated call keeps its place in the line.
                    params["waitingSince"] = waiting_since
            time.sleep(0.01)

    def _go_to(self, leader: Optional[str]) -> None:
        """Leaves a hub that is a standby. The next connection goes to the hub that leads."""
        with self._connecting:
            self._leader = leader
            link = self._link
        if link is not None:
            link.close()

    def _begin_session(self, agent: Dict[str, Any]) -> None:
        """Makes the agent above this process a peer."""
        named = {"agent": agent["agent"], "shortName": agent["shortName"]}
        named["name"] = os.environ.get("SLM_MESH_NAME") or None
        self._connected().call("session.begin", {**named, **paths.location()}, self.timeout)

    def _refuse_in_call(self) -> None:
        """Refuses to be used by a signal handler that interrupts a call."""
        link = self._link
        if link is not None and self._pid == os.getpid():
            link.refuse_in_call()

    def _notify(self, method: str, params: Dict[str, Any]) -> None:
        """Sends a call without waiting for its answer, if there is a connection."""
        link = self._link
        if link is not None:
            link.notify(method, {**params, **self._acting})

    def _connected(self, start: Optional[bool] = None) -> RpcConnection:
        self._forget_parent()
        link = self._link
        if link is not None and link.lost is None:
            return link
        with self._connecting:
            if self._closed:
                raise Unavailable("this Mesh is closed")
            if self._link is None or self._link.lost is not None:
                self._link = self._open(self._start if start is None else start)
            return self._link

    def _open(self, start: bool) -> RpcConnection:
        """Opens a new connection and attaches again as the same peer, at the hub that leads."""
        give_up_at = time.monotonic() + _RETRY_SECONDS
        while True:
            link = self._open_link(start)
            try:
                if self._attach_params is not None:
                    before = {"id": self._you["id"]} if self._you else {}
                    self._you = link.call("attach", {**self._attach_params, **before}, self.timeout)["you"]
                break
            except Standby as standby:
                link.close()
                if time.monotonic() >= give_up_at:
                    raise
                self._leader = standby.leader
                time.sleep(_STANDBY_PAUSE)
            except (NotSent, ConnectionLost) as lost:
                # The broker has just ended. Attaching is safe to repeat, so try again.
                if time.monotonic() >= give_up_at:
                    raise Unavailable(f"the broker of {self.data_dir} ends again and again ({lost})") from lost
                time.sleep(0.01)
        if self._attach_params is not None or self._keeper is not None:
            link.watch(self._wake_keeper)
            self._start_keeper()
        return link

    def _open_link(self, start: bool) -> RpcConnection:
        """Connects to the hub of a guest, to the hub that leads instead of this one, or to this machine's broker."""
        try:
            if endpoint.is_remote(self.data_dir):
                return RpcConnection(endpoint.connect_remote(self.data_dir))
            if self._leader is not None:
                try:
                    return RpcConnection(endpoint.connect_remote(self.data_dir, self._leader))
                except Unavailable:
                    self._leader = None  # Ask the broker of this machine which hub leads now.
            return self._open_local(start)
        except OSError as error:
            raise Unavailable(f"the broker of {self.data_dir} cannot be reached ({error})") from error

    def _open_local(self, start: bool) -> RpcConnection:
        n_starts = 0
        while True:
            try:
                return RpcConnection(endpoint.connect_local(self.data_dir), is_local=True)
            except _ABSENT as error:
                if n_starts == _STARTS_MAX:
                    raise
                if not start:
                    raise Unavailable(f"no broker is running for {self.data_dir}") from error
            # If this starts a second broker, somebody has stopped the first one at once.
            paths.start_broker(self.data_dir)
            n_starts += 1

    # In the background: renewing locks and reconnecting

    def _start_keeper(self) -> None:
        """Starts a thread that renews locks and reconnects until this object is closed."""
        self._forget_parent()
        with self._changed:
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._run_keeper, name="slm-mesh keeper", daemon=True)
                self._keeper.start()
        link = self._link
        if link is not None:
            link.watch(self._wake_keeper)

    def _wake_keeper(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run_keeper(self) -> None:
        pause = 0.0
        while True:
            with self._changed:
                if self._closed:
                    return
                if not (self._must_reconnect() and pause == 0.0):
                    due = min((held._due() for held in self._held), default=math.inf)
                    sleep = pause if self._must_reconnect() else due - time.monotonic()
                    if sleep > 0:
                        self._changed.wait(None if sleep == math.inf else min(sleep, 60.0))
                if self._closed:
                    return
                held_now = list(self._held)
            if self._must_reconnect():
                pause = 0.0 if self._reconnect() else min(max(2 * pause, 0.1), _PAUSE_MAX)
                due_now = held_now if pause == 0.0 else []
            else:
                pause = 0.0
                due_now = [held for held in held_now if held._due() <= time.monotonic()]
            for held in due_now:
                self._renew(held)

    def _must_reconnect(self) -> bool:
        """Whether the connection is lost although a peer or a lock depends on it."""
        link = self._link
        return link is not None and link.lost is not None and (self._attach_params is not None or bool(self._held))

    def _reconnect(self) -> bool:
        link = self._link
        try:
            # A broker that somebody stopped on purpose stays stopped until the next call.
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
            self._forget(held)

    def _keep(self, held: Held) -> None:
        with self._changed:
            self._held.append(held)
            self._changed.notify_all()

    def _forget(self, held: Held) -> None:
        with self._changed:
            self._held = [other for other in self._held if other is not held]
