"""Sessions that are easily taken for one another: an agent that another agent started in its shell, and two sessions
in one process. Each pair has one home, one project, one mesh, and one model that tells them apart by their prompts."""

import re
import shlex
import shutil
import subprocess
import threading
import time

from model import Call, Model, by_word, looked_for
from wakes import Hall
from windows import Terminal

SESSIONS = [
    ("nested", "an agent that it starts in its shell is a peer of its own: refused its files, and no end to its locks"),
    ("shared", "two sessions in one process are two peers: each is refused the other's file, and reads its own mail"),
]
# Which agent starts which.
NESTED = [("claude", "codex"), ("codex", "claude"), ("claude", "claude")]
SHARED = ["codex", "opencode"]
OUTER, INNER = "I am the outer one.", "I am within."
ONE, TWO = "I am the first of two.", "I am the second of two."
DENIED = "The file was not changed"
RUN_SECONDS, BEGINS_SECONDS, DRAWS_SECONDS = 120, 60, 8
WAITS = 40


class Pair:
    """Two sessions in one hall (one home, project and mesh), and the first check that failed."""

    def __init__(self, base, program, name, agents):
        self.hall, self.agents, self.why = Hall(base, program, name), agents, None
        self.model = Model(self.hall.root / "model.jsonl")
        port = self.model.server_address[1]
        self.env = {**self.hall.env, "PATH": self.hall.path(*agents)}
        for agent in agents:
            agent.settings(self.hall.home, self.hall.work, port)
            agent.settle(self.hall.home, self.hall.work)
            self.env.update(agent.environment(port))

    def proof(self, holds, why):
        """Records the first check that failed."""
        if not holds and self.why is None:
            self.why = why

    def write(self, write, name, text):
        """A play in which an agent writes a file with one of its ways to write. Returns its last request."""
        for tool, arguments in write(self.hall.work / name, text):
            request = yield Call(tool, arguments)
        return request

    def verb(self, agent, *words):
        """A play in which an agent runs one of our verbs (subcommands) in its shell. Returns what the verb printed."""
        command = shlex.join([f"{self.hall.bin}/slm-mesh", *words])
        request = yield Call(*agent.shell(f"echo said=$({command} 2>&1)."))
        return re.findall(r"said=([^\n$]*)\.", request.text)[-1:]

    def holder(self, name):
        held = self.hall.mesh("lock", "list")["locks"]
        return next((lock["holder"] for lock in held if lock["filePath"].endswith("/" + name)), None)

    def end(self):
        self.hall.mesh("stop")
        self.model.shutdown()


def outer_play(pair, outer, inner, names):
    work = pair.hall.work
    request = yield from looked_for((yield))
    request = yield from pair.write(outer.write, "mine.txt", "by the outer one")
    pair.proof(pair.holder("mine.txt") == names[0], f"the outer one's file is held by {pair.holder('mine.txt')}")
    # The shell of Codex has a PATH of its own, and does not pass on keys.
    found = shutil.which(inner.program, path=pair.env["PATH"])
    settings = [f"{name}={value}" for name, value in {**pair.inner_env, "PATH": pair.env["PATH"]}.items()]
    command = shlex.join(["env", *settings, found, *inner.command(INNER, False)[1:]])
    request = yield Call(*outer.shell(f"{command} < /dev/null > {pair.hall.root}/inner.txt 2>&1; echo status=$?."))
    for _ in range(WAITS):
        # Codex does not wait until a long command has ended.
        if pair.has_ended.is_set():
            break
        request = yield Call(*outer.shell("sleep 1"))
    pair.proof(pair.has_ended.is_set(), "the inner one did not end its turn: see inner.txt")
    pair.proof((work / "mine.txt").read_text().strip() == "by the outer one", "the inner one changed the file")
    pair.proof(pair.holder("mine.txt") == names[0], "the end of the inner one freed the outer one's lock")
    said = yield from pair.verb(outer, "whoami")
    pair.proof(said and f"{names[0]} (" in said[0], f"a verb of the outer one acts as {said}")
    request = yield Call("mesh_status", {})
    pair.proof(request.count("birch-from-within") > 0, "the inner one's mail did not reach the outer one")
    pair.proof(request.count("larch-to-within") == 0, "the outer one was shown mail of the inner one")
    yield "Done."


def inner_play(pair, inner, names):
    request = yield from looked_for((yield))
    request = yield from pair.write(inner.write, "mine.txt", "by the inner one")
    pair.proof(request.count(DENIED) == 1 and request.count(names[0]) > 0, "the inner one's edit was not denied")
    request = yield from pair.write(inner.write, "other.txt", "by the inner one")
    pair.proof(pair.holder("other.txt") == names[1], f"the inner one's file is held by {pair.holder('other.txt')}")
    said = yield from pair.verb(inner, "whoami")
    pair.proof(said and f"{names[1]} (" in said[0], f"a verb of the inner one acts as {said}")
    pair.hall.mesh("send", names[1], "larch-to-within")
    request = yield Call("mesh_send", {"to": names[0], "message": "birch-from-within"})
    pair.proof(request.count("larch-to-within") > 0, "the inner one was not shown its mail")
    pair.has_ended.set()
    yield "Done."


def nested(base, program, outer, inner):
    """Runs an agent that another agent starts. Returns the first check that failed, if any."""
    pair = Pair(base, program, f"nested-{outer.name}-{inner.name}", list(dict.fromkeys([outer, inner])))
    pair.has_ended = threading.Event()
    pair.inner_env = inner.environment(pair.model.server_address[1])
    names = [f"{outer.name}-work", f"{inner.name}-work" + ("-2" if inner is outer else "")]
    try:
        if not pair.hall.setup(pair.agents):
            return "set-up failed: see setup.txt"
        pair.model.perform(by_word({OUTER: outer_play(pair, outer, inner, names), INNER: inner_play(pair, inner, names)}))
        command = outer.command(OUTER, False)
        with open(pair.hall.root / "outer.txt", "wb") as out:
            subprocess.run(command, env=pair.env, cwd=pair.hall.work, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                           executable=shutil.which(command[0], path=pair.env["PATH"]), timeout=RUN_SECONDS)
        peers = sorted(one["name"] for one in pair.hall.mesh("peers", "--all")["peers"] if one["agentType"] != "human")
        pair.proof(peers == sorted(names), f"peers: {peers}")
        pair.proof(pair.model.trouble is None, pair.model.trouble)
    except subprocess.TimeoutExpired:
        pair.proof(False, f"no end after {RUN_SECONDS} s")
    finally:
        pair.end()
    return pair.why or True


class Sharing:
    """What two sessions in one process know of each other's progress."""

    def __init__(self):
        self.names, self.has_file, self.tried, self.read = {}, threading.Event(), threading.Event(), threading.Event()


def until(agent, event):
    """A play in which an agent stays in its turn until something has happened."""
    for _ in range(WAITS):
        if event.is_set():
            return
        yield Call(*agent.shell("sleep 1"))


def own_name(word, sharing):
    """A play in which a session learns its own name."""
    request = yield from looked_for((yield))
    request = yield Call("mesh_peers", {"scope": "machine"})
    found = re.findall(r'"you":\s*\{"id":\s*"[^"]+",\s*"name":\s*"([^"]+)"', request.text)
    sharing.names[word] = found[-1] if found else None


def one_play(pair, agent, sharing):
    yield from own_name(ONE, sharing)
    yield from pair.write(agent.write_in_window, "both.txt", "by the first")
    pair.proof(pair.holder("both.txt") == sharing.names[ONE], f"the file is held by {pair.holder('both.txt')}")
    sharing.has_file.set()
    yield from until(agent, sharing.tried)
    pair.hall.mesh("send", sharing.names[ONE], "rowan-for-one")
    request = yield Call("mesh_status", {})
    pair.proof(request.count("rowan-for-one") > 0, "the first was not shown its mail")
    pair.proof(request.count("alder-for-two") == 0, "the first was shown the second's mail")
    said = yield from pair.verb(agent, "whoami")
    prove_verb(pair, sharing, ONE, TWO, said)
    sharing.read.set()
    yield "Done."


def two_play(pair, agent, sharing):
    yield from own_name(TWO, sharing)
    yield from until(agent, sharing.has_file)
    request = yield from pair.write(agent.write_in_window, "both.txt", "by the second")
    pair.proof(request.count(DENIED) == 1 and sharing.names[ONE] in request.text, "the second's edit was not denied")
    request = yield from pair.write(agent.write_in_window, "own.txt", "by the second")
    pair.proof(pair.holder("own.txt") == sharing.names[TWO], f"its own file is held by {pair.holder('own.txt')}")
    pair.hall.mesh("send", sharing.names[TWO], "alder-for-two")
    sharing.tried.set()
    request = yield Call("mesh_status", {})
    pair.proof(request.count("alder-for-two") > 0, "the second was not shown its mail")
    said = yield from pair.verb(agent, "whoami")
    prove_verb(pair, sharing, TWO, ONE, said)
    yield from until(agent, sharing.read)
    request = yield Call("mesh_status", {})
    pair.proof(request.count("rowan-for-one") == 0, "the second was shown the first's mail")
    yield "Done."


def prove_verb(pair, sharing, own, other, said):
    """A verb acts as the session whose shell ran it, or as neither session; never as the other one."""
    text = said[0] if said else ""
    pair.proof(f"{sharing.names[other]} (" not in text, f"a verb of {sharing.names[own]} acts as the other: {text}")
    pair.proof(sharing.names[own] in text, f"a verb of {sharing.names[own]} says {text}")


def open_two(pair, agent, windows):
    """Opens two sessions in one process, which is a server behind two windows. Returns two functions, each of which
    sends a prompt to one of the sessions."""
    if agent.name == "opencode":
        windows.append(agent.window(pair.env, pair.hall.work, pair.hall.root / "one.txt"))
        second = windows[0].begin()
        return windows[0].say, lambda prompt: windows[0].say(prompt, second)
    server, address = agent.server(pair.hall.root)
    windows.append(Terminal(server, pair.env, pair.hall.work, pair.hall.root / "server.txt"))
    pair.hall.until(DRAWS_SECONDS, lambda: (pair.hall.root / "server.sock").exists())
    for name in ("one.txt", "two.txt"):
        windows.append(agent.window(pair.env, pair.hall.work, pair.hall.root / name, address))
    # A window accepts no input before it has drawn itself.
    time.sleep(DRAWS_SECONDS)
    return windows[1].say, windows[2].say


def shared(base, program, agent):
    """Runs two sessions in one process. Returns the first check that failed, if any."""
    pair, sharing, windows = Pair(base, program, f"shared-{agent.name}", [agent]), Sharing(), []
    try:
        if not pair.hall.setup([agent]):
            return "set-up failed: see setup.txt"
        pair.model.perform(by_word({ONE: one_play(pair, agent, sharing), TWO: two_play(pair, agent, sharing)}))
        say_one, say_two = open_two(pair, agent, windows)
        say_one(ONE)
        pair.proof(pair.hall.until(BEGINS_SECONDS, sharing.has_file.is_set), "the first did not get its file")
        say_two(TWO)
        pair.proof(pair.hall.until(RUN_SECONDS, sharing.read.is_set), "the two did not come to an end")
        names = list(sharing.names.values())
        peers = sorted(one["name"] for one in pair.hall.mesh("peers", "--all")["peers"] if one["agentType"] != "human")
        pair.proof(peers == sorted(name or "" for name in names), f"peers: {peers}")
        pair.proof(len(set(names)) == 2, f"names: {sharing.names}")
        pair.proof(pair.model.trouble is None, pair.model.trouble)
    finally:
        for window in reversed(windows):
            window.close()
        pair.end()
    return pair.why or True


def prove(agents, base, program):
    """For each agent, whether its proofs held, or why not."""
    here = {agent.name: agent for agent in agents}
    found = {}
    for outer, inner in NESTED:
        if outer in here and inner in here:
            held = nested(base, program, here[outer], here[inner])
            before = found.setdefault(outer, {}).get("nested", True)
            found[outer]["nested"] = before if before is not True else held if held is True else f"{inner}: {held}"
    for name in SHARED:
        if name in here:
            found.setdefault(name, {})["shared"] = shared(base, program, here[name])
    return found
