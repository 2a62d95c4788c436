"""The log: its file, whatever happens to that, and a site's own ``logging``."""

from __future__ import annotations

import os
import pprint
import signal
from typing import Any, ClassVar

import pytest
from daemons import Daemon
from harness import BIN, RELAY, Site, listens, wait_for


class TestLog:
    def test_a_hangup_reopens_it(self, site: Site, daemon: Daemon) -> None:
        """Rotation by rename: every line is in the one file or in the other."""
        daemon.start()
        daemon.wait_for("forwarding;")
        rotated = daemon.logfile.rename(site.root / "rotated")
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for("SIGHUP: log reopened")
        daemon.stop()
        assert daemon.log.count("\n") == 3  # reopened, stopping, stopped
        assert rotated.read_text().count("\n") == 3  # started, holding, forwarding

    def test_it_may_be_truncated(self, daemon: Daemon) -> None:
        """Rotation by copytruncate: what is written next is at the beginning."""
        daemon.start()
        daemon.wait_for("forwarding;")
        os.truncate(daemon.logfile, 0)
        daemon.stop()
        assert daemon.log.startswith("[")
        assert daemon.log.count("\n") == 2

    def test_a_log_that_cannot_be_reopened_is_kept(self, site: Site, daemon: Daemon) -> None:
        daemon.start()
        daemon.wait_for("forwarding;")
        rotated = daemon.logfile.parent.rename(site.root / "rotated") / daemon.logfile.name
        os.kill(daemon.pid, signal.SIGHUP)
        wait_for(lambda: "cannot reopen the log" in rotated.read_text(), "the warning")
        daemon.stop()

    def test_a_full_disk_stops_nothing(self, site: Site) -> None:
        relay = site.start(BIN / "fedmsg-relay", "--logfile", "/dev/full")
        wait_for(lambda: listens(site.inbound), "a relay that is bound")
        subscriber = site.subscriber()
        site.publisher().send(b"passes")
        assert subscriber.wait(1) == [[b"passes"]]
        assert relay.end() == 0


class Broken:
    """Values of ``logging`` with a part that fails; the rest is a console."""

    CONSOLE: ClassVar[dict[str, Any]] = {"class": "logging.StreamHandler", "level": "INFO"}
    LOGGER: ClassVar[dict[str, Any]] = {"level": "INFO", "handlers": ["console"]}
    BAD = "class Bad:\n    def filter(self, record):\n        raise KeyError(record.levelname)\n"

    @classmethod
    def logging(cls, **parts: Any) -> dict[str, Any]:
        return {
            "version": 1,
            "formatters": {"none": {"format": "%(nothing)s"}},
            "filters": {"bad": {"()": "Bad"}},
            "handlers": {"console": {**cls.CONSOLE, **parts.pop("handler", {})}},
            "loggers": {name: {**cls.LOGGER, **more} for name, more in parts.items()},
        }

    @classmethod
    def write(cls, site: Site, value: dict[str, Any]) -> None:
        config = pprint.pformat({**site.config, "logging": value}).replace("'Bad'", "Bad")
        site.write(f"{cls.BAD}config = {config}\n")


@pytest.mark.parametrize(
    ("parts", "what", "reason"),
    [
        (
            {"handler": {"filters": ["bad"]}, "fedmsg": {}},
            "the handler 'console' or a filter of it",
            "KeyError('INFO')",
        ),
        (
            {"handler": {"formatter": "none"}, "fedmsg": {}},
            "the handler 'console' or a filter of it",
            "ValueError(",
        ),
        (
            {"fedmsg": {}, "fedmsg.relay": {"filters": ["bad"], "handlers": []}},
            "a filter of the logger fedmsg.relay",
            "KeyError('INFO')",
        ),
    ],
    ids=["filter of a handler", "formatter", "filter of a logger"],
)
def test_logging_that_raises_costs_no_line(
    site: Site, parts: dict[str, Any], what: str, reason: str
) -> None:
    foreign = "tcp://192.0.2.1:2003"
    site.config["relay_inbound"] = [foreign, site.inbound]
    Broken.write(site, Broken.logging(**parts))
    tested = site.run(*RELAY, "--test")
    assert tested.returncode == 0, tested
    assert f"{foreign} is not an address of this host" in tested.stderr
    relay = site.relay()
    subscriber = site.subscriber()
    site.publisher().send(b"message")
    subscriber.wait(1)
    assert relay.end() == 0
    for line in ("fedmsg-relay 1.0.0 started", "forwarding;", "SIGTERM: stopping", "stopped; "):
        assert relay.output.count(line) == 1, relay.output
    assert relay.output.count(f"logging: {what} raised {reason}") == 1, relay.output
    assert "Traceback" not in relay.output


@pytest.mark.parametrize(
    "value",
    [
        "verbose",
        None,
        {"handlers": {"file": {"class": "logging.FileHandler", "filename": "/nowhere/log"}}},
        {"handlers": {"file": {"class": "no.such.Handler"}}},
        {"loggers": {"fedmsg.relay": {"level": "CRITICAL", "handlers": ["nowhere"]}}},
    ],
    ids=str,
)
def test_logging_that_cannot_be_applied_stops_no_start(site: Site, value: Any) -> None:
    """A test of the configuration refuses it; who starts a relay has one, with a log."""
    site.write(logging=value)
    tested = site.refused("--test")
    assert tested.returncode == 6
    assert "logging: " in tested.stderr
    relay = site.relay()
    assert relay.output.count("ERROR logging: ") == 1
    assert "; logging to standard error instead" in relay.output
    assert relay.end() == 0
    assert "INFO stopped; " in relay.output
    assert "Traceback" not in relay.output
