"""The global fedmsg config: where it is found, and one line for whatever is wrong with it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import RELAY, Site, wait_for

from fedmsg_relay.config import loader
from fedmsg_relay.errors import ConfigError

BROKEN = {
    "config = = {}": "site.py:1: SyntaxError: invalid syntax: config = = {}",
    "\nimport nowhere\nconfig = {}": "site.py:2: ModuleNotFoundError",
    "\n\nconfig = {'a': 1 / 0}": "site.py:3: ZeroDivisionError",
    "raise SystemExit(0)": "site.py:1: SystemExit",
    "confg = {}": "site.py: it must define a dictionary named 'config'",
    "config = ['relay_inbound']": "site.py: it must define a dictionary named 'config'",
    "config = open('/nowhere').read()": "No such file or directory: '/nowhere'",
    "raise OSError('no database')": "site.py: no database",
    "config = {'a': '\udcff'}": "site.py: 'utf-8' codec can't decode",
}
"""What a config file may be, and what is said of it."""


@pytest.fixture
def load(site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The loader, of a process that was started in the site's directory with some options."""
    monkeypatch.chdir(site.root)
    monkeypatch.setenv("HOME", str(site.root))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)

    def load(*options: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["fedmsg-relay", *options])
        return loader.load([], "")

    return load


def test_it_reads_what_every_fedmsg_command_reads(site: Site, load: Any) -> None:
    (site.path.parent / "zz.py").write_text(
        "config = {'relay_drain': 7, 'endpoints': {'a': ['b']}}"
    )
    config = load("--io-threads", "3")
    assert config["relay_inbound"] == site.inbound
    assert config["endpoints"] == {"relay_outbound": [site.outbound], "a": ["b"]}
    assert (config["relay_drain"], config["io_threads"]) == (7, 3)
    assert config["zmq_linger"] == 1000  # fedmsg's own default


def test_it_does_without_endpoints(site: Site, load: Any) -> None:
    del site.config["endpoints"]
    site.write(relay_outbound=site.outbound)
    assert load()["endpoints"] == {}


@pytest.mark.parametrize(("text", "says"), BROKEN.items(), ids=repr)
def test_a_broken_file_is_named_with_its_line(site: Site, load: Any, text: str, says: str) -> None:
    site.path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=f"^cannot load the configuration: .*{re.escape(says)}"):
        load()


@pytest.mark.parametrize("text", ["config = = {}", "raise SystemExit(0)", "confg = {}"])
def test_a_relay_with_a_broken_file_does_not_start(site: Site, text: str) -> None:
    site.path.write_text(text)
    refused = site.refused()
    assert refused.returncode == 6
    assert BROKEN[text] in refused.stderr


def test_an_unreadable_file_is_not_passed_over(site: Site) -> None:
    # Permissions do not stop root, but nobody can read the first page of a process.
    (site.path.parent / "aa.py").symlink_to("/proc/self/mem")
    refused = site.refused()
    assert refused.returncode == 6
    assert "aa.py" in refused.stderr


def test_config_filename_names_the_only_file_that_counts(site: Site) -> None:
    other = site.path.rename(site.root / "other.py")
    site.path.write_text("config = {'relay_hold': 'not to be seen'}")
    assert site.refused().returncode == 6
    assert site.relay("--config-filename", str(other)).end() == 0


def test_a_config_filename_that_is_not_there(site: Site) -> None:
    refused = site.refused("--config-filename", "nowhere.py")
    assert refused.returncode == 6
    assert "nowhere.py" in refused.stderr


def test_print_config_shows_what_the_scripts_see(site: Site) -> None:
    ours = site.run("fedmsg-relay", "--print-config", "--io-threads", "3")
    stock = site.run("fedmsg-logger", "--print-config", "--io-threads", "3")
    assert ours.returncode == 0
    config = json.loads(ours.stdout)
    assert config["relay_inbound"] == site.inbound
    assert config["io_threads"] == 3
    shared = set(config) & set(json.loads(stock.stdout))
    assert {key: config[key] for key in shared} == {
        key: json.loads(stock.stdout)[key] for key in shared
    }


@pytest.mark.parametrize(
    "options",
    [
        ["--io-threads", "2", "--high-water-mark", "100", "--linger", "50"],
        ["--topic-prefix", "org.example", "--post-init-sleep", "0", "--timeout", "1"],
    ],
)
def test_the_options_of_every_fedmsg_command_are_accepted(site: Site, options: list[str]) -> None:
    assert site.relay(*options).end() == 0


def test_an_option_counts_for_more_than_the_file(site: Site) -> None:
    refused = site.refused("--linger", "-5")
    assert refused.returncode == 6
    assert "zmq_linger = -5" in refused.stderr


def test_wrong_usage_is_status_2(site: Site) -> None:
    result = site.run("fedmsg-relay", "--no-such-option")
    assert result.returncode == 2
    assert result.stderr.startswith("usage: fedmsg-relay ")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--roundtrip"], "--roundtrip requires --check"),
        (["--json"], "--json requires --status"),
        (["--test", "--status"], "--test, --check and --status"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_start_nothing(
    site: Site, options: list[str], says: str
) -> None:
    refused = site.refused(*options)
    assert refused.returncode == 2
    assert says in refused.stderr


@pytest.mark.parametrize("name", ["fedmsg", "fedmsg.relay", ""], ids=lambda name: name or "root")
def test_the_sites_logging_applies(site: Site, name: str) -> None:
    log = site.root / "site.log"
    handler = {"class": "logging.FileHandler", "formatter": "own", "filename": str(log)}
    logger = {"level": "INFO", "handlers": ["file"], "propagate": False}
    site.write(
        logging={
            "version": 1,
            "formatters": {"own": {"format": "SITE %(name)s %(message)s"}},
            "handlers": {"file": handler},
            **({"loggers": {name: logger}} if name else {"root": logger}),
        }
    )
    relay = site.start(*RELAY)
    wait_for(lambda: log.exists() and "forwarding;" in log.read_text(), "the site's own log")
    assert "SITE fedmsg.relay fedmsg-relay " in log.read_text()
    assert relay.end() == 0
    assert relay.output == ""


class TestForeignDirectories:
    """Who only asks executes nothing that others have written where the command is typed."""

    @pytest.fixture
    def marker(self, site: Site) -> Path:
        """A file that is there when the configuration of the working directory was executed."""
        marker = site.root / "executed"
        for path in (site.path.parent / "evil.py", site.root / "fedmsg-config.py"):
            path.write_text(f"open({str(marker)!r}, 'a').write({path.name!r})\nconfig = {{}}\n")
        return marker

    @pytest.mark.parametrize(
        ("option", "owner", "mode"),
        [("--test", 65534, 0o755), ("--check", 0, 0o777), ("--status", 0, 0o775)],
        ids=["another user's", "everybody's", "another group's"],
    )
    def test_are_passed_over(
        self, site: Site, marker: Path, option: str, owner: int, mode: int
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("to give files away needs root")
        for path in (site.root, site.path.parent):
            os.chown(path, owner, 65534)
            path.chmod(mode)
        done = site.run("fedmsg-relay", option)
        assert not marker.exists()
        assert done.returncode != 0, "no address is known"
        assert (
            f"{site.path} is skipped, as other users may write there; to use the file, name it"
            " with --config-filename" in done.stderr
        )

    def test_a_directory_in_ones_own_may_be_foreign_too(self, site: Site, marker: Path) -> None:
        site.path.parent.chmod(0o777)
        assert site.run("fedmsg-relay", "--test").returncode == 6
        assert marker.read_text() == "fedmsg-config.py"

    def test_a_named_file_counts(self, site: Site, marker: Path) -> None:
        site.root.chmod(0o777)
        for named in (str(site.path), "fedmsg.d/site.py"):
            done = site.run("fedmsg-relay", "--test", "--config-filename", named)
            assert done.stdout.splitlines()[0] == f"read {named}"
            assert done.stdout.endswith("configuration OK\n")
            assert "is skipped" not in done.stderr
        assert not marker.exists()

    def test_ones_own_is_read(self, site: Site, marker: Path) -> None:
        site.run("fedmsg-relay", "--test")
        assert marker.exists()

    def test_a_start_reads_what_scripts_read(self, site: Site, marker: Path) -> None:
        site.root.chmod(0o777)
        assert site.relay().end() == 0
        assert marker.exists()
