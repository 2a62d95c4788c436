"""The journal over HTTP: what a real relay answers, to whom, and the process that does it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import load
import pytest
from harness import DEADLINE_S, Process, Site, altered, free_port, hastened, listens, wait_for

TOPICS = ("org.fedoraproject.dev.git.receive", "org.fedoraproject.dev.wiki.edit")
ALL = "/raw?order=asc&rows_per_page=100"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, relay_http=free_port(), relay_journal=str(tmp_path / "journal")) as made:
        yield made


def body(number: int, **more: Any) -> bytes:
    """A message as nobody would encode it twice: with a space where none need be."""
    message = {"msg": {"number": number}, "msg_id": f"2026-{number}", "timestamp": int(time.time())}
    return json.dumps({"topic": TOPICS[number % 2], **message, **more}).encode() + b" "


def publish(site: Site, *bodies: bytes) -> None:
    """Publish messages; they are in the journal when this returns."""
    publisher, subscriber = site.publisher(), site.subscriber()
    for content in bodies:
        publisher.send(b"topic", content)
    subscriber.wait(len(bodies))
    marker = json.dumps(time.monotonic())
    publisher.send(b"topic", json.dumps(json.loads(body(0, msg=marker, msg_id=marker))).encode())
    wait_for(lambda: get(site, f"/id?id={marker}")[0] == 200, "the last message in the journal")


def ask(
    site: Site, path: str, method: str = "GET", to: str = "127.0.0.1", source: str = ""
) -> tuple[int, dict[str, str], bytes]:
    """The status, the header and the body."""
    client = http.client.HTTPConnection(
        to, site.config["relay_http"], DEADLINE_S, (source, 0) if source else None
    )
    with contextlib.closing(client):
        client.request(method, path)
        answer = client.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


def get(site: Site, path: str) -> tuple[int, Any]:
    """The status, and what the JSON is."""
    status, header, content = ask(site, path)
    assert header["Content-Type"] == "application/json; charset=utf-8"
    return status, json.loads(content)


def numbers(answer: dict[str, Any]) -> list[int]:
    return [each["msg"]["number"] for each in answer["raw_messages"] if "number" in each["msg"]]


def captured(site: Site) -> int:
    """How many messages the journal has, or will have once they are written."""
    journal = json.loads(ask(site, "/status.json")[2])["journal"]
    return int(journal["captured"])


def archivist(relay: Process) -> int:
    """The process that answers for a relay, once it is up."""

    def named() -> list[int]:
        pids = Path(f"/proc/{relay.pid}/task").glob("*/children")
        return [
            int(pid)
            for path in pids
            for pid in path.read_text().split()
            if Path(f"/proc/{pid}/comm").read_text() == "relay-archivist\n"
        ]

    (pid,) = wait_for(named, "the process")
    return int(pid)


def opened(pid: int) -> set[str]:
    """What a process has open."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(os.readlink(path))
    return found


def is_gone(pid: int) -> bool:
    try:
        return load.stat(pid)[0] == "Z"
    except FileNotFoundError:
        return True


def test_messages_are_answered_as_they_were_published(site: Site) -> None:
    site.relay()
    bodies = [body(number) for number in range(5)]
    publish(site, *bodies[:3], b"not JSON", b"[]", *bodies[3:])
    status, header, content = ask(site, ALL)
    assert (status, header["Content-Length"]) == (200, str(len(content)))
    assert header["X-Content-Type-Options"] == "nosniff"
    assert content.startswith(b'{"raw_messages": [' + b",".join(bodies))
    answer = json.loads(content)
    assert (answer["total"], answer["count"], answer["pages"]) == (6, 6, 1)
    assert ask(site, "/id?id=2026-3")[2] == bodies[3]
    assert get(site, "/id?id=2026-5") == (
        404,
        {"error": "id = '2026-5': the journal has no such message"},
    )


def test_pages(site: Site) -> None:
    site.relay()
    publish(site, *(body(number) for number in range(8)))
    of_git = f"topic={TOPICS[0]}&topic=unknown&rows_per_page=2"
    assert numbers(get(site, f"/raw?{of_git}&page=2&order=asc")[1]) == [4, 6]
    assert numbers(get(site, f"/raw?{of_git}&page=2")[1]) == [4, 2]
    last = get(site, f"/raw?{of_git}&page=9")[1]
    assert (last["raw_messages"], last["count"], last["total"], last["pages"]) == ([], 0, 5, 3)
    assert numbers(get(site, "/raw?category=wiki&order=asc")[1]) == [1, 3, 5, 7]
    assert numbers(get(site, "/raw?delta=600&rows_per_page=3")[1]) == [7, 6]
    assert get(site, "/raw?end=1000")[1]["total"] == 0
    assert get(site, "/raw?page=0")[0] == 400
    assert get(site, "/raw/?rows_per_page=1")[1]["count"] == 1
    assert get(site, "/id/?id=2026-1")[0] == 200


BATCHES_ARE_RARE = altered("from fedmsg_relay.relay import recorder", "recorder.WRITE_S = 1.0")
"""A relay that takes its time to write the journal, as with a slow disk.  That is a fake."""


def test_what_has_been_passed_on_is_there(site: Site) -> None:
    """Though not written yet: a hub that has just connected gets it in no other way."""
    site.relay(command=BATCHES_ARE_RARE)
    publish(site, body(0))
    before = captured(site)
    subscriber, publisher = site.subscriber(), site.publisher()
    for number in range(1, 6):
        publisher.send(b"topic", body(number))
        subscriber.wait(number)
        wait_for(lambda number=number: captured(site) == before + number, "its copy")
        query = f"rows_per_page=100&page=1&start=1000&end={int(time.time())}&order=asc"
        assert numbers(get(site, f"/raw?{query}")[1]) == list(range(number + 1))


@pytest.mark.parametrize(("off_s", "comes"), [(5, [1, 2, 3]), (-5, [0, 1, 2, 3]), (50, [1])])
def test_the_clock_of_the_last_publisher_may_be_ahead(
    site: Site, off_s: float, comes: list[int]
) -> None:
    """What others have published since is there, if not of a clock that is off by far."""
    site.relay()
    last = int(time.time() + off_s)
    publish(site, body(0), body(1, timestamp=last))
    publish(site, body(2), body(3))
    query = f"rows_per_page=100&page=1&start={last}&end={int(time.time())}&order=asc"
    assert numbers(get(site, f"/raw?{query}")[1]) == comes


def test_other_methods(site: Site) -> None:
    site.relay()
    publish(site, body(1))
    status, header, content = ask(site, ALL, "HEAD")
    assert (status, content) == (200, b"")
    assert header["Content-Length"] == str(len(ask(site, ALL)[2]))
    for path in ("/raw", "/id?id=1"):
        assert ask(site, path, "POST")[0] == 405


def test_without_a_journal_there_is_nothing(site: Site) -> None:
    del site.config["relay_journal"]
    site.write()
    relay = site.relay()
    for path in ("/raw", "/id?id=1"):
        status, _, content = ask(site, path)
        assert status == 404
        assert b"relay_journal is not set" in content
    assert ask(site, "/healthz")[0] == 200
    assert not Path(f"/proc/{relay.pid}/task/{relay.pid}/children").read_text()


@pytest.mark.parametrize(
    ("host", "allow", "to", "source", "gets_in"),
    [
        ("127.0.0.1", None, "127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", None, "127.0.0.1", "127.0.0.2", True),
        ("[::1]", None, "::1", "::1", True),
        ("*", None, "127.0.0.1", "127.0.0.1", True),
        ("*", None, "::1", "::1", True),
        ("127.0.0.1", ["192.0.2.0/24"], "127.0.0.1", "127.0.0.1", False),
        ("127.0.0.1", ["127.0.0.2", "::1"], "127.0.0.1", "127.0.0.2", True),
        ("127.0.0.1", ["127.0.0.2"], "127.0.0.1", "127.0.0.1", False),
        ("*", "127.0.0.2", "127.0.0.1", "127.0.0.2", True),
        ("*", "127.0.0.2", "127.0.0.1", "127.0.0.1", False),
        ("*", ["::ffff:127.0.0.2"], "127.0.0.1", "127.0.0.2", True),
        ("*", ["::/0"], "127.0.0.1", "127.0.0.1", False),
        ("*", ["0.0.0.0/0"], "::1", "::1", False),
    ],
    ids=str,
)
def test_who_may_read(
    site: Site, host: str, allow: object, to: str, source: str, gets_in: bool
) -> None:
    port = site.config["relay_http"]
    site.write(relay_http=f"{host}:{port}")
    if allow is not None:
        site.write(relay_http_allow=allow)
    site.relay()
    site.config["relay_http"] = port
    for path, there in (("/raw", 200), ("/id?id=none", 404)):
        status, _, content = ask(site, path, to=to, source=source)
        assert status == (there if gets_in else 403)
        assert gets_in or b"relay_http_allow does not include" in content
    assert ask(site, "/healthz", to=to, source=source)[0] == 200


@pytest.mark.parametrize("allow", ["example.org", [], ["10.0.0.1/8"], None])
def test_a_wrong_list_is_refused(site: Site, allow: object) -> None:
    site.write(relay_http_allow=allow)
    assert "relay_http_allow" in site.refused().stderr


def test_the_process_has_nothing_of_the_relays(site: Site) -> None:
    relay = site.relay("--pidfile", "pid", "--logfile", "log", until="")
    wait_for(lambda: listens(f"tcp://127.0.0.1:{site.config['relay_http']}"), "the port")
    pid = archivist(relay)
    assert get(site, "/raw")[0] == 200
    wait_for(lambda: len(opened(pid)) == 4, "the end of the request")
    errors = os.readlink(f"/proc/{pid}/fd/2")
    assert opened(pid) & opened(relay.pid) == {"/dev/null", errors, "anon_inode:[eventpoll]"}
    assert int(load.stat(pid)[16]) == 10
    assert Path(f"/proc/{relay.pid}/comm").read_text() == "fedmsg-relay\n"
    names = [Path(f"/proc/{child}/comm").read_text() for child in (relay.pid, pid)]
    assert names.count("fedmsg-relay\n") == 1


def test_a_process_that_is_killed_is_started_again(site: Site) -> None:
    relay = site.relay()
    publish(site, body(1))
    for _ in range(3):
        pid = archivist(relay)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: is_gone(pid), "its end")
        status, answer = get(site, ALL)
        assert status in (200, 503)
        if status == 503:
            assert answer["error"].startswith("the journal's reader has ended; ")
        assert ask(site, "/healthz")[0] == 200
        wait_for(lambda: get(site, ALL)[0] == 200, "an answer")
    assert relay.output.count("the reader for /raw and /id ended with -9; restarting it") == 1


def test_the_log_has_the_reason_why_the_process_ends(site: Site) -> None:
    broken = "archive.START = 'raise ImportError(\"no such module\")'"
    relay = site.start(*altered("from fedmsg_relay.web import archive", broken))
    relay.wait_for("ended with 1: ImportError: no such module; restarting it")
    assert relay.end() == 0


@pytest.mark.parametrize(
    ("query", "status"),
    [
        (b"topic=" + b'"' * 8000, 200),
        (b"topic=" + b'"' * 9000, 414),
        (b"topic=" + b"\x01" * 4000, 400),
        (b"topic=\xc3\xa9", 400),
    ],
    ids=["long", "too long", "control characters", "not encoded"],
)
def test_no_question_ends_the_process(site: Site, query: bytes, status: int) -> None:
    relay = site.relay()
    pid = archivist(relay)
    host = b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    address = "127.0.0.1", site.config["relay_http"]
    with socket.create_connection(address, DEADLINE_S) as client:
        client.sendall(b"GET /raw?" + query + host)
        assert client.recv(100).startswith(b"HTTP/1.1 %d " % status)
    assert get(site, ALL)[0] == 200
    assert archivist(relay) == pid


def test_a_process_that_hangs_is_ended(site: Site) -> None:
    relay = site.relay(command=hastened("web.archive.PATIENCE_S=1"))
    publish(site, body(1))
    pid = archivist(relay)
    os.kill(pid, signal.SIGSTOP)
    client = http.client.HTTPConnection("127.0.0.1", site.config["relay_http"], DEADLINE_S)
    with contextlib.closing(client):
        client.request("GET", "/raw")
        assert ask(site, "/healthz")[0] == 200  # while that waits
        answer = client.getresponse()
        assert answer.status == 504
        assert b"the journal does not answer" in answer.read()
    wait_for(lambda: is_gone(pid), "its end")
    wait_for(lambda: get(site, ALL)[0] == 200, "an answer")
    assert archivist(relay) != pid


@pytest.mark.parametrize("is_stopped", [False, True], ids=["well", "stopped"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_the_relay(site: Site, number: signal.Signals, is_stopped: bool) -> None:
    relay = site.relay()
    pid = archivist(relay)
    if is_stopped:
        os.kill(pid, signal.SIGSTOP)
    assert relay.end(number) == (-number if number is signal.SIGKILL else 0)
    wait_for(lambda: is_gone(pid), "its end")


def test_signals_to_the_service_are_the_relays(site: Site) -> None:
    relay = site.relay()
    pid = archivist(relay)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        os.kill(pid, number)
    assert get(site, "/raw")[0] == 200
    assert archivist(relay) == pid


def test_a_hand_over_brings_another_process(site: Site) -> None:
    first = site.relay("--pidfile", "pid")
    publish(site, body(1))
    pid = archivist(first)
    second = site.relay("--pidfile", "pid", "--replace")
    assert first.wait() == 0
    wait_for(lambda: is_gone(pid), "the end of the first")
    publish(site, body(2))
    assert numbers(get(site, ALL)[1]) == [1, 2]
    assert archivist(second) != pid


def test_a_journal_that_is_gone_is_said_so(site: Site) -> None:
    relay = site.relay()
    publish(site, body(1))
    shutil.move(site.config["relay_journal"], site.root / "elsewhere")

    def refused() -> bool:
        status, answer = get(site, "/raw")
        return status == 503 and "No such file or directory" in answer["error"]

    wait_for(refused, "503")
    shutil.rmtree(site.config["relay_journal"], ignore_errors=True)  # if the relay has made another
    shutil.move(site.root / "elsewhere", site.config["relay_journal"])
    wait_for(lambda: get(site, ALL)[0] == 200, "the journal again")
    assert numbers(get(site, ALL)[1])[:1] == [1]
    assert relay.poll() is None


def test_a_damaged_message_is_left_out(site: Site) -> None:
    site.relay()
    publish(site, *(body(number) for number in range(4)))
    assert get(site, "/raw")[1]["count"] == 5
    (segment,) = Path(site.config["relay_journal"]).glob("*.journal")
    with segment.open("r+b") as file:
        at = segment.read_bytes().index(b'"2026-2"')
        file.seek(at)
        file.write(b'"2027-2"')
    answer = get(site, ALL)[1]
    assert numbers(answer) == [0, 1, 3]
    assert answer["count"] == len(answer["raw_messages"]) == 4


def begin(site: Site, path: str, method: str = "GET") -> http.client.HTTPConnection:
    """A request whose answer is not read yet."""
    client = http.client.HTTPConnection("127.0.0.1", site.config["relay_http"], DEADLINE_S)
    client.request(method, path)
    return client


def test_a_process_that_has_much_to_do_does_not_count_as_hung(site: Site) -> None:
    relay = site.relay(command=hastened("web.archive.PATIENCE_S=2"))
    large = [body(number, msg={"number": number, "text": "x" * 4_000_000}) for number in range(40)]
    for at in range(0, 40, 5):  # no more than may wait for the disk
        publish(site, *large[at : at + 5])
    pid = archivist(relay)
    with contextlib.ExitStack() as opened:
        # HEAD: a page is made, and not sent.
        asked = [
            opened.enter_context(contextlib.closing(begin(site, ALL, "HEAD"))) for _ in range(45)
        ]
        assert [client.getresponse().status for client in asked] == [200] * 45
    assert archivist(relay) == pid


def test_those_who_ask_when_many_wait_are_refused(site: Site) -> None:
    relay = site.relay()
    publish(site, body(1))
    pid = archivist(relay)
    os.kill(pid, signal.SIGSTOP)
    with contextlib.ExitStack() as opened:
        asked = [opened.enter_context(contextlib.closing(begin(site, ALL))) for _ in range(50)]
        refused, header, _ = ask(site, ALL)
        assert (refused, header["Retry-After"]) == (503, "5")
        assert ask(site, "/healthz")[0] == 200
        os.kill(pid, signal.SIGCONT)
        assert [client.getresponse().status for client in asked] == [200] * 50
    wait_for(lambda: get(site, ALL)[0] == 200, "an answer")


def test_a_page_of_large_messages_takes_no_memory(site: Site) -> None:
    relay = site.relay()
    size, count = 4_000_000, 40
    large = [body(number, msg={"number": number, "text": "x" * size}) for number in range(count)]
    for at in range(0, count, 5):  # no more than may wait for the disk
        publish(site, *large[at : at + 5])
    before_mb = load.resident_mb(relay.pid)
    pid = archivist(relay)
    slow = http.client.HTTPConnection("127.0.0.1", site.config["relay_http"], DEADLINE_S)
    with contextlib.closing(slow):
        slow.request("GET", ALL)
        answer = slow.getresponse()  # and reads nothing while others are served
        assert int(answer.getheader("Content-Length")) > size * count
        assert ask(site, "/healthz")[0] == 200
        assert get(site, "/id?id=2026-1")[0] == 200
        assert len(answer.read(10)) == 10
        assert load.resident_mb(relay.pid) < before_mb + 30
        content = b'{"raw_mess' + answer.read()
    bodies = [each for each in json.loads(content)["raw_messages"] if "text" in each["msg"]]
    assert [each["msg"] for each in bodies] == [json.loads(each)["msg"] for each in large]
    assert load.peak(pid) < 150e6
