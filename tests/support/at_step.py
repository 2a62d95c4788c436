"""A relay to which something happens at one step of a hand-over.

    at_step.py MOMENT WORD SIGNAL [OPTION...]

It is the real relay, which sends itself ``SIGNAL`` when it ``sends`` (just before), has ``sent`` or
has ``received`` a word for the first time.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from fedmsg_relay.commands import relay
from fedmsg_relay.handover.protocol import Channel, Message

_send, _receive = Channel.send, Channel.receive
_awaited = [tuple(sys.argv[1:3])]
_number = signal.Signals[sys.argv[3]]


def _pass(moment: str, word: str) -> None:
    if (moment, word) in _awaited:
        _awaited.clear()
        os.kill(os.getpid(), _number)


def send(channel: Channel, word: str, fds: Sequence[int] = (), **fields: Any) -> None:
    _pass("sends", word)
    _send(channel, word, fds, **fields)
    _pass("sent", word)


def receive(channel: Channel, timeout_s: float = 0.0) -> Message | None:
    message = _receive(channel, timeout_s)
    if message is not None:
        _pass("received", message.word)
    return message


if __name__ == "__main__":
    del sys.argv[1:4]
    Channel.send, Channel.receive = send, receive  # type: ignore[method-assign]
    sys.exit(relay.main())
