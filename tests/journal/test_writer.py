"""The writer: one at a time, in a directory that fills up, is read-only, moved or removed."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import box
import pytest
from harness import DEADLINE_S
from journals import AGE_MAX_S, SIZE_MAX, Journal, everything, frames, newest, numbered

from fedmsg_relay.errors import JournalError, JournalNewer
from fedmsg_relay.journal import segments
from fedmsg_relay.journal.positions import Bookmark
from fedmsg_relay.journal.reader import Reader, at_end, at_time, backwards, stats
from fedmsg_relay.journal.records import Packer
from fedmsg_relay.journal.segments import DATA_START, HEADER, START, listing
from fedmsg_relay.journal.writer import Writer

SUPPORT = Path(__file__).parents[1] / "support"


class TestAppend:
    @pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
    def test_what_is_appended_can_be_read_at_once(self, tmp_path: Path, sync: bool) -> None:
        with Journal(tmp_path / "journal", sync=sync) as journal:
            journal.say(*numbered(0, 5), time_us=1_000_000_000_000_001)
            assert frames(journal.directory) == numbered(0, 5)
            journal.say(*numbered(5, 7))
            records = everything(journal.directory)
        assert [record.sequence for record in records] == [1, 2, 3, 4, 5, 6, 7]
        assert records[0].time == 1_000_000_000.000001
        assert everything(journal.directory) == records

    def test_a_batch_may_be_empty_and_may_be_of_many_segments(self, tmp_path: Path) -> None:
        with Journal(tmp_path / "journal", size_max=1_000_000) as journal:
            journal.say()
            assert listing(journal.directory) == []
            journal.say(*numbered(0, 5000))
            assert len(listing(journal.directory)) > 5
        assert frames(journal.directory) == numbered(0, 5000)

    def test_messages_of_all_sizes(self, tmp_path: Path) -> None:
        messages = [
            [b""],
            [b"%d" % number for number in range(1000)],
            [b"topic", os.urandom(20 * 1024 * 1024)],
            [b"behind"],
        ]
        with Journal(tmp_path / "journal") as journal:
            journal.say(*messages)
        assert frames(journal.directory) == messages
        large = everything(journal.directory)[2]
        assert large.sequence == large.position.segment
        assert list(backwards(journal.directory))[1] == large

    def test_a_message_larger_than_the_journal_is_counted_and_left_out(
        self, tmp_path: Path
    ) -> None:
        with Journal(tmp_path / "journal", size_max=100_000) as journal:
            journal.say([b"before"])
            journal.say([b"x" * 100_000], [b"behind"])
            assert (journal.writer.too_large, journal.writer.appended) == (1, 2)
        reader = Reader(journal.directory)
        assert [record.frames for record in reader.read()] == [[b"before"], [b"behind"]]
        assert reader.missing == 1

    def test_what_is_discarded_leaves_a_gap(self, tmp_path: Path) -> None:
        """Also what was packed before there was a writer, and between two of them."""
        with Journal(tmp_path / "journal") as journal:
            journal.say([b"first"])
        packer = Packer()
        packer.pack([b"lost"])
        for _ in range(2):
            with Journal(tmp_path / "journal", packer) as journal:
                journal.say([b"kept"])
                packer.pack([b"lost"])
                packer.pack([b"lost"])
                journal.say([b"kept"])
            packer.pack([b"lost"])
        reader = Reader(journal.directory)
        records = reader.read()
        assert [record.sequence for record in records] == [1, 3, 6, 8, 11]
        assert reader.missing == 6

    def test_a_journal_that_nothing_was_written_to(self, tmp_path: Path) -> None:
        directory = tmp_path / "journal"
        for _ in range(3):
            with Journal(directory) as journal:
                assert journal.writer.stats == stats(directory) == (0, 0, 0, None, None, {})
        assert everything(directory) == list(backwards(directory)) == []
        assert at_end(directory) == at_time(directory, 0) == START

    def test_what_it_has_is_told(self, tmp_path: Path) -> None:
        directory = tmp_path / "journal"
        for start in (0, 300):
            with Journal(directory, size_max=200_000) as journal:
                journal.say(*numbered(start, start + 100), time_us=start * 1_000_000 + 1_500_000)
                journal.packer.pack([b"lost"])
                journal.say(*numbered(start + 100, start + 300), time_us=2_000_000_000_000_000)
                told = journal.writer.stats
                assert told == stats(directory)
        assert told.segments == len(listing(directory)) > 3
        assert told.messages == len(everything(directory)) == 600
        assert (told.first_time, told.last_time) == (1.5, 2_000_000_000.0)
        sizes = sum(file.stat().st_size for file in directory.glob("*.journal"))
        assert stats(directory).bytes == sizes < told.bytes

    def test_allocation_ahead_is_given_back(self, tmp_path: Path) -> None:
        with Journal(tmp_path / "journal") as journal:
            journal.say([b"message"])
            assert newest(journal.directory).stat().st_size == SIZE_MAX / 16
        assert newest(journal.directory).stat().st_size < 1000


@pytest.mark.parametrize("umask", [0o777, 0o077, 0o022, 0])
def test_permissions_are_the_same_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    directory = tmp_path / "journal"
    before = os.umask(umask)
    try:
        with Journal(directory) as journal:
            journal.say([b"message"])
            Bookmark(directory, "reader").save(START)
    finally:
        os.umask(before)
    modes = {
        str(file.relative_to(tmp_path)): stat.S_IMODE(file.stat().st_mode)
        for file in (directory, *directory.rglob("*"))
    }
    assert modes == {
        "journal": 0o750,
        "journal/lock": 0o640,
        f"journal/{1:020}.journal": 0o640,
        "journal/readers": 0o750,
        "journal/readers/reader": 0o640,
    }


class TestLock:
    def test_a_second_writer_is_refused_with_the_pid_of_the_first(self, tmp_path: Path) -> None:
        directory = tmp_path / "journal"
        second = (
            "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
            "from journals import *\n"
            "try: Journal(Path(sys.argv[2])).say([b'second'])\n"
            "except Exception as error: print(type(error).__name__, error)"
        )
        command = [sys.executable, "-c", second, str(SUPPORT), str(directory)]
        with Journal(directory) as journal:
            journal.say([b"first"])
            refused = subprocess.run(command, capture_output=True, text=True, check=True)
            assert refused.stdout == (
                f"JournalBusy cannot write the journal {directory}: process {os.getpid()} writes"
                " it; end that, or choose another directory\n"
            )
            journal.say([b"first"])
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""
        assert frames(directory) == [[b"first"], [b"first"], [b"second"]]

    def test_a_failed_start_leaves_it_free(self, tmp_path: Path) -> None:
        directory = tmp_path / "journal"
        with Journal(directory) as journal:
            journal.say([b"message"])
            newer = _as_newer(directory)
        with pytest.raises(JournalNewer):
            Journal(directory)
        newer.unlink()
        Journal(directory).writer.close()


def _as_newer(directory: Path) -> Path:
    """Make the newest segment one of a newer version."""
    file = newest(directory)
    content = bytearray(file.read_bytes())
    header = segments.HEADER.unpack_from(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "VERSION", 2)
        content[: 2 * HEADER.size] = segments.pack_header(segments.Header(*header[2:-1]))
    file.write_bytes(content)
    return file


class TestVersions:
    def test_a_newer_one_is_refused_by_name(self, tmp_path: Path) -> None:
        directory = tmp_path / "journal"
        for number in range(2):
            with Journal(directory) as journal:
                journal.say([b"%d" % number])
        newer = _as_newer(directory)
        before = newer.read_bytes()
        reader = Reader(directory)
        assert [record.frames for record in reader.read()] == [[b"0"]]
        for ask in (
            reader.read,
            lambda: Journal(directory),
            lambda: at_end(directory),
            lambda: at_time(directory, 0),
            lambda: stats(directory),
        ):
            with pytest.raises(JournalNewer) as raised:
                ask()
            assert str(raised.value) == (
                f"cannot use the journal's {newer}: its format is of version 2, and this"
                " fedmsg-relay knows 1; install the newer one again, or choose another directory"
            )
        assert newer.read_bytes() == before

    def test_an_older_one_is_read_and_gone_on_with(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = tmp_path / "journal"
        with Journal(directory) as journal:
            journal.say([b"old"])
        monkeypatch.setattr(segments, "VERSION", 2)
        with Journal(directory) as journal:
            journal.say([b"new"])
        records = everything(directory)
        assert [(record.sequence, record.frames) for record in records] == [
            (1, [b"old"]),
            (2, [b"new"]),
        ]

    def test_a_directory_of_something_else_is_no_journal(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for ask in (Reader(tmp_path).read, lambda: at_end(tmp_path), lambda: stats(tmp_path)):
            with pytest.raises(JournalError, match="is not a journal"):
                ask()


class TestPlace:
    """The directory is removed or moved beneath the writer: told at once, and another one heals."""

    @pytest.mark.parametrize("what", ["directory", "lock", "segment", "moved", "replaced"])
    def test_it_is_told(self, tmp_path: Path, what: str) -> None:
        journal = Journal(tmp_path / "journal")
        journal.say([b"before"])
        directory = journal.directory
        if what == "directory":
            shutil.rmtree(directory)
        elif what == "lock":
            (directory / "lock").unlink()
        elif what == "segment":
            newest(directory).unlink()
        else:
            directory.rename(tmp_path / "elsewhere")
        if what == "replaced":
            Journal(directory).writer.close()
        for _ in range(2):
            with pytest.raises(OSError, match=r"No such file or directory|replaced by another"):
                journal.say([b"lost"])
        assert journal.writer.appended == 1
        journal.writer.close()
        with Journal(directory, journal.packer) as another:
            another.say([b"behind"])
        assert frames(directory)[-1:] == [[b"behind"]]
        if what in ("moved", "replaced"):
            assert frames(tmp_path / "elsewhere") == [[b"before"]]

    def test_a_parent_that_is_missing_is_named(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing"
        with pytest.raises(JournalError, match=f"there is no directory {missing}; make that"):
            Journal(missing / "journal")

    def test_a_file_in_its_place_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "journal").touch()
        with pytest.raises(NotADirectoryError):
            Journal(tmp_path / "journal")


def test_a_write_that_is_cut_short_leaves_whole_records(tmp_path: Path) -> None:
    """The kernel writes up to the limit of a file's size, which is mostly in a record's midst."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in range(2000, 2200, 7):
        directory = tmp_path / str(room)
        packer = Packer()
        writer = Writer(
            directory, packer.marker, size_max=SIZE_MAX, age_max_s=AGE_MAX_S, sync=False
        )
        reader = Reader(directory)
        packed = [packer.pack(frames) for frames in numbered(0, 100)]
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
            for _ in range(2):
                with pytest.raises(OSError, match="File too large"):
                    writer.append(packed)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        there = everything(directory, reader=reader)
        assert [record.frames for record in there] == numbered(0, writer.appended)
        assert 5 < len(there) < 30
        assert len(packed) == 100 - len(there)
        writer.append(packed)
        behind = [record.frames for record in everything(directory, reader=reader)]
        assert behind == numbered(len(there), 100)
        assert (reader.corrupt, reader.missing) == (0, 0)
        writer.close()
        assert writer.stats.messages == stats(directory).messages == 100


def test_writers_that_fail_leave_no_more_than_one_empty_segment(tmp_path: Path) -> None:
    """A reader that waits there goes on with what the next one writes."""
    directory = tmp_path / "journal"
    with Journal(directory) as journal:
        journal.say([b"before"])
    reader = Reader(directory)
    reader.read()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for packer in (Packer(), Packer()):
        for _ in range(3):
            with Journal(directory, packer) as journal:
                resource.setrlimit(resource.RLIMIT_FSIZE, (DATA_START, limits[1]))
                try:
                    with pytest.raises(OSError, match="File too large"):
                        journal.say([b"lost"])
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert reader.read() == []
        assert len(listing(directory)) == 2
    with Journal(directory, packer) as journal:
        journal.say([b"behind"])
    assert len(listing(directory)) == 2
    (record,) = reader.read()
    assert (record.sequence, record.frames) == (2 + 3, [b"behind"])
    assert (reader.corrupt, reader.missing) == (0, 3)


def mounted(tmp_path: Path, script: str) -> Any:
    """Run ``script`` where ``directory`` is a file system of 1 MB; return what it prints."""
    box.require("unshare")
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"
    if subprocess.run([*unshare, "sh", "-c", mount], check=False).returncode:
        box.skip("this machine cannot mount a file system in a namespace")
    head = (
        "import errno, json, subprocess, sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(SUPPORT)!r})\n"
        "from journals import *\n"
        "from fedmsg_relay.journal.positions import Bookmark\n"
        f"directory = Path({str(tmp_path)!r})\n"
    )
    done = subprocess.run(
        [*unshare, "sh", "-ec", f'{mount}; exec "$@"', "sh", sys.executable, "-c", head + script],
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


FILLED = """
filler = directory / "filler"
filler.write_bytes(bytes(500_000))
refused = 0
with Journal(directory / "journal", sync=True) as journal:
    said = 0
    while refused < 3:
        try:
            journal.say(*numbered(said, said + 50))
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
            refused += 1
        said += 50
    kept = journal.writer.appended
    before = frames(journal.directory)
    filler.unlink()
    journal.say(*numbered(said, said + 50))
    with open(directory / "lock", "w"):
        pass
reader = Reader(journal.directory)
records = everything(journal.directory, reader=reader)
print(json.dumps({
    "kept": kept,
    "served": len(before),
    "whole": before[:kept] == numbered(0, said)[:kept] and [
        record.frames for record in records[kept:]] == numbered(said, said + 50),
    "lost": said - kept,
    "corrupt": reader.corrupt,
    "missing": reader.missing,
}))
"""


def test_a_file_system_that_fills_up_and_is_emptied(tmp_path: Path) -> None:
    told = mounted(tmp_path, FILLED)
    assert told["whole"]
    assert told["kept"] == told["served"]
    assert 1000 < told["kept"] < 10_000
    assert told["corrupt"] == 0
    assert told["missing"] == told["lost"] != 0


FULL = """
with Journal(directory / "journal") as journal:
    journal.say([b"before"])
filler = open(directory / "filler", "wb", buffering=0)
try:
    while filler.write(bytes(4096)):
        pass
except OSError:
    pass
with Journal(directory / "journal") as journal:
    try:
        journal.say([b"lost"])
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
        filler.truncate(0)
        journal.say([b"behind"])
records = everything(directory / "journal")
print(json.dumps([[record.sequence, record.frames[0].decode()] for record in records]))
"""


SMALL = """
from fedmsg_relay.journal.reader import stats
with Journal(directory / "journal") as journal:  # of which a segment takes 4 MiB
    journal.say(*numbered(0, 10))
    said, found = journal.writer.stats.bytes, stats(directory / "journal").bytes
print(json.dumps([said, found]))
"""


def test_what_cannot_be_allocated_ahead_does_not_count(tmp_path: Path) -> None:
    said, found = mounted(tmp_path, SMALL)
    assert said == found < 10_000


def test_a_full_file_system_stops_no_writer_from_opening(tmp_path: Path) -> None:
    assert mounted(tmp_path, FULL) == [[1, "before"], [3, "behind"]]


BROKEN = """
image, disk = directory / "image", directory / "disk"
with image.open("wb") as file:
    file.truncate(20_000_000)  # without its blocks, of which there is less than a MB
subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image], check=True)
disk.mkdir()
subprocess.run(["mount", "-o", "loop", image, disk], check=True)
with Journal(disk / "journal", size_max=8_000_000, sync=True) as journal:
    journal.say(*numbered(0, 10))
    filler = open(directory / "filler", "wb", buffering=0)
    try:
        while filler.write(bytes(4096)):
            pass
    except OSError:
        pass
    refused = 0
    said = 10
    while refused < 3:
        try:
            journal.say(*numbered(said, said + 10))
        except OSError as error:
            assert error.errno in (errno.ENOSPC, errno.EIO), error
            refused += 1
        said += 10
    kept = journal.writer.appended
    filler.truncate(0)
    journal.say(*numbered(said, said + 10))
    appended = journal.writer.appended
reader = Reader(disk / "journal")
records = [record.frames for record in everything(disk / "journal", reader=reader)]
print(json.dumps({
    "kept": kept == said - 30 < 1000,  # long before the segment is full
    "healed": appended == kept + 10,
    "whole": records[:kept] == numbered(0, kept) and records[-10:] == numbered(said, said + 10),
    "lost": said + 10 - len(records) == reader.missing,
    "corrupt": reader.corrupt,
}))
subprocess.run(["umount", disk], check=True)
"""


def test_a_disk_that_fails_at_the_flush(tmp_path: Path) -> None:
    """Writing succeeds there, as into memory; what is not known to be on disk does not count."""
    box.require("mkfs.ext4")
    assert mounted(tmp_path, BROKEN) == {
        "kept": True,
        "healed": True,
        "whole": True,
        "lost": True,
        "corrupt": 0,
    }


READ_ONLY = """
with Journal(directory / "journal") as journal:
    journal.say([b"message"])
bookmark = Bookmark(directory / "journal", "reader")
bookmark.save(Position(2, 1, 200))
subprocess.run(["mount", "-o", "remount,ro", directory], check=True)
told = {}
for name, ask in {
    "writer": lambda: Journal(directory / "journal"),
    "bookmark": lambda: bookmark.save(Position(0, 0, 0)),
}.items():
    try:
        ask()
    except OSError as error:
        told[name] = errno.errorcode[error.errno]
told["read"] = frames(directory / "journal") == [[b"message"]]
told["position"] = bookmark.load() == Position(2, 1, 200)
print(json.dumps(told))
"""


def test_a_read_only_file_system_is_told_and_read(tmp_path: Path) -> None:
    assert mounted(tmp_path, READ_ONLY) == {
        "writer": "EROFS",
        "bookmark": "EROFS",
        "read": True,
        "position": True,
    }
