#!/usr/bin/env python3
"""A long, bad cable: two TAP devices of this namespace. Every frame between them takes MS milliseconds. PERCENT of the
frames are lost; SEED decides which. This does what tc netem does, for kernels that were built without it. Runs until
its standard input ends."""

import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time

TUNSETIFF, TAP_WITHOUT_HEAD = 0x400454CA, 0x1002
FRAME_MAX = 65536


def tap(name):
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH", name.encode(), TAP_WITHOUT_HEAD))
    return file


def carry(ends, delay, loss, chance):
    under_way, count = [], 0
    while True:
        wait = max(0, under_way[0][0] - time.monotonic()) if under_way else None
        readable = select.select([*ends, sys.stdin], [], [], wait)[0]
        if sys.stdin in readable:
            return
        for end in readable:
            frame = os.read(end, FRAME_MAX)
            if chance.random() >= loss:
                count += 1
                heapq.heappush(under_way, (time.monotonic() + delay, count, ends[1 - ends.index(end)], frame))
        while under_way and under_way[0][0] <= time.monotonic():
            *_, end, frame = heapq.heappop(under_way)
            try:
                os.write(end, frame)
            except OSError:
                pass  # an end that is down loses frames, as cables do


def main():
    near, far, ms, percent, seed = sys.argv[1:]
    ends = [tap(near), tap(far)]
    print(json.dumps({"ready": True}), flush=True)
    carry(ends, int(ms) / 1000, int(percent) / 100, random.Random(int(seed)))


if __name__ == "__main__":
    main()
