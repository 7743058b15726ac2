"""The values that the mesh returns: plain frozen dataclasses.

The first half has exactly the fields that slm-mesh 1.x has. The second half, which :class:`slm_mesh.Mesh`
returns, adds more fields.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, Type

Row = Dict[str, Any]


def _either(data: Row, camel: str, snake: str, default: Any) -> Any:
    """A field under its name on the wire or its name here."""
    return data.get(camel, data.get(snake, default))


@dataclass(frozen=True)
class PeerStats:
    """Counts of peers."""

    active: int = 0
    stale: int = 0
    total: int = 0


@dataclass(frozen=True)
class MessageStats:
    """Counts of messages."""

    total: int = 0
    undelivered: int = 0


@dataclass(frozen=True)
class BrokerStatus:
    """The status of the broker."""

    status: str = ""
    version: str = ""
    uptime: int = 0
    pid: int = 0
    port: int = 0
    peers: PeerStats = field(default_factory=PeerStats)
    messages: MessageStats = field(default_factory=MessageStats)
    locks_active: int = 0
    events_total: int = 0

    @classmethod
    def from_dict(cls, data: Row) -> BrokerStatus:
        """From the broker's JSON."""
        peers, messages = data.get("peers") or {}, data.get("messages") or {}
        return cls(
            status=data.get("status", ""),
            version=data.get("version", ""),
            uptime=data.get("uptime", 0),
            pid=data.get("pid", 0),
            port=data.get("port", 0),
            peers=PeerStats(peers.get("active", 0), peers.get("stale", 0), peers.get("total", 0)),
            messages=MessageStats(messages.get("total", 0), messages.get("undelivered", 0)),
            locks_active=(data.get("locks") or {}).get("active", 0),
            events_total=(data.get("events") or {}).get("total", 0),
        )


@dataclass(frozen=True)
class Peer:
    """An agent, a script or the human."""

    id: str
    name: str
    pid: int = 0
    project_path: str = ""
    git_root: Optional[str] = None
    git_branch: Optional[str] = None
    agent_type: str = "unknown"
    summary: str = ""
    uds_path: Optional[str] = None
    started_at: str = ""
    last_heartbeat: str = ""
    status: str = "active"

    @classmethod
    def from_dict(cls, data: Row) -> Peer:
        """From the broker's JSON."""
        return cls(**_peer_fields(data))


def _peer_fields(data: Row) -> Row:
    return {
        "id": data.get("id", ""),
        "name": data.get("name", ""),
        "pid": data.get("pid", 0),
        "project_path": _either(data, "projectPath", "project_path", ""),
        "git_root": _either(data, "gitRoot", "git_root", None),
        "git_branch": _either(data, "gitBranch", "git_branch", None),
        "agent_type": _either(data, "agentType", "agent_type", "unknown"),
        "summary": data.get("summary", ""),
        "uds_path": _either(data, "udsPath", "uds_path", None),
        "started_at": _either(data, "startedAt", "started_at", ""),
        "last_heartbeat": _either(data, "lastHeartbeat", "last_heartbeat", ""),
        "status": data.get("status", "active"),
    }


@dataclass(frozen=True)
class Message:
    """A message as slm-mesh 1.x shows it."""

    id: str
    from_peer: str
    to_peer: Optional[str]
    msg_type: str = "text"
    payload: str = ""
    created_at: str = ""
    read_at: Optional[str] = None
    delivered: bool = False

    @classmethod
    def from_dict(cls, data: Row) -> Message:
        """From the broker's JSON."""
        return cls(**_message_fields(data))


def _message_fields(data: Row) -> Row:
    return {
        "id": data.get("id", ""),
        "from_peer": _either(data, "fromPeer", "from_peer", ""),
        "to_peer": _either(data, "toPeer", "to_peer", None),
        "msg_type": _either(data, "type", "msg_type", "text"),
        "payload": data.get("payload", ""),
        "created_at": _either(data, "createdAt", "created_at", ""),
        "read_at": _either(data, "readAt", "read_at", None),
        "delivered": bool(data.get("delivered", False)),
    }


@dataclass(frozen=True)
class StateEntry:
    """An entry of the shared state as slm-mesh 1.x shows it."""

    key: str
    value: str
    namespace: str = "default"
    updated_by: str = ""
    updated_at: str = ""

    @classmethod
    def from_dict(cls, data: Row) -> StateEntry:
        """From the broker's JSON."""
        return cls(**_entry_fields(data))


def _entry_fields(data: Row) -> Row:
    return {
        "key": data.get("key", ""),
        "value": data.get("value", ""),
        "namespace": data.get("namespace", "default"),
        "updated_by": _either(data, "updatedBy", "updated_by", ""),
        "updated_at": _either(data, "updatedAt", "updated_at", ""),
    }


@dataclass(frozen=True)
class Lock:
    """A lock as slm-mesh 1.x shows it. The ``with`` of a lock from :meth:`SLMMeshClient.lock` releases the lock."""

    file_path: str
    locked_by: str
    locked_at: str = ""
    expires_at: str = ""
    reason: str = ""

    @classmethod
    def from_dict(cls, data: Row) -> Lock:
        """From the broker's JSON."""
        return cls(**_lock_fields(data))

    def _release_with(self, give_back: Callable[[], None]) -> Lock:
        """Lets the end of a ``with`` call ``give_back``, which is no field, because it says nothing about the lock."""
        object.__setattr__(self, "_give_back", give_back)
        return self

    def __getstate__(self) -> Row:
        return {name: value for name, value in vars(self).items() if name != "_give_back"}

    def __enter__(self) -> Lock:
        if not self.file_path:
            from .errors import LockedError

            raise LockedError("the file is locked by somebody else")
        if vars(self).get("_give_back", "") is None:
            from .errors import LockLost

            raise LockLost(f"{self.file_path} was already released; lock it again")
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        give_back: Optional[Callable[[], None]] = vars(self).get("_give_back")
        if give_back is not None:
            object.__setattr__(self, "_give_back", None)
            give_back()


def _lock_fields(data: Row) -> Row:
    return {
        "file_path": _either(data, "filePath", "file_path", ""),
        "locked_by": _either(data, "lockedBy", "locked_by", ""),
        "locked_at": _either(data, "lockedAt", "locked_at", ""),
        "expires_at": _either(data, "expiresAt", "expires_at", ""),
        "reason": data.get("reason", ""),
    }


@dataclass(frozen=True)
class MeshEvent:
    """An event as slm-mesh 1.x shows it; the payload is JSON text."""

    id: str
    event_type: str
    payload: str = "{}"
    emitted_by: str = ""
    created_at: str = ""

    @classmethod
    def from_dict(cls, data: Row) -> MeshEvent:
        """From the broker's JSON."""
        return cls(**_event_fields(data))


def _event_fields(data: Row) -> Row:
    payload = data.get("payload", "{}")
    return {
        "id": data.get("id", ""),
        "event_type": _either(data, "type", "event_type", ""),
        "payload": payload if isinstance(payload, str) else json.dumps(payload),
        "emitted_by": _either(data, "emittedBy", "emitted_by", ""),
        "created_at": _either(data, "createdAt", "created_at", ""),
    }


@dataclass(frozen=True)
class PeerInfo(Peer):
    """A peer as the mesh knows it."""

    kind: str = ""
    """``session``, ``http`` or ``human``; set only by :meth:`Mesh.whoami`."""
    host: str = ""
    unread: int = 0
    idle_seconds: int = 0
    locks: List[str] = field(default_factory=list)

    @classmethod
    def from_dict(cls, data: Row) -> PeerInfo:
        """From the broker's JSON."""
        return cls(
            **_peer_fields(data),
            kind=data.get("kind", ""),
            host=data.get("host", ""),
            unread=data.get("unread", 0),
            idle_seconds=data.get("idleSeconds", 0),
            locks=list(data.get("locks", [])),
        )


@dataclass(frozen=True)
class Mail(Message):
    """A message with its sender, its recipient and its receipt."""

    seq: int = 0
    """The sequence number of the message, a cursor for :meth:`Mesh.history`."""
    from_name: str = ""
    to_name: str = ""
    receipt: str = ""
    """``accepted``, ``offered``, ``read``, ``acked``, ``expired``, or on another mesh ``forwarded`` or ``refused``,
    as it was when the message was fetched."""
    group: Optional[str] = None
    reply_to: Optional[str] = None
    thread: Optional[str] = None
    """The id of the first message of the conversation, if this message is a reply."""
    redelivered: bool = False
    """Whether the message was offered before, but not read."""
    whole: bool = True
    """False if the payload is only a part of a long message."""
    offered_at: Optional[str] = None
    acked_at: Optional[str] = None
    copies: int = 1
    """How many peers got the message, if :meth:`Mesh.log` shows a message to a group once."""

    @classmethod
    def from_dict(cls, data: Row) -> Mail:
        """From the broker's JSON."""
        return cls(
            **_message_fields(data),
            seq=data.get("seq", 0),
            from_name=data.get("fromName", ""),
            to_name=data.get("toName", ""),
            receipt=data.get("receipt", ""),
            group=data.get("group"),
            reply_to=data.get("replyTo"),
            thread=data.get("thread"),
            redelivered=data.get("redelivered", False),
            whole=data.get("parts", 1) == 1,
            offered_at=data.get("offeredAt"),
            acked_at=data.get("ackedAt"),
            copies=data.get("copies", 1),
        )


@dataclass(frozen=True)
class Channel:
    """A channel."""

    name: str
    """The name of the channel, with ``#``."""
    members: List[str] = field(default_factory=list)
    """The names of the first members."""
    count: int = 0
    joined: bool = False
    """Whether you are a member."""
    unread: int = 0
    """The number of your unread messages from the channel."""

    @classmethod
    def from_dict(cls, data: Row) -> Channel:
        """From the broker's JSON."""
        names = ("name", "members", "count", "joined", "unread")
        return cls(**{name: data[name] for name in names if name in data})


@dataclass(frozen=True)
class Recipient:
    """A recipient of a message."""

    id: str
    name: str
    here: bool
    receipt: str


@dataclass(frozen=True)
class Sent:
    """The receipt for a sent message, of which each recipient has a copy."""

    ids: List[str]
    recipients: List[Recipient]
    repeated: bool = False
    """Whether a message with the same ``key`` was sent before. If so, this is the receipt of that message."""
    seq: int = 0

    @property
    def id(self) -> str:
        """The id of the message, or of its first copy if it went to a group; empty if it had no recipient."""
        return self.ids[0] if self.ids else ""

    @classmethod
    def from_dict(cls, data: Row) -> Sent:
        """From the broker's JSON."""
        ids = data["messageIds"] if "messageIds" in data else [data["messageId"]]
        recipients = [Recipient(to["id"], to["name"], to["here"], to["receipt"]) for to in data["recipients"]]
        return cls(list(ids), recipients, data.get("repeated", False), data.get("seq", 0))


@dataclass(frozen=True)
class Entry(StateEntry):
    """An entry of the shared state, with its version."""

    version: int = 0
    updated_by_name: str = ""
    expires_at: Optional[str] = None

    @classmethod
    def from_dict(cls, data: Row) -> Entry:
        """From the broker's JSON."""
        return cls(
            **_entry_fields(data),
            version=data.get("version", 0),
            updated_by_name=data.get("updatedByName", ""),
            expires_at=data.get("expiresAt"),
        )


@dataclass(frozen=True)
class LockInfo(Lock):
    """An active lock and the peers waiting for it."""

    token: int = 0
    holder: str = ""
    expires_in: int = 0
    scope: str = "machine"
    queue: List[str] = field(default_factory=list)

    @classmethod
    def from_dict(cls, data: Row) -> LockInfo:
        """From the broker's JSON."""
        return cls(
            **_lock_fields(data),
            token=data.get("token", 0),
            holder=data.get("holder", ""),
            expires_in=data.get("expiresInSeconds", 0),
            scope=data.get("scope", "machine"),
            queue=list(data.get("queue", [])),
        )


@dataclass(frozen=True)
class Event(MeshEvent):
    """An event with its sequence number."""

    seq: int = 0
    """The cursor: pass it to :meth:`Mesh.follow` as ``after`` to continue after this event."""
    emitted_by_name: str = ""

    @property
    def data(self) -> Any:
        """The payload, parsed."""
        return json.loads(self.payload)

    @classmethod
    def from_dict(cls, data: Row) -> Event:
        """From the broker's JSON."""
        return cls(**_event_fields(data), seq=data.get("seq", 0), emitted_by_name=data.get("emittedByName", ""))
