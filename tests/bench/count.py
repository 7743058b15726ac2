"""Counts the instructions of a verb, a tool call, a message and a hook, in their own process and in the broker.

`make count` prints them beside the values of counts.txt, which the last merged change recorded there; `make count
STATIC=1 RECORD=1` writes that file. Callgrind counts the same on a busy machine as on a quiet one, so a slow-down shows
here where a clock cannot see it. A different compiler, C library or processor moves every row a little.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import tempfile
import time

LANDED = pathlib.Path(__file__).with_name("counts.txt")
TITLE = "# Instructions of the static program: own process, broker. `make count STATIC=1 RECORD=1` writes this file."
PATIENCE_SECONDS = 30
VALUE = "the API listens on 8080 until the new gateway is deployed; ask claude-api before you change it"
# Uncounted runs before the counted ones: the first run prepares statements, registers a peer or wakes a thread.
N_WARM = 5
# Counted processes. The result is their median, since the broker sometimes tidies up in between.
N_PROCESSES = 5
# Counted calls. The result is their mean.
N_CALLS = 100
# A smaller growth of a row may be due to chance, because the seeds of hash tables differ in each process.
NOTABLE = 0.03


def collected(report):
    """The instructions that callgrind says it counted."""
    return int(re.search(r"Collected : (\d+)", report)[1])


class Mesh:
    """A mesh whose broker runs under callgrind."""

    def __init__(self, program, folder):
        self.program, self.folder = program, folder
        self.env = {
            "HOME": str(folder), "PATH": os.environ["PATH"], "SLM_MESH_DATA_DIR": str(folder / "mesh"),
            "SLM_MESH_PORT": str(20_000 + os.getpid() % 40_000), "SLM_MESH_IDLE_TIMEOUT": "0", "SLM_MESH_RATE": "1000000",
        }
        self.n_dumps = 0
        command = [*self.callgrind(folder / "broker.out"), "--separate-threads=yes", program, "start", "--json"]
        log = open(folder / "broker.log", "w")
        self.broker = subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, stderr=log, text=True)
        assert '"ok":true' in self.broker.stdout.readline(), (folder / "broker.log").read_text()

    def callgrind(self, output):
        return ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}"]

    def run(self, words, stdin=""):
        """Runs a verb without counting it."""
        done = subprocess.run([self.program, *words], env=self.env, input=stdin, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def count(self, words, stdin=""):
        """The instructions of a verb."""
        command = [*self.callgrind("/dev/null"), self.program, *words]
        done = subprocess.run(command, env=self.env, input=stdin, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return collected(done.stderr)

    def broker_count(self):
        """The instructions of the broker's loop since the previous call of this method. The broker's other threads are
        left out, since they run at unpredictable times."""
        self.n_dumps += 1
        subprocess.run(["vgdb", f"--pid={self.broker.pid}", "dump"], check=True, capture_output=True)
        dump = (self.folder / f"broker.out.{self.n_dumps}-01").read_text()
        return int(re.search(r"^totals: (\d+)", dump, re.MULTILINE)[1])

    def row_of_process(self, words, stdin=""):
        """What a verb costs in its own process and in the broker."""
        for _ in range(N_WARM):
            self.run(words, stdin)
        self.broker_count()
        counts = [(self.count(words, stdin), self.broker_count()) for _ in range(N_PROCESSES)]
        return tuple(statistics.median(column) for column in zip(*counts))

    def row_of_call(self, name, arguments):
        """What a tool call costs in its session and in the broker: the difference between a longer and a shorter
        session."""
        self.session(name, arguments, N_WARM)
        self.broker_count()
        short = (self.session(name, arguments, N_WARM), self.broker_count())
        long = (self.session(name, arguments, N_WARM + N_CALLS), self.broker_count())
        return tuple((more - less) // N_CALLS for more, less in zip(long, short))

    def session(self, name, arguments, n_calls):
        """The instructions of a session that makes some calls of a tool, one after the other."""
        command = [*self.callgrind("/dev/null"), self.program, "mcp"]
        log = tempfile.TemporaryFile("w+")
        pipe = subprocess.PIPE
        session = subprocess.Popen(command, env=self.env, stdin=pipe, stdout=pipe, stderr=log, text=True)
        client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "counter", "version": "1"}}
        calls = [("tools/call", {"name": name, "arguments": arguments})] * n_calls
        for number, (method, params) in enumerate([("initialize", client), *calls]):
            session.stdin.write(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}) + "\n")
            session.stdin.flush()
            answer = json.loads(session.stdout.readline())
            assert answer["id"] == number and not answer["result"].get("isError"), answer
        session.stdin.close()
        assert session.wait(PATIENCE_SECONDS) == 0
        log.seek(0)
        return collected(log.read())

    def stop(self):
        self.run(["stop"])
        self.broker.wait(PATIENCE_SECONDS)


def hook_input(folder):
    """The input that an agent gives its hook after a command."""
    return json.dumps({
        "session_id": "counted", "cwd": str(folder), "hook_event_name": "PostToolUse", "tool_name": "Bash",
        "tool_input": {"command": "cargo test", "description": "Run the tests"}, "tool_use_id": "toolu_01",
        "tool_response": {"stdout": "test result: ok. 212 passed\n" * 40, "stderr": "", "interrupted": False},
    })


def measured(program):
    """Each row: its name, and the instructions of its own process and of the broker."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="slm-mesh-count-"))
    try:
        mesh = Mesh(program, folder)
        mesh.run(["state", "set", "port", VALUE])
        rows = {
            "verb: state get": mesh.row_of_process(["state", "get", "port"]),
            "tool call: mesh_state get": mesh.row_of_call("mesh_state", {"action": "get", "key": "port"}),
            "tool call: mesh_send": mesh.row_of_call("mesh_send", {"to": "human", "message": VALUE}),
            "hook after a command, no mail": mesh.row_of_process(["hook", "claude"], hook_input(folder)),
        }
        mesh.stop()
        return rows
    finally:
        shutil.rmtree(folder)


def landed():
    """The rows of counts.txt; none if the file does not exist yet."""
    lines = LANDED.read_text().splitlines() if LANDED.exists() else []
    fields = [line.rsplit(None, 2) for line in lines if line and not line.startswith("#")]
    return {name: (int(own), int(broker)) for name, own, broker in fields}


def cell(now, before):
    """A count, and by how much it differs from the recorded count."""
    if not before:
        return f"{now:>10,} {'':8}"
    growth = now / before - 1
    return f"{now:>10,} {growth:+7.1%}{'!' if growth > NOTABLE else ' '}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    began = time.monotonic()
    rows = measured(os.path.abspath(arguments.program))
    before = landed()
    print(f"{'instructions (against the landed value)':40} {'own process':>19}  {'broker':>19}")
    for name, counts in rows.items():
        cells = (cell(now, then) for now, then in zip(counts, before.get(name, (0, 0))))
        print(f"{name:40} " + "  ".join(cells))
    print(f"counted in {time.monotonic() - began:.0f} s")
    if arguments.record:
        lines = [f"{name:40} {own:>10} {broker:>10}" for name, (own, broker) in rows.items()]
        LANDED.write_text("\n".join([TITLE, *lines, ""]))


main()
