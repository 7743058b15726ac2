"""Three members of etcd and three hubs on loopback, and the faults that happen to them.

Each hub reaches etcd through proxies of its own, which can be cut, so that a hub is alive, reachable by its guests, and
without its log.
"""

import os
import signal
import socket
import subprocess
import threading
import time

MEMBERS = 3
HUBS = 3
LEASE = 2
SECRET = "a secret of several hubs"


def free_ports(n):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def environment(**settings):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLM_MESH")}
    return {**kept, "SLM_MESH_SHARED_SECRET": SECRET, "SLM_MESH_DISCOVERY": "off", **settings}


class Proxy:
    """Carries connections to a port. While it is cut, it carries nothing and says nothing."""

    def __init__(self, target):
        self.target = target
        self.cut = threading.Event()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            inside, _ = self.server.accept()
            threading.Thread(target=self.serve, args=(inside,), daemon=True).start()

    def serve(self, inside):
        try:
            outside = socket.create_connection(("127.0.0.1", self.target), timeout=1)
        except OSError:
            return inside.close()
        outside.settimeout(None)
        for pair in ((inside, outside), (outside, inside)):
            threading.Thread(target=self.carry, args=pair, daemon=True).start()

    def carry(self, source, sink):
        try:
            while data := source.recv(65536):
                while self.cut.is_set():
                    time.sleep(0.02)
                sink.sendall(data)
        except OSError:
            pass
        for one in (source, sink):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Process:
    """A program that is killed, stopped, continued and started again."""

    def __init__(self, name, command, env, log):
        self.name, self.command, self.env, self.log = name, command, env, log
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
    def __init__(self, program, directory):
        self.program, self.directory = program, directory
        client, peer = free_ports(MEMBERS), free_ports(MEMBERS)
        everybody = ",".join(f"m{n}=http://127.0.0.1:{port}" for n, port in enumerate(peer))
        self.members = []
        for n in range(MEMBERS):
            clients, peers = f"http://127.0.0.1:{client[n]}", f"http://127.0.0.1:{peer[n]}"
            command = ["etcd", "--name", f"m{n}", "--data-dir", f"{directory}/etcd{n}"]
            command += ["--listen-client-urls", clients, "--advertise-client-urls", clients]
            command += ["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers]
            command += ["--initial-cluster", everybody]
            self.members.append(Process(f"etcd {n}", command, environment(), f"{directory}/etcd{n}.log"))
        # HTTP takes one of ten ports, and sessions the next one.
        self.ports = free_ports(HUBS)
        self.proxies, self.hubs = [], []
        for n in range(HUBS):
            roads = [Proxy(port) for port in client]
            self.proxies.append(roads)
            store = ",".join(f"127.0.0.1:{road.port}" for road in roads)
            env = environment(
                SLM_MESH_DATA_DIR=f"{directory}/hub{n}", SLM_MESH_HOST="0.0.0.0", SLM_MESH_LEASE=str(LEASE),
                SLM_MESH_PORT=str(20000 + 20 * n + os.getpid() % 500 * 60), SLM_MESH_WS_PORT=str(self.ports[n]),
                SLM_MESH_STORE=f"etcd://{store}/chaos", SLM_MESH_RATE="1000000",
            )
            self.hubs.append(Process(f"hub {n}", [program, "start"], env, f"{directory}/hub{n}.log"))

    def start(self):
        for member in self.members:
            member.start()
        self.await_etcd()
        for hub in self.hubs:
            hub.start()
            self.await_log(hub, "Broker running")

    def await_etcd(self):
        until = time.monotonic() + 60
        ends = ",".join(member.command[member.command.index("--listen-client-urls") + 1] for member in self.members)
        command = ["etcdctl", "--endpoints", ends, "endpoint", "health"]
        while subprocess.run(command, env={**environment(), "ETCDCTL_API": "3"}, capture_output=True).returncode:
            assert time.monotonic() < until, "etcd does not become healthy"

    @staticmethod
    def await_log(process, word):
        until = time.monotonic() + 30
        while word not in open(process.log, errors="replace").read():
            assert time.monotonic() < until and process.child.poll() is None, open(process.log).read()
            time.sleep(0.05)

    def guest_environment(self, n):
        hubs = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return environment(SLM_MESH_DATA_DIR=f"{self.directory}/guest{n}", SLM_MESH_HOST=hubs, SLM_MESH_ROLE="client")

    def leader(self):
        """The number of the hub that leads, as the hubs' own logs tell it."""
        led = [(line.split()[0], n) for n, hub in enumerate(self.hubs) for line in open(hub.log) if "hub leads" in line]
        return max(led)[1]

    def faults(self):
        """Each kind of fault as a name and a generator: it strikes, yields, and heals."""

        def killed(process):
            process.kill()
            yield
            process.start()

        def stopped(process):
            process.signal(signal.SIGSTOP)
            yield
            process.signal(signal.SIGCONT)

        def cut(n):
            for road in self.proxies[n]:
                road.cut.set()
            yield
            for road in self.proxies[n]:
                road.cut.clear()

        for n in range(HUBS):
            yield f"hub {n} killed", lambda n=n: killed(self.hubs[n])
            yield f"hub {n} stopped", lambda n=n: stopped(self.hubs[n])
            yield f"hub {n} cut off from etcd", lambda n=n: cut(n)
        for n in range(MEMBERS):
            yield f"etcd {n} killed", lambda n=n: killed(self.members[n])
            yield f"etcd {n} stopped", lambda n=n: stopped(self.members[n])

    def end(self):
        for process in self.hubs + self.members:
            if process.child and process.child.poll() is None:
                process.signal(signal.SIGCONT)
                process.kill()
