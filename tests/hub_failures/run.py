#!/usr/bin/env python3
"""Three hubs and three members of etcd under load, while each of them is killed, stopped and cut off.

    run.py --program PATH [--checker PATH] [--seconds N] [--seed N]

Guests, sessions, verbs and HTTP clients send messages, write and read entries, and take locks; each repeats what was
not answered. At the end, nothing that was acknowledged is lost or doubled, no read was stale, a checker by another
author finds that a single copy can have given all answers, and all databases are equal.
"""

import argparse
import bisect
import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from typing import NamedTuple

import networks
import history
import loads
from cluster import Cluster, HUBS, LEASE

LOADS = [loads.Guest] * 3 + [loads.Session, loads.Verbs, loads.Verbs, loads.Http, loads.Http]
# How long a fault lasts: longer than a lease, so that another hub takes over.
FAULT_SECONDS = LEASE + 2
SETTLE_SECONDS = 60


class Fault(NamedTuple):
    """A fault that was injected, and the times at which it began and ended, in ns."""

    name: str
    kind: str
    """The name without numbers, but with the role of the hub or the member."""
    began: int
    healed: int


def rows(path):
    """Every row of every table."""
    database = sqlite3.connect(path)
    names = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1")]
    return {name: sorted(map(repr, database.execute(f'SELECT * FROM "{name}"'))) for name in names}


def await_equal(cluster):
    """Waits until all hubs have the same rows, and returns these rows."""
    until = time.monotonic() + SETTLE_SECONDS
    while True:
        tables = [rows(f"{cluster.directory}/hub{n}/broker.db") for n in range(HUBS)]
        differ = sorted({name for table in tables for name in table if any(t.get(name) != table[name] for t in tables)})
        if not differ:
            return tables[0]
        assert time.monotonic() < until, f"the databases differ in {differ}"
        time.sleep(0.2)


def strike(cluster, dice, seconds):
    """Injects each kind of fault once, and then random ones, until the time is over. Returns these faults."""
    kinds = list(cluster.faults())
    dice.shuffle(kinds)
    struck, until = [], time.monotonic() + seconds
    for name, begin in itertools.chain(kinds, iter(lambda: dice.choice(kinds), None)):
        if time.monotonic() >= until:
            return struck
        # A fault of the hub that leads matters most, so most faults of hubs are moved to this hub.
        if name.startswith("hub") and dice.random() < 0.7:
            name = f"hub {cluster.leader()} {name.split(' ', 2)[2]}"
            begin = dict(cluster.faults())[name]
        kind = kind_of(name, cluster)
        fault, began = begin(), time.monotonic_ns()
        next(fault)
        time.sleep(FAULT_SECONDS)
        next(fault, None)
        struck.append(Fault(name, kind, began, time.monotonic_ns()))
        time.sleep(dice.uniform(0.5, 2))


def kind_of(name, cluster):
    """The name of a fault, with the role of the affected hub or member in place of the number."""
    what, number, how = name.split(" ", 2)
    if what == "hub":
        return f"hub that {'leads' if int(number) == cluster.leader() else 'follows'} {how}"
    return f"etcd's {'leader' if int(number) == cluster.etcd_leader() else 'follower'} {how}"


def check(operations, table):
    """Compares what was acknowledged with what is stored."""
    found = history.faults(operations)
    bodies = table["message"]
    # A message that was sent with a key has its text as the key. So the row contains the text twice, and a set counts
    # it once.
    stored = Counter(word for row in bodies for word in set(row.split("'")) if word.startswith("message "))
    found += [f"{one.what} was acknowledged and is lost" for one in operations
              if one.kind == "message" and one.what not in stored]
    found += [f"{word} is stored {n} times" for word, n in sorted(stored.items()) if n > 1]
    return found


def second_opinion(checker, recording, directory):
    """What the checker finds, in words."""
    if not checker or not os.path.exists(checker):
        print("no second opinion: the checker was not built (it needs cargo and the crate todc-utils)")
        return []
    path = f"{directory}/attempts"
    recording.write_attempts(path)
    asked = subprocess.run([checker, path], stdout=subprocess.PIPE, text=True)
    print(asked.stdout, end="")
    return [f"the checker ended with status {asked.returncode}"] if asked.returncode else []


def checker_self_test(checker, directory):
    """Checks that the checker finds a stale read and a lock with two holders, and accepts good histories."""
    if not checker or not os.path.exists(checker):
        return
    path = f"{directory}/known"
    write, lock = "e\t1\t2\tset\ta\t1\n", "l\t1\t2\tlock\tada\tgranted\t1\n"
    for wrong, lines in (
        (0, write + "e\t3\t4\tget\t1\ta\ne\t5\t-\tset\tb\ne\t6\t7\tget\t2\tb\n"),
        (1, write + "e\t3\t4\tget\t0\t\n"),
        (0, lock + "l\t3\t4\tlock\tbob\theld\tada\nl\t5\t6\tunlock\tada\tdone\nl\t7\t8\tlock\tbob\tgranted\t9\n"),
        (1, lock + "l\t3\t4\tlock\tbob\tgranted\t2\n"),
    ):
        with open(path, "w") as file:
            file.write(lines)
        asked = subprocess.run([checker, path], stdout=subprocess.PIPE)
        assert asked.returncode == wrong, lines


def arguments():
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--program", required=True)
    words.add_argument("--checker")
    words.add_argument("--seconds", type=float, default=600)
    words.add_argument("--seed", type=int, default=1)
    return words.parse_args()


def choose_network(program):
    """Machines in network namespaces, if possible. For these, this script starts again in a namespace of its own."""
    if os.environ.get(networks.INSIDE):
        print("each hub and each member of etcd is a separate machine, with TLS between them", flush=True)
        return networks.Namespaces
    reason = networks.reason_for_loopback(program)
    if reason is None:
        command = ["unshare", "--net", sys.executable, *sys.argv]
        os.execvpe(command[0], command, {**os.environ, networks.INSIDE: "1"})
    print(f"hubs and members of etcd are on loopback, without TLS: {reason}", flush=True)
    return networks.Loopback


def under_load(cluster, options):
    """Runs the load and injects the faults. Returns the recording, the faults and the clients."""
    recording, stopping = history.Recording(), threading.Event()
    clients = [kind(cluster, n, recording, stopping) for n, kind in enumerate(LOADS)]
    for client in clients:
        # Each client holds locks as a peer of its own.
        registrar = client if isinstance(client, loads.Http) else loads.Http(cluster, client.n, recording, stopping)
        registrar.register()
        client.start()
    struck = strike(cluster, random.Random(options.seed), options.seconds)
    time.sleep(2 * LEASE)
    stopping.set()
    for client in clients:
        client.join(SETTLE_SECONDS)
        assert client.has_ended, f"{type(client).__name__} {client.n} failed, or gets no answer"
    return recording, struck, clients


def cause(wait, struck):
    """The fault that was in force when a wait began, or else the first one that began during the wait."""
    first, ended = wait
    n = bisect.bisect_right(struck, first, key=lambda fault: fault.began)
    if n and (first < struck[n - 1].healed or n == len(struck) or ended < struck[n].began):
        return struck[n - 1].kind
    return struck[n].kind if struck else "no fault"


def longest_by_kind(waits, struck):
    """The longest wait in s that each kind of fault has caused."""
    longest = defaultdict(float)
    for wait in waits:
        kind = cause(wait, struck)
        longest[kind] = max(longest[kind], (wait[1] - wait[0]) / 1e9)
    return longest


def report(recording, struck, clients, seed):
    print(f"{len(struck)} faults (seed {seed}): {', '.join(fault.name for fault in struck)}")
    kinds = list(dict.fromkeys(LOADS))
    waits = {kind: [wait for one in clients if isinstance(one, kind) for wait in one.waits] for kind in kinds}
    for kind in kinds:
        seconds = max((ended - first for first, ended in waits[kind]), default=0) / 1e9
        print(f"{kind.__name__.lower():8}{len(waits[kind]):7} answers, the longest wait {seconds:.1f} s")
    silences = list(itertools.pairwise(sorted(one.ended for one in recording.operations)))
    print(f"the longest time without any answer: {max(later - earlier for earlier, later in silences) / 1e9:.1f} s")
    columns = [longest_by_kind(silences, struck), *(longest_by_kind(waits[kind], struck) for kind in kinds)]
    heads = ["nobody", *(kind.__name__.lower() for kind in kinds)]
    print(f"{'the longest wait in s, by fault':48}{'faults':>8}" + "".join(f"{head:>9}" for head in heads))
    n_faults = Counter(fault.kind for fault in struck)
    for kind in sorted(n_faults, key=columns[0].__getitem__, reverse=True):
        print(f"{kind:48}{n_faults[kind]:8}" + "".join(f"{column[kind]:9.1f}" for column in columns))


def main():
    options = arguments()
    missing = [name for name in ("etcd", "etcdctl") if not shutil.which(name)]
    if missing:
        print(f"skipped: {' and '.join(missing)} missing (Debian: etcd-server, etcd-client)")
        return 0
    program = os.path.abspath(options.program)
    history.self_test()
    network = choose_network(program)
    directory = tempfile.mkdtemp(prefix="slm-mesh-hubs-")
    checker_self_test(options.checker, directory)
    cluster = Cluster(program, directory, network(directory))
    # A signal that ends this script must end the cluster, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        cluster.start()
        recording, struck, clients = under_load(cluster, options)
        found = check(recording.operations, await_equal(cluster))
        report(recording, struck, clients, options.seed)
        found += second_opinion(options.checker, recording, directory)
        for fault in found[:20]:
            print(fault)
        print("All promises hold" if not found else f"{len(found)} BREACHES; the logs are in {directory}")
        if not found:
            shutil.rmtree(directory, ignore_errors=True)
        return 1 if found else 0
    finally:
        cluster.end()


if __name__ == "__main__":
    sys.exit(main())
