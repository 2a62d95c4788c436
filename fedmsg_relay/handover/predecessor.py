"""The relay that runs, as the process that is to take over from it sees it.

The words are those of :mod:`fedmsg_relay.handover.protocol`.  Until ``now`` nothing has changed for
the running relay, so that whatever can fail is done before.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import time

from fedmsg_relay.errors import RelayError
from fedmsg_relay.handover import protocol
from fedmsg_relay.handover.protocol import Channel, Gone, Message
from fedmsg_relay.net.bindings import Given
from fedmsg_relay.relay.proxy import Traffic
from fedmsg_relay.system import naming, systemd
from fedmsg_relay.system.pidfile import PidFile, name_of

log = logging.getLogger("fedmsg.relay")

ANSWER_S = 2.0
"""How long a running relay may take for its next word: one that is not hung answers at once."""

YOURS_S = 5.0
"""How long a running relay may take to stop accepting."""

ENDING_S = 10.0
"""How long it may take to tell systemd of its successor, see systemd.BARRIER_S, and to hang up."""

AGAIN_S = 0.1
"""How soon to ask again, when told to wait."""

MARGIN_S = 10.0
"""How much longer than it says a running relay may have us wait: it may have to wait itself, for a
processor."""

START_S = 60.0
"""How long the holder of a pid file may take until it listens for us, or has ended."""

LOCK_POLL_S = 0.001
"""How often to try the lock of a pid file at which nobody listens for us: when its holder, an older
relay, has ended, nobody accepts for about this long."""


class Predecessor:
    """A relay that has agreed to hand over, and what it has handed over."""

    def __init__(self, channel: Channel, listeners: Given, offer: Message) -> None:
        self._channel = channel
        self._pidfile_fd, self.door_fd = offer.fds
        self.pid: int = offer.fields["pid"]
        self.listeners = listeners
        self._ends_within_s: float = offer.fields["ends_within_s"]  # from "holding" on
        self._until = math.inf  # monotonic, for it to have drained
        self._systemd: dict[str, str] = offer.fields["systemd"]  # see systemd.environment()

    def fileno(self) -> int:
        return self._channel.fileno()

    def hand_on(self, pidfile: PidFile) -> None:
        """Go on with its lock of the pid file, and as the main process of its systemd service."""
        pidfile.adopt(self._pidfile_fd)
        os.environ.update(self._systemd)
        os.environ.pop("WATCHDOG_PID", None)  # it names the other process

    def say_now(self) -> None:
        """Return when it has stopped accepting.  Raises :class:`Gone` if it does not."""
        self._channel.send("now")
        answer = self._channel.receive(YOURS_S)
        if answer is None or answer.word != "yours":
            raise Gone(f"it has not stopped accepting within {YOURS_S:g} s")

    def say_holding(self) -> None:
        """Have it drain and close, as we hold."""
        self._until = time.monotonic() + self._ends_within_s
        with contextlib.suppress(Gone):  # as :meth:`traffic` tells
            self._channel.send("holding")

    def due_s(self) -> float:
        """Seconds until :meth:`traffic` must be asked for, whatever happens."""
        return max(0.0, self._until - time.monotonic())

    def traffic(self) -> Traffic | None:
        """What had passed it when it drained; None while it does, and nothing if it has died.

        Raises :class:`RelayError` if it goes on without us, or hangs.
        """
        try:
            message = self._channel.receive()
        except Gone:
            log.warning("the relay that ran before (pid %d) died while it drained", self.pid)
            return Traffic(0, 0, 0, 0)
        if message is not None and message.word == "drained":
            return Traffic(*message.fields["traffic"])
        if message is not None:
            raise RelayError(
                f"the relay that runs (pid {self.pid}) goes on, as this process was stopped or too"
                " slow to take over; try again"
            )
        if self.due_s() == 0:
            raise RelayError(
                f"the relay that runs (pid {self.pid}) hands over and has not drained within"
                f" {self._ends_within_s:g} s: it is stopped or hung, and was left alone"
            )
        return None

    def say_running(self) -> None:
        """Let it end, as the pid file has our pid; returns when systemd, too, knows of us."""
        with contextlib.suppress(Gone):
            self._channel.send("running")
            self._channel.receive(ENDING_S)  # raises when it has hung up
        self._channel.close()
        systemd.give_back(self.listeners)  # those that the configuration names no more

    def close(self) -> None:
        """Hang up, and close all that it has handed over: it goes on as the relay."""
        self._channel.close()
        for listener in self.listeners.values():
            listener.close()
        os.close(self._pidfile_fd)
        os.close(self.door_fd)


def take_over(pidfile: PidFile, patience_s: float) -> Predecessor | None:
    """Have the relay of a pid file agree to hand over; None if none runs, and the lock is ours.

    A relay of an older version, which cannot hand over, is asked by SIGTERM to stop, and may take
    ``patience_s`` for that.

    Raises :class:`RelayError` if the holder of the lock does not answer, refuses, is not a relay,
    or may not be asked.
    """
    signalled = False
    until = time.monotonic() + START_S
    while not pidfile.lock():
        pause_s = AGAIN_S
        try:
            answer = _ask(pidfile)
            if isinstance(answer, Predecessor):
                return answer
            if answer > 0:
                until = time.monotonic() + answer + MARGIN_S
        except Gone:  # it is ending, or hung up on us
            pass
        except (FileNotFoundError, ConnectionRefusedError):
            if not signalled and _stop_older(pidfile):
                signalled = True
                until = time.monotonic() + patience_s
            pause_s = LOCK_POLL_S
        except OSError as error:
            raise RelayError(
                f"the running relay (pid {pidfile.holder()}) does not answer at"
                f" {pidfile.path}{protocol.SUFFIX} ({error}): it is stopped or hung, and was left"
                " alone; see its log, or end it and start again"
            ) from error
        if time.monotonic() > until:
            raise RelayError(
                f"the running relay (pid {pidfile.holder()}) has not let go of {pidfile.path} in"
                " time; it was not killed: see its log, or end it and start again"
            )
        time.sleep(pause_s)
    return None


def _ask(pidfile: PidFile) -> Predecessor | float:
    """Say ``hello`` to the holder; returns what it offers, or for how many seconds to wait.

    Raises OSError if nobody listens or answers there, :class:`Gone` if it hangs up, and
    :class:`RelayError` if it refuses.
    """
    channel = protocol.connect(pidfile.path, ANSWER_S)
    listeners: Given = {}
    try:
        channel.send("hello", protocol=protocol.PROTOCOL, cgroup=systemd.control_group())
        while True:
            message = channel.receive(ANSWER_S)
            if message is None:
                raise TimeoutError(f"no answer within {ANSWER_S:g} s")
            if message.word == "refuse":
                raise RelayError(message.fields["why"])
            if message.word == "wait":
                channel.close()
                return float(message.fields["for_s"])
            if message.word == "offer":
                return Predecessor(channel, listeners, message)
            for uri, fd in zip(message.fields["uris"], message.fds):
                listeners[uri] = socket.socket(fileno=fd)
    except BaseException:
        channel.close()
        for listener in listeners.values():
            listener.close()
        raise


def _stop_older(pidfile: PidFile) -> bool:
    """Ask the holder to stop if it is a relay that cannot hand over; returns whether it is.

    A process that is just starting or ending is not.  Raises :class:`RelayError` if it is not a
    relay, or may not be asked.
    """
    pid = pidfile.holder()
    called = None if pid is None else name_of(pid)
    if pid is None or called in (naming.COMMAND, naming.FLUSHING):  # before and after it is one
        return False
    if called is None and not _is_hidden(pid):
        return False
    if called not in (naming.NAME, None):
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
