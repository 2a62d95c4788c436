"""Every failure, and its exit status.

Every failure that an administrator can cause or cure is a :class:`RelayError`: one line that says
what was being done, with which value of which key, and what to do next.  A command prints that line
and exits with :attr:`RelayError.status`.
"""

from __future__ import annotations

import traceback


class RelayError(Exception):
    """A command failed; the message is one line for its user.

    The base of all errors here, and raised itself where none of the others fits.
    """

    status = 1


class WrongUsage(RelayError):
    """Options that do not go together, or not for this user; the status is argparse's."""

    status = 2


class BindError(RelayError):
    """An address of this host cannot be bound: it is in use, or not permitted.

    Free the address, or configure another one.
    """


class AlreadyRunning(RelayError):
    """Another process holds the pid file; stop that process, or start with ``--replace``."""


class Died(RelayError):
    """A thread of the program ended without an order to stop, or did not end after one.

    Start the program again.
    """


class ConfigError(RelayError):
    """The configuration is missing, unreadable or wrong; the message names the key and the value.

    The status is LSB's for init scripts: "program is not configured".
    """

    status = 6


class RelayUnavailable(RelayError):
    """No relay is known to have taken the message; publish the message again later.

    Constructed with :attr:`reason`.  The status is EX_UNAVAILABLE of <sysexits.h>.
    """

    status = 69

    @property
    def reason(self) -> str:
        """The message without the words "message not sent"."""
        return str(self.args[0])

    def __str__(self) -> str:
        return f"message not sent: {self.reason}"


class MessageTooLarge(RelayUnavailable):
    """A message was not sent, as it is larger than the limit of relays.

    The status is EX_DATAERR of <sysexits.h>.
    """

    status = 65


class NotConfirmed(RelayUnavailable):
    """A relay took the message, but it was not seen on the bus in time.

    Also raised before a message is sent, if the bus cannot be watched.
    """

    def __str__(self) -> str:
        return f"message not confirmed: {self.reason}"


class NoLocalAddress(ConfigError):
    """None of a key's addresses is of this host, so a relay cannot run here; ``--check`` can."""


class JournalError(RelayError):
    """The journal cannot be used; the message says why, and what to do."""


class JournalBusy(JournalError):
    """Another process writes this journal; stop that process, or use another directory."""


class JournalNewer(JournalError):
    """A newer version of the relay wrote this journal; use that version, or another directory."""


def shortage(error: Exception) -> RelayError:
    """Return the error for the administrator when memory, threads or descriptors ran out.

    ``error`` may be of any type: libzmq and Python show a shortage in many ways.
    """
    what = str(error)
    if not isinstance(error, OSError) and type(error).__name__ != "ZMQError":
        _, line, function, _ = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__} in {function}(), line {line}: {what or 'no details'}"
    return RelayError(f"cannot continue: {what}; `ulimit -a` shows the limits")
