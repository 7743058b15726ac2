"""What the proofs of this directory share: machines that are network namespaces, processes that print lines, and waits
with a limit."""

import itertools
import json
import os
import queue
import signal
import subprocess
import threading
import time

PATIENCE_SECONDS = 40
# The variables for a program that counts the lines that it runs (`make coverage`).
COUNTERS = {name: value for name, value in os.environ.items() if "LLVM_PROFILE" in name}
# An answer whose only record has a name that points to itself: libmdns follows that name until its stack overflows.
KILLER = "000084000000000100000000" "c00c"
NUMBERS = itertools.count(1)


class Machine:
    """A network namespace."""

    def __init__(self):
        self.name = f"slm-mesh-{os.getpid()}-{next(NUMBERS)}"
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *words):
        run("ip", "-n", self.name, *words)

    def command(self, *words):
        return ["ip", "netns", "exec", self.name, *map(str, words)]

    def remove(self):
        """Removes the machine with all that still runs in it, since brokers outlive those who started them."""
        pids = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout
        for pid in pids.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass
        subprocess.run(["ip", "netns", "del", self.name])


class Running:
    """A process that prints lines, and ends when its standard input does."""

    def __init__(self, command, env=None, **how):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, **how)
        self.lines = queue.Queue()
        threading.Thread(target=lambda: [self.lines.put(line) for line in self.process.stdout], daemon=True).start()

    def line(self):
        return json.loads(self.lines.get(timeout=PATIENCE_SECONDS))

    def until(self, holds):
        while True:
            line = self.line()
            if holds(line):
                return line

    def end(self):
        self.process.stdin.close()
        return self.process.wait(PATIENCE_SECONDS)


def run(*words):
    subprocess.run(words, check=True)


def until(what, holds, seconds=PATIENCE_SECONDS):
    began = time.monotonic()
    while not (found := holds()):
        assert time.monotonic() - began < seconds, f"waited in vain until {what}"
        time.sleep(0.05)
    return found
