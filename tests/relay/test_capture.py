"""What passes is in the journal, and nothing that happens to the journal holds up what passes."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import journals
import load
import pytest
import zmtp
from daemons import Daemon
from disk import Disk
from handovers import Bus
from harness import RELAY, Process, Site, altered, free_port, hastened, wait_for
from monitored import KEY, status

from fedmsg_relay.journal import segments
from fedmsg_relay.journal.reader import Reader

AT_STEP = (sys.executable, str(Path(__file__).parents[1] / "support" / "at_step.py"))
HANGING = str(Path(__file__).parents[1] / "support" / "hanging.py")

SHAPES = [
    [b"alone"],
    [b"org.fedoraproject.dev.logger.log", b'{"msg": {}}'],
    [b"%d" % number for number in range(20)],
    [b""],
    [b"", b"", b""],
    [b"\xff\xfe\x80", bytes(range(256))],
    [b"topic", b"{'a': 1}\n\0"],
    [b"big", os.urandom(5_000_000), b"behind"],
]

_fields = segments.HEADER.pack(segments.MAGIC, segments.VERSION + 1, bytes(8), 0, 0, 0, 0)[:-4]
NEWER = 2 * (_fields + zlib.crc32(_fields).to_bytes(4, "little"))
"""A segment without records, of a version to come."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    config = {KEY: f"ipc://{tmp_path}/monitoring.socket", "relay_journal": f"{tmp_path}/journal"}
    with Site(tmp_path, **config) as made:
        yield made


def journal(site: Site) -> dict[str, Any]:
    """What the relay says of its journal."""
    found: dict[str, Any] = status(site)["journal"]
    return found


def messages(directory: str | Path) -> list[list[bytes]]:
    """The frames of every message in a journal that has no damage."""
    reader = Reader(directory)
    found = [record.frames for record in journals.everything(Path(directory), reader=reader)]
    assert reader.corrupt == 0
    return found


def missing(site: Site) -> int:
    """How many messages a reader finds missing in the journal."""
    reader = Reader(site.config["relay_journal"])
    journals.everything(Path(site.config["relay_journal"]), reader=reader)
    return reader.missing


def written(site: Site) -> list[list[bytes]]:
    """The messages in the journal, once nothing waits for the disk any more."""
    wait_for(lambda: not journal(site)["waiting"], "the disk")
    return messages(site.config["relay_journal"])


def publish(site: Site, first: int, last: int) -> None:
    """Publish numbers, and return when a consumer has them."""
    subscriber, publisher = site.subscriber(topic=b"number"), site.publisher()
    wait_for(lambda: publisher.send(b"number", b"canary") or subscriber.received, "a canary")
    for number in range(first, last):
        publisher.send(b"number", b"%d" % number)
    wait_for(lambda: subscriber.received[-1][1] == b"%d" % (last - 1), "the last one")
    found = [body for _, body in subscriber.received if body != b"canary"]
    assert found == [b"%d" % number for number in range(first, last)]
    publisher.close()


def numbers(found: list[list[bytes]]) -> list[int]:
    return [int(m[1]) for m in found if m[0] == b"number" and m[1] != b"canary"]


@pytest.mark.parametrize("hold_s", [0, 1], ids=["forwarded", "held"])
def test_it_has_every_frame_of_every_message_in_order(site: Site, hold_s: float) -> None:
    site.write(relay_hold=hold_s)
    relay = site.relay(until="holding" if hold_s else "forwarding;")
    subscriber, publisher = site.subscriber(), site.publisher()
    for frames in SHAPES:
        publisher.send(*frames)
    subscriber.wait(len(SHAPES))
    assert written(site) == SHAPES
    assert relay.end() == 0
    assert messages(site.config["relay_journal"]) == SHAPES


def test_what_a_drain_passes_on_is_there_too(site: Site) -> None:
    """Published by somebody who goes on while the relay is asked to stop."""
    relay = site.relay()
    subscriber, publisher = site.subscriber(), site.publisher()
    over = threading.Event()

    def send() -> None:
        number = 0
        while not over.wait(0.0001):
            publisher.send(b"number", b"%d" % number)
            number += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        subscriber.wait(1000)
        assert relay.end() == 0
    finally:
        over.set()
        thread.join()
    found = numbers(messages(site.config["relay_journal"]))
    assert found == list(range(found[0], found[0] + len(found)))
    wait_for(lambda: numbers(subscriber.received)[-1] == found[-1], "the last one")
    assert numbers(subscriber.received) == found[-len(subscriber.received) :]


def test_it_is_private(site: Site) -> None:
    site.relay()
    publish(site, 0, 10)
    written(site)
    directory = Path(site.config["relay_journal"])
    assert directory.stat().st_mode & 0o777 == 0o750
    assert {each.stat().st_mode & 0o777 for each in directory.iterdir()} == {0o640}


def test_the_next_relay_goes_on(site: Site) -> None:
    for first in (0, 100, 200):
        relay = site.relay()
        publish(site, first, first + 100)
        assert relay.end() == 0
    assert missing(site) == 0
    assert numbers(messages(site.config["relay_journal"])) == list(range(300))


def test_the_report(site: Site) -> None:
    site.write(relay_http=free_port())
    relay = site.relay()
    publish(site, 0, 1000)
    found = wait_for(lambda: (j := journal(site))["messages"] >= 1000 and j, "the messages")
    assert found["captured"] == found["messages"]
    assert (found["discarded"], found["waiting"], found["error"]) == (0, 0, "")
    assert found["first_time"] <= found["last_time"]
    table = site.run(*RELAY, "--status").stdout
    assert f"journal {site.config['relay_journal']}: 1,0" in table
    assert "0 messages waiting for the disk, 0 of 1,0" in table
    assert site.run(*RELAY, "--check").returncode == 0
    assert relay.end() == 0


def test_without_the_key_nothing_of_it_is_loaded(site: Site) -> None:
    del site.config["relay_journal"]
    site.write()
    loaded = (
        "import atexit, sys\n"
        "from fedmsg_relay.daemon import running\n"
        "end = running.RunningRelay.end\n"
        "def ending(relay):\n"
        "    print([name for name in sys.modules if 'journal' in name or 'capture' in name])\n"
        "    end(relay)\n"
        "running.RunningRelay.end = ending\n"
        "from fedmsg_relay.commands.relay import main\n"
        "sys.exit(main())\n"
    )
    relay = site.start(sys.executable, "-c", loaded)
    relay.wait_for("forwarding;")
    assert status(site)["journal"] is None
    assert relay.end() == 0
    assert "\n[]\n" in relay.output


class TestTwoOfThem:
    def test_the_second_goes_without_until_the_first_has_ended(self, site: Site) -> None:
        first = site.relay()
        other = {
            "relay_inbound": f"tcp://127.0.0.1:{free_port()}",
            "endpoints": {"relay_outbound": [f"tcp://127.0.0.1:{free_port()}"]},
            KEY: f"ipc://{site.root}/other.socket",
        }
        before = {key: site.config[key] for key in other}
        publish(site, 0, 10)
        site.write(**other)
        second = site.relay()
        second.wait_for(f"process {first.pid} writes it")
        site.inbound = site.config["relay_inbound"]
        (site.outbound,) = site.config["endpoints"]["relay_outbound"]
        publish(site, 10, 20)
        assert f"process {first.pid} writes it" in journal(site)["error"]
        done = site.run(*RELAY, "--check")
        assert (done.returncode, "WARNING - forwarding" in done.stdout) == (1, True), done
        assert numbers(messages(site.config["relay_journal"])) == list(range(10))
        site.write(**before)
        assert first.end() == 0
        second.wait_for("is written again; 0 messages are missing in it")
        site.write(**other)
        assert numbers(written(site)) == list(range(20))
        assert second.end() == 0


class TestADiskThatHangs:
    def hang(self, site: Site) -> Process:
        relay = site.start(sys.executable, HANGING, site.root / "hangs")
        relay.wait_for("forwarding;")
        publish(site, 0, 10)
        assert numbers(written(site)) == list(range(10))
        (site.root / "hangs").touch()
        publish(site, 10, 20)
        return relay

    def test_it_forwards_and_says_so_and_catches_up(self, site: Site) -> None:
        relay = self.hang(site)
        wait_for(lambda: "its disk hangs" in journal(site)["error"], "the report")
        assert journal(site)["waiting"] >= 10
        done = site.run(*RELAY, "--check")
        assert done.returncode == 1, done
        assert "its disk hangs" in done.stdout
        relay.wait_for("its disk hangs; ")
        publish(site, 20, 30)
        (site.root / "hangs").unlink()
        assert numbers(written(site)) == list(range(30))
        assert journal(site)["discarded"] == 0
        assert site.run(*RELAY, "--check").returncode == 0
        assert relay.end() == 0

    @pytest.mark.timeout(300)
    def test_above_a_bound_messages_are_discarded_and_counted(self, site: Site) -> None:
        relay = self.hang(site)
        subscriber, publisher = site.subscriber(topic=b"large"), site.publisher()
        wait_for(lambda: publisher.send(b"large") or subscriber.received, "a canary")
        canaries = len(subscriber.received)
        for number in range(100):
            publisher.send(b"large", b"%d" % number + bytes(2**20))
            subscriber.wait(canaries + number + 1)
        relay.wait_for("messages are discarded, ")
        wait_for(lambda: journal(site)["discarded"] >= 30, "those beyond 64 MiB")
        (site.root / "hangs").unlink()
        written(site)
        publish(site, 20, 30)
        found = written(site)
        counted = journal(site)
        assert counted["discarded"] < 50
        assert counted["captured"] == len(found) + counted["discarded"]
        assert missing(site) == counted["discarded"]
        done = site.run(*RELAY, "--check")
        assert done.returncode == 1, done
        assert f"{counted['discarded']} messages missing in the journal" in done.stdout
        assert relay.end() == 0

    def test_a_stop_waits_for_a_moment(self, site: Site) -> None:
        relay = self.hang(site)
        relay.kill(signal.SIGTERM)
        relay.wait_for("SIGTERM: stopping")
        (site.root / "hangs").unlink()
        assert relay.wait() == 0
        assert numbers(messages(site.config["relay_journal"])) == list(range(20))

    def test_a_stop_does_not_wait_for_ever(self, site: Site) -> None:
        relay = self.hang(site)
        assert relay.end() == 0
        assert "the end of the journal could not be written: 1" in relay.output

    def test_a_hand_over_does_not_wait_for_it(self, site: Site, daemon: Daemon) -> None:
        """The next relay writes the journal as soon as the disk has let go of the first."""
        relay = site.start(
            sys.executable, HANGING, site.root / "hangs", "--pidfile", daemon.pidfile
        )
        relay.wait_for("forwarding;")
        publish(site, 0, 10)
        assert numbers(written(site)) == list(range(10))
        (site.root / "hangs").touch()
        publish(site, 10, 20)
        daemon.start("--replace")
        assert relay.wait() == 0
        assert "the end of the journal could not be written: 1" in relay.output
        daemon.wait_for("forwarding;")
        publish(site, 20, 30)
        assert numbers(written(site))[-10:] == list(range(20, 30))
        assert journal(site)["discarded"] >= 10, "those that the first relay had to leave"
        done = site.run(*RELAY, "--check")
        assert (done.returncode, "messages missing in the journal" in done.stdout) == (1, True)


@pytest.mark.timeout(300)
def test_a_load_that_is_too_fast_for_it_is_forwarded_and_counted(site: Site) -> None:
    """With a bound that is a thousandth of the real one, it is too fast again and again."""
    relay = site.relay(command=hastened("relay.capture.QUEUE_MAX=65536"))
    stream = load.Stream()
    with load.Reader(site.outbound, stream) as reader, zmtp.Peer(site.inbound, b"PUB") as source:
        stream.start(source, reader)
        for _ in range(10):
            before = reader.messages
            stream.publish(source, 50_000, reader)
            reader.wait(before + 50_000)
            if journal(site)["discarded"]:
                break
    relay.wait_for("messages are discarded, ")
    publish(site, 0, 10)

    def counted() -> bool:
        report = status(site)
        found = report["journal"]
        kept = found["messages"] + found["discarded"]
        return report["frames_out"] == 2 * found["captured"] == 2 * kept

    wait_for(counted, "each message to be written or counted")
    publish(site, 10, 20)
    found = written(site)
    assert numbers(found)[-10:] == list(range(10, 20))
    assert missing(site) == journal(site)["discarded"] > 0
    assert relay.end() == 0


class TestADisk:
    """Of the journal's own."""

    def start(self, site: Site, disk: Disk) -> Process:
        site.write(relay_journal=str(disk.path / "journal"), relay_journal_size=2**20)
        relay = site.start(*disk.command(*RELAY))
        relay.wait_for("forwarding;")
        return relay

    def written(self, site: Site, disk: Disk) -> list[int]:
        """The numbers in the journal, once nothing waits for the disk any more."""
        wait_for(lambda: not journal(site)["waiting"], "the disk")
        return numbers(messages(disk.outside / "journal"))

    def test_that_is_full_and_emptied_again(self, site: Site) -> None:
        """What is forwarded meanwhile is written then."""
        with Disk(site.root / "small", "size=1m") as disk:
            relay = self.start(site, disk)
            publish(site, 0, 10)
            assert self.written(site, disk) == list(range(10))
            disk.fill()
            publisher, subscriber = site.publisher(), site.subscriber(topic=b"large")
            wait_for(lambda: publisher.send(b"large") or subscriber.received, "a canary")
            canaries = len(subscriber.received)
            for number in range(50):
                publisher.send(b"large", b"%d" % number + bytes(10_000))
            subscriber.wait(canaries + 50)
            relay.wait_for("No space left on device; forwarding without a journal")
            assert "No space left on device" in journal(site)["error"]
            assert site.run(*RELAY, "--check").returncode == 1
            publish(site, 10, 20)
            disk.empty()
            relay.wait_for("is written again; 0 messages are missing in it")
            publish(site, 20, 30)
            assert self.written(site, disk) == list(range(30))
            found = journal(site)
            assert (found["error"], found["discarded"]) == ("", 0)
            large = [m for m in messages(disk.outside / "journal") if m[0] == b"large"]
            assert len(large) == len(subscriber.received)
            assert relay.output.count("No space left on device") == 1
            assert relay.end() == 0

    def test_that_is_read_only_for_a_while(self, site: Site) -> None:
        with Disk(site.root / "small", "size=4m,ro") as disk:
            relay = self.start(site, disk)
            relay.wait_for("Read-only file system; forwarding without a journal")
            publish(site, 0, 10)
            assert "Read-only file system" in journal(site)["error"]
            subprocess.run(disk.command("mount", "-o", "remount,rw", disk.path), check=True)
            relay.wait_for("is written again; 0 messages are missing in it")
            assert self.written(site, disk) == list(range(10))
            assert relay.end() == 0


class TestItsDirectory:
    def test_that_is_removed_is_made_again(self, site: Site) -> None:
        relay = site.relay()
        publish(site, 0, 10)
        assert numbers(written(site)) == list(range(10))
        shutil.rmtree(site.config["relay_journal"])
        publish(site, 10, 20)
        relay.wait_for("is written again; 0 messages are missing in it")
        publish(site, 20, 30)
        assert numbers(written(site)) == list(range(10, 30))
        shutil.rmtree(site.config["relay_journal"])
        Path(site.config["relay_journal"]).touch()
        publish(site, 30, 40)
        # Another trouble, told immediately.
        relay.wait_for("Not a directory; forwarding without a journal")
        assert relay.end() == 0

    def test_that_is_nowhere(self, site: Site) -> None:
        site.write(relay_journal=f"{site.root}/above/journal", relay_http=free_port())
        relay = site.relay()
        parent = site.root / "above"
        relay.wait_for(f"there is no directory {parent}; make that, and let the relay's user write")
        table = site.run(*RELAY, "--status").stdout
        assert f"journal {parent}/journal: not opened\n" in table
        publish(site, 0, 10)
        parent.mkdir()
        relay.wait_for("is written again; 0 messages are missing in it")
        assert numbers(written(site)) == list(range(10))
        assert relay.end() == 0

    def test_of_a_newer_version(self, site: Site) -> None:
        """Its journal stays as it is."""
        directory = Path(site.config["relay_journal"])
        directory.mkdir()
        (directory / "00000000000000000001.journal").write_bytes(NEWER)
        relay = site.relay()
        relay.wait_for(f"is of version {segments.VERSION + 1}")
        publish(site, 0, 10)
        assert f"is of version {segments.VERSION + 1}" in journal(site)["error"]
        done = site.run(*RELAY, "--check")
        assert done.returncode == 1, done
        assert f"is of version {segments.VERSION + 1}" in done.stdout
        assert relay.end() == 0
        assert (directory / "00000000000000000001.journal").read_bytes() == NEWER


class TestACheck:
    """It is green only over a journal that is written."""

    def warns(self, site: Site, says: str) -> None:
        done = site.run(*RELAY, "--check", "--timeout", "2")
        assert done.returncode == 1, done
        assert re.match(f"FEDMSG-RELAY WARNING - forwarding .*, but {says}", done.stdout), done

    def test_of_a_relay_that_was_not_reloaded(self, site: Site) -> None:
        before = site.config.pop("relay_journal")
        site.write()
        site.relay()
        site.write(relay_journal=before)
        self.warns(site, "the relay has no journal, but the config has one; reload the relay")

    def test_of_one_that_does_not_say(self, site: Site) -> None:
        address = site.config.pop(KEY)
        site.write()
        site.relay()
        self.warns(site, f"the journal cannot be checked: set {KEY} and reload the relay")
        site.write(**{KEY: address})
        self.warns(site, f"the journal cannot be checked: {KEY} ")


class TestAHandOver:
    """The journal goes from one relay to the next, and lacks nothing of what passes meanwhile."""

    @pytest.mark.timeout(300)
    def test_under_load(self, site: Site, daemon: Daemon) -> None:
        del site.config["relay_hold"]  # the tests' own is too short for a busy machine
        site.write()
        daemon.start()
        daemon.wait_for("forwarding;")
        with Bus(site) as bus:
            for handover in (1, 2, 3, 4):
                daemon.start("--replace")
                daemon.wait_for("forwarding;", times=1 + handover)
        assert bus.wrong == []
        assert daemon.log.count("WARNING") == 0
        found = journal(site)
        assert found["discarded"] == 0
        assert found["captured"] == found["messages"]
        by_publisher: dict[int, list[int]] = {}
        for _, body in written(site):
            publisher, number = map(int, body.split())
            by_publisher.setdefault(publisher, []).append(number)
        by_publisher.pop(-1)  # of the consumers, until they are subscribed
        assert sum(map(len, by_publisher.values())) == bus.sent
        for got in by_publisher.values():
            assert got == list(range(len(got)))
        assert missing(site) == 0

    @pytest.mark.parametrize("step", [("sent", "holding"), ("received", "drained")], ids=" ".join)
    def test_to_one_that_dies(self, site: Site, step: tuple[str, str]) -> None:
        """The first goes on, with its journal too."""
        files = ("--pidfile", str(site.root / "pid"))
        first = site.relay(*files)
        publish(site, 0, 10)
        second = site.start(*AT_STEP, *step, "SIGKILL", *files, "--replace")
        assert second.wait() == -signal.SIGKILL
        first.wait_for("forwarding;", times=2)
        publish(site, 10, 20)
        assert numbers(written(site)) == list(range(20))
        assert journal(site)["error"] == ""
        assert first.end() == 0
        assert missing(site) == 0


class TestAKill:
    @pytest.mark.timeout(600)
    def test_what_was_forwarded_is_there_but_for_the_last_of_it(self, site: Site) -> None:
        """Twenty times, at random, under load; nothing is torn, and nothing comes twice."""
        chance = random.Random()
        Path(site.config["relay_journal"]).mkdir()
        reader = Reader(site.config["relay_journal"])
        for _ in range(20):
            self.kill(site, reader, chance.random() / 4)
        assert reader.corrupt == 0

    def test_what_is_written_and_not_synced_is_there(self, site: Site) -> None:
        """The kernel has it: a process that dies takes less with it than a power failure."""
        unsynced = altered("from fedmsg_relay.relay import recorder", "recorder.SYNC_S = 600")
        relay = site.start(*unsynced)
        relay.wait_for("forwarding;")
        for first in (0, 10, 20):
            publish(site, first, first + 10)
        reader = Reader(site.config["relay_journal"])
        found: list[list[bytes]] = []

        def is_complete() -> bool:
            found.extend(record.frames for record in reader.read())
            return numbers(found) == list(range(30))

        wait_for(is_complete, "the messages in the journal")
        assert journal(site)["waiting"] > 0, "all is synced"
        relay.kill(signal.SIGKILL)
        relay.wait()
        assert numbers(messages(site.config["relay_journal"])) == list(range(30))

    def kill(self, site: Site, reader: Reader, after_s: float) -> None:
        relay = site.relay()
        subscriber, publisher = site.subscriber(), site.publisher()
        wait_for(lambda: publisher.send(b"canary") or subscriber.received, "a canary")
        killed = threading.Event()
        found: list[int] = []

        def pour() -> None:
            number = 0
            while not killed.wait(0.001):
                for _ in range(20):
                    publisher.send(b"number", b"%d" % number)
                    number += 1

        def read() -> list[int]:
            while records := reader.read():
                found.extend(numbers([record.frames for record in records]))
            return found

        thread = threading.Thread(target=pour)
        thread.start()
        try:
            wait_for(lambda: len(read()) > 1000, "the journal")
            time.sleep(after_s)
            relay.kill(signal.SIGKILL)
        finally:
            killed.set()
            thread.join()
        relay.wait()
        publisher.close(linger_ms=0)
        assert read() == list(range(len(found)))
        seen = numbers(list(subscriber.received))
        assert len(seen) - len(found) < 20_000, "more than what is published in a second"
