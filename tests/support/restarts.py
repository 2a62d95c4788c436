"""Count what is lost while a relay is restarted again and again on a busy bus.

    python tests/support/restarts.py [--restarts N] [--rate R] [...] -- service fedmsg-relay restart

R times a second a script's worth of stock fedmsg runs: init with ``active=True``, which sleeps
``post_init_sleep``, publish, destroy.  Each is a ``FedMsgContext`` with sockets of its own; only
the start of Python, which would take the machine and not the relay to its limits, is shared.  Five
subscribers listen.  The command is run N times; the addresses are those of the global fedmsg
config.  Prints one line of JSON; exits 0 only if every restart succeeded and nothing was lost.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fedmsg.config
import fedmsg.core
import zmq

SUBSCRIBERS = 5
SETTLE_S = 3.0  # beyond the hold of a relay that has just been started, and the linger of a script


def script(config: dict[str, Any], number: int) -> None:
    context = fedmsg.core.FedMsgContext(**copy.deepcopy(config))
    context.publish(topic="restart", modname="test", msg={"number": number})
    context.destroy()


def subscribe(context: zmq.Context[Any], config: dict[str, Any], received: list[int]) -> None:
    with context.socket(zmq.SUB) as socket:
        socket.rcvhwm = 0
        socket.reconnect_ivl = 100
        socket.reconnect_ivl_max = 1000
        socket.linger = 0
        socket.subscribe(b"")
        socket.connect(config["endpoints"]["relay_outbound"][0])
        try:
            while True:
                _, body = socket.recv_multipart()
                received.append(json.loads(body)["msg"]["number"])
        except zmq.ContextTerminated:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--rate", type=float, default=50, help="scripts a second")
    parser.add_argument("--sleep", type=float, help="post_init_sleep, instead of the config's")
    parser.add_argument("--every", type=float, default=2.5, help="seconds between restarts")
    parser.add_argument("--settle", type=float, default=SETTLE_S, help="seconds at both ends")
    parser.add_argument("command", nargs="+", help="what restarts the relay")
    options = parser.parse_args()

    warnings.simplefilter("ignore")
    config = fedmsg.config.load_config([], None)
    config.update(active=True, name="relay_inbound")
    if options.sleep is not None:
        config["post_init_sleep"] = options.sleep
    context: zmq.Context[Any] = zmq.Context()
    received: list[list[int]] = [[] for _ in range(SUBSCRIBERS)]
    threads = [threading.Thread(target=subscribe, args=(context, config, r)) for r in received]
    for thread in threads:
        thread.start()
    time.sleep(options.settle)

    restarts: list[int] = []

    def restart() -> None:
        for _ in range(options.restarts):
            time.sleep(options.every)
            done = subprocess.run(options.command, stdout=subprocess.DEVNULL, check=False)
            restarts.append(done.returncode)
        time.sleep(options.every)

    restarting = threading.Thread(target=restart)
    restarting.start()
    sent = 0
    start = time.monotonic()
    with ThreadPoolExecutor(max_workers=200) as scripts:
        futures = []
        while restarting.is_alive():
            futures.append(scripts.submit(script, config, sent))
            sent += 1
            time.sleep(max(0, start + sent / options.rate - time.monotonic()))
    for future in futures:
        future.result()
    time.sleep(options.settle)
    context.term()
    lost = [sorted(set(range(sent)) - set(r)) for r in received]
    print(json.dumps({"sent": sent, "statuses": restarts, "lost": [len(each) for each in lost]}))
    if any(lost):
        print(f"lost by the first subscriber: {lost[0]}", file=sys.stderr)
    return 1 if any(lost) or any(restarts) else 0


if __name__ == "__main__":
    sys.exit(main())
