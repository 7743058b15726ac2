"""Lets scripts join a mesh of coding agents: find them, send messages, share state, lock files.

:class:`Mesh` connects to the broker over its Unix socket. :class:`SLMMeshClient` is the client of slm-mesh
1.x over HTTP, for programs that already use it.
"""

from .client import SLMMeshClient
from .errors import (
    Ambiguous,
    ConnectionLost,
    EventGap,
    Full,
    LockedError,
    LockLost,
    MeshError,
    NotFound,
    RateLimited,
    Refused,
    SLMMeshError,
    Standby,
    StorageError,
    TimedOut,
    Unavailable,
    UsageError,
    VersionConflict,
)
from .follow import Follow
from .held import Held
from .mesh import Mesh
from .paths import start_broker
from .types import (
    BrokerStatus,
    Channel,
    Entry,
    Event,
    Lock,
    LockInfo,
    Mail,
    MeshEvent,
    Message,
    MessageStats,
    Peer,
    PeerInfo,
    PeerStats,
    Recipient,
    Sent,
    StateEntry,
)

__version__ = "2.0.0"

__all__ = [
    "Ambiguous", "BrokerStatus", "Channel", "ConnectionLost", "Entry", "Event", "EventGap", "Follow", "Full",
    "Held", "Lock", "LockInfo", "LockLost", "LockedError", "Mail", "Mesh", "MeshError", "MeshEvent", "Message",
    "MessageStats", "NotFound", "Peer", "PeerInfo", "PeerStats", "RateLimited", "Recipient", "Refused",
    "SLMMeshClient", "SLMMeshError", "Sent", "Standby", "StateEntry", "StorageError", "TimedOut", "Unavailable",
    "UsageError", "VersionConflict", "start_broker",
]
