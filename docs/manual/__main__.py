"""Make the manual pages and the completions of bash and zsh: ``python docs/manual DIRECTORY``.

They are made from the parsers of the commands and the manual of the keys, so that each option and
key is described once.  A new command needs a line in :data:`COMMANDS`, and a text beside this file:
a line of summary, and sections that its parser's own text does not have.  Each page refers to all
others.  ``make install`` runs this with the Python of the installation; without the package shtab
there are no completions.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import mdoc

from fedmsg_relay import __version__, config
from fedmsg_relay.commands import amqp_options, journal_options, publish_options, relay_options
from fedmsg_relay.config import loader

HERE = Path(__file__).parent
KEYS = "fedmsg-relay.conf"
MORE = {"fedmsg-relay-journal": [(1, "journalctl")]}
"""Pages of others that a page refers to."""


class Command(NamedTuple):
    """A command with a manual page."""

    name: str
    section: int
    parser: Callable[[], argparse.ArgumentParser]


COMMANDS = (
    *(
        Command(
            options.name,
            8,
            lambda options=options: loader.parser(  # type: ignore[misc]
                options.table, options.description, options.name
            ),
        )
        for options in (relay_options.OPTIONS, amqp_options.OPTIONS)
    ),
    Command(
        publish_options.NAME,
        1,
        lambda: loader.parser(
            publish_options.OPTIONS, publish_options.DESCRIPTION, publish_options.NAME
        ),
    ),
    Command(journal_options.NAME, 1, journal_options.parser),
)


SPLIT = """

# bash takes --option=VALUE for three words; shtab completes --option VALUE.
_{word}() {{
  local words=() cword=$COMP_CWORD i
  for i in "${{!COMP_WORDS[@]}}"; do
    if [[ "${{COMP_WORDS[i]}}" != "=" ]]; then
      words+=("${{COMP_WORDS[i]}}")
    elif (( i == COMP_CWORD )); then
      words+=("")
    elif (( i < COMP_CWORD )); then
      (( cword -= 1 ))
    fi
  done
  local COMP_WORDS=("${{words[@]}}") COMP_CWORD=$cword
  _shtab_{word} "$@"
}}

complete -o bashdefault -F _{word} {command}
"""
"""What follows the completion that shtab makes for bash."""


def manual(directory: Path) -> None:
    """Write the manual pages."""
    for name, section, parser in COMMANDS:
        summary, text = read(name)
        write_page(directory, name, section, summary, mdoc.command(parser(), text))
    summary, text = read(KEYS)
    write_page(directory, KEYS, 5, summary, mdoc.keys(config.__doc__ or "", text))


def read(name: str) -> tuple[str, str]:
    """Return the summary of a page, and its sections."""
    summary, _, text = (HERE / f"{name}.txt").read_text().partition("\n")
    return summary, f"{text.rstrip()}\n\nSee also:\n{', '.join(others(name))}\n"


def others(name: str) -> list[str]:
    """Return the pages that the page ``name`` refers to, by section."""
    pages = [(5, KEYS), *((each.section, each.name) for each in COMMANDS)]
    pages += MORE.get(name, [])
    return [f"{other}({section})" for section, other in sorted(pages) if other != name]


def write_page(directory: Path, name: str, section: int, summary: str, body: Iterator[str]) -> None:
    text = mdoc.page(name, section, summary, f"fedmsg-relay {__version__}", body)
    write(directory / f"man/man{section}/{name}.{section}", text)


def completions(directory: Path) -> None:
    """Write the completions."""
    import shtab

    for name, _, make_parser in COMMANDS:
        parser = make_parser()
        for action in parser._actions:
            if action.metavar in ("PATH", "FILE"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.metavar == "DIR":
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        bash = shtab.complete(parser, "bash") + SPLIT.format(
            command=name, word=re.sub(r"\W", "_", name)
        )
        write(directory / "bash-completion/completions" / name, bash)
        write(directory / "zsh/site-functions" / f"_{name}", shtab.complete(parser, "zsh"))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def main(directory: Path) -> int:
    manual(directory)
    try:
        completions(directory)
    except ImportError:
        print("docs/manual: without shtab there are no completions", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
