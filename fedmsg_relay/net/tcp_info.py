"""What the kernel knows of a TCP connection: ``TCP_INFO``, see tcp(7) and <linux/tcp.h>."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

LAYOUT = struct.Struct("=2x B B 4x I 12x I 24x I 12x I 28x I 16x Q Q 8x I 52x Q Q 8x I")
"""The fields of :class:`TcpInfo` within ``struct tcp_info``, in order."""


class TcpInfo(NamedTuple):
    """Of ``struct tcp_info`` what the relay reads, without the ``tcpi_``."""

    retransmits: int
    """How often the oldest segment in flight was sent again without an answer."""
    probes: int
    """Probes of a shut window or of an idle connection, since the peer's kernel last answered."""
    rto: int
    """Microseconds until a segment that is not acknowledged is sent again."""
    unacked: int
    """Segments in flight."""
    last_data_recv: int
    """Milliseconds since the last segment with data came; without meaning if none has."""
    rtt: int
    """Smoothed round-trip time, in microseconds."""
    total_retrans: int
    """Segments sent again since the connection was made."""
    bytes_acked: int
    bytes_received: int
    notsent_bytes: int
    """Bytes that wait for room in the peer's window, or in the network."""
    bytes_sent: int
    """Retransmissions included; 0 before Linux 4.19, which does not tell, as the next one."""
    bytes_retrans: int
    rcv_ooopack: int
    """Segments received out of order; 0 before Linux 5.4, which does not tell."""


def read(connection: socket.socket) -> TcpInfo:
    """Ask about a connection.  Raises OSError if ``connection`` is none of TCP."""
    told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAYOUT.size)
    return TcpInfo._make(LAYOUT.unpack(told.ljust(LAYOUT.size, b"\0")))
