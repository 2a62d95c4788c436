"""``fedmsg-relay-amqp``: what a start, ``--test`` and ``--check`` print of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Site

COMMAND = "fedmsg-relay-amqp"


@pytest.fixture
def shared(site: Site) -> Path:
    """fedora-messaging's file, which is empty, of a site with a bridge."""
    path = site.root / "config.toml"
    path.touch()
    (site.root / "journal").mkdir()
    site.write(
        relay_amqp="one",
        relay_amqp_config=str(path),
        relay_amqp_monitoring=f"ipc://{site.root}/bridge",
        relay_journal=str(site.root / "journal"),
    )
    return path


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(("option", "status"), [("", 6), ("--test", 6), ("--check", 3)])
@pytest.mark.parametrize(
    ("urls", "reason"),
    [
        (["amqp://u:SECRET@h", None], "relay_amqp_urls[1]: must be a string, not NoneType"),
        ("amqp://relay:12/SECRET@127.0.0.1/", "relay_amqp_urls: "),
        ("amqp://u:SECRET@h?ssl_options={", "relay_amqp_urls: the option ssl_options"),
    ],
)
def test_a_password_is_never_printed(
    site: Site, option: str, status: int, urls: object, reason: str
) -> None:
    site.write(relay_amqp_urls=urls)
    done = site.run(COMMAND, *([option] if option else []))
    assert done.returncode == status
    said = done.stdout + done.stderr
    assert reason in said
    assert "SECRET" not in said
    assert "Traceback" not in said


@pytest.mark.usefixtures("shared")
def test_a_relay_that_would_drop_what_the_bridge_delivers(site: Site) -> None:
    warning = "the relay drops unsigned messages that the bridge delivers"
    site.write(relay_validate=True)
    done = site.run(COMMAND, "--test")
    assert done.returncode == 0, done
    assert warning in done.stdout + done.stderr
    site.write(relay_sign="unsigned", certnames={"signing_relay": "relay"})
    done = site.run(COMMAND, "--test")
    assert done.returncode == 0, done
    assert warning not in done.stdout + done.stderr
