"""Open, hold, forward, drain, close: the five words of a relay's life, and its death."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmtp
from harness import RELAY, Process, Site, altered, free_port, listens, wait_for


def stop_at_once(relay: Process) -> int:
    """Send a second signal after the first, as somebody does who does not want to wait."""
    relay.kill(signal.SIGTERM)
    relay.wait_for("SIGTERM: stopping")
    time.sleep(0.2)  # not an echo of the first
    return relay.end(signal.SIGINT)


class TestHold:
    def test_what_comes_in_waits_for_consumers_that_come_back_later(self, site: Site) -> None:
        site.write(relay_hold=3)
        relay = site.relay(until="holding")
        publisher = site.publisher()
        for number in range(100):
            publisher.send(b"topic", b"%d" % number)
        assert "forwarding;" not in relay.output
        subscriber = site.subscriber()
        assert [int(body) for _, body in subscriber.wait(100)] == list(range(100))
        relay.wait_for("forwarding; 100 messages were held")

    def test_how_long(self, site: Site) -> None:
        del site.config["relay_hold"]
        site.write(zmq_reconnect_ivl_max=3000)
        site.relay(until="holding messages for 3.5 s")

    def test_it_ends_early_rather_than_fill_the_memory(self, site: Site) -> None:
        site.write(relay_hold=600)
        relay = site.relay(until="holding")
        subscriber = site.subscriber()
        publisher = site.publisher()
        for number in range(70):
            publisher.send(b"%d" % number, bytes(2**20))
        relay.wait_for("held more than 64 MiB: forwarding before the end of relay_hold = 600 s")
        assert [int(number) for number, _ in subscriber.wait(70)] == list(range(70))

    def test_a_stop_waits_for_its_end(self, site: Site) -> None:
        site.write(relay_hold=2)
        relay = site.relay(until="holding")
        site.publisher().send(b"kept")
        relay.kill(signal.SIGTERM)
        relay.wait_for("SIGTERM: stopping")
        assert site.subscriber().wait(1) == [[b"kept"]]
        assert relay.wait() == 0

    def test_a_stop_waits_no_longer_than_relay_drain(self, site: Site) -> None:
        site.write(relay_hold=600, relay_drain=0.5)
        assert site.relay(until="holding").end() == 0

    def test_a_second_signal_ends_it(self, site: Site) -> None:
        site.write(relay_hold=600, relay_drain=600)
        assert stop_at_once(site.relay(until="holding")) == 0

    def test_a_new_publisher_gets_its_subscription_at_once(self, site: Site) -> None:
        """Scripts come and go within milliseconds while others keep the relay busy."""
        site.write(relay_hold=4)
        relay = site.relay(until="holding")
        load, done = site.publisher(), threading.Event()

        def publish() -> None:
            while not done.wait(0.001):
                load.send(b"load", bytes(1000))

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            for number in range(50):
                publisher = site.publisher()
                publisher.send(b"script", b"%d" % number)
                publisher.close()
            assert "forwarding;" not in relay.output, "the hold was over too soon to tell"
        finally:
            done.set()
            thread.join()
        subscriber = site.subscriber(topic=b"script")
        assert sorted(int(body) for _, body in subscriber.wait(50)) == list(range(50))


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
    def test_a_signal_stops_it_with_status_0(self, site: Site, number: signal.Signals) -> None:
        relay = site.relay()
        assert relay.end(number) == 0
        assert f"{number.name}: stopping" in relay.output
        assert "Traceback" not in relay.output

    def test_signals_that_were_blocked_stop_it_too(self, site: Site) -> None:
        """As whoever starts it may have blocked them for itself."""
        block = (
            "import os, signal, sys\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
            "os.execv(sys.argv[1], sys.argv[1:])\n"
        )
        relay = site.start(sys.executable, "-c", block, *RELAY)
        relay.wait_for("forwarding;")
        assert relay.end() == 0

    def test_a_hangup_does_not(self, site: Site) -> None:
        relay = site.relay()
        subscriber = site.subscriber()
        publisher = site.publisher()
        for number in range(3):
            relay.kill(signal.SIGHUP)
            publisher.send(b"%d" % number)
            subscriber.wait(number + 1)
        assert relay.end() == 0

    def test_all_that_a_publisher_has_written_comes_out(self, site: Site) -> None:
        """A publisher at full speed writes until the relay hangs up: nothing it wrote is lost."""
        relay = site.relay()
        subscriber = site.subscriber()
        written = []

        def publish(name: int) -> None:
            with zmtp.Peer(site.inbound, b"PUB") as peer:
                readable = select.poll()
                readable.register(peer.socket, select.POLLIN)
                count = 0
                # The first thing that can be read is the subscription, the next one the end.
                while not readable.poll(0) or peer.socket.recv(100):
                    peer.send(b"%d %d" % (name, count))
                    count += 1
                written.append((name, count))

        threads = [threading.Thread(target=publish, args=(name,)) for name in range(3)]
        for thread in threads:
            thread.start()
        subscriber.wait(10_000)
        assert relay.end() == 0
        for thread in threads:
            thread.join()
        assert len(written) == 3
        for name, count in written:
            received = subscriber.wait(sum(count for _, count in written))
            mine = [m for (m,) in received if m.startswith(b"%d " % name)]
            assert [int(m.split()[1]) for m in mine] == list(range(count))

    def test_the_last_line_says_how_much_was_forwarded(self, site: Site) -> None:
        site.write(relay_hold=1)
        relay = site.relay(until="holding")
        subscriber, publisher = site.subscriber(), site.publisher()
        publisher.send(b"1", b"held")
        subscriber.wait(1)
        relay.wait_for("forwarding; 1 messages")
        for _ in range(9):
            publisher.send(b"1", b"sent")
        subscriber.wait(10)
        assert relay.end() == 0
        assert relay.output.endswith("stopped; forwarded 20 frames, 50 bytes\n")

    def test_a_consumer_that_takes_nothing_is_waited_for_within_linger(self, site: Site) -> None:
        site.write(zmq_linger=2000)
        relay, consumer = self.stalled(site)
        with consumer:
            relay.kill(signal.SIGTERM)
            relay.wait_for("SIGTERM: stopping")
            stopping = time.monotonic()
            assert relay.wait() == 0
            assert time.monotonic() - stopping > 1.5

    def test_1000_idle_publishers_are_parted_with(self, site: Site) -> None:
        relay = site.relay()
        for _ in range(1000):
            site.publisher()
        assert relay.end() == 0
        assert "WARNING" not in relay.output

    def test_it_works_when_connections_have_taken_all_descriptors(self, site: Site) -> None:
        def few() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))

        relay = site.start(*RELAY, preexec_fn=few)
        relay.wait_for("forwarding;")
        subscriber, publisher = site.subscriber(), site.publisher()
        host, port = site.inbound[len("tcp://") :].split(":")
        with contextlib.ExitStack() as others:
            for _ in range(200):
                others.enter_context(socket.create_connection((host, int(port))))
            publisher.send(b"passes")
            assert subscriber.wait(1) == [[b"passes"]]
            assert relay.end() == 0
        assert "may be lost" not in relay.output

    LOST = "messages from publishers may be lost: "

    def test_nothing_is_lost_of_those_whose_messages_were_passed_on(self, site: Site) -> None:
        """Though they are connected still, and do not hang up."""
        relay = site.relay()
        subscriber, publisher = site.subscriber(), site.publisher()
        wait_for(lambda: publisher.send(b"canary") or subscriber.received, "a canary")
        with contextlib.ExitStack() as others:
            for number in range(100):
                peer = others.enter_context(zmtp.Peer(site.inbound, b"PUB"))
                peer.send(b"%d" % number)
            wait_for(
                lambda: len([m for m in subscriber.received if m != [b"canary"]]) == 100, "100"
            )
            time.sleep(0.2)  # longer than the time to hang up: what was sent is long passed on
            assert relay.end() == 0
        assert self.LOST not in relay.output

    SLOW_TO_WRITE = "1 of the publishers continued to send, and did not disconnect in time"
    """Of one that a busy machine has not let write for a while."""

    @pytest.mark.parametrize(
        ("drain_s", "hasten", "says"),
        [
            (1, False, f"relay_drain = 1 s ended before all were forwarded|{SLOW_TO_WRITE}"),
            (0.01, False, "relay_drain = 0.01 s ended before all were forwarded"),
            (600, True, "a second signal came before all were forwarded"),
        ],
        ids=["rude", "drain", "hastened"],
    )
    def test_why_something_may_be_lost(
        self, site: Site, drain_s: float, hasten: bool, says: str
    ) -> None:
        # A hold that is cut short by a second signal goes over to a drain that has no time.
        site.write(relay_drain=drain_s, relay_hold=600 if hasten else 0)
        relay = site.relay(until="holding" if hasten else "forwarding;")
        done = threading.Event()
        with zmtp.Peer(site.inbound, b"PUB") as rude:

            def send() -> None:
                with contextlib.suppress(OSError):  # the end, at last
                    while not done.is_set():
                        rude.send(b"more")

            thread = threading.Thread(target=send)
            thread.start()
            try:
                assert (stop_at_once(relay) if hasten else relay.end()) == 0
            finally:
                done.set()
                thread.join()
        assert re.search(f"{self.LOST}({says})\n", relay.output)
        assert relay.output.count(self.LOST) == 1

    def test_messages_of_one_publisher_keep_their_order(self, site: Site) -> None:
        """Though it reconnects while what it had sent before is still waiting to be passed on."""
        site.write(relay_hold=1)
        relay = site.relay(until="holding")
        subscriber, publisher = site.subscriber(), site.publisher()
        done = threading.Event()
        sent = itertools.count()

        def publish() -> None:
            while not done.wait(0.0001):  # other tests need a processor too
                publisher.send(b"%d" % next(sent))

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            assert relay.end() == 0
        finally:
            done.set()
            thread.join()
        numbers = [int(number) for (number,) in subscriber.wait(1000)]
        assert numbers == sorted(numbers)

    def test_a_log_that_nobody_reads_does_not_hold_it_up(self, site: Site) -> None:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        os.set_blocking(writer, True)
        try:
            relay = site.start(*RELAY, stdout=writer)
            wait_for(lambda: listens(site.inbound), "a relay that is bound")
            subscriber = site.subscriber()
            site.publisher().send(b"passes")
            assert subscriber.wait(1) == [[b"passes"]]
            assert relay.end() == 0
        finally:
            os.close(reader)
            os.close(writer)

    def test_a_second_signal_waits_for_no_consumer(self, site: Site) -> None:
        site.write(zmq_linger=600_000)
        relay, consumer = self.stalled(site)
        with consumer:
            assert stop_at_once(relay) == 0

    def stalled(self, site: Site) -> tuple[Process, zmtp.Peer]:
        """A relay with more for a consumer than the kernel buffers, and that consumer."""
        relay = site.relay()
        consumer = zmtp.Peer(site.outbound, b"SUB")
        consumer.subscribe()
        witness, publisher = site.subscriber(), site.publisher()
        for _ in range(64):
            publisher.send(bytes(2**20))
        witness.wait(64)
        return relay, consumer

    def test_two_signals_at_once_are_one(self, site: Site) -> None:
        """As timeout(1) sends them: to the process, and to its group."""
        site.write(relay_hold=1)
        relay = site.relay(until="holding")
        site.publisher().send(b"kept")
        relay.kill(signal.SIGTERM)
        relay.kill(signal.SIGINT)  # not SIGTERM, which the kernel would make one of itself
        relay.wait_for(": stopping")
        assert site.subscriber().wait(1) == [[b"kept"]]
        assert relay.wait() == 0
        assert "WARNING" not in relay.output


def test_a_restart_under_load_costs_a_subscriber_nothing(site: Site) -> None:
    del site.config["relay_hold"]
    site.write()
    relay = site.relay()
    subscribers = [site.subscriber() for _ in range(3)]
    publishers = [site.publisher() for _ in range(5)]
    done = threading.Event()
    sent = itertools.count()

    def publish() -> None:
        while not done.wait(0.005):
            for publisher in publishers:
                publisher.send(b"%d" % next(sent))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for _ in range(3):
            subscribers[0].wait(len(subscribers[0].received) + 500)
            assert relay.end() == 0
            relay = site.relay()
        subscribers[0].wait(len(subscribers[0].received) + 500)
    finally:
        done.set()
        thread.join()
    count = next(sent)
    for subscriber in subscribers:
        assert sorted(int(body) for (body,) in subscriber.wait(count)) == list(range(count))


@pytest.mark.parametrize("death", ["raise RuntimeError('struck down')", "return"])
def test_it_does_not_outlive_its_forwarding_thread(site: Site, death: str) -> None:
    """The death is a fake, as libzmq's proxy cannot be made to die; all around it is real.

    It is noticed as it happens, and not when a timer of the main thread is due.
    """
    dying = altered(
        "import zmq",
        "from fedmsg_relay.system import memory",
        "memory.TRIM_EVERY_S = 1000.0",
        f"def proxy(*_): {death}",
        "zmq.proxy_steerable = proxy",
    )
    site.write(relay_drain=0.1, zmq_linger=0)
    relay = site.start(*dying)
    assert relay.wait() == 1
    reason = "struck down" if "raise" in death else "without an order to stop"
    assert re.search(f"^fedmsg-relay: the relay died: .*{reason}", relay.output, re.MULTILINE)


def test_a_thread_that_hangs_does_not_keep_a_stop_waiting(site: Site) -> None:
    """The hang is a fake, as libzmq's proxy cannot be made to hang; all around it is real."""
    hanging = "zmq.proxy_steerable = lambda *_: threading.Event().wait()"
    site.write(relay_drain=0.1, zmq_linger=200)
    relay = site.start(*altered("import threading, zmq", hanging))
    relay.wait_for("started, pid")
    assert relay.end() == 1
    assert re.search(
        r"^fedmsg-relay: the relay was forwarding and has not stopped within 2\.4 s, twice"
        r" relay_drain and zmq_linger: ",
        relay.output,
        re.MULTILINE,
    )


def test_the_first_line_says_what_runs_where(site: Site) -> None:
    relay = site.relay()
    version = site.run("fedmsg-relay", "--version").stdout.strip()
    line = relay.output.splitlines()[0]
    assert f"{version} started, pid {relay.pid}: {site.inbound} -> {site.outbound}" in line


def test_the_line_that_says_that_it_forwards(site: Site) -> None:
    """People and scripts look for this word."""
    relay = site.relay(until="[fedmsg.relay    INFO] forwarding; 0 messages were held\n")
    assert relay.end() == 0


def test_in_the_process_list_it_is_fedmsg_relay(site: Site) -> None:
    relay = site.relay()
    with open(f"/proc/{relay.pid}/comm") as comm:
        assert comm.read() == "fedmsg-relay\n"


@pytest.mark.parametrize("for_s", [2, 10], ids=["plain", "monitored"])
def test_idle_it_wakes_once_a_second_at_most(site: Site, for_s: int) -> None:
    if for_s == 10:  # seconds, as a report is made every 5
        socket = f"ipc://{site.root}/monitoring.socket"
        site.write(relay_http=free_port(), **{"moksha.monitoring.socket": socket})
    relay = site.relay()
    site.subscriber()
    site.publisher()

    def switches() -> int:
        tasks = Path(f"/proc/{relay.pid}/task").glob("*/status")
        counts = (re.findall(r"ctxt_switches:\s+(\d+)", task.read_text()) for task in tasks)
        return sum(int(number) for count in counts for number in count)

    def quiet_since_the_last_look() -> bool:
        before = switches()
        time.sleep(0.1)
        return switches() == before

    def idle() -> bool:
        before = switches()
        time.sleep(for_s)
        return switches() - before <= for_s

    wait_for(quiet_since_the_last_look, "the end of the start")
    # Other processes that want the processor cause switches too, but not all the time.
    wait_for(idle, f"{for_s} s with no more than {for_s} switches")


def test_a_consumer_of_5000_topics_misses_none_after_restarts(site: Site) -> None:
    """With the send mark that a SUB has by default, it would keep 1,000."""
    site.write(relay_hold=2)
    topics = [b"topic.%d." % number for number in range(5000)]
    received: list[bytes] = []

    def consume(context: zmq.Context[Any]) -> None:
        with contextlib.suppress(zmq.ContextTerminated), context.socket(zmq.SUB) as consumer:
            consumer.sndhwm = consumer.rcvhwm = consumer.linger = 0
            consumer.connect(site.outbound)
            for topic in topics:
                consumer.subscribe(topic)
            while True:
                received.append(consumer.recv())

    context = zmq.Context()
    threading.Thread(target=consume, args=(context,), daemon=True).start()
    try:
        for times in range(1, 4):
            relay = site.relay(until="holding")
            publisher = site.publisher()
            for topic in topics:
                publisher.send(topic)
            relay.wait_for("forwarding; 5000 messages were held")
            wait_for(lambda times=times: len(received) >= times * 5000, "all topics")
            assert received == topics * times
            publisher.close()
            assert relay.end() == 0
    finally:
        context.term()
