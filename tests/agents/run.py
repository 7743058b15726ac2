#!/usr/bin/env python3
"""Real coding agents, without an account, against a model on loopback: checks which parts of the mesh reach their
model, which edits happen, and what wakes an idle session. `make test-agents` runs it; `run.py [AGENT…]` runs only some
agents.

Each agent is installed once by npm or pip, at the version in its class, into target/agents. It then runs in a network
namespace that has only loopback (which needs root), with an empty environment, a home of its own and dummy keys. Set-up
connects the agent with slm-mesh as it would for a user. What each agent was shown, did and said stays in
target/agents/run. Exit status: 0 when every proof holds."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import agents
import sessions
import shell
import verb_agents
import wakes
from model import Call, Model, looked_for

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
BASE = Path(os.environ.get("SLM_MESH_AGENTS_DIR", TOP / "target/agents"))
INSIDE = "SLM_MESH_AGENTS_INSIDE"
RUN_SECONDS, STOPS_SECONDS = 120, 30

PROOFS = [
    ("tools", "the MCP server starts, the model is offered all eight tools, and a call of one comes back"),
    ("start", "mail that waited is shown to the model in its first request"),
    ("prompt", "mail that came in after the session's start is shown with the prompt"),
    ("tool", "mail that came in during a tool call is shown in the next request"),
    ("once", "no message is shown twice"),
    ("denied", "an edit of a locked file does not happen, and the model reads who holds it and why"),
    ("edit", "an edit of a free file happens, and the file is locked for this session meanwhile"),
    ("freed", "that lock falls when the turn ends"),
    ("stop", "direct mail that came in at the end keeps it going, exactly once"),
    ("kept", "mail at the end of a run that can't go on stays unread for the next one"),
    ("one", "hooks and MCP server are one peer, also in the next run"),
]

ALL_PROOFS = PROOFS + shell.SHELL + wakes.WAKES + sessions.SESSIONS + verb_agents.VERBS
# The proofs for an agent without MCP.
VERB_PROOFS = ["one", "verb"] + [name for name, _ in verb_agents.VERBS]

# Replaces slm-mesh during a run, and keeps the input and output of each hook. Before it runs the second hook of the
# session, it waits until the first hook has ended (some agents start both at once), and then sends mail. Since it is a
# script with the program's name, the broker takes it for the program itself.
STAND_IN = """#!/bin/sh
if [ "$1" != hook ] || [ $# -gt 2 ]; then exec '{real}' "$@"; fi
n=$(date +%s%N)
cat > '{log}'/$n.in
if mkdir '{log}/first' 2>/dev/null; then
  first=1
elif mkdir '{log}/second' 2>/dev/null && [ -n '{mail}' ]; then
  for _ in 1 2 3 4 5 6 7 8 9; do [ -d '{log}/through' ] || sleep 0.1; done
  '{real}' send {peer} '{mail}' > /dev/null 2>&1
fi
'{real}' "$@" < '{log}'/$n.in > '{log}'/$n.part 2> '{log}'/$n.err
status=$?
[ -z "$first" ] || mkdir '{log}/through'
cat '{log}'/$n.part
mv '{log}'/$n.part '{log}'/$n.out
exit $status
"""


class Stage:
    """One agent's place: its home, its project, its own mesh."""

    def __init__(self, agent, program, model):
        self.agent, self.model = agent, model
        self.root = BASE / "run" / (agent.name + agent.way)
        shutil.rmtree(self.root, ignore_errors=True)
        self.home, self.work, self.bin = self.root / "home", self.root / "work", self.root / "bin"
        self.log = self.root / "hooks"
        for path in (self.home, self.work, self.bin / "real", self.log):
            path.mkdir(parents=True)
        shutil.copy(program, self.bin / "slm-mesh")
        shutil.copy(program, self.bin / "real/slm-mesh")
        self.peer = agent.peer()
        node = Path(shutil.which("node")).resolve().parent
        self.path = f"{self.bin}:{agent.programs(BASE)}:{node}:/usr/local/bin:/usr/bin:/bin"
        port = model.server_address[1]
        self.env = {"HOME": str(self.home), "PATH": self.path, "LANG": "C.UTF-8", "TERM": "dumb", "USER": "tester",
                    "SHELL": "/bin/sh", **agent.environment(port)}
        self.ran = 0
        subprocess.run(["git", "init", "-q", str(self.work)], check=True, env=self.env)
        agent.settings(self.home, self.work, port)

    def mesh(self, *words):
        """Runs one of our verbs as the human (the person who owns the machine). Returns its answer."""
        command = [str(self.bin / "real/slm-mesh"), *words, "--json"]
        done = subprocess.run(command, env=self.env, cwd=self.work, capture_output=True, text=True, timeout=20)
        return json.loads(done.stdout or "null")

    def stand_in(self, mail):
        path = self.bin / "slm-mesh"
        path.unlink()
        path.write_text(STAND_IN.format(real=self.bin / "real/slm-mesh", log=self.log, mail=mail, peer=self.peer))
        path.chmod(0o755)

    def plain(self):
        path = self.bin / "slm-mesh"
        path.unlink()
        shutil.copy(self.bin / "real/slm-mesh", path)

    def setup(self):
        if self.agent.is_registered_by_hand:
            return True
        # With --wake, mail may wake the agent in these runs, too. A run without a window still ends. A session that
        # stays open is set up without --wake, since the last mail of the play would begin another turn.
        wake = ["--wake"] if self.agent.name in wakes.SURFACE and not self.agent.opens_by_prompt else []
        *first, last = self.agent.connect(str(self.bin / "slm-mesh"))
        return all(self.connected(command) for command in [*first, last + (wake if not self.agent.way else [])])

    def connected(self, command):
        """Whether a command that connects the agent succeeded. What it printed is kept."""
        found = shutil.which(command[0], path=self.path)
        done = subprocess.run([found, *command[1:]], env=self.env, cwd=self.work, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=120)
        with open(self.root / "setup.txt", "a") as file:
            file.write(done.stdout + done.stderr)
        return done.returncode == 0

    def run(self, prompt, play):
        """Runs the agent once, to its end. Returns its last line if it failed."""
        self.model.perform(play)
        self.ran += 1
        command = self.agent.command(prompt, self.ran > 1)
        answers = self.agent.answers
        with open(self.root / f"out-{self.ran}.txt", "wb") as out:
            child = subprocess.Popen(command, env=self.env, cwd=self.work, text=True, stdout=out,
                                     stdin=subprocess.PIPE if answers else subprocess.DEVNULL,
                                     stderr=subprocess.STDOUT, executable=shutil.which(command[0], path=self.path),
                                     start_new_session=True)
            try:
                child.communicate(answers, RUN_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, 9)
                child.wait()
                return f"no end after {RUN_SECONDS} s"
        said = (self.root / f"out-{self.ran}.txt").read_text(errors="replace").strip().splitlines() or [""]
        return None if child.returncode == 0 else f"exit status {child.returncode}: {said[-1][:200]}"

    def has_stopped(self):
        """Waits until the first turn has ended. Returns whether it did."""
        end = time.monotonic() + STOPS_SECONDS
        while time.monotonic() < end:
            told = [path for path in self.log.glob("*.in") if '"Stop"' in path.read_text()]
            if any(path.with_suffix(".out").exists() for path in told):
                return True
            time.sleep(0.1)
        return False

    def has_online(self, peer):
        return any(one["name"] == peer for one in self.mesh("peers")["peers"])

    def locks(self):
        return {Path(lock["filePath"]).name: lock["holder"] for lock in self.mesh("lock", "list")["locks"]}

    def end(self):
        self.mesh("stop")
        end_leftovers(self.home)


def end_leftovers(home):
    """Ends what an agent left running in the background: all processes with this home."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={home}" in (folder / "environ").read_text(errors="replace").split("\0"):
                os.kill(int(folder.name), signal.SIGKILL)
        except OSError:
            pass  # the process has ended, or is not ours


class Proofs:
    """Which proofs held, and why the others did not."""

    def __init__(self):
        self.found = {}

    def __call__(self, proof, holds, why=""):
        """Notes the result of a proof. A proof that failed once stays failed."""
        if self.found.get(proof, True) is True:
            self.found[proof] = True if holds else why or "no"


START, PROMPT, TOOL, STOP, LAST = WORDS = [f"{tree}-arrives" for tree in ("walnut", "maple", "cherry", "elm", "oak")]


def first_play(stage, proof):
    """The play of a whole turn: a mesh tool, a locked file, a free file, and mail whenever a hook can show it."""
    agent, work = stage.agent, stage.work
    request = yield
    if agent.opens_by_prompt:
        # Mail is sent only once the turn is over: mail that comes in earlier would keep the turn going.
        threading.Thread(target=lambda: stage.has_stopped() and stage.mesh("send", stage.peer, PROMPT)).start()
        request = yield "Good day."
    proof("prompt", request.count(PROMPT) > 0, "not in its request")
    request = yield from looked_for(request)
    missing = [name for name in MESH_TOOLS if name not in request.offers()]
    proof("tools", not missing, f"not offered: {', '.join(missing)}")
    stage.mesh("send", stage.peer, TOOL)
    request = yield Call("mesh_status", {})
    # No description of a tool contains this field name, so it can only come from the result.
    proof("tools", request.count("messagesPer10s") > 0, "the result did not reach the model")
    proof("tool", request.count(TOOL) > 0, "not in the request after the tool")
    for tool, arguments in agent.write(work / "held.txt", "changed by the agent"):
        request = yield Call(tool, arguments)
    proof("denied", request.count("The file was not changed") == 1, "the model was not told")
    proof("denied", (work / "held.txt").read_text() == "as it was\n", "the file was changed")
    for tool, arguments in agent.write(work / "free.txt", "written by the agent"):
        request = yield Call(tool, arguments)
    written = (work / "free.txt").read_text() if (work / "free.txt").exists() else "nothing"
    proof("edit", written.strip() == "written by the agent", f"the file holds {written!r}")
    proof("edit", stage.locks().get("free.txt") == stage.peer, f"locks: {stage.locks()}")
    stage.mesh("send", stage.peer, STOP)
    request = yield "The file is written."
    proof("stop", request.count(STOP) > 0, "went on without the mail")
    proof("freed", "free.txt" not in stage.locks(), "still locked")
    # More mail must not keep the agent from stopping, since mail has already made it go on once.
    stage.mesh("send", stage.peer, START)
    yield "I have read it."
    proof("stop", False, "went on a second time")


def second_play(stage, proof):
    """The play of a second run in the same folder, which must show the mail that the first run left unread."""
    request = yield
    proof("start", request.count(START) > 0, "not in the first request")
    yield from looked_for(request)
    yield Call("mesh_status", {})
    stage.mesh("send", stage.peer, LAST)
    yield "Done."


MESH_TOOLS = ["mesh_peers", "mesh_summary", "mesh_send", "mesh_inbox", "mesh_state", "mesh_lock", "mesh_events",
              "mesh_status"]


def shown_twice(requests):
    """The words that a single request contained more than once."""
    return [word for word in WORDS if any(request.count(word) > 1 for request in requests)]


def keep_inputs(stage, folder):
    """Writes what the hooks were told, one file for each event, with the folders renamed to /work and /home. If there
    are several edits, it keeps the edit of the locked file; if there are several tools, a tool of slm-mesh."""
    found = {}
    for path in sorted(stage.log.glob("*.in")):
        told = json.loads(path.read_text())
        event = told.get("hook_event_name") or copilot_event(told)
        event += "-active" if told.get("stop_hook_active") else ""
        text = json.dumps(told)
        if event not in found or "held.txt" in text and "PreToolUse BeforeTool preToolUse".count(event):
            found[event] = text.replace(str(stage.work), "/work").replace(str(stage.home), "/home")
            found[event] = found[event].replace(str(stage.bin), "/usr/bin").replace(str(stage.work).replace("/", "-"), "-work")
    folder.mkdir(parents=True, exist_ok=True)
    for event, text in found.items():
        told = json.loads(text)
        (folder / f"{stage.agent.name}-{event}.json").write_text(json.dumps(shortened(told), indent=2, ensure_ascii=False) + "\n")


def copilot_event(told):
    """The event of an input, recognised by its fields, since Copilot does not name it."""
    fields = {"toolResult": "postToolUse", "toolName": "preToolUse", "prompt": "userPromptSubmitted",
              "stopReason": "agentStop", "source": "sessionStart", "reason": "sessionEnd"}
    return next(event for field, event in fields.items() if field in told)


def shortened(value):
    """A value with its long texts cut."""
    if isinstance(value, dict):
        return {key: shortened(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shortened(one) for one in value]
    return value[:200] + "…" if isinstance(value, str) and len(value) > 200 else value


def open_stage(agent, program):
    """The agent's place, with a model of its own."""
    log = BASE / "run" / f"{agent.name}{agent.way}.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    return Stage(agent, program, Model(log, agent.has_tools))


def prove(agent, program, inputs):
    """Runs one agent. Returns its proofs."""
    proof, stage = Proofs(), open_stage(agent, program)
    model = stage.model
    try:
        if not stage.setup():
            return {name: "set-up failed: see setup.txt" for name, _ in PROOFS}
        (stage.work / "held.txt").write_text("as it was\n")
        stage.mesh("lock", "held.txt", "--reason", "the human rewrites it")
        stage.stand_in("" if agent.opens_by_prompt or "prompt" in agent.lacks else PROMPT)
        failed = stage.run("Write the files.", first_play(stage, proof))
        trouble, seen = model.trouble, len(model.requests)
        if "stop" not in proof.found:
            stage.mesh("send", stage.peer, START)
        proof("once", not shown_twice(model.requests), f"twice: {shown_twice(model.requests)}")
        stage.plain()
        failed = failed or stage.run("And now?", second_play(stage, proof))
        proof("once", not shown_twice(model.requests), f"twice: {shown_twice(model.requests)}")
        proof("freed", "free.txt" not in stage.locks(), "still locked")
        kept = [message["payload"] for message in stage.mesh("inbox", "--as", stage.peer).get("messages", [])]
        shown = any(request.count(LAST) for request in model.requests)
        proof("kept", shown or LAST in kept, "mail counts as read that the model never saw")
        peers = [peer["name"] for peer in stage.mesh("peers", "--all")["peers"] if peer["agentType"] != "human"]
        proof("one", peers == [stage.peer], f"peers: {peers}")
        tiers = prove_shell(stage, proof)
        if agent.has_shield:
            prove_shield(stage, proof)
        why = trouble or model.trouble or failed or f"ended after {seen} requests"
        if inputs:
            keep_inputs(stage, Path(inputs))
    finally:
        stage.end()
        model.shutdown()
    lacks = agent.lacks if agent.has_shield else {**agent.lacks, "shield": None}
    found = {name: None if name in lacks else proof.found.get(name, why) for name, _ in PROOFS + shell.SHELL}
    return {**found, "tiers": tiers}


def prove_verbs(agent, program):
    """Runs one agent without MCP. Returns its proofs."""
    proof, stage = Proofs(), open_stage(agent, program)
    failed = "set-up failed: see setup.txt"
    try:
        if stage.setup():
            failed = stage.run("Look around.", verb_agents.play(stage, proof, shell.say_who))
            proof("gone", verb_agents.has_left(stage), "it stayed after its process")
            failed = failed or stage.run("Once more.", verb_agents.play(stage, proof, shell.say_who))
            peers = [peer["name"] for peer in stage.mesh("peers", "--all")["peers"] if peer["agentType"] != "human"]
            proof("one", peers == [stage.peer], f"peers: {peers}")
    finally:
        stage.end()
        stage.model.shutdown()
    why = stage.model.trouble or failed or f"ended after {len(stage.model.requests)} requests"
    return {name: proof.found.get(name, why) for name in VERB_PROOFS}


def prove_shell(stage, proof):
    """Runs the agent once more, with shell commands that write the locked file. Returns what became of each."""
    tiers = {}
    shell.prepare(stage)
    stage.mesh("lock", "held.txt", "--reason", "the human rewrites it")
    failed = stage.run("Now by the shell.", shell.play(stage, proof, tiers))
    for name, _ in shell.SHELL:
        if name not in stage.agent.lacks and name != "shield":
            proof(name, name in proof.found, stage.model.trouble or failed or f"ended after {tiers}")
    return tiers


def prove_shield(stage, proof):
    """Runs the agent once more, with the shield that set-up can add."""
    proof("shield", stage.connected([str(stage.bin / "slm-mesh"), "setup", stage.agent.name, "--shield"]), "no set-up")
    stage.agent.forbid(stage.home, "touch")
    failed = stage.run("And in the shield.", shell.shielded_play(stage, proof))
    is_well = "shield" in proof.found and (not failed or stage.agent.fails_at_rule)
    proof("shield", is_well, stage.model.trouble or failed)


def install(agent):
    """Installs the agent from its registry, if need be. Returns the reason if that fails."""
    folder = BASE / agent.name
    folder.mkdir(parents=True, exist_ok=True)
    return None if agent.is_installed(BASE) else agent.install(folder)


def table(results):
    width = max(len(name) for name, _ in ALL_PROOFS)
    print()
    print(" ".join(["agent".ljust(18), *(name.ljust(width) for name, _ in ALL_PROOFS)]))
    for title, proofs in results.items():
        if isinstance(proofs, str):
            print(title.ljust(18), proofs)
            continue
        print(title.ljust(18), *(word(proofs.get(name)).ljust(width) for name, _ in ALL_PROOFS))
    print()
    for name, text in ALL_PROOFS:
        print(f"{name:8}{text}")
    for agent in agents.ALL:
        for name, why in agent.lacks.items() if any(title.startswith(agent.name) for title in results) else ():
            print(f"{agent.name}, {name}: none; {why}")
    for title, proofs in results.items():
        for name, why in () if isinstance(proofs, str) else proofs.items():
            if why not in (True, None):
                print(f"{title}, {name}: {why}")


def word(held):
    """A proof's cell in the table: `-` if the proof does not apply to the agent."""
    return "-" if held is None else "yes" if held is True else "no"


# The columns of the short table: what a reader wants to know about an agent, and the proofs that show it.
IN_SHORT = [
    ("mail at prompt", ["start", "prompt"]),
    ("mid-turn", ["tool"]),
    ("wakes idle", ["wakes"]),
    ("edit denied", ["denied"]),
    ("shell denied", ["shell"]),
    ("shell reported", ["report"]),
    ("set up by us", ["tools", "told", "one"]),
]


def shows(proofs, names):
    """Whether these proofs hold. Proofs that do not apply to the agent are ignored, but at least one must apply."""
    found = [proofs.get(name) for name in names]
    return True in found and all(held in (True, None) for held in found)


def in_short(results):
    print()
    print("| Agent | " + " | ".join(head for head, _ in IN_SHORT) + " |")
    print("|---" * (len(IN_SHORT) + 1) + "|")
    for title, proofs in results.items():
        if not isinstance(proofs, str):
            held = [shows(proofs, names) for _, names in IN_SHORT]
            held[-1] &= not any(agent.is_registered_by_hand for agent in agents.ALL if agent.title() == title)
            print(f"| {title} | " + " | ".join("yes" if one else "no" for one in held) + " |")


def main():
    parser = argparse.ArgumentParser(description="Run real agents against a model on loopback.")
    parser.add_argument("agent", nargs="*", help="which; all if none is named")
    parser.add_argument("--program", default=TOP / "target/release/slm-mesh", help="the slm-mesh to prove")
    parser.add_argument("--inputs", help="a folder for what the hooks were told: the test data of tests/captured.rs")
    given = parser.parse_args()
    chosen = [agent for agent in agents.ALL if not given.agent or agent.name in given.agent]
    if os.geteuid() != 0:
        sys.exit("Only root can make the network namespace in which the agents run.")
    if not os.environ.get(INSIDE):
        for agent in chosen:
            trouble = install(agent)
            if trouble:
                print(f"{agent.name} can't be installed: {trouble}")
        os.environ[INSIDE] = "1"
        again = 'ip link set lo up && exec "$@"'
        os.execvp("unshare", ["unshare", "--net", "sh", "-c", again, "sh", sys.executable, *sys.argv])
    results = {}
    for agent in chosen:
        title = agent.title()
        if not (agent.programs(BASE) / agent.program).exists():
            results[title] = "not installed"
            continue
        began = time.monotonic()
        program = Path(given.program).resolve()
        results[title] = prove(agent, program, given.inputs) if agent.has_tools else prove_verbs(agent, program)
        tiers = results[title].pop("tiers", {})
        done = "; ".join(f"{name}: {tier}" for name, tier in tiers.items())
        print(f"{title}: {time.monotonic() - began:.0f} s{'; shell ' if done else ''}{done}", flush=True)
    here = [agent for agent in chosen if not agent.way and not isinstance(results[agent.title()], str)]
    for what, prove_all in [("idle sessions", wakes.prove), ("pairs of sessions", sessions.prove)]:
        began = time.monotonic()
        for name, proofs in prove_all(here, BASE, Path(given.program).resolve()).items():
            results[next(title for title in results if title.startswith(name))].update(proofs)
        print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)
    table(results)
    in_short(results)
    good = all(not isinstance(proofs, str) and all(held in (True, None) for held in proofs.values())
               for proofs in results.values())
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
