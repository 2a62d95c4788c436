"""The running relay, as the process that is to take over from it sees it.

The words are those of :mod:`fedmsg_relay.handover.protocol`.  Before ``now`` nothing changes for
the running relay; therefore everything that can fail is done before.
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
from fedmsg_relay.monitoring.totals import Totals
from fedmsg_relay.net.bindings import Inherited
from fedmsg_relay.system import naming, systemd
from fedmsg_relay.system.naming import name_of
from fedmsg_relay.system.pidfile import PidFile
from fedmsg_relay.web import history
from fedmsg_relay.web.history import Point

log = logging.getLogger("fedmsg.relay")

ANSWER_S = 2.0
"""How long a running relay may take to answer ``hello``: unless it hangs, it answers at once."""

YOURS_S = 5.0
"""How long a running relay may take to stop accepting, after ``now``."""

HANG_UP_S = 10.0
"""How long a replaced relay may take to send systemd the new main pid and to hang up.  The first
takes up to systemd.PATIENCE_S."""

ASK_EVERY_S = 0.1
"""Time between two attempts to take over, while the running relay says ``wait``."""

WAIT_MARGIN_S = 10.0
"""Added to the time for which a running relay says ``wait``: on a busy machine the relay needs more
than it says.  The new process gives up at that time."""

START_S = 60.0
"""How long the holder of a pid file may take until it listens for a successor, or has ended."""

LOCK_POLL_S = 0.001
"""Time between two attempts to lock a pid file whose holder does not listen for a successor: when
that holder, an older relay, has ended, no relay accepts for about this long."""


class Predecessor:
    """A relay that has offered to hand over, with the descriptors that came with the offer."""

    def __init__(self, channel: Channel, listeners: Inherited, offer: Message) -> None:
        self._channel = channel
        self._pidfile_fd, self.handover_fd = offer.fds
        self.pid: int = offer.fields["pid"]
        self.listeners = listeners
        self.totals = Totals()
        """The relay's counters, as of the last :meth:`attend`."""
        self.samples: tuple[Point, ...] = ()
        """The relay's traffic of the last ten minutes, likewise."""
        self.has_ended = False
        """Whether the relay has drained, or died."""
        self._ends_within_s: float = offer.fields["ends_within_s"]  # counted from "holding"
        self._until = math.inf  # until when the relay may drain (monotonic)
        self._systemd: dict[str, str] = offer.fields["systemd"]  # see systemd.environment()

    def fileno(self) -> int:
        """Return the descriptor to poll for :meth:`attend`."""
        return self._channel.fileno()

    def hand_on(self, pidfile: PidFile) -> None:
        """Give ``pidfile`` the relay's lock, and this process the relay's place under systemd.

        Raises :class:`RelayError` if the pid cannot be written.
        """
        pidfile.adopt(self._pidfile_fd)
        os.environ.update(self._systemd)
        os.environ.pop("WATCHDOG_PID", None)  # it names the predecessor

    def stop_accepting(self) -> None:
        """Have the relay stop accepting; return when it has.

        Raises :class:`Gone` if that has not happened within :data:`YOURS_S`.
        """
        self._channel.send("now")
        answer = self._channel.receive(YOURS_S)
        if answer is None or answer.word != "yours":
            raise Gone(f"the relay has not stopped accepting within {YOURS_S:g} s")

    def let_drain(self) -> None:
        """Let the relay drain and close, as this process accepts and holds."""
        self._until = time.monotonic() + self._ends_within_s
        with contextlib.suppress(Gone):  # attend() finds that out
            self._channel.send("holding")

    def due_s(self) -> float:
        """Return the seconds until :meth:`attend` must be called next."""
        return max(0.0, self._until - time.monotonic())

    def attend(self) -> bool:
        """Return whether :attr:`totals` are new, or the relay :attr:`has_ended`.

        Raises :class:`RelayError` if the relay continues instead, or hangs.
        """
        try:
            message = self._channel.receive()
        except Gone:
            log.warning("the previous relay (pid %d) died while it drained", self.pid)
            self.has_ended = True
            return True
        if message is not None and message.word in ("drains", "drained"):
            self.totals = Totals.of(message.fields.get("totals", {}))
            self.samples = self.samples or history.parse(message.fields.get("samples"))
            self.has_ended = message.word == "drained"
            return True
        if message is not None:
            raise RelayError(
                f"the running relay (pid {self.pid}) continues, because this process was stopped or"
                " too slow to take over; try again"
            )
        if self.due_s() == 0:
            raise RelayError(
                f"the running relay (pid {self.pid}) has not drained within"
                f" {self._ends_within_s:g} s: it is stopped or hung, and was left alone"
            )
        return False

    def let_exit(self) -> None:
        """Let the relay exit, as the pid file has the pid of this process.

        Returns when systemd takes this process for the main process of the service.
        """
        with contextlib.suppress(Gone):
            self._channel.send("running")
            self._channel.receive(HANG_UP_S)  # raises Gone when the relay hangs up
        self._channel.close()
        systemd.discard(self.listeners)  # those left over, which the configuration does not name

    def close(self) -> None:
        """Disconnect, and close the offered descriptors: the predecessor stays the relay."""
        self._channel.close()
        for listener in self.listeners.values():
            listener.close()
        os.close(self._pidfile_fd)
        os.close(self.handover_fd)


def take_over(pidfile: PidFile, patience_s: float) -> Predecessor | None:
    """Have the relay that holds ``pidfile`` offer to hand over; return that relay.

    Returns None with ``pidfile`` locked if no relay runs.  A relay of an older version, which
    cannot hand over, is sent SIGTERM, and may take ``patience_s`` to stop.

    Raises :class:`RelayError` if the holder of the lock does not answer, refuses, is not a relay,
    or belongs to another user.
    """
    signalled = False
    until = time.monotonic() + START_S
    while not pidfile.lock():
        pause_s = ASK_EVERY_S
        holder = _holder(pidfile)
        try:
            answer = _ask(pidfile)
            if isinstance(answer, Predecessor):
                return answer
            if answer > 0:
                until = time.monotonic() + answer + WAIT_MARGIN_S
        except Gone:  # the holder is ending, or has hung up
            pass
        except (FileNotFoundError, ConnectionRefusedError):
            # A relay has its name only while it listens, and may have begun or ended meanwhile.
            if not signalled and holder == _holder(pidfile) and _stop_older(pidfile, *holder):
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
                f"the running relay (pid {pidfile.holder()}) has not released {pidfile.path} in"
                " time, and was not killed: see its log, or end it and start again"
            )
        time.sleep(pause_s)
    return None


def _ask(pidfile: PidFile) -> Predecessor | float:
    """Send ``hello`` to the holder; return its offer, or for how many seconds to ask again.

    Raises OSError if no process listens or answers there, :class:`Gone` if the holder hangs up, and
    :class:`RelayError` if it refuses.
    """
    channel = protocol.connect(pidfile.path, ANSWER_S)
    listeners: Inherited = {}
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


def _holder(pidfile: PidFile) -> tuple[int | None, str | None]:
    """Return the pid and the name of the process that has the lock, as far as they are known."""
    pid = pidfile.holder()
    return pid, None if pid is None else name_of(pid)


def _stop_older(pidfile: PidFile, pid: int | None, called: str | None) -> bool:
    """Send the holder SIGTERM if it is a relay that cannot hand over; return whether it is.

    A process that is just starting or ending is not.  Raises :class:`RelayError` if the holder is
    not a relay, is a service of systemd's, or belongs to another user.
    """
    if pid is None or called in (naming.COMMAND, naming.FLUSHING):  # starts, or ends
        return False
    if called is None and not _is_hidden(pid):
        return False
    if called not in (naming.NAME, None):
        raise RelayError(
            f"{pidfile.path} is locked by a process that is not a relay (pid {pid}, see `fuser"
            f" {pidfile.path}`); that process was not signalled"
        )
    if called is None or systemd.has_started(pid):
        raise RelayError(
            f"the running relay (pid {pid}) is an older version that cannot hand over; restart"
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
    """Return whether ``pid`` is a process of this user that /proc does not show.

    In a unit with ``ProtectProc=invisible`` and ``PrivateUsers=``, /proc shows no other process.
    """
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return name_of(pid) is None
