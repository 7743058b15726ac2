"""Connects to the broker: over the Unix socket of this machine, or, if the settings name another machine,
through ``slm-mesh pipe``, which handles hubs, their secret and ssh.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import Dict, Optional

from . import paths
from .errors import Unavailable

_PIPE_SECONDS = 40.0
"""How long connecting to another machine may take, in seconds; ssh alone gets 30."""
_PING = b'{"jsonrpc":"2.0","id":0,"method":"ping","params":{}}\n'
_SECRET_MIN = 8


def connect_local(directory: Path) -> socket.socket:
    """Connects to the broker of this machine.

    :raises OSError: no broker is running.
    """
    *others, last = paths.sockets(directory)
    for path in others:
        try:
            return _connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            pass  # The socket may be at the next place.
    return _connect(last)


def _connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(path))
        _check_owner(sock, path)
    except BaseException:
        sock.close()
        raise
    return sock


def _check_owner(sock: socket.socket, path: Path) -> None:
    """Refuses a socket that belongs to another user, who may have created it below /tmp."""
    if hasattr(socket, "SO_PEERCRED"):
        size = struct.calcsize("3i")
        uid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]
    else:
        uid = os.stat(path.parent).st_uid
    if uid != os.getuid():
        raise Unavailable(f"the broker's socket {path} belongs to another user")


def is_remote(directory: Path) -> bool:
    """Whether the mesh may be on another machine, according to the settings of the data directory."""
    found = settings(directory)
    host, role = found.get("SLM_MESH_HOST", ""), found.get("SLM_MESH_ROLE", "auto")
    if not host:
        return len(found.get("SLM_MESH_SHARED_SECRET", "")) >= _SECRET_MIN and _has_joined(directory)
    if host.startswith("ssh://") or role == "client":
        return True
    name = host.strip("[]")
    try:
        address = ipaddress.ip_address(name)
        is_here = address.is_loopback or address.is_unspecified
    except ValueError:
        is_here = name == "localhost"
    # Any other address may still be this machine's own. The slm-mesh program checks that.
    return role != "broker" and not is_here


def settings(directory: Path) -> Dict[str, str]:
    """The settings: from the environment, or else from the file."""
    found = {}
    try:
        lines = (directory / "config").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    for line in lines:
        name, is_one, value = line.partition("=")
        if is_one and not line.lstrip().startswith("#"):
            found[name.strip()] = value.strip().strip('"')
    from_environment = ((name, value.strip()) for name, value in os.environ.items() if name.startswith("SLM_MESH_"))
    found.update((name, value) for name, value in from_environment if value)
    return found


def _has_joined(directory: Path) -> bool:
    """Whether a session of this machine has joined a hub from the local network."""
    try:
        return json.loads((directory / "hub").read_text(encoding="utf-8")).get("joined") is True
    except (OSError, ValueError, AttributeError):
        return False


def connect_remote(directory: Path, hub: Optional[str] = None) -> socket.socket:
    """Connects through ``slm-mesh pipe`` and waits until the broker at the other end has answered.

    :param hub: the address of a hub, if it is not the hub in the settings.
    :raises Unavailable: with the error message of the program.
    """
    near, far = socket.socketpair()
    env = {**os.environ, "SLM_MESH_DATA_DIR": str(directory)}
    if hub is not None:
        env.update(SLM_MESH_HOST=hub, SLM_MESH_ROLE="client")
    try:
        process = subprocess.Popen([paths.program(), "pipe"], stdin=far, stdout=far, stderr=subprocess.PIPE, env=env)
    except OSError as error:
        near.close()
        raise Unavailable(f"cannot run slm-mesh ({error})") from error
    finally:
        far.close()
    try:
        near.settimeout(_PIPE_SECONDS)
        near.sendall(_PING)
        answered = _has_answered(near)
    except OSError:
        answered = False
    if not answered:
        near.close()
        process.kill()
        said = process.communicate()[1].decode(errors="replace").strip()
        raise Unavailable(said.splitlines()[-1] if said else "the broker on the other machine did not answer")
    # Reading the process's output until the end keeps the process from blocking, and reaps it.
    threading.Thread(target=process.communicate, name="slm-mesh pipe", daemon=True).start()
    return near


def _has_answered(sock: socket.socket) -> bool:
    """Reads the answer to the ping, and not a byte more."""
    byte = b""
    while byte != b"\n":
        byte = sock.recv(1)
        if not byte:
            return False
    return True
