"""Messages delivered to a relay: taken by it, or said not to be.

A message is taken when a PONG says that the relay's libzmq has read it (see
:mod:`fedmsg_relay.client.link`), and by nothing else: the end of a stream, or an empty queue of the
kernel's, may be the work of a forwarder.  Until then it is kept here, and sent again if a
connection ends in a way that leaves doubt.  One that a relay had forwarded when it crashed, or
stopped answering, may be on the bus twice, with the same ``msg_id``; none is lost in silence.

A relay that stops says so (:data:`fedmsg_relay.zmtp.codec.DRAINS`) before it ends its connections.
Then nothing more is sent to it, what was sent is answered, and the rest goes over the next
connection.
"""

from __future__ import annotations

import math
import select
import time
from collections import deque
from collections.abc import Sequence

from fedmsg_relay.client.dialing import Dialing, where
from fedmsg_relay.client.link import Link, connect, is_subscribed
from fedmsg_relay.client.waiting import Waiting
from fedmsg_relay.errors import RelayUnavailable
from fedmsg_relay.zmtp import codec
from fedmsg_relay.zmtp.connection import BadPeer, wait

PATIENCE_S = 1.0
"""How long an address may take to answer, before others are tried beside it.  Less if that leaves
no such share of the timeout for each of them."""

GRACE_S = 0.5
"""How long a connection to a relay may go without an answer, when a new one to the same relay has
one: it answers both, the old one first, or the old one is dead."""

REFUSALS = 2
"""So often in a row a relay ends the connection on the same message: by accident once."""

AWAY_S = 0.1
"""How long to stay away when a relay has ended the connection without a word, as libzmq does (the
default of ZMQ_RECONNECT_IVL): who comes back sooner can overtake what it has sent."""

WINDOW_BYTES = 2**20
"""How much may be on its way."""


class Delivery:
    """To the first of ``addresses`` at which a relay answers; for one thread.

    When :attr:`waiting` is over, or a relay has refused a message :data:`REFUSALS` times,
    :class:`RelayUnavailable` is raised.  After that, and after whatever else interrupts it, only
    :meth:`close` may be called, or it would go on with what is kept.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self.taken = 0
        """Messages that a relay has."""
        self.waiting = Waiting()
        """Progress is a message that is taken."""
        self._addresses = addresses
        self._kept: deque[bytes] = deque()  # messages that are not taken
        self._kept_bytes = 0
        self._link: Link | None = None  # over which the first of these were sent
        self._spare: Link | None = None  # another one, to the same address
        self._dialing: Dialing | None = None
        self._reasons: dict[str, str] = {}  # by address: why it was of no use
        self._refusals = 0  # links in a row that ended with nothing taken
        self._bad = ""  # the address at which the last one turned out to be to no relay

    def send(self, *frames: bytes) -> None:
        """Send a message; returns when there is room for more."""
        self._kept.append(codec.message(*frames))
        self._kept_bytes += len(self._kept[-1])
        self._deliver(WINDOW_BYTES)

    def flush(self) -> None:
        """Return when all that was sent is taken."""
        self._deliver(0)

    def close(self) -> None:
        """End the connection, and give up what is not taken."""
        self._hang_up()
        self._stop_dialing()
        self._kept.clear()
        self._kept_bytes = self._refusals = 0
        self._reasons.clear()

    def _deliver(self, may_be_kept: int) -> None:
        """Send everything; return when no more than so many bytes are not taken."""
        self._advance()
        while self._kept_bytes > may_be_kept:
            if self.waiting.is_over():
                raise self._given_up()
            self._wait()
            self._advance()

    def _advance(self) -> None:
        """Do what can be done without waiting."""
        if self._link is not None:
            self._attend(self._link)
        if self._link is not None:
            self._mind_a_stall(self._link)
        elif self._kept and self._dialing is None:
            self._dial(self._patience_s)
        if self._dialing is not None:
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
        """Until there is something to do."""
        poller = select.poll()
        times = [self.waiting.next_at]
        if self._link is not None:
            self._link.register(poller)
            if self._spare is not None:
                times.append(self._spare.made_at + min(GRACE_S, self._patience_s))
            elif self._dialing is None:
                times.append(self._link.progress_at + self._patience_s)
        if self._dialing is not None:
            self._dialing.register(poller)
            times.append(self._dialing.next_at)
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
        """Have the first messages that are kept taken."""
        for _ in range(messages):
            self._kept_bytes -= len(self._kept.popleft())
        self.taken += messages
        self._refusals = 0
        self._stop_dialing()
        self._drop_spare()
        self.waiting.progress(f"going on: the relay at {uri} answers")

    def _lose(self, link: Link, error: OSError) -> None:
        """Leave a link that has ended."""
        if self._spare is not None:
            self._switch(self._spare)
            return
        self._hang_up()
        if not link.unanswered:
            return
        is_bad = isinstance(error, BadPeer)
        self._bad = link.uri if is_bad else ""
        self._reasons[link.uri] = str(error) if is_bad else "it has ended the connection"
        if not link.drains:
            self._refusals += 1
        if self._refusals >= REFUSALS:
            raise self._refused(link.uri, str(error) if is_bad else "")
        if self._dialing is None:
            self._dial(self._patience_s, time.monotonic() + AWAY_S)

    def _mind_a_stall(self, link: Link) -> None:
        """Look for another link when this one gives no answer; change to one that does."""
        if self._spare is not None:
            if time.monotonic() >= self._spare.made_at + min(GRACE_S, self._patience_s):
                self._switch(self._spare)
        elif self._dialing is None and link.is_stalled(self._patience_s):
            self._reasons[link.uri] = "no answer"
            self._dial(0)

    def _have(self, link: Link) -> None:
        """Use a link that answers, or have it ready if that in use may do so yet."""
        if self._dialing is not None and self._dialing.has_failed:
            self._refusals = 0  # it was away in between
        self._stop_dialing()
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
        self._dialing = Dialing(uris, connect, is_subscribed, head_start_s, not_before)

    def _stop_dialing(self) -> None:
        if self._dialing is not None:
            self._reasons.update(self._dialing.reasons())
            self._dialing.close()
            self._dialing = None

    # -- words -----------------------------------------------------------------------------------

    def _where(self, after: str = "") -> str:
        """The addresses, and why each is of no use."""
        reasons = {**self._reasons, **dict(self._dialing.reasons() if self._dialing else ())}
        if self._link is not None:
            reasons[self._link.uri] = "no answer"
        return where(self._addresses, reasons, after)

    def _given_up(self) -> RelayUnavailable:
        where = self._where(f" after {self.waiting.timeout_s:g} s")
        return RelayUnavailable(f"no relay at {where}; is it running? fedmsg-relay --check tells")

    def _refused(self, uri: str, how: str) -> RelayUnavailable:
        if how:
            return RelayUnavailable(f"no relay at {uri} ({how})")
        return RelayUnavailable(
            f"the relay at {uri} has ended the connection {REFUSALS} times on a message of"
            f" {len(self._kept[0])} bytes; that is probably more than its relay_max_message_size"
        )
