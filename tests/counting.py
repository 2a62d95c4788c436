"""A publisher that counts, and a consumer that says which numbers it has received.

    counting.py publish ADDRESS PERIOD_S SIZE
    counting.py consume ADDRESS [KEEPALIVE_IDLE_S INTERVAL_S PROBES]

The publisher waits for the relay's subscription, then reads lines from stdin: for each, a number of
messages is published, ``PERIOD_S`` apart, with a body of ``SIZE`` bytes; it answers with how many
were published in all.  The consumer writes a line with each number.
"""

from __future__ import annotations

import sys
import time

import zmq


def publish(address: str, period_s: float, size: int) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.XPUB)
    socket.sndhwm = 0
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


def consume(address: str, *keepalive: int) -> None:
    socket = zmq.Context().socket(zmq.SUB)
    socket.rcvhwm = 0
    socket.reconnect_ivl = 100
    if keepalive:
        socket.tcp_keepalive = 1
        socket.tcp_keepalive_idle, socket.tcp_keepalive_intvl, socket.tcp_keepalive_cnt = keepalive
    socket.subscribe(b"number")
    socket.connect(address)
    while True:
        print(int(socket.recv_multipart()[1]), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "publish":
        publish(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
    else:
        consume(sys.argv[2], *map(int, sys.argv[3:]))
