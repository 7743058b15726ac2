"""Two agents that use an installed slm-mesh as agents do: each is a process of its own that starts the MCP server
with the given command, and whose shell runs the same command."""

import json
import os
import subprocess
import sys
import time

PATIENCE_SECONDS = 60
# The program of an agent. Its MCP server inherits its standard input and output. Each line from one pipe is a command
# for its shell; the command's output and exit status go to the other pipe.
AGENT = """
import json, os, subprocess, sys
os.write(int(sys.argv[2]), b"ready\\n")
server = subprocess.Popen(sys.argv[3:])
for line in os.fdopen(int(sys.argv[1])):
    done = subprocess.run(line, shell=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    os.write(int(sys.argv[2]), json.dumps([done.returncode, done.stdout + done.stderr]).encode() + b"\\n")
sys.exit(server.wait())
"""


class Agent:
    """An agent with its MCP server."""

    def __init__(self, name, command, env, folder):
        reads, self.shell_input = os.pipe()
        self.shell_output, writes = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", AGENT, str(reads), str(writes), *command, "mcp"], pass_fds=(reads, writes), cwd=folder,
            env={**env, "SLM_MESH_NAME": name}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        os.close(reads)
        os.close(writes)
        self.n_requests = 0
        # Python itself takes longer to start than slm-mesh, so its start is not part of the measured time.
        assert self.read_line() == b"ready\n"
        begun = time.monotonic()
        client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": name, "version": "1"}}
        assert self.request("initialize", client)["serverInfo"]["name"] == "slm-mesh"
        self.write({"method": "notifications/initialized"})
        assert len(self.request("tools/list", {})["tools"]) == 8
        self.tool("mesh_status", {})
        self.seconds = time.monotonic() - begun

    def write(self, message):
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self.process.stdin.flush()

    def request(self, method, params):
        self.n_requests += 1
        self.write({"id": self.n_requests, "method": method, "params": params})
        for line in self.process.stdout:
            message = json.loads(line)
            if message.get("id") == self.n_requests:
                assert "error" not in message, message
                return message["result"]
        raise AssertionError(f"the server ended before it answered {method}")

    def tool(self, name, arguments):
        result = self.request("tools/call", {"name": name, "arguments": arguments})
        assert not result.get("isError"), result
        return result["content"][0]["text"]

    def shell(self, line):
        """Runs a line in this agent's shell."""
        os.write(self.shell_input, line.encode() + b"\n")
        status, said = json.loads(self.read_line())
        return status, said

    def read_line(self):
        line = b""
        while not line.endswith(b"\n"):
            more = os.read(self.shell_output, 65536)
            assert more, "the agent ended"
            line += more
        return line

    def end(self):
        """Ends the agent, which closes its server's input and waits until the server has ended."""
        self.process.stdin.close()
        os.close(self.shell_input)
        status = self.process.wait(PATIENCE_SECONDS)
        os.close(self.shell_output)
        assert status == 0, f"the server ended with {status}"


def prove(command, env, folder):
    """Two agents exchange a message, a verb in an agent's shell acts as that agent, and doctor finds nothing wrong.
    Returns how many seconds each agent needed from its start to its first tool result."""
    ann, bob = (Agent(name, command, env, folder) for name in ("ann", "bob"))
    ann.tool("mesh_send", {"to": "bob", "message": "the schema changed"})
    assert "the schema changed" in bob.tool("mesh_inbox", {})
    for agent, name in ((ann, "ann"), (bob, "bob")):
        status, said = agent.shell(f"{' '.join(command)} whoami --json")
        assert status == 0 and json.loads(said)["you"]["name"] == name, said
    status, said = ann.shell(f"{' '.join(command)} doctor")
    assert status == 0, said
    ann.end()
    bob.end()
    subprocess.run([*command, "stop"], env=env, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return ann.seconds, bob.seconds
