"""The ways to the broker: the Unix socket of this machine; or, where the settings say that the mesh is on
another one, the program's own ``pipe``, which knows hubs, their secret and ssh.
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
from typing import Dict

from . import places
from .errors import Unavailable

_PIPE_WITHIN = 40.0
"""What the way to another machine may take; ssh alone gets 30 s."""
_PING = b'{"jsonrpc":"2.0","id":0,"method":"ping","params":{}}\n'
_SECRET_MIN = 8


def here(path: Path) -> socket.socket:
    """A connection to the broker of this machine.

    :raises OSError: there is none.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(path))
        _check_owner(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _check_owner(sock: socket.socket) -> None:
    """Nothing is said to a socket that is another user's."""
    if hasattr(socket, "SO_PEERCRED"):
        size = struct.calcsize("3i")
        uid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]
        if uid != os.getuid():
            raise Unavailable("the broker's socket is another user's")


def is_away(directory: Path) -> bool:
    """Whether the settings of a data directory say that the mesh may be on another machine."""
    settings = _settings(directory)
    host, role = settings.get("SLM_MESH_HOST", ""), settings.get("SLM_MESH_ROLE", "auto")
    if not host:
        return len(settings.get("SLM_MESH_SHARED_SECRET", "")) >= _SECRET_MIN and _has_joined(directory)
    if host.startswith("ssh://") or role == "client":
        return True
    name = host.strip("[]")
    try:
        address = ipaddress.ip_address(name)
        is_here = address.is_loopback or address.is_unspecified
    except ValueError:
        is_here = name == "localhost"
    # What is left may be an address of this machine itself: the program finds out.
    return role != "broker" and not is_here


def _settings(directory: Path) -> Dict[str, str]:
    """The settings that lead away: the environment's, else those of the file."""
    found = {}
    try:
        lines = (directory / "config").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    for line in lines:
        name, is_one, value = line.partition("=")
        if is_one and not line.lstrip().startswith("#"):
            found[name.strip()] = value.strip().strip('"')
    found.update((name, value) for name, value in os.environ.items() if name.startswith("SLM_MESH_") and value)
    return found


def _has_joined(directory: Path) -> bool:
    """Whether a session of this machine joined a hub that it found on the network."""
    try:
        return json.loads((directory / "hub").read_text(encoding="utf-8")).get("joined") is True
    except (OSError, ValueError, AttributeError):
        return False


def away(directory: Path) -> socket.socket:
    """A connection through ``slm-mesh pipe``, once the broker at its other end has answered.

    :raises Unavailable: with what the program says.
    """
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(
            [places.program(), "pipe"], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE,
            env={**os.environ, "SLM_MESH_DATA_DIR": str(directory)},
        )
    except OSError as error:
        ours.close()
        raise Unavailable(f"slm-mesh can't be run ({error})") from error
    finally:
        theirs.close()
    try:
        ours.settimeout(_PIPE_WITHIN)
        ours.sendall(_PING)
        answered = _has_answered(ours)
    except OSError:
        answered = False
    if not answered:
        ours.close()
        process.kill()
        said = process.communicate()[1].decode(errors="replace").strip()
        raise Unavailable(said.splitlines()[-1] if said else "the broker on the other machine did not answer")
    # Its words are read until its end, so that it never waits for us, and it leaves no zombie.
    threading.Thread(target=process.communicate, name="slm-mesh pipe", daemon=True).start()
    return ours


def _has_answered(sock: socket.socket) -> bool:
    """Takes the answer to the ping, and not a byte of what may come behind it."""
    byte = b""
    while byte != b"\n":
        byte = sock.recv(1)
        if not byte:
            return False
    return True
