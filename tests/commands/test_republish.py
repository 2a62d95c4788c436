"""fedmsg-relay-journal --republish: the same bytes on the bus again, or told that they are not."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fedmsg_journals import Journal, fedmsg, made
from harness import BIN, Site, wait_for

NAME = "fedmsg-relay-journal"
UNAVAILABLE = 69
TOO_LARGE = 65


@pytest.fixture
def directory(site: Site) -> Path:
    return site.root / "journal"


def republish(site: Site, *options: str, **run: Any) -> subprocess.CompletedProcess[str]:
    done = site.run(NAME, "--directory", "journal", "--republish", *options, **run)
    assert "Traceback" not in done.stderr
    return done


def test_the_bytes_are_the_same_and_in_order(site: Site, directory: Path) -> None:
    messages = [
        *map(fedmsg, range(50)),
        [b"one frame"],
        [b"topic", b""],
        [b"topic", b"not JSON \xff\x00", b"", b"and more"],
        [b"x"] * 300,
        [b"large", bytes(2**20)],
    ]
    made(directory, *messages)
    site.relay()
    subscriber = site.subscriber()
    done = republish(site, "--rate", "1000")
    assert (done.returncode, done.stdout, done.stderr) == (0, "55 messages republished\n", "")
    assert subscriber.wait(55) == messages


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["--lines", "2"], [8, 9]),
        (["--topic", "*.other", "--until", "@1003"], [1, 3]),
        (["--msg-id", "2026-5"], [5]),
        (["--since", "@2000"], []),
    ],
)
def test_only_what_is_selected(
    site: Site, directory: Path, options: list[str], numbers: list[int]
) -> None:
    messages = [fedmsg(n, "other" if n % 2 else "made") for n in range(10)]
    made(directory, *messages, at=1000.0)
    site.relay()
    subscriber = site.subscriber()
    done = republish(site, *options)
    assert done.returncode == 0, done
    assert done.stdout == f"{len(numbers)} message{'s' * (len(numbers) != 1)} republished\n"
    site.publisher().send(b"after")
    received = subscriber.wait(len(numbers) + 1)
    assert received == [*(messages[n] for n in numbers), [b"after"]]


def test_what_is_republished_comes_into_the_journal_and_is_not_republished_again(
    site: Site, directory: Path
) -> None:
    with Journal(directory) as live:
        live.append(*map(fedmsg, range(500)))
        site.relay()
        subscriber = site.subscriber()
        written = 0

        def write() -> None:
            nonlocal written
            while written < 500:
                new = subscriber.received[written:]
                live.append(*new)
                written += len(new)
                time.sleep(0.001)

        writer = threading.Thread(target=write)
        writer.start()
        done = republish(site, "--rate", "2000")
        writer.join()
    assert done.stdout == "500 messages republished\n"
    site.publisher().send(b"after")
    assert subscriber.wait(501)[500:] == [[b"after"]]


def test_the_rate_is_not_exceeded(site: Site, directory: Path) -> None:
    made(directory, *map(fedmsg, range(41)))
    site.relay()
    began = time.monotonic()
    assert republish(site, "--rate", "20").returncode == 0
    assert time.monotonic() - began >= 2  # or more, on a busy machine


def test_what_no_relay_takes_is_told_and_the_rest_republished(site: Site, directory: Path) -> None:
    made(directory, fedmsg(0), [b"topic", bytes(2000)], fedmsg(2), at=1000.0)
    site.write(relay_max_message_size=1000)
    site.environ["TZ"] = "UTC"
    site.relay()
    subscriber = site.subscriber()
    done = republish(site)
    assert done.returncode == TOO_LARGE
    assert done.stdout == "2 messages republished\n"
    assert done.stderr == (
        f"{NAME}: message of 1970-01-01 00:16:41.000 not sent: it has a frame of 2000 bytes, and"
        " relay_max_message_size = 1000 is the limit\n"
    )
    assert subscriber.wait(2) == [fedmsg(0), fedmsg(2)]


def test_no_relay(site: Site, directory: Path) -> None:
    made(directory, fedmsg(0), fedmsg(1), at=1000.0)
    site.write(timeout=1)
    site.environ["TZ"] = "UTC"
    done = republish(site)
    assert done.returncode == UNAVAILABLE
    assert done.stdout == ""
    assert done.stderr.startswith(
        f"{NAME}: 0 messages republished; not sent: the message of 1970-01-01 00:16:40.000 and"
        f" all that follow: no relay at {site.inbound} after 1 s (Connection refused); "
    )
    assert len(done.stderr.splitlines()) == 1


def test_a_relay_that_ends_in_the_middle_and_what_to_type_then(site: Site, directory: Path) -> None:
    messages = list(map(fedmsg, range(300)))
    made(directory, *messages, at=time.time() - 1000)
    site.write(timeout=1)
    relay = site.relay()
    subscriber = site.subscriber()
    republishing = site.start(BIN / NAME, "-D", "journal", "--republish", "--rate", "100")
    subscriber.wait(50)
    relay.end()
    assert republishing.wait() == UNAVAILABLE
    found = re.fullmatch(
        rf"{NAME}: (\d+) messages republished; not sent: the message of .* and all that follow:"
        r" .*; to continue, repeat the command with (--since=@[\d.]+) (--until=@[\d.]+)\n",
        republishing.output,
    )
    assert found is not None, republishing.output
    taken = len(subscriber.received)
    assert int(found[1]) == taken  # the relay passes on what it has taken
    assert 50 <= taken < 300
    site.relay()
    wait_for(lambda: site.run("fedmsg-relay", "--check").returncode == 0, "the relay")
    again = site.subscriber()
    done = republish(site, found[2], found[3], "--rate", "1000")
    assert done.returncode == 0, done
    assert again.wait(300 - taken) == messages[taken:]


def test_a_relay_that_restarts_in_the_middle(site: Site, directory: Path) -> None:
    messages = list(map(fedmsg, range(300)))
    made(directory, *messages)
    site.write(relay_hold=2, timeout=20)
    site.relay("--pidfile", "pid")
    subscriber = site.subscriber()
    republishing = site.start(BIN / NAME, "-D", "journal", "--republish", "--rate", "100")
    subscriber.wait(50)
    site.relay("--pidfile", "pid", "--replace", until="holding")
    assert republishing.wait() == 0, republishing.output
    assert subscriber.wait(300) == messages


def test_ctrl_c_says_how_far_it_has_come(site: Site, directory: Path) -> None:
    made(directory, *map(fedmsg, range(300)))
    site.relay()
    subscriber = site.subscriber()
    republishing = site.start(BIN / NAME, "-D", "journal", "--republish", "--rate", "20")
    subscriber.wait(5)
    assert republishing.end(2) == 130
    found = re.fullmatch(rf"{NAME}: interrupted; (\d+) messages republished\n", republishing.output)
    assert found is not None, republishing.output
    assert 4 <= int(found[1]) < 300


def test_damage_is_told(site: Site, directory: Path) -> None:
    journal = made(directory, *map(fedmsg, range(10)))
    (segment,) = journal.segments()
    segment.write_bytes(segment.read_bytes().replace(b'"n": 3', b'"n": 4'))
    site.relay()
    done = republish(site)
    assert done.returncode == 1
    assert done.stdout == "9 messages republished\n"
    assert "1 damaged place skipped" in done.stderr


def test_not_configured(site: Site, directory: Path) -> None:
    made(directory, fedmsg(0))
    del site.config["relay_inbound"]
    site.write()
    done = republish(site)
    assert done.returncode == 6
    assert done.stderr.startswith(f"{NAME}: relay_inbound: not set")
