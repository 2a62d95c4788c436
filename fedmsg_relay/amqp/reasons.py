"""An error of pika's -> the reason in one line, in the words of the broker or the system.

pika wraps an error in others, and keeps some only as the text that ``repr`` has for them.  None of
that is for a person.
"""

from __future__ import annotations

import ast
import re
import socket

import pika
import pika.exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorStackTimeout

SILENT = "the broker does not answer"

TIMEOUTS = pika.exceptions.ConnectionOpenAborted, AMQPConnectorStackTimeout, socket.timeout

ENDED = "the broker closed the connection without an error"

STAGES = (
    (
        pika.exceptions.IncompatibleProtocolError,
        "the server closed the connection at once; check that a broker with AMQP 0-9-1 has this"
        " port, and whether it needs amqps://",
    ),
    (
        pika.exceptions.ProbableAuthenticationError,
        "the broker closed the connection at the login; check the user and the password",
    ),
    (
        pika.exceptions.ProbableAccessDeniedError,
        "the broker closed the connection at the virtual host; check its name and permissions",
    ),
)
"""What to say where the connection ends at a stage of its beginning, without an error."""

CLOSED = re.compile(r"Connection\w*Closed\w*: \((\d+)\) (.*)", re.DOTALL)
"""What ``repr`` has for an error with the broker's code and text."""

LOST = re.compile(r"Stream connection lost: \w+\((?:\d+, )?(['\"])(.*?)\1\)", re.DOTALL)
"""What pika has for the system's error."""


def why(error: BaseException) -> str:
    """Return the reason in an error of pika's."""
    while (inner := _inner(error)) is not None:
        error = inner
    return " ".join(_why(error).split())


def _why(error: BaseException) -> str:
    if isinstance(error, (pika.exceptions.ConnectionClosed, pika.exceptions.ChannelClosed)):
        return f"{error.reply_code} {error.reply_text}"
    if isinstance(error, TIMEOUTS):
        return SILENT
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    said = " ".join(map(_text, error.args))
    for kind, explained in STAGES:
        if isinstance(error, kind):
            return _quoted(said) or explained
    if isinstance(error, pika.exceptions.AuthenticationError):
        return f"the broker does not accept logins of the kind {said}"
    if isinstance(error, pika.exceptions.ProtocolVersionMismatch):
        return "the server does not speak AMQP 0-9-1"
    if lost := LOST.fullmatch(said):
        return lost[2]
    if said == "Transport indicated EOF":
        return ENDED
    return said or type(error).__name__


def _quoted(said: str) -> str:
    """Return the broker's code and text in what ``repr`` has for its error; empty if not there."""
    found = CLOSED.fullmatch(said)
    if found is None:
        return ""
    try:
        return f"{found[1]} {ast.literal_eval(found[2])}"
    except (SyntaxError, ValueError):
        return f"{found[1]} {found[2]}"


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (list, tuple)):
        return " ".join(map(_text, value))
    return str(value)


def _inner(error: BaseException) -> BaseException | None:
    """Return the error that pika has wrapped in another one, if any."""
    for inner in (*getattr(error, "exceptions", ())[-1:], getattr(error, "exception", None)):
        if isinstance(inner, BaseException):
            return inner
    return error.args[0] if error.args and isinstance(error.args[0], BaseException) else None
