"""The data directory, paths as the mesh names them, and facts about git work trees.

The rules are those of the program itself, so that a script and an agent mean the same file.
"""

from __future__ import annotations

import json
import os
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Union

from . import git_remote
from .errors import Unavailable, UsageError

StrPath = Union[str, "os.PathLike[str]"]

_GIT_FILE_MAX = 64 << 10
_LAUNCHER_MAX = 4096
_SOCKET = "mesh.sock"
_SOCKET_PATH_MAX = 103
"""The longest path of a socket, in bytes, which the kernel limits."""


def data_dir(given: Optional[StrPath] = None) -> Path:
    """The data directory: ``given``, or ``$SLM_MESH_DATA_DIR``, or ``~/.slm-mesh``."""
    try:
        return Path(os.path.abspath(given or os.environ.get("SLM_MESH_DATA_DIR") or Path.home() / ".slm-mesh"))
    except (OSError, RuntimeError) as error:
        text = f"the data directory can't be found ({error}); set SLM_MESH_DATA_DIR to an absolute path"
        raise Unavailable(text) from error


def sockets(directory: Path) -> List[Path]:
    """Where the broker's socket may be: in the data directory, or, if its path is too long there, below ``/tmp``. Which
    one it is depends on the path that the broker was given, which may lead through symlinks.

    >>> [str(path) for path in sockets(Path("/no/mesh"))]
    ['/no/mesh/mesh.sock']
    """
    real = os.path.realpath(directory)
    folders = dict.fromkeys([str(directory), real])
    found = [Path(folder, _SOCKET) for folder in folders if _fits(folder)]
    if len(found) < len(folders):
        found.append(Path(f"/tmp/slm-mesh-{os.getuid()}-{_fnv1a(os.fsencode(real)):016x}", _SOCKET))
    return found


def _fits(directory: str) -> bool:
    return len(os.fsencode(os.path.join(directory, _SOCKET))) <= _SOCKET_PATH_MAX


def _fnv1a(text: bytes) -> int:
    """The hash by which the program names the directory of the socket.

    >>> f"{_fnv1a(b'a'):016x}"
    'af63dc4c8601ec8c'
    """
    value = 0xCBF2_9CE4_8422_2325
    for byte in text:
        value = (value ^ byte) * 0x0100_0000_01B3 % (1 << 64)
    return value


def program() -> str:
    """The program: ``$SLM_MESH_BIN``, or the program that came with this package, or ``slm-mesh`` on PATH.

    :raises Unavailable: there is no program; a package that was installed from source contains none.
    """
    found = os.environ.get("SLM_MESH_BIN") or next(filter(_is_program, _candidates()), None)
    if not found or _is_launcher(found):
        raise Unavailable(
            "the program slm-mesh is missing: this Python package was installed without it, and it is not on PATH; "
            "build the program with cargo, gcc and make install, or set SLM_MESH_BIN to its path"
        )
    return found


def _candidates() -> Iterator[str]:
    """Where the program may be."""
    try:
        installed = metadata.distribution("slm-mesh").files or []
    except metadata.PackageNotFoundError:
        installed = []
    yield from (str(file.locate()) for file in installed if file.name == "slm-mesh")
    # With --target, pip puts the program here, but lists it at another place.
    yield str(Path(__file__).resolve().parent.parent / "bin" / "slm-mesh")
    yield from (os.path.join(folder, "slm-mesh") for folder in os.get_exec_path())


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK) and not _is_launcher(path)


def _is_launcher(path: str) -> bool:
    """Whether this is the command of a package without the program, which would look for the program again."""
    try:
        with open(path, "rb") as file:
            return b"slm_mesh.launcher" in file.read(_LAUNCHER_MAX)
    except OSError:
        return False


def start_broker(directory: Optional[StrPath] = None) -> int:
    """Starts the broker unless it is running, and returns its process id.

    :class:`slm_mesh.Mesh` does this by itself.
    """
    environment = {**os.environ, "SLM_MESH_DATA_DIR": str(data_dir(directory))}
    command = [program(), "start", "--detach", "--json"]
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise Unavailable(f"cannot start the broker ({error})") from error
    try:
        word = json.loads(done.stdout)
    except ValueError:
        word = {}
    if done.returncode != 0 or not word.get("ok"):
        said = done.stderr.decode(errors="replace").strip()
        raise Unavailable(str(word.get("error") or said or "the broker ended before it was ready"))
    return int(word["data"]["pid"])


def _is_pattern(path: str) -> bool:
    return any(sign in path for sign in "*?")


def absolute(path: StrPath) -> str:
    """A path as the mesh names it: absolute, with symlinks resolved as far as it exists, and ``/`` after a folder.

    >>> absolute("/etc")
    '/etc/'
    >>> absolute("/etc/no such folder/../hosts*")
    '/etc/hosts*'
    """
    text = os.fspath(path)
    if not text:
        raise UsageError("file_path: expected a path, got an empty string")
    try:
        given = Path("/" if text.startswith("/") else os.getcwd(), text.rstrip("/") or "/")
    except OSError as error:
        raise UsageError(f'"{text}" is relative, and the working directory is gone ({error}); give the absolute path, '
                         "starting with /") from None
    is_folder = text.endswith("/") or os.path.isdir(given)
    found = str(given)
    for at in [given, *given.parents]:
        # Unlike Path.exists(), this accepts names that are too long to exist.
        if not _is_pattern(str(at)) and os.path.exists(at):
            found = os.path.join(at.resolve(), given.relative_to(at))
            break
    found = os.path.normpath(found)
    return found if found.endswith("/") or not is_folder else found + "/"


def _read(path: Path) -> Optional[str]:
    """The beginning of a file. Only regular files are read, because a named pipe would block."""
    try:
        if not path.is_file():
            return None
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_GIT_FILE_MAX)
    except OSError:
        return None


def _git_dir(root: Path) -> Optional[Path]:
    dot_git = root / ".git"
    if dot_git.is_dir():
        return dot_git if (dot_git / "HEAD").exists() else None
    text = _read(dot_git)
    return root / text[len("gitdir:"):].strip() if text and text.startswith("gitdir:") else None


def location() -> Dict[str, str]:
    """The working directory, as ``project``, and the facts of its work tree. If it is gone, ``project`` is empty."""
    try:
        here = Path.cwd()
    except OSError:
        return {"project": ""}
    return {"project": str(here), **git_facts(here)}


def git_facts(directory: Path) -> Dict[str, str]:
    """``gitRoot``, ``gitBranch`` and ``repo`` of a work tree, read from its files; empty outside a work tree."""
    try:
        return _git_facts(directory)
    except (OSError, RuntimeError):
        return {}  # A folder can't be read, or symlinks lead in a circle.


def _git_facts(directory: Path) -> Dict[str, str]:
    above: List[Path] = [directory, *directory.parents]
    for root in above:
        git = _git_dir(root)
        if git is not None:
            break
    else:
        return {}
    head = (_read(git / "HEAD") or "").strip()
    prefix = "ref: refs/heads/"
    branch = head[len(prefix):] if head.startswith(prefix) else head[:12]
    common_text = _read(git / "commondir")
    common = (git / common_text.strip() if common_text is not None else git).resolve()
    config = _read(common / "config") or ""
    is_origin = ("remote", "origin", "url")
    url = next((entry.value for entry in git_remote.entries(config) if entry[:3] == is_origin), None)
    repo = git_remote.normal_form(url, root, config, lambda path: _read(path) or "") if url else str(common)
    facts = {"gitRoot": str(root), "gitBranch": branch, "repo": repo}
    return {name: fact for name, fact in facts.items() if fact}
