"""All peers, in the order of the tables; this relay and what it is compared with come first."""

import argparse

from bench.brokers import Mosquitto, RabbitMq, Redis
from bench.peer import Peer
from bench.relays import Engine, Journaling, Loop, Ours, SystemEngine, Upstream

PEERS: tuple[Peer, ...] = (
    Ours(),
    Ours("relay:io_threads=2"),
    Journaling(),
    Engine(),
    SystemEngine(),
    Loop(),
    Upstream(),
    Mosquitto(),
    Redis(),
    RabbitMq(),
)


def named(name: str) -> Peer:
    """One of them, or this relay with keys of its configuration."""
    for each in PEERS:
        if each.name == name:
            return each
    if name.startswith("relay:"):
        return Ours(name)
    known = ", ".join(each.name for each in PEERS)
    raise argparse.ArgumentTypeError(f"no such peer: {name}; there are {known}")
