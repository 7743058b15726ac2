#!/usr/bin/env python3
"""Another machine on the LAN: `browse` prints a line for each service that comes or goes, `publish` announces some,
`hostile` answers every query with malformed packets, `send` sends a datagram. All but `send` run until their standard
input ends."""

import json
import socket
import struct
import sys
import threading

TYPE = "_slm-mesh._tcp.local."
GROUP, PORT = "224.0.0.251", 5353


def say(**facts):
    print(json.dumps(facts), flush=True)


def browse():
    from zeroconf import IPVersion, ServiceBrowser, ServiceListener, Zeroconf

    class Listener(ServiceListener):
        def add_service(self, zc, kind, name):
            info = zc.get_service_info(kind, name, timeout=3000)
            texts = {key.decode(): (value or b"").decode() for key, value in info.properties.items()} if info else {}
            addresses = info.parsed_addresses(IPVersion.V4Only) if info else []
            say(came=name.removesuffix("." + TYPE), port=info and info.port, texts=texts, addresses=addresses)

        def remove_service(self, zc, kind, name):
            say(gone=name.removesuffix("." + TYPE))

        def update_service(self, zc, kind, name):
            pass

    zc = Zeroconf(ip_version=IPVersion.V4Only)
    ServiceBrowser(zc, TYPE, Listener())
    say(ready=True)
    sys.stdin.read()
    zc.close()


def publish(address):
    from zeroconf import IPVersion, ServiceInfo, Zeroconf

    zc = Zeroconf(ip_version=IPVersion.V4Only)
    for name, port, texts in [
        ("their-hub", 7899, {"version": "1.3.4", "wsPort": "7900"}),
        ("slm-node", 8765, {"node_id": "a1b2"}),
    ]:
        info = ServiceInfo(TYPE, f"{name}.{TYPE}", port=port, properties=texts, server="theirs.local.",
                           addresses=[socket.inet_aton(address)])
        zc.register_service(info)
    say(ready=True)
    sys.stdin.read()
    zc.unregister_all_services()
    zc.close()


def name(*labels):
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def hub(n):
    """The records of a hub whose name and texts contain hostile bytes."""
    label = (b"\x1b[2J\xff\xfe.\n%d" % n).ljust(63, b"A")
    owner = name(label, b"_slm-mesh", b"_tcp", b"local")
    target = name(b"x" * 63, b"y" * 63, b"local")
    texts = bytes([255]) + b"version=".ljust(255, b"9") + b"\xffwsPort=1"
    records = b""
    for kind, data in [(33, struct.pack(">HHH", 0, 0, 1 + n) + target), (16, texts)]:
        records += owner + struct.pack(">HHIH", kind, 0x8001, 60, len(data)) + data
    return records


def poison(id):
    """Packets that nobody should answer with: loops, lies about lengths and numbers, and a thousand hubs."""
    head = struct.pack(">H", id) + b"\x84\x00"
    yield head + bytes.fromhex("0001000000000000c00c")
    yield head + bytes.fromhex("ffffffffffffffff") + b"\xc0\x0c" * 700
    yield head + bytes.fromhex("000000ff00000000") + name(b"a", b"_slm-mesh", b"_tcp", b"local") + b"\0\x21"
    yield b""
    yield head
    yield b"\xff" * 1400
    for start in range(0, 1000, 4):
        yield head + struct.pack(">HHHH", 0, 8, 0, 0) + b"".join(hub(n) for n in range(start, start + 4))


def hostile(address):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", PORT))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + socket.inet_aton(address))

    def answer():
        while True:
            query, asker = sock.recvfrom(9000)
            if query[2] & 0x80:
                continue  # this is no query, and the packets below would kill the announcer that sent it
            for packet in poison(int.from_bytes(query[:2], "big")):
                sock.sendto(packet, asker)

    threading.Thread(target=answer, daemon=True).start()
    say(ready=True)
    sys.stdin.read()


def send(address, packet):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(bytes.fromhex(packet), (address, PORT))


if __name__ == "__main__":
    {"browse": browse, "publish": publish, "hostile": hostile, "send": send}[sys.argv[1]](*sys.argv[2:])
