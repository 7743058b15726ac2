"""The load: programs of guests, sessions of agents, verbs and HTTP clients. Each sends messages, writes and reads entries
and takes locks, and repeats what was not answered."""

import errno
import itertools
import json
import os
import random
import select
import subprocess
import threading
import time
import urllib.error
from typing import NamedTuple

# The longest wait for an answer, in seconds. After this time, the client gives the connection up.
ANSWER_MAX = 5
# Entries and locks get new names after this many seconds, because a checker's work grows with the square of the number
# of operations on one of them.
OBJECT_SECONDS = 4
# The most messages that a client sends, because a mailbox takes only 10,000 unread messages. After them, it reads
# instead.
MESSAGES_MAX = 9_000
# The pause before a client tries again, like the pause of a user's program.
REST_SECONDS = 0.05
# The kinds of errors that say that nothing was stored.
WITHOUT_EFFECT = ("standby", "storage")


class NotDone(Exception):
    """The mesh said that the call had no effect, or the call was not sent."""


class Answered(NamedTuple):
    answer: object
    first: int
    """When the first attempt began, in ns."""
    began: int
    """When the answered attempt began."""
    ended: int


class Load(threading.Thread):
    """One client. A subclass says how its calls reach the mesh. A call returns None if there was no answer, so that it
    is unknown whether the call took effect."""

    takes_locks = True
    has_keys = True
    # Whether the program under test repeats an unlock after a lost connection. If the first unlock took effect, the
    # second one is answered with "not-mine". So this answer does not show that the client held no lock.
    repeats_releases = False

    def __init__(self, cluster, n, recording, stopping):
        super().__init__(daemon=True)
        self.cluster, self.n, self.recording, self.stopping = cluster, n, recording, stopping
        # Each client writes to a mailbox of its own, since a mailbox for all would soon be full.
        self.worker = f"worker-{n}"
        self.turns, self.versions, self.n_messages = itertools.count(), {}, 0
        # The times at which each answered call began and ended, in ns.
        self.waits, self.has_ended = [], False

    def run(self):
        dice = random.Random(self.n)
        kinds = [self.message, self.message, self.write, self.write_if, self.read] + [self.lock] * self.takes_locks
        while not self.stopping.is_set():
            # An operation that has begun is brought to its end, so that nothing stays locked.
            kind = dice.choice(kinds)
            if kind == self.message:
                self.n_messages += 1
                kind = self.read if self.n_messages > MESSAGES_MAX else kind
            kind(f"{self.n}.{next(self.turns)}")
        self.close()
        self.has_ended = True

    def repeat(self, attempt):
        """Tries until there is an answer."""
        first, answer = time.monotonic_ns(), None
        while answer is None:
            began = time.monotonic_ns()
            try:
                answer = attempt()
            except NotDone:
                pass
            ended = time.monotonic_ns()
            if answer is None:
                time.sleep(REST_SECONDS)
        self.waits.append((first, ended))
        return Answered(answer, first, began, ended)

    def object_name(self, kind):
        return f"{kind} {int(time.monotonic() / OBJECT_SECONDS)}"

    def message(self, turn):
        text = f"message {turn}"
        tries = itertools.count()
        # Without a key, a message that was not answered may be stored, so the next attempt has another text.
        found = self.repeat(lambda: self.send(text if self.has_keys else f"{text}#{next(tries)}"))
        text = text if self.has_keys else f"{text}#{next(tries) - 1}"
        began = found.first if self.has_keys else found.began
        self.recording.number("message", text, began, found.ended, found.answer)

    def write(self, turn):
        entry, tries = self.object_name("entry"), itertools.count()

        def attempt():
            value, began = f"{turn}#{next(tries)}", time.monotonic_ns()
            version = self.set(entry, value)
            self.recording.attempt(entry, began, version, "set", value, *([] if version is None else [version]))
            return version and (value, version)

        found = self.repeat(attempt)
        value, version = found.answer
        self.versions[entry] = version
        self.recording.number(entry, value, found.began, found.ended, version)

    def write_if(self, turn):
        """Compare and set, with the version that this client saw last."""
        entry, tries = self.object_name("entry"), itertools.count()

        def attempt():
            value, expected = f"{turn}#{next(tries)}", self.versions.get(entry, 0)
            began = time.monotonic_ns()
            outcome = self.set_if(entry, value, expected)
            self.recording.attempt(entry, began, outcome, "set-if", expected, value, *(outcome or []))
            return outcome and (value, outcome)

        found = self.repeat(attempt)
        value, (word, version) = found.answer
        self.versions[entry] = version
        kind = entry if word == "stored" else f"read {entry}"
        self.recording.number(kind, value, found.began, found.ended, version)

    def read(self, turn):
        entry = self.object_name("entry")

        def attempt():
            began = time.monotonic_ns()
            found = self.get(entry)
            # A read without an answer shows nothing, so it is not recorded.
            if found is not None:
                self.recording.attempt(entry, began, found, "get", *found)
            return found

        found = self.repeat(attempt)
        self.versions[entry] = found.answer[0]
        self.recording.number(f"read {entry}", turn, found.began, found.ended, found.answer[0])

    def lock(self, turn):
        path = f"/chaos/{self.object_name('lock').replace(' ', '-')}"

        def attempt():
            began = time.monotonic_ns()
            outcome = self.take(path)
            self.recording.attempt(path, began, outcome, "lock", self.worker, *(outcome or []))
            return outcome

        found = self.repeat(attempt)
        word, token = found.answer
        if word == "held":
            return
        # An attempt without an answer may have taken the lock, which the later ones only renewed. So the token may be
        # as old as the first attempt.
        self.recording.number("token", f"{path} {turn}", found.first, found.ended, token)

        def attempt_release():
            began = time.monotonic_ns()
            outcome = self.release(path)
            is_known = outcome == "done" or outcome == "not-mine" and not self.repeats_releases
            self.recording.attempt(path, began, outcome, "unlock", self.worker, *([outcome] if is_known else []))
            return outcome

        self.repeat(attempt_release)


def require_effect(answer):
    """Returns the answer, or raises NotDone if it says that nothing was stored."""
    if answer.get("kind") in WITHOUT_EFFECT:
        raise NotDone
    return answer


def set_if_outcome(answer):
    if answer.get("ok"):
        return "stored", answer["version"]
    return ("conflict", answer["version"]) if answer.get("kind") == "conflict" else None


def lock_outcome(answer):
    if answer.get("ok"):
        return "granted", answer["token"]
    return ("held", answer["lock"]["holder"]) if answer.get("kind") == "held" else None


def unlock_outcome(answer):
    if answer.get("ok"):
        return "done"
    return "not-mine" if answer.get("kind") in ("not_found", "held", "refused") else None


def seen(answer):
    """Version and value of an entry."""
    entry = answer.get("entry")
    if answer.get("ok"):
        return (entry["version"], entry["value"]) if entry else (0, "")
    return None


class Lines:
    """A program that answers JSON-RPC on its standard output. The program is started again after a lost answer."""

    def __init__(self, command, env):
        self.command, self.env = command, env
        self.process, self.ids = None, itertools.count(1)

    def open(self):
        self.process = subprocess.Popen(
            self.command, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self.rest = b""

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None

    def write(self, **message):
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.process.stdin.flush()

    def call(self, method, params):
        """The whole response; None if there is none."""
        call = next(self.ids)
        try:
            self.write(id=call, method=method, params=params)
            until = time.monotonic() + ANSWER_MAX
            while (left := until - time.monotonic()) > 0:
                while b"\n" in self.rest:
                    line, self.rest = self.rest.split(b"\n", 1)
                    answer = json.loads(line)
                    if answer.get("id") == call and "method" not in answer:
                        return answer
                if not select.select([self.process.stdout], [], [], left)[0]:
                    break
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    break
                self.rest += data
        except OSError:
            pass
        return None


class Guest(Load):
    """A program over `slm-mesh pipe`."""

    def __init__(self, cluster, n, *more):
        super().__init__(cluster, n, *more)
        self.lines = Lines([cluster.program, "pipe"], cluster.guest_environment(n))

    def close(self):
        self.lines.close()

    def call(self, method, **params):
        if self.lines.process is None:
            self.lines.open()
        answer = self.lines.call(method, {**params, "as": self.worker})
        error = answer and answer.get("error", {}).get("data", {})
        if answer is None or error and error.get("kind") in (None, "internal", *WITHOUT_EFFECT):
            self.lines.close()
            require_effect(error or {})
            return {}
        return {**answer["result"], "ok": True} if "result" in answer else {**error, "ok": False}

    def send(self, text):
        return self.call("send", to=self.worker, message=text, key=text).get("seq")

    def set(self, entry, value):
        return self.call("state.set", key=entry, value=value).get("version")

    def set_if(self, entry, value, expected):
        return set_if_outcome(self.call("state.set", key=entry, value=value, expect=expected))

    def get(self, entry):
        return seen(self.call("state.get", key=entry))

    def take(self, path):
        return lock_outcome(self.call("lock.lock", filePath=path, ttlMinutes=60, renew=True))

    def release(self, path):
        return unlock_outcome(self.call("lock.unlock", filePath=path))


class Session(Load):
    """An agent's session over MCP. It takes no locks, because a session that replaces it would inherit them."""

    takes_locks = False

    def __init__(self, cluster, n, *more):
        super().__init__(cluster, n, *more)
        self.lines = Lines([cluster.program, "mcp"], cluster.guest_environment(n))

    def close(self):
        self.lines.close()

    def tool(self, name, **arguments):
        if self.lines.process is None:
            self.lines.open()
            client = {"name": self.worker, "version": "1"}
            hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
            self.lines.call("initialize", hello)
        answer = self.lines.call("tools/call", {"name": name, "arguments": arguments})
        if answer is None or "result" not in answer:
            self.lines.close()
            return {}
        return require_effect(json.loads(answer["result"]["content"][0]["text"]))

    def send(self, text):
        return self.tool("mesh_send", to=self.worker, message=text, key=text).get("seq")

    def write(self, turn):
        """Writes only by compare-and-set, because any other write is repeated after a lost connection, and so may take
        effect twice."""
        self.write_if(turn)

    def set_if(self, entry, value, expected):
        return set_if_outcome(self.tool("mesh_state", action="set", key=entry, value=value, expect=expected))

    def get(self, entry):
        return seen(self.tool("mesh_state", action="get", key=entry))


class Verbs(Load):
    """A shell script on a guest: a process for each call."""

    repeats_releases = True

    def close(self):
        pass

    def verb(self, *words):
        command = [self.cluster.program, *words, "--as", self.worker, "--json"]
        try:
            done = subprocess.run(
                command, env=self.cluster.guest_environment(self.n), stdin=subprocess.DEVNULL, capture_output=True,
                timeout=3 * ANSWER_MAX,
            )
            return require_effect(json.loads(done.stdout))
        except (subprocess.TimeoutExpired, ValueError):
            return {}

    def send(self, text):
        return self.verb("send", self.worker, text, "--key", text).get("seq")

    def set(self, entry, value):
        return self.verb("state", "set", entry, value).get("version")

    def set_if(self, entry, value, expected):
        return set_if_outcome(self.verb("state", "set", entry, value, "--expect", str(expected)))

    def get(self, entry):
        return seen(self.verb("state", "get", entry))

    def take(self, path):
        return lock_outcome(self.verb("lock", path, "--ttl", "60", "--renew"))

    def release(self, path):
        return unlock_outcome(self.verb("unlock", path))


class Http(Load):
    """A client of the old HTTP API. It has no keys, so it never sends a message again."""

    has_keys = False

    def __init__(self, cluster, n, *more):
        super().__init__(cluster, n, *more)
        self.hub, self.id = n, None

    def close(self):
        pass

    def ask(self, path, **body):
        """Asks the hub that answered last. If this hub refuses or does not answer, the next call goes to the next."""
        try:
            return self.cluster.ask_http(self.hub, path, body, ANSWER_MAX)
        except urllib.error.HTTPError as error:
            self.hub += 1
            require_effect(json.loads(error.read()))
        except (OSError, ValueError) as error:
            self.hub += 1
            if getattr(getattr(error, "reason", None), "errno", None) in (errno.ECONNREFUSED, errno.EHOSTUNREACH):
                raise NotDone from error
        return {}

    def register(self):
        """Makes the worker a peer of the mesh."""
        facts = {"projectPath": "/chaos", "pid": os.getpid(), "name": self.worker}
        self.id = self.repeat(lambda: self.ask("/register", **facts).get("peerId")).answer

    def send(self, text):
        identity = self.ask("/send", fromPeer=self.worker, toPeer=self.id, payload=text).get("messageId")
        return identity and int(identity.rsplit("-", 1)[1], 16)

    def set(self, entry, value):
        answer = self.ask("/state", action="set", key=entry, value=value, peerId=self.id)
        return answer.get("entry", {}).get("version")

    def write_if(self, turn):
        """The old API has no compare-and-set."""
        self.write(turn)

    def get(self, entry):
        return seen(self.ask("/state", action="get", key=entry))

    def take(self, path):
        answer = self.ask("/lock", action="lock", filePath=path, peerId=self.id, ttlMinutes=60)
        if answer.get("ok"):
            return "granted", answer["lock"]["token"]
        words = answer.get("error", "").removeprefix("File locked by ").split(".")[0]
        return ("held", words) if words.startswith("worker-") else None

    def release(self, path):
        answer = self.ask("/lock", action="unlock", filePath=path, peerId=self.id)
        if answer.get("ok"):
            return "done"
        return "not-mine" if "not owned" in answer.get("error", "") else None
