"""Writes the URL of a remote in one spelling, after resolving it as git does, so that clones can be compared.

The broker compares these spellings with those that slm-mesh itself sends, so the rules are those of
``src/sys/git``.
"""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path
from typing import Callable, Iterator, List, NamedTuple, Tuple

SSH_DOORS = {"ssh.github.com": "github.com", "altssh.gitlab.com": "gitlab.com", "altssh.bitbucket.org": "bitbucket.org"}
"""Names under which a forge serves ssh where port 22 is closed."""
_INCLUDES_MAX = 8
_HEAD = re.compile(r'\[\s*([^\s"\]]+)\s*(?:"((?:[^"\\]|\\.)*)")?\s*\](.*)')


class Entry(NamedTuple):
    """One setting of git."""

    section: str
    subsection: str
    name: str
    value: str


def entries(text: str) -> Iterator[Entry]:
    """The settings in the text of one of git's files (git-config(1)).

    >>> list(entries('[url "git@h:"]\\n insteadOf = gh: # short'))
    [Entry(section='url', subsection='git@h:', name='insteadof', value='gh:')]
    """
    section = subsection = ""
    for line in map(str.strip, text.splitlines()):
        head = _HEAD.match(line)
        if head:
            section, subsection = head.group(1).lower(), _unquoted(head.group(2) or "")
            line = head.group(3).strip()
        name, equals, value = line.partition("=")
        if equals:
            yield Entry(section, subsection, name.strip().lower(), _unquoted(value.strip()))


def _unquoted(text: str) -> str:
    plain, is_quoted, is_escaped = "", False, False
    for c in text:
        if is_escaped:
            plain, is_escaped = plain + c, False
        elif c == "\\":
            is_escaped = True
        elif c == '"':
            is_quoted = not is_quoted
        elif c in "#;" and not is_quoted:
            break
        else:
            plain += c
    return plain.rstrip()


def normal_form(url: str, root: Path, config: str, read: Callable[[Path], str]) -> str:
    """One spelling for all URLs by which git reaches one repository. ``root`` is the work tree, ``config`` the
    text of its settings; ``read`` gives the text of a file.

    >>> no_file = lambda path: ""
    >>> [normal_form(url, Path("/w"), "", no_file) for url in ("git@Example.org:a/B.git", "https://u@example.org/a/b/")]
    ['example.org/a/b', 'example.org/a/b']
    >>> [normal_form(url, Path("/w"), "", no_file) for url in ("../srv/no/b.git", "file:///srv/no/b")]
    ['/srv/no/b', '/srv/no/b']
    """
    home = Path.home()
    fits = [entry for entry in entries(_user_settings(home, read) + config)
            if entry.section == "url" and entry.name == "insteadof" and url.startswith(entry.value)]
    if fits:
        longest = max(fits, key=lambda entry: len(entry.value))
        url = longest.subsection + url[len(longest.value):]
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    host, path = _halves(scheme, rest)
    if scheme == "file" or not host:
        return _local(str(root / rest))
    host = host.rsplit("@", 1)[-1]
    host = (host if host.startswith("[") else host.split(":", 1)[0]).lower()
    if not scheme or "ssh" in scheme:
        host = _ssh_host(host, read(home / ".ssh/config"))
    return f"{SSH_DOORS.get(host, host)}/{_without_ending(path.strip('/')).lower()}"


def _halves(scheme: str, rest: str) -> Tuple[str, str]:
    """The host and the path of a URL; no host for a path of this machine."""
    if scheme:
        host, _, path = rest.partition("/")
        return host, path
    host, colon, path = rest.partition(":")
    return (host, path) if colon and "/" not in host else ("", rest)


def _without_ending(path: str) -> str:
    path = path.rstrip("/")
    while path.endswith(".git"):
        path = path[: -len(".git")]
    return path.rstrip("/")


def _local(path: str) -> str:
    path = _without_ending(path)
    for name in (path + ".git", path):
        if os.path.exists(name):
            return _without_ending(os.path.realpath(name))
    return os.path.normpath(path)


def _user_settings(home: Path, read: Callable[[Path], str]) -> str:
    """The text of the user's and the machine's settings of git, with the files that they include."""
    named = os.environ.get("GIT_CONFIG_GLOBAL")
    xdg = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    files: List[Path] = [Path("/etc/gitconfig")]
    files += [Path(named)] if named else [xdg / "git/config", home / ".gitconfig"]
    text = ""
    for file in files:
        found = read(file)
        included = [entry.value for entry in entries(found) if entry.section == "include" and entry.name == "path"]
        for name in included[:_INCLUDES_MAX]:
            text += read(home / name[2:] if name.startswith("~/") else file.parent / name) + "\n"
        text += found + "\n"
    return text


def _ssh_host(name: str, settings: str) -> str:
    """The host to which ssh goes for a name, by the user's ``Host`` blocks (ssh_config(5))."""
    applies = False
    for line in settings.splitlines():
        word, _, value = line.strip().replace("=", " ", 1).partition(" ")
        if word.lower() == "host":
            patterns = [pattern.strip('"').lower() for pattern in value.split()]
            denied = [one[1:] for one in patterns if one.startswith("!")]
            allowed = [one for one in patterns if not one.startswith("!")]
            applies = _fits(name, allowed) and not _fits(name, denied)
        elif word.lower() == "match":
            applies = False
        elif word.lower() == "hostname" and applies:
            return value.strip().strip('"').replace("%h", name).lower()
    return name


def _fits(name: str, patterns: List[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
