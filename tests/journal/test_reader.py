"""Readers: any number, without a lock, while the journal is written and segments are removed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from harness import DEADLINE_S
from journals import Journal, change, everything, newest, numbered

from fedmsg_relay.journal.positions import Bookmark
from fedmsg_relay.journal.reader import Reader, at_end, at_time, backwards
from fedmsg_relay.journal.segments import START, Position, listing, path

SUPPORT = Path(__file__).parents[1] / "support"

FOLLOW = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from journals import numbered
from fedmsg_relay.journal.reader import Reader
reader = Reader(Path(sys.argv[2]))
count, sequence, wrong, last = 0, 0, 0, b""
while last != b"end":
    for record in reader.read():
        count += 1
        wrong += record.sequence <= sequence
        sequence = record.sequence
        last = record.frames[0]
        wrong += last != b"end" and [record.frames] != numbered(sequence, sequence + 1)
print(json.dumps([count, reader.missing, reader.corrupt, wrong]))
"""


@pytest.mark.parametrize("size_max", [40_000, 400_000, 100_000_000])
def test_a_reader_in_another_process_follows(tmp_path: Path, size_max: int) -> None:
    """While segments rotate, and with the smaller limits are removed before it has read them.

    All that it does not get, it counts; what is half written when it looks is no damage.
    """
    total = size_max // 5 if size_max < 1_000_000 else 100_000
    directory = tmp_path / "journal"
    with Journal(directory, size_max=size_max) as journal:
        command = [sys.executable, "-c", FOLLOW, str(SUPPORT), str(directory)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
            try:
                sequence, batch = 1, 1
                while sequence < total:
                    batch = batch % 2000 + 37
                    journal.say(*numbered(sequence, sequence + batch))
                    sequence += batch
                journal.say([b"end"])
                output, _ = follower.communicate(timeout=2 * DEADLINE_S)
            finally:
                follower.kill()
    count, missing, corrupt, wrong = json.loads(output)
    assert (corrupt, wrong) == (0, 0)
    assert count + missing <= sequence
    if size_max == 100_000_000:
        assert (count, missing) == (sequence, 0)
    else:
        oldest = sequence - count - missing  # before its first look
        assert 0 <= oldest < sequence


class TestPosition:
    def test_it_is_where_another_reader_goes_on(self, tmp_path: Path) -> None:
        with Journal(tmp_path / "journal", size_max=100_000) as journal:
            journal.say(*numbered(0, 500))
        records = everything(journal.directory)
        reader = Reader(journal.directory)
        for number, record in enumerate(records):
            assert Reader(journal.directory, record.position).read(limit=1) == [record]
            assert (
                Reader(journal.directory, reader.position).read(limit=2)
                == (records[number : number + 2])
            )
            assert reader.read(limit=1) == [record]
        assert reader.read() == []
        assert reader.position == at_end(journal.directory)

    def test_at_the_end_what_comes_is_read(self, tmp_path: Path) -> None:
        """Also when it comes into another segment, from another writer."""
        directory = tmp_path / "journal"
        with Journal(directory) as journal:
            reader = Reader(directory, at_end(directory))
            assert reader.read() == []
            journal.say([b"0"])
            assert [record.frames for record in reader.read()] == [[b"0"]]
            journal.say([b"1"])
            reader = Reader(directory, at_end(directory))
            assert reader.read() == []
            journal.say([b"2"])
            assert [record.frames for record in reader.read()] == [[b"2"]]
        with Journal(directory) as journal:
            journal.say([b"3"])
            assert [record.frames for record in reader.read()] == [[b"3"]]
        assert reader.missing == 0

    def test_of_a_segment_that_was_removed(self, tmp_path: Path) -> None:
        with Journal(tmp_path / "journal", size_max=100_000) as journal:
            journal.say(*numbered(0, 500))
        records = everything(journal.directory)
        first, second, third, *_ = listing(journal.directory)
        reader = Reader(journal.directory, records[10].position)
        for segment in (first, second):
            os.unlink(path(journal.directory, segment))
        assert reader.read() == [record for record in records if record.sequence >= third]
        assert reader.missing == third - records[10].sequence

    @pytest.mark.parametrize("count", [5, 20, 50])
    @pytest.mark.parametrize("before", [20, 200])
    def test_of_a_journal_that_was_replaced(self, tmp_path: Path, before: int, count: int) -> None:
        """All of the new one is read, though its segment has the name of the old one, or a lower.

        Of the old one, the smaller has a segment and the larger several.
        """
        directory = tmp_path / "journal"
        with Journal(directory, size_max=100_000) as journal:
            journal.say(*numbered(0, before))
            reader = Reader(directory)
            reader.read(limit=before - 1)
            shutil.rmtree(directory)
        with Journal(directory) as journal:
            journal.say(*numbered(100, 100 + count))
            records = reader.read()
            assert [record.frames for record in records] == numbered(100, 100 + count)
        assert (reader.corrupt, reader.missing) == (0, 0)

    @pytest.mark.parametrize("size", [1, 5, 20, 200])
    def test_that_was_saved_and_is_of_a_journal_before(self, tmp_path: Path, size: int) -> None:
        """Replaced while no reader ran: all of the new one is read, be it smaller or larger."""
        directory = tmp_path / "journal"
        with Journal(directory) as journal:
            journal.say(*numbered(0, 20))
            bookmark = Bookmark(directory, "reader")
            bookmark.save(at_end(directory))
            saved = bookmark.load()
            assert not Reader(directory, saved).read()
            journal.say([b"another"])
            assert [record.frames for record in Reader(directory, saved).read()] == [[b"another"]]
        shutil.rmtree(directory)
        with Journal(directory) as journal:
            journal.say(*([b"longer" + bytes(number)] for number in range(size)))
            reader = Reader(directory, saved)
            assert len(reader.read()) == size
            assert (reader.corrupt, reader.missing) == (0, 0)

    def test_behind_a_tail_that_was_cut(self, tmp_path: Path) -> None:
        """As after a power failure: messages that a reader had are gone, and their numbers again.

        What is new is read, though a registered reader's position is behind it by number.
        """
        with Journal(tmp_path / "journal") as journal:
            journal.say(*numbered(0, 10))
            position = at_end(journal.directory)
            Bookmark(journal.directory, "reader").save(position)
            lost = journal.crashed(tmp_path / "crashed")
        os.truncate(newest(lost), everything(lost)[5].position.offset)
        with Journal(lost) as journal:
            journal.say([b"new"])
        reader = Reader(lost, Bookmark(lost, "reader").load())
        (record,) = reader.read()
        assert (record.sequence, record.frames) == (6, [b"new"])
        assert (reader.corrupt, reader.missing) == (0, 0)


def test_a_time_is_found(tmp_path: Path) -> None:
    """Everything from then on is behind the position, and not all of the journal."""
    with Journal(tmp_path / "journal", size_max=100_000) as journal:
        for number in range(1000):
            journal.say([b"%d" % number], time_us=(number // 2 + 1000) * 1_000_000)
    directory = journal.directory
    everyone = everything(directory)
    most = max(
        sum(record.position.segment == segment for record in everyone)
        for segment in listing(directory)
    )
    for seconds in (0, 999.5, 1000, 1000.5, 1100, 1234.999999, 1499, 1500, 2_000_000_000):
        records = everything(directory, at_time(directory, seconds))
        wanted = [record for record in everyone if record.time >= seconds]
        assert records[len(records) - len(wanted) :] == wanted
        assert len(records) - len(wanted) <= most


def bytes_read() -> int:
    """Return the bytes that this process has read by read(2) and its like."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_the_end_costs_little(tmp_path: Path) -> None:
    """What is allocated ahead is not looked through, however often somebody asks for more."""
    with Journal(tmp_path / "journal") as journal:
        journal.say(*numbered(0, 10))
        reader = Reader(journal.directory)
        reader.read()
        before = bytes_read()
        for number in range(10):
            assert reader.read() == []
            journal.say([b"%d" % number])
            assert len(reader.read()) == 1
        assert bytes_read() - before < newest(journal.directory).stat().st_size


class TestBackwards:
    def test_from_anywhere(self, tmp_path: Path) -> None:
        with Journal(tmp_path / "journal", size_max=100_000) as journal:
            journal.say(*numbered(0, 700))
            records = everything(journal.directory)
            assert list(backwards(journal.directory)) == records[::-1]
            for number in range(0, 700, 13):
                position = records[number].position
                assert list(backwards(journal.directory, position)) == records[:number][::-1]
            segment = listing(journal.directory)[1]
            start = [record for record in records if record.sequence < segment]
            assert list(backwards(journal.directory, Position(0, segment, 0))) == start[::-1]
            assert list(backwards(journal.directory, START)) == []

    def test_large_records_are_no_hindrance(self, tmp_path: Path) -> None:
        messages = [[bytes([number % 251]) * (number * 7919 % 300_000)] for number in range(100)]
        with Journal(tmp_path / "journal") as journal:
            journal.say(*messages)
            found = [record.frames for record in backwards(journal.directory)]
        assert found == messages[::-1]

    def test_segments_that_are_removed_meanwhile(self, tmp_path: Path) -> None:
        with Journal(tmp_path / "journal", size_max=100_000) as journal:
            journal.say(*numbered(0, 700))
        records = backwards(journal.directory)
        assert next(records).sequence == 700
        last = listing(journal.directory)[-1]
        for segment in listing(journal.directory):
            os.unlink(path(journal.directory, segment))
        assert [record.sequence for record in records] == [*range(699, last - 1, -1)]


class TestLimits:
    def test_of_records(self, tmp_path: Path) -> None:
        with Journal(tmp_path / "journal", size_max=100_000) as journal:
            journal.say(*numbered(0, 500))
        reader = Reader(journal.directory)
        assert [len(reader.read(limit)) for limit in (1, 7, 300, 1000, 1)] == [1, 7, 300, 192, 0]

    def test_of_bytes(self, tmp_path: Path) -> None:
        with Journal(tmp_path / "journal") as journal:
            journal.say(*([b"x" * 1000] for _ in range(100)))
        reader = Reader(journal.directory)
        assert len(reader.read(limit_bytes=10_000)) == 10
        assert len(reader.read(limit_bytes=1)) == 1

    def test_of_memory_and_descriptors(self, tmp_path: Path) -> None:
        """However much there is, large records and large damaged places included."""
        mib = 1024 * 1024
        with Journal(tmp_path / "journal", size_max=200 * mib) as journal:
            for _ in range(10):
                journal.say(*([os.urandom(1000)] for _ in range(500)), [os.urandom(2 * mib)])
                journal.say([os.urandom(3 * mib)])
        for record in [*everything(journal.directory)][500 :: 2 * 502]:
            segment = Path(path(journal.directory, record.position.segment))
            change(segment, record.position.offset + 12, b"\xff\xff\xff\x7f")  # its length
        descriptors = os.listdir("/proc/self/fd")
        tracemalloc.start()
        try:
            reader = Reader(journal.directory)
            count = 0
            while records := reader.read():
                count += len(records)
                del records
                assert os.listdir("/proc/self/fd") == descriptors
            assert (reader.corrupt, reader.missing, count) == (5, 5, 5_015)
            assert tracemalloc.get_traced_memory()[1] < 24 * mib
            tracemalloc.reset_peak()
            assert sum(1 for _ in backwards(journal.directory)) == 5_015
            assert tracemalloc.get_traced_memory()[1] < 24 * mib
        finally:
            tracemalloc.stop()
        assert os.listdir("/proc/self/fd") == descriptors


def test_readers_and_the_writer_in_threads(tmp_path: Path) -> None:
    """Four readers, each of which gets all, while one process writes and syncs."""
    counts: list[tuple[int, int, int]] = []

    def follow() -> None:
        reader = Reader(tmp_path / "journal")
        count = 0
        while count < 20_000:
            count += len(reader.read())
        counts.append((count, reader.corrupt, reader.missing))

    with Journal(tmp_path / "journal", sync=True) as journal:
        threads = [threading.Thread(target=follow) for _ in range(4)]
        for thread in threads:
            thread.start()
        for start in range(0, 20_000, 500):
            journal.say(*numbered(start, start + 500))
        for thread in threads:
            thread.join(DEADLINE_S)
    assert counts == [(20_000, 0, 0)] * 4
