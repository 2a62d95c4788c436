"""--test, and the configurations that a start refuses for the same reasons."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import box
import pytest
from harness import RELAY, Site, free_port

OUTBOUND = "endpoints['relay_outbound']"


def refused(site: Site, *options: str) -> str:
    """What --test and a start refuse with: the same line."""
    tested, started = site.refused("--test", *options), site.refused()
    assert tested.returncode == started.returncode
    assert tested.stderr == started.stderr
    assert "configuration OK" not in tested.stdout
    return tested.stderr


@pytest.mark.parametrize("option", ["-t", "--test"])
def test_it_says_what_was_read_and_would_be_bound_and_binds_nothing(
    site: Site, option: str
) -> None:
    relay = site.relay()  # so that nothing could be bound
    done = site.run("fedmsg-relay", option)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"read {site.path}",
        f"relay_inbound: {site.inbound}",
        f"relay_outbound: {site.outbound}",
        "configuration OK",
    ]
    assert relay.end() == 0


def test_it_names_all_files_in_their_order(site: Site) -> None:
    (site.path.parent / "base.py").write_text("config = {}")
    (site.root / "fedmsg-config.py").write_text("config = {}")
    done = site.run(*RELAY, "--test")
    read = [line for line in done.stdout.splitlines() if line.startswith("read ")]
    files = [site.path.parent / "base.py", site.path, site.root / "fedmsg-config.py"]
    assert read == [f"read {path}" for path in files]


def test_a_wrong_configuration_is_status_6(site: Site) -> None:
    site.write(relay_drain=-1)
    done = site.run("fedmsg-relay", "--test")
    assert done.returncode == 6
    assert "relay_drain = -1" in done.stderr
    assert "configuration OK" not in done.stdout


@pytest.mark.parametrize(
    ("inbound", "outbound"),
    [
        ("tcp://*:{port}", "tcp://127.0.0.1:{port}"),
        ("ipc://{root}/socket", "ipc://{root}/./socket"),
    ],
)
def test_an_inbound_that_is_the_outbound_too(site: Site, inbound: str, outbound: str) -> None:
    place = {"port": free_port(), "root": site.root}
    one, other = inbound.format(**place), outbound.format(**place)
    site.write(relay_inbound=[site.inbound, one], endpoints={"relay_outbound": other})
    line = refused(site)
    assert "fedmsg-relay: relay_inbound: " in line
    assert f" and {OUTBOUND}: " in line
    assert "cannot both be bound; give them different ports" in line


def test_two_addresses_of_one_port(site: Site) -> None:
    port = free_port()
    site.write(
        relay_inbound=f"tcp://127.0.0.1:{port}",
        endpoints={"relay_outbound": f"tcp://127.0.0.2:{port}"},
    )
    assert site.run(*RELAY, "--test").returncode == 0
    assert site.relay().end() == 0


def test_a_path_that_is_too_long_for_a_socket(site: Site) -> None:
    path = f"{site.root}/".ljust(108, "x")
    site.write(relay_inbound=f"ipc://{path}")
    assert "a path of 108 bytes is too long for a socket; choose one of 107" in refused(site)


def test_the_longest_path(site: Site) -> None:
    path = Path(f"{site.root}/".ljust(107, "x"))
    site.write(relay_inbound=f"ipc://{path}")
    assert site.run(*RELAY, "--test").returncode == 0
    site.relay()
    assert path.is_socket()


def test_an_ipv4_mapped_address(site: Site) -> None:
    site.write(relay_inbound=f"tcp://[::ffff:127.0.0.1]:{free_port()}")
    line = refused(site)
    assert "relay_inbound: " in line
    assert "an IPv4-mapped IPv6 address cannot be bound; write tcp://127.0.0.1:" in line


class TestSocketFiles:
    @pytest.fixture
    def path(self, site: Site) -> Path:
        site.write(relay_inbound=f"ipc://{site.root}/socket")
        return site.root / "socket"

    def test_a_file(self, site: Site, path: Path) -> None:
        path.write_text("precious")
        assert "there is a file that is not a socket" in refused(site)

    def test_one_at_which_somebody_else_listens(self, site: Site, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            other.listen()
            assert f"cannot bind ipc://{path}: Address already in use" in refused(site)

    def test_one_at_which_the_relay_of_the_pid_file_listens(self, site: Site, path: Path) -> None:
        pidfile = str(site.root / "pid")
        relay = site.relay("--pidfile", pidfile)
        assert site.run(*RELAY, "--test", "--pidfile", pidfile).returncode == 0
        assert "Address already in use" in site.refused("--test").stderr, "another pid file's"
        assert path.is_socket()
        assert relay.end() == 0

    def test_a_stale_one_stays(self, site: Site, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        assert site.run(*RELAY, "--test").returncode == 0
        assert path.is_socket()

    def test_a_missing_directory(self, site: Site) -> None:
        site.write(relay_inbound=f"ipc://{site.root}/nowhere/socket")
        assert "nowhere/socket: No such file or directory" in refused(site)

    def test_an_outbound_that_is_passed_over(self, site: Site) -> None:
        other = site.root / "file"
        other.touch()
        site.write(endpoints={"relay_outbound": [f"ipc://{other}", site.outbound]})
        done = site.run(*RELAY, "--test")
        assert done.returncode == 0
        assert "not a socket; the next address would be used" in done.stdout


class TestWhatItCanGoWithout:
    @pytest.mark.parametrize("option", ["--test", None])
    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("nowhere/socket", "No such file or directory"),
            ("file", "there is a file that is not a socket"),
            ("x" * 108, "is too long for a socket"),
        ],
        ids=lambda value: value[:20],
    )
    def test_a_monitoring_socket(
        self, site: Site, option: str | None, name: str, says: str
    ) -> None:
        (site.root / "file").touch()
        site.write(**{"moksha.monitoring.socket": f"ipc://{site.root}/{name}"})
        if option is None:
            output = site.relay().output
        else:
            done = site.run(*RELAY, option)
            assert done.stdout.endswith("configuration OK\n")
            output = done.stdout
        assert says in output
        assert "would run without a monitoring socket" in output or "; going without it" in output

    @pytest.mark.parametrize("option", ["--test", None])
    @pytest.mark.parametrize("key", ["moksha.monitoring.socket", "relay_http"])
    def test_an_address_that_the_relay_needs_itself(
        self, site: Site, option: str | None, key: str
    ) -> None:
        site.write(**{key: site.inbound.replace("tcp://", "" if "http" in key else "tcp://")})
        output = site.relay().output if option is None else site.run(*RELAY, option).stdout
        assert f"{key}: {site.inbound} and relay_inbound: {site.inbound} cannot both" in output
        assert "; going without it" in output
        assert f"{key}: {site.inbound}\n" not in output

    @pytest.mark.parametrize("exists", [True, False])
    def test_a_logs_directory(self, site: Site, exists: bool) -> None:
        directory = site.root / "log"
        if exists:
            directory.mkdir(mode=0o555)
        command = [*box.powerless(), *RELAY, "--test", "--logfile", f"{directory}/relay.log"]
        tested = site.start(*command)
        assert tested.wait() == 0
        assert tested.output.endswith("configuration OK\n")
        says = f"may not write to {directory}" if exists else f"there is no directory {directory}"
        assert says in tested.output

    def test_a_logs_directory_that_is_as_it_should_be(self, site: Site) -> None:
        done = site.run(*RELAY, "--test", "--logfile", f"{site.root}/relay.log")
        assert "WARNING" not in done.stdout
        assert not os.path.exists(site.root / "relay.log")
