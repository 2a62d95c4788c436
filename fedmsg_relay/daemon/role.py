"""The role of the relay, which one process has at a time and the next one takes over.

The process with the role holds the pid file, owns the files of the ``ipc://`` sockets, is called
``fedmsg-relay`` in the process list, and is the main process of the systemd service, if there is a
service.  Two processes run during a hand-over; this module passes the role from one to the other.
"""

from __future__ import annotations

import logging
import socket

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.daemon.kept_totals import KeptTotals
from fedmsg_relay.errors import RelayError
from fedmsg_relay.handover.predecessor import Predecessor
from fedmsg_relay.handover.protocol import HandoverSocket
from fedmsg_relay.handover.successor import Successor
from fedmsg_relay.monitoring.totals import Totals
from fedmsg_relay.net.bindings import Bindings
from fedmsg_relay.system import systemd
from fedmsg_relay.system.naming import FLUSHING, NAME, set_name
from fedmsg_relay.system.pidfile import PidFile

log = logging.getLogger("fedmsg.relay")


class Role:
    """The role of the relay, for a process that listens at ``bindings``.

    ``pidfile`` is None if the process runs without one; then ``successor`` never listens, and
    no process can take over.
    """

    def __init__(
        self,
        bindings: Bindings,
        settings: Settings,
        pidfile: PidFile | None,
        successor: Successor,
        kept_totals: KeptTotals,
    ) -> None:
        self._bindings = bindings
        self._settings = settings
        self._pidfile = pidfile
        self._successor = successor
        self._kept_totals = kept_totals

    def take(self, predecessor: Predecessor | None) -> None:
        """Take the role, from ``predecessor`` if there is one; from then on a successor may ask.

        Raises :class:`RelayError` if the pid cannot be written.
        """
        if self._pidfile is not None:
            if predecessor is not None:
                predecessor.hand_on(self._pidfile)
            self._listen(self._pidfile, predecessor)
        self._claim()
        if predecessor is not None:
            predecessor.let_exit()
        for endpoint, listener in self._bindings.all():
            # The file of an ipc:// endpoint does not outlive a stop, so neither need its socket.
            if listener.family != socket.AF_UNIX:
                systemd.store(listener.fileno(), endpoint.uri)
        self._kept_totals.store()
        systemd.notify("READY=1", "WATCHDOG=1")

    def resume(self) -> None:
        """Take the role again, as the successor that it was given to has died."""
        if self._pidfile is not None:
            try:
                self._pidfile.write()
            except RelayError as error:
                log.warning("%s; the file has the pid of a relay that has died", error)
        self._claim()

    def _claim(self) -> None:
        """Own the socket files, and show the relay's name in the process list."""
        self._bindings.claim(self._settings)
        set_name(NAME)

    def _listen(self, pidfile: PidFile, predecessor: Predecessor | None) -> None:
        try:
            if predecessor is not None:
                listener = HandoverSocket.adopt(predecessor.handover_fd, pidfile.path)
            else:
                listener = HandoverSocket.open(pidfile.path)
        except OSError as error:
            log.warning(
                "cannot listen beside the pid file %s: %s; a later relay cannot take over from"
                " this one, only stop it",
                pidfile.path,
                error.strerror,
            )
        else:
            self._successor.listen(listener, pidfile)

    def give(self, totals: Totals) -> None:
        """Give the role to the successor, with the final totals."""
        set_name(FLUSHING)
        self._successor.send("drained", totals=totals.as_dict())

    def confirm(self) -> bool:
        """Confirm that the successor has the role; False if the successor has died.

        The successor waits until this process disconnects.  By then systemd has taken the successor
        for the main process of the service.
        """
        if self._pidfile is not None:
            self._pidfile.disown()
        systemd.notify(f"MAINPID={self._successor.pid}")
        systemd.barrier()
        return self._successor.hang_up()

    def leave(self, totals: Totals) -> None:
        """Leave the role vacant, while libzmq still delivers: the next relay need not wait."""
        self.keep(totals)
        set_name(FLUSHING)  # first: what has a relay's name listens to the next one
        self._bindings.close()
        self._successor.close()
        if self._pidfile is not None:
            self._pidfile.release()

    def keep(self, totals: Totals) -> None:
        """Leave the totals for the next process of the service."""
        self._kept_totals.write(totals)
