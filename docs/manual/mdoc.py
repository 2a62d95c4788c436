"""Text, an argparse parser, or the manual of the keys -> a manual page in mdoc(7)."""

from __future__ import annotations

import argparse
import itertools
import os
import re
import textwrap
import time
from collections.abc import Iterator

Lines = Iterator[str]


def page(name: str, section: int, summary: str, release: str, body: Lines) -> str:
    """Return a whole page; ``release`` is its footer."""
    at = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    head = [
        f".Dd {time.strftime('%B', at)} {at.tm_mday}, {at.tm_year}",
        ".ds doc-volume-operating-system Linux",  # groff before 1.23 says BSD in the header
        f".Dt {name.upper()} {section}",
        f".Os {release}",
        ".Sh NAME",
        f".Nm {name}",
        f".Nd {escaped(summary.rstrip('.'))}",
    ]
    return "\n".join([*head, *body]) + "\n"


def escaped(text: str) -> str:
    """Return ``text`` as roff has it: no control characters, and hyphens that can be copied."""
    return re.sub(r"(?<!\w)-|(?<=-)-", r"\\-", text.replace("\\", r"\e"))


def inline(text: str) -> str:
    """Return a text line, with ``literals`` in bold."""
    parts = text.split("``")
    parts[1::2] = [rf"\fB{escaped(part)}\fR" for part in parts[1::2]]
    parts[0::2] = [escaped(part) for part in parts[0::2]]
    return "".join(parts)


def paragraph(text: str) -> Lines:
    """Yield a paragraph: a line for each sentence, as roff wants it."""
    for sentence in re.split(r"(?<=[.!?:])\s+", " ".join(text.split())):
        yield from wrapped(inline(sentence))


def wrapped(text: str) -> Lines:
    """Yield a text line as lines that are not too long; none of them is a request."""
    for line in textwrap.wrap(text, 78, break_long_words=False, break_on_hyphens=False):
        yield re.sub(r"^([.'])", r"\\&\1", line)


def item(term: str) -> str:
    """Return the head of an entry of a list."""
    return '.It "' + inline(term).replace('"', r"\(dq") + '"'


def literal(lines: list[str]) -> Lines:
    yield ".Bd -literal -offset indent"
    yield from (re.sub(r"^([.'])", r"\\&\1", escaped(line)) for line in lines)
    yield ".Ed"


# -- what a command says of itself -----------------------------------------------------------------


def command(parser: argparse.ArgumentParser, text: str) -> Lines:
    """Yield the page of a command: its parser, and more sections from ``text``."""
    about, *sections = sectioned("\n".join([parser.description or "", parser.epilog or "", text]))
    yield ".Sh SYNOPSIS"
    yield ".Nm"
    yield ".Op Ar option ..."
    yield ".Sh DESCRIPTION"
    yield from paragraphs(about)
    yield ".Sh OPTIONS"
    yield from options(parser)
    yield from rest(sections)


def rest(sections: list[str]) -> Lines:
    """Yield sections that begin with their headings."""
    for section in sections:
        heading, _, body = section.partition(":\n")
        yield f".Sh {heading.upper()}"
        yield from entries(body)


def sectioned(text: str) -> list[str]:
    """Split a text at its headings, which are lines like ``Exit status:``."""
    parts = re.split(r"^(?=[A-Z][a-z ]+:$)", text, flags=re.MULTILINE)
    found = {part.partition(":")[0]: part for part in parts[1:]}
    known = ["Environment", "Files", "Exit status", "Examples", "See also"]  # mdoc(7)'s order
    order = [*known[:3], *(name for name in found if name not in known), *known[3:]]
    return [parts[0], *(found[name] for name in order if name in found)]


def paragraphs(text: str) -> Lines:
    for number, each in enumerate(filter(str.strip, re.split(r"\n\s*\n", text))):
        if number:
            yield ".Pp"
        yield from paragraph(each)


def options(parser: argparse.ArgumentParser) -> Lines:
    """Yield the options of each group that has some."""
    for group in parser._action_groups:
        shown = [each for each in group._group_actions if each.help != argparse.SUPPRESS]
        if not shown:
            continue
        title = group.title or ""
        if title != "options":  # argparse's own, for a command without groups
            yield f".Ss {title if title.startswith('fedmsg') else title.capitalize()}"
        if group.description:
            yield from paragraph(group.description)
        yield ".Bl -tag -width Ds"
        for action in shown:
            yield f".It {' , '.join(map(_flag, action.option_strings))}{_value(action)}"
            yield from paragraph((action.help or "").replace("%%", "%"))
        yield ".El"


def _flag(name: str) -> str:
    return f"Fl {escaped(name[1:])}"


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return f" Ar {action.metavar or action.dest.upper()}"


def entries(text: str) -> Lines:
    """Yield a list of entries: terms at two columns, each with text beside or below it."""
    found = re.findall(r"^  (\S.*?)(?:   *(\S.*))?\n((?:    .*\n?)*)", text + "\n", re.MULTILINE)
    if not found:
        yield from paragraphs(text)
        return
    yield ".Bl -tag -width Ds"
    for term, beside, below in found:
        yield item(term)
        yield from paragraph(f"{beside} {below}")
    yield ".El"


# -- the manual of the keys ------------------------------------------------------------------------


def keys(manual: str, text: str) -> Lines:
    """Yield the page of the keys, from the docstring of :mod:`fedmsg_relay.config` and ``text``."""
    yield ".Sh DESCRIPTION"
    is_listing, is_first = False, True
    for block in blocks(manual.partition("\n\n")[2]):
        term, _, definition = block.partition("\n    ")
        if is_listing and not definition:
            yield ".El"
            is_listing = False
        heading = re.fullmatch(r"([^(]+?)(?: \((.+)\))?:", " ".join(block.split()))
        if definition:
            if not is_listing:
                yield ".Bl -tag -width Ds"
                is_listing = True
            yield item(" ".join(term.split()))
            yield from definition_of(definition)
        elif heading:
            yield f".Sh {heading[1].upper()}"
            if heading[2]:
                yield from paragraph(f"{heading[2][0].upper()}{heading[2][1:]}.")
        else:
            if not is_first:
                yield ".Pp"
            yield from paragraph(block)
        is_first = bool(heading)
    if is_listing:
        yield ".El"
    yield from rest(sectioned(text)[1:])


def blocks(manual: str) -> Lines:
    """Yield what is one unit of the manual: a paragraph, or a term with its indented definition."""
    block: list[str] = []
    for line in manual.splitlines():
        is_indented = line.startswith("    ")
        was_indented = bool(block) and block[-1].startswith("    ")
        if line and block and not is_indented and (was_indented or not block[-1]):
            yield "\n".join(block).strip("\n")
            block = []
        block.append(line)
    yield "\n".join(block).strip("\n")


def definition_of(text: str) -> Lines:
    """Yield a definition: text, an example, and blocks that are indented deeper."""
    lines = [line[4:] if line.startswith("    ") else line for line in f"    {text}".splitlines()]
    for is_code, group in itertools.groupby(lines, key=lambda line: line.startswith("    ")):
        part = "\n".join(group).strip("\n")
        if is_code:
            yield from literal([line[4:] for line in part.splitlines()])
            continue
        about, _, example = part.partition("Example: ")
        yield from paragraph(about.replace("::", ":"))
        if example:
            yield ".Pp"
            yield from wrapped(f"Example: {inline(example.strip())}")
