"""fedmsg-relay-journal: what is shown of a journal, and the exit status for it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from fedmsg_journals import PREFIX, Journal, damage, fedmsg, made
from harness import BIN, DEADLINE_S, Process, Site, wait_for

NAME = "fedmsg-relay-journal"
AT = 1_796_040_000.0
"""When the first message of most journals here has come, 2026-11-30 12:00 in Greenwich."""


@pytest.fixture
def directory(site: Site) -> Path:
    site.environ["TZ"] = "UTC"
    return site.root / "journal"


def journal(site: Site, *options: object, **run: Any) -> subprocess.CompletedProcess[str]:
    done = site.run(NAME, "--directory", "journal", *map(str, options), **run)
    assert "Traceback" not in done.stderr
    return done


def shown(site: Site, *options: object) -> list[int]:
    """The numbers of the messages that are shown, with nothing to complain about."""
    done = journal(site, "--json", *options)
    assert (done.returncode, done.stderr) == (0, ""), done
    return [json.loads(line)["body"]["msg"]["n"] for line in done.stdout.splitlines()]


def refused(done: subprocess.CompletedProcess[str], status: int, says: str) -> None:
    assert done.returncode == status, done
    assert done.stderr.startswith(f"{NAME}: "), done
    assert len(done.stderr.splitlines()) == 1, done
    assert says in done.stderr, done


class TestSelection:
    @pytest.fixture(autouse=True)
    def _ten(self, directory: Path) -> None:
        topics = ["git.receive", "git.branch", "bodhi.update"]
        made(directory, *(fedmsg(n, topics[n % 3]) for n in range(10)), at=AT)

    def test_lines_for_people(self, site: Site) -> None:
        done = journal(site)
        assert done.returncode == 0
        lines = done.stdout.splitlines()
        assert len(lines) == 10
        assert lines[0] == f'2026-11-30 12:00:00.000 {PREFIX}.git.receive {{"n": 0}}'

    @pytest.mark.parametrize(
        ("options", "numbers"),
        [
            ([], range(10)),
            (["--since", "@1796040004"], range(4, 10)),
            (["--since=2026-11-30 12:00:04.001"], range(5, 10)),
            (["-S", "@1796040008"], range(8, 10)),
            (["--until", "2026-11-30 12:00:04"], range(5)),
            (["--since", "12:00:03 UTC", "--until", "@1796040006.5"], None),
            (["--since", "2026-11-30T12:00:03Z", "-U", "@1796040006.5"], range(3, 7)),
            (["--since", "2026-12-01"], []),
            (["--until", "2026-11-29"], []),
            (["--topic", f"{PREFIX}.git"], [0, 1, 3, 4, 6, 7, 9]),
            (["--topic", "git"], []),
            (["--topic", "*.git.*"], [0, 1, 3, 4, 6, 7, 9]),
            (["--topic", "*.git"], []),
            (["--topic", "*.[gx]it.branc?"], [1, 4, 7]),
            (["--topic", "*.branch", "--topic", f"{PREFIX}.bodhi"], [1, 2, 4, 5, 7, 8]),
            (["--msg-id", "2026-7"], [7]),
            (["--msg-id", "2026"], []),
            (["--msg-id", "2026-3", "--msg-id", "2026-1"], [1, 3]),
            (["--lines", "3"], [7, 8, 9]),
            (["-n0"], []),
            (["-n", "100"], range(10)),
            (["-n", "2", "--topic", "*.branch"], [4, 7]),
            (["-n", "2", "--until", "@1796040004"], [3, 4]),
            (["-n", "5", "--since", "@1796040008"], [8, 9]),
            (["--reverse"], range(9, -1, -1)),
            (["-r", "-n", "2", "--until", "@1796040004"], [4, 3]),
            (["-r", "--since", "@1796040008", "--topic", "*.bodhi.*"], [8]),
        ],
    )
    def test_what_is_selected(self, site: Site, options: list[str], numbers: Any) -> None:
        if numbers is not None:
            assert shown(site, *options) == list(numbers)

    @pytest.mark.parametrize("name", ["--since", "-S"])
    def test_a_time_before_now(self, site: Site, directory: Path, name: str) -> None:
        with Journal(directory) as going_on:
            going_on.append(fedmsg(10))
        assert shown(site, name, "-1h") in ([10], [*range(10), 10])  # these come at noon
        assert shown(site, "--until", "-520w") == []

    def test_the_last_line_of_a_time_is_shown_and_no_json_has_no_id(
        self, site: Site, directory: Path
    ) -> None:
        with Journal(directory) as going_on:
            going_on.append([b"2026-7"], [b"a", b"2026-7"], [b"a", b'["2026-7"]'], at=AT + 10)
        assert shown(site, "--msg-id", "2026-7") == [7]

    def test_the_clock_was_set_back(self, site: Site, directory: Path) -> None:
        with Journal(directory) as going_on:
            going_on.append(fedmsg(10), fedmsg(11), at=AT - 30)
            going_on.append(fedmsg(12), at=AT + 10)
        assert shown(site, "--until", "@1796040001") == [0, 1, 10, 11]
        assert shown(site, "--since", "@1796039971", "--until", "@1796039999") == [11]
        assert shown(site, "-n", "3", "--since", "@1796040000") == [8, 9, 12]

    def test_the_clock_was_set_back_far_from_there(self, site: Site, directory: Path) -> None:
        with Journal(directory) as going_on:
            going_on.append(*map(fedmsg, range(10, 3010)), at=AT + 10, every_s=0.01)
            going_on.append(*map(fedmsg, range(3010, 6010)), at=AT + 20, every_s=0.01)
        assert shown(site, "--since", "@1796040020", "--until", "@1796040021") == [
            *range(1010, 1111),
            *range(3010, 3111),
        ]

    def test_of_many_segments(self, site: Site, directory: Path) -> None:
        with Journal(directory, size_max=100_000) as rotating:
            rotating.append(*(fedmsg(n, text="x" * 1000) for n in range(10, 60)), at=AT + 10)
            assert len(rotating.segments()) > 5
        assert shown(site, "--since", "@1796040030", "--until", "@1796040050") == [*range(30, 51)]
        assert shown(site, "-n", "20") == [*range(40, 60)]
        assert shown(site, "-r", "-n", "20") == [*range(59, 39, -1)]


class TestFollow:
    def follow(self, site: Site, *options: object) -> Process:
        return site.start(
            BIN / NAME, "--directory", "journal", "--follow", "--json", *map(str, options)
        )

    def numbers(self, process: Process) -> list[int]:
        lines = process.output.splitlines(keepends=True)
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        return [line["body"]["msg"]["n"] for line in whole]

    def test_what_comes_is_shown_until_ctrl_c(self, site: Site, directory: Path) -> None:
        with Journal(directory, size_max=100_000) as live:
            live.append(*map(fedmsg, range(20)))
            following = self.follow(site)
            wait_for(lambda: len(self.numbers(following)) >= 10, "the last ten")
            for number in range(20, 120):  # over many segments
                live.append(fedmsg(number, text="x" * 1000))
                wait_for(lambda n=number: n in self.numbers(following), f"number {number}")
            assert following.end(signal.SIGINT) == 0
        assert self.numbers(following) == [*range(10, 120)]

    @pytest.mark.parametrize(
        ("options", "first"),
        [(["-n0"], []), (["--since", "-1h"], [*range(20)]), (["-n", "1"], [19])],
    )
    def test_where_it_begins(
        self, site: Site, directory: Path, options: list[str], first: list[int]
    ) -> None:
        with Journal(directory) as live:
            live.append(*map(fedmsg, range(20)))
            following = self.follow(site, *options, "--topic", "*.later", "--topic", "*.made")
            wait_for(lambda: len(self.numbers(following)) >= len(first), "the first")
            shows_it = [*first, 21]
            # Until the command has begun, what comes may belong to what is there already.
            deadline = time.monotonic() + 30
            while self.numbers(following) == first and time.monotonic() < deadline:
                live.append(fedmsg(20, "other"), fedmsg(21, "later"))
                time.sleep(0.1)
            assert self.numbers(following)[: len(shows_it)] == shows_it
            following.end(signal.SIGINT)

    def test_an_empty_journal(self, site: Site, directory: Path) -> None:
        with Journal(directory) as live:
            following = self.follow(site)
            wait_for(lambda: Path(f"/proc/{following.pid}/wchan").exists(), "its start")
            live.append(fedmsg(0))
            wait_for(lambda: self.numbers(following) == [0], "the first message")
            following.end(signal.SIGINT)

    def test_until_a_time(self, site: Site, directory: Path) -> None:
        with Journal(directory) as live:
            live.append(fedmsg(0))
            following = self.follow(site, "--until", "+2s")
            wait_for(lambda: self.numbers(following) == [0], "the first message")
            live.append(fedmsg(1), at=time.time() + 100)
            assert following.wait() == 0
        assert self.numbers(following) == [0]

    def test_it_ends_with_its_reader(self, site: Site, directory: Path) -> None:
        with Journal(directory) as live:
            live.append(fedmsg(0))
            reading, writing_end = os.pipe()
            following = site.start(BIN / NAME, "--directory", "journal", "-f", stdout=writing_end)
            os.close(writing_end)
            assert os.read(reading, 2**16)
            os.close(reading)
            assert following.wait() == 1  # though no message comes
        assert following.output == ""

    def test_the_journal_goes_away(self, site: Site, directory: Path) -> None:
        made(directory, fedmsg(0))
        following = self.follow(site)
        wait_for(lambda: self.numbers(following) == [0], "the message")
        directory.rename(site.root / "elsewhere")
        assert following.wait() == 1
        assert f"{NAME}: cannot read the journal journal: No such file" in following.output


class TestDamage:
    def test_the_rest_is_shown_and_the_damage_told(self, site: Site, directory: Path) -> None:
        (segment,) = made(directory, *map(fedmsg, range(10))).segments()
        at = damage(segment, b'"n": 3')
        done = journal(site, "--json")
        assert [json.loads(line)["body"]["msg"]["n"] for line in done.stdout.splitlines()] == [
            *(0, 1, 2),
            *range(4, 10),
        ]
        assert done.returncode == 1
        assert done.stderr == (
            f"{NAME}: 1 message missing among these: discarded by the relay, damaged, or removed\n"
            f"{NAME}: 1 damaged place skipped; --verify names each\n"
        )
        done = journal(site, "--verify")
        assert done.returncode == 1
        found = re.fullmatch(
            r"journal/(\d+.journal): (\d+) bytes at offset (\d+) are damaged\n", done.stdout
        )
        assert found is not None, done
        assert found[1] == segment.name
        assert int(found[3]) <= at < int(found[3]) + int(found[2])
        refused(done, 1, "1 damaged place, 9 messages whole, 1 missing")

    def test_each_place_of_many_segments(self, site: Site, directory: Path) -> None:
        with Journal(directory, size_max=100_000) as rotating:
            rotating.append(*(fedmsg(n, text="x" * 1000) for n in range(50)))
        one, two, three, *_ = rotating.segments()
        damage(one, b'"n": 1')
        three.write_bytes(b"")  # without a header nothing of it can be found
        two.write_bytes(two.read_bytes()[:-7])
        done = journal(site, "--verify")
        assert done.returncode == 1
        assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
            f"journal/{segment.name}" for segment in (one, two, three)
        ]

    def test_none(self, site: Site, directory: Path) -> None:
        with Journal(directory) as live:
            live.append(*map(fedmsg, range(10)))
            done = journal(site, "--verify")  # what is allocated ahead is no damage
        assert (done.returncode, done.stdout) == (0, "10 messages, all whole\n")

    def test_what_was_lost_is_told(self, site: Site, directory: Path) -> None:
        with Journal(directory) as live:
            live.append(fedmsg(0))
            live.lose(5)
            live.append(fedmsg(1))
        done = journal(site)
        assert done.returncode == 0
        assert len(done.stdout.splitlines()) == 2
        assert done.stderr.startswith(f"{NAME}: 5 messages missing among these: ")
        assert journal(site, "--verify").stdout == "2 messages, all whole, 5 missing\n"

    def test_followed_it_is_told_at_once(self, site: Site, directory: Path) -> None:
        with Journal(directory) as live:
            live.append(fedmsg(0))
            following = site.start(BIN / NAME, "--directory", "journal", "--follow")
            following.wait_for('"n": 0')
            live.lose(2)
            live.append(fedmsg(1))
            following.wait_for("2 messages missing")
            assert following.end(signal.SIGINT) == 0


class TestStats:
    def test_how_much_there_is(self, site: Site, directory: Path) -> None:
        live = made(directory, *map(fedmsg, range(10)), at=AT)
        done = journal(site, "--stats")
        assert done.returncode == 0
        size = sum(segment.stat().st_size for segment in live.segments())
        assert done.stdout.split("\n") == [
            "segments  1",
            "messages  10",
            f"size      {size / 1024:.1f} KiB",
            "from      2026-11-30 12:00:00.000",
            "to        2026-11-30 12:00:09.000",
            "",
        ]
        assert json.loads(journal(site, "--stats", "--json").stdout) == {
            "segments": 1,
            "messages": 10,
            "bytes": size,
            "first_time": AT,
            "last_time": AT + 9,
        }

    def test_of_an_empty_journal(self, site: Site, directory: Path) -> None:
        made(directory)
        done = journal(site, "--stats", "--json")
        assert done.returncode == 0
        fields = json.loads(done.stdout)
        assert (fields["messages"], fields["first_time"], fields["last_time"]) == (0, None, None)


class TestRefusals:
    @pytest.mark.parametrize("action", [[], ["-n", "1"], ["-f"], ["--verify"], ["--stats"]])
    def test_no_directory(self, site: Site, action: list[str]) -> None:
        refused(journal(site, *action), 1, "cannot read the journal journal: No such file")

    @pytest.mark.parametrize("action", [[], ["--verify"], ["--stats"]])
    def test_no_journal(self, site: Site, directory: Path, action: list[str]) -> None:
        directory.mkdir()
        refused(journal(site, *action), 1, "journal is not a journal: it has no segments")

    @pytest.mark.parametrize("action", [[], ["-n", "1"], ["-f"], ["--verify"], ["--stats"]])
    def test_of_a_newer_version(self, site: Site, directory: Path, action: list[str]) -> None:
        newer(made(directory, fedmsg(1)))
        refused(journal(site, *action), 1, "its format is of version 9")

    @pytest.mark.parametrize("action", [[], ["-n", "1"], ["-f"], ["--verify"], ["--stats"]])
    @pytest.mark.parametrize("what", ["directory", "segment"])
    @pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
    def test_without_permission(
        self, site: Site, directory: Path, what: str, action: list[str]
    ) -> None:
        (segment,) = made(directory, fedmsg(1)).segments()
        (directory if what == "directory" else segment).chmod(0)
        done = site.run(
            *("/usr/bin/setpriv", "--bounding-set=-all"),  # root without root's capabilities
            *(BIN / NAME, "--directory", "journal", *action),
        )
        where = "journal" if what == "directory" else f"journal/{segment.name}"
        refused(done, 1, f"cannot read the journal {where}: Permission denied")

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--since", "noon"], "--since='noon': must be a time, such as '2026-11-30'"),
            (["--until", "-1x"], "'x' is no unit of time"),
            (["--follow", "--republish"], "--republish cannot be combined with --follow"),
            (["--reverse", "--republish"], "--republish cannot be combined with --reverse"),
            (["--verify", "--topic", "x"], "--verify cannot be combined with --topic"),
            (["--stats", "--since", "now"], "--stats cannot be combined with --since"),
            (["--reverse", "--follow"], "--reverse cannot be combined with --follow"),
            (["--rate", "5"], "--rate requires --republish"),
        ],
    )
    def test_wrong_usage(self, site: Site, directory: Path, options: list[str], says: str) -> None:
        made(directory, fedmsg(1))
        refused(journal(site, *options), 2, says)

    @pytest.mark.parametrize(
        "options", [["--lines", "-1"], ["--lines", "x"], ["--republish", "--rate", "0"], ["more"]]
    )
    def test_what_argparse_refuses(self, site: Site, options: list[str]) -> None:
        assert journal(site, *options).returncode == 2


class TestConfig:
    def test_the_directory_of_the_config(self, site: Site, directory: Path) -> None:
        made(directory, fedmsg(1))
        site.write(relay_journal=str(directory))
        done = site.run(NAME)
        assert done.returncode == 0, done
        assert '{"n": 1}' in done.stdout

    def test_the_file_that_is_named(self, site: Site, directory: Path) -> None:
        made(directory, fedmsg(1))
        other = site.root / "other.py"
        other.write_text(f"config = {{'relay_journal': {str(directory)!r}}}\n")
        site.write("raise AssertionError")
        done = site.run(NAME, "--config-filename", "other.py")
        assert done.returncode == 0, done
        assert '{"n": 1}' in done.stdout

    @pytest.mark.parametrize(
        ("value", "says"), [(None, "relay_journal: not set"), (5, "relay_journal = 5: must be")]
    )
    def test_none(self, site: Site, value: object, says: str) -> None:
        site.write(relay_journal=value)
        refused(site.run(NAME), 6, says)

    def test_a_broken_config(self, site: Site) -> None:
        site.write("config = {")
        refused(site.run(NAME), 6, "site.py:1: SyntaxError")

    def test_no_config_of_others_is_executed(self, site: Site, directory: Path) -> None:
        made(directory, fedmsg(1))
        site.write("raise AssertionError")
        site.root.chmod(0o777)
        done = site.run(NAME)
        assert done.returncode == 6
        assert "is skipped, as other users may write there" in done.stderr

    def test_fedmsg_is_not_loaded_where_the_directory_is_named(
        self, site: Site, directory: Path
    ) -> None:
        made(directory, fedmsg(1))
        site.write("raise AssertionError")
        site.environ["PYTHONPROFILEIMPORTTIME"] = "1"
        for options in ([], ["--help"], ["--verify"], ["--stats"], ["-n", "1"]):
            done = journal(site, *options)
            assert done.returncode == 0, done
            loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
            assert "fedmsg_relay.commands.journal" in loaded
            assert not loaded & {"fedmsg", "zmq", "asyncio", "logging"}


class TestProcess:
    def many(self, directory: Path) -> None:
        made(directory, *(fedmsg(n, text="x" * 1000) for n in range(1000)))

    def test_its_reader_has_closed(self, site: Site, directory: Path) -> None:
        self.many(directory)
        done = site.run(
            *("/bin/bash", "-c"),
            f"{BIN / NAME} -D journal --json | head -n 1; echo ${{PIPESTATUS[0]}}",
        )
        line, status = done.stdout.splitlines()
        assert (status, done.stderr) == ("1", "")
        assert json.loads(line)["body"]["msg"] == {"n": 0}

    @pytest.mark.parametrize("options", ["", "-r", "-n 3", "--stats", "--verify", "--follow"])
    def test_a_full_disk(self, site: Site, directory: Path, options: str) -> None:
        self.many(directory)
        done = site.run("/bin/bash", "-c", f"{BIN / NAME} -D journal {options} > /dev/full")
        refused(done, 1, "cannot write to standard output: No space left on device")

    def test_without_standard_streams(self, site: Site, directory: Path) -> None:
        self.many(directory)
        done = site.run("/bin/bash", "-c", f"{BIN / NAME} -D journal <&- >&- 2>&-")
        assert done.returncode == 0

    def test_characters_that_the_terminal_has_not(self, site: Site, directory: Path) -> None:
        made(directory, ["größe".encode(), '"ä→"'.encode()])
        site.environ["PYTHONIOENCODING"] = "latin-1"
        done = site.run("/bin/bash", "-c", f"{BIN / NAME} -D journal | iconv -f latin1 -t utf8")
        assert done.stdout.split(" ", 2)[2] == 'größe "ä\\u2192"\n'

    def test_ctrl_c(self, directory: Path) -> None:
        self.many(directory)
        with subprocess.Popen(
            [BIN / NAME, "-D", directory], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as showing:
            assert showing.stdout is not None
            assert showing.stderr is not None
            assert showing.stdout.read(1)  # it writes, until the pipe is full
            showing.send_signal(signal.SIGINT)
            status = showing.wait(DEADLINE_S)
            assert (status, showing.stderr.read()) == (130, b"fedmsg-relay-journal: interrupted\n")

    @pytest.mark.timeout(300)
    def test_memory_is_bounded(self, site: Site, directory: Path) -> None:
        with Journal(directory, size_max=2**30) as live:
            for _ in range(30):
                live.append([b"large", bytes(4 * 2**20)])
        for options, lines in ("", 30), ("-n 25", 25), ("-r", 30), ("--json", 30), ("--verify", 1):
            command = f"ulimit -v 100000; {BIN / NAME} -D journal {options} | wc -l"
            done = site.run("/bin/bash", "-o", "pipefail", "-c", command)
            assert (done.returncode, done.stdout, done.stderr) == (0, f"{lines}\n", ""), options


def newer(live: Journal) -> None:
    """Make a journal one of a later version."""
    import zlib

    from fedmsg_relay.journal.segments import HEADER

    (segment,) = live.segments()
    content = bytearray(segment.read_bytes())
    for start in (0, HEADER.size):
        content[start + 8 : start + 12] = (9).to_bytes(4, "little")
        header = bytes(content[start : start + HEADER.size - 4])
        content[start + HEADER.size - 4 : start + HEADER.size] = zlib.crc32(header).to_bytes(
            4, "little"
        )
    segment.write_bytes(content)
