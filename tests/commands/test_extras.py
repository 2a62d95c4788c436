"""The commands in an environment without the packages of an extra, as after ``make run``."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from harness import BIN

HIDE_PIKA = """
import sys

class Hider:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pika":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hider())
"""


def bridge(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command where pika cannot be found."""
    (directory / "sitecustomize.py").write_text(HIDE_PIKA)
    return subprocess.run(
        [BIN / "fedmsg-relay-amqp", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(directory)},
    )


@pytest.mark.parametrize("option", ["--help", "-h", "--version"])
def test_the_bridge_answers_without_pika(tmp_path: Path, option: str) -> None:
    done = bridge(tmp_path, option)
    assert (done.returncode, done.stderr) == (0, "")
    with_pika = subprocess.run(
        [BIN / "fedmsg-relay-amqp", option], capture_output=True, text=True, check=True
    )
    assert done.stdout == with_pika.stdout


@pytest.mark.parametrize("words", [[], ["--test"], ["--daemon"], ["--nonsense"]], ids=str)
def test_anything_else_names_the_command_that_installs_pika(
    tmp_path: Path, words: list[str]
) -> None:
    done = bridge(tmp_path, *words)
    assert done.returncode == 1
    assert done.stderr == (
        "fedmsg-relay-amqp: cannot load the program: No module named 'pika';"
        " install it with pip install 'fedmsg-relay[amqp]'\n"
    )
