"""``--status --watch``: the report each second, with rates, until Ctrl-C."""

from __future__ import annotations

import itertools
import json
import operator
import os
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

from fedmsg_relay.commands import status
from fedmsg_relay.errors import ConfigError, RelayError
from fedmsg_relay.relay.proxy import Traffic
from fedmsg_relay.web import history
from fedmsg_relay.web.history import Point, Rate

EVERY_S = 1.0

ROWS = 24
"""Of a terminal that does not say."""

HOME, CLEAR_LINE, CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"
"""Control sequences of every terminal of today (ECMA-48)."""

Report = dict[str, Any]


class Watch:
    """Shows what ``ask`` returns, on standard output; in a terminal, over the previous report.

    ``ask`` returns a report; its RelayError is shown, and the next second may bring an answer.
    With ``as_json`` each report is a line of JSON, and the error goes to standard error.
    """

    def __init__(self, ask: Callable[[], Report], as_json: bool) -> None:
        self._ask = ask
        self._as_json = as_json
        self._in_place = os.isatty(sys.stdout.fileno()) and not as_json
        self._before: Point | None = None  # of the last report
        self._silent_since = ""

    def run(self) -> None:
        """Show a report each second, forever.  Raises KeyboardInterrupt and :class:`ConfigError`.

        Raises BrokenPipeError when nobody reads any more.
        """
        while True:
            next_at = time.monotonic() + EVERY_S
            try:
                self._show(self._ask())
            except ConfigError:
                raise
            except RelayError as error:
                self._show_silence(error)
            time.sleep(max(0.0, next_at - time.monotonic()))

    def _show(self, report: Report) -> None:
        self._silent_since = ""
        point = Point(time.monotonic(), Traffic(*(report[name] for name in Traffic._fields)))
        before, self._before = self._before, point
        if self._as_json:
            print(json.dumps(report), flush=True)
            return
        columns, _ = self._size()
        table = status.table(report, _rate(before, point), columns)
        self._print([time.strftime("%H:%M:%S"), *table])

    def _size(self) -> tuple[int, int]:
        """Return the columns and rows there are; a terminal may be resized at any time."""
        size = os.get_terminal_size(sys.stdout.fileno()) if self._in_place else (0, 0)
        return size[0] or status.WIDTH, size[1] or ROWS

    def _show_silence(self, error: RelayError) -> None:
        self._silent_since = self._silent_since or time.strftime("%H:%M:%S")
        self._before = None  # or the next rates would be of a longer time
        line = f"no answer since {self._silent_since}: {error}"
        if self._as_json:
            print(line, file=sys.stderr)
        else:
            self._print([line])

    def _print(self, lines: list[str]) -> None:
        if not self._in_place:
            print(*lines, "", sep="\n", flush=True)
            return
        columns, rows = self._size()
        wrapped = (part for line in lines for part in textwrap.wrap(line, columns) or [""])
        shown = list(itertools.islice(wrapped, max(1, rows - 1)))
        body = "".join(f"{line}{CLEAR_LINE}\n" for line in shown)
        print(f"{HOME}{body}{CLEAR_REST}", end="", flush=True)


def _rate(before: Point | None, point: Point) -> Rate | None:
    """Return the rate since the last report; None if there is none, or the relay counts anew."""
    if before is None or any(map(operator.gt, before.traffic, point.traffic)):
        return None
    return history.rate(before, point)
