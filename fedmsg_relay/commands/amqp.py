"""``fedmsg-relay-amqp``: the words on the command line -> one action -> the exit status."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fedmsg_relay.amqp import health
from fedmsg_relay.amqp import settings as amqp_settings
from fedmsg_relay.amqp.bridge import SIGNALS, Bridge, Place
from fedmsg_relay.amqp.exporters import Outlets
from fedmsg_relay.amqp.monitoring import REPORT_KEY
from fedmsg_relay.amqp.settings import HTTP, MONITORING, Settings
from fedmsg_relay.amqp.signing import Sign, signer
from fedmsg_relay.commands import status, targets
from fedmsg_relay.commands.amqp_options import NAME, OPTIONS
from fedmsg_relay.commands.program import CRITICAL, OK, WARNING, Program, Site
from fedmsg_relay.config import settings
from fedmsg_relay.daemon.startup import RESOLVER_PATIENCE_S
from fedmsg_relay.errors import BindError, ConfigError, NoLocalAddress, RelayError
from fedmsg_relay.monitoring import units
from fedmsg_relay.net import listening
from fedmsg_relay.net.bindings import Listeners, close_listeners
from fedmsg_relay.net.endpoints import Endpoint
from fedmsg_relay.net.local import local_endpoints, optional
from fedmsg_relay.system import naming, rlimit
from fedmsg_relay.system.logfile import LogFile
from fedmsg_relay.system.pidfile import PidFile
from fedmsg_relay.system.wakeup import Wakeup

log = logging.getLogger("fedmsg.relay")

COUNTERS = (
    ("published", "confirmed", "unconfirmed", "returned", "nacked", "missing"),
    ("queued", "delivered", "acked", "own", "redelivered", "rejected", "dropped"),
)
"""What the table shows of each direction."""


FIGURES = ("unconfirmed", "queued", "confirmed", "delivered", "rejected", "missing", "dropped")
"""The performance data of --check."""

STATUSES = {health.OK: OK, health.WARNING: WARNING, health.CRITICAL: CRITICAL}
"""The exit statuses of verdicts."""


class _Start(NamedTuple):
    """What a start needs to know."""

    settings: Settings
    place: Place
    sign: Sign
    monitoring: tuple[Endpoint, ...]
    http: tuple[Endpoint, ...]


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
        start = _read(site)
        rlimit.raise_to_hard()
        naming.set_name(naming.BRIDGE)
        with _held(pidfile), _listening(start, site) as outlets:
            wakeup = Wakeup()
            with wakeup.catching(*SIGNALS):
                Bridge(start.settings, start.place, start.sign, outlets, wakeup, log_file).run(
                    ready
                )

    def test(self, site: Site) -> list[str]:
        made, place, _, *outlets = _read(site)
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
            *(f"{each.key}: {each.uri}" for group in outlets for each in group),
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
        verdict = health.judge(report)
        return STATUSES[verdict.level], f"{verdict} | {figures}"


def main() -> int:
    """Do what ``sys.argv`` says; return the exit status."""
    return AmqpBridge().main()


def _read(site: Site) -> _Start:
    """Return what a start needs to know.  Raises :class:`RelayError`."""
    relay, made = settings.read(site), amqp_settings.read(site)
    if not relay.journal:
        raise ConfigError(
            "relay_journal: not set, but the bridge publishes from the relay's journal; set it,"
            " for example to '/var/lib/fedmsg-relay/journal', and reload the relay"
        )
    # Of the relay's other addresses, the bridge could only take that of HTTP by mistake.
    needed = dataclasses.replace(relay, monitoring=(), http=relay.http if made.http else ())
    deadline = time.monotonic() + RESOLVER_PATIENCE_S
    try:
        local = local_endpoints(needed, deadline)
    except NoLocalAddress as error:
        raise NoLocalAddress(f"{error}; a bridge delivers to the relay of its own host") from error
    target = targets.Target(local.inbound, local.outbound, relay.inbound_allow, None)
    place = Place(relay.journal, target.inbound_uris(), relay.max_message_size or math.inf)
    if made.http:
        from fedmsg_relay.web import port  # not before a site wants it, as loading takes time

        port.warn_without_metrics(HTTP, "bridge")
    relays = (*local.inbound, *itertools.chain(*local.outbound), *local.http)
    monitoring = optional(MONITORING, made.monitoring, relays)
    http = optional(HTTP, made.http, (*relays, *monitoring))
    return _Start(made, place, signer(site), monitoring, http)


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
def _listening(start: _Start, site: Site) -> Iterator[Outlets]:
    """Listen at the monitoring socket and at the HTTP port within the block.

    The bridge runs without what cannot be bound.
    """
    mode = settings.read(site).monitoring_mode
    outlets = Outlets(*(_listen_if_free(group, mode) for group in (start.monitoring, start.http)))
    try:
        yield outlets
    finally:
        close_listeners(outlets.monitoring)
        close_listeners(outlets.http)


def _listen_if_free(group: tuple[Endpoint, ...], mode: int) -> Listeners:
    """Listen at every endpoint; return none, and log a warning, if one cannot be bound."""
    listeners: Listeners = {}
    try:
        for endpoint in group:
            listeners[endpoint] = listening.listen(endpoint, mode, beside=())
    except BindError as error:
        close_listeners(listeners)
        log.warning("%s; going without it", error)
    return listeners


def _ask(made: Settings, timeout_s: float) -> dict[str, Any]:
    if not made.monitoring:
        raise ConfigError(f"{MONITORING}: not set, so the bridge publishes no status")
    return status.hear("bridge", MONITORING, made.monitoring[0], timeout_s, REPORT_KEY, _table)


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
