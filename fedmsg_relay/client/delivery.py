"""Messages delivered to a relay: each is taken, or :class:`RelayUnavailable` is raised.

A message is taken when a PONG says that the relay's libzmq has read the message (see
:mod:`fedmsg_relay.client.link`), and by nothing else: the end of a stream, or an empty queue in the
kernel, may be a forwarder's.  Until then the message is kept here, and sent again if the connection
ends in a way that leaves doubt.  A message that a relay had forwarded when the relay crashed, or
stopped answering, may be on the bus twice, with the same ``msg_id``; none is lost silently.

A relay that drains announces that (:data:`fedmsg_relay.zmtp.codec.DRAINS`) before it ends its
connections.  Then no more messages are sent to that relay, the relay answers the messages that were
sent, and the rest goes over the next connection.
"""

from __future__ import annotations

import math
import select
import time
from collections import deque
from collections.abc import Sequence

from fedmsg_relay.client.dialing import Dialing
from fedmsg_relay.client.link import Link, connect, is_subscribed
from fedmsg_relay.client.waiting import Waiting
from fedmsg_relay.errors import RelayUnavailable
from fedmsg_relay.zmtp import codec
from fedmsg_relay.zmtp.connection import BadPeer, wait

PATIENCE_S = 1.0
"""Longest wait for an answer from an address before the next address is tried as well; at most an
equal share of the timeout."""

GRACE_S = 0.5
"""Longest wait for an answer on a connection after a newer one to the same relay has an answer: the
relay answers on the old connection first, or the old connection is dead."""

REFUSALS = 2
"""Connections in a row that a relay ends on the same message before the message counts as refused;
a single end may be an accident."""

AWAY_S = 0.1
"""Delay before reconnecting after a relay has ended the connection without DRAINS, as libzmq delays
(the default of ZMQ_RECONNECT_IVL): a sooner connection can overtake messages of the old one."""

WINDOW_BYTES = 2**20
"""Most bytes sent and not yet taken."""


class Delivery:
    """Delivers to the first of ``addresses`` at which a relay answers; for one thread.

    Raises :class:`RelayUnavailable` when :attr:`waiting` is over, or when a relay has refused a
    message :data:`REFUSALS` times.  After that, or any other exception, only :meth:`close` may be
    called: any other method would continue to send the kept messages.
    """

    def __init__(self, addresses: Sequence[str], waiting: Waiting) -> None:
        self.taken = 0
        """Messages taken by a relay."""
        self.waiting = waiting
        """Progress is a message taken."""
        self._addresses = addresses
        self._kept: deque[bytes] = deque()  # messages that are not taken
        self._kept_bytes = 0
        self._link: Link | None = None  # over which the first kept messages were sent
        self._spare: Link | None = None  # a newer link to the same address
        self._dialing = Dialing(addresses, connect, is_subscribed)
        self._refusals = 0  # links in a row that ended with nothing taken
        self._bad = ""  # the address of the last link, if its peer was no relay

    def send(self, *frames: bytes) -> None:
        """Send a message; return when at most :data:`WINDOW_BYTES` are kept."""
        self._kept.append(codec.message(*frames))
        self._kept_bytes += len(self._kept[-1])
        self._deliver(WINDOW_BYTES)

    def flush(self) -> None:
        """Return when all messages are taken."""
        self._deliver(0)

    def close(self) -> None:
        """Close the connection, and drop all messages that are not taken."""
        self._hang_up()
        self._dialing.stop()
        self._dialing.reasons.clear()
        self._kept.clear()
        self._kept_bytes = self._refusals = 0

    def _deliver(self, kept_max_bytes: int) -> None:
        """Send everything; return when at most ``kept_max_bytes`` are not taken."""
        self._advance()
        while self._kept_bytes > kept_max_bytes:
            if self.waiting.is_over():
                raise self._given_up()
            self._wait()
            self._advance()

    def _advance(self) -> None:
        """Dial, send and receive without blocking."""
        if self._link is not None:
            self._attend(self._link)
        if self._link is not None:
            self._mind_a_stall(self._link)
        elif self._kept and not self._dialing.is_under_way:
            self._dial(self._patience_s)
        for uri, connection in self._dialing.advance():
            self._have(Link(uri, connection))
            break
        if self._link is not None and not self._link.drains:
            for number in range(self._link.unanswered, len(self._kept)):
                self._link.send(self._kept[number])
        if self._kept:
            self.waiting.tell_of_it(lambda: f"waiting for a relay at {self._where()}")

    @property
    def _patience_s(self) -> float:
        return min(PATIENCE_S, self.waiting.timeout_s / (len(self._addresses) + 1))

    def _wait(self) -> None:
        """Wait until :meth:`_advance` is due."""
        poller = select.poll()
        self._dialing.register(poller)
        times = [self.waiting.next_at, self._dialing.next_at]
        if self._link is not None:
            self._link.register(poller)
            if self._spare is not None:
                times.append(self._switch_at(self._spare))
            elif not self._dialing.is_under_way:
                times.append(self._link.progress_at + self._patience_s)
        wait(poller, min(times))

    # -- the link --------------------------------------------------------------------------------

    def _attend(self, link: Link) -> None:
        if taken := link.advance():
            self._forget(taken, link.uri)
        if link.error is not None:
            self._lose(link, link.error)
        elif link.drains and not link.unanswered:
            self._hang_up()

    def _forget(self, messages: int, uri: str) -> None:
        """Drop the first ``messages`` that are kept: they are taken."""
        for _ in range(messages):
            self._kept_bytes -= len(self._kept.popleft())
        self.taken += messages
        self._refusals = 0
        self._dialing.stop()
        self._drop_spare()
        self.waiting.progress(f"continuing: the relay at {uri} answers")

    def _lose(self, link: Link, error: OSError) -> None:
        """Replace a link that has ended."""
        if self._spare is not None:
            self._switch(self._spare)
            return
        self._hang_up()
        if not link.unanswered:
            return
        is_bad = isinstance(error, BadPeer)
        self._bad = link.uri if is_bad else ""
        self._dialing.reasons[link.uri] = str(error) if is_bad else "it closed the connection"
        if not link.drains:
            self._refusals += 1
        if self._refusals >= REFUSALS:
            raise self._refused(link.uri, str(error) if is_bad else "")
        if not self._dialing.is_under_way:
            self._dial(self._patience_s, time.monotonic() + AWAY_S)

    def _mind_a_stall(self, link: Link) -> None:
        """Dial when ``link`` gets no answer; switch to the spare link when its time has come."""
        if self._spare is not None:
            if time.monotonic() >= self._switch_at(self._spare):
                self._switch(self._spare)
        elif not self._dialing.is_under_way and link.is_stalled(self._patience_s):
            self._dialing.reasons[link.uri] = "no answer"
            self._dial(0)

    def _switch_at(self, spare: Link) -> float:
        return spare.made_at + min(GRACE_S, self._patience_s)

    def _have(self, link: Link) -> None:
        """Switch to a new link, or keep it as the spare link if the link in use may yet answer."""
        if self._dialing.has_failed:
            self._refusals = 0  # the relay was away in between
        self._dialing.stop()
        if self._link is not None and self._link.uri == link.uri:
            self._spare = link
        else:
            self._switch(link)

    def _switch(self, link: Link) -> None:
        if link is self._spare:
            self._spare = None
        self._hang_up()
        self._link = link

    def _hang_up(self) -> None:
        self._drop_spare()
        if self._link is not None:
            self._link.close()
            self._link = None

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def _dial(self, head_start_s: float, not_before: float = -math.inf) -> None:
        uris = sorted(self._addresses, key=lambda uri: uri == self._bad)
        self._dialing.start(uris, head_start_s, not_before)

    # -- words -----------------------------------------------------------------------------------

    def _where(self, after: str = "") -> str:
        return self._dialing.where({self._link.uri: "no answer"} if self._link else {}, after)

    def _given_up(self) -> RelayUnavailable:
        where = self._where(f" after {self.waiting.timeout_s:g} s")
        doubt = "; it may arrive later, if that relay continues" if self._link else ""
        return RelayUnavailable(f"no relay at {where}{doubt}; `fedmsg-relay --check` says more")

    def _refused(self, uri: str, how: str) -> RelayUnavailable:
        if how:
            return RelayUnavailable(f"no relay at {uri} ({how})")
        return RelayUnavailable(
            f"the relay at {uri} has disconnected {REFUSALS} times at a message of"
            f" {len(self._kept[0])} bytes, which probably exceeds its relay_max_message_size"
        )
