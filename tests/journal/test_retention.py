"""What a journal keeps: by size and by age, and for whom longer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from journals import Journal, everything, numbered

from fedmsg_relay.journal.positions import Bookmark, registered
from fedmsg_relay.journal.reader import Reader, at_end, backwards, stats
from fedmsg_relay.journal.segments import START, Position, listing, path

SIZE_MAX = 100_000
HOUR_US = 3_600_000_000


def size_of(directory: Path) -> int:
    files = [*directory.glob("*.journal"), *directory.glob("*.index")]
    return sum(file.stat().st_size for file in files)


class TestSize:
    @pytest.mark.parametrize("size_max", [10_000, SIZE_MAX, 1_000_000])
    def test_it_is_kept_and_used(self, tmp_path: Path, size_max: int) -> None:
        """With small batches and large ones, and messages that have a segment of their own."""
        said = 0
        with Journal(tmp_path / "journal", size_max=size_max) as journal:
            for batch in [1, 2, 10, 100, 1000] * 3:
                for _ in range(5):
                    journal.say(*numbered(said, said + batch))
                    said += batch
                    assert size_of(journal.directory) <= size_max
                journal.say([b"x" * (size_max // 3)])
                said += 1
                assert size_of(journal.directory) <= size_max
            assert size_of(journal.directory) > size_max / 2
            records = everything(journal.directory)
            assert records[-1].sequence == said
            assert journal.writer.stats.messages == len(records)
            assert journal.writer.stats.bytes == size_of(journal.directory)

    def test_the_indexes_count_and_go_with_their_segments(self, tmp_path: Path) -> None:
        with Journal(tmp_path / "journal", size_max=SIZE_MAX) as journal:
            for start in range(0, 20_000, 100):
                for segment in listing(journal.directory)[:-1]:
                    Path(path(journal.directory, segment, "index")).write_bytes(bytes(5000))
                journal.say(*numbered(start, start + 100))
            indexed = {int(file.stem) for file in journal.directory.glob("*.index")}
            assert len(indexed) > 3
            assert indexed <= set(listing(journal.directory))
            journal.say(*numbered(0, 100))
            assert size_of(journal.directory) <= SIZE_MAX + 5000  # of the index made last

    def test_a_smaller_limit_holds_from_the_next_segment_on(self, tmp_path: Path) -> None:
        with Journal(tmp_path / "journal", size_max=SIZE_MAX) as journal:
            journal.say(*numbered(0, 3000))
        with Journal(tmp_path / "journal", size_max=SIZE_MAX // 4) as journal:
            journal.say([b"behind"])
        assert size_of(journal.directory) <= SIZE_MAX // 4
        assert everything(journal.directory)[-1].sequence == 3001

    def test_what_a_registered_reader_loses_is_counted(self, tmp_path: Path) -> None:
        directory = tmp_path / "journal"
        with Journal(directory, size_max=SIZE_MAX) as journal:
            journal.say(*numbered(0, 100))
            reader = Reader(directory)
            reader.read(limit=30)
            Bookmark(directory, "slow").save(reader.position)
            Bookmark(directory, "away").save(START)
            for start in range(100, 3000, 100):
                journal.say(*numbered(start, start + 100))
            oldest = everything(directory)[0].sequence
            assert oldest > 101
            assert journal.writer.stats.overrun == {"slow": oldest - 31, "away": oldest - 1}
            reader.read()
            assert reader.missing == oldest - 31
            Bookmark(directory, "slow").save(at_end(directory))
            Bookmark(directory, "away").remove()
            before = journal.writer.stats.overrun
            journal.say(*numbered(3000, 3500))
            assert everything(directory)[0].sequence > oldest
            assert journal.writer.stats.overrun == before


class TestAge:
    def test_segments_go_when_their_last_message_is_too_old(self, tmp_path: Path) -> None:
        now_us = time.time_ns() // 1000
        with Journal(tmp_path / "journal", size_max=SIZE_MAX, age_max_s=3 * 3600) as journal:
            for hours in (5, 4, 2, 1, 0):
                journal.say(*numbered(hours, hours + 1), time_us=now_us - hours * HOUR_US)
                journal.writer.retain()
            kept = everything(journal.directory)
            assert [record.sequence for record in kept] == [3, 4, 5]
            assert journal.writer.stats == stats(journal.directory)
            assert journal.writer.stats.messages == 3
        with Journal(tmp_path / "journal", age_max_s=1800) as journal:
            journal.writer.retain()
            # Of the segment before the newest is known that the newest began when it was over.
            assert [record.sequence for record in everything(journal.directory)] == [4, 5]

    def test_it_counts_also_where_nothing_is_said(self, tmp_path: Path) -> None:
        """All of it goes, and the numbers go on, for this writer and for the next one."""
        directory = tmp_path / "journal"
        old_us = time.time_ns() // 1000 - 2 * HOUR_US
        with Journal(directory, age_max_s=3600) as journal:
            journal.say([b"old"], [b"old"], time_us=old_us)
            journal.writer.retain()
            assert everything(directory) == list(backwards(directory)) == []
            assert journal.writer.stats.messages == stats(directory).messages == 0
            assert journal.writer.stats.first_time is None
            journal.writer.retain()
            assert len(listing(directory)) == 1
        for sequence in (3, 4):
            with Journal(directory, age_max_s=3600) as journal:
                journal.say([b"new"])
                assert everything(directory)[-1].sequence == sequence
                assert journal.writer.stats == stats(directory)

    def test_a_registered_reader_keeps_what_it_has_not_passed(self, tmp_path: Path) -> None:
        directory = tmp_path / "journal"
        old_us = time.time_ns() // 1000 - 2 * HOUR_US
        bookmark = Bookmark(directory, "reader")
        with Journal(directory, age_max_s=3600) as journal:
            bookmark.save(START)
            for number in range(4):
                journal.say([b"%d" % number], time_us=old_us)
                journal.writer.retain()
            journal.say([b"new"])
            reader = Reader(directory)
            for left in (5, 4, 3, 2):
                journal.writer.retain()
                assert len(everything(directory)) == left
                reader.read(limit=1)
                bookmark.save(reader.position)
            bookmark.save(Position(0, 1, 0))
            journal.writer.retain()
            assert len(everything(directory)) == 2
            bookmark.remove()
            journal.writer.retain()
            assert len(everything(directory)) == 1


class TestBookmark:
    def test_what_is_saved_is_loaded(self, tmp_path: Path) -> None:
        bookmark = Bookmark(tmp_path, "reader")
        assert bookmark.load() is None
        bookmark.save(Position(7, 5, 300))
        bookmark.save(Position(8, 5, 400))
        assert Bookmark(tmp_path, "reader").load() == Position(8, 5, 400)
        assert registered(tmp_path) == {"reader": Position(8, 5, 400)}
        bookmark.remove()
        bookmark.remove()
        assert bookmark.load() is None
        assert registered(tmp_path) == {}

    def test_fields_are_saved_with_the_position(self, tmp_path: Path) -> None:
        bookmark = Bookmark(tmp_path, "reader")
        assert bookmark.load_with_fields() is None
        bookmark.save(Position(7, 5, 300))
        assert bookmark.load_with_fields() == (Position(7, 5, 300), {})
        bookmark.save(Position(7, 5, 300), run="ab", number=3)
        assert bookmark.load_with_fields() == (Position(7, 5, 300), {"run": "ab", "number": 3})
        assert bookmark.load() == Position(7, 5, 300)
        assert registered(tmp_path) == {"reader": Position(7, 5, 300)}

    @pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"sequence": 1}', "\xff"])
    def test_a_damaged_one_is_none_and_keeps_all(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "readers").mkdir()
        (tmp_path / "readers" / "reader").write_text(content, encoding="latin-1")
        assert Bookmark(tmp_path, "reader").load() is None
        assert registered(tmp_path) == {"reader": START}

    @pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\0b"])
    def test_a_name_is_a_file_in_the_directory(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ValueError, match="not a reader's name"):
            Bookmark(tmp_path, name)
