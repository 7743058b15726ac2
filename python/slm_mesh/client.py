"""The client of slm-mesh 1.x over HTTP: the same names, arguments, answers and errors.

Every call names the peer that it acts as, and the broker trusts this name because of the bearer token.
:class:`slm_mesh.Mesh` needs neither the name nor the token.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Dict, List, Optional, Union, overload

from .errors import LockedError, SLMMeshError, TimedOut, UsageError, from_status
from .held import Held
from .mesh import Mesh
from .types import BrokerStatus, Lock, MeshEvent, Message, Peer, StateEntry

__all__ = ["SLMMeshClient", "SLMMeshError"]

_NO_TOKEN_FOR = frozenset({"/health"})
_RETRY_SECONDS = 0.25
# Ignores the proxies that the environment names: they can't reach this machine's broker, and must not see the token.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _default_token_path() -> Path:
    """The broker's token file in the data directory."""
    return Path(os.environ.get("SLM_MESH_DATA_DIR") or Path.home() / ".slm-mesh") / "broker.token"


def _read_token(path: Union[str, Path, None] = None) -> Optional[str]:
    """The bearer token, or None if there is no such file."""
    try:
        return Path(path or _default_token_path()).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


class SLMMeshClient:
    """The client of slm-mesh 1.x, which uses the broker's HTTP API.

    >>> client = SLMMeshClient(port=PORT)
    >>> me = client.register(1, "/tmp", name="older")["peerId"]
    >>> client.state_set("answer", "42", me).value
    '42'
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 7899, timeout: int = 5, token_path: Optional[str] = None
    ) -> None:
        self.host = host
        self.port = port
        self.timeout = timeout
        self._base_url = f"http://{host}:{port}"
        self._token_path = token_path
        self._mesh: Optional[Mesh] = None

    @property
    def mesh(self) -> Mesh:
        """The same mesh, over the Unix socket beside the token file. It needs no token, and offers all features."""
        if self._mesh is None:
            self._mesh = Mesh(data_dir=Path(self._token_path or _default_token_path()).parent)
        return self._mesh

    def _request(self, method: str, path: str, body: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        token = None if path in _NO_TOKEN_FOR else _read_token(self._token_path)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            data = None if body is None else json.dumps(body).encode("utf-8")
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"the call can't be written as JSON ({error})") from None
        url = self._base_url + path
        try:
            request = urllib.request.Request(url, data=data, headers=headers, method=method)
            with _OPENER.open(request, timeout=self.timeout) as answer:
                found = json.loads(answer.read().decode("utf-8"))
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from error
        except urllib.error.URLError as error:
            raise from_status(f"Cannot connect to broker at {url}: {error.reason}", 0) from error
        except socket.timeout as error:
            raise TimedOut(f"the broker at {url} did not answer in {self.timeout} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise from_status(f"the broker at {url} gave no complete answer ({error})", 0) from error
        return found if isinstance(found, dict) else {}

    @staticmethod
    def _refusal(error: urllib.error.HTTPError) -> SLMMeshError:
        raw = f"the broker refused with HTTP status {error.code}, and gave no complete reason"
        try:
            raw = error.read().decode("utf-8", "replace")
            body = json.loads(raw)
        except (OSError, http.client.HTTPException, ValueError):
            body = None
        if not isinstance(body, dict):
            return from_status(raw, error.code)
        return from_status(str(body.get("error", raw)), error.code, body)

    def health(self) -> Dict[str, Any]:
        """The health of the broker; needs no token."""
        return self._request("GET", "/health")

    def status(self) -> BrokerStatus:
        """The status of the broker."""
        return BrokerStatus.from_dict(self._request("GET", "/status"))

    def register(
        self, pid: int, project_path: str, agent_type: str = "unknown", name: str = "auto",
        uds_path: Optional[str] = None,
    ) -> Dict[str, Any]:
        """Registers a peer; ``peerId`` in the answer is its id. The peer stays online while it sends heartbeats."""
        body: Dict[str, Any] = {"pid": pid, "projectPath": project_path, "agentType": agent_type, "name": name}
        if uds_path:
            body["udsPath"] = uds_path
        return self._request("POST", "/register", body)

    def unregister(self, peer_id: str) -> Dict[str, Any]:
        """Unregisters a peer."""
        return self._request("POST", "/unregister", {"peerId": peer_id})

    def heartbeat(self, peer_id: str) -> Dict[str, Any]:
        """Keeps a peer online."""
        return self._request("POST", "/heartbeat", {"peerId": peer_id})

    def set_summary(self, peer_id: str, summary: str) -> Dict[str, Any]:
        """Sets what a peer is working on."""
        return self._request("POST", "/summary", {"peerId": peer_id, "summary": summary})

    def peers(self, scope: str = "machine") -> List[Peer]:
        """The online peers."""
        return [Peer.from_dict(row) for row in self._request("POST", "/peers", {"scope": scope}).get("peers", [])]

    def send(self, from_peer: str, to_peer: str, payload: str, msg_type: str = "text") -> str:
        """Sends a message and returns its id, or "" if the broker refused the message."""
        body = {"fromPeer": from_peer, "toPeer": to_peer, "payload": payload, "type": msg_type}
        return str(self._request("POST", "/send", body).get("messageId", ""))

    def broadcast(self, from_peer: str, payload: str, msg_type: str = "text") -> List[str]:
        """Sends a message to all peers and returns the ids."""
        body = {"fromPeer": from_peer, "toPeer": "all", "payload": payload, "type": msg_type}
        return list(self._request("POST", "/send", body).get("messageIds", []))

    def inbox(self, peer_id: str, msg_filter: str = "unread", limit: int = 20) -> List[Message]:
        """A peer's messages, newest first. They are then marked as read."""
        body = {"peerId": peer_id, "filter": msg_filter, "limit": limit}
        return [Message.from_dict(row) for row in self._request("POST", "/messages", body).get("messages", [])]

    def state_get(self, key: str, namespace: str = "default") -> Optional[StateEntry]:
        """An entry of the shared state, or None."""
        row = self._request("POST", "/state", {"action": "get", "key": key, "namespace": namespace}).get("entry")
        return StateEntry.from_dict(row) if row else None

    def state_set(self, key: str, value: str, peer_id: str, namespace: str = "default") -> StateEntry:
        """Sets an entry."""
        body = {"action": "set", "key": key, "value": value, "peerId": peer_id, "namespace": namespace}
        return StateEntry.from_dict(self._request("POST", "/state", body).get("entry", {}))

    def state_list(self, namespace: str = "default") -> List[StateEntry]:
        """The entries of a namespace."""
        rows = self._request("POST", "/state", {"action": "list", "namespace": namespace}).get("entries", [])
        return [StateEntry.from_dict(row) for row in rows]

    def state_delete(self, key: str, namespace: str = "default") -> None:
        """Deletes an entry."""
        self._request("POST", "/state", {"action": "delete", "key": key, "namespace": namespace})

    @overload
    def lock(
        self, file_path: str, peer_id: str, reason: str = "", ttl_minutes: int = 10, *, wait: Optional[float] = 0
    ) -> Lock: ...

    @overload
    def lock(
        self, file_path: str, peer_id: None = None, reason: str = "", ttl_minutes: int = 10, *,
        wait: Optional[float] = 0,
    ) -> Held: ...

    def lock(
        self,
        file_path: str,
        peer_id: Optional[str] = None,
        reason: str = "",
        ttl_minutes: int = 10,
        *,
        wait: Optional[float] = 0,
    ) -> Union[Lock, Held]:
        """Locks a file for a peer. If another peer holds the file, the returned lock is empty, and raises
        :class:`LockedError` in a ``with``. The end of the ``with`` releases the lock. With ``wait``, this method
        retries for that many seconds, and then raises :class:`LockedError`.

        Without ``peer_id``, this calls :meth:`Mesh.lock`, which waits in line and renews the lock.
        """
        if peer_id is None:
            return self.mesh.lock(file_path, reason=reason, ttl_minutes=ttl_minutes, wait=wait)
        body = {"action": "lock", "filePath": file_path, "peerId": peer_id, "reason": reason, "ttlMinutes": ttl_minutes}
        until = None if wait is None else time.monotonic() + wait
        while True:
            answer = self._request("POST", "/lock", body)
            lock = Lock.from_dict(answer.get("lock", {}))
            if lock.file_path:
                return lock._release_with(lambda: self.unlock(file_path, peer_id))
            if wait == 0:
                return lock
            if until is not None and time.monotonic() >= until:
                raise LockedError(str(answer.get("error", f"{file_path} is locked")), 0, answer)
            time.sleep(_RETRY_SECONDS)

    def unlock(self, file_path: str, peer_id: str) -> None:
        """Releases a lock."""
        self._request("POST", "/lock", {"action": "unlock", "filePath": file_path, "peerId": peer_id})

    def locks(self, file_path: Optional[str] = None) -> List[Lock]:
        """The active locks."""
        body: Dict[str, Any] = {"action": "query"}
        if file_path:
            body["filePath"] = file_path
        return [Lock.from_dict(row) for row in self._request("POST", "/lock", body).get("locks", [])]

    def events(
        self, types: Optional[List[str]] = None, since: Optional[str] = None, limit: int = 50
    ) -> List[MeshEvent]:
        """Events, newest first."""
        body: Dict[str, Any] = {"action": "read", "limit": limit}
        if types:
            body["types"] = types
        if since:
            body["since"] = since
        return [MeshEvent.from_dict(row) for row in self._request("POST", "/events", body).get("events", [])]
