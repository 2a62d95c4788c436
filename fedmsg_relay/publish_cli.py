"""``fedmsg-relay-publish``: lines of a shell -> messages on the bus, or a status that says no.

Its options are those of ``fedmsg-logger``, and more; the messages are the same.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fedmsg_relay import loading, streams
from fedmsg_relay.errors import NotConfirmed, RelayError, RelayUnavailable
from fedmsg_relay.loading import Option
from fedmsg_relay.publisher import Script

NAME = "fedmsg-relay-publish"

DESCRIPTION = """\
Publish messages through the relay: --message, or each line of standard input as it comes.

Exit status: 0 only if the relay has taken all of them (with --confirm: if all were seen on the
bus); 69 otherwise, with the line of the first that was not on stderr; 2 wrong usage; 6 not
configured.
"""

OPTIONS: list[Option] = [
    (
        ["--message"],
        {
            "dest": "logger_message",  # as stock has it: the signer takes "message" for its own
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
            "help": "Wait for a relay as long as it takes; else for --timeout seconds.",
        },
    ),
]

NOT_SENT = RelayUnavailable.status
INTERRUPTED = 130
"""The exit status of what SIGINT has ended, to a shell."""

CHUNK = 2**16
"""Bytes of input that are read, and published, at once."""

PROGRESS_AFTER_S = 1.0
PROGRESS_EVERY_S = 0.2

_Batch = list[tuple[str, str]]


def main() -> int:
    """Do what ``sys.argv`` says; returns the exit status."""
    sys.argv[0] = NAME  # what usage messages call us
    streams.fill()
    try:
        site = loading.load(OPTIONS, DESCRIPTION)
        script = Script(site)
        script.expect(math.inf if site["wait"] else site["timeout"], site["confirm"])
        return _publish_all(site, script)
    except OSError as error:
        return _say(f"cannot read standard input: {error.strerror}")
    except RelayError as error:
        return _say(str(error), error.status)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)


def _say(message: str, status: int = NOT_SENT) -> int:
    with contextlib.suppress(OSError):  # the status says so all the same
        print(f"{NAME}: {message}", file=sys.stderr, flush=True)
    return status


def _publish_all(site: Mapping[str, Any], script: Script) -> int:
    """Publish all that there is; returns the exit status."""
    status = 0
    for batch in _with_progress(_batches(site), script):
        taken = script.taken
        places = []  # of what has been sent
        try:
            for place, text in batch:
                try:
                    msg = json.loads(text) if site["json_input"] else {"log": text.strip()}
                    script.publish(site["topic"], msg, site["modname"])
                except (RelayUnavailable, OSError):
                    places.append(place)
                    raise
                except Exception as error:  # noqa: BLE001 (fedmsg signs it, by whatever means)
                    status = _say(f"not sent: {place}: {error!r}")
                    continue
                places.append(place)
                if site["confirm"]:
                    script.flush()
            script.flush()
        except NotConfirmed as error:
            return _say(f"{error}; it is {places[-1]}; not sent: all that follows")
        except RelayUnavailable as error:
            return _say(f"{error}; not sent: {places[script.taken - taken]} and all that follows")
    return status


def _batches(site: Mapping[str, Any]) -> Iterator[_Batch]:
    """The texts of messages, as many as there are at once, each with the place where it was."""
    if site["logger_message"] is not None:
        yield [("the message", site["logger_message"])]
        return
    number = 0
    for lines in _lines():
        if number == 0 and site["json_input"] and not _is_json(lines[0]):
            yield [("standard input", "\n".join(itertools.chain(lines, *_lines())))]
            return
        yield [(f"line {number + n}", line) for n, line in enumerate(lines, start=1)]
        number += len(lines)


def _lines() -> Iterator[list[str]]:
    """The lines of standard input, as many as there are at once."""
    rest = b""
    while chunk := os.read(0, CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield [line.decode(errors="replace") for line in lines]
    if rest:
        yield [rest.decode(errors="replace")]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _with_progress(batches: Iterable[_Batch], script: Script) -> Iterator[_Batch]:
    """The batches; between them, on a terminal, how far it is, if it takes its time."""
    next_at = time.monotonic() + PROGRESS_AFTER_S if sys.stderr.isatty() else math.inf
    end = ""
    for batch in batches:
        yield batch
        if time.monotonic() > next_at:
            next_at = time.monotonic() + PROGRESS_EVERY_S
            end = "\n"
            print(f"\r{script.taken:,} messages", end="", file=sys.stderr, flush=True)
    print(end, end="", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
