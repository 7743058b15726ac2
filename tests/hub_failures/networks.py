"""Where hubs and members run: each on a machine of its own, which is a network namespace, with TLS to etcd; or all on
loopback, where each hub reaches etcd through proxies of its own."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from cluster import HUBS, MEMBERS, environment

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "machines"))
from namespaces import Machine, run  # noqa: E402

# This variable is set in the process that was started again in a network namespace of its own.
INSIDE = "SLM_MESH_TEST_NETWORK"


def reason_for_loopback(program):
    """Why no machines can be made; None if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "unshare", "openssl") if not shutil.which(name)]
    if missing:
        return f"there is no {' and no '.join(missing)}"
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        return "this machine allows no network namespaces"
    # A hub talks to etcd on another machine only over TLS. The program refuses the empty file of authorities in any
    # case, and its error shows whether it was built with TLS.
    with tempfile.TemporaryDirectory() as directory:
        env = environment(SLM_MESH_HOST="0.0.0.0", SLM_MESH_PORT=str(free_ports(1)[0]), SLM_MESH_DATA_DIR=directory,
                          SLM_MESH_STORE="etcds://etcd.invalid/slm", SLM_MESH_STORE_CA="/dev/null")
        said = subprocess.run([program, "start"], env=env, capture_output=True, text=True).stderr
    return "this program was built without TLS" if "without TLS" in said else None


class Namespaces:
    """A switch here, and a machine for each hub and each member. This process must be in a namespace of its own."""

    def __init__(self, directory):
        self.directory = directory
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "switch", "type", "bridge")
        run("ip", "addr", "add", "10.79.0.100/24", "dev", "switch")
        run("ip", "link", "set", "switch", "up")
        self.members = [self.machine(f"etcd{n}", self.member_address(n)) for n in range(MEMBERS)]
        self.hubs = [self.machine(f"hub{n}", self.hub_address(n)) for n in range(HUBS)]
        self.make_certificates()

    @staticmethod
    def member_address(n):
        return f"10.79.0.{1 + n}"

    @staticmethod
    def hub_address(n):
        return f"10.79.0.{11 + n}"

    @staticmethod
    def machine(port, address):
        machine = Machine()
        run("ip", "link", "add", port, "type", "veth", "peer", "name", "lan0", "netns", machine.name)
        run("ip", "link", "set", port, "master", "switch", "up")
        machine.ip("addr", "add", f"{address}/24", "dev", "lan0")
        machine.ip("link", "set", "lan0", "up")
        return machine

    def file(self, name):
        return f"{self.directory}/{name}"

    def make_certificates(self):
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        openssl("req", "-x509", "-days", "2", "-subj", "/O=authority", *curve, "-keyout", self.file("ca.key"),
                "-out", self.file("ca.pem"))
        names = ",".join(f"IP:{self.member_address(n)}" for n in range(MEMBERS))
        Path(self.file("names")).write_text(f"subjectAltName={names}\n")
        for name in ("member", "client"):
            openssl("req", "-new", "-subj", f"/O={name}", *curve, "-keyout", self.file(f"{name}.key"),
                    "-out", self.file(f"{name}.csr"))
            openssl("x509", "-req", "-days", "2", "-in", self.file(f"{name}.csr"), "-CA", self.file("ca.pem"), "-CAkey",
                    self.file("ca.key"), "-CAcreateserial", "-extfile", self.file("names"), "-out", self.file(f"{name}.pem"))

    def client_url(self, n):
        return f"https://{self.member_address(n)}:2379"

    def peer_url(self, n):
        return f"http://{self.member_address(n)}:2380"

    def tls_of_member(self):
        return ["--cert-file", self.file("member.pem"), "--key-file", self.file("member.key"), "--client-cert-auth",
                "--trusted-ca-file", self.file("ca.pem")]

    def tls_of_etcdctl(self):
        return ["--cacert", self.file("ca.pem"), "--cert", self.file("client.pem"), "--key", self.file("client.key")]

    def command_of_member(self, n, command):
        return self.members[n].command(*command)

    def command_of_hub(self, n, command):
        return self.hubs[n].command(*command)

    def settings_of_hub(self, n):
        members = ",".join(f"{self.member_address(n)}:2379" for n in range(MEMBERS))
        return {"SLM_MESH_STORE": f"etcds://{members}/chaos", "SLM_MESH_STORE_CA": self.file("ca.pem"),
                "SLM_MESH_STORE_CERT": self.file("client.pem"), "SLM_MESH_STORE_KEY": self.file("client.key")}

    def session_address(self, n):
        return self.hub_address(n), 7900

    def http_address(self, n):
        return self.hub_address(n), 7899

    def faults(self):
        def cable_pulled(port):
            run("ip", "link", "set", port, "down")
            yield
            run("ip", "link", "set", port, "up")

        def cut(n):
            # Nothing that the members send reaches this hub, not even a reset, but the hub's guests can still reach it.
            for member in self.members:
                member.ip("route", "add", "blackhole", f"{self.hub_address(n)}/32")
            yield
            for member in self.members:
                member.ip("route", "del", "blackhole", f"{self.hub_address(n)}/32")

        for n in range(HUBS):
            yield f"hub {n} cut off from etcd", lambda n=n: cut(n)
            yield f"hub {n} cut off from everybody", lambda n=n: cable_pulled(f"hub{n}")
        for n in range(MEMBERS):
            yield f"etcd {n} cut off from everybody", lambda n=n: cable_pulled(f"etcd{n}")

    def end(self):
        for machine in self.members + self.hubs:
            machine.remove()


def openssl(*words):
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def free_ports(n):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Loopback:
    """Everything on one address. A hub's proxies can be cut, so that its guests can reach it, but it can't reach its
    log."""

    def __init__(self, _):
        self.client_ports, self.peer_ports, self.session_ports = (free_ports(n) for n in (MEMBERS, MEMBERS, HUBS))
        self.proxies = [[Proxy(port) for port in self.client_ports] for _ in range(HUBS)]

    def client_url(self, n):
        return f"http://127.0.0.1:{self.client_ports[n]}"

    def peer_url(self, n):
        return f"http://127.0.0.1:{self.peer_ports[n]}"

    def tls_of_member(self):
        return []

    def tls_of_etcdctl(self):
        return []

    def command_of_member(self, _, command):
        return command

    def command_of_hub(self, _, command):
        return command

    def settings_of_hub(self, n):
        roads = ",".join(f"127.0.0.1:{road.port}" for road in self.proxies[n])
        return {"SLM_MESH_STORE": f"etcd://{roads}/chaos", "SLM_MESH_PORT": str(self.http_address(n)[1]),
                "SLM_MESH_WS_PORT": str(self.session_ports[n])}

    def session_address(self, n):
        return "127.0.0.1", self.session_ports[n]

    def http_address(self, n):
        # A hub uses this port for HTTP, or one of the next nine ports if this one is taken.
        return "127.0.0.1", 20000 + 20 * n + os.getpid() % 200 * 60

    def faults(self):
        def cut(n):
            for road in self.proxies[n]:
                road.cut.set()
            yield
            for road in self.proxies[n]:
                road.cut.clear()

        for n in range(HUBS):
            yield f"hub {n} cut off from etcd", lambda n=n: cut(n)

    def end(self):
        pass


class Proxy:
    """Carries connections to a port. While it is cut, it carries no bytes and closes no connection."""

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
