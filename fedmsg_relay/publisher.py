"""The script's side: :func:`publish`, as ``fedmsg.publish``, but it knows what became of a message.

What a message is (envelope, ``msg_id``, signature, topic) is the affair of fedmsg's own context;
the link below it is replaced.  There is no sleep, as a message is sent once the relay is known to
receive it, and at exit nothing is left to do, as :func:`publish` returns when the relay has it.

As with stock fedmsg, each thread has a connection and a counter (``i``) of its own, and the
configuration that counts is that of the thread's first message.  After a fork the child makes a
connection of its own, where stock fedmsg shares one with its parent and fails.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fedmsg_relay import config, loading  # the latter makes the import of fedmsg a quick one
from fedmsg_relay.confirmation import Confirmation
from fedmsg_relay.delivery import Delivery
from fedmsg_relay.endpoints import parse
from fedmsg_relay.errors import ConfigError, RelayError

Hook = Callable[[dict[str, Any]], Any]

_local = threading.local()


def destroy() -> None:
    """End this thread's connection; the next :func:`publish` makes another."""
    script = getattr(_local, "script", None)
    if script is not None:
        _local.script = None
        script.close()


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
    in order.  With ``confirm`` it returns when the message has been seen on the bus.

    Raises :class:`RelayUnavailable` if no relay has taken it within ``timeout`` seconds (default:
    fedmsg's ``timeout``, which is 2), :class:`NotConfirmed` if it was not seen within as many
    more, and :class:`ConfigError`.
    """
    script = getattr(_local, "script", None)
    if script is not None and script.pid != os.getpid():
        destroy()  # of the parent's connections only our descriptors are closed
        script = None
    if script is None:
        script = _local.script = Script({**loading.load(), **overrides})
    script.expect(script.default_timeout_s if timeout is None else timeout, confirm)
    script.publish(topic, msg, modname or _caller(), pre_fire_hook)
    script.flush()


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
        inbound = config.inbound(site)
        for address in inbound:
            parse("relay_inbound", address)
        self.pid = os.getpid()
        self.default_timeout_s: float = site["timeout"]
        self._site = site
        self._delivery = Delivery(inbound)
        self._confirmation: Confirmation | None = None  # while it is asked for
        name = site.get("name") or "relay_inbound"
        # Muted, the context makes no socket of its own: we are in its place.
        ours = {"active": True, "name": name, name: inbound, "mute": True, "post_init_sleep": 0}
        endpoints = dict(site["endpoints"])
        self._context = fedmsg.core.FedMsgContext(**{**site, **ours, "endpoints": endpoints})
        self._context.publisher = self

    @property
    def taken(self) -> int:
        """How many messages a relay has, since the start."""
        return self._delivery.taken

    def expect(self, timeout_s: float, confirm: bool) -> None:
        """What :meth:`flush` is to wait for, and how long without an answer; infinity is for ever.

        Raises :class:`ConfigError` for a time that is none, or without an address to listen at.
        """
        timeout_s = config.timeout_s(timeout_s, may_be_infinite=True)
        self._delivery.timeout_s = timeout_s
        if confirm and self._confirmation is None:
            key, outbound = config.outbound(self._site)
            for address in outbound:
                parse(key, address)
            self._confirmation = Confirmation(outbound)
        elif not confirm and self._confirmation is not None:
            self._confirmation.close()
            self._confirmation = None
        if self._confirmation is not None:
            self._confirmation.timeout_s = timeout_s

    def publish(
        self, topic: str | None, msg: Any, modname: str, pre_fire_hook: Hook | None = None
    ) -> None:
        """Send a message; that it was taken is known when :meth:`flush` has returned."""
        self._context.publish(topic, msg, modname, pre_fire_hook)

    def send_multipart(self, frames: Sequence[bytes], **_: Any) -> None:
        """Take a message from fedmsg's context, as its ZeroMQ socket would."""
        topic, body = frames
        if body == b"null":
            raise RelayError(
                "sign_messages: fedmsg could not sign the message, and says no more; it needs the"
                " packages of fedmsg[crypto_ng] and pyOpenSSL older than 24.3"
            )
        with self._awaited():
            if self._confirmation is not None:
                self._confirmation.expect(topic, json.loads(body)["msg_id"])
            self._delivery.send(topic, body)

    def flush(self) -> None:
        """Return when all messages have been taken, and seen if that is asked for."""
        with self._awaited():
            self._delivery.flush()
            if self._confirmation is not None:
                self._confirmation.wait()

    @contextlib.contextmanager
    def _awaited(self) -> Iterator[None]:
        """What is given up is not awaited any more."""
        try:
            yield
        except BaseException:
            if self._confirmation is not None:
                self._confirmation.forget()
            raise

    def close(self) -> None:
        """End the connections."""
        self._delivery.close()
        if self._confirmation is not None:
            self._confirmation.close()


def _caller() -> str:
    """The top-level module of whoever calls, as stock fedmsg guesses it."""
    frame = sys._getframe(1)
    while (name := frame.f_globals["__name__"].partition(".")[0]) in ("fedmsg", __package__):
        if frame.f_back is None:
            return "fedmsg"
        frame = frame.f_back
    return str(name)
