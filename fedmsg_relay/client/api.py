"""The script's side: :func:`publish`, as ``fedmsg.publish``, but it knows what became of a message.

What a message is (envelope, ``msg_id``, signature, topic) is the affair of fedmsg's own context;
the link below it is replaced.  There is no sleep, as a message is sent once the relay is known to
receive it, and at exit nothing is left to do, as :func:`publish` returns when the relay has it.

Where it may be called:

- In any number of threads, from their first moment on.  As with stock fedmsg, each has a connection
  and a counter (``i``) of its own, and the configuration that counts is that of its first message.
  The connection ends with the thread.  A daemon thread that is in the middle of it when the process
  exits is cut off, and its message may or may not be on the bus.
- In a coroutine it would hold up the event loop: ``await asyncio.to_thread(publish, ...)``.
- After a fork, and in ``multiprocessing``, the child makes a connection of its own, where stock
  fedmsg shares one with its parent and fails.
- In a signal handler, also in one that interrupts another ``publish``: its message is published
  before the handler returns, over a connection of its own, and the interrupted one then goes on.
  Only imports must not be interrupted by one: that of this module, at the latest when ``publish``
  is looked up, and that of what signs, at the first signed message.
- With all of stdin, stdout and stderr closed, and as long as four descriptors are free.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedmsg_relay.client.confirmation import Confirmation
from fedmsg_relay.client.delivery import Delivery
from fedmsg_relay.config import (  # the latter makes the import of fedmsg a quick one
    loader,
    settings,
)
from fedmsg_relay.errors import ConfigError, MessageTooLarge, RelayError
from fedmsg_relay.net.endpoints import parse

Hook = Callable[[dict[str, Any]], Any]


class _Scripts(dict[int, "Script"]):
    """Those of a thread, by depth; their connections end with the thread."""

    def __del__(self) -> None:
        for script in self.values():
            script.close()


class _Local(threading.local):
    """What a thread has."""

    def __init__(self) -> None:
        self.depth = 0  # calls of publish() that are under way: a handler may interrupt one
        self.scripts = _Scripts()


_local = _Local()


def destroy() -> None:
    """End this thread's connection; the next :func:`publish` makes another."""
    for depth in list(_local.scripts):
        if depth >= _local.depth:  # that of a publish() which a handler has interrupted goes on
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
    """Publish a message through the relay; returns when the relay has it.

    ``topic``, ``msg`` (what JSON can hold), ``modname`` (default: the module that calls) and
    ``pre_fire_hook`` are those of ``fedmsg.publish``, ``overrides`` are keys of the global fedmsg
    config; ``active`` and ``name`` need not be given.  All addresses of ``relay_inbound`` are tried
    in order.  With ``confirm`` it returns when the message has been seen on the bus.  It is over
    after ``timeout`` seconds, whatever happens (default: fedmsg's ``timeout``, which is 2).

    Raises :class:`RelayUnavailable` if no relay has taken it by then, or none would,
    :class:`NotConfirmed` if it was not seen, and :class:`ConfigError`.
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
    except BaseException:  # also a signal's: it may be half sent, or not even counted
        if depth in _local.scripts:
            _local.scripts[depth].close()
        raise
    finally:
        _local.depth = depth


def _script(depth: int, overrides: Mapping[str, Any]) -> Script:
    """That of this thread, or of a handler that has interrupted it."""
    script = _local.scripts.get(depth)
    if script is not None and script.pid != os.getpid():
        del _local.scripts[depth]
        script.close()  # of the parent's connections only our descriptors are closed
        script = None
    if script is None:
        script = _local.scripts[depth] = Script({**loader.load(), **overrides})
    return script


class Script:
    """What publishes the messages of one thread; ``site`` is the global fedmsg config.

    Raises :class:`ConfigError`.
    """

    def __init__(self, site: Mapping[str, Any]) -> None:
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
        self._delivery = Delivery(inbound)
        self._confirmation: Confirmation | None = None  # while it is asked for
        self._tell: Callable[[str], object] | None = None
        self._tell_after_s = math.inf
        name = site.get("name") or "relay_inbound"
        # Muted, the context makes no socket of its own: we are in its place.
        ours = {"active": True, "name": name, name: inbound, "mute": True, "post_init_sleep": 0}
        endpoints = dict(site["endpoints"])
        self._context = fedmsg.core.FedMsgContext(**{**site, **ours, "endpoints": endpoints})
        self._context.context.term()  # libzmq's, of which it has no use either
        self._context.publisher = weakref.proxy(self)  # or both would await the garbage collector

    @property
    def taken(self) -> int:
        """How many messages a relay has, since the start."""
        return self._delivery.taken

    def tell(self, tell: Callable[[str], object], after_s: float) -> None:
        """Have ``tell`` called when nothing has happened for so long, and when something does."""
        self._tell, self._tell_after_s = tell, after_s

    def begin(self, timeout_s: float, confirm: bool, at: float | None = None) -> None:
        """What :meth:`flush` is to wait for, and how long without progress; infinity is for ever.

        The time counts from ``at`` (monotonic; default: now).  Raises :class:`ConfigError` for a
        time that is none, or without an address to listen at.
        """
        timeout_s = settings.timeout_s(timeout_s, may_be_infinite=True)
        at = time.monotonic() if at is None else at
        if confirm and self._confirmation is None:
            key, outbound = settings.outbound(self._site)
            for address in outbound:
                parse(key, address)
            self._confirmation = Confirmation(outbound, self._frame_max)
        elif not confirm and self._confirmation is not None:
            self._confirmation.close()
            self._confirmation = None
        for each in (self._delivery, self._confirmation):
            if each is not None:
                each.waiting.begin(timeout_s, at)
                each.waiting.tell, each.waiting.tell_after_s = self._tell, self._tell_after_s

    def publish(
        self, topic: str | None, msg: Any, modname: str, pre_fire_hook: Hook | None = None
    ) -> None:
        """Send a message; that it was taken is known when :meth:`flush` has returned."""
        try:
            self._context.publish(topic, msg, modname, pre_fire_hook)
        except KeyError as error:
            certificates = self._site.get("certnames") or {}
            if self._site.get("sign_messages") and error.args[0] not in certificates:
                raise ConfigError(
                    f"certnames: no {error.args[0]!r}, which signs this message (sign_messages)"
                ) from error
            raise

    def send_multipart(self, frames: Sequence[bytes], **_: Any) -> None:
        """Take a message from fedmsg's context, as its ZeroMQ socket would."""
        topic, body = frames
        if body == b"null":
            raise RelayError(
                "sign_messages: fedmsg could not sign the message, and says no more; it needs the"
                " packages of fedmsg[crypto_ng] and pyOpenSSL older than 24.3"
            )
        size = max(len(topic), len(body))
        if size > self._frame_max:
            raise MessageTooLarge(
                f"it has {size} bytes, and relay_max_message_size = {self._frame_max} is what"
                " relays take"
            )
        if self._confirmation is not None:
            self._confirmation.expect(topic, json.loads(body)["msg_id"])
        self._delivery.send(topic, body)

    def flush(self) -> None:
        """Return when all messages have been taken, and seen if that is asked for."""
        self._delivery.flush()
        if self._confirmation is not None:
            self._confirmation.wait()

    def close(self) -> None:
        """End the connections, and give up what is not taken, or not seen."""
        self._delivery.close()
        if self._confirmation is not None:
            self._confirmation.close()


def _caller() -> str:
    """The top-level module of whoever calls, as stock fedmsg guesses it."""
    frame = sys._getframe(1)
    while (name := frame.f_globals["__name__"].partition(".")[0]) in ("fedmsg", "fedmsg_relay"):
        if frame.f_back is None:
            return "fedmsg"
        frame = frame.f_back
    return str(name)
