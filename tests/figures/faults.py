"""Figures of what may fail between two relays: see __main__.py."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

from backplane import (
    Host,
    Stream,
    alarmed,
    at_broker,
    forget,
    hosts,
    kill,
    killed,
    numbers,
    repeated,
    stopped,
    tap,
)
from cutting import Wire
from harness import Process, Site, wait_for
from rabbit import MESSAGE_MAX, NOTHING, PERMISSIONS, Rabbit, cluster, quiet

from figures import Failed

MESSAGES, RATE = 10_000, 1_000
LASTS_S = 3.0
"""Seconds for which a fault lasts, once it is noticed."""
QUIET_S = 5.0
"""Seconds without a message, after which none comes any more where nothing waits."""

EXCHANGE = "figures"
"""An exchange that can be deleted, unlike amq.topic."""

HERE, THERE, BROKER = PLACES = ("the first outbound", "the second outbound", "the broker")


@dataclass(frozen=True)
class Bus:
    """Two hosts at one broker, through which a stream passes."""

    rabbit: Rabbit
    wire: Wire
    queue: str
    """At the broker, with the whole stream."""
    one: Host
    """The stream is published here."""
    two: Host

    @property
    def hosts(self) -> tuple[Host, Host]:
        return self.one, self.two


# -- what happens ----------------------------------------------------------------------------------


def _broker(fault: Callable[[Rabbit], AbstractContextManager[None]], bus: Bus) -> None:
    with fault(bus.rabbit):
        bus.one.bridge.wait_for("] publishing: amqp")
        time.sleep(LASTS_S)


_restart = partial(_broker, stopped)


def _kill_node(bus: Bus) -> None:
    bus.rabbit.kill()


def _cut(bus: Bus) -> None:
    bus.wire.cut()
    for host in bus.hosts:
        host.bridge.wait_for("heartbeat")
    bus.wire.mend()


def _kill_bridge(which: int, bus: Bus) -> None:
    kill(bus.hosts[which].bridge)
    bus.hosts[which].start_bridge()


def _kill_relay(which: int, bus: Bus) -> None:
    kill(bus.hosts[which].relay_process)
    bus.hosts[which].start_relay()


def _forbid(bus: Bus) -> None:
    bus.rabbit.permit(NOTHING)
    bus.rabbit.ctl("close_all_connections", "other permissions")  # a channel remembers its own
    for host in bus.hosts:
        host.bridge.wait_for("403 ACCESS_REFUSED")
    time.sleep(LASTS_S)
    bus.rabbit.permit(PERMISSIONS)


def _delete_exchange(bus: Bus) -> None:
    with bus.rabbit.channel() as channel:
        channel.exchange_delete(EXCHANGE)
    for host in bus.hosts:
        host.bridge.wait_for("404 NOT_FOUND - no exchange")
    time.sleep(LASTS_S)
    with bus.rabbit.channel() as channel:
        channel.exchange_declare(EXCHANGE, "topic", durable=True)
        channel.queue_bind(bus.queue, EXCHANGE, "#")


def _delete_queue(bus: Bus) -> None:
    forget(bus.rabbit, bus.two.name)
    bus.two.bridge.wait_for("consuming: connected", times=2)


def _poison(bus: Bus) -> None:
    """Publish what cannot be converted, on both sides, and what the broker does not take."""
    publisher, times, larger = bus.one.publisher(), 20, 3
    with bus.rabbit.channel() as channel:
        for number in range(times):
            for body in (b"\xff", b"{", b"{}"):  # none with a message_id
                channel.basic_publish("amq.topic", "poison", body)
            publisher.send(b"poison", b"\xff")
            if number < larger:
                large = {"msg": {"text": MESSAGE_MAX * "x"}, "msg_id": f"2026-{number}"}
                publisher.send(b"poison", json.dumps(large).encode())
            time.sleep(LASTS_S / times)
    for host, rejected in zip(bus.hosts, (4 * times + larger, 3 * times)):
        wait_for(lambda host=host, rejected=rejected: host.status()["rejected"] == rejected, "all")


def _fill_disk(bus: Bus) -> None:
    disk, relay = bus.one.disk, bus.one.relay_process
    assert disk is not None
    disk.fill()
    relay.wait_for("No space left on device")
    time.sleep(LASTS_S)
    disk.empty()
    relay.wait_for("is written again")


def _join_and_leave(bus: Bus) -> None:
    with hosts(bus.one.root.parent, bus.rabbit.url, "three"):
        time.sleep(LASTS_S)
    forget(bus.rabbit, "three")


# -- where it happens ------------------------------------------------------------------------------


def _directly(nodes: list[Rabbit], _: Wire) -> dict[str, Any]:
    return {"url": [node.url for node in nodes]}


def _by_wire(_: list[Rabbit], wire: Wire) -> dict[str, Any]:
    return {"url": f"amqp://127.0.0.1:{wire.port}", "relay_amqp_heartbeat": 4}


def _as_user(nodes: list[Rabbit], _: Wire) -> dict[str, Any]:
    return {"url": nodes[0].user_url}


def _by_tls(nodes: list[Rabbit], _: Wire) -> dict[str, Any]:
    return {"url": nodes[0].tls_url, "shared": nodes[0].tls_config()}


def _over_exchange(nodes: list[Rabbit], _: Wire) -> dict[str, Any]:
    return {
        **_directly(nodes, _),
        "shared": f'publish_exchange = "{EXCHANGE}"\n',
        "relay_amqp_exchanges": EXCHANGE,
    }


def _on_small_disk(nodes: list[Rabbit], wire: Wire) -> dict[str, Any]:
    return {**_directly(nodes, wire), "disk": "size=8m"}


class Fault(NamedTuple):
    """Something that fails, and is well again."""

    what: str
    happen: Callable[[Bus], None]
    config: Callable[[list[Rabbit], Wire], dict[str, Any]] = _directly
    """How the hosts reach the broker, as arguments of :class:`Host`."""
    loses: tuple[str, ...] = ()
    """Where messages may be missing."""
    is_counted: bool = False
    """Whether the second bridge must then have counted just these."""


FAULTS = (
    Fault("broker stopped and started", _restart),
    Fault("broker killed and started", partial(_broker, killed)),
    Fault("memory alarm", partial(_broker, alarmed)),
    Fault("connections cut without a word", _cut, _by_wire),
    Fault("TLS with client certificates, broker stopped and started", _restart, _by_tls),
    Fault("permissions taken away and given back (403)", _forbid, _as_user),
    Fault("exchange deleted and declared (404)", _delete_exchange, _over_exchange),
    Fault("second queue deleted (404)", _delete_queue, loses=(THERE,), is_counted=True),
    Fault("poison messages, and too large ones", _poison),
    Fault("first disk full and emptied", _fill_disk, _on_small_disk),
    Fault("first bridge killed", partial(_kill_bridge, 0)),
    Fault("second bridge killed", partial(_kill_bridge, 1)),
    Fault("first relay killed", partial(_kill_relay, 0), loses=PLACES),
    Fault("second relay killed", partial(_kill_relay, 1), loses=(THERE,)),
    Fault("a third relay joins and leaves", _join_and_leave),
)
OF_A_CLUSTER = Fault("one node of three killed", _kill_node)


# -- the figure ------------------------------------------------------------------------------------


def faults(site: Site, relay: Process) -> Iterator[str]:
    """10,000 messages through two relays, two bridges and a broker, with a fault in the middle"""
    relay.end()
    failed: list[str] = []
    yield f"lost, and duplicates: at {', at '.join(PLACES)}"
    with Rabbit(site.root / "rabbit") as rabbit:
        rabbit.add_user()
        with rabbit.channel() as channel:
            channel.exchange_declare(EXCHANGE, "topic", durable=True)
        for fault in FAULTS:
            yield _line(site, [rabbit], fault, failed)
    (site.root / "cluster").mkdir()
    with cluster(site.root / "cluster") as nodes:
        yield _line(site, nodes, OF_A_CLUSTER, failed)
    if failed:
        raise Failed(", ".join(failed))


def _line(site: Site, nodes: list[Rabbit], fault: Fault, failed: list[str]) -> str:
    """Return what a fault does; one that does what it must not is added to ``failed``."""
    try:
        lost, again = _outcome(Path(mkdtemp(dir=site.root)), nodes, fault)
        wrong = [place for place in PLACES if lost[place] and place not in fault.loses]
        assert not wrong, f"lost at {' and '.join(wrong)}: {lost}"
    except AssertionError as error:
        failed.append(fault.what)
        return f"{fault.what}: FAILED: {str(error)[:500]}"
    return f"{fault.what}: {_three(lost)} lost; {_three(again)} duplicates"


def _three(counts: dict[str, int]) -> str:
    return ", ".join(f"{counts[place]:,}" for place in PLACES) if any(counts.values()) else "0"


def _outcome(
    root: Path, nodes: list[Rabbit], fault: Fault
) -> tuple[dict[str, int], dict[str, int]]:
    """Send a stream with a fault in the middle; how many are lost and come again, by place."""
    survivor = nodes[-1]
    with Wire(nodes[0].port) as wire, ExitStack() as ending:
        config = {"relay_hold": 1.5, **fault.config(nodes, wire)}
        exchange = config.get("relay_amqp_exchanges", "amq.topic")
        queue = ending.enter_context(tap(survivor, exchange))
        ending.callback(forget, survivor, "one", "two")
        one, two = ending.enter_context(hosts(root, config.pop("url"), "one", "two", **config))
        bus = Bus(nodes[0], wire, queue, one, two)
        consumers = [host.subscriber() for host in bus.hosts]
        stream = Stream(one)
        with stream.around(MESSAGES, RATE):
            fault.happen(bus)
        stream.end()
        found: list[int] = []
        with survivor.channel() as channel:

            def counts() -> int:
                found.extend(at_broker(channel, queue))
                return len(found) + sum(len(consumer.received) for consumer in consumers)

            wait_for(lambda: all(map(_is_idle, bus.hosts)), "the bridges to be done", 120)
            quiet(counts, QUIET_S, 120)
        seen = dict(zip(PLACES, (*map(numbers, consumers), found)))
        lost = {place: MESSAGES - len(set(each)) for place, each in seen.items()}
        again = {place: repeated(each, f"at {place}") for place, each in seen.items()}
        if fault.is_counted:
            wait_for(lambda: two.status()["dropped"] == lost[THERE], "the count of those lost")
    return lost, again


def _is_idle(host: Host) -> bool:
    """Whether a bridge is well, and has passed on all that it knows."""
    report = host.status()
    states = {report[which]["state"] for which in ("publishing", "consuming")}
    return states == {"open"} and not report["unconfirmed"] + report["queued"]
