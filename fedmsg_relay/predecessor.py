"""The relay that runs, as the process that is to take over from it sees it.

What the words are is in :mod:`fedmsg_relay.handover`.  Until ``now`` nothing has changed for the
one that runs, so that all that can fail is done before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Collection

from fedmsg_relay import handover, systemd
from fedmsg_relay.bindings import Given
from fedmsg_relay.errors import RelayError
from fedmsg_relay.handover import Channel, Gone, Message
from fedmsg_relay.pidfile import PidFile, name_of

ANSWER_S = 2.0
"""How long a relay may take to answer: one that is well does so at once."""

YOURS_S = 5.0
"""How long it may take to let go of what listens."""

AGAIN_S = 0.1
"""How soon to ask again, when told to wait."""

MARGIN_S = 10.0
"""What a relay may take beyond the time that it says: to get a processor."""

START_S = 60.0
"""How long the holder of a pid file may take until it listens for us, or has ended."""

LOCK_POLL_S = 0.001
"""How often to try the lock of a relay that was signalled: the gap in which nobody listens is about
this long."""


class Predecessor:
    """A relay that has agreed to hand over, and what it has handed over."""

    def __init__(self, channel: Channel, listeners: Given, offer: Message) -> None:
        self._channel = channel
        self._pidfile_fd, self.door_fd = offer.fds
        self.pid: int = offer.fields["pid"]
        self.listeners = listeners
        self.ends_within_s: float = offer.fields["ends_within_s"]
        """From ``holding`` on."""
        self.systemd: dict[str, str] = offer.fields["systemd"]
        """Of its environment, what a service of systemd has."""

    def fileno(self) -> int:
        return self._channel.fileno()

    def hand_on(self, pidfile: PidFile) -> None:
        """Give this process the lock of the pid file and the place of a service of systemd."""
        pidfile.adopt(self._pidfile_fd)
        os.environ.update(self.systemd)
        os.environ.pop("WATCHDOG_PID", None)
        systemd.give_back(self.listeners)  # what the configuration names no more

    def say_now(self) -> None:
        """Return when only we accept.  Raises :class:`Gone` if that does not come about."""
        self._channel.send("now")
        answer = self._channel.receive(YOURS_S)
        if answer is None or answer.word != "yours":
            raise Gone("it does not let go")

    def say(self, word: str) -> None:
        """Say a word; that it has gone :meth:`drained` tells."""
        with contextlib.suppress(Gone):
            self._channel.send(word)

    def drained(self) -> Message | None:
        """Its last word, if it has come.

        Raises :class:`Gone` if it has died instead, and :class:`RelayError` if it goes on.
        """
        message = self._channel.receive()
        if message is not None and message.word != "drained":
            raise RelayError(
                f"the relay that runs (pid {self.pid}) goes on, as this process was stopped or too"
                " slow to take over; try again"
            )
        return message

    def let_go(self) -> None:
        """Say ``running``, which is the last word."""
        self.say("running")
        self._channel.close()

    def close(self) -> None:
        """Leave it to itself, with all that it has handed over: it goes on."""
        self._channel.close()
        for listener in self.listeners.values():
            listener.close()
        os.close(self._pidfile_fd)
        os.close(self.door_fd)


def take_over(
    pidfile: PidFile, name: str, passing: Collection[str], patience_s: float
) -> Predecessor | None:
    """Have the relay of a pid file agree to hand over; None if there is none, and the lock is ours.

    ``name`` is what a relay calls itself in the process list, ``passing`` are the names that it has
    before and after that.  An older relay, which cannot hand over, is asked by SIGTERM to stop, and
    may take ``patience_s`` for that.

    Raises :class:`RelayError` if the holder does not answer, refuses, is something else, or may not
    be asked.
    """
    signalled = False
    until = time.monotonic() + START_S
    while not pidfile.lock():
        pause_s = AGAIN_S
        try:
            answer = _ask(pidfile)
            if isinstance(answer, Predecessor):
                return answer
            if answer.fields["for_s"] > 0:
                until = time.monotonic() + answer.fields["for_s"] + MARGIN_S
        except Gone:  # it ends just now, or had no time for us
            pass
        except (FileNotFoundError, ConnectionRefusedError):
            if not signalled and _is_older(pidfile, name, passing):
                signalled = True
                until = time.monotonic() + patience_s
            pause_s = LOCK_POLL_S
        except OSError as error:
            raise RelayError(
                f"the running relay (pid {pidfile.holder()}) does not answer at"
                f" {pidfile.path}{handover.SUFFIX} ({error}): it is stopped or hung, and was left"
                " alone; see its log, or end it and start again"
            ) from error
        if time.monotonic() > until:
            raise RelayError(
                f"the running relay (pid {pidfile.holder()}) has not let go of {pidfile.path} in"
                " time; it was not killed: see its log"
            )
        time.sleep(pause_s)
    return None


def _ask(pidfile: PidFile) -> Predecessor | Message:
    """Say hello; what is offered, or the word to wait.

    Raises OSError where nobody listens or answers, and :class:`Gone` if it hangs up.
    """
    channel = handover.connect(pidfile.path, ANSWER_S)
    listeners: Given = {}
    try:
        channel.send("hello", protocol=handover.PROTOCOL, cgroup=systemd.control_group())
        while True:
            message = channel.receive(ANSWER_S)
            if message is None:
                raise TimeoutError(f"no answer within {ANSWER_S:g} s")
            if message.word == "refuse":
                raise RelayError(message.fields["why"])
            if message.word == "wait":
                channel.close()
                return message
            if message.word == "offer":
                return Predecessor(channel, listeners, message)
            for uri, fd in zip(message.fields["uris"], message.fds):
                listeners[uri] = socket.socket(fileno=fd)
    except BaseException:
        channel.close()
        for listener in listeners.values():
            listener.close()
        raise


def _is_older(pidfile: PidFile, name: str, passing: Collection[str]) -> bool:
    """Whether the holder is a relay that cannot hand over, and has been asked to stop.

    It is none if it is just starting or ending.  Raises :class:`RelayError` if it must not be
    asked.
    """
    pid = pidfile.holder()
    called = None if pid is None else name_of(pid)
    if pid is None or called in passing:
        return False
    if called is None and not _is_hidden(pid):
        return False
    if called not in (name, None):
        raise RelayError(
            f"{pidfile.path} is locked by a process that is not a relay (pid {pid}, see `fuser"
            f" {pidfile.path}`); nothing was touched"
        )
    if called is None or systemd.has_started(pid):
        raise RelayError(
            f"the running relay (pid {pid}) cannot hand over, as an older version cannot; restart"
            " it once: systemctl restart fedmsg-relay"
        )
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise RelayError(
            f"the running relay (pid {pid}) belongs to another user, who must replace it"
        ) from error
    return True


def _is_hidden(pid: int) -> bool:
    """Whether there is a process of our user that /proc does not show.

    To one of a unit with ``ProtectProc=invisible`` and ``PrivateUsers=`` it shows no other.
    """
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return name_of(pid) is None
