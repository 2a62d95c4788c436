"""A proxy that forwards only messages that a judge accepts or the relay has signed.

Replaces libzmq's proxy, with the same commands, answers and counters.  Python runs for each
message, so the inspector is slower; the thread waits only for the two sockets.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import zmq

from fedmsg_relay.relay.proxy import PAUSE, Proxy, Socket
from fedmsg_relay.system.throttle import Throttle
from fedmsg_relay.trust.judge import Judge
from fedmsg_relay.trust.material import Material
from fedmsg_relay.trust.verdict import Expiry, Reason, RejectedCounts, RejectedError, Rejection

BATCH_S = 0.005
"""Seconds of forwarding between two looks at the commands, and at new subscriptions."""

LOG_PERIOD_S, LOG_LINES = 60.0, 10
"""How many rejections are told in which time; all are counted."""

TEXT_MAX = 200
"""Characters of a topic, a name or a reason in the log: a message may have millions of them."""


class Inspector(Proxy):
    """Judges with ``material``; calls ``tell`` with some of the rejections, on the relay's thread.

    ``tell`` must not block.
    """

    # What a script may publish in a burst and end; the rest waits in its own queue, for zmq_linger.
    inbound_max = 10_000

    def __init__(self, material: Material, tell: Callable[[Rejection], None]) -> None:
        super().__init__()
        self._material = material
        self._judge = Judge(material)
        self._tell = tell
        self._told = Throttle(LOG_PERIOD_S, LOG_LINES)
        self._rejected = dict.fromkeys(Reason, 0)  # only the relay's thread writes
        self._frames_in = self._bytes_in = 0
        self._frames_out = self._bytes_out = 0
        self._is_paused = self._is_over = False

    @property
    def rejected(self) -> RejectedCounts:
        return dict(self._rejected)

    def expiries(self) -> Iterator[Expiry]:
        return self._material.expiries()

    def run(self, sub: Socket, pub: Socket, capture: Socket | None = None) -> None:
        commands, everything = zmq.Poller(), zmq.Poller()
        commands.register(self._proxy_control, zmq.POLLIN)
        # A poll has libzmq process the subscriptions that have arrived, in both directions.
        for each in (self._proxy_control, pub, sub):
            everything.register(each, zmq.POLLIN)
        while not self._is_over:
            (commands if self._is_paused else everything).poll()
            self._obey()
            until = time.monotonic() + BATCH_S
            while not self._is_paused and time.monotonic() < until:
                if not self._forward(sub, pub, capture):
                    break

    def _forward(self, sub: Socket, pub: Socket, capture: Socket | None) -> bool:
        """Forward a message, or reject it; return whether there was one."""
        try:
            frames = sub.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._frames_in += len(frames)
        self._bytes_in += sum(map(len, frames))
        passed = self.outgoing(frames, sub)
        if passed is not None:
            if capture is not None:
                capture.send_multipart(passed)
            pub.send_multipart(passed)
            self._frames_out += len(passed)
            self._bytes_out += sum(map(len, passed))
        return True

    def outgoing(self, frames: list[bytes], sub: Socket) -> list[bytes] | None:
        try:
            return self._judge.judge(frames, lambda: self._attend(sub))
        except RejectedError as error:
            self._reject(frames, error)
        except Exception as error:  # noqa: BLE001 (whatever a message does to a library)
            self._reject(frames, RejectedError(Reason.NOT_FEDMSG, repr(error)))
        return None

    def _attend(self, sub: Socket) -> None:
        """Do what cannot wait for the judge."""
        sub.getsockopt(zmq.EVENTS)  # has libzmq send our subscription to new publishers
        self._obey(is_within_message=True)

    def _reject(self, frames: list[bytes], error: RejectedError) -> None:
        self._rejected[error.reason] += 1
        if self._told.allows():
            topic = frames[0][:TEXT_MAX].decode(errors="replace")
            signer, detail = error.signer[:TEXT_MAX], str(error)[:TEXT_MAX]
            is_last = not self._told.remaining
            self._tell(Rejection(error.reason, topic, signer, detail, is_last))

    def _obey(self, is_within_message: bool = False) -> None:
        """Answer the commands that have come, as libzmq's proxy does.

        Within a message, none behind ``PAUSE``: the counters are final then.
        """
        with contextlib.suppress(zmq.Again):
            while not (is_within_message and self._is_paused):
                word = self._proxy_control.recv(zmq.NOBLOCK)
                self._is_paused |= word == PAUSE
                self._is_over |= word == b"TERMINATE"
                answer = self._statistics() if word == b"STATISTICS" else [b""]
                self._proxy_control.send_multipart(answer, zmq.NOBLOCK)

    def _statistics(self) -> list[bytes]:
        counters = [self._frames_in, self._bytes_in, 0, 0, 0, 0, self._frames_out, self._bytes_out]
        return [each.to_bytes(8, sys.byteorder) for each in counters]
