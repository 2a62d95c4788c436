"""What only one relay has: the pid file, the name in the process list, the sockets' files.

And, if it is a service of systemd's, to be the main process of that service.
"""

from __future__ import annotations

import logging
import socket

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.errors import RelayError
from fedmsg_relay.handover.predecessor import Predecessor
from fedmsg_relay.handover.protocol import Door
from fedmsg_relay.handover.successor import Successor
from fedmsg_relay.net.bindings import Bindings
from fedmsg_relay.relay.proxy import Traffic
from fedmsg_relay.system import systemd
from fedmsg_relay.system.naming import FLUSHING, NAME, set_name
from fedmsg_relay.system.pidfile import PidFile

log = logging.getLogger("fedmsg.relay")


class Role:
    """The relay's place, to be taken by a process that listens at ``bindings``, given or left."""

    def __init__(
        self,
        bindings: Bindings,
        settings: Settings,
        pidfile: PidFile | None,
        successor: Successor,
    ) -> None:
        self._bindings = bindings
        self._settings = settings
        self._pidfile = pidfile
        self._successor = successor

    def take(self, predecessor: Predecessor | None) -> None:
        """Become the relay, after ``predecessor`` if there is one; others may then ask for it."""
        if self._pidfile is not None:
            if predecessor is not None:
                predecessor.hand_on(self._pidfile)
            self._listen(self._pidfile, predecessor)
        self._claim()
        if predecessor is not None:
            predecessor.say_running()
        for endpoint, listener in self._bindings.all():
            # The file of an ipc:// endpoint does not outlive a stop, so neither need its socket.
            if listener.family != socket.AF_UNIX:
                systemd.keep(listener, endpoint.uri)
        systemd.notify("READY=1", "WATCHDOG=1")

    def resume(self) -> None:
        """Have it again, as the one that it was given to has died."""
        if self._pidfile is not None:
            try:
                self._pidfile.write()
            except RelayError as error:
                log.warning("%s; the pid there is of one that has died", error)
        self._claim()

    def _claim(self) -> None:
        """Make the socket files ours, and show the relay's name in the process list."""
        self._bindings.claim(self._settings)
        set_name(NAME)

    def _listen(self, pidfile: PidFile, predecessor: Predecessor | None) -> None:
        try:
            if predecessor is not None:
                door = Door.adopt(predecessor.door_fd, pidfile.path)
            else:
                door = Door.open(pidfile.path)
        except OSError as error:
            log.warning(
                "cannot listen beside the pid file %s: %s; the next relay cannot take over from"
                " this one, but has to stop it",
                pidfile.path,
                error.strerror,
            )
        else:
            self._successor.listen(door, pidfile)

    def give(self, traffic: Traffic) -> None:
        """Let the chosen process be the relay; ``traffic`` is what has passed until now."""
        set_name(FLUSHING)
        self._successor.say("drained", traffic=traffic)

    def forget(self) -> bool:
        """Leave the place to the chosen process, which has the pid file; False if it has died.

        It is the main process of a systemd service when it hears that we have hung up.
        """
        if self._pidfile is not None:
            self._pidfile.leave()
        systemd.notify(f"MAINPID={self._successor.pid}")
        systemd.barrier()
        return self._successor.hang_up()

    def leave(self) -> None:
        """Be the relay no more, before the consumers have everything: the next need not wait."""
        self._bindings.close()
        self._successor.close()
        if self._pidfile is not None:
            self._pidfile.release()
        set_name(FLUSHING)
