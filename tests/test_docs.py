"""The README and the pages in docs/: their links, and the commands that they name, are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

PROJECT = Path(__file__).parents[1]
README = PROJECT / "README.md"
PAGES = sorted([README, PROJECT / "CHANGELOG.md", *(PROJECT / "docs").glob("*.md")])
README_LINES_MAX = 210

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`\n]+`")


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures."""
    return LINK.findall(CODE.sub("", FENCE.sub("", page.read_text())))


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings have, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def named(pattern: str) -> Iterator[tuple[Path, str]]:
    """What the pages have where ``pattern`` has its group, with the page."""
    for page in PAGES:
        for found in re.findall(pattern, page.read_text()):
            yield page, found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match("[a-z]+:", link):  # nothing here asks the network
            assert link.startswith("https://"), link
            continue
        path, _, fragment = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(PROJECT), link
        assert target.exists(), f"{page.name}: {link}"
        if fragment:
            assert fragment in anchors(target), f"{page.name}: {link}"


def test_every_page_is_found_from_the_readme() -> None:
    linked = {(README.parent / link).resolve() for link in links(README)}
    assert set(PAGES) - {README} <= linked


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= README_LINES_MAX


def test_every_target_of_make_is_there() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    for page, target in named(r"`make ([a-z]+)|^make ([a-z]+)"):
        name = "".join(target)
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), f"{page.name}: make {name}"


def test_every_figure_and_measure_is_there() -> None:
    figures = (PROJECT / "tests/figures/__main__.py").read_text()
    measures = "".join(
        (PROJECT / "tests/bench" / name).read_text() for name in ("measures.py", "lifecycle.py")
    )
    for page, words in named(r'make figures ARGS="?([a-z_ ]+)'):
        for name in words.split():
            assert f".{name},\n" in figures, f"{page.name}: make figures ARGS={name}"
    for page, words in named(r'make bench ARGS="?(?:--peers \S+ )?([a-z ]+)'):
        for name in words.split():
            assert f"def {name}(" in measures, f"{page.name}: make bench ARGS={name}"


def test_every_test_that_is_named_is_there() -> None:
    modules = [*PROJECT.glob("tests/**/test_*.py")]
    tests = "".join(
        f"{path.stem} {path.read_text()}" for path in modules if path.stem != "test_docs"
    )
    for page, name in named(r'make test ARGS="-k ([a-z_]+)"'):
        assert name in tests, f"{page.name}: {name}"
