#!/usr/bin/env python3
"""Runs OpenCode, or an agent that grew out of it, as its window does: a server with a session that stays when a turn is
over (`opencode run` ends with its turn, and nothing can make it go on). Its arguments are the program and the prompts.
Writes each prompt into one session, and ends once that session stays idle."""

import json
import subprocess
import sys
import threading
import time
import urllib.request

QUIET_SECONDS = 3


def main():
    server = subprocess.Popen([sys.argv[1], "serve", "--port", "0"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
    try:
        address = None
        for line in server.stdout:
            print(line, end="", flush=True)
            if "listening on" in line:
                address = line.split()[-1]
                break
        if address is None:
            return 1
        last = [time.monotonic()]
        threading.Thread(target=listen, args=(address, last), daemon=True).start()
        session = call(address, "/session", {})["id"]
        for prompt in sys.argv[2:]:
            call(address, f"/session/{session}/message", {"parts": [{"type": "text", "text": prompt}]})
            while time.monotonic() - last[0] < QUIET_SECONDS:
                time.sleep(0.1)
        return 0
    finally:
        server.terminate()
        server.wait(10)


def call(address, path, body):
    head = {"content-type": "application/json"}
    request = urllib.request.Request(address + path, json.dumps(body).encode(), head, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def listen(address, last):
    """Notes when the server last reported something about a session."""
    with urllib.request.urlopen(address + "/event", timeout=600) as events:
        for line in events:
            if b'"session.' in line or b'"message.' in line:
                last[0] = time.monotonic()


sys.exit(main())
