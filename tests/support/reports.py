"""A report, as of a relay with a publisher and a consumer."""

from __future__ import annotations

from fedmsg_relay.monitoring.stats import PeerReport, Report, SideReport
from fedmsg_relay.monitoring.totals import Rejected

SIDE = SideReport(
    connected=1,
    accepted=2345,
    refused=0,
    handshakes_failed=0,
    stalled=0,
    unreachable=0,
    over_memory=0,
    peers=[PeerReport("192.0.2.7:51234", 61.5, 1536)],
)

REPORT = Report(
    version="1.0.0",
    pid=4711,
    state="forwarding",
    took_over=False,
    started_at=1795578000.0,
    uptime_s=11520.5,
    inbound=["tcp://127.0.0.1:2003"],
    outbound=["tcp://127.0.0.1:4001"],
    frames_in=1234567,
    bytes_in=10**9,
    frames_out=1234567,
    bytes_out=10**9,
    held=0,
    holding=0,
    rejected=Rejected(),
    expiries=[],
    behind_bytes=0,
    publishers=SIDE,
    consumers=SIDE,
)
