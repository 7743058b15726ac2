"""Sessions that stay open when a turn is over, as a person's windows do: in a terminal, or in OpenCode's server."""

import json
import os
import pty
import shutil
import signal
import subprocess
import threading
import time
import urllib.request

# What programs ask a terminal, and its answers: where its cursor is, what it can do, its colours.
ANSWERS = [
    (b"\x1b[6n", b"\x1b[1;1R"),
    (b"\x1b[c", b"\x1b[?62;c"),
    (b"\x1b]10;?", b"\x1b]10;rgb:ffff/ffff/ffff\x1b\\"),
    (b"\x1b]11;?", b"\x1b]11;rgb:0000/0000/0000\x1b\\"),
]


class Terminal:
    """A program in a pseudoterminal. What the program draws is kept."""

    def __init__(self, command, env, folder, log):
        self.end, theirs = pty.openpty()
        env = {**env, "TERM": "xterm-256color", "LINES": "40", "COLUMNS": "120"}
        self.child = subprocess.Popen(command, env=env, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs,
                                      executable=shutil.which(command[0], path=env["PATH"]), start_new_session=True)
        os.close(theirs)
        self.log = open(log, "wb", buffering=0)
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while True:
            try:
                drawn = os.read(self.end, 65536)
            except OSError:
                return  # the program has ended
            self.log.write(drawn)
            for question, answer in ANSWERS:
                if question in drawn:
                    os.write(self.end, answer)

    def say(self, prompt):
        os.write(self.end, prompt.encode())
        # A Return key that comes together with the words would be taken for a line break in them.
        time.sleep(1)
        os.write(self.end, b"\r")

    def close(self):
        end_group(self.child)
        os.close(self.end)


class Served:
    """OpenCode's server, which OpenCode's window would talk to, with one session."""

    def __init__(self, command, env, folder, log):
        self.log = open(log, "wb", buffering=0)
        self.child = subprocess.Popen(command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, executable=shutil.which(command[0], path=env["PATH"]),
                                      start_new_session=True)
        self.address = None
        for line in self.child.stdout:
            self.log.write(line)
            if b"listening on" in line:
                self.address = line.split()[-1].decode()
                break
        threading.Thread(target=lambda: [self.log.write(line) for line in self.child.stdout], daemon=True).start()
        self.session = self.begin()

    def begin(self):
        """Begins one more session in the same server. Returns its id."""
        return self.call("/session", {})["id"]

    def call(self, path, body):
        head = {"content-type": "application/json"}
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(), head, method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def say(self, prompt, session=None):
        self.call(f"/session/{session or self.session}/prompt_async", {"parts": [{"type": "text", "text": prompt}]})

    def close(self):
        end_group(self.child)


def end_group(child):
    """Ends a process, with all others of its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(5)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
