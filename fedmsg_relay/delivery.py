"""Messages delivered to a relay: taken by it, or said not to be.

A message is taken when the relay's libzmq has read it (see :mod:`fedmsg_relay.zmtp`).  Until then
it is kept here, and sent again if a connection ends in a way that leaves doubt: one that a crashing
relay had forwarded may be on the bus twice, with the same ``msg_id``, and none is lost in silence.
"""

from __future__ import annotations

import contextlib
import math
import struct
import time
from collections import deque
from collections.abc import Sequence

from fedmsg_relay import wire, zmtp
from fedmsg_relay.errors import RelayUnavailable

ATTEMPT_S = 1.0
"""How long an address may take to answer while there are others to try; each has its share of the
timeout if that is less."""

REFUSALS = 10
"""So often in a row a relay that is there ends the connection on the same message: not because it
is restarted, but because it does not take that message."""

AGAIN_S = 0.05
"""How long to wait until all are tried again."""

AWAY_S = 0.1
"""How long to stay away when a relay has ended the connection, as libzmq does (the default of
ZMQ_RECONNECT_IVL): who comes back sooner can overtake what it has sent."""

FINISH_S = 1.0
"""How long a relay that stops may take to read what it was sent."""

WINDOW_BYTES = 2**20
"""How much may be on its way."""

NUMBER = struct.Struct(">Q")


class Delivery:
    """To the first of ``addresses`` at which a relay answers; for one thread.

    When no relay has taken anything for ``timeout_s`` (infinity is for ever), or one has refused a
    message so often, the rest is given up, and :class:`RelayUnavailable` raised.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self.timeout_s = math.inf
        self.taken = 0
        """Messages that a relay has."""
        self._addresses = addresses
        self._connection: zmtp.Connection | None = None
        self._kept: deque[bytes] = deque()  # messages that are not taken
        self._kept_bytes = 0
        self._written = 0  # of these, to the connection
        self._deadline = 0.0  # monotonic
        self._reasons: dict[str, str] = {}  # by address: why it was of no use when last tried
        self._uri = ""  # of the connection
        self._refusals = 0  # connections in a row that ended with nothing taken

    def send(self, *frames: bytes) -> None:
        """Send a message; returns when there is room for more."""
        self._kept.append(wire.message(*frames))
        self._kept_bytes += len(self._kept[-1])
        self._deliver(WINDOW_BYTES)

    def flush(self) -> None:
        """Return when all that was sent is taken."""
        if self._kept:
            self._deliver(0)

    def close(self) -> None:
        """End the connection, and give up what is not taken."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._kept.clear()
        self._kept_bytes = self._written = self._refusals = 0

    def _deliver(self, may_be_kept: int) -> None:
        """Write everything; return when no more than so many bytes are not taken."""
        self._deadline = time.monotonic() + self.timeout_s
        self._reasons.clear()
        while True:
            connection = self._connection = self._connection or self._connect()
            try:
                self._take_what_is_there(connection)
                while self._written < len(self._kept):
                    number = NUMBER.pack(self.taken + self._written)
                    message = self._kept[self._written] + wire.ping(number)
                    connection.send(message, self._deadline)
                    self._written += 1
                while self._kept_bytes > may_be_kept:
                    self._take(connection.receive(self._deadline))
            except zmtp.Ended:
                # It stops, and reads what was sent; or it did not like that.
                if self._written and connection.finish(time.monotonic() + FINISH_S):
                    self._forget(self._written)
                self._leave(connection)
            except OSError as error:
                if time.monotonic() >= self._deadline:
                    self._reasons[self._uri] = str(error)
                    raise self._given_up() from error
                with contextlib.suppress(OSError):
                    self._take_what_is_there(connection)
                self._leave(connection)
            except BaseException:  # a signal's; a message may be half written
                self.close()
                raise
            else:
                return

    def _connect(self) -> zmtp.Connection:
        """To the first address, in order, that has a subscription for us."""
        count = len(self._addresses)
        patience_s = min(ATTEMPT_S, self.timeout_s / count) if count > 1 else math.inf
        while time.monotonic() < self._deadline:
            for uri in self._addresses:
                deadline = min(time.monotonic() + patience_s, self._deadline)
                try:
                    connection = _subscribed(uri, deadline)
                except TimeoutError as error:
                    self._reasons.setdefault(uri, str(error))  # what else it did says more
                except OSError as error:
                    self._reasons[uri] = error.strerror or str(error)
                else:
                    self._uri = uri
                    return connection
            self._refusals = 0
            time.sleep(AGAIN_S)
        raise self._given_up()

    def _leave(self, connection: zmtp.Connection) -> None:
        if self._kept:
            size = len(self._kept[0])
            self._reasons[self._uri] = f"it ended the connection on a message of {size} bytes"
            self._refusals += 1
        connection.close()
        self._connection = None
        self._written = 0
        if self._refusals == REFUSALS:
            raise self._given_up()
        time.sleep(AWAY_S)

    def _given_up(self) -> RelayUnavailable:
        self.close()
        late = time.monotonic() >= self._deadline
        how = f"within {self.timeout_s:g} s" if late else f"in {REFUSALS} attempts"
        reasons = "; ".join(f"{uri}: {reason}" for uri, reason in self._reasons.items())
        return RelayUnavailable(f"relay_inbound: no relay has taken it {how}: {reasons}")

    def _take_what_is_there(self, connection: zmtp.Connection) -> None:
        with contextlib.suppress(TimeoutError):
            while True:
                self._take(connection.receive(zmtp.NOW))

    def _take(self, received: tuple[int, bytes]) -> None:
        """Forget the messages that, by a PONG, the relay has."""
        flags, body = received
        pong_flags, pong = zmtp.PONG
        if flags == pong_flags and body.startswith(pong):
            (number,) = NUMBER.unpack(body[len(pong) :])
            self._forget(number + 1 - self.taken)

    def _forget(self, messages: int) -> None:
        for _ in range(messages):
            self._kept_bytes -= len(self._kept.popleft())
        self._written -= messages
        self.taken += messages
        if messages:
            self._refusals = 0
        self._deadline = time.monotonic() + self.timeout_s


def _subscribed(uri: str, deadline: float) -> zmtp.Connection:
    """A connection whose peer has subscribed to everything: what it is sent now, it receives."""
    connection = zmtp.Connection(uri, b"PUB", deadline)
    try:
        while wire.subscribed(*connection.receive(deadline)) != b"":
            if time.monotonic() > deadline:
                raise TimeoutError("it does not subscribe")
    except BaseException:
        connection.close()
        raise
    return connection
