"""Whether a load balancer should send publishers and consumers to this relay."""

from __future__ import annotations

from fedmsg_relay.monitoring.stats import HUNG, Report
from fedmsg_relay.relay.status import Phase


def judge(report: Report) -> tuple[bool, str]:
    """Return whether the relay is healthy, and a line with the reason.

    A relay that forwards is healthy.  A relay that holds is healthy only after a hand-over: a load
    balancer must not fail over at each reload.
    """
    if report.is_forwarding:
        return True, "OK - forwarding"
    if report.state in (Phase.OPEN.value, Phase.HOLD.value):
        if report.took_over:
            return True, f"OK - {report.state}: taking over from another relay process"
        return False, f"not forwarding - {report.state}: waiting for consumers to reconnect"
    if report.state == HUNG:
        return False, "not forwarding - hung: libzmq's proxy does not answer"
    return False, f"not forwarding - {report.state}: the relay was asked to stop"
