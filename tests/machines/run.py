#!/usr/bin/env python3
"""Machines on a LAN: network namespaces of this machine, joined by cables. This file proves that hubs are announced on
one machine and found on the other, by us and by zeroconf from PyPI, that malformed packets of neighbours do no harm,
and that processes that are killed come back. The files beside this prove what hubs and their guests promise. `make
test-machines` runs it all (root, ip, python3, PyPI, and libfaketime for clocks that are wrong). Exit status: 0 when all
holds."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cut
import remote
import strangers
from namespaces import COUNTERS, KILLER, PATIENCE_SECONDS, Machine, Running, run, until
from hosts import Exempt, Missing, Net

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
IS_ALL = os.environ.get("SLM_MESH_TEST_ALL") == "1"
# A query that asks for the same name so often that the answer no longer fits into a packet.
PANIC = ("0000" "0000" "0258" "0000" "0000" "0000" + "095f736c6d2d6d657368045f746370056c6f63616c00" "000c0001"
         + "c00c000c0001" * 599)


class Lan:
    """Two machines with a cable between them, and one that is on no network."""

    def __init__(self, program, announcer, python, scratch):
        self.program, self.announcer, self.python, self.scratch = program, announcer, python, scratch
        self.machines = []
        try:
            self.a, self.b, self.alone = [self.machine() for _ in range(3)]
            run("ip", "link", "add", "lan0", "netns", self.a.name, "type", "veth", "peer", "name", "lan0",
                "netns", self.b.name)
            for n, machine in enumerate([self.a, self.b], 1):
                machine.ip("addr", "add", f"10.77.0.{n}/24", "dev", "lan0")
                machine.ip("addr", "add", f"fd77::{n}/64", "dev", "lan0", "nodad")
                machine.ip("link", "set", "lan0", "up")
                machine.ip("route", "add", "224.0.0.0/4", "dev", "lan0")
            # An interface like those that container engines create.
            self.a.ip("link", "add", "docker0", "type", "veth", "peer", "name", "veth9")
            self.a.ip("addr", "add", "172.17.0.1/16", "dev", "docker0")
            self.a.ip("link", "set", "docker0", "up")
            self.a.ip("link", "set", "veth9", "up")
            until("the link-local addresses are there", lambda: all(map(self.is_up, [self.a, self.b])))
        except BaseException:
            self.remove()
            raise

    def machine(self):
        self.machines.append(Machine())
        return self.machines[-1]

    def is_up(self, machine):
        told = subprocess.run(["ip", "-n", machine.name, "-6", "addr", "show", "dev", "lan0"], capture_output=True,
                              text=True).stdout
        return "fe80" in told and "tentative" not in told

    def remove(self):
        for machine in self.machines:
            machine.remove()

    def env(self, **more):
        return {"PATH": os.environ["PATH"], "HOME": self.scratch, "SLM_MESH_DATA_DIR": f"{self.scratch}/mesh", **COUNTERS,
                **more}

    def verb(self, machine, *words, status=0, **env):
        done = subprocess.run(machine.command(self.program, *words), capture_output=True, text=True,
                              env=self.env(**env), stdin=subprocess.DEVNULL, timeout=PATIENCE_SECONDS)
        assert done.returncode == status, done
        return done.stdout + done.stderr

    def hubs(self, machine):
        return json.loads(self.verb(machine, "hubs", "--json"))["hubs"]

    @contextmanager
    def running(self, machine, *words):
        running = Running(machine.command(*words), self.env())
        try:
            yield running
        finally:
            running.process.kill()
            running.process.wait()

    def announced(self, name, *addresses):
        return self.running(self.a, self.program, "announce", name, 7899, 7900, "2.0.0", *addresses)

    def neighbour(self, machine, *words):
        return self.running(machine, self.python, HERE / "neighbour.py", *words)

    def send(self, packet):
        run(*self.b.command(self.python, HERE / "neighbour.py", "send", "10.77.0.1", packet))


def where_nobody_is_nobody_is_found(lan):
    assert lan.hubs(lan.b) == []
    assert "multicast" in lan.verb(lan.b, "hubs")
    assert "not connected" in lan.verb(lan.alone, "hubs")
    assert "off" in lan.verb(lan.b, "hubs", status=1, SLM_MESH_DISCOVERY="off")
    assert "no address" in lan.verb(lan.alone, "announce", "desk", 7899, 7900, "2.0.0", status=3)
    assert "can't be used" in lan.verb(lan.alone, "announce", "desk", 7899, 7900, "2.0.0", "10.77.0.1", status=3)
    assert "expected" in lan.verb(lan.alone, "announce", "desk", status=2)
    assert "no hub answers" in lan.verb(lan.b, "doctor")
    assert "did not search" in lan.verb(lan.b, "doctor", SLM_MESH_DISCOVERY="off")


def a_hub_is_found_with_its_facts(lan):
    with lan.announced("desk") as hub:
        found = until("the hub is found", lambda: lan.hubs(lan.b))
        assert len(found) == 1, found
        facts = {key: found[0][key] for key in ["name", "what", "address", "httpPort", "wsPort", "version", "proven"]}
        assert facts == {"name": "desk", "what": "hub", "address": "10.77.0.1:7899", "httpPort": 7899, "wsPort": 7900,
                         "version": "2.0.0", "proven": None}, facts
        addresses = found[0]["addresses"]
        assert addresses[0] == "10.77.0.1" and "fd77::1" in addresses, addresses
        assert "172.17.0.1" not in addresses, "the containers' side is nobody's business"
        table = lan.verb(lan.b, "hubs")
        assert "desk" in table and "10.77.0.1:7899" in table and "not proven" in table, table
        assert lan.hubs(lan.a)[0]["name"] == "desk", "the hub's own machine finds it"
        assert "1 hub answers" in lan.verb(lan.b, "doctor")
        assert hub.end() == 0
    assert lan.hubs(lan.b) == []


def it_is_found_without_ipv4(lan):
    with lan.announced("desk"):
        until("the hub is found", lambda: lan.hubs(lan.b))
        lan.b.ip("-4", "addr", "flush", "dev", "lan0")
        try:
            found = lan.hubs(lan.b)
            assert len(found) == 1 and found[0]["address"].startswith("[fe80:"), found
            assert "fd77::1" in found[0]["addresses"], found
        finally:
            lan.b.ip("addr", "add", "10.77.0.2/24", "dev", "lan0")
            lan.b.ip("route", "replace", "224.0.0.0/4", "dev", "lan0")


def others_see_us_come_and_go(lan):
    with lan.neighbour(lan.b, "browse") as other:
        other.until(lambda line: "ready" in line)
        with lan.announced("desk", "10.77.0.1") as hub:
            came = other.until(lambda line: line.get("came") == "desk")
            assert came["port"] == 7899 and came["addresses"] == ["10.77.0.1"], came
            assert came["texts"] == {"version": "2.0.0", "wsPort": "7900"}, came
            assert hub.end() == 0
            # The hub's records live for a minute, so only a goodbye can remove them now.
            other.until(lambda line: line.get("gone") == "desk")


def we_see_others_and_tell_them_apart(lan):
    with lan.neighbour(lan.b, "publish", "10.77.0.2") as other:
        other.until(lambda line: "ready" in line)
        found = until("both are found", lambda: len(all := lan.hubs(lan.a)) == 2 and all)
        facts = [(one["name"], one["what"], one["address"], one["version"]) for one in found]
        assert facts == [("slm-node", "superlocalmemory", "10.77.0.2:8765", ""),
                         ("their-hub", "hub", "10.77.0.2:7899", "1.3.4")], facts


def what_is_killed_is_announced_again(lan):
    words = [lan.announcer, lan.program, "desk", 7899, 7900, "2.0.0"]
    for packet in [KILLER, PANIC]:
        with lan.running(lan.a, *words) as hub:
            first = hub.line()
            until("the hub is found", lambda: lan.hubs(lan.b))
            lan.send(packet)
            second = hub.until(lambda pid: pid not in (first, 0))
            until("it is found again", lambda: [one["name"] for one in lan.hubs(lan.b)] == ["desk"])
            assert second != first
    assert not list(Path("/").glob("core*")), "a killed process leaves no image of its memory"


def a_hub_that_is_killed_says_goodbye(lan):
    with lan.neighbour(lan.b, "browse") as other:
        other.until(lambda line: "ready" in line)
        with lan.running(lan.a, lan.announcer, lan.program, "desk", 7899, 7900, "2.0.0"):
            other.until(lambda line: line.get("came") == "desk")
        other.until(lambda line: line.get("gone") == "desk")


def new_addresses_are_told(lan):
    with lan.running(lan.a, lan.announcer, lan.program, "desk", 7899, 7900, "2.0.0"):
        until("the hub is found", lambda: lan.hubs(lan.b))
        lan.a.ip("addr", "add", "10.77.0.99/24", "dev", "lan0")
        until("its new address is told", lambda: any("10.77.0.99" in one["addresses"] for one in lan.hubs(lan.b)))
        lan.a.ip("addr", "del", "10.77.0.99/24", "dev", "lan0")


def hostile_answers_are_bounded(lan):
    with lan.neighbour(lan.b, "hostile", "10.77.0.2") as other:
        other.until(lambda line: "ready" in line)
        found = until("some of it is told", lambda: lan.hubs(lan.a))
        assert len(found) <= 64 and all(one["version"] == "" for one in found), found
        table = lan.verb(lan.a, "hubs")
        assert table.isprintable() or all(part.isprintable() for part in table.split("\n")), table
        with lan.announced("desk"):
            until("the hub is found beside them", lambda: "desk" in [one["name"] for one in lan.hubs(lan.a)])


PROOFS = [
    where_nobody_is_nobody_is_found,
    a_hub_is_found_with_its_facts,
    it_is_found_without_ipv4,
    others_see_us_come_and_go,
    we_see_others_and_tell_them_apart,
    what_is_killed_is_announced_again,
    a_hub_that_is_killed_says_goodbye,
    new_addresses_are_told,
    hostile_answers_are_bounded,
]


def zeroconf():
    """A Python with the packages that zeroconf.txt pins."""
    wanted = (HERE / "zeroconf.txt").read_text()
    venv = Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target")).resolve() / "lan/venv"
    done = venv / "wanted.txt"
    if not done.exists() or done.read_text() != wanted:
        run(sys.executable, "-m", "venv", "--clear", venv)
        run(venv / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r",
            HERE / "zeroconf.txt")
        done.write_text(wanted)
    return venv / "bin/python"


def can_be_made():
    """Why no network namespaces can be made on this machine; empty if they can."""
    if not shutil.which("ip"):
        return "there is no ip (iproute2)"
    name = f"slm-mesh-{os.getpid()}-0"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return "" if done.returncode == 0 else f"no network namespace can be made ({done.stderr.strip()})"


def prove(name, proof):
    """Runs a proof and prints its result. Returns whether nothing is wrong."""
    began = time.monotonic()
    try:
        proof()
        word = "ok"
    except Missing as missing:
        is_free = not IS_ALL or isinstance(missing, Exempt)
        word = f"skipped: {missing}" if is_free else f"WRONG: {missing}, but SLM_MESH_TEST_ALL requires all tests"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in where if frame.filename.startswith(str(HERE))][1:] or where
        word = f"WRONG: {error!r} at " + " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(ours))
    print(f"  {name.replace('_', ' '):<58} {time.monotonic() - began:5.1f} s  {word}", flush=True)
    return not word.startswith("WRONG")


def on_one_lan(asked, proofs, scratch):
    """The proofs of discovery, one after the other on two machines."""
    lan = Lan(asked.program.resolve(), asked.announcer.resolve(), zeroconf(), scratch)
    try:
        return [prove(proof.__name__, partial(proof, lan)) for proof in proofs]
    finally:
        lan.remove()


def on_nets_of_their_own(asked, proofs, scratch):
    """Proofs about hubs and guests, each on new hosts."""

    def on_a_net(proof):
        with Net(asked.program.resolve(), scratch) as net:
            proof(net)

    return [prove(proof.__name__, partial(on_a_net, proof)) for proof in proofs]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--announcer", type=Path, required=True)
    parser.add_argument("proofs", nargs="*", help="only these")
    asked = parser.parse_args()
    if why := can_be_made():
        print(f"{'WRONG' if IS_ALL else 'skipped'}: the tests of several machines need root and ip netns: {why}")
        return int(IS_ALL)
    # Each row makes its proofs one after the other, and all rows run at the same time, since some proofs wait for a
    # minute.
    on_nets = on_nets_of_their_own
    rows = [(on_one_lan, PROOFS), (on_nets, remote.PROOFS + strangers.PROOFS + cut.PROOFS),
            (on_nets, cut.LONG), (on_nets, strangers.LONG)]
    known = {proof.__name__ for _, proofs in rows for proof in proofs}
    if unknown := [name for name in asked.proofs if name not in known]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor() as pool:
        told = []
        for n, (where, proofs) in enumerate(rows):
            proofs = [proof for proof in proofs if not asked.proofs or proof.__name__ in asked.proofs]
            (Path(scratch) / str(n)).mkdir()
            told += [pool.submit(where, asked, proofs, f"{scratch}/{n}")] if proofs else []
        right = [holds for row in told for holds in row.result()]
    n_wrong = right.count(False)
    print("All proofs hold." if n_wrong == 0 else f"{n_wrong} proofs do not hold.")
    return int(n_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
