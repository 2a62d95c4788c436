"""The manual pages and the completions, made from the commands and the manual of the keys."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import box
import pytest
from harness import BIN

from fedmsg_relay import __version__, config
from fedmsg_relay.commands import (
    amqp_options,
    journal_options,
    publish_options,
    relay_options,
)
from fedmsg_relay.config import loader, parser, settings

PROJECT = Path(__file__).parents[2]
FEDMSGS = {
    "fedmsg-relay": (relay_options.OPTIONS.table, relay_options.OPTIONS.description),
    "fedmsg-relay-amqp": (amqp_options.OPTIONS.table, amqp_options.OPTIONS.description),
    "fedmsg-relay-publish": (publish_options.OPTIONS, publish_options.DESCRIPTION),
}
"""Commands that have all options of a fedmsg command."""
PARSERS = {name: loader.parser(*about, name) for name, about in FEDMSGS.items()}
PARSERS["fedmsg-relay-journal"] = journal_options.parser()
SITE = {
    "relay_inbound": "tcp://127.0.0.1:2003",
    "endpoints": {"relay_outbound": "tcp://127.0.0.1:4001"},
    "certnames": {"signing_relay": "relay"},
}
DEFAULTS = {
    "io_threads": "io_threads",
    "high_water_mark": "high_water_mark",
    "zmq_linger": "linger_ms",
    "relay_drain": "drain_s",
    "relay_max_message_size": "max_message_size",
    "relay_stall_timeout": "stall_timeout_s",
    "relay_unreachable_timeout": "unreachable_timeout_s",
    "relay_memory_max": "memory_max",
}
"""Keys whose default is a number, and the setting that has it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made")
    subprocess.run([sys.executable, "-B", PROJECT / "docs/manual", directory], check=True)
    return directory


def pages(made: Path) -> list[Path]:
    found = sorted(made.glob("man/man?/*"))
    assert len(found) >= 3
    return found


def test_every_command_has_a_page_and_completions(made: Path) -> None:
    text = (PROJECT / "setup.py").read_text()
    commands = set(re.findall(r'"(fedmsg-relay[a-z-]*) = ', text))
    assert {page.stem for page in pages(made)} == commands | {"fedmsg-relay.conf"}
    assert {path.name for path in made.glob("bash-completion/*/*")} == commands
    assert {path.name[1:] for path in made.glob("zsh/*/*")} == commands


def test_mandoc_finds_nothing_to_say(made: Path) -> None:
    box.require("mandoc")
    done = subprocess.run(
        # Not "all", which has the conventions of NetBSD's own pages too: an .Os without a value.
        ["mandoc", "-T", "lint", "-W", "style", *pages(made)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_man_finds_nothing_to_say(made: Path) -> None:
    box.require("man")
    footer = f"fedmsg-relay {__version__}"
    for page in pages(made):
        done = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page],
            capture_output=True,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"},
        )
        assert (done.returncode, done.stderr) == (0, b"")
        shown = subprocess.run(
            ["man", "-E", "ascii", "-l", page],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "MANWIDTH": "80", "MANPAGER": "cat"},
        ).stdout.splitlines()
        assert "BSD" not in shown[0]
        assert shown[-1].startswith(footer)
        assert shown[-1].endswith(footer)


def test_every_page_refers_to_all_others_and_says_where_the_documentation_is(made: Path) -> None:
    names = {f"{page.stem}({page.suffix[1:]})" for page in pages(made)}
    for page in pages(made):
        sections = page.read_text().split("\n.Sh ")
        (refers,) = (text for text in sections if text.startswith("SEE ALSO\n"))
        itself = f"{page.stem}({page.suffix[1:]})"
        assert set(re.findall(r"fedmsg\S+\)", refers)) == names - {itself}
        (files,) = (text for text in sections if text.startswith("FILES\n"))
        assert "/usr/local/share/doc/fedmsg-relay/*.md" in files


# -- the commands ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARSERS)
def test_every_option_has_a_help(name: str) -> None:
    assert all(action.help for action in PARSERS[name]._actions)


@pytest.mark.parametrize("name", FEDMSGS)
def test_every_option_has_a_group(name: str) -> None:
    known = {option for members in parser.GROUPS.values() for option in members}
    for action in PARSERS[name]._actions:
        assert known | set(parser.INHERITED) >= {action.option_strings[-1]}, action


@pytest.mark.parametrize("name", PARSERS)
def test_three_examples_that_are_right(name: str) -> None:
    made = PARSERS[name]
    examples = re.findall(rf"^  (?:.*\| )?{name} (.+)$", made.epilog or "", re.MULTILINE)
    assert len(examples) == 3
    for example in examples:
        made.parse_args(shlex.split(example))


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("columns", [None, 60, 120])
def test_all_of_the_help_is_as_wide_as_the_terminal(name: str, columns: int | None) -> None:
    environ = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    if columns:
        environ["COLUMNS"] = str(columns)
    shown = subprocess.run(
        [BIN / name, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=environ,
        stdin=subprocess.DEVNULL,
    ).stdout
    commands = re.findall(rf"^  (?:.*\| )?{name} .+$", PARSERS[name].epilog or "", re.MULTILINE)
    assert [command for command in commands if f"{command}\n" in shown] == commands, "as they were"
    lines = set(shown.splitlines()) - set(commands)
    width = (columns or 80) - 2  # argparse's margin
    assert max(map(len, lines)) <= width
    for paragraph in shown.partition(":\n")[0].split("\n\n")[1:-1]:
        for line, following in zip(paragraph.splitlines(), paragraph.splitlines()[1:]):
            assert len(f"{line} {following.split()[0]}") > width, "a word more has no place"
    said = PARSERS[name].description or ""
    assert shown.split("\n\n")[1].split() == said.split("\n\n")[0].split(), "no word is lost"
    entries = shown.partition("\nExit status:\n")[2]
    assert entries.split() == (PARSERS[name].epilog or "").partition("Exit status:")[2].split()


# -- the keys --------------------------------------------------------------------------------------


def entries() -> Iterator[tuple[list[str], str]]:
    """The names of the keys and the text of each entry of the manual of the keys."""
    manual = config.__doc__ or ""
    for entry in re.findall(r"^(``.+(?:\n``.+)*(?:\n    .*|\n(?=\n    ))+)", manual, re.MULTILINE):
        term = re.sub(r"\([^)]*\)", "", entry.partition("\n    ")[0])
        yield re.findall(r"``([a-z][a-z_.]+)(?:``|\[)", term), entry


def test_the_manual_has_every_key() -> None:
    documented = {name for names, _ in entries() for name in names}
    known = {*settings.OUR_KEYS, settings.MONITORING, f"{settings.MONITORING}.mode"}
    assert known <= documented
    assert {name for name in documented if name.startswith("relay_")} <= known
    source = "".join(path.read_text() for path in (PROJECT / "fedmsg_relay/config").glob("*.py"))
    for name in documented:
        assert f'"{name}' in source or name in known, f"{name}: no code reads it"


def test_every_entry_has_an_example_that_the_relay_accepts() -> None:
    for names, entry in entries():
        (example,) = re.findall(r"^    Example: ``(.+)``$", entry, re.MULTILINE) or [None]
        assert example, f"{names}: add a line that begins with 'Example:' to the manual of the keys"
        value = eval(compile(ast.parse(f"{{{example}}}", mode="eval"), "example", "eval"))
        assert set(value) <= set(names), example
        settings.read({**SITE, **value})


@pytest.mark.parametrize("key", DEFAULTS)
def test_the_default_is_what_the_manual_says(key: str) -> None:
    ((_, entry),) = ((names, entry) for names, entry in entries() if key in names)
    number, unit = re.findall(r"default (\d+)( MiB)?", entry)[0]
    said = int(number) * (2**20 if unit else 1)
    assert getattr(settings.read(SITE), DEFAULTS[key]) == said


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["--chec"], ["--check"]),
        (["--pidfile", "/et"], ["/etc"]),
        (["--pidfile", "=", "/et"], ["/etc"]),
        (["--pidfile", "="], ["directory/", "file"]),
        (["--pidfile", "=", "/etc", "--chec"], ["--check"]),
    ],
    ids=" ".join,
)
def test_completion_in_bash(
    made: Path, tmp_path: Path, words: list[str], completed: list[str]
) -> None:
    """``--option=VALUE`` has three words in bash."""
    box.require("bash")
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    script = """
        . "$1"
        COMP_WORDS=("${@:2}") COMP_CWORD=$(($# - 2))
        function=$(complete -p fedmsg-relay | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        $function 2>/dev/null
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    made_for = made / "bash-completion/completions/fedmsg-relay"
    done = subprocess.run(
        ["bash", "-c", script, "bash", made_for, "fedmsg-relay", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    found = {each.rstrip("/") for each in done.stdout.split()}
    assert found == {each.rstrip("/") for each in completed}


# -- installed -------------------------------------------------------------------------------------


def test_the_installed_manual_and_completions(installed: Path) -> None:
    box.require("man", "bash", "zsh")
    if not Path("/usr/share/bash-completion/bash_completion").exists():
        box.skip("bash-completion is not installed")
    with box.Box(installed) as machine:
        for page in ("fedmsg-relay", "fedmsg-relay-publish", "fedmsg-relay.conf"):
            assert machine.check(f"man -w {page}").startswith("/usr/local/")
        machine.check("cd /usr/local/share/doc/fedmsg-relay; test -s catching-up.md -a -s relay.py")
        in_bash = """
            . /usr/share/bash-completion/bash_completion
            _completion_loader fedmsg-relay
            COMP_WORDS=(fedmsg-relay --ch) COMP_CWORD=1 COMP_LINE='fedmsg-relay --ch' COMP_POINT=17
            function=$(complete -p fedmsg-relay | sed 's/.*-F \\([^ ]*\\).*/\\1/')
            $function fedmsg-relay --ch fedmsg-relay
            echo "${COMPREPLY[@]}"
        """
        assert machine.check(f"bash -c {shlex.quote(in_bash)}").split()[-1] == "--check"
        in_zsh = 'autoload -U compinit; compinit -u -D; echo "$_comps[fedmsg-relay]"'
        assert machine.check(f"zsh -fc {shlex.quote(in_zsh)}").split()[-1] == "_fedmsg-relay"
        machine.check(f"make -C {PROJECT} uninstall")
        assert machine.check("find /usr/local/share -name '*fedmsg-relay*'") == ""
