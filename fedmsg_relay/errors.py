"""What can go wrong, and the exit status that says so.

Every failure that an administrator can cause or cure is a :class:`RelayError`: one line that says
what was being done, with which value of which key, and what to do next.  ``cli`` prints that line
and exits with :attr:`RelayError.status`; nothing else in the package ends the process.
"""

from __future__ import annotations

import traceback


class RelayError(Exception):
    """The relay did not do what it was asked; the message is one line for the administrator."""

    status = 1


class WrongUsage(RelayError):
    """Options that do not go together; the status is the one that argparse gives to wrong usage."""

    status = 2


class BindError(RelayError):
    """An address of this host could not be bound: it is in use, or not permitted."""


class AlreadyRunning(RelayError):
    """Another process holds the pid file."""


class Died(RelayError):
    """The forwarding thread ended without having been asked to."""


class ConfigError(RelayError):
    """The configuration is missing, unreadable or wrong; the message names the key and the value.

    The status is the one that LSB init scripts give to "program is not configured".
    """

    status = 6


class RelayUnavailable(RelayError):
    """No relay has taken what was published, as far as can be known; sysexits.h has the status.

    Constructed with :attr:`reason`.
    """

    status = 69

    @property
    def reason(self) -> str:
        """Why not, without the words "message not sent"."""
        return str(self.args[0])

    def __str__(self) -> str:
        return f"message not sent: {self.reason}"


class MessageTooLarge(RelayUnavailable):
    """A message was not sent, as no relay would take it; sysexits.h has the status (EX_DATAERR)."""

    status = 65


class NotConfirmed(RelayUnavailable):
    """A message was taken by a relay, but not seen on the bus; or it was not sent, as nothing would
    have been seen."""

    def __str__(self) -> str:
        return f"message not confirmed: {self.reason}"


class NotHere(ConfigError):
    """None of the addresses of a key is of this host; ``--check`` asks them all the same."""


def short(error: Exception) -> RelayError:
    """What to say of an error that comes from want of something, as far as can be told."""
    what = str(error)
    if not isinstance(error, OSError) and type(error).__name__ != "ZMQError":
        _, line, function, _ = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__} in {function}(), line {line}: {what or 'no more is known'}"
    return RelayError(f"cannot go on: {what}; `ulimit -a` shows what may be short")
