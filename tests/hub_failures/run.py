#!/usr/bin/env python3
"""Three hubs and three members of etcd under load, while each of them is killed, stopped and cut off.

    run.py --program PATH [--seconds N] [--seed N]

Clients on guests send messages, write and read entries, and take locks; each repeats what was not answered, under its
key. At the end nothing that was acknowledged is lost or doubled, no read was stale, and all databases are equal.
"""

import argparse
import itertools
import json
import os
import random
import select
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

import history
from cluster import Cluster, HUBS, LEASE, MEMBERS

CLIENTS = 4
# An answer that takes longer belongs to a connection that is given up.
ANSWER_MAX = 5
# How long a fault lasts: longer than a lease, so that another hub takes over.
FAULT_SECONDS = LEASE + 2
SETTLE_SECONDS = 60


class Client(threading.Thread):
    """A client over `slm-mesh pipe`, as a guest's program is one."""

    def __init__(self, program, cluster, n, record, stopping):
        super().__init__(daemon=True)
        self.command = [program, "pipe"]
        self.env = cluster.guest_environment(n)
        self.n, self.record, self.stopping = n, record, stopping
        self.pipe, self.ids = None, itertools.count(1)
        self.longest = 0.0

    def connect(self):
        self.close()
        self.pipe = subprocess.Popen(
            self.command, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.rest = b""

    def close(self):
        if self.pipe:
            self.pipe.kill()
            self.pipe.wait()
            self.pipe.stdin.close()
            self.pipe.stdout.close()
            self.pipe = None

    def call(self, method, params):
        """The answer's result; None if there was none, or the hub said that it does not lead."""
        if self.pipe is None:
            self.connect()
        call = next(self.ids)
        line = json.dumps({"jsonrpc": "2.0", "id": call, "method": method, "params": {**params, "as": "human"}})
        try:
            self.pipe.stdin.write(line.encode() + b"\n")
            self.pipe.stdin.flush()
            until = time.monotonic() + ANSWER_MAX
            while (left := until - time.monotonic()) > 0:
                while b"\n" in self.rest:
                    line, self.rest = self.rest.split(b"\n", 1)
                    answer = json.loads(line)
                    if answer.get("id") == call and "method" not in answer:
                        if "result" in answer:
                            return answer["result"]
                        self.close()
                        return None
                if not select.select([self.pipe.stdout], [], [], left)[0]:
                    break
                data = os.read(self.pipe.stdout.fileno(), 65536)
                if not data:
                    break
                self.rest += data
        except OSError:
            pass
        self.close()
        return None

    def run(self):
        dice = random.Random(self.n)
        for turn in itertools.count():
            if self.stopping.is_set():
                return self.close()
            kind = dice.choice(["message", "message", "entry", "read", "lock"])
            began = time.monotonic()
            number, what = None, f"{kind} {self.n}.{turn}"
            while number is None and not self.stopping.is_set():
                number = self.attempt(kind, what)
            if number is None:
                continue
            ended = time.monotonic()
            self.longest = max(self.longest, ended - began)
            name = {"entry": "entry", "read": "read entry"}.get(kind, kind)
            self.record(history.Operation(name, what, began, ended, number))

    def attempt(self, kind, what):
        if kind == "message":
            answer = self.call("send", {"to": "human", "message": what, "key": what})
            return answer and answer["seq"]
        if kind == "entry":
            # The key makes a repeated call harmless: the entry already has this value.
            answer = self.call("state.set", {"key": "entry", "value": what})
            return answer and answer["version"]
        if kind == "read":
            answer = self.call("state.get", {"key": "entry"})
            return answer and answer["entry"]["version"] if answer and answer.get("entry") else (0 if answer else None)
        # A repeated call renews the lock that an unanswered one took; it keeps its token.
        path = f"/chaos/{what.replace(' ', '-')}"
        answer = self.call("lock.lock", {"filePath": path, "ttlMinutes": 1, "renew": True})
        if answer is None:
            return None
        self.call("lock.unlock", {"filePath": path})
        return answer["token"]


def rows(path):
    """Every row of every table."""
    database = sqlite3.connect(path)
    names = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1")]
    return {name: sorted(map(repr, database.execute(f'SELECT * FROM "{name}"'))) for name in names}


def await_equal(cluster):
    """Stops the load's traces: waits until all hubs have the same rows; returns those."""
    until = time.monotonic() + SETTLE_SECONDS
    while True:
        tables = [rows(f"{cluster.directory}/hub{n}/broker.db") for n in range(HUBS)]
        differ = sorted({name for table in tables for name in table if any(t.get(name) != table[name] for t in tables)})
        if not differ:
            return tables[0]
        assert time.monotonic() < until, f"the databases differ in {differ}"
        time.sleep(0.2)


def strike(cluster, dice, seconds):
    """Faults in turn and then at random, until the time is over; returns their names."""
    kinds = list(cluster.faults())
    dice.shuffle(kinds)
    struck, until = [], time.monotonic() + seconds
    for name, begin in itertools.chain(kinds, iter(lambda: dice.choice(kinds), None)):
        if time.monotonic() >= until:
            return struck
        # The hub that leads is the one whose loss matters most.
        if name.startswith("hub") and dice.random() < 0.7:
            name = f"hub {cluster.leader()} {name.split(' ', 2)[2]}"
            begin = dict(cluster.faults())[name]
        fault = begin()
        next(fault)
        time.sleep(FAULT_SECONDS)
        next(fault, None)
        struck.append(name)
        time.sleep(dice.uniform(0.5, 2))


def check(operations, table):
    """Compares what was acknowledged with what is stored."""
    found = history.faults(operations)
    bodies = [row for row in table["message"]]
    for one in operations:
        if one.kind == "message":
            n = sum(f"'{one.what}'" in row for row in bodies)
            if n == 0:
                found.append(f"{one.what} was acknowledged and is lost")
    stored = sorted(word for row in bodies for word in row.split("'") if word.startswith("message "))
    # The text is also the key, so that each message has it twice.
    doubled = {word for word in stored if stored.count(word) > 2}
    found += [f"{word} is stored more than once" for word in sorted(doubled)]
    return found


def main():
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--program", required=True)
    words.add_argument("--seconds", type=float, default=600)
    words.add_argument("--seed", type=int, default=1)
    options = words.parse_args()
    missing = [name for name in ("etcd", "etcdctl") if not shutil.which(name)]
    if missing:
        print(f"skipped: {' and '.join(missing)} missing (Debian: etcd-server, etcd-client)")
        return 0
    history.self_test()
    directory = tempfile.mkdtemp(prefix="slm-mesh-hubs-")
    cluster = Cluster(os.path.abspath(options.program), directory)
    operations, lock, stopping = [], threading.Lock(), threading.Event()

    def record(one):
        with lock:
            operations.append(one)

    try:
        cluster.start()
        clients = [Client(cluster.program, cluster, n, record, stopping) for n in range(CLIENTS)]
        for client in clients:
            client.start()
        struck = strike(cluster, random.Random(options.seed), options.seconds)
        time.sleep(2 * LEASE)
        stopping.set()
        for client in clients:
            client.join(2 * ANSWER_MAX)
        table = await_equal(cluster)
        found = check(operations, table)
        longest = max(client.longest for client in clients)
        print(f"{len(struck)} faults (seed {options.seed}): {', '.join(struck)}")
        print(f"{len(operations)} operations, the longest took {longest:.1f} s")
        for fault in found[:20]:
            print(fault)
        print("All holds" if not found else f"{len(found)} BREACHES; the logs are in {directory}")
        if not found:
            shutil.rmtree(directory, ignore_errors=True)
        return 1 if found else 0
    finally:
        cluster.end()


if __name__ == "__main__":
    sys.exit(main())
