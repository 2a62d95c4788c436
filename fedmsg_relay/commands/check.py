"""``--check``: whether the relay forwards, asked from outside, as a script and a consumer would.

A connection to the inbound must receive the relay's subscription, and the announcement of where the
relay is bound (:mod:`fedmsg_relay.relay.announcement`).  Only a relay's forwarding thread can send
both.  The announced addresses must be those of the configuration, and a connection to the outbound
must complete ZMTP's handshake.  No message is put on the bus, except for ``--roundtrip``.  On the
host of a relay that has a journal, the relay's monitoring socket must say that the journal is
written, and that no message was discarded lately; for a relay that validates or signs,
no certificate or list must have expired.  The answer is one line and an exit status, as
the `plugin guidelines <https://nagios-plugins.org/doc/guidelines.html>`_ of Nagios ask for.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import zmq

from fedmsg_relay.commands import targets
from fedmsg_relay.commands.probe import Failed, Probe
from fedmsg_relay.commands.program import CRITICAL, OK, UNKNOWN, WARNING
from fedmsg_relay.commands.targets import Target
from fedmsg_relay.config.settings import MONITORING, Settings
from fedmsg_relay.errors import RelayError
from fedmsg_relay.monitoring import units
from fedmsg_relay.net import endpoints

LATELY_S = 900.0
"""Seconds for which a discarded message is a warning: nobody looks all the time."""

ASK_S = 0.2
"""Seconds for the monitoring socket to answer at least, if all else has taken ``--timeout``."""


def check(
    settings: Settings, config: Mapping[str, Any], timeout_s: float, roundtrip: bool
) -> tuple[int, str]:
    """Return the exit status and the line about the relay, after ``timeout_s`` at most.

    Finding out why there was no answer takes :data:`targets.EXPLAIN_S` more.  With ``roundtrip`` a
    message is sent, and waited for; its topic begins with the prefix and environment of ``config``.
    """
    if roundtrip and settings.trust and settings.trust.validates and not settings.trust.signs:
        return UNKNOWN, (
            "UNKNOWN - relay_validate = True: the message of --roundtrip is not signed, so the"
            " relay would discard it; use --check without --roundtrip"
        )
    deadline = time.monotonic() + timeout_s
    with contextlib.closing(Probe(deadline)) as checking:
        try:
            target = endpoints.in_time(lambda: targets.find(settings, deadline), timeout_s)
            addresses = _ask(checking, target, settings)
            if roundtrip:
                checking.round_trip(config)
            trouble = ""
            # A certificate that has expired is looked for where the relay says what it has.
            is_worth_asking = settings.journal or (settings.trust and settings.monitoring)
            if is_worth_asking and target.host is None:
                trouble = _trouble(settings, max(ASK_S, deadline - time.monotonic()))
        except Failed as failed:
            return CRITICAL, f"CRITICAL - {failed}"
        except (RelayError, OSError, zmq.ZMQError) as error:
            return UNKNOWN, f"UNKNOWN - cannot ask: {error}"
    figures = " ".join(f"{name}={s:.6f}s;;;0;{timeout_s:g}" for name, s in checking.seconds.items())
    if trouble:
        return WARNING, f"WARNING - forwarding {addresses}, but {trouble} | {figures}"
    return OK, f"OK - forwarding {addresses} | {figures}"


def _trouble(settings: Settings, timeout_s: float) -> str:
    """Return what is wrong with journal or certificates, or why that is not known; else empty."""
    what = "the journal" if settings.journal else "the expiry of certificates"
    if not settings.monitoring:
        return f"the journal cannot be checked: set {MONITORING} and reload the relay"
    from fedmsg_relay.commands import status  # not imported where there is neither

    try:
        report = status.ask(settings, timeout_s)
    except (RelayError, OSError, zmq.ZMQError) as error:
        return f"{what} cannot be checked: {error}"
    expired = [each for each in report["expiries"] if each["left_s"] <= 0]
    if expired:
        return f"the {expired[0]['what'].replace('_', ' ')} {expired[0]['path']} has expired"
    return _journal_trouble(report) if settings.journal else ""


def _journal_trouble(report: Mapping[str, Any]) -> str:
    journal = report.get("journal")
    if journal is None:
        return "the relay has no journal, but the config has one; reload the relay"
    if journal["error"]:
        return str(journal["error"])
    ago_s = math.inf if journal["discarded_at"] is None else time.time() - journal["discarded_at"]
    if ago_s < LATELY_S:
        return (
            f"{units.messages(journal['discarded'])} missing in the journal"
            f" {journal['directory']}, the last {units.duration(max(0.0, ago_s))} ago; see the log"
            " for the reason"
        )
    return ""


def _ask(checking: Probe, target: Target, settings: Settings) -> str:
    """Check every inbound of ``target``, and the outbound that all of them announce.

    Returns their addresses.  Raises :class:`Failed`.
    """
    groups = target.outbound
    for uri in target.inbound_uris():
        relay = checking.inbound(uri)
        groups = [each for each in groups if target.are_bound(each, relay.outbound)]
        if not groups or not target.are_bound(target.inbound, relay.inbound):
            raise Failed(
                f"relay_inbound {uri}: the relay forwards {_both(*relay)}, but the config says"
                f" {_both(settings.inbound, settings.outbound)}; if the config is right, reload the"
                " relay, and else correct the config"
            )
    checking.outbound(target.outbound_uris(groups[0]))
    return _both(*([endpoint.uri for endpoint in side] for side in (target.inbound, groups[0])))


def _both(inbound: Iterable[str], outbound: Iterable[str]) -> str:
    return f"{', '.join(inbound)} -> {', '.join(outbound)}"
