"""Whether messages pass a bridge: the one verdict of ``--check`` and of ``/healthz``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fedmsg_relay.monitoring import units

OK, WARNING, CRITICAL = "OK", "WARNING", "CRITICAL"
"""As Nagios calls them."""

DISCARDED_S = 3600.0
"""How long a message that was discarded is a warning."""

NAMED_MAX = 3
"""Relays that a warning names."""


class Verdict(NamedTuple):
    """Whether messages pass, and why."""

    level: str
    """:data:`OK`; :data:`WARNING` if messages pass, but some were discarded lately; else
    :data:`CRITICAL`."""
    reason: str

    @property
    def passes(self) -> bool:
        """Whether messages pass."""
        return self.level != CRITICAL

    def __str__(self) -> str:
        return f"{self.level} - {self.reason}"


def judge(report: Mapping[str, Any]) -> Verdict:
    """Judge a bridge by the fields of its :class:`fedmsg_relay.amqp.report.Report`."""
    if report["troubles"]:
        return Verdict(CRITICAL, "; ".join(report["troubles"]))
    ago_s = report["discarded_s"]
    if ago_s is not None and ago_s < DISCARDED_S:
        return Verdict(
            WARNING,
            f"{'; '.join(_discarded(report))}, the last {units.duration(ago_s)} ago;"
            " see the log for the reasons",
        )
    return Verdict(
        OK, f"{units.messages(report['confirmed'])} published, {report['delivered']} delivered"
    )


def _discarded(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a bridge has discarded or not received since its start, in words."""
    if report["rejected"] or report["missing"]:
        yield f"{units.messages(report['rejected'])} rejected, {report['missing']} missing"
    relays = report["dropped_by_relay"]
    if len(relays) > NAMED_MAX:
        yield f"{report['dropped']} messages of {len(relays)} relays were dropped by the broker"
        return
    for relay, count in relays.items():
        yield f"{count} messages of relay {relay} were dropped by the broker"
