"""A cable that is pulled, and a slow one that loses packets: both sides notice within 15 seconds, nothing that was
acknowledged is lost, and whoever was cut off reconnects without help as the same peer."""

import threading
import time
from pathlib import Path

from remote import all_of_it, lock, peers, refused, sessions_on
from namespaces import until
from hosts import Exempt, Fault

NOTICED_SECONDS = 15
# How long a session tries to reach the hub before a call fails because the hub is away.
TRIES_SECONDS = 4


class Sender(threading.Thread):
    """Sends numbers, one after the other, and goes on when a call fails."""

    def __init__(self, session, to):
        super().__init__(daemon=True)
        self.session, self.to = session, to
        self.stopping, self.acknowledged, self.failed = False, [], []
        self.start()

    def run(self):
        n = 0
        while not self.stopping:
            n += 1
            text = f"{self.session.name} {n}"
            try:
                self.session.call("send", to=self.to, message=text)
                self.acknowledged.append(text)
            except Fault as fault:
                self.failed.append(fault.value)
            time.sleep(0.2)

    def stop(self):
        self.stopping = True
        self.join()


def all_mail(session):
    got = []
    while page := session.mail():
        got += page
    return got


def all_arrived(acknowledged, got):
    once = [one["payload"] for one in got if not one.get("redelivered")]
    assert len(once) == len(set(once)), f"shown twice, and not marked: {once}"
    lost = set(acknowledged) - {one["payload"] for one in got}
    assert not lost, f"acknowledged, and never arrived: {lost}"


def is_here(session, other):
    row = peers(session).get(other.name, {})
    return row.get("id") == other.id and row["status"] == "active"


def waiting_calls(session):
    return session.call("status")["waiting"]


def a_cable_that_is_pulled(seconds, net):
    hub = net.hub()
    near, far, third = sessions_on(hub, net.guest("lap", hub), net.guest("rack", hub))
    lap, file = far.host, "src/main.rs"
    far.end(lock(far, far.where / file))
    beside = lap.session("claude-code", "beside")
    near.call("send", to="codex-api", message="before")
    n_waiting = waiting_calls(near)
    waiting = beside.begin("inbox", waitSeconds=90)
    until("the hub has the call that waits", lambda: waiting_calls(near) > n_waiting)
    lap.pull()
    pulled = time.monotonic()
    near.call("send", to=beside.id, message="into the void")
    wanted = lock(near, near.where / file, scope="repo", waitSeconds=60)
    to_far, to_near = Sender(third, "codex-api"), Sender(far, "claude-api")
    if seconds > NOTICED_SECONDS:
        is_noticed(near, far, to_near, pulled)
        assert near.end(wanted)["lock"]["holder"] == "claude-api", "what was locked over there is free after a while"
    # Sessions that are not cut off go on.
    assert third.host.ok("state", "set", "port", "8080") and near.call("state", action="get", key="port")["entry"]
    time.sleep(max(0, pulled + seconds - time.monotonic()))
    lap.plug_back()
    until("it is back by itself", lambda: is_here(near, far) and is_here(near, beside))
    to_far.stop(), to_near.stop()
    assert seconds > NOTICED_SECONDS or not to_near.failed, to_near.failed
    assert all(fault["kind"] == "gone" and "can't be reached" in fault["error"] for fault in to_near.failed), to_near.failed
    you = far.call("peers", scope="machine")["you"]
    assert you == {"id": far.id, "name": "codex-api"}, you
    all_arrived(["before", *to_far.acknowledged], all_mail(far))
    all_arrived(to_near.acknowledged, all_mail(near))
    if seconds > NOTICED_SECONDS:
        assert "can't be reached" in refused(beside, waiting)["error"]
        got = all_mail(beside)
        assert [(one["payload"], one["redelivered"]) for one in got] == [("into the void", True)], got
        assert refused(far, lock(far, far.where / file))["lock"]["holder"] == "claude-api"
    else:
        assert [one["payload"] for one in beside.end(waiting)["messages"]] == ["into the void"]
        holders = [one["holder"] for one in third.call("lock", action="query")["locks"]]
        assert holders == ["codex-api"], "a lock outlives a cut of a few seconds"
        far.call("lock", action="unlock", filePath=str(far.where / file))
        assert near.end(wanted)["lock"]["holder"] == "claude-api"


def is_noticed(near, far, sender, pulled):
    until("the hub notices", lambda: not is_here(near, far), NOTICED_SECONDS)
    until("the guest notices", lambda: sender.failed, pulled + NOTICED_SECONDS + TRIES_SECONDS - time.monotonic())
    done = far.host.run("peers")
    assert done.returncode == 3 and "can't be reached" in done.stderr, done


def a_long_and_bad_cable_is_only_slower(net):
    hub, lap, rack = net.hub(), *(net.host(name) for name in ["lap", "rack"])
    if not Path("/dev/net/tun").exists():
        raise Exempt("/dev/net/tun, of which a bad cable is made, is not there")
    for n, host in enumerate([lap, rack], 1):
        host.plug_in_badly(ms=100, percent=5, seed=n)
        host.configure(SLM_MESH_HOST=hub.address, SLM_MESH_SHARED_SECRET=net.secret)
    sessions = sessions_on(hub, lap, rack)
    for session in sessions:
        # A session whose first packets were all lost is told that the hub can't be reached, and tries again.
        until("it has reached the hub", session.is_met)
    all_of_it(*sessions)


def five_seconds_without_a_cable_are_not_noticed(net):
    a_cable_that_is_pulled(5, net)


def a_minute_without_a_cable_loses_nothing(net):
    a_cable_that_is_pulled(60, net)


PROOFS = [five_seconds_without_a_cable_are_not_noticed, a_long_and_bad_cable_is_only_slower]
LONG = [a_minute_without_a_cable_loses_nothing]
