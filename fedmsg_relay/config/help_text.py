"""The layout of ``--help``: descriptions and options are wrapped at the same column.

argparse either wraps a text as one paragraph, or leaves it as it is in the source.
"""

from __future__ import annotations

import argparse
import re
import textwrap

COMMAND = 2
"""The indent of an example's command, which is not wrapped, so that it can be copied."""

_LINE = re.compile(r"( {2}\S+ {2,}| *)(.*)")


class HelpFormatter(argparse.HelpFormatter):
    """Wraps each paragraph, and each entry of a list, at the column where options are wrapped.

    An entry is a term at two columns with text beside or below it; further lines of the text have
    the indent of its first line.
    """

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks: list[tuple[str, list[str]]] = []  # what stands before a text, and its lines
        for line in text.splitlines():
            lead, said = _LINE.fullmatch(line).groups()  # type: ignore[union-attr]
            above, texts = blocks[-1] if blocks else ("", [""])
            is_entry = bool(lead.strip())
            if said and texts[0] and not is_entry and len(lead) == len(above) != COMMAND:
                texts.append(said)
            else:
                blocks.append((lead, [said]))
        return "\n".join(
            indent + lead + lines[0]
            if len(lead) == COMMAND or not lines[0]
            else textwrap.fill(
                " ".join(lines),
                width + len(indent),
                initial_indent=indent + lead,
                subsequent_indent=indent + " " * len(lead),
                break_long_words=False,
                break_on_hyphens=False,
            )
            for lead, lines in blocks
        )
