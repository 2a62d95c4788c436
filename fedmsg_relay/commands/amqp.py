"""``fedmsg-relay-amqp``: the words on the command line -> one action -> the exit status."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from fedmsg_relay.amqp import settings as amqp_settings
from fedmsg_relay.amqp.bridge import SIGNALS, Bridge, Place
from fedmsg_relay.amqp.monitoring import REPORT_KEY
from fedmsg_relay.amqp.settings import MONITORING, Settings
from fedmsg_relay.amqp.signing import signer
from fedmsg_relay.commands import status, targets
from fedmsg_relay.commands.amqp_options import NAME, OPTIONS
from fedmsg_relay.commands.program import CRITICAL, OK, WARNING, Program, Site
from fedmsg_relay.config import settings
from fedmsg_relay.daemon.startup import RESOLVER_PATIENCE_S
from fedmsg_relay.errors import BindError, ConfigError, NoLocalAddress, RelayError
from fedmsg_relay.monitoring import units
from fedmsg_relay.net import endpoints, listening
from fedmsg_relay.net.bindings import Listeners, close_listeners
from fedmsg_relay.net.local import local_endpoints
from fedmsg_relay.system import naming, rlimit
from fedmsg_relay.system.logfile import LogFile
from fedmsg_relay.system.pidfile import PidFile
from fedmsg_relay.system.wakeup import Wakeup

log = logging.getLogger("fedmsg.relay")

DISCARDED_S = 3600.0
"""How long --check warns of a message that was discarded."""

COUNTERS = (
    ("published", "confirmed", "unconfirmed", "returned", "nacked", "missing"),
    ("queued", "delivered", "acked", "own", "redelivered", "rejected", "dropped"),
)
"""What the table shows of each direction."""


FIGURES = ("unconfirmed", "queued", "confirmed", "delivered", "rejected", "missing", "dropped")
"""The performance data of --check."""

NAMED_MAX = 3
"""Relays that --check names."""


class AmqpBridge(Program):
    """The bridge."""

    options = OPTIONS

    def serve(
        self,
        site: Site,
        pidfile: PidFile | None,
        log_file: LogFile | None,
        ready: Callable[[], None],
    ) -> None:
        logging.getLogger("pika").propagate = False  # the reasons are in lines of ours
        logging.getLogger("pika").addHandler(logging.NullHandler())
        made, place, sign = _read(site)
        rlimit.raise_to_hard()
        naming.set_name(naming.BRIDGE)
        with _held(pidfile), _listening(made, site) as listeners:
            wakeup = Wakeup()
            with wakeup.catching(*SIGNALS):
                Bridge(made, place, sign, listeners, wakeup, log_file).run(ready)

    def test(self, site: Site) -> list[str]:
        made, place, _ = _read(site)
        if not os.path.isdir(place.journal):
            log.warning(
                "relay_journal = %r: there is no such directory; the relay makes it", place.journal
            )
        for warning in (*_doubled(site), *_dropped(site)):
            log.warning("%s", warning)
        brokers = ", ".join(map(amqp_settings.shown, made.brokers))
        return [
            *([f"read {made.shared}"] if os.path.exists(made.shared) else []),
            f"relay_amqp: {made.name} at {brokers}",
            f"publishes {', '.join(made.send)} to {made.publish_exchange}",
            f"consumes {', '.join(made.receive)} of {', '.join(made.exchanges)} from {made.queue}",
            f"delivers to {', '.join(place.inbound)}",
            *([f"{MONITORING}: {made.monitoring}"] if made.monitoring else []),
        ]

    def status(self, site: Site) -> None:
        report = _ask(amqp_settings.read(site), settings.timeout_s(site["timeout"]))
        if site["json"]:
            print(json.dumps(report, indent=2))
        else:
            print(*_table(report), sep="\n")

    def check(self, site: Site) -> tuple[int, str]:
        made, timeout_s = amqp_settings.read(site), settings.timeout_s(site["timeout"])
        try:
            report = _ask(made, timeout_s)
        except ConfigError:
            raise
        except RelayError as error:
            return CRITICAL, f"CRITICAL - {error}"
        figures = " ".join(f"{name}={report[name]}" for name in FIGURES)
        if report["troubles"]:
            return CRITICAL, f"CRITICAL - {'; '.join(report['troubles'])} | {figures}"
        ago_s = report["discarded_s"]
        if ago_s is not None and ago_s < DISCARDED_S:
            return WARNING, (
                f"WARNING - {'; '.join(_discarded(report))}, the last {units.duration(ago_s)} ago;"
                f" see the log for the reasons | {figures}"
            )
        return OK, (
            f"OK - {units.messages(report['confirmed'])} published, {report['delivered']} delivered"
            f" | {figures}"
        )


def main() -> int:
    """Do what ``sys.argv`` says; return the exit status."""
    return AmqpBridge().main()


def _read(site: Site) -> tuple[Settings, Place, Callable[[dict[str, Any]], dict[str, Any]]]:
    """Return what a start needs to know.  Raises :class:`RelayError`."""
    relay, made = settings.read(site), amqp_settings.read(site)
    if not relay.journal:
        raise ConfigError(
            "relay_journal: not set, but the bridge publishes from the relay's journal; set it,"
            " for example to '/var/lib/fedmsg-relay/journal', and reload the relay"
        )
    required = dataclasses.replace(relay, monitoring=(), http=())
    deadline = time.monotonic() + RESOLVER_PATIENCE_S
    try:
        local = local_endpoints(required, deadline)
    except NoLocalAddress as error:
        raise NoLocalAddress(f"{error}; a bridge delivers to the relay of its own host") from error
    target = targets.Target(local.inbound, local.outbound, relay.inbound_allow, None)
    place = Place(relay.journal, target.inbound_uris(), relay.max_message_size or math.inf)
    return made, place, signer(site)


@contextlib.contextmanager
def _held(pidfile: PidFile | None) -> Iterator[None]:
    """Hold the pid file within the block.  Raises :class:`RelayError` if another process does."""
    if pidfile is not None:
        pidfile.take()
        if pidfile.crashed is not None:
            log.warning("the previous bridge (pid %d) crashed", pidfile.crashed)
    try:
        yield
    finally:
        if pidfile is not None:
            pidfile.release()


@contextlib.contextmanager
def _listening(made: Settings, site: Site) -> Iterator[Listeners]:
    """Listen at the monitoring socket within the block; go without if that cannot be."""
    listeners: Listeners = {}
    mode = settings.read(site).monitoring_mode
    try:
        if made.monitoring:
            for endpoint in endpoints.resolve(MONITORING, made.monitoring, time.monotonic()):
                listeners[endpoint] = listening.listen(endpoint, mode, beside=())
    except ConfigError:
        raise
    except (BindError, RelayError) as error:
        log.warning("%s; the bridge runs without a monitoring socket", error)
    try:
        yield listeners
    finally:
        close_listeners(listeners)


def _ask(made: Settings, timeout_s: float) -> dict[str, Any]:
    if not made.monitoring:
        raise ConfigError(f"{MONITORING}: not set, so the bridge publishes no status")
    return status.hear("bridge", MONITORING, made.monitoring, timeout_s, REPORT_KEY, _table)


def _table(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a table for ``report``; the first line is a summary."""
    what = report["troubles"][0] if report["troubles"] else "open"
    yield (
        f"{NAME} {report['version']}, pid {report['pid']}, up"
        f" {units.duration(report['uptime_s'])}: {what}"
    )
    for direction, names in zip(("publishing", "consuming"), COUNTERS):
        connection = report[direction]
        yield ""
        yield (
            f"{direction:<20}{connection['state']}, {units.duration(connection['for_s'])},"
            f" {connection['broker']}"
        )
        for name in names:
            yield f"{name:<20}{units.count(report[name]):>12}"
    for trouble in report["troubles"]:
        yield ""
        yield trouble


def _discarded(report: dict[str, Any]) -> Iterator[str]:
    """Yield what a bridge has discarded or not received since its start, in words."""
    if report["rejected"] or report["missing"]:
        yield f"{units.messages(report['rejected'])} rejected, {report['missing']} missing"
    relays = report["dropped_by_relay"]
    if len(relays) > NAMED_MAX:
        yield f"{report['dropped']} messages of {len(relays)} relays were dropped by the broker"
        return
    for relay, count in relays.items():
        yield f"{count} messages of relay {relay} were dropped by the broker"


def _doubled(site: Site) -> Iterator[str]:
    """Yield a warning if the config makes consumers connect to more than one outbound."""
    _, outbound = settings.outbound(site)
    if len(outbound) > 1:
        yield (
            f"{settings.OUTBOUND} names {len(outbound)} addresses: if they belong to several"
            " relays at this broker, a consumer that connects to all of them receives every message"
            " several times"
        )


def _dropped(site: Site) -> Iterator[str]:
    """Yield a warning if the relay would drop what programs publish with fedora-messaging."""
    trust = settings.read(site).trust
    if trust is not None and trust.validates and not trust.signs and not site.get("sign_messages"):
        yield (
            "relay_validate = True: the relay drops unsigned messages that the bridge delivers, as"
            " those of programs that publish with fedora-messaging; set sign_messages, or"
            " relay_sign = 'unsigned'"
        )
