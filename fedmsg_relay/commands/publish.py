"""``fedmsg-relay-publish``: lines of a shell -> messages on the bus, or an exit status above 0.

The options are those of ``fedmsg-logger``, and more; the messages are the same.  :data:`STATUSES`
has the exit statuses, which ``--help`` shows.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from fedmsg_relay import __version__
from fedmsg_relay.client.api import Script
from fedmsg_relay.commands import progress
from fedmsg_relay.config import loader, settings
from fedmsg_relay.config.loader import Option
from fedmsg_relay.errors import (
    ConfigError,
    MessageTooLarge,
    NotConfirmed,
    RelayError,
    RelayUnavailable,
    WrongUsage,
)
from fedmsg_relay.system import stdio

NAME = "fedmsg-relay-publish"

STATUSES = """\
Exit status:
  0    the relay has taken all of it (with --confirm: all was seen on the bus)
  2    wrong usage, or an option's bad value
  6    not configured; stderr names the key, or the file and the line
  65   what could be published is, but some of the input cannot be: not JSON
       where that was asked for, or larger than relay_max_message_size
  69   not all was published: no relay, or not confirmed, or not signed; stderr
       names the first message that was not
  130  interrupted
"""

DESCRIPTION = f"""\
Publish messages through the relay: --message, or each line of standard input as it comes.

{STATUSES}"""

OPTIONS: list[Option] = [
    (
        ["--message"],
        {
            "dest": "logger_message",  # as in fedmsg-logger: "message" is a parameter of the signer
            "metavar": "TEXT",
            "help": "The message; instead of standard input.",
        },
    ),
    (
        ["--json-input"],
        {
            "action": "store_true",
            "help": "The message is JSON, or each line is; or, if the first line alone is not, all"
            " of standard input is one message.",
        },
    ),
    (["--topic"], {"default": "log", "help": "PREFIX.ENVIRONMENT.MODNAME.TOPIC. Default: log."}),
    (["--modname"], {"default": "logger", "help": "Likewise. Default: logger."}),
    (
        ["--cert-prefix"],
        {"default": "shell", "help": "Which certificate signs. Default: shell."},
    ),
    (
        ["--confirm"],
        {"action": "store_true", "help": "Succeed only if every message is seen on the bus."},
    ),
    (
        ["--wait"],
        {
            "action": "store_true",
            "help": "Wait for a relay as long as it takes, and say so after --timeout seconds;"
            " else for --timeout seconds.",
        },
    ),
    (["--version"], {"action": "version", "version": f"{NAME} {__version__}"}),
]

NOT_SENT = RelayUnavailable.status
NOT_PUBLISHABLE = MessageTooLarge.status
INTERRUPTED = 130
"""The exit status by which a shell reports a death by SIGINT."""

CHUNK = 2**16
"""Bytes of input read and published at once."""

LINE, REST = "line ", "all that follows"

_Batch = list[tuple[str, str]]


class _NotJson(ValueError):
    """A text is not JSON, though ``--json-input`` was given; the message says why not."""


class _NoInput(RelayError):
    """Standard input cannot be read."""

    status = NOT_SENT


def main() -> int:
    """Run the command line in ``sys.argv``; return the exit status."""
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see publish_start
            signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv[0] = NAME  # the name in usage messages
        stdio.fill()
        site = loader.load(OPTIONS, DESCRIPTION)
        _check_timeout(site)
        return _publish_all(site, Script(site, tell=_say if site["wait"] else None))
    except RelayError as error:
        return _say(str(error), error.status)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)


def _check_timeout(site: Mapping[str, Any]) -> None:
    """Refuse a bad ``--timeout`` as wrong usage, a bad key ``timeout`` as a bad config."""
    try:
        settings.timeout_s(site["timeout"], may_be_infinite=True)
    except ConfigError as error:
        words = (word.partition("=")[0] for word in sys.argv)
        # argparse accepts abbreviations, but not "--t", which --topic begins with as well.
        if any(len(word) > 3 and "--timeout".startswith(word) for word in words):
            raise WrongUsage(f"--{error}") from None
        raise


def _say(message: str, status: int = NOT_SENT) -> int:
    stdio.tell(f"{NAME}: {message}")
    return status


def _publish_all(site: Mapping[str, Any], script: Script) -> int:
    """Publish ``--message`` or all of standard input; return the exit status."""
    status = 0
    timeout_s = math.inf if site["wait"] else site["timeout"]
    for batch in progress.shown(_batches(site), lambda: script.taken):
        script.begin(timeout_s, site["confirm"])
        taken = script.taken
        places: list[str] = []  # of messages that have been, or may have been, sent
        try:
            for place, text in batch:
                places.append(place)
                try:
                    script.publish(site["topic"], _message(site, text), site["modname"])
                except (_NotJson, MessageTooLarge) as error:
                    problem = NOT_PUBLISHABLE, error.args[0]
                except (RelayUnavailable, ConfigError):
                    raise
                except RelayError as error:
                    problem = NOT_SENT, str(error)
                except Exception as error:  # noqa: BLE001 (signing may raise anything)
                    problem = NOT_SENT, f"{type(error).__name__}: {error}"
                else:
                    if site["confirm"]:
                        script.flush()
                        script.begin(timeout_s, site["confirm"])
                    continue
                status = max(status, _say(f"{places.pop()} not sent: {problem[1]}", problem[0]))
            script.flush()
        except NotConfirmed as error:
            rest = f"; not sent: {REST}" if places[-1].startswith(LINE) else ""
            return _say(f"{places[-1]} not confirmed: {error.reason}{rest}")
        except RelayUnavailable as error:
            place = places[script.taken - taken]
            rest = f" and {REST}" if place.startswith(LINE) else ""
            return _say(f"{place}{rest} not sent: {error.reason}")
    return status


def _message(site: Mapping[str, Any], text: str) -> Any:
    """Convert a text to a message.  Raises :class:`_NotJson`."""
    if not site["json_input"]:
        return {"log": text.strip()}
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"column {error.colno}"
        if "\n" in text:
            at = f"line {error.lineno} {at}"
        raise _NotJson(f"it is not JSON ({error.msg} at {at})") from None
    except (ValueError, RecursionError) as error:
        raise _NotJson(f"it is not JSON that can be read ({error})") from None


def _batches(site: Mapping[str, Any]) -> Iterator[_Batch]:
    """Yield the texts of messages, in batches as they arrive, each with its place in the input."""
    if site["logger_message"] is not None:
        yield [("message", site["logger_message"])]
        return
    number = 0
    for lines in _lines():
        if number == 0 and site["json_input"] and not _is_json(lines[0]):
            yield [("standard input", "\n".join(itertools.chain(lines, *_lines())))]
            return
        yield [(f"{LINE}{number + n}", line) for n, line in enumerate(lines, start=1)]
        number += len(lines)


def _lines() -> Iterator[list[str]]:
    """Yield the lines of standard input, in batches as they arrive."""
    parts: list[bytes] = []  # of an incomplete line
    while chunk := _read():
        first, *lines = chunk.split(b"\n")
        parts.append(first)
        if lines:
            lines.insert(0, b"".join(parts))
            parts = [lines.pop()]
            yield [line.decode(errors="replace") for line in lines]
    if rest := b"".join(parts):
        yield [rest.decode(errors="replace")]


def _read() -> bytes:
    try:
        while True:
            try:
                return os.read(0, CHUNK)
            except BlockingIOError:  # another process has set O_NONBLOCK on the shared stdin
                select.select([0], [], [])
    except OSError as error:
        raise _NoInput(f"cannot read standard input: {error.strerror}") from error


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
