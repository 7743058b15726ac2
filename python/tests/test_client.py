"""The client of slm-mesh 1.x, compared with the original from PyPI: calls every method of both, on one broker.

Without the old package in this Python's site-packages, only what the old package promised is checked.
"""

import dataclasses
import importlib.util
import inspect
import os
import re
import socket
import sys
import sysconfig
import unittest
from pathlib import Path
from unittest import mock

from support import MeshTest

import slm_mesh
from slm_mesh import LockedError, SLMMeshClient, SLMMeshError, start_broker

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
SHORT = re.compile(r"\bpeer-[0-9a-f]{6}\b")
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
SQLITE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def old_package():
    """The package from PyPI under another name, if it is installed."""
    path = Path(sysconfig.get_paths()["purelib"]) / "slm_mesh" / "__init__.py"
    if not path.exists() or path.samefile(slm_mesh.__file__):
        return None
    spec = importlib.util.spec_from_file_location("slm_mesh_1", path, submodule_search_locations=[str(path.parent)])
    package = importlib.util.module_from_spec(spec)
    sys.modules["slm_mesh_1"] = package
    spec.loader.exec_module(package)
    return package


OLD = old_package()


def plain(value):
    """A value with the name of its type, so that the answers of both packages can be compared."""
    if dataclasses.is_dataclass(value):
        fields = [(field.name, plain(getattr(value, field.name))) for field in dataclasses.fields(value)]
        return (type(value).__name__, fields)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return [(key, plain(item)) for key, item in value.items()]
    return value


class Notes:
    """The answers of a run, with ids and times replaced by the order in which they first appeared."""

    def __init__(self):
        self.ids, self.lines = {}, []

    def add(self, name, value):
        text = repr(plain(value))
        for pattern, word in ((ISO, "ISO"), (SQLITE, "SQLITE")):
            text = pattern.sub(word, text)
        for pattern in (UUID, SHORT):
            text = pattern.sub(lambda found: self.ids.setdefault(found.group(), f"ID{len(self.ids)}"), text)
        self.lines.append(f"{name}: {re.sub(r'.uptime., [0-9]+', 'uptime', text)}")


def scenario(package, client, port, folder):
    """Calls every method, both with arguments that succeed and with arguments that are refused, and cleans up."""
    notes = Notes()

    def ask(method, *args, **kwargs):
        try:
            value = getattr(client, method)(*args, **kwargs)
        except package.SLMMeshError as error:
            value = ("error", str(error), error.status_code, error.response)
        notes.add(f"{method}{[arg for arg in args if not UUID.search(str(arg))]}{kwargs}", value)
        return value

    ask("health")
    first = ask("register", pid=os.getpid(), project_path=folder)["peerId"]
    second = ask("register", os.getpid(), folder + "/sub", "aider", "ann", None)["peerId"]
    ask("register", 1, folder, agent_type="toaster")
    ask("register", 1, "")
    ask("status")
    ask("heartbeat", first)
    ask("heartbeat", "nobody")
    ask("set_summary", second, "counting ☃")
    ask("set_summary", "nobody", "x")
    for scope in ("machine", "directory", "repo"):
        ask("peers", scope)
    ask("send", first, second, "hello ☃", "command")
    ask("send", first, second, '{"a": 1}', msg_type="json")
    ask("send", first, "not an id", "x")
    ask("send", first, second, "")
    ask("send", first, second, "x", "shout")
    ask("broadcast", first, "to all")
    ask("broadcast", "cli", "to all", msg_type="alert")
    ask("inbox", second, "unread", 1)
    ask("inbox", second)
    ask("inbox", second)
    ask("inbox", second, msg_filter="all", limit=-1)
    ask("inbox", first, limit=2)
    ask("inbox", "")
    ask("state_get", "k")
    ask("state_set", "k", "v ☃", first)
    ask("state_set", "k", "w", second, "other")
    ask("state_set", "k", "x" * 70_000, first)
    ask("state_get", "k")
    ask("state_get", "k", namespace="other")
    ask("state_get", "")
    ask("state_list")
    ask("state_list", "other")
    ask("state_list", namespace="none")
    ask("lock", folder + "/x.py", first, reason="edit", ttl_minutes=5)
    ask("lock", folder + "/x.py", second)
    ask("lock", folder + "/x.py", first, "again", 9)
    ask("lock", "", first)
    ask("locks")
    ask("locks", folder + "/x.py")
    ask("locks", file_path=folder + "/other.py")
    ask("unlock", folder + "/x.py", second)
    ask("unlock", folder + "/x.py", first)
    ask("locks")
    for event in ask("events", limit=12):
        assert isinstance(event.payload, str)
    ask("events", types=["file_locked", "state_changed"])
    ask("events", ["file_locked"], "1970-01-01 00:00:00", 5)
    ask("events", since="9999-01-01T00:00:00.000Z")
    ask("state_delete", "k")
    ask("state_delete", "k", "other")
    ask("state_list")
    ask("unregister", first)
    ask("unregister", first)
    ask("peers")
    ask("unregister", second)
    ask("_request", "GET", "/nowhere")
    ask("_request", "POST", "/state", {"action": "nonsense"})
    stranger = package.SLMMeshClient(port=port, token_path="/nonexistent")
    for method in ("health", "status"):
        try:
            notes.add(f"stranger {method}", getattr(stranger, method)())
        except package.SLMMeshError as error:
            notes.add(f"stranger {method}", (str(error), error.status_code, error.response))
    return notes.lines


@unittest.skipIf(OLD is None, "slm-mesh 1.2.3 from PyPI is not installed in this Python")
class BesideTheOldClient(MeshTest):
    def run_on_its_own(self, package):
        """The scenario on a fresh broker, on the same port and in the same folder each time."""
        start_broker()
        client = package.SLMMeshClient(port=self.port(), token_path=str(self.dir / "broker.token"))
        lines = scenario(package, client, self.port(), str(self.root))
        pid = self.broker_pid()
        self.assertEqual(self.verb("stop")[0], 0)
        # If `broker.numbers` stayed, the sequence numbers would continue instead of starting again.
        for file in [*self.dir.glob("broker.db*"), self.dir / "broker.numbers"]:
            file.unlink()
        return [line.replace(f"'pid', {pid}", "'pid', PID") for line in lines]

    def test_every_method_answers_the_same_from_the_same_start(self):
        old, new = self.run_on_its_own(OLD), self.run_on_its_own(slm_mesh)
        self.assertEqual("\n".join(new), "\n".join(old))
        self.assertGreater(len(old), 55)

    def test_what_is_read_is_the_same_on_one_broker(self):
        start_broker()
        token = str(self.dir / "broker.token")
        old, new = (package.SLMMeshClient(port=self.port(), token_path=token) for package in (OLD, slm_mesh))
        # Each package reads what the other wrote.
        for writer in (old, new):
            peer = writer.register(os.getpid(), str(self.root))["peerId"]
            writer.state_set(f"key of {peer}", "v", peer)
            writer.lock(f"{self.root}/{peer}", peer, "edit")
            writer.send("cli", peer, "hello")
            writer.send("cli", peer, "again", "alert")
            reads = [("peers", []), ("state_list", []), ("locks", []), ("events", [])]
            reads += [("state_get", [f"key of {peer}"]), ("locks", [f"{self.root}/{peer}"])]
            for method, args in reads:
                self.assertEqual(plain(getattr(new, method)(*args)), plain(getattr(old, method)(*args)), method)
            old.inbox(peer)
            # Each fetch marks messages as read again, so the time of reading may differ, and is not compared.
            both = [reader.inbox(peer, "all") for reader in (old, new)]
            told = [[(message.id, message.payload, message.msg_type) for message in found] for found in both]
            self.assertEqual(told[0], told[1])
            self.assertEqual(len(told[0]), 2)

    def test_names_signatures_fields_and_defaults_are_kept(self):
        for name in OLD.__all__:
            self.assertTrue(hasattr(slm_mesh, name), name)
            old, new = getattr(OLD, name), getattr(slm_mesh, name)
            if dataclasses.is_dataclass(old):
                told = [[(field.name, field.default) for field in dataclasses.fields(kind)] for kind in (old, new)]
                self.assertEqual(told[0], told[1], name)
                self.assertEqual(vars(old).keys() & {"from_dict"}, vars(new).keys() & {"from_dict"}, name)
        for name, method in inspect.getmembers(OLD.SLMMeshClient, inspect.isfunction):
            old = list(inspect.signature(method).parameters.values())
            new = list(inspect.signature(getattr(SLMMeshClient, name)).parameters.values())
            for before, now in zip(old, new):
                self.assertEqual((now.name, now.kind), (before.name, before.kind), name)
                if before.default is not inspect.Parameter.empty:
                    self.assertEqual(now.default, before.default, name)
            self.assertTrue(all(extra.kind is inspect.Parameter.KEYWORD_ONLY for extra in new[len(old):]), name)
        for word in ("host", "port", "timeout", "_base_url", "_token_path"):
            self.assertEqual(getattr(SLMMeshClient(), word), getattr(OLD.SLMMeshClient(), word))

    def test_an_absent_broker_is_told_in_the_same_words(self):
        told = []
        for package in (OLD, slm_mesh):
            with self.assertRaises(package.SLMMeshError) as caught:
                package.SLMMeshClient(port=1, token_path="/nonexistent").peers()
            told.append((str(caught.exception), caught.exception.status_code, caught.exception.response))
        self.assertEqual(told[0], told[1])

    def test_odd_answers_are_understood_alike(self):
        answers = [
            b'{"peers": [{"id": "a", "name": "b", "project_path": "/p", "git_root": "/g", "last_heartbeat": "t"}]}',
            b'{"peers": [{"id": "a", "name": "b"}]}', b"{}",
        ]
        for answer in answers:
            found = []
            for package in (OLD, slm_mesh):
                with mock.patch("urllib.request.OpenerDirector.open") as opened:
                    opened.return_value.__enter__.return_value.read.return_value = answer
                    found.append(plain(package.SLMMeshClient(port=1, token_path="/nonexistent").peers()))
            self.assertEqual(found[0], found[1])


class Ours(MeshTest):
    def client(self):
        start_broker()
        return SLMMeshClient(port=self.port(), token_path=str(self.dir / "broker.token"))

    def test_a_lock_of_the_old_client_ends_with_its_with(self):
        client = self.client()
        ann, bob = (client.register(os.getpid(), str(self.root))["peerId"] for _ in range(2))
        path = f"{self.root}/x.py"
        with client.lock(path, ann, reason="edit") as lock:
            self.assertEqual((lock.file_path, lock.locked_by, lock.reason), (path, ann, "edit"))
            self.assertEqual(client.lock(path, bob).file_path, "")
            with self.assertRaises(LockedError):
                with client.lock(path, bob):
                    self.fail("two hold it")
            with self.assertRaises(LockedError):
                client.lock(path, bob, wait=0.1)
            self.assertEqual(dataclasses.replace(lock), client.locks()[0])
        self.assertEqual(client.locks(), [])

    def test_the_socket_beside_the_token_is_found(self):
        client = self.client()
        client.state_set("k", "v", "somebody")
        self.assertEqual(client.mesh.state_get("k").value, "v")
        with client.lock("a.py", wait=5) as held:
            self.assertGreater(held.token, 0)

    def test_errors_have_types_and_are_the_old_ones_too(self):
        client = self.client()
        with self.assertRaises(slm_mesh.NotFound) as caught:
            client._request("GET", "/nowhere")
        self.assertIsInstance(caught.exception, SLMMeshError)
        self.assertEqual(caught.exception.status_code, 404)
        with self.assertRaises(slm_mesh.Refused):
            SLMMeshClient(port=self.port(), token_path="/nonexistent").status()
        with self.assertRaises(slm_mesh.Unavailable):
            SLMMeshClient(port=1).health()

    def test_what_a_dying_broker_leaves_is_an_error_of_this_package(self):
        answers = {
            b"": slm_mesh.Unavailable,
            b"nonsense\r\n\r\n": slm_mesh.Unavailable,
            b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{": slm_mesh.Unavailable,
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{": slm_mesh.Unavailable,
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 90\r\n\r\n{": slm_mesh.NotFound,
        }
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = SLMMeshClient(port=server.getsockname()[1], token_path="/nonexistent")

            def answer(line):
                connection = server.accept()[0]
                with connection:
                    connection.recv(4096)
                    connection.sendall(line)

            for line, kind in answers.items():
                answering = self.behind(lambda line=line: answer(line))
                with self.assertRaises(kind, msg=line) as caught:
                    client.health()
                answering.get()
                self.assertIsInstance(caught.exception, SLMMeshError)
            client.timeout = 0.05
            with self.assertRaisesRegex(slm_mesh.TimedOut, "did not answer in 0.05 s"):
                client.health()
        with self.assertRaisesRegex(slm_mesh.UsageError, "can't be written as JSON"):
            client.state_set("k", b"bytes", "somebody")

    def test_a_proxy_in_the_environment_gets_no_token(self):
        client = self.client()
        with socket.create_server(("127.0.0.1", 0)) as proxy:
            address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
            names = [name for word in ("http", "https", "all") for name in (f"{word}_proxy", f"{word.upper()}_PROXY")]
            with mock.patch.dict(os.environ, {name: address for name in names}):
                self.assertEqual(client.status().pid, self.broker_pid())
            proxy.setblocking(False)
            with self.assertRaises(BlockingIOError, msg="something connected to the proxy"):
                proxy.accept()


if __name__ == "__main__":
    unittest.main()
