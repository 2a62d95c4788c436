"""What the kernel knows of a TCP connection: ``TCP_INFO``, see tcp(7) and <linux/tcp.h>."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

LAYOUT = struct.Struct("=2x B B 4x I 12x I 24x I 12x I 28x I 16x Q Q 8x I 52x Q Q 8x I")
"""The fields of :class:`TcpInfo` within ``struct tcp_info``, in order."""


class TcpInfo(NamedTuple):
    """The fields of ``struct tcp_info`` that the relay reads, without their ``tcpi_``."""

    retransmits: int
    """Retransmissions of the oldest segment in flight that are unanswered."""
    probes: int
    """Probes of a zero window or of an idle connection since the peer's kernel last answered."""
    rto: int
    """Retransmission timeout, in microseconds."""
    unacked: int
    """Segments in flight: sent, and not acknowledged."""
    last_data_recv: int
    """Milliseconds since the last segment with data arrived; meaningless if none has."""
    rtt: int
    """Smoothed round-trip time, in microseconds."""
    total_retrans: int
    """Retransmissions since the connection was established, in segments."""
    bytes_acked: int
    bytes_received: int
    notsent_bytes: int
    """Bytes in the send queue that the kernel has not sent yet."""
    bytes_sent: int
    """Retransmissions included.  Before Linux 4.19 always 0, as :attr:`bytes_retrans`."""
    bytes_retrans: int
    rcv_ooopack: int
    """Segments received out of order.  Before Linux 5.4 always 0."""


def read(connection: socket.socket) -> TcpInfo:
    """Ask the kernel about a connection.  Raises OSError if ``connection`` is not of TCP."""
    raw = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAYOUT.size)
    padded = raw.ljust(LAYOUT.size, b"\0")  # an older kernel has fewer fields
    return TcpInfo._make(LAYOUT.unpack(padded))
