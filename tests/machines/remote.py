"""Sessions and verbs (subcommands) on two and three hosts with one hub: what works on one machine works between them, a
hub that is killed comes back, a hub that is found is joined, and a clock that is wrong on one host does not mislead
another."""

import re
import shlex
from datetime import datetime, timezone
from pathlib import Path

from namespaces import PATIENCE_SECONDS, until
from hosts import Fault, Net

TOP = Path(__file__).resolve().parent.parent.parent


def refused(session, n):
    """The error with which a call was refused."""
    try:
        value = session.end(n)
    except Fault as fault:
        return fault.value
    raise AssertionError(f"nothing was refused: {value}")


def lock(session, path, **more):
    return session.begin("lock", action="lock", filePath=str(path), **more)


def peers(session):
    return {one["name"]: one for one in session.call("peers", scope="machine")["peers"]}


def who_is_there(near, far, third):
    hosts = {name: one["host"] for name, one in peers(near).items()}
    assert hosts == {"codex-api": "lap", "gemini-web": "rack"}, hosts
    assert {name: one["host"] for name, one in peers(far).items()} == {"claude-api": "desk", "gemini-web": "rack"}
    rows = [line.split()[:3] for line in far.host.ok("peers", "--as", "human").split("\n")]
    assert ["NAME", "AGENT", "HOST"] in rows and ["claude-api", "claude-code", "desk"] in rows, rows
    assert [near.name, far.name, third.name] == ["claude-api", "codex-api", "gemini-web"]


def messages(near, far, third):
    waiting = far.begin("inbox", waitSeconds=30)
    sent = near.call("send", to="codex-api", message="over there?")
    got = far.end(waiting)["messages"]
    assert [one["payload"] for one in got] == ["over there?"] and not got[0].get("redelivered"), got
    far.call("send", to="claude-api", message="here", replyTo=got[0]["id"])
    assert [one["payload"] for one in near.mail()] == ["here"]
    receipts = near.call("inbox", filter="sent")["messages"]
    assert any(one["id"] == sent["messageId"] and one["receipt"] == "acked" for one in receipts), receipts
    told = third.call("send", to="all", message="to everybody")
    assert {one["name"] for one in told["recipients"]} >= {"claude-api", "codex-api"}, told
    for session in [near, far]:
        assert [one["payload"] for one in session.mail()] == ["to everybody"], session.name


def values_and_events(near, far, third):
    seq = third.call("events")["seq"]
    waiting = third.begin("events", action="read", after=seq, types=["state_changed"], waitSeconds=30)
    version = far.call("state", action="set", key="port", value="8080")["version"]
    event = third.end(waiting)["events"][0]
    assert event["payload"]["key"] == "port" and event["emittedByName"] == "codex-api", event
    assert near.call("state", action="get", key="port")["entry"]["value"] == "8080"
    fault = refused(near, near.begin("state", action="set", key="port", value="1", expect=version - 1))
    assert fault["kind"] == "conflict", fault
    assert third.host.ok("state", "get", "port") == "8080"


def one_file_in_two_clones(near, far, third):
    """The near and the far session work in clones of one repository; the third session does not."""
    near_file, far_file = near.where / "src/main.rs", far.where / "src/main.rs"
    near.end(lock(near, near_file, scope="repo"))
    fault = refused(far, lock(far, far_file))
    assert fault["kind"] == "held" and fault["lock"]["holder"] == "claude-api", fault
    waiting = lock(far, far_file, waitSeconds=30)
    until("it stands in line", lambda: any(near.call("lock", action="query")["locks"][0].get("queue", [])
                                           or near.call("lock", action="query")["locks"][0].get("waiting", [])))
    verb = third.host.start("lock", "list", "--json")
    assert "codex-api" in verb.communicate(timeout=PATIENCE_SECONDS)[0]
    near.call("lock", action="unlock", filePath=str(near_file))
    assert far.end(waiting)["lock"]["holder"] == "codex-api"
    # A verb on the near session's host waits for the file that the far session has locked, and gets it.
    verb = near.host.start("lock", str(near_file), "--scope", "repo", "--wait", "30", "--as", "human", "--json", cwd=near.where)
    far.call("lock", action="unlock", filePath=str(far_file))
    told = verb.communicate(timeout=PATIENCE_SECONDS)
    assert verb.returncode == 0, told
    near.host.ok("unlock", str(near_file), "--as", "human")
    # The same path on two machines means two files, unless a repository shows that they are one.
    far.end(lock(far, "/srv/notes.txt"))
    third.end(lock(third, "/srv/notes.txt"))
    for session in [far, third]:
        session.call("lock", action="unlock", filePath="/srv/notes.txt")


def sessions_on(near_host, far_host, third_host):
    near_host.clone("api", "git@example.org:a/api.git")
    far_host.clone("work/api", "https://example.org/a/api")
    return (near_host.session("claude-code", "api"), far_host.session("codex-mcp-client", "work/api"),
            third_host.session("gemini-cli-mcp-client", "web"))


def all_of_it(near, far, third):
    for part in [who_is_there, messages, values_and_events, one_file_in_two_clones]:
        part(near, far, third)


def a_hub_and_two_guests_are_one_mesh(net):
    hub = net.hub()
    sessions = sessions_on(hub, net.guest("lap", hub), net.guest("rack", hub))
    all_of_it(*sessions)
    for session in sessions:
        assert session.close() == 0
    assert not (sessions[1].host.dir / "mesh.sock").exists(), "a guest has no broker of its own"


def what_readme_says_of_two_machines_is_so(net):
    text = (TOP / "README.md").read_text()
    part = text[text.index("## Two machines"):]
    part = part[:part.index("\n## ", 3)]
    lines = re.findall(r"^\$ (.*)$", part, re.M)
    assert len(lines) == 3 and "slm-mesh secret" in part, part
    desk, lap = net.host("desk"), net.host("lap")
    name = re.search(r"SLM_MESH_HOST=(\S+)", lines[1])[1]
    lap.knows(name, desk.address)
    secret = desk.ok("secret")
    path = net.scratch / "bin"
    path.mkdir()
    (path / "slm-mesh").symlink_to(net.program)
    # This replacement for ssh runs the words after the host name on that machine.
    words = " ".join(shlex.quote(word) for word in desk.command("env", "-u", "SLM_MESH_HOST", f"HOME={desk.home}"))
    (path / "ssh").write_text(f'#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift 2\nexec {words} "$@"\n')
    (path / "ssh").chmod(0o755)
    for host, line in zip([desk, lap, lap], lines):
        typed = f"PATH={path}:$PATH; export PATH; " + line.replace("…", secret)
        said = host.shell(typed)
        assert said.returncode == 0, said
    # The README also says that the settings can be in the `config` file, for both agents and verbs.
    for host, line in zip([desk, lap], lines):
        host.configure(**dict(re.findall(r"(SLM_MESH_\w+)=(\S+)", line.replace("…", secret))))
    near, far = desk.session("claude-code", "api"), lap.session("codex-mcp-client", "api")
    assert peers(near)["codex-api"]["host"] == "lap" and peers(far)["claude-api"]["host"] == "desk"
    assert "claude-api" in lap.ok("peers", "--as", "human")


def joined(session):
    return re.findall(r"joined the hub (\S+) at (\S+),", session.complaints())


def a_hub_that_is_found_is_joined_if_it_proves_the_secret(net):
    lap = net.host("lap", SLM_MESH_SHARED_SECRET=net.secret)
    zoo = net.hub("zoo")
    stranger = net.host("ape", SLM_MESH_HOST="0.0.0.0", SLM_MESH_SHARED_SECRET="another secret altogether")
    stranger.ok("start", "--detach")
    until("both are announced", lambda: len(lap.json("hubs")["hubs"]) == 2)
    one = lap.session("codex-mcp-client", "api")
    assert joined(one) == [("root-zoo", zoo.address)], one.complaints()
    zoo.ok("state", "set", "port", "8080")
    assert lap.ok("state", "get", "port") == "8080", "verbs follow"
    proven = {hub["name"]: hub["proven"] for hub in lap.json("hubs")["hubs"]}
    assert proven == {"root-zoo": True, "root-ape": False}, proven
    # Now a second hub knows the secret. A guest that has already joined a hub stays with that hub, and a new guest
    # joins the hub whose name sorts first.
    bee = net.hub("bee")
    until("it is announced", lambda: len(lap.json("hubs")["hubs"]) == 3)
    two, rack = lap.session("claude-code", "api"), net.host("rack", SLM_MESH_SHARED_SECRET=net.secret)
    new = rack.session("claude-code", "api")
    assert joined(two) == [("root-zoo", zoo.address)], two.complaints()
    assert joined(new) == [("root-bee", bee.address)], new.complaints()
    assert set(peers(one)) == {"claude-api"} and not peers(new)
    assert "codex" not in stranger.ok("peers", "--as", "human")


def a_hub_that_is_killed_loses_nothing(net):
    hub = net.hub()
    near, far, third = sessions_on(hub, net.guest("lap", hub), net.guest("rack", hub))
    ids = [far.id, third.id]
    near.call("send", to="codex-api", message="before")
    waiting, watching = third.begin("inbox", waitSeconds=60), lock(far, far.where / "a")
    far.end(watching)
    acknowledged = send_on_and_on(far, "gemini-web", lambda sent: sent == 20 and hub.kill_broker(), 40)
    near.call("send", to="codex-api", message="after")
    until("the guest is back", lambda: peers(near).get("codex-api", {}).get("id") == far.id)
    first = third.end(waiting)["messages"]
    got = first + rest_of_mail(third)
    assert_all_arrived(acknowledged, got)
    assert [one["payload"] for one in far.mail()] == ["before", "after"]
    assert [one.call("peers", scope="machine")["you"]["id"] for one in [far, third]] == ids
    held = far.call("lock", action="query")["locks"]
    assert [one["holder"] for one in held] == ["codex-api"], held
    far.call("lock", action="unlock", filePath=str(far.where / "a"))


def send_on_and_on(session, to, meanwhile, n_sent):
    """Sends numbers, even if some calls fail. Returns the acknowledged texts."""
    acknowledged = []
    for n in range(n_sent):
        meanwhile(n)
        try:
            session.call("send", to=to, message=f"number {n}")
            acknowledged.append(f"number {n}")
        except Fault as fault:
            text = fault.value["error"]
            assert " " in text and fault.value["kind"] == "gone", text
    assert acknowledged
    return acknowledged


def rest_of_mail(session):
    got = []
    while page := session.mail():
        got += page
    return got


def assert_all_arrived(acknowledged, got):
    once = [one["payload"] for one in got if not one.get("redelivered")]
    assert sorted(once) == sorted(set(once)), f"shown twice, and not marked: {once}"
    missing = set(acknowledged) - {one["payload"] for one in got}
    assert not missing, f"acknowledged, and never arrived: {missing}"


def seconds_from_now(text):
    return (datetime.fromisoformat(text.replace("Z", "+00:00")) - datetime.now(timezone.utc)).total_seconds()


def a_clock_that_is_wrong_is_wrong_for_nobody_else(net):
    hub = net.hub()
    near = hub.session("claude-code", "api")
    for name, offset in [("early", "-1h"), ("late", "+1h")]:
        guest = net.guest(name, hub)
        guest.clock_is_off(offset)
        far = guest.session("codex-mcp-client", name)
        a_minute_is_a_minute(near, far, 0)
        assert far.close() == 0


def the_clock_of_the_hub_may_be_wrong(net):
    hub = net.host("desk", SLM_MESH_HOST="0.0.0.0", SLM_MESH_SHARED_SECRET=net.secret)
    hub.clock_is_off("+1h")
    hub.ok("start", "--detach")
    guest = net.guest("lap", hub)
    a_minute_is_a_minute(hub.session("claude-code", "api"), guest.session("codex-mcp-client", "lap"), 3600)
    # Only the hub's clock counts. If it is set back by an hour, a lock that ends in a minute must not last an hour and
    # a minute.
    far = guest.session("claude-code", "api")
    far.end(lock(far, "/srv/left", ttlMinutes=1))
    far.call("state", action="set", key="left", value="1", ttlMinutes=1)
    hub.kill_broker()
    hub.clock_is_off("+0h")
    hub.ok("start", "--detach")
    left = [one["expiresInSeconds"] for one in far.call("lock", action="query")["locks"]]
    assert left and all(45 <= seconds <= 61 for seconds in left), left
    assert far.call("state", action="get", key="left")["entry"]["value"] == "1"


def a_minute_is_a_minute(near, far, hub_is_off):
    """A lock, an entry and a message that are to last a minute do so on every machine, whichever clock is wrong."""
    guest, path = far.host, f"/srv/{far.host.host_name}"
    since = far.call("events")["seq"]
    held = far.end(lock(far, path, ttlMinutes=1))
    assert 50 <= held["expiresInSeconds"] <= 60 and 45 <= seconds_from_now(held["lock"]["expiresAt"]) - hub_is_off <= 61, held
    assert [one["holder"] for one in near.call("lock", action="query")["locks"]] == [far.name]
    left = re.search(r"(\d+) s\b", guest.ok("lock", "list"))
    assert left and 45 <= int(left[1]) <= 60, guest.ok("lock", "list")
    far.call("state", action="set", key=far.name, value="here", ttlMinutes=1)
    assert near.call("state", action="get", key=far.name)["entry"]["value"] == "here"
    assert guest.ok("state", "get", far.name) == "here"
    for one, other in [(near, far), (far, near)]:
        one.call("send", to=other.name, message="for a minute", expiresMinutes=1)
        assert [message["payload"] for message in other.mail()] == ["for a minute"]
    events = far.call("events", action="read", after=since)["events"]
    assert [one["type"] for one in events][:2] == ["file_locked", "state_changed"], events
    assert all(abs(seconds_from_now(one["createdAt"]) - hub_is_off) < 60 for one in events), events
    other = peers(near)[far.name]
    assert other["status"] == "active" and 0 <= other["idleSeconds"] < 60, other
    far.call("lock", action="unlock", filePath=path)


PROOFS = [
    a_hub_and_two_guests_are_one_mesh,
    what_readme_says_of_two_machines_is_so,
    a_hub_that_is_found_is_joined_if_it_proves_the_secret,
    a_hub_that_is_killed_loses_nothing,
    a_clock_that_is_wrong_is_wrong_for_nobody_else,
    the_clock_of_the_hub_may_be_wrong,
]
