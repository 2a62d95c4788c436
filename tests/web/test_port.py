"""The HTTP port of a real relay: where it listens, what it shows, and that it does no harm."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import box
import browser
import pytest
from browser import Browser
from harness import DEADLINE_S, RELAY, Site, wait_for

HANGS = """
import sys, time, zmq
zmq.proxy_steerable = lambda *_: time.sleep(600)
from fedmsg_relay.commands.relay import main
sys.exit(main())
"""
"""A relay whose forwarding thread hangs.  That is a fake, as libzmq's proxy cannot be made to."""

MAIN_HANGS = """
import os, sys, threading, time
from fedmsg_relay.daemon import eventloop
from fedmsg_relay.web import newest
newest.STALE_S = 3
attend = eventloop.MainLoop._attend_successor
def hang(self):
    while os.path.exists("hang"):
        time.sleep(0.1)
    attend(self)
eventloop.MainLoop._attend_successor = hang
from fedmsg_relay.commands.relay import main
sys.exit(main())
"""
"""A relay whose main thread hangs while there is a file ``hang``.  That is a fake, too."""

BREAKS = """
import errno, os, selectors, sys
call = sys.argv.pop(1)
working = getattr(selectors.EpollSelector, call)
def breaking(self, *arguments):
    if os.path.exists("broken"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return working(self, *arguments)
setattr(selectors.EpollSelector, call, breaking)
from fedmsg_relay.commands.relay import main
sys.exit(main())
"""
"""A relay whose kernel has no room for what the server asks of epoll, while there is a file."""


def url(site: Site, path: str = "") -> str:
    return f"http://127.0.0.1:{site.config['relay_http']}/{path}"


def get(site: Site, path: str) -> tuple[int, str]:
    """The status and the body."""
    try:
        with urllib.request.urlopen(url(site, path), timeout=DEADLINE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def status(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(site, "status.json")[1])
    return found


def wait_for_health(site: Site, code: int, text: str) -> None:
    def seen() -> bool:
        answered, said = get(site, "healthz")
        return answered == code and text in said

    wait_for(seen, f"{code} {text}")


def test_a_port_alone_is_one_of_loopback(site: Site) -> None:
    site.relay()
    port = site.config["relay_http"]
    with socket.socket() as elsewhere:
        assert elsewhere.connect_ex(("127.0.0.2", port)) != 0
    with socket.socket(socket.AF_INET6) as elsewhere:
        assert elsewhere.connect_ex(("::1", port)) != 0


@pytest.mark.parametrize("host", ["127.0.0.2", "[::1]"])
def test_a_host_can_be_chosen(site: Site, host: str) -> None:
    port = site.config["relay_http"]
    site.write(relay_http=f"{host}:{port}")
    site.relay()
    with urllib.request.urlopen(f"http://{host}:{port}/healthz", timeout=20) as answer:
        assert answer.read() == b"OK - forwarding\n"


def test_it_is_off_by_default(site: Site) -> None:
    box.require("ss")
    del site.config["relay_http"]
    site.write()
    relay = site.relay()
    found = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    own = [line.split()[3] for line in found.splitlines() if f"pid={relay.pid}," in line]
    assert sorted(own) == sorted(uri[len("tcp://") :] for uri in (site.inbound, site.outbound))


def test_a_relay_forwards_without_it(site: Site) -> None:
    port = site.config["relay_http"]
    with socket.create_server(("127.0.0.1", port)):
        relay = site.relay()
        assert f"relay_http: cannot bind tcp://127.0.0.1:{port}" in relay.output
        assert "going without it" in relay.output


@pytest.mark.parametrize(
    "value", ["localhost", "9411/metrics", 0, 65536, True, [9411], "a b:1", "::1:9411"]
)
def test_a_wrong_address_is_refused(site: Site, value: object) -> None:
    site.write(relay_http=value)
    refused = site.refused()
    assert refused.returncode == 6
    assert f"relay_http = {value!r}: must be " in refused.stderr


class TestHealth:
    def test_a_hold_after_a_cold_start_is_none(self, site: Site) -> None:
        site.write(relay_hold=600)
        site.relay(until="holding")
        wait_for_health(site, 503, "not forwarding - holding: waiting for consumers to reconnect\n")

    def test_over_a_hand_over_it_is_never_bad(self, site: Site) -> None:
        site.write(relay_hold=2)
        first = site.relay("--pidfile", "pid")
        over = threading.Event()
        seen: list[tuple[int, str]] = []

        def look() -> None:
            while not over.wait(0.02):
                seen.append(get(site, "healthz"))

        looking = threading.Thread(target=look)
        looking.start()
        try:
            second = site.relay("--pidfile", "pid", "--replace")
            assert first.wait() == 0
        finally:
            over.set()
            looking.join()
        assert "going without" not in second.output
        assert "not served" not in second.output
        assert {code for code, _ in seen} == {200}
        assert "OK - holding: taking over from another relay process\n" in {
            text for _, text in seen
        }
        wait_for_health(site, 200, "OK - forwarding\n")

    def test_a_relay_that_hangs_is_not_fit(self, site: Site) -> None:
        site.start(sys.executable, "-c", HANGS).wait_for("forwarding;")
        wait_for_health(site, 503, "not forwarding - hung: libzmq's proxy does not answer\n")
        assert status(site)["state"] == "hung"

    def test_a_main_thread_that_hangs_is_seen(self, site: Site) -> None:
        site.start(sys.executable, "-c", MAIN_HANGS).wait_for("forwarding;")
        assert get(site, "healthz")[0] == 200
        (site.root / "hang").touch()
        wait_for_health(site, 503, "the relay does not answer: its main thread has made no report")
        assert get(site, "")[0] == get(site, "metrics")[0] == get(site, "status.json")[0] == 503
        (site.root / "hang").unlink()
        wait_for_health(site, 200, "OK - forwarding\n")


def test_whoever_asks_sees_the_last_second(site: Site) -> None:
    relay = site.relay()
    subscriber, publisher = site.subscriber(), site.publisher()
    for number in range(1, 4):
        publisher.send(b"topic", b"body")
        subscriber.wait(number)
        time.sleep(1)  # for the report to be an old one
        assert status(site)["frames_in"] == 2 * number
    assert status(site)["pid"] == relay.pid


def test_it_says_what_the_terminal_says(site: Site) -> None:
    site.write(**{"moksha.monitoring.socket": f"ipc://{site.root}/monitoring.socket"})
    relay = site.relay()
    site.subscriber()
    told = json.loads(site.run("fedmsg-relay", "--status", "--json").stdout)
    wait_for(lambda: status(site)["consumers"]["connected"] == 1, "the consumer")
    shown = status(site)
    assert shown.keys() == told.keys()
    assert shown["pid"] == relay.pid
    assert shown["consumers"]["peers"][0]["address"] == told["consumers"]["peers"][0]["address"]


def test_clients_that_ask_for_ever_keep_nobody_from_anything(site: Site) -> None:
    """And one that is there at the end does not keep the relay from ending."""
    relay = site.relay()
    address = "127.0.0.1", site.config["relay_http"]
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(address)) for _ in range(210)]

        def drip() -> None:
            while not over.wait(0.5):
                for each in slow[10:]:  # the first ten are silent
                    with contextlib.suppress(OSError):
                        each.sendall(b"G")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            subscriber, publisher = site.subscriber(), site.publisher()
            for number in range(1, 6):
                start = time.monotonic()
                assert get(site, "metrics")[0] == 200
                assert time.monotonic() - start < 10
                publisher.send(b"topic", b"body")
                subscriber.wait(number)
            assert len(list(Path(f"/proc/{relay.pid}/task").iterdir())) < 10
        finally:
            over.set()
            dripping.join()
        assert relay.end() == 0


@pytest.mark.parametrize("limit", [64, 256])
def test_with_few_descriptors_peers_are_not_short_of_them(site: Site, limit: int) -> None:
    def set_limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    relay = site.start(*RELAY, preexec_fn=set_limit)
    relay.wait_for("forwarding;")
    address = "127.0.0.1", site.config["relay_http"]
    with contextlib.ExitStack() as stack:
        for _ in range(2 * limit):
            stack.enter_context(socket.create_connection(address))
        subscriber, publisher = site.subscriber(), site.publisher()
        publisher.send(b"topic", b"body")
        subscriber.wait(1)
        assert get(site, "healthz")[0] == 200
    assert "descriptors" not in relay.output


@pytest.mark.parametrize("call", ["register", "modify", "select"])
def test_what_breaks_the_server_does_not_break_the_relay(site: Site, call: str) -> None:
    relay = site.start(sys.executable, "-c", BREAKS, call)
    relay.wait_for("forwarding;")
    (site.root / "broken").touch()
    address = "127.0.0.1", site.config["relay_http"]
    with socket.create_connection(address) as client, contextlib.suppress(ConnectionError):
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        if call != "select":
            client.recv(1)
    subscriber, publisher = site.subscriber(), site.publisher()
    publisher.send(b"topic", b"body")
    subscriber.wait(1)
    (site.root / "broken").unlink()
    wait_for_health(site, 200, "OK - forwarding")
    assert relay.end() == 0


def test_where_it_cannot_serve_nobody_waits_for_it(site: Site) -> None:
    (site.root / "broken").touch()
    relay = site.start(sys.executable, "-c", BREAKS, "register")
    relay.wait_for("forwarding;")
    assert "relay_http: [Errno 28] No space left on device; not served" in relay.output
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", site.config["relay_http"])) == errno.ECONNREFUSED


# -- in a browser ----------------------------------------------------------------------------------


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Browser]:
    if browser.installed() is None:
        box.skip("Chromium is not installed")
    (tmp_path / "browser").mkdir()
    with Browser(tmp_path / "browser") as opened:
        yield opened


def test_a_page_whose_numbers_move(site: Site, chromium: Browser) -> None:
    site.relay()
    subscriber, publisher = site.subscriber(), site.publisher()
    chromium.open(url(site))
    assert chromium.text("h1") == "forwarding"
    wait_for(lambda: chromium.text("#consumers") == "1", "the consumer")
    assert site.inbound in chromium.text("dl")
    assert chromium.text(".peers code, .peers tbody th").startswith("127.0.0.1:")
    for sent in range(1, 31):
        publisher.send(b"topic", b"body" * 100)
        subscriber.wait(sent)
    wait_for(lambda: "\t60\t60" in chromium.text(".tables"), "the frames in the table")
    for rate in ("#frames_in", "#frames_out", "#bytes_in", "#bytes_out"):
        wait_for(lambda rate=rate: chromium.text(rate) not in ("–", "0", "0 B"), f"a rate: {rate}")
    line = 'document.querySelector("polyline.out").getAttribute("points")'
    wait_for(lambda: len(chromium.run(line).split()) > 1, "a line")
    publisher.close()
    wait_for(lambda: chromium.text("#publishers") == "0", "the publisher's end")
    assert chromium.run('document.getElementById("silence").hidden')
    assert chromium.problems == []


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_it_fits(site: Site, chromium: Browser, width: int, is_dark: bool) -> None:
    """And can be read: the text is apart from what is behind it, as WCAG asks of it."""
    site.relay()
    site.subscriber()
    chromium.resize(width, 844, is_dark)
    chromium.open(url(site))
    wait_for(lambda: chromium.text("#consumers") == "1", "the consumer")
    assert chromium.run("document.documentElement.scrollWidth") <= width
    # The widest address is that of an IPv6 peer; the relay of the test has none.
    chromium.run("document.querySelector('.peers tbody th').textContent = '[' + '2001:'.repeat(8)")
    tables = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
    assert chromium.run(f"{tables}.length") == 0
    colours = chromium.run("""
        [["h1", "body"], [".since", "body"], [".note", ".card"], ["h2", ".card"], ["td", ".card"],
         ["footer a", "body"]].map(([text, ground]) => [
            getComputedStyle(document.querySelector(text)).color,
            getComputedStyle(document.querySelector(ground)).backgroundColor])
    """)
    for text, ground in colours:
        assert contrast(text, ground) >= 4.5, (text, ground)


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it, of two colours like ``rgb(1, 2, 3)``."""

    def luminance(colour: str) -> float:
        parts = (int(part) / 255 for part in colour[len("rgb(") : -1].split(","))
        red, green, blue = (
            part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_without_script_it_is_as_complete(site: Site, chromium: Browser) -> None:
    site.relay()
    site.subscriber()
    wait_for(lambda: status(site)["consumers"]["connected"] == 1, "the consumer")
    chromium.allow_scripts(False)
    chromium.open(url(site))
    assert chromium.text("h1") == "forwarding"
    assert chromium.text("#consumers") == "1"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGSTOP])
def test_a_relay_that_answers_no_more_is_shown_as_such(
    site: Site, chromium: Browser, end: signal.Signals
) -> None:
    relay = site.relay()
    chromium.open(url(site))
    assert chromium.run('document.getElementById("silence").hidden')
    relay.kill(end)
    wait_for(lambda: not chromium.run('document.getElementById("silence").hidden'), "the banner")
    assert chromium.text("#silence").startswith("No answer since ")
    assert chromium.run("getComputedStyle(document.querySelector('main')).opacity") == "0.45"
    assert chromium.run("document.title").startswith("no answer")
    if end is signal.SIGTERM:
        assert relay.wait() == 0
        relay = site.relay()
    else:
        relay.kill(signal.SIGCONT)
    wait_for(lambda: chromium.run('document.getElementById("silence").hidden'), "an answer")
    assert chromium.run("getComputedStyle(document.querySelector('main')).opacity") == "1"
    assert f"pid {relay.pid}" in chromium.text(".since")


def test_a_tab_in_the_background_shows_it_too(site: Site, chromium: Browser) -> None:
    relay = site.relay()
    chromium.open(url(site))
    chromium.run("Object.defineProperty(document, 'hidden', {get: () => true})")
    assert chromium.run("document.title").startswith("forwarding")
    assert relay.end() == 0
    wait_for(lambda: chromium.run("document.title").startswith("no answer"), "the title")
    icon = "document.querySelector('link[rel=icon]').href"
    assert chromium.run(icon) == "data:,"
    site.relay()
    wait_for(lambda: chromium.run("document.title").startswith("forwarding"), "the title")
    assert "svg" in chromium.run(icon)


def test_a_relay_that_hangs_is_shown_as_such(site: Site, chromium: Browser) -> None:
    site.start(sys.executable, "-c", HANGS).wait_for("forwarding;")
    chromium.open(url(site))
    wait_for(lambda: chromium.text("h1") == "hung", "the state")


def test_the_page_goes_on_over_a_hand_over(site: Site, chromium: Browser) -> None:
    first = site.relay("--pidfile", "pid")
    chromium.open(url(site))
    second = site.relay("--pidfile", "pid", "--replace")
    assert first.wait() == 0
    wait_for(lambda: f"pid {second.pid}" in chromium.text(".since"), "the next relay")
    assert chromium.run('document.getElementById("silence").hidden')
    assert chromium.problems == []


def test_the_line_goes_on_over_a_hand_over(site: Site) -> None:
    def samples() -> list[str]:
        """The points of the line of frames, less the newest, which is no sample yet."""
        (line,) = re.findall('polyline class="out" points="([^"]*)"', get(site, "")[1])[:1]
        return str(line).split()[:-1]

    first = site.relay("--pidfile", "pid")
    subscriber, publisher = site.subscriber(), site.publisher()
    for number in range(1, 101):
        publisher.send(b"topic", b"body")
        subscriber.wait(number)
    wait_for(lambda: len(samples()) == 2, "two rates")
    site.relay("--pidfile", "pid", "--replace")
    assert first.wait() == 0
    after = samples()
    assert len(after) >= 2
    heights = [float(point.split(",")[1]) for point in after]
    assert min(heights) < 100  # of what passed before the hand-over; 100 is the axis


def test_what_is_selected_stays_selected(site: Site, chromium: Browser) -> None:
    site.relay()
    site.subscriber()
    chromium.open(url(site))
    wait_for(lambda: chromium.text("#consumers") == "1", "the consumer")
    chromium.run("getSelection().selectAllChildren(document.querySelector('.peers tbody th'))")
    at = chromium.text("#at")
    wait_for(lambda: chromium.text("#at") != at, "another report")
    assert chromium.run("getSelection().toString()").startswith("127.0.0.1:")


def test_its_policy_lets_nothing_else_run(site: Site, chromium: Browser) -> None:
    site.relay()
    chromium.open(url(site))
    chromium.run("""
        document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.evil = 1'>");
        const script = document.createElement("script");
        script.textContent = "window.evil = 2";
        document.body.append(script);
    """)
    assert chromium.run("window.evil === undefined")
    wait_for(lambda: len(chromium.problems) or chromium.run("1") == 0, "what the policy forbids")
    assert all("Content Security Policy" in problem for problem in chromium.problems)
