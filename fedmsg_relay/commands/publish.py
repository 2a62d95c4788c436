"""``fedmsg-relay-publish``: lines of a shell -> messages on the bus, or an exit status above 0.

The messages are those of ``fedmsg-logger``.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import select
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from fedmsg_relay.client.api import Script
from fedmsg_relay.commands import progress
from fedmsg_relay.commands.publish_options import DESCRIPTION, NAME, OPTIONS
from fedmsg_relay.config import loader, settings
from fedmsg_relay.errors import (
    ConfigError,
    MessageTooLarge,
    NotConfirmed,
    RelayError,
    RelayUnavailable,
    WrongUsage,
)
from fedmsg_relay.system import ctrl_c, stdio

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
        ctrl_c.interrupt()
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
        raise _NotJson(f"not JSON ({error.msg} at {at})") from None
    except (ValueError, RecursionError) as error:
        raise _NotJson(f"not readable as JSON ({error})") from None


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
