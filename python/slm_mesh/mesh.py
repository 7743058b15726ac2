"""The mesh from Python, over the broker's Unix socket."""

from __future__ import annotations

import math
import os
import secrets
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Union

from . import paths
from .connection import WAIT_MAX, Connection
from .errors import LockedError, TimedOut
from .follow import Follow
from .held import Held
from .paths import StrPath
from .types import BrokerStatus, Channel, Entry, Event, LockInfo, Mail, PeerInfo, Sent

_WAIT_STEP = 300.0


def _location() -> Dict[str, Optional[str]]:
    """Where this process runs: the human, unlike a session, may call from any directory."""
    here = paths.location()
    return {"project": here["project"], "repo": here.get("repo")}


class Mesh(Connection):
    """A connection to this user's mesh. It starts the broker if none is running, and reconnects when the
    connection breaks. Any thread may use it.

    With a ``name``, it is a peer of its own, which others see and can write to, until :meth:`close`.
    Without a name, it acts as the peer in ``acting`` or ``$SLM_MESH_PEER``, or else as whoever runs it: as the agent
    in an agent's shell, and as the human in any other shell. It recognises an agent's shell as the verbs do, also by
    ``$SLM_MESH_SESSION`` and ``$AI_AGENT``.

    >>> with Mesh(name="builder") as mesh:
    ...     mesh.name
    'builder'
    """

    # Peers

    def whoami(self) -> PeerInfo:
        """The peer as which you act."""
        answer = self._call("whoami", {})
        return PeerInfo.from_dict({**answer["you"], "kind": answer["kind"]})

    def decline(self) -> str:
        """Give back the name and the mail that you took over from an earlier session; return your new name."""
        you = self._call("peer.decline", {})["you"]
        if self._you:
            self._you = you
        return you["name"]

    @property
    def id(self) -> str:
        """Your id."""
        return self._you["id"] if self._you else self.whoami().id

    @property
    def name(self) -> str:
        """Your name. If another peer already uses the name, yours gets a number: ``builder-2``."""
        return self._you["name"] if self._you else self.whoami().name

    def peers(self, scope: str = "machine", *, away: bool = False) -> List[PeerInfo]:
        """The other peers: on the ``machine``, or in the same ``directory`` or ``repo``; with ``away`` also
        offline peers, whose mailboxes still accept mail."""
        params: Dict[str, Any] = {"scope": scope, "includeAway": away, "whoami": True}
        if scope != "machine":
            params.update(_location())
        return [PeerInfo.from_dict(row) for row in self._pages("peers", params, "peers")]

    def set_summary(self, summary: str) -> None:
        """Tells the other peers what you are working on, in a line."""
        self._call("summary", {"summary": summary})

    def status(self) -> BrokerStatus:
        """The status of the broker."""
        return BrokerStatus.from_dict(self._call("status", {}))

    # Messages

    def send(
        self,
        to: str,
        message: str,
        *,
        type: str = "text",
        reply_to: Union[Mail, str, None] = None,
        key: Optional[str] = None,
        expires_minutes: Optional[int] = None,
        without_people: bool = False,
    ) -> Sent:
        """Sends a message to a peer (name, id or unique prefix), to ``human``, or to a group: ``repo``,
        ``directory``, ``agent:TYPE``, ``all`` or a channel such as ``#api``. A second call with the same ``key`` sends
        nothing, and returns the first receipt. With ``without_people``, people get no copy of a message to ``all``.

        >>> sent = Mesh().send("human", "the build is green")
        >>> [(to.receipt, to.here) for to in sent.recipients]
        [('accepted', False)]
        """
        answered = reply_to.id if isinstance(reply_to, Mail) else reply_to
        # With a key, sending is safe to repeat if the answer is lost.
        params = {"to": to, "message": message, "type": type, "replyTo": answered, "expiresMinutes": expires_minutes}
        if without_people:
            params["withoutPeople"] = True
        if to in ("repo", "directory"):
            params.update(_location())
        return Sent.from_dict(self._call("send", {**params, "key": key or f"auto-{secrets.token_hex(16)}"}))

    def broadcast(self, message: str, *, type: str = "text") -> Sent:
        """Sends a message to every online peer and to the human."""
        return self.send("all", message, type=type)

    def inbox(self, limit: int = 20, *, from_peer: Optional[str] = None) -> List[Mail]:
        """The unread messages, oldest first. They count as read when this method returns. If the script may fail
        before it has handled them, use :meth:`messages`."""
        found = self._unread(limit, 0.0, from_peer)
        self._mark_read(found)
        return found

    def wait_for_message(self, wait: Optional[float] = None, *, from_peer: Optional[str] = None) -> Mail:
        """The oldest unread message. If there is none, this waits for one, for at most ``wait`` seconds (None:
        forever). The message counts as read when this method returns.

        :raises TimedOut: no message arrived.
        """
        for mail in self._arriving(wait, from_peer):
            self._mark_read([mail])
            return mail
        raise TimedOut(f"no message arrived in {wait:g} s")

    def messages(self, wait: Optional[float] = None, *, from_peer: Optional[str] = None) -> Iterator[Mail]:
        """The unread messages, then new ones as they arrive, until none arrives for ``wait`` seconds. Each
        counts as read when the next one is requested. If the loop is left early, its last message is offered again.

        >>> with Mesh(name="sorter") as mesh:
        ...     sent = mesh.send("sorter", "to myself")
        ...     [mail.payload for mail in mesh.messages(wait=0)]
        ['to myself']
        """
        for mail in self._arriving(wait, from_peer):
            yield mail
            self._mark_read([mail])

    def ack(self, *messages: Union[Mail, str]) -> None:
        """Acknowledges messages to their senders. An answer with ``reply_to`` also acknowledges its message."""
        ids = [message.id if isinstance(message, Mail) else message for message in messages]
        self._call("inbox", {"filter": "all", "limit": 1, "ack": ids})

    def history(self, limit: int = 20, *, after: Optional[int] = None, from_peer: Optional[str] = None) -> List[Mail]:
        """Messages to you, read or not: the latest, or those after the sequence number ``after``. A long
        message is cut to its first part (``whole`` is false)."""
        params = {"filter": "all", "limit": limit, "after": after, "from": from_peer}
        return [Mail.from_dict(row) for row in self._call("inbox", params)["messages"]]

    def sent(self, limit: int = 20, *, after: Optional[int] = None, to: Optional[str] = None) -> List[Mail]:
        """Messages from you, with their receipts."""
        params = {"filter": "sent", "limit": limit, "after": after, "from": to}
        return [Mail.from_dict(row) for row in self._call("inbox", params)["messages"]]

    def log(
        self,
        limit: int = 50,
        *,
        with_peer: Optional[str] = None,
        thread: Union[Mail, str, None] = None,
        search: Optional[str] = None,
        grep: Optional[str] = None,
        since: Optional[str] = None,
    ) -> List[Mail]:
        """The messages on the mesh, the latest last. The human gets all messages, or, on a guest, those of the peers
        on the machine; an agent gets those that it sent or received. ``with_peer`` keeps only messages from or to
        that peer, ``thread`` only a message and the replies to it, ``search`` only messages with all of these words,
        and ``grep`` only messages with exactly this text. ``since`` keeps only messages after a time, or of the last
        ``"2h"``, for example. A message to a group is listed once, with the number of its ``copies``. No message is
        marked as read.

        >>> with Mesh(name="eve") as eve, Mesh(name="dan") as dan:
        ...     sent = eve.send("dan", "the Parser is done")
        ...     [(mail.from_name, mail.receipt) for mail in dan.log(search="done parser")]
        [('eve', 'accepted')]
        """
        params = {"with": with_peer, "search": search, "grep": grep, "since": since}
        params["thread"] = thread.id if isinstance(thread, Mail) else thread
        found: List[Mail] = []
        before: Optional[int] = None
        while len(found) < limit:
            page = self._call("log", {**params, "limit": limit - len(found), "before": before})
            found = [Mail.from_dict(row) for row in page["messages"]] + found
            before = page["before"]
            if not page["more"]:
                break
        return found

    def receipts(self, sent: Union[Sent, str]) -> List[Mail]:
        """The receipts of a message, one per recipient: see ``receipt`` and ``acked_at``.

        >>> with Mesh(name="ann") as ann, Mesh(name="bob") as bob:
        ...     sent = ann.send("bob", "are you there?")
        ...     bob.ack(bob.wait_for_message(10))
        ...     [(mail.to_name, mail.receipt) for mail in ann.receipts(sent)]
        [('bob', 'acked')]
        """
        wanted = {sent} if isinstance(sent, str) else set(sent.ids)
        after = sent.seq - 1 if isinstance(sent, Sent) and sent.seq else None
        found: List[Mail] = []
        while len(found) < len(wanted):
            page = self.sent(100, after=after)
            found += [mail for mail in page if mail.id in wanted and mail not in found]
            if after is not None and not page:
                break
            # The first page contains the latest messages, because most callers ask soon after sending. If it does not
            # contain all receipts, all pages are read from the start.
            after = 0 if after is None else page[-1].seq
        return found

    # Channels

    def join(self, channel: str) -> Channel:
        """Joins a channel, so that messages to it reach you until you leave it or your session ends.

        >>> with Mesh(name="fay") as fay, Mesh(name="gil") as gil:
        ...     channel = gil.join("#api")
        ...     sent = fay.send("#api", "v2 is out")
        ...     [(mail.group, mail.payload) for mail in gil.inbox()]
        [('#api', 'v2 is out')]
        """
        return Channel.from_dict(self._call("channel.join", {"channel": channel})["channel"])

    def leave(self, channel: str) -> bool:
        """Leaves a channel; returns False if you were not in it."""
        return bool(self._call("channel.leave", {"channel": channel})["left"])

    def channels(self) -> List[Channel]:
        """The channels with their members, and your unread messages in each."""
        return [Channel.from_dict(row) for row in self._pages("channel.list", {}, "channels")]

    # Shared state

    def state_get(self, key: str, namespace: str = "default") -> Optional[Entry]:
        """An entry of the shared state, or None."""
        row = self._call("state.get", {"key": key, "namespace": namespace})["entry"]
        return None if row is None else Entry.from_dict(row)

    def state_set(
        self,
        key: str,
        value: str,
        *,
        namespace: str = "default",
        expect: Optional[int] = None,
        ttl_minutes: Optional[int] = None,
    ) -> Entry:
        """Sets an entry. With ``expect``, sets it only if this is its current version (0: only if it does not exist).

        >>> mesh = Mesh()
        >>> entry = mesh.state_set("port", "8080")
        >>> entry = mesh.state_set("port", "8081", expect=entry.version)
        >>> mesh.state_set("port", "9090", expect=entry.version - 1)
        Traceback (most recent call last):
        ...
        slm_mesh.errors.VersionConflict: port has version 2 ...

        :raises VersionConflict: the entry has another version, which is in the exception.
        :raises ConnectionLost: the answer was lost, so it is unknown whether the entry was set.
        """
        params = {"key": key, "value": value, "namespace": namespace, "expect": expect, "ttlMinutes": ttl_minutes}
        row = self._call("state.set", params)["entry"]
        # The broker does not return a long value.
        return Entry.from_dict({**row, "value": value})

    def state_delete(self, key: str, namespace: str = "default", *, expect: Optional[int] = None) -> bool:
        """Deletes an entry; returns False if there was none."""
        return bool(self._call("state.delete", {"key": key, "namespace": namespace, "expect": expect})["deleted"])

    def state_list(self, namespace: str = "default", *, prefix: str = "") -> List[Entry]:
        """The entries of a namespace, sorted by key."""
        found: List[Entry] = []
        for row in self._pages("state.list", {"namespace": namespace, "prefix": prefix}, "entries"):
            # A value that is too long for the list is fetched separately. The entry may be gone by then.
            entry = self.state_get(row["key"], namespace) if row["value"] is None else Entry.from_dict(row)
            found += [entry] if entry is not None else []
        return found

    # Locks

    def lock(
        self,
        file_path: Union[StrPath, Sequence[StrPath]],
        *,
        reason: str = "",
        ttl_minutes: Optional[int] = None,
        wait: Optional[float] = 0,
        scope: str = "machine",
    ) -> Held:
        """Locks a file, a folder (``src/``), a glob (``src/**``), or several of these at once (all of them or none).

        If another peer has locked one of them, this waits in line for ``wait`` seconds (None: forever). The lock is
        renewed while it is held. It is released at the end of the ``with`` (even after an error), by
        ``release()``, or at the latest when this process ends. Two locks of one script exclude each other.

        >>> mesh = Mesh()
        >>> with mesh.lock("src/a.py", reason="renaming", wait=30) as held:
        ...     held.lost is None and held.token > 0
        True

        :raises LockedError: another peer holds the lock; see ``holder``, ``reason``, ``expires_in`` and ``queue``.
        :raises LockLost: at the end of the ``with``, if the lock was lost in between.
        """
        given = [file_path] if isinstance(file_path, (str, os.PathLike)) else list(file_path)
        facts = paths.location()
        request: Dict[str, Any] = {
            "filePaths": sorted({paths.absolute(path) for path in given}), "reason": reason, "scope": scope,
            "command": secrets.token_hex(16), "renew": True, "repo": facts.get("repo"), "gitRoot": facts.get("gitRoot"),
        }
        if ttl_minutes is not None:
            request["ttlMinutes"] = ttl_minutes
        until = None if wait is None else time.monotonic() + wait
        # The background thread is started before the lock is granted, so that the end of the lock is noticed in any
        # case.
        self._start_keeper()
        while True:
            left = WAIT_MAX if until is None else until - time.monotonic()
            try:
                return self._hold(request, max(left, 0.0))
            except LockedError:
                # One call waits at most an hour, so a longer wait needs several calls.
                if left < WAIT_MAX or until is not None and time.monotonic() >= until:
                    raise
            time.sleep(0.05)

    def _hold(self, request: Dict[str, Any], wait: float) -> Held:
        """Takes a lock, and has it renewed."""
        asked_at = time.monotonic()
        held: Optional[Held] = None
        try:
            answer = self._call("lock.lock", request, wait=wait)
            # The lease starts when the lock is granted. If the call may have waited, the lock may have been granted
            # just now.
            held = Held(self, request, answer, time.monotonic() if wait > 0 else asked_at)
            self._keep(held)
            return held
        except LockedError:
            raise
        except BaseException:
            # The call took too long, or a signal handler ended it. The lock may have been granted at this moment, and
            # nothing else would release it.
            if held is not None:
                self._forget(held)
            self._notify("lock.unlock", {"filePaths": request["filePaths"], "command": request["command"]})
            raise

    def unlock(self, *file_paths: StrPath) -> None:
        """Releases locks that belong to the peer itself, such as those that ``slm-mesh lock`` takes. A lock from
        :meth:`lock` is released through the object that :meth:`lock` returned."""
        self._call("lock.unlock", {"filePaths": [paths.absolute(path) for path in file_paths]})

    def locks(self, *file_paths: StrPath) -> List[LockInfo]:
        """The active locks, or only those that cover these files, with the peers that wait for each lock."""
        params = {"filePaths": [paths.absolute(path) for path in file_paths]}
        return [LockInfo.from_dict(row) for row in self._pages("lock.query", params, "locks")]

    # Events

    def events(
        self, types: Optional[Sequence[str]] = None, since: Optional[str] = None, limit: int = 50, *,
        after: Optional[int] = None,
    ) -> List[Event]:
        """Events, oldest first: the latest, or those after a time or a cursor (``seq``)."""
        params = {"types": list(types or []), "since": since, "limit": limit, "after": after}
        return [Event.from_dict(row) for row in self._call("events.read", params)["events"]]

    def follow(
        self, after: Optional[int] = None, types: Optional[Sequence[str]] = None, *, wait: Optional[float] = None
    ) -> Follow:
        """Iterates over the events after the cursor, or from now on, until none arrives for ``wait`` seconds.

        >>> mesh = Mesh()
        >>> events = mesh.follow(types=["deploy.done"], wait=5)
        >>> seq = mesh.emit("deploy.done", {"version": 7})
        >>> event = next(events)
        >>> event.data, event.seq == events.cursor == seq
        ({'version': 7}, True)
        """
        if after is None:
            after = int(self._call("events.read", {"limit": 1})["seq"])
        return Follow(self, after, list(types or []), wait)

    def emit(self, type: str, payload: Optional[Mapping[str, Any]] = None) -> int:
        """Publishes an event, whose type must contain a dot; returns its sequence number."""
        # If the payload is not a mapping, the broker refuses it and says why.
        data = dict(payload) if isinstance(payload, Mapping) else payload
        return int(self._call("events.emit", {"type": type, "payload": {} if data is None else data})["seq"])

    # Lists and mail

    def _pages(self, method: str, params: Mapping[str, Any], rows: str) -> Iterator[Dict[str, Any]]:
        """The rows of a list, from all of its pages."""
        after: Optional[str] = None
        while True:
            answer = self._call(method, {**params, "after": after})
            yield from answer[rows]
            after = answer.get("next")
            if after is None:
                return

    def _arriving(self, wait: Optional[float], from_peer: Optional[str]) -> Iterator[Mail]:
        """Unread messages one by one; each is repeated until it is marked as read."""
        while True:
            until = math.inf if wait is None else time.monotonic() + wait
            found: List[Mail] = []
            while not found:
                left = min(until - time.monotonic(), _WAIT_STEP)
                found = self._unread(1, max(left, 0.0), from_peer)
                if not found and time.monotonic() >= until:
                    return
            yield found[0]

    def _unread(self, limit: int, wait: float, from_peer: Optional[str]) -> List[Mail]:
        answer = self._call("inbox", {"limit": limit, "from": from_peer}, wait=wait)
        return [self._whole(row) for row in answer["messages"]]

    def _whole(self, row: Dict[str, Any]) -> Mail:
        """A message with all its parts, of which a row of the inbox has only one. The parts come from the log, because
        the inbox sends the next part only after this part counts as read, and a loop may still break."""
        if row.get("parts", 1) > 1:
            found = self._call("log", {"after": row["seq"] - 1, "limit": 1})["messages"]
            if found and found[0]["id"] == row["id"]:
                row = {**row, "payload": found[0]["payload"], "parts": 1}
        return Mail.from_dict(row)

    def _mark_read(self, mails: List[Mail]) -> None:
        if mails:
            self._call("inbox.mark_read", {"items": [mail.id for mail in mails]})
