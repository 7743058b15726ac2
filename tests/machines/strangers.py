"""A LAN full of strangers without the secret: they learn only that they were not let in, and cost the hub bounded
memory and one line of its log each minute, and the hub's guests notice nothing."""

import re
import sys
import time

from remote import sessions_on
from namespaces import KILLER, PATIENCE_SECONDS, Running, run, until
from hosts import HERE, Fault

# Longer than the minute after which the log reports them.
FLOOD_SECONDS = 66
# The most memory that the hub may need during a flood. Without a flood, a hub that is built for tests needs 10 MB.
PEAK_BYTES = 48 << 20
N_SOURCES = 60
N_GUESTS = 100


def stranger(host, *words):
    return Running(host.command(sys.executable, HERE / "stranger.py", *words), host.env())


def a_flood_costs_the_hub_little_and_the_others_nothing(net):
    hub, thug = net.hub(), net.host("thug")
    sources = [f"10.78.0.{n}" for n in range(100, 100 + N_SOURCES)]
    for source in sources:
        thug.ip("addr", "add", f"{source}/24", "dev", "lan0")
    near, far, _ = sessions_on(hub, net.guest("lap", hub), net.guest("rack", hub))
    flood = stranger(thug, "flood", hub.address, FLOOD_SECONDS, *sources)
    ended, n = time.monotonic() + FLOOD_SECONDS, 0
    while time.monotonic() < ended:
        n += 1
        for one, other in [(near, far), (far, near)]:
            one.call("send", to=other.name, message=f"number {n}")
            assert [message["payload"] for message in other.mail()] == [f"number {n}"]
        if n == 50:
            # This datagram kills only the process that announces the hub by mDNS.
            run(*thug.command(sys.executable, HERE / "neighbour.py", "send", hub.address, KILLER))
        if n % 50 == 0:
            assert "claude-api" in far.host.ok("peers", "--as", "human"), "a verb of a guest gets through"
        time.sleep(0.1)
    told = flood.line()
    for text in told["heard"]:
        assert not re.search(r"slm|claude|codex|\b0\.1\.0|\"version|correct horse|desk", text, re.I), text
    assert all(told["n"].get(f"wrong_token {port}", 0) > 100 for port in [7899, 7900]), told["n"]
    assert hub.peak_bytes() < PEAK_BYTES, f"{hub.peak_bytes()} bytes"
    found = re.findall("wrong tokens over HTTP|rejected in the last minute", hub.log())
    assert sorted(found) == ["rejected in the last minute", "wrong tokens over HTTP"], "a line a minute: " + hub.log()
    assert hub.log().count("not announced") == 1 and len(hub.log()) < 4096, hub.log()


def outcome(session, n):
    """The kind of error with which a call was refused, or that it was answered."""
    try:
        session.end(n)
    except Fault as fault:
        return fault.value["kind"]
    return "answered"


def a_relay_can_change_nothing(net):
    hub, host = net.hub(), net.host("relay")
    relay = stranger(host, "relay", hub.address)
    assert relay.line() == {"ready": True}
    lap = net.guest("lap", host)

    def does(word):
        relay.process.stdin.write(word + "\n")
        relay.process.stdin.flush()
        return relay.until(lambda line: line.get("mode") == word)["told"]

    near, far = hub.session("claude-code", "api"), lap.session("codex-mcp-client", "api")
    far.call("state", action="set", key="counter", value="1")
    told = does("replays")
    assert "101" in told and not re.search("codex|claude|counter", told), told
    for word, done in [("changes", []), ("repeats", [("repeats 0", 1)]), ("swaps", [])]:
        since = near.call("events")["seq"]
        does(word)
        calls = [far.begin("state", action="set", key=f"{word} {n}", value="1", expect=0) for n in range(2 if word == "swaps" else 1)]
        until("the connection ends", lambda: near.call("events", after=since, types=["peer_left"])["events"])
        for n in calls:
            # The first of two equal frames is valid, so its answer may arrive before the second ends the connection.
            assert outcome(far, n) in (["gone", "answered"] if word == "repeats" else ["gone"]), word
        # The guest reconnects without help, as the same peer. Changed frames had no effect, and repeated ones had an
        # effect only once.
        assert far.call("peers", scope="machine")["you"]["id"] == far.id
        entries = near.call("state", action="list", prefix=word)["entries"]
        assert [(one["key"], one["version"]) for one in entries] == done, entries


def a_hundred_guests_come_from_one_address(net):
    hub = net.hub()
    lap = net.guest("lap", hub)
    hub.ok("state", "set", "go", "0")
    verbs = [lap.start("state", "watch", "go", "--wait", "60") for _ in range(N_GUESTS)]
    told = [verb.stdout.readline() for verb in verbs]
    assert all("0" in line for line in told), [verb.communicate() for verb in verbs if verb.poll() is not None]
    hub.ok("state", "set", "go", "1")
    assert [verb.wait(PATIENCE_SECONDS) for verb in verbs] == [0] * N_GUESTS


def a_wrong_secret_keeps_no_right_one_of_its_machine_out(net):
    hub = net.hub()
    lap = net.guest("lap", hub)
    hub.ok("state", "set", "port", "8080")
    # After this many wrong secrets in a minute, the hub allows their address fewer pending handshakes.
    for _ in range(24):
        done = lap.run("state", "get", "port", SLM_MESH_SHARED_SECRET="another secret altogether")
        assert done.returncode != 0 and "does not know this secret" in done.stderr, done
    assert lap.ok("state", "get", "port") == "8080"


PROOFS = [
    a_wrong_secret_keeps_no_right_one_of_its_machine_out,
    a_relay_can_change_nothing,
    a_hundred_guests_come_from_one_address,
]
LONG = [a_flood_costs_the_hub_little_and_the_others_nothing]
