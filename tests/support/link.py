"""A bad network between two hosts, in user space: delay, loss, reordering, rate, outage, small MTU.

    link.py [--delay S] [--loss SHARE] [--reorder SHARE] [--rate BYTES_PER_S]

Run as root in a network namespace of its own (see box.py).  Makes the namespace ``peer``, another
host, and passes packets between two TUN devices until stdin ends.  Says ``up`` when both hosts have
their addresses.  Lines on stdin change the network, and are answered when that is done: ``cut``
drops every packet, ``hole`` every one of more than 600 bytes, ``join`` none.
"""

from __future__ import annotations

import argparse
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import sys
import time

HERE_IP, THERE_IP = "192.0.2.1", "192.0.2.2"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000  # <linux/if_tun.h>
PACKET_MAX = 2**16
MTU = 1500
LARGEST = {"cut": 0, "hole": 600, "join": PACKET_MAX}
"""Bytes of a packet that passes, by the word for it."""
QUEUE_S = 1.0
"""What waits longer than this for a slow link is dropped, as a router would."""

SETUP = f"""
    ip netns add peer
    ip link set lo up
    ip -n peer link set lo up
    ip link set there netns peer
    ip address add {HERE_IP}/24 dev here
    ip link set here up
    ip -n peer address add {THERE_IP}/24 dev there
    ip -n peer link set there up
"""


def tun(name: str) -> int:
    """A TUN device, as a descriptor from which to read packets and to write them."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


class Link:
    """Both directions of the network."""

    def __init__(self, network: argparse.Namespace) -> None:
        self._network = network
        self._ends = [tun("here"), tun("there")]
        self._largest = PACKET_MAX
        self._underway: list[tuple[float, int, int, bytes]] = []  # when it arrives, and where
        self._count = itertools.count()
        self._free_at = [0.0, 0.0]  # when each direction has sent what it was given

    def run(self) -> None:
        while True:
            arrives = self._underway[0][0] - time.monotonic() if self._underway else 60.0
            ready, _, _ = select.select([*self._ends, sys.stdin], [], [], max(0.0, arrives))
            if sys.stdin in ready:
                word = sys.stdin.readline().strip()
                if not word:
                    return
                self._largest = LARGEST[word]
                print(word, flush=True)
            for side, fd in enumerate(self._ends):
                if fd in ready:
                    self._take(side, os.read(fd, PACKET_MAX))
            while self._underway and self._underway[0][0] <= time.monotonic():
                _, _, side, packet = heapq.heappop(self._underway)
                os.write(self._ends[side], packet)

    def _take(self, side: int, packet: bytes) -> None:
        network, now = self._network, time.monotonic()
        start = max(now, self._free_at[side])
        is_lost = random.random() < network.loss or start > now + QUEUE_S
        if len(packet) > self._largest or is_lost:
            return
        if network.rate:
            self._free_at[side] = start + len(packet) / network.rate
            start = self._free_at[side]
        # One that overtakes others does so by half of the way.
        late = network.delay * (0.5 if random.random() < network.reorder else 1.0)
        heapq.heappush(self._underway, (start + late, next(self._count), 1 - side, packet))


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("delay", "loss", "reorder", "rate"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    link = Link(parser.parse_args())
    subprocess.run(["sh", "-ec", SETUP], check=True)
    print("up", flush=True)
    link.run()


if __name__ == "__main__":
    main()
