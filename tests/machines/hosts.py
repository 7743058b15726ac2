"""Hosts on one network: a switch with a cable to each, and on each host a home, a host name and the program."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from namespaces import COUNTERS, PATIENCE_SECONDS, Machine, Running, run, until

HERE = Path(__file__).resolve().parent
SECRET = "correct horse battery staple"
LIBRARIES = sorted(str(path) for path in Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


class Missing(Exception):
    """A tool without which a proof can't be made."""


class Exempt(Missing):
    """A missing thing for which a proof may be skipped even with SLM_MESH_TEST_ALL=1."""


def faketime():
    found = [path for path in LIBRARIES if Path(path).exists()]
    if not found:
        raise Missing("libfaketime is not installed")
    return found[0]


class Net:
    """A switch, and hosts that are plugged into it."""

    def __init__(self, program, scratch, secret=SECRET):
        self.program, self.scratch, self.secret = program, Path(scratch), secret
        self.hosts = []
        self.switch = Machine()
        self.switch.ip("link", "add", "switch", "type", "bridge")
        self.switch.ip("link", "set", "switch", "up")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for host in self.hosts:
            host.remove()
        self.switch.remove()

    def host(self, name, **settings):
        """A host with these settings in its `config` file."""
        host = Host(self, name, len(self.hosts) + 1)
        self.hosts.append(host)
        host.plug_in()
        host.configure(**settings)
        return host

    def hub(self, name="desk", **more):
        host = self.host(name, SLM_MESH_HOST="0.0.0.0", SLM_MESH_SHARED_SECRET=self.secret, **more)
        host.ok("start", "--detach")
        return host

    def guest(self, name, hub, **more):
        return self.host(name, SLM_MESH_HOST=hub.address, SLM_MESH_SHARED_SECRET=self.secret, **more)


class Host(Machine):
    """A machine with a home, a host name, and a file /etc/hosts of its own."""

    def __init__(self, net, name, number):
        super().__init__()
        self.net, self.host_name, self.port = net, name, f"port{number}"
        self.address = f"10.78.0.{number}"
        self.home = net.scratch / f"{self.name}-{name}"
        self.dir = self.home / ".slm-mesh"
        self.home.mkdir(parents=True)
        self.etc = Path("/etc/netns") / self.name
        self.clock = {}

    def plug_in(self):
        run("ip", "link", "add", "lan0", "netns", self.name, "type", "veth", "peer", "name", self.port, "netns",
            self.net.switch.name)
        self.net.switch.ip("link", "set", self.port, "master", "switch", "up")
        self.go_online()

    def plug_in_badly(self, ms, percent, seed):
        """Plugs the host in with a cable that delays every frame and loses some frames."""
        self.ip("link", "del", "lan0")
        far_end = f"far{self.port}"
        wire = Running(self.net.switch.command(sys.executable, HERE / "wire.py", self.port, far_end, ms, percent, seed))
        wire.line()
        self.net.switch.ip("link", "set", far_end, "name", "lan0", "netns", self.name)
        self.net.switch.ip("link", "set", self.port, "master", "switch", "up")
        self.go_online()

    def go_online(self):
        self.ip("addr", "add", f"{self.address}/24", "dev", "lan0")
        self.ip("link", "set", "lan0", "up")
        self.ip("route", "add", "224.0.0.0/4", "dev", "lan0")

    def pull(self):
        """Pulls the cable: both sides learn only that there is no carrier."""
        self.net.switch.ip("link", "set", self.port, "down")

    def plug_back(self):
        self.net.switch.ip("link", "set", self.port, "up")

    def configure(self, **settings):
        self.dir.mkdir(mode=0o700, exist_ok=True)
        (self.dir / "config").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def knows(self, name, address):
        """Adds a line to the host's /etc/hosts, which `ip netns` lays over the machine's."""
        self.etc.mkdir(parents=True, exist_ok=True)
        with open(self.etc / "hosts", "a") as file:
            file.write(f"{address} {name}\n")

    def remove(self):
        super().remove()
        shutil.rmtree(self.etc, ignore_errors=True)

    def command(self, *words):
        """The command line that runs a command on this host, under the host's name."""
        start = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.host_name]
        return super().command(*start, *words)

    def clock_is_off(self, by):
        """Makes the clock wrong for all that is started here from now on: the time of day, but not the monotonic
        clock."""
        self.clock = {"LD_PRELOAD": faketime(), "FAKETIME": by, "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                      "DONT_FAKE_MONOTONIC": "1"}
        told, wanted = int(self.shell("date +%s").stdout) - time.time(), 3600 * int(by.rstrip("h"))
        assert abs(told - wanted) < 60, f"the clock is off by {told} s"

    def env(self, **more):
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), **COUNTERS, **self.clock, **more}

    def run(self, *words, cwd=None, **env):
        return subprocess.run(self.command(self.net.program, *words), capture_output=True, text=True, cwd=cwd or self.home,
                              env=self.env(**env), stdin=subprocess.DEVNULL, timeout=PATIENCE_SECONDS)

    def ok(self, *words, **how):
        done = self.run(*words, **how)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def json(self, *words, **how):
        return json.loads(self.ok(*words, "--json", **how))

    def shell(self, line, **env):
        return subprocess.run(self.command("sh", "-c", line), capture_output=True, text=True, cwd=self.home,
                              env=self.env(**env), stdin=subprocess.DEVNULL, timeout=PATIENCE_SECONDS)

    def start(self, *words, cwd=None, **env):
        """Starts a verb (subcommand), and leaves it running."""
        return subprocess.Popen(self.command(self.net.program, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, cwd=cwd or self.home, env=self.env(**env), stdin=subprocess.DEVNULL)

    def session(self, client, folder, **env):
        where = self.home / folder
        where.mkdir(parents=True, exist_ok=True)
        return Session(self, client, where, env)

    def clone(self, folder, origin):
        """Makes a folder with only those files of a git clone that slm-mesh reads."""
        git = self.home / folder / ".git"
        git.mkdir(parents=True)
        (git / "HEAD").write_text("ref: refs/heads/main\n")
        (git / "config").write_text(f'[remote "origin"]\n\turl = {origin}\n')
        return self.home / folder

    def broker_pid(self):
        return int((self.dir / "broker.pid").read_text())

    def kill_broker(self):
        os.kill(self.broker_pid(), signal.SIGKILL)

    def log(self):
        return (self.dir / "broker.log").read_text()

    def peak_bytes(self):
        """The most memory that the broker ever had."""
        status = Path(f"/proc/{self.broker_pid()}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10


class Session:
    """An agent's MCP session."""

    def __init__(self, host, client, where, env):
        self.host, self.where, self.n, self.answers = host, where, 0, {}
        self.said = (host.home / f"{client}-{where.name}.err").open("w+")
        self.running = Running(host.command(host.net.program), host.env(**env), cwd=where, stderr=self.said)
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": client, "version": "1"}}
        self.answer(self.ask("initialize", hello))
        self.write({"jsonrpc": "2.0", "method": "notifications/initialized"})
        self.id, self.name = None, None
        self.is_met()

    def is_met(self):
        """Asks who the session is on the mesh. Returns false if the hub can't be reached, so that the caller asks
        again."""
        try:
            you = self.call("peers", scope="machine")["you"]
            self.id, self.name = you["id"], you["name"]
        except Fault as fault:
            assert fault.value["kind"] == "gone", fault
        return self.name is not None

    def write(self, value):
        self.running.process.stdin.write(json.dumps(value) + "\n")
        self.running.process.stdin.flush()

    def ask(self, method, params):
        self.n += 1
        self.write({"jsonrpc": "2.0", "id": self.n, "method": method, "params": params})
        return self.n

    def answer(self, n):
        """The answer to this request. Answers to other requests are kept until somebody asks for them."""
        while n not in self.answers:
            line = self.running.line()
            self.answers[line.get("id")] = line
        return self.answers.pop(n)["result"]

    def begin(self, tool, **arguments):
        return self.ask("tools/call", {"name": f"mesh_{tool}", "arguments": arguments})

    def end(self, n):
        result = self.answer(n)
        value = json.loads(result["content"][0]["text"])
        if result.get("isError"):
            raise Fault(value)
        return value

    def call(self, tool, **arguments):
        return self.end(self.begin(tool, **arguments))

    def mail(self):
        return self.call("inbox")["messages"]

    def complaints(self):
        return Path(self.said.name).read_text()

    def close(self):
        return self.running.end()


class Fault(Exception):
    """The error with which a call was refused."""

    def __init__(self, value):
        super().__init__(json.dumps(value))
        self.value = value
