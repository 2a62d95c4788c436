"""The options of ``fedmsg-relay-journal``, which are journalctl's where it has them."""

from __future__ import annotations

import argparse
import math
import re
import time

from fedmsg_relay.commands import timestamps
from fedmsg_relay.commands.version import version
from fedmsg_relay.config.help_text import HelpFormatter
from fedmsg_relay.errors import WrongUsage

NAME = "fedmsg-relay-journal"

DESCRIPTION = """\
Show the messages that the relay has written to its journal: all of them, or those that the options
select. Works whether a relay runs or not.
"""

EPILOG = """\
Examples:
  fedmsg-relay-journal --since today --topic org.fedoraproject.prod.git
      Show the messages of today whose topic begins with this text.
  fedmsg-relay-journal --follow --json
      Show each message as it comes, as a JSON object per line.
  fedmsg-relay-journal --since 12:00 --until 12:30 --republish
      Publish the messages of half an hour again.

Exit status:
  0    done, even if no message was selected
  1    cannot read the journal, or damaged places were skipped
  2    wrong usage, or an option's bad value
  6    not configured; stderr names the key, or the file and the line
  65   with --republish: the rest is republished, but a message exceeds
       relay_max_message_size
  69   with --republish: not all is republished; stderr names the first message
       that is not
  130  interrupted
"""

RATE = 100.0
"""Messages a second by default: what consumers take easily beside the bus of today."""

RATE_MIN = 0.001
"""Almost a message each quarter of an hour."""

SELECTING = ("since", "until", "topic", "msg_id", "lines", "follow", "reverse")
"""The options that only make sense with messages."""

APART = {
    "verify": ("json", *SELECTING),
    "stats": SELECTING,
    "republish": ("json", "follow", "reverse"),
    "reverse": ("follow",),
}
"""What does not go together with an option."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog=NAME,
        usage="%(prog)s [option ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=HelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    actions = made.add_argument_group("what to do, instead of showing messages")
    add = actions.add_mutually_exclusive_group().add_argument
    add("--verify", action="store_true", help="Read all, and name each damaged place.")
    add("--stats", action="store_true", help="Show the journal's size and time range.")
    add(
        "--republish",
        action="store_true",
        help="Publish the selected messages again, with the same bytes, through the relay.",
    )
    actions.add_argument(
        "--rate",
        type=_rate,
        metavar="N",
        help=f"With --republish: messages a second at most. Default: {RATE:g}.",
    )
    actions.add_argument("-h", "--help", action="help", help="Show this help, and exit.")
    names, kwargs = version(NAME)
    actions.add_argument(*names, **kwargs)
    add = made.add_argument_group("which messages").add_argument
    add(
        "-S",
        "--since",
        metavar="TIME",
        help="Messages that arrived at this time or later: '2026-11-30', '2026-11-30 12:00:00',"
        " '12:00', '@1796040000', '-1h', 'today', 'yesterday'.",
    )
    add("-U", "--until", metavar="TIME", help="Messages that arrived at this time or before.")
    add(
        "--topic",
        action="append",
        default=[],
        help="Messages whose topic begins with TOPIC or, with * ? or [, matches TOPIC as a whole."
        " May be given several times.",
    )
    add(
        "--msg-id",
        action="append",
        default=[],
        metavar="ID",
        help="The message of this id. May be given several times.",
    )
    add("-n", "--lines", type=_whole, metavar="N", help="The last N messages of those selected.")
    add = made.add_argument_group("how to show them").add_argument
    add(
        "-f",
        "--follow",
        action="store_true",
        help="Show new messages as they come, after the last ten or those of --lines and --since.",
    )
    add("-r", "--reverse", action="store_true", help="Newest first.")
    add(
        "--json",
        action="store_true",
        help="Print a JSON object per line: time, topic, and body, or frames in base64. Also for"
        " --stats.",
    )
    add = made.add_argument_group("where").add_argument
    add(
        "-D",
        "--directory",
        metavar="DIR",
        help="The journal's directory. Default: relay_journal of the fedmsg config.",
    )
    add(
        "--config-filename",
        metavar="FILE",
        help="Read this one file of the fedmsg config, and no other.",
    )
    return made


def parse(words: list[str]) -> argparse.Namespace:
    """Return the options, with times as seconds since the epoch; infinite where there is none.

    Raises :class:`WrongUsage`, and SystemExit as argparse does.
    """
    options = parser().parse_args(_joined(words))
    for option, others in APART.items():
        for other in others:
            if getattr(options, option) and getattr(options, other) not in (None, False, []):
                raise WrongUsage(f"--{option} cannot be combined with --{other.replace('_', '-')}")
    if options.rate is not None and not options.republish:
        raise WrongUsage("--rate requires --republish")
    now = time.time()
    options.since = _time("since", options.since, now, -math.inf)
    options.until = _time("until", options.until, now, math.inf)
    return options


def _time(name: str, text: str | None, now: float, default: float) -> float:
    try:
        return default if text is None else timestamps.parse(text, now)
    except ValueError as error:
        raise WrongUsage(f"--{name}={text!r}: {error}") from None


def _joined(words: list[str]) -> list[str]:
    """Join a time such as ``-1h`` to its option, or argparse would take it for another option."""
    joined: list[str] = []
    for word in words:
        if joined and re.match(r"-\d", word) and joined[-1] in ("--since", "--until", "-S", "-U"):
            joined[-1] += word if len(joined[-1]) == 2 else f"={word}"
        else:
            joined.append(word)
    return joined


def _whole(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return number


def _rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not RATE_MIN <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {RATE_MIN} on")
    return number
