"""Whether a load balancer may send publishers and consumers to this relay."""

from __future__ import annotations

from fedmsg_relay.monitoring.stats import HUNG, Report
from fedmsg_relay.relay.lifecycle import Phase


def judge(report: Report) -> tuple[bool, str]:
    """Whether the relay is fit for use, and a line that says why.

    It is while it forwards.  During a hand-over the new relay holds what the old one's consumers
    are to get next, and nobody is to be led elsewhere for that; after a cold start they are.
    """
    if report.is_forwarding:
        return True, "OK - forwarding"
    if report.state in (Phase.OPEN.value, Phase.HOLD.value):
        if report.took_over:
            return True, f"OK - {report.state}: taking over from another relay process"
        return False, f"not forwarding - {report.state}: consumers are to come back first"
    if report.state == HUNG:
        return False, "not forwarding - hung: libzmq's proxy does not answer"
    return False, f"not forwarding - {report.state}: the relay was asked to stop"
