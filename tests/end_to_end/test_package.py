"""What the distributions have in them, and what an installation brings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
NOT_SOURCES = {".gitignore"}
"""Files of the project that a source distribution is without."""


def copy_of_the_sources(directory: Path) -> Path:
    """Copy the project without what is made from it; building leaves files beside the sources."""
    unwanted = shutil.ignore_patterns(".venv*", ".git", ".*_cache", "build", "*.egg-info", "*.pyc")
    return shutil.copytree(PROJECT, directory, ignore=unwanted)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the source distribution, and the wheel that is built from it."""
    root = tmp_path_factory.mktemp("distributions")
    source = copy_of_the_sources(root / "source")
    subprocess.run([sys.executable, "-m", "build", "-o", root / "dist", source], check=True)
    return root / "dist"


def unpacked(distributions: Path, directory: Path) -> Path:
    """Unpack the source distribution in ``directory``."""
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(directory)
    (root,) = directory.iterdir()
    return root


@pytest.mark.timeout(300)
def test_the_source_distribution_is_whole(distributions: Path, tmp_path: Path) -> None:
    copy = copy_of_the_sources(tmp_path / "copy")
    root = unpacked(distributions, tmp_path / "unpacked")

    def files(directory: Path) -> set[str]:
        found = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
        return {
            str(path) for path in found if path.parts[0] != "tests" or "bench.json" not in path.name
        }

    assert files(copy) - NOT_SOURCES <= files(root)
    for path in ("init/install", ".ci/run", "etc/examples/post-receive"):
        assert os.access(root / path, os.X_OK) == os.access(copy / path, os.X_OK), path


def check_documentation(root: Path, directory: Path) -> None:
    """Compare the installed documentation with the sources; each of its links leads somewhere."""
    pages = ["README.md", "CHANGELOG.md", *(page.name for page in PROJECT.glob("docs/*.md"))]
    assert sorted(pages) == sorted(page.name for page in directory.glob("*.md"))
    for name in pages:
        text = re.sub(
            r"^```.*?^```$|`[^`\n]+`", "", (directory / name).read_text(), flags=re.M | re.S
        )
        for link in re.findall(r"\]\(([^)\s#]+)", text):
            if not link.startswith("https://"):
                target = root / link[1:] if link.startswith("/") else directory / link
                assert target.is_file(), f"{name}: {link}"
    for picture in (*PROJECT.glob("docs/pictures/*"), *PROJECT.glob("tests/bench/plots/*")):
        assert (directory / "pictures" / picture.name).read_bytes() == picture.read_bytes()


@pytest.mark.timeout(300)
def test_make_works_from_the_source_distribution(distributions: Path, tmp_path: Path) -> None:
    root = unpacked(distributions, tmp_path / "unpacked")

    def make(*arguments: str) -> str:
        done = subprocess.run(
            ["make", *arguments], cwd=root, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # With the environment that is here, in place of one that takes a minute to make.
    here = f"VENV={sys.prefix}"
    stamps = [word for name in ("run", "test") for word in ("-o", f"{sys.prefix}/.{name}")]
    assert " passed" in make(*stamps, "test", here, "ARGS=tests/test_docs.py")
    assert "It came out." in make(*stamps, "demo", here)
    make("install", f"DESTDIR={tmp_path}/root", f"PYTHON={sys.executable}")
    installed = tmp_path / "root/usr/local"
    assert os.access(installed / "share/fedmsg-relay/post-receive", os.X_OK)
    assert (installed / "share/man/man8/fedmsg-relay.8").exists()
    check_documentation(tmp_path / "root", installed / "share/doc/fedmsg-relay")
    make("uninstall", f"DESTDIR={tmp_path}/root")
    assert not [path for path in installed.rglob("*") if path.is_file()]


def test_make_says_what_takes_a_minute_and_only_then(tmp_path: Path) -> None:
    """An environment whose pip installs nothing stands in for that which takes a minute."""
    made = tmp_path / "made"
    (made / "bin").mkdir(parents=True)
    for name in ("python", "pip"):
        (made / "bin" / name).symlink_to(shutil.which("true") or "")

    def make() -> str:
        command = ["make", "--no-print-directory", f"VENV={made}", f"{made}/.run"]
        return subprocess.run(
            command, cwd=PROJECT, capture_output=True, text=True, check=True
        ).stdout

    says = f"installing fedmsg-relay and its dependencies into {made}; takes about a minute\n"
    assert make() == says
    assert "installing" not in make()


def test_the_wheel_has_the_package_alone(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    sources = {
        str(path.relative_to(PROJECT))
        for path in (PROJECT / "fedmsg_relay").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {name for name in names if ".dist-info/" not in name} == sources
    assert "fedmsg_relay/py.typed" in names


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
