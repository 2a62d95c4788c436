"""``fedmsg-relay-journal``: what the relay has written to its journal -> lines, or the bus again.

Imports neither fedmsg nor ZeroMQ, which take most of the time of a short command, unless the
configuration is needed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from typing import Any

from fedmsg_relay.commands import journal_options, rendering, selection
from fedmsg_relay.commands.journal_options import NAME
from fedmsg_relay.commands.output import Output
from fedmsg_relay.commands.selection import Reading, Selection
from fedmsg_relay.errors import ConfigError, MessageTooLarge, RelayError, RelayUnavailable
from fedmsg_relay.journal import reader, segments
from fedmsg_relay.monitoring import units
from fedmsg_relay.system import ctrl_c, stdio

FOLLOW_LINES = 10
"""Lines with which ``--follow`` begins by default, as journalctl and tail do."""

FOLLOW_S = 0.2
"""How often ``--follow`` looks for new records."""

LATE_S = 1.0
"""How long after its arrival a record may still be missing from the journal."""

INTERRUPTED = 130
"""The exit status by which a shell reports a death by SIGINT."""


def main() -> int:
    """Run the command line in ``sys.argv``; return the exit status."""
    try:
        ctrl_c.interrupt()
        stdio.fill()
        return _run(journal_options.parse(sys.argv[1:]))
    except RelayError as error:
        return _say(str(error), error.status)
    except BrokenPipeError:  # the reader of standard output has closed
        return 1
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        return _say(f"cannot read the journal{where}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)


def _say(message: str, status: int = 0) -> int:
    stdio.tell(f"{NAME}: {message}")
    return status


def _run(options: argparse.Namespace) -> int:
    site: dict[str, Any] = {}
    if options.republish or options.directory is None:
        site = _site(options.config_filename)
    directory = _directory(site) if options.directory is None else options.directory
    if options.verify:
        return _verify(directory)
    if options.stats:
        return _stats(directory, options.json)
    chosen = Selection(
        options.since, options.until, selection.topics(options.topic), tuple(options.msg_id)
    )
    reading = Reading(directory, chosen)
    if options.republish:
        return _republish(reading, site, options)
    return _show(reading, options)


def _site(filename: str | None) -> dict[str, Any]:
    """Load the fedmsg config, from no file that others than this user could write."""
    from fedmsg_relay.config import loader
    from fedmsg_relay.config.sources import Sources

    files = Sources(only_own=True, named=filename)
    site = loader.load_alone(filename, files.may_execute)
    for line in files.warnings():
        _say(line)
    return site


def _directory(site: dict[str, Any]) -> str:
    from fedmsg_relay.config import settings

    directory = settings.journal(site)
    if not directory:
        raise ConfigError(
            "relay_journal: not set, so the relay writes no journal; set it and reload the relay,"
            " or name a journal with --directory"
        )
    return directory


# -- messages ------------------------------------------------------------------------------------


def _show(reading: Reading, options: argparse.Namespace) -> int:
    """Print the selected messages; return the exit status."""
    render = rendering.as_json if options.json else rendering.readable
    output, losses = Output(), _Losses(reading)
    if options.reverse:
        for record in itertools.islice(reading.newest_first(), options.lines):
            output.write(render(record))
        output.flush()
        return 0
    lines = options.lines
    if lines is None and options.follow and options.since == -math.inf:
        lines = FOLLOW_LINES
    try:
        for records in reading.batches(lines, options.follow):
            for record in records:
                output.write(render(record))
            if options.follow:
                output.flush()
                losses.tell()
                if not records:
                    if time.time() > reading.selection.until + LATE_S:
                        break
                    output.wait(FOLLOW_S)
        output.flush()
    except KeyboardInterrupt:
        if not options.follow:  # which ends in no other way
            raise
    return losses.tell()


class _Losses:
    """Reports messages that cannot be read from the journal, once each."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._missing = self._corrupt = 0

    def tell(self) -> int:
        """Report new losses; return the exit status for all."""
        if missing := self._reading.missing - self._missing:
            self._missing += missing
            _say(
                f"{units.messages(missing)} missing among these: discarded by the relay,"
                " damaged, or removed"
            )
        if corrupt := self._reading.corrupt - self._corrupt:
            self._corrupt += corrupt
            _say(f"{_places(corrupt)} skipped; --verify names each")
        return 1 if self._corrupt else 0


def _republish(reading: Reading, site: dict[str, Any], options: argparse.Namespace) -> int:
    """Publish the selected messages again; return the exit status."""
    from fedmsg_relay.commands import progress
    from fedmsg_relay.commands.republish import Republishing

    until = time.time()  # what is published from now on must not be published again
    republishing = Republishing(site, options.rate or journal_options.RATE, _say)
    records = itertools.chain.from_iterable(reading.batches(options.lines))
    try:
        republishing.run(progress.shown(records, lambda: republishing.taken))
    except RelayUnavailable as error:
        first = republishing.first_untaken
        return _say(
            f"{units.messages(republishing.taken)} republished; not sent: the message of"
            f" {rendering.clock(first)} and all that follow: {error.reason}; to continue, repeat"
            f" the command with --since=@{first:.6f}"
            f" --until=@{min(until, reading.selection.until):.6f}",
            error.status,
        )
    except KeyboardInterrupt:
        return _say(f"interrupted; {units.messages(republishing.taken)} republished", INTERRUPTED)
    status = _Losses(reading).tell()
    output = Output()
    output.write(f"{units.messages(republishing.taken)} republished")
    output.flush()
    return MessageTooLarge.status if republishing.too_large else status


# -- the journal as a whole ----------------------------------------------------------------------


def _verify(directory: str) -> int:
    """Print each damaged place; return the exit status."""
    output = Output()
    damaged = whole = 0
    reading = reader.Reader(directory)
    while True:
        records = reading.read()
        whole += len(records)
        for place in reading.damaged:
            damaged += 1
            name = segments.path(directory, place.segment)
            output.write(f"{name}: {place.size} bytes at offset {place.offset} are damaged")
        output.flush()
        if not records:
            break
    missing = f", {reading.missing:,} missing" if reading.missing else ""
    if damaged:
        return _say(f"{_places(damaged)}, {units.messages(whole)} whole{missing}", 1)
    output.write(f"{units.messages(whole)}, all whole{missing}")
    output.flush()
    return 0


def _stats(directory: str, as_json: bool) -> int:
    """Print how much there is, and of when; return the exit status."""
    stats = reader.stats(directory)
    output = Output()
    if as_json:
        fields = ("segments", "messages", "bytes", "first_time", "last_time")
        output.write(json.dumps({field: getattr(stats, field) for field in fields}))
    else:
        output.write(f"segments  {units.count(stats.segments)}")
        output.write(f"messages  {units.count(stats.messages)}")
        output.write(f"size      {units.size(stats.bytes)}")
        if stats.first_time is not None and stats.last_time is not None:
            output.write(f"from      {rendering.clock(stats.first_time)}")
            output.write(f"to        {rendering.clock(stats.last_time)}")
    output.flush()
    return 0


def _places(number: int) -> str:
    return f"{number:,} damaged place{'s' * (number != 1)}"
