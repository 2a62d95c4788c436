"""The parser of a command that has fedmsg's options: what ``--help`` shows, and in which order.

fedmsg's loader gives each command the same eight options.  :data:`INHERITED` has their meaning
here, and which have no effect; a command declares an option again to give its own text.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from fedmsg_relay.config.help_text import HelpFormatter
from fedmsg_relay.errors import ConfigError

Option = tuple[list[str], dict[str, Any]]
"""The positional and keyword arguments of :meth:`argparse.ArgumentParser.add_argument`."""

GROUPS = {
    "what to do": ("--test", "--check", "--status"),
    "message": ("--message", "--json-input", "--topic", "--modname", "--cert-prefix"),
    "delivery": ("--confirm", "--wait"),
    "where": ("--config-filename", "--pidfile", "--logfile"),
    "service": ("--daemon", "--replace"),
    "monitoring": ("--roundtrip", "--json", "--watch"),
    "fedmsg's own": ("--print-config", "--io-threads", "--high-water-mark", "--linger"),
    "help": ("--version", "--help"),
}
"""The groups of ``--help``, in order.  Options in none of them are listed first."""

SHARED = {"--timeout": ("monitoring", "delivery"), "--topic-prefix": ("monitoring", "message")}
"""Options that belong to the first of these groups of which the command declares an option."""

INHERITED = {
    "--config-filename": ("FILE", "Read this one file of the fedmsg config, and no other."),
    "--print-config": (None, "Print the configuration as JSON, and exit."),
    "--timeout": ("SECONDS", None),
    "--topic-prefix": ("PREFIX", None),
    "--io-threads": ("N", None),
    "--high-water-mark": ("N", None),
    "--linger": ("MS", None),
    "--post-init-sleep": ("SECONDS", None),
}
"""fedmsg's options: the placeholder and the help.  One without help has no meaning here."""

_AFTER = re.compile(r"^(?=(?:Examples|Exit status):$)", re.MULTILINE)


class Parser(argparse.ArgumentParser):
    """fedmsg's loader uses this class in place of argparse's.

    ``declared`` are the options that the command has in addition to fedmsg's.  ``description`` is
    its text; ``Examples:`` and ``Exit status:``, if they are in it, come behind the options.
    """

    def __init__(self, *, declared: Sequence[Option] = (), description: str = "", **named: Any):
        self._declared = {name: kwargs for names, kwargs in declared for name in names}
        self._inherited: dict[str, argparse.Action] = {}
        about, *after = _AFTER.split(description)
        super().__init__(
            usage="%(prog)s [OPTION ...]",
            description=about.strip(),
            epilog="\n".join(after).strip(),
            add_help=False,
            **{**named, "formatter_class": HelpFormatter},
        )
        self._titled = {title: self.add_argument_group(title) for title in GROUPS}
        unused = [name for name in INHERITED if self._help(name) is argparse.SUPPRESS]
        if unused:
            text = f"Accepted as by every fedmsg command, without effect: {', '.join(unused)}."
            self._titled["fedmsg's own"].description = text
        self.add_argument("-h", "--help", action="help", help="Show this help, and exit.")

    def _help(self, name: str) -> str:
        """Return the help of an inherited option."""
        adopted = self._declared.get(name, {}).get("help")
        return adopted or INHERITED[name][1] or argparse.SUPPRESS

    def add_argument(self, *names: str, **kwargs: Any) -> argparse.Action:
        """Add an option to its group; an inherited one that is declared again is added once."""
        name = names[-1]
        if name in self._inherited:
            return self._inherited[name]
        if name in INHERITED:
            kwargs["help"] = self._help(name)
            if kwargs.get("action") != "store_true":
                kwargs["metavar"] = INHERITED[name][0]
        group = self._titled.get(self._title(name))
        action = (
            group.add_argument(*names, **kwargs)
            if group
            else super().add_argument(*names, **kwargs)
        )
        if name in INHERITED:
            self._inherited[name] = action
        return action

    def _title(self, name: str) -> str:
        for title in SHARED.get(name, ()):
            if self._declared.keys() & GROUPS[title]:
                return title
        return next((title for title, members in GROUPS.items() if name in members), "")

    def parse_args(self, *args: Any, **named: Any) -> Any:
        """Parse the command line; report a wrong value of the config as one of the config.

        argparse checks the defaults, which come from the config, as if they were on the command
        line.
        """
        for action in self._actions:
            if isinstance(action.default, str) and action.type in (int, float):
                try:
                    action.type(action.default)
                except ValueError:
                    raise ConfigError(
                        "cannot load the configuration:"
                        f" {action.dest} = {action.default!r}: must be a number"
                    ) from None
        return super().parse_args(*args, **named)
