"""What an installation brings."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_in_a_fresh_environment_the_command_is_ours(tmp_path: Path) -> None:
    """fedmsg's wheel brings a fedmsg-relay of its own, and pip installs it first."""
    source, fresh = tmp_path / "source", tmp_path / "venv"
    shutil.copytree(PROJECT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info"))
    venv.create(fresh, with_pip=True)
    subprocess.run([fresh / "bin" / "pip", "install", "--quiet", source], check=True)
    command = subprocess.run(
        [fresh / "bin" / "fedmsg-relay", "--version"], capture_output=True, check=True, text=True
    )
    ours = subprocess.run(
        [sys.executable, "-m", "fedmsg_relay", "--version"],
        capture_output=True,
        check=True,
        text=True,
    )
    # fedmsg's own packages had psutil, and a script is to find the stock commands.
    subprocess.run([fresh / "bin" / "python", "-c", "import psutil"], check=True)
    subprocess.run([fresh / "bin" / "fedmsg-logger", "--help"], check=True, capture_output=True)
    assert command.stdout == ours.stdout
    assert command.stdout.startswith("fedmsg-relay ")
