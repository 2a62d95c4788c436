"""A publisher that counts, and a consumer that says which numbers it has received.

    counting.py publish ADDRESS PERIOD_S SIZE
    counting.py pour ADDRESS PUBLISHERS PERIOD_S SIZE
    counting.py consume ADDRESS [KEEPALIVE_IDLE_S INTERVAL_S PROBES]

The publisher waits for the relay's subscription, then reads lines from stdin: for each, a number of
messages is published, ``PERIOD_S`` apart, with a body of ``SIZE`` bytes; it answers with how many
were published in all.  Those who pour each publish until the relay ends its half of the connection,
hang up, and write a line: their number, and how many messages the kernel has taken of them.  The
consumer writes a line with each number, or the publisher's and the message's.
"""

from __future__ import annotations

import contextlib
import select
import sys
import threading
import time

import zmq
import zmtp


def publish(address: str, period_s: float, size: int) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.XPUB)
    socket.sndhwm = 0
    socket.ipv6 = True
    socket.linger = 60_000
    socket.connect(address)
    socket.recv()
    print("subscribed", flush=True)
    number = 0
    for line in sys.stdin:
        for _ in range(int(line)):
            socket.send_multipart([b"number", str(number).encode().ljust(size)])
            number += 1
            time.sleep(period_s)
        print(f"published {number}", flush=True)
    socket.close()
    context.term()


def pour(address: str, publishers: int, period_s: float, size: int) -> None:
    for number in range(publishers):
        threading.Thread(target=_pour, args=(address, number, period_s, size)).start()


def _pour(address: str, number: int, period_s: float, size: int) -> None:
    peer = zmtp.Peer(address, b"PUB")
    peer.wait_for_subscription()
    written = 0
    while True:
        ready, _, _ = select.select([peer.socket], [], [], period_s)
        if ready and not peer.socket.recv(2**16):
            break
        with contextlib.suppress(BrokenPipeError):
            peer.send(b"number", f"{number} {written}".encode().ljust(size))
            written += 1
    peer.socket.close()
    print(f"{number} {written}\n", end="", flush=True)


def consume(address: str, *keepalive: int) -> None:
    socket = zmq.Context().socket(zmq.SUB)
    socket.rcvhwm = 0
    socket.ipv6 = True
    socket.reconnect_ivl = 100
    if keepalive:
        socket.tcp_keepalive = 1
        socket.tcp_keepalive_idle, socket.tcp_keepalive_intvl, socket.tcp_keepalive_cnt = keepalive
    socket.subscribe(b"number")
    socket.connect(address)
    while True:
        print(socket.recv_multipart()[1].decode().strip(), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "publish":
        publish(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1] == "pour":
        pour(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
    else:
        consume(sys.argv[2], *map(int, sys.argv[3:]))
