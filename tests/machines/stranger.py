#!/usr/bin/env python3
"""A machine on the LAN that does not know the secret. `flood` attacks the hub for SECONDS, on both of its ports and
from all addresses of this machine, and prints the hub's answers. `relay` passes a guest's frames on to the hub, and
changes them as the lines on its standard input say."""

import base64
import json
import os
import random
import socket
import struct
import sys
import threading
import time

HTTP, SESSIONS = 7899, 7900
UPGRADE = ("GET {} HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{}\r\n")
NOISE = "Sec-WebSocket-Protocol: slm-mesh.noise.1\r\n"
# The WebSocket opcodes of the messages between slm-mesh programs, and of pings.
BINARY, PING = 2, 9
PAUSE_SECONDS = 0.02


def say(**facts):
    print(json.dumps(facts), flush=True)


class Flood:
    """Threads that each repeat one attack, with a pause after each time."""

    def __init__(self, hub, seconds, *sources):
        self.hub, self.end, self.sources = hub, time.monotonic() + float(seconds), sources
        self.heard, self.n = set(), {}
        self.threads = []

    def run(self):
        for bad, ports in [(self.connects, "both"), (self.half_a_head, "both"), (self.endless_head, "both"),
                           (self.drips, "both"), (self.garbage, "both"), (self.asks_how_it_is, "both"),
                           (self.wrong_token, "both"), (self.huge_frame, "far"), (self.endless_message, "far"),
                           (self.wrong_proof, "far"), (self.huge_body, "http")]:
            for port in {"both": [HTTP, SESSIONS], "far": [SESSIONS], "http": [HTTP]}[ports]:
                self.threads.append(threading.Thread(target=self.again, args=(bad, port), daemon=True))
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join()
        say(heard=sorted(self.heard), n=self.n)

    def again(self, bad, port):
        name = f"{bad.__name__} {port}"
        while time.monotonic() < self.end:
            self.n[name] = self.n.get(name, 0) + 1
            try:
                bad(port)
            except OSError:
                pass  # the hub cut the connection, as it should
            time.sleep(PAUSE_SECONDS)

    def open(self, port, source=None):
        source = source or random.choice(self.sources)
        return socket.create_connection((self.hub, port), timeout=5, source_address=(source, 0))

    def listen(self, sock, bytes_max=4096):
        told = b""
        try:
            while len(told) < bytes_max and (more := sock.recv(4096)):
                told += more
        except OSError:
            pass
        if told:
            self.heard.add(told.decode("latin-1"))
        return told

    def connects(self, port):
        source = random.choice(self.sources)
        held = [self.open(port, source) for _ in range(100)]
        time.sleep(1)
        for sock in held:
            sock.close()

    def half_a_head(self, port):
        held = [self.open(port) for _ in range(20)]
        for sock in held:
            sock.sendall(b"GET /far HTTP/1.1\r\nHost: hub\r\nUpgra")
        self.listen(held[0])
        for sock in held:
            sock.close()

    def endless_head(self, port):
        with self.open(port) as sock:
            sock.sendall(b"GET /far HTTP/1.1\r\nHost: hub\r\n")
            for _ in range(10_000):
                sock.sendall(b"a: b\r\n" * 100)

    def drips(self, port):
        with self.open(port) as sock:
            for byte in UPGRADE.format("/far", NOISE).encode():
                sock.sendall(bytes([byte]))
                time.sleep(0.1)

    def garbage(self, port):
        with self.open(port) as sock:
            sock.sendall(os.urandom(4096))
            self.listen(sock)

    def wrong_token(self, port):
        token = f"Authorization: Bearer {base64.b64encode(os.urandom(12)).decode()}\r\n"
        if port == SESSIONS:
            head = UPGRADE.format("/ws", token)
        else:
            head = f"GET /peers HTTP/1.1\r\nHost: {self.hub}\r\n{token}Connection: close\r\n\r\n"
        with self.open(port) as sock:
            sock.sendall(head.encode())
            self.listen(sock)

    def asks_how_it_is(self, port):
        with self.open(port) as sock:
            sock.sendall(f"GET /health HTTP/1.1\r\nHost: {self.hub}\r\nConnection: close\r\n\r\n".encode())
            self.listen(sock)

    def huge_body(self, port):
        with self.open(port) as sock:
            sock.sendall(b"POST /state HTTP/1.1\r\nHost: 10.78.0.1\r\nContent-Length: 100000000000\r\n\r\n")
            for _ in range(100):
                sock.sendall(b"x" * 65536)

    def upgraded(self, port):
        sock = self.open(port)
        sock.sendall(UPGRADE.format("/far", NOISE).encode())
        if b"101" not in sock.recv(4096):
            sock.close()
            raise OSError("not let in so far")
        return sock

    def huge_frame(self, port):
        with self.upgraded(port) as sock:
            sock.sendall(b"\x82\xff" + struct.pack(">Q", 1 << 40) + b"\0\0\0\0")
            for _ in range(100):
                sock.sendall(b"x" * 65536)

    def endless_message(self, port):
        with self.upgraded(port) as sock:
            sock.sendall(frame("x" * 60_000, first=True, last=False))
            for _ in range(500):
                sock.sendall(frame("x" * 60_000, first=False, last=False))

    def wrong_proof(self, port):
        with self.upgraded(port) as sock:
            sock.sendall(frame(os.urandom(48)))
            answer = self.listen(sock)
            assert answer in [b"", b"\x88\x00", b"\x88\x02\x03\xe8"], f"more than a close: {answer}"


def frame(text, first=True, last=True):
    body = text.encode() if isinstance(text, str) else text
    head = bytes([(0x80 if last else 0) | (BINARY if first else 0)])
    size = struct.pack(">B", 0x80 | len(body)) if len(body) < 126 else struct.pack(">BH", 0x80 | 126, len(body))
    if len(body) > 65535:
        size = struct.pack(">BQ", 0x80 | 127, len(body))
    return head + size + b"\0\0\0\0" + body


class Relay:
    """Passes on the frames of guests, and keeps them. The modes `changes`, `repeats` and `swaps` change or repeat the
    next frame, or swap the next two, once. The mode `replays` sends the kept frames over another connection."""

    def __init__(self, hub):
        self.hub, self.mode, self.kept = hub, "passes", []

    def run(self):
        door = socket.create_server(("", SESSIONS))
        threading.Thread(target=self.serve, args=(door,), daemon=True).start()
        say(ready=True)
        for line in sys.stdin:
            self.mode = line.strip()
            say(mode=self.mode, told=self.replay().decode("latin-1") if self.mode == "replays" else "")

    def serve(self, door):
        while True:
            guest, _ = door.accept()
            hub = socket.create_connection((self.hub, SESSIONS))
            threading.Thread(target=self.carry, args=(hub, guest), daemon=True).start()
            threading.Thread(target=self.meddle, args=(guest, hub), daemon=True).start()

    def carry(self, source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def meddle(self, guest, hub):
        file = guest.makefile("rb")
        kept = [head_of(file)]
        self.kept = kept
        held = b""
        try:
            hub.sendall(kept[0])
            while data := frame_of(file):
                kept.append(data)
                mode = self.mode if data[0] & 15 == BINARY and not held else "passes"
                if mode == "swaps":
                    held = data
                elif held and data[0] & 15 == BINARY:
                    data, held = data + held, b""
                elif mode == "changes":
                    data = data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]
                elif mode == "repeats":
                    data = data + data
                if mode in ["swaps", "changes", "repeats"]:
                    self.mode = "passes"
                if not held:
                    hub.sendall(data)
            hub.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def replay(self):
        with socket.create_connection((self.hub, SESSIONS), timeout=5) as sock:
            sock.sendall(self.kept[0])
            told = sock.recv(4096)
            try:
                for data in self.kept[1:]:
                    sock.sendall(data)
                    time.sleep(0.01)
                while more := sock.recv(4096):
                    told += more
            except OSError:
                pass
            return told


def head_of(file):
    head = b""
    while not head.endswith(b"\r\n\r\n") and (line := file.readline()):
        head += line
    return head


def frame_of(file):
    head = file.read(2)
    if len(head) < 2:
        return b""
    more = {126: 2, 127: 8}.get(head[1] & 127, 0)
    size = file.read(more)
    length = int.from_bytes(size, "big") if more else head[1] & 127
    return head + size + file.read(4 + length)


if __name__ == "__main__":
    what, hub, *rest = sys.argv[1:]
    (Flood(hub, *rest) if what == "flood" else Relay(hub)).run()
