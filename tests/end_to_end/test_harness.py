"""What tests rely on: they start as usual, see what goes wrong behind their back, leave nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Site

TESTS = Path(__file__).parents[1]
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider")

DIES = """
def test_it(site):
    relay = site.relay()
    os.kill(relay.pid, signal.{signal})
    wait_for(lambda: Path(f"/proc/{{relay.pid}}/stat").read_text().split()[2] == "Z", "its end")
"""
SAYS = """
def test_it(site):
    process = site.start("sh", "-c", "echo 'Traceback (most recent call last):'", "fedmsg-relay")
    assert process.wait() == 0
"""
LEAVES = """
def test_it(site):
    files = ["--pidfile", f"{{site.root}}/pid", "--logfile", f"{{site.root}}/log"]
    assert site.run("fedmsg-relay", "--daemon", *files).returncode == 0
    Path({pids!r}).write_text(Path(f"{{site.root}}/pid").read_text())
    assert {holds}
"""


def run(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run a test in a pytest of its own."""
    file = tmp_path / "test_it.py"
    file.write_text(
        f"import os, signal\nfrom pathlib import Path\nfrom harness import wait_for\n{text}"
    )
    return run_pytest(tmp_path, *PYTEST, str(file))


def run_pytest(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, f"--rootdir={tmp_path}", f"--basetemp={tmp_path}/temp"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS}/support"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["SIGABRT", "SIGSEGV"])
def test_a_relay_that_dies_after_the_last_assertion_fails_its_test(
    tmp_path: Path, name: str
) -> None:
    done = run(tmp_path, DIES.format(signal=name))
    assert done.returncode == 1, done.stdout
    assert f"ended with -{getattr(signal, name).value}" in done.stdout


def test_a_traceback_fails_its_test(tmp_path: Path) -> None:
    done = run(tmp_path, SAYS)
    assert done.returncode == 1, done.stdout
    assert "1 passed, 1 error" in done.stdout


@pytest.mark.parametrize("holds", [True, False])
def test_a_daemon_that_is_left_behind_is_ended(tmp_path: Path, holds: bool) -> None:
    pids = tmp_path / "pids"
    done = run(tmp_path, LEAVES.format(pids=str(pids), holds=holds))
    assert done.returncode == 1, done.stdout
    assert "has left processes behind" in done.stdout
    assert not Path(f"/proc/{int(pids.read_text())}").exists()


def test_inherited_signals_do_not_matter(tmp_path: Path) -> None:
    """As under nohup, cron, many CI, and in the background of a script."""
    block = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    done = run_pytest(
        tmp_path,
        *("sh", "-c", "trap '' INT HUP TERM QUIT USR1; exec \"$@\"", "sh"),
        *(sys.executable, "-c", block),
        *PYTEST,
        *(str(TESTS / each) for each in ("daemon", "handover/test_replace.py", "system")),
        *("-k", "nobody_waits or hangup_reopens or takes_its_pid"),
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_a_process_that_is_killed_by_its_test_is_well(site: Site) -> None:
    process = site.start("sleep", "600")
    process.kill(signal.SIGKILL)
    assert process.close() == ""
