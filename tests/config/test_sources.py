"""Which files of the config count for who only asks, by their owner and their mode."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedmsg_relay.config.sources import Sources

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="to give files away needs root")

OWN = os.geteuid()
OTHER = 65534


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config file of the working directory, which is nobody else's."""
    home, working = tmp_path / "home", tmp_path / "working"
    made = working / "fedmsg.d" / "site.py"
    for directory in (home, working, made.parent):
        directory.mkdir(mode=0o755)
    made.touch(mode=0o644)
    monkeypatch.chdir(working)
    monkeypatch.setenv("HOME", str(home))
    return made


def test_ones_own_counts(file: Path) -> None:
    sources = Sources(only_own=True)
    assert sources.may_execute("fedmsg.d/site.py")
    assert sources.may_execute(str(file))
    assert (sources.read, sources.passed_over) == (["fedmsg.d/site.py", str(file)], [])


@needs_root
@pytest.mark.parametrize(
    ("owner", "group", "mode"),
    [(OTHER, OTHER, 0o755), (OWN, OTHER, 0o777), (OWN, OTHER, 0o775), (OWN, os.getegid(), 0o777)],
    ids=["another user's", "everybody's", "another group's", "everybody's too"],
)
@pytest.mark.parametrize("which", [".", "fedmsg.d", "fedmsg.d/site.py"])
def test_what_others_may_write_to_does_not(
    file: Path, which: str, owner: int, group: int, mode: int
) -> None:
    os.chown(which, owner, group)
    os.chmod(which, mode)
    sources = Sources(only_own=True)
    assert not sources.may_execute("fedmsg.d/site.py")
    assert (sources.read, sources.passed_over) == ([], ["fedmsg.d/site.py"])
    assert file.exists()


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("which", [".", "fedmsg.d", "fedmsg.d/site.py"])
def test_a_group_of_ones_own_may_write(which: str) -> None:
    os.chmod(which, 0o775)
    assert Sources(only_own=True).may_execute("fedmsg.d/site.py")


def test_a_directory_in_ones_own_may_be_foreign_too(file: Path) -> None:
    file.parent.chmod(0o777)
    sources = Sources(only_own=True)
    Path("fedmsg-config.py").touch(mode=0o644)
    assert sources.may_execute("fedmsg-config.py")
    assert not sources.may_execute("fedmsg.d")
    assert sources.passed_over == [], "a directory is no file that could be named"


def test_a_named_file_counts(file: Path) -> None:
    file.parent.chmod(0o777)
    sources = Sources(only_own=True, named="fedmsg.d/site.py")
    assert sources.may_execute("fedmsg.d/site.py")
    assert not sources.may_execute(str(file)), "by that name alone"


def test_beside_a_named_file_no_other_counts(file: Path) -> None:
    assert Sources(only_own=False).may_execute(str(file))
    assert not Sources(only_own=False, named="site.py").may_execute(str(file))


def test_everything_counts_for_a_start(file: Path) -> None:
    file.parent.chmod(0o777)
    assert Sources(only_own=False).may_execute(str(file))


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("path", ["/etc/fedmsg.d/site.py", "/etc/fedmsg-config.py"])
def test_the_systems_count(path: str) -> None:
    assert Sources(only_own=True).may_execute(path)


@needs_root
@pytest.mark.parametrize(("owner", "counts"), [(0, True), (OTHER, False)])
def test_those_of_a_home_count_if_it_is_this_users_or_roots(
    file: Path, owner: int, counts: bool
) -> None:
    home = file.parents[2] / "home"
    os.chown(home, owner, owner)
    assert Sources(only_own=True).may_execute(str(home / ".fedmsg.d" / "site.py")) == counts
