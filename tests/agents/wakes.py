"""Idle sessions and mail: three agents stay open in one mesh, each with its own model, and the tests show what wakes
each of them."""

import json
import shutil
import subprocess
import threading
import time
from pathlib import Path

from model import Call, Model, looked_for

WAKES = [
    ("wakes", "direct mail makes an idle session begin a turn, which has the mail; the receipt names the surface"),
    ("busy", "mail to a session in a turn is shown in that turn and rings nobody"),
    ("circle", "agents that answer each other are each woken once on the way round, and the receipt says why no more"),
    ("rewake", "where the first surface is dead, the next one wakes it, and the receipt names both"),
]
SURFACE = {"codex": "agent queue", "opencode": "plugin prompt", "claude": "session inbox"}
SENTENCE = "unread mesh message"
# Longer than the broker waits for more mail before it wakes an idle session.
THINKS_SECONDS = 2.5
BEGINS_SECONDS, WOKEN_SECONDS, AROUND_SECONDS = 60, 60, 150
FIRST, BUSY, BALL, LAST = (f"{tree}-arrives" for tree in ("willow", "aspen", "beech", "linden"))

# Replaces slm-mesh, and keeps the input of each hook and, once the hook has ended, its output.
STAND_IN = """#!/bin/sh
if [ "$1" != hook ] || [ $# -gt 2 ]; then exec '{real}' "$@"; fi
it='{log}'/$2-$(date +%s%N)
cat > $it.in
'{real}' "$@" < $it.in > $it.part 2> $it.err
status=$?
cat $it.part
mv $it.part $it.out
exit $status
"""


class Awake:
    """One agent with a session that stays open."""

    def __init__(self, hall, agent):
        self.hall, self.agent, self.peer = hall, agent, f"{agent.name}-work"
        log = hall.root / f"{agent.name}.jsonl"
        self.model, self.found, self.window, self.after = Model(log), {}, None, None
        self.known, self.seen, self.read, self.played, self.last = (threading.Event() for _ in range(5))
        port = self.model.server_address[1]
        agent.settings(hall.home, hall.work, port)
        agent.settle(hall.home, hall.work)
        self.env = {**hall.env, "PATH": hall.path(agent), **agent.environment(port)}

    def proof(self, name, holds, why=""):
        """Notes the result of a proof. A proof that failed once stays failed."""
        if self.found.get(name, True) is True:
            self.found[name] = True if holds else why or "no"
        return holds

    def open(self):
        """Opens the window, and has its first turn call one of our tools."""
        self.model.perform(self.story())
        self.window = self.agent.window(self.env, self.hall.work, self.hall.root / f"{self.agent.name}.txt")
        self.hall.until(BEGINS_SECONDS, lambda: self.hall.has(self.peer) or self.agent.opens_by_prompt)
        self.window.say("Good day.")
        return self.known.wait(BEGINS_SECONDS) and self.hall.until(BEGINS_SECONDS, self.has_stopped)

    def has_stopped(self):
        """Whether the last hook of the agent, apart from notifications, was a stop hook without output, which ends the
        turn."""
        told = sorted(self.hall.log.glob(f"{self.agent.name}-*.in"))
        told = [path for path in told if '"Notification"' not in path.read_text()]
        if not told or '"Stop"' not in told[-1].read_text():
            return False
        said = told[-1].with_suffix(".out")
        return said.exists() and not said.read_text()

    def story(self):
        request = yield
        request = yield from looked_for(request)
        request = yield Call("mesh_status", {})
        self.known.set()
        request = yield "Good day."
        # This mail must not wake the session, although it waits long enough while the model thinks. It is sent before
        # the session is woken for the first time, because for a while after that the broker does not wake the session
        # again in any case.
        self.hall.mesh("send", self.peer, BUSY)
        time.sleep(THINKS_SECONDS)
        request = yield Call("mesh_status", {})
        self.proof("busy", request.count(BUSY) > 0, "not in the request after the tool")
        self.seen.set()
        request = yield "I have read it."
        self.proof("wakes", request.count(SENTENCE) > 0, "a turn began without the sentence")
        request = yield from looked_for(request)
        request = yield Call("mesh_inbox", {})
        self.proof("wakes", request.count(FIRST) > 0, "the turn did not have the mail")
        self.read.set()
        request = yield "I have read it."
        while request.count(LAST) == 0:
            if self.after:
                request = yield Call("mesh_send", {"to": self.after, "message": BALL})
                self.played.set()
            request = yield "Sent."
        self.last.set()
        yield "I have read that, too."

    def wakes(self, word):
        """How the broker tried to wake the session for the human's message with this word, as "channel: how"."""
        return self.hall.receipts(word, "human", self.peer)


class Hall:
    """One home, one project and one mesh, which all agents share."""

    def __init__(self, base, program, name="wakes"):
        self.base, self.root = base, base / "run" / name
        shutil.rmtree(self.root, ignore_errors=True)
        self.home, self.work, self.bin = self.root / "home", self.root / "work", self.root / "bin"
        self.log = self.root / "hooks"
        for path in (self.home, self.work, self.bin / "real", self.log):
            path.mkdir(parents=True)
        self.program = self.bin / "real/slm-mesh"
        shutil.copy(program, self.program)
        shutil.copy(program, self.bin / "slm-mesh")
        # Longer than the default, so that hooks do not run out of time on a busy machine.
        (self.home / ".slm-mesh").mkdir(mode=0o700)
        (self.home / ".slm-mesh/config").write_text("SLM_MESH_HOOK_BUDGET_MS=1500\n")
        self.env = {"HOME": str(self.home), "LANG": "C.UTF-8", "USER": "tester", "SHELL": "/bin/sh"}
        self.env["PATH"] = self.path()
        subprocess.run(["git", "init", "-q", str(self.work)], check=True, env=self.env)

    def path(self, *agents):
        node = Path(shutil.which("node")).resolve().parent
        folders = [agent.programs(self.base) for agent in agents]
        return ":".join(map(str, [self.bin, *folders, node, "/usr/local/bin", "/usr/bin", "/bin"]))

    def mesh(self, *words):
        done = subprocess.run([str(self.program), *words, "--json"], env=self.env, cwd=self.work, capture_output=True,
                              text=True, timeout=20)
        return json.loads(done.stdout or "null")

    def setup(self, agents):
        env = {**self.env, "PATH": self.path(*agents)}
        names = [agent.name for agent in agents]
        done = subprocess.run([str(self.bin / "slm-mesh"), "setup", *names, "--wake"], env=env, cwd=self.work,
                              capture_output=True, text=True, timeout=120)
        (self.root / "setup.txt").write_text(done.stdout + done.stderr)
        # The stand-in replaces the program only after set-up, because set-up registers the program by which it is run.
        (self.bin / "slm-mesh").unlink()
        (self.bin / "slm-mesh").write_text(STAND_IN.format(real=self.program, log=self.log))
        (self.bin / "slm-mesh").chmod(0o755)
        return done.returncode == 0

    def has(self, peer):
        return any(one["name"] == peer for one in self.mesh("peers", "--as", "human")["peers"])

    def receipts(self, word, sender, to):
        sent = self.mesh("inbox", "--filter", "sent", "--as", sender)["messages"]
        fits = [message for message in sent if word in message["payload"] and to in json.dumps(message)]
        return [f"{wake['channel']}: {wake['how']}" for message in fits for wake in message.get("wakes") or []]

    @staticmethod
    def until(seconds, holds):
        """Waits until the condition holds. Returns whether it did."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if holds():
                return True
            time.sleep(0.2)
        return False


def woken(one):
    """Mail to a session in the midst of a turn that a person began; then mail to the same session while it is idle."""
    one.window.say("Look around.")
    over = one.seen.wait(BEGINS_SECONDS) and one.hall.until(BEGINS_SECONDS, one.has_stopped)
    one.proof("busy", over, "that turn did not end")
    one.hall.mesh("send", one.peer, FIRST)
    sent = f"{SURFACE[one.agent.name]}: sent"
    one.proof("wakes", one.read.wait(WOKEN_SECONDS), "no turn began, or it did not end")
    one.hall.until(WOKEN_SECONDS, lambda: one.wakes(FIRST))
    one.proof("wakes", one.wakes(FIRST) == [sent], f"its receipt: {one.wakes(FIRST)}")
    one.proof("busy", one.wakes(BUSY) == [], f"its receipt: {one.wakes(BUSY)}")


def around(hall, all_):
    """Each session that is woken wakes the next one."""
    for one, after in zip(all_, [*all_[1:], all_[0]]):
        one.after = after.peer
    first, second = all_[0], all_[1]
    hall.mesh("send", first.peer, BALL)
    held = "none: held back: these agents would otherwise keep waking each other"

    def passes(one):
        return hall.receipts(BALL, one.peer, one.after)

    hall.until(AROUND_SECONDS, lambda: held in passes(first))
    for one in all_:
        sent = [wake for wake in passes(one) if wake.endswith(": sent")]
        one.proof("circle", one.played.is_set() and len(sent) == 1, f"rings by it: {passes(one)}")
    for one in (first, second):
        one.proof("circle", held in passes(first), f"receipts: {passes(first)}")
    for one in all_:
        one.after = None


def rewoken(one):
    """The session's inbox socket is removed, so a hook in the background must wake the session."""
    # Mail that comes in before the turn of the session has ended is shown at the end of that turn, and wakes nobody.
    one.proof("rewake", one.hall.until(BEGINS_SECONDS, one.has_stopped), "its last turn did not end")
    for path in sockets(one.window.child.pid):
        path.unlink(missing_ok=True)
    one.hall.mesh("send", one.peer, LAST)
    one.proof("rewake", one.last.wait(WOKEN_SECONDS), "no turn began")
    tried = one.wakes(LAST)
    holds = len(tried) == 2 and tried[0].startswith("session inbox: failed") and tried[1] == "background hook: sent"
    one.proof("rewake", holds, f"its receipt: {tried}")


def sockets(pid):
    """The inbox sockets of Claude Code, according to the environment of the processes below it."""
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        for below in child.read_text().split():
            env = Path(f"/proc/{below}/environ").read_text().split("\0")
            yield from (Path(line.split("=", 1)[1]) for line in env if line.startswith("CLAUDE_CODE_MESSAGING_SOCKET="))


def prove(agents, base, program):
    """For each agent, whether its proofs held, or why not."""
    agents = [agent for agent in agents if agent.name in SURFACE]
    if not agents:
        return {}
    hall = Hall(base, program)
    all_ = [Awake(hall, agent) for agent in agents]
    try:
        if not hall.setup(agents):
            return {one.agent.name: {name: "set-up failed: see setup.txt" for name, _ in WAKES} for one in all_}
        here = [one for one in all_ if one.proof("wakes", one.open(), "its first turn did not call our tool")]
        for one in here:
            woken(one)
        if len(here) > 1:
            around(hall, here)
        for one in here:
            if one.agent.name == "claude":
                rewoken(one)
        for one in all_:
            one.proof("wakes", one.model.trouble is None, one.model.trouble)
    finally:
        for one in all_:
            if one.window:
                one.window.close()
            one.model.shutdown()
        hall.mesh("stop")
    return {one.agent.name: one.found for one in all_}
