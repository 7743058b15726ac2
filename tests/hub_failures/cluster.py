"""Three members of etcd, three hubs, and the faults that happen to them."""

import json
import os
import signal
import subprocess
import time
import urllib.request

MEMBERS = 3
HUBS = 3
LEASE = 2
SECRET = "a secret of several hubs"


def environment(**settings):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLM_MESH")}
    return {**kept, "SLM_MESH_SHARED_SECRET": SECRET, "SLM_MESH_DISCOVERY": "off", **settings}


class Process:
    """A program that is killed, stopped, continued and started again."""

    def __init__(self, command, env, log):
        self.command, self.env, self.log = command, env, log
        self.child = None

    def start(self):
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(
                self.command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def signal(self, number):
        self.child.send_signal(number)

    def kill(self):
        self.child.kill()
        self.child.wait()


class Cluster:
    """The processes of all members and hubs. The network says where each of them runs, and how it reaches the
    others."""

    def __init__(self, program, directory, network):
        self.program, self.directory, self.network = program, directory, network
        everybody = ",".join(f"m{n}={network.peer_url(n)}" for n in range(MEMBERS))
        self.members = []
        for n in range(MEMBERS):
            clients, peers = network.client_url(n), network.peer_url(n)
            command = ["etcd", "--name", f"m{n}", "--data-dir", f"{directory}/etcd{n}", *network.tls_of_member()]
            command += ["--listen-client-urls", clients, "--advertise-client-urls", clients]
            command += ["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers]
            # Before etcd 3.5, pre-vote is off by default, and a member that returns would depose the member that
            # leads.
            command += ["--initial-cluster", everybody, "--pre-vote"]
            command = network.command_of_member(n, command)
            self.members.append(Process(command, environment(), f"{directory}/etcd{n}.log"))
        self.hubs = []
        for n in range(HUBS):
            env = environment(
                SLM_MESH_DATA_DIR=f"{directory}/hub{n}", SLM_MESH_HOST="0.0.0.0", SLM_MESH_LEASE=str(LEASE),
                SLM_MESH_RATE="1000000", SLM_MESH_DEAD_MS=str(24 * 3600 * 1000), **network.settings_of_hub(n),
            )
            command = network.command_of_hub(n, [program, "start"])
            self.hubs.append(Process(command, env, f"{directory}/hub{n}.log"))

    def start(self):
        for member in self.members:
            member.start()
        self.await_etcd()
        for hub in self.hubs:
            hub.start()
            self.await_log(hub, "Broker running")

    def await_etcd(self):
        until = time.monotonic() + 60
        ends = ",".join(self.network.client_url(n) for n in range(MEMBERS))
        command = ["etcdctl", "--endpoints", ends, *self.network.tls_of_etcdctl(), "endpoint", "health"]
        while subprocess.run(command, env={**environment(), "ETCDCTL_API": "3"}, capture_output=True).returncode:
            assert time.monotonic() < until, "etcd does not become healthy"

    @staticmethod
    def await_log(process, word):
        until = time.monotonic() + 30
        while word not in open(process.log, errors="replace").read():
            assert time.monotonic() < until and process.child.poll() is None, open(process.log).read()
            time.sleep(0.05)

    def guest_environment(self, n):
        hubs = ",".join("{}:{}".format(*self.network.session_address(n)) for n in range(HUBS))
        return environment(SLM_MESH_DATA_DIR=f"{self.directory}/guest{n}", SLM_MESH_HOST=hubs, SLM_MESH_ROLE="client")

    def ask_http(self, hub, path, body, timeout):
        """The answer of a hub to a client of the old HTTP API."""
        host, port = self.network.http_address(hub % HUBS)
        headers = {"Authorization": f"Bearer {SECRET}"}
        request = urllib.request.Request(f"http://{host}:{port}{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.loads(answer.read())

    def leader(self):
        """The number of the hub that leads: the hub whose log file was the last to say so."""
        led = [(line.split()[0], n) for n, hub in enumerate(self.hubs) for line in open(hub.log) if "hub leads" in line]
        return max(led)[1]

    def etcd_leader(self):
        """The number of the member that leads etcd; None while none does."""
        ends = [self.network.client_url(n) for n in range(MEMBERS)]
        command = ["etcdctl", "--endpoints", ",".join(ends), *self.network.tls_of_etcdctl(), "--command-timeout", "1s",
                   "endpoint", "status", "--write-out", "json"]
        said = subprocess.run(command, env={**environment(), "ETCDCTL_API": "3"}, capture_output=True).stdout
        leads = [ends.index(one["Endpoint"]) for one in json.loads(said or "[]")
                 if one["Status"].get("leader") == one["Status"]["header"]["member_id"]]
        return leads[0] if leads else None

    def faults(self):
        """Each kind of fault: its name, and a generator that causes the fault, yields, and ends the fault."""

        def killed(process):
            process.kill()
            yield
            process.start()

        def stopped(process):
            process.signal(signal.SIGSTOP)
            yield
            process.signal(signal.SIGCONT)

        for n in range(HUBS):
            yield f"hub {n} killed", lambda n=n: killed(self.hubs[n])
            yield f"hub {n} stopped", lambda n=n: stopped(self.hubs[n])
        for n in range(MEMBERS):
            yield f"etcd {n} killed", lambda n=n: killed(self.members[n])
            yield f"etcd {n} stopped", lambda n=n: stopped(self.members[n])
        yield from self.network.faults()

    def end(self):
        for process in self.hubs + self.members:
            if process.child and process.child.poll() is None:
                process.signal(signal.SIGCONT)
                process.kill()
        self.network.end()
