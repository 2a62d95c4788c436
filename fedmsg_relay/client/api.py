"""The script's side: :func:`publish`, as ``fedmsg.publish``, but with an error if the relay has not
taken the message.

fedmsg's own context makes the message (envelope, ``msg_id``, signature, topic); this package
replaces the socket below.  There is no sleep, as a message is sent once the relay is known to
receive it, and nothing is left to do at exit, as :func:`publish` returns when the relay has the
message.

:func:`publish` may be called:

- In any number of threads, from their first moment on.  As with stock fedmsg, each thread has its
  own connection and counter (``i``), and uses the configuration of its first message.  The
  connection ends with the thread.  A process that exits cuts off daemon threads within
  :func:`publish`; their messages may or may not be on the bus.
- From a coroutine, by ``await asyncio.to_thread(publish, ...)``: a direct call blocks the loop.
- After a fork, and in ``multiprocessing``: the child makes its own connection, where stock fedmsg
  shares the parent's and fails.
- In a signal handler, even while it interrupts another ``publish``: the handler's message is
  published before the handler returns, over its own connection, and the interrupted ``publish``
  goes on.  A handler must not publish while it interrupts an import: of this module, at the latest
  when ``publish`` is looked up, or of the modules that sign, at the first signed message.
- With all of stdin, stdout and stderr closed, and with only four free descriptors.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedmsg_relay.client.confirmation import Confirmation
from fedmsg_relay.client.delivery import Delivery
from fedmsg_relay.client.waiting import Tell, Waiting
from fedmsg_relay.config import loader, settings  # loader makes the import of fedmsg a quick one
from fedmsg_relay.errors import ConfigError, MessageTooLarge, RelayError
from fedmsg_relay.net.endpoints import parse

Hook = Callable[[dict[str, Any]], Any]


class _Scripts(dict[int, "Script"]):
    """A thread's sessions, by depth; their connections end with the thread."""

    def __del__(self) -> None:
        for script in self.values():
            script.close()


class _Local(threading.local):
    def __init__(self) -> None:
        self.depth = 0  # calls of publish() under way; more than one in a signal handler
        self.scripts = _Scripts()


_local = _Local()


def destroy() -> None:
    """Close this thread's connection; the next :func:`publish` makes another."""
    for depth in list(_local.scripts):
        if depth >= _local.depth:  # the interrupted publish() below goes on
            _local.scripts.pop(depth).close()


atexit.register(destroy)


def publish(
    topic: str | None = None,
    msg: Any = None,
    modname: str | None = None,
    *,
    pre_fire_hook: Hook | None = None,
    timeout: float | None = None,
    confirm: bool = False,
    **overrides: Any,
) -> None:
    """Publish a message through the relay; return when the relay has taken the message.

    ``topic``, ``msg`` (what JSON can hold), ``modname`` (default: the calling module) and
    ``pre_fire_hook`` are those of ``fedmsg.publish``; ``overrides`` are keys of the global fedmsg
    config, of which ``active`` and ``name`` need not be given.  All addresses of ``relay_inbound``
    are tried in order.  With ``confirm``, return when the message has been seen on the bus.  Give
    up after ``timeout`` seconds (default: fedmsg's key ``timeout``, by default 2).

    Raises :class:`RelayUnavailable` if no relay has taken the message by then, or a relay refuses
    the message; :class:`NotConfirmed` if the message was not seen; and :class:`ConfigError`.
    """
    at = time.monotonic()
    modname = modname or _caller()
    depth = _local.depth
    try:
        _local.depth = depth + 1
        script = _script(depth, overrides)
        script.begin(script.default_timeout_s if timeout is None else timeout, confirm, at)
        script.publish(topic, msg, modname, pre_fire_hook)
        script.flush()
    except BaseException:  # also a signal handler's: the message may be half sent, or not counted
        if depth in _local.scripts:
            _local.scripts[depth].close()
        raise
    finally:
        _local.depth = depth


def _script(depth: int, overrides: Mapping[str, Any]) -> Script:
    """Return this thread's session at ``depth``; make one if there is none."""
    script = _local.scripts.get(depth)
    if script is not None and script.pid != os.getpid():
        del _local.scripts[depth]
        script.close()  # closes this process's descriptors; the parent's connections stay open
        script = None
    if script is None:
        script = _local.scripts[depth] = Script({**loader.load_shared(), **overrides})
    return script


class FedmsgSocket:
    """Poses as the ZeroMQ socket of fedmsg's context, and keeps the message for :class:`Script`.

    As its ``publisher``, ``fedmsg.core.FedMsgContext`` calls ``send_multipart`` in ``publish``, and
    ``close`` in ``destroy``; nothing else.
    """

    def __init__(self) -> None:
        self.frames: Sequence[bytes] = ()
        """The last message: topic and body."""

    def send_multipart(self, frames: Sequence[bytes], flags: int = 0) -> None:  # noqa: ARG002
        self.frames = frames

    def close(self) -> None:
        self.frames = ()


class Script:
    """The session of one thread; ``site`` is the global fedmsg config.

    After an exception of any method only :meth:`close` may be called, and then any method again.
    Calls ``tell`` after fedmsg's ``timeout`` without progress, and at the next progress.  Raises
    :class:`ConfigError`.
    """

    def __init__(self, site: Mapping[str, Any], tell: Tell | None = None) -> None:
        import fedmsg.core

        if not site.get("zmq_enabled", True):
            raise ConfigError(
                f"zmq_enabled = {site['zmq_enabled']!r}: the relay works with ZeroMQ alone"
            )
        inbound = settings.inbound(site)
        for address in inbound:
            parse("relay_inbound", address)
        self.pid = os.getpid()
        self.default_timeout_s: float = site["timeout"]
        self._site = site
        self._frame_max = settings.max_message_size(site) or math.inf
        self._tell = tell
        self._delivery = Delivery(inbound, Waiting(tell, self.default_timeout_s))
        self._confirmation: Confirmation | None = None  # while begin() asks for confirmation
        name = site.get("name") or "relay_inbound"
        # A muted context makes no socket of its own.
        ours = {"active": True, "name": name, name: inbound, "mute": True, "post_init_sleep": 0}
        endpoints = dict(site["endpoints"])
        self._context = fedmsg.core.FedMsgContext(**{**site, **ours, "endpoints": endpoints})
        self._context.context.term()  # libzmq's context, which nothing uses
        self._context.publisher = self._socket = FedmsgSocket()

    @property
    def taken(self) -> int:
        """Messages taken by a relay since the start."""
        return self._delivery.taken

    def begin(self, timeout_s: float, confirm: bool, at: float | None = None) -> None:
        """Set for how long without progress to wait (may be infinite), and whether to confirm.

        The time counts from ``at`` (monotonic; default: now).  Raises :class:`ConfigError` for a
        bad ``timeout_s``, or if ``confirm`` has no address to listen at.
        """
        timeout_s = settings.timeout_s(timeout_s, may_be_infinite=True)
        at = time.monotonic() if at is None else at
        if confirm and self._confirmation is None:
            key, outbound = settings.outbound(self._site)
            for address in outbound:
                parse(key, address)
            waiting = Waiting(self._tell, self.default_timeout_s)
            self._confirmation = Confirmation(outbound, self._frame_max, waiting)
        elif not confirm and self._confirmation is not None:
            self._confirmation.close()
            self._confirmation = None
        self._delivery.waiting.begin(timeout_s, at)
        if self._confirmation is not None:
            self._confirmation.waiting.begin(timeout_s, at)

    def publish(
        self, topic: str | None, msg: Any, modname: str, pre_fire_hook: Hook | None = None
    ) -> None:
        """Send a message; the message is taken when :meth:`flush` has returned."""
        try:
            self._context.publish(topic, msg, modname, pre_fire_hook)
        except KeyError as error:
            certificates = self._site.get("certnames") or {}
            if self._site.get("sign_messages") and error.args[0] not in certificates:
                raise ConfigError(
                    f"certnames: has no {error.args[0]!r}, which sign_messages needs for this"
                    " message"
                ) from error
            raise
        self._send(*self._socket.frames)

    def _send(self, topic: bytes, body: bytes) -> None:
        if body == b"null":
            raise RelayError(
                "sign_messages: fedmsg did not sign the message, and gave no reason; install"
                " fedmsg[crypto_ng] and a pyOpenSSL older than 24.3"
            )
        size = max(len(topic), len(body))
        if size > self._frame_max:
            raise MessageTooLarge(
                f"{size} bytes exceed relay_max_message_size = {self._frame_max}; send less, or"
                " raise the limit here and at the relay"
            )
        if self._confirmation is not None:
            self._confirmation.subscribe(topic)
            self._confirmation.expect(json.loads(body)["msg_id"])
        self._delivery.send(topic, body)

    def flush(self) -> None:
        """Return when all messages have been taken and, with ``confirm``, seen on the bus."""
        self._delivery.flush()
        if self._confirmation is not None:
            self._confirmation.wait()

    def close(self) -> None:
        """Close the connections, and drop all messages that are not taken or not seen."""
        self._delivery.close()
        if self._confirmation is not None:
            self._confirmation.close()


def _caller() -> str:
    """Return the top-level module of publish()'s caller, as stock fedmsg guesses the module."""
    frame = sys._getframe(1)
    while (name := frame.f_globals["__name__"].partition(".")[0]) in ("fedmsg", "fedmsg_relay"):
        if frame.f_back is None:
            return "fedmsg"
        frame = frame.f_back
    return str(name)
