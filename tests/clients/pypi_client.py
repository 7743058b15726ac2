"""Every public method of the Python client against a real broker: port, token file, folder."""

import inspect
import json
import os
import re
import socket
import sys
import threading

from slm_mesh import Lock, SLMMeshClient, SLMMeshError

port, token_path, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
ISO = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
SQLITE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$")
UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")


class Watched(SLMMeshClient):
    """Notes which methods were called, so that none is forgotten here."""

    called = set()

    def __getattribute__(self, name):
        if not name.startswith("_"):
            Watched.called.add(name)
        return super().__getattribute__(name)


def same(got, want):
    assert got == want, f"want {want!r}, got {got!r}"


def shaped(text, shape):
    assert shape.match(text), f"{text!r} does not look like {shape.pattern}"


mesh = Watched(port=port, token_path=token_path)


def health_and_status():
    health = mesh.health()
    same(list(health)[:3], ["status", "version", "uptime"])
    same(health["status"], "ok")
    status = mesh.status()
    same((status.status, status.port, status.version), ("ok", port, health["version"]))
    assert status.pid > 0 and status.uptime >= 0
    same((status.peers.total, status.messages.total, status.locks_active), (0, 0, 0))


def errors():
    try:
        SLMMeshClient(port=port, token_path="/nonexistent").status()
        raise SystemExit("no token, and no error")
    except SLMMeshError as error:
        same((error.status_code, str(error)), (401, "Unauthorized — invalid or missing bearer token"))
    same(SLMMeshClient(port=port, token_path="/nonexistent").health()["status"], "ok")
    try:
        mesh._request("GET", "/nowhere")
        raise SystemExit("no such route, and no error")
    except SLMMeshError as error:
        same((error.status_code, str(error)), (404, "Unknown endpoint"))
    # The default place of the token is the data directory of the environment.
    same(SLMMeshClient(port=port).status().status, "ok")


def register():
    first = mesh.register(pid=os.getpid(), project_path=folder)
    same((first["ok"], first["name"]), (True, "peer-" + first["peerId"][:6]))
    shaped(first["peerId"], UUID)
    second = mesh.register(os.getpid(), folder + "/sub", agent_type="aider", name="ann")
    same(second["name"], "ann")
    same(mesh.heartbeat(first["peerId"]), {"ok": True})
    same(mesh.set_summary(second["peerId"], "counting"), {"ok": True})
    peers = {peer.id: peer for peer in mesh.peers()}
    same(set(peers), {first["peerId"], second["peerId"]})
    ann = peers[second["peerId"]]
    same((ann.name, ann.agent_type, ann.summary, ann.status), ("ann", "aider", "counting", "active"))
    same((ann.pid, ann.project_path, ann.git_root, ann.uds_path), (os.getpid(), folder + "/sub", None, None))
    shaped(ann.started_at, SQLITE)
    shaped(ann.last_heartbeat, SQLITE)
    for scope in ("machine", "directory", "repo"):
        same(len(mesh.peers(scope)), 2)
    same(mesh.heartbeat("nobody")["error"], "Peer not found")
    same(mesh.register(1, folder, agent_type="toaster")["ok"], False)
    return first["peerId"], second["peerId"]


def messages(a, b):
    sent = mesh.send(a, b, "hello ☃", "command")
    shaped(sent, re.compile(r"^[0-9a-f-]{36}$"))
    same(mesh.send(a, "not an id", "x"), "")
    [got] = mesh.inbox(b)
    same((got.id, got.from_peer, got.to_peer, got.msg_type), (sent, a, b, "command"))
    same((got.payload, got.read_at, got.delivered), ("hello ☃", None, False))
    shaped(got.created_at, ISO)
    same(mesh.inbox(b), [])
    [again] = mesh.inbox(b, msg_filter="all", limit=5)
    same((again.id, again.delivered), (sent, True))
    shaped(again.read_at, SQLITE)
    same(len(mesh.broadcast(a, "to all")), 1)
    same(len(mesh.broadcast("cli", "to all", msg_type="alert")), 2)
    same([message.payload for message in mesh.inbox(b, limit=1)], ["to all"])
    same(len(mesh.inbox(b, limit=-1)), 1)
    same(len(mesh.inbox(a)), 1)
    same(mesh.status().messages.total, 4)


def state(a):
    same(mesh.state_get("k"), None)
    entry = mesh.state_set("k", "v ☃", a)
    same((entry.key, entry.value, entry.namespace, entry.updated_by), ("k", "v ☃", "default", a))
    shaped(entry.updated_at, SQLITE)
    mesh.state_set("k", "", a, namespace="other")
    same(mesh.state_get("k"), entry)
    same(mesh.state_get("k", "other").value, "")
    same([found.key for found in mesh.state_list()], ["k"])
    same(mesh.state_delete("k", "other"), None)
    same(mesh.state_list("other"), [])
    same(mesh.state_get("k"), entry)


def locks(a, b):
    path = folder + "/x.py"
    lock = mesh.lock(path, a, reason="edit", ttl_minutes=5)
    same((lock.file_path, lock.locked_by, lock.reason), (path, a, "edit"))
    shaped(lock.locked_at, ISO)
    shaped(lock.expires_at, ISO)
    same(mesh.lock(path, b), Lock(file_path="", locked_by=""))
    renewed = mesh.lock(path, a, ttl_minutes=9)
    assert renewed.expires_at > lock.expires_at, renewed
    same([found.file_path for found in mesh.locks()], [path])
    same([found.locked_by for found in mesh.locks(path)], [a])
    same(mesh.locks(folder + "/other.py"), [])
    mesh.unlock(path, b)
    same(len(mesh.locks()), 1)
    mesh.unlock(path, a)
    same(mesh.locks(), [])


def events():
    found = mesh.events()
    kinds = [event.event_type for event in found]
    for kind in ("peer_joined", "message_received", "state_changed", "file_locked", "file_unlocked"):
        assert kind in kinds, kinds
    for event in found:
        assert isinstance(json.loads(event.payload), dict), event
        shaped(event.created_at, SQLITE)
        shaped(event.id, re.compile(r"^[0-9a-f-]{36}$"))
        assert event.emitted_by, event
    same({event.event_type for event in mesh.events(types=["file_locked"])}, {"file_locked"})
    same(len(mesh.events(limit=2)), 2)
    same(len(mesh.events(since="1970-01-01 00:00:00")), len(found))
    same(len(mesh.events(since="1970-01-01T00:00:00.000Z")), len(found))
    same(mesh.events(since="9999-01-01T00:00:00.000Z"), [])


def pushes(a):
    path = os.path.join(folder, "py.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.settimeout(10)
    listener.bind(path)
    listener.listen()
    line = []

    def hear():
        stream, _ = listener.accept()
        stream.settimeout(10)
        line.append(json.loads(stream.makefile().readline()))

    thread = threading.Thread(target=hear)
    thread.start()
    peer = mesh.register(1, folder, uds_path=path)["peerId"]
    sent = mesh.send(a, peer, "over here")
    thread.join()
    same((line[0]["type"], line[0]["payload"]), ("message", {"messageId": sent, "fromPeer": a, "text": "over here"}))
    [got] = mesh.inbox(peer)
    same((got.delivered, got.read_at), (True, None))
    mesh.unregister(peer)


def leave(a, b):
    same(mesh.unregister(a), {"ok": True})
    same(mesh.unregister(a), {"ok": True})
    same([peer.id for peer in mesh.peers()], [b])
    same(mesh.heartbeat(a)["error"], "Peer not found")
    same(mesh.events(types=["peer_left"], limit=1)[0].emitted_by, a)
    mesh.unregister(b)


health_and_status()
errors()
a, b = register()
messages(a, b)
state(a)
locks(a, b)
events()
pushes(a)
leave(a, b)
public = {name for name, _ in inspect.getmembers(SLMMeshClient, inspect.isfunction) if not name.startswith("_")}
same(public - Watched.called, set())
print("every method passed")
