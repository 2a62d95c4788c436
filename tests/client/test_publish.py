"""fedmsg_relay.publish and fedmsg-relay-publish: published, or told that it was not."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import time
from typing import Any

import pytest
import zmtp
from harness import BIN, Site, free_port, wait_for
from scripts import bodies, script, signing, stopped

UNAVAILABLE = 69
NAME = "fedmsg-relay-publish"


def publish(site: Site, *options: str, **run: Any) -> subprocess.CompletedProcess[str]:
    done = site.run(NAME, *options, **run)
    assert "Traceback" not in done.stderr
    return done


def unavailable(done: subprocess.CompletedProcess[str], says: str) -> None:
    assert done.returncode == UNAVAILABLE, done
    assert re.fullmatch(f"{NAME}: .*\n", done.stderr), done
    assert says in done.stderr, done


class TestScript:
    def test_it_is_there_when_publish_returns(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        text = "fedmsg_relay.publish('made', {'number': 1}, 'test')\nos._exit(0)\n"
        assert script(site, text).wait() == 0
        ((topic, body),) = subscriber.wait(1)
        assert topic == b"org.fedoraproject.dev.test.made"
        assert json.loads(body)["msg"] == {"number": 1}

    @pytest.mark.parametrize(
        "arguments",
        [
            "topic='made', msg={'ä': [1, None]}, modname='test'",
            "msg={'no': 'module'}",
            "topic='made', msg={'x': 1}, pre_fire_hook=lambda m: m.update(hooked=True)",
            "topic='org.fedoraproject.stg.elsewhere.made', modname='ignored'",
            "topic='made', msg='text', environment='stg'",
            "",
        ],
    )
    def test_the_messages_are_those_of_stock_fedmsg(self, site: Site, arguments: str) -> None:
        site.relay()
        subscriber = site.subscriber()
        stock = f"import fedmsg\nfedmsg.publish({arguments}, active=True, name='relay_inbound')\n"
        assert script(site, stock.replace("(, ", "(")).wait() == 0
        assert script(site, f"fedmsg_relay.publish({arguments})\n").wait() == 0
        (topic, body), (our_topic, our_body) = subscriber.wait(2)
        assert our_topic == topic
        message, ours = json.loads(body), json.loads(our_body)
        assert list(ours) == list(message)
        for varies in ("msg_id", "timestamp"):
            assert type(ours.pop(varies)) is type(message.pop(varies))
        assert ours == message

    def test_no_relay(self, site: Site) -> None:
        text = """
            try:
                fedmsg_relay.publish('made', timeout=0.5)
            except fedmsg_relay.RelayUnavailable as error:
                print("TOLD:", error)
        """
        told = script(site, text)
        assert told.wait() == 0
        assert told.output == (
            f"TOLD: message not sent: no relay at {site.inbound} after 0.5 s (Connection refused);"
            " `fedmsg-relay --check` says more\n"
        )

    def test_what_was_given_up_is_not_sent_later(self, site: Site) -> None:
        text = """
            for number in range(2):
                try:
                    fedmsg_relay.publish('made', {'number': number}, timeout=0.5)
                except fedmsg_relay.RelayUnavailable:
                    print("TOLD", flush=True)
                    sys.stdin.read()
        """
        waiting = script(site, text, stdin=subprocess.PIPE)
        waiting.wait_for("TOLD")
        site.relay()
        subscriber = site.subscriber()
        waiting.stdin.close()
        assert waiting.wait() == 0
        assert bodies(subscriber.wait(1)) == [{"number": 1}]

    def test_a_relay_that_comes_up_later(self, site: Site) -> None:
        waiting = script(site, "fedmsg_relay.publish('made', {'late': True}, timeout=30)\n")
        time.sleep(1)  # it has begun to try
        site.write(relay_hold=2)
        site.relay(until="holding")
        subscriber = site.subscriber()
        assert waiting.wait() == 0, waiting.output
        assert bodies(subscriber.wait(1)) == [{"late": True}]

    @pytest.mark.parametrize("first", ["nobody", "silent", "not a relay"])
    def test_the_first_address_is_dead_and_the_second_is_not(self, site: Site, first: str) -> None:
        site.relay()
        subscriber = site.subscriber()
        port = free_port()
        site.write(relay_inbound=[f"tcp://127.0.0.1:{port}", site.inbound])
        with contextlib.ExitStack() as dead:
            if first != "nobody":
                server = dead.enter_context(socket.create_server(("127.0.0.1", port)))
            publishing = script(site, "fedmsg_relay.publish('made', {'x': 1}, timeout=10)\n")
            if first == "not a relay":
                with server.accept()[0] as connection:
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" + bytes(100))
            assert publishing.wait() == 0, publishing.output
        assert bodies(subscriber.wait(1)) == [{"x": 1}]

    def test_an_ipc_address(self, site: Site) -> None:
        site.write(relay_inbound=f"ipc://{site.root}/in.sock")
        site.relay()
        subscriber = site.subscriber()
        text = "for n in range(3): fedmsg_relay.publish('made', {'n': n}, confirm=True)\n"
        assert script(site, text).wait() == 0
        assert bodies(subscriber.wait(3)) == [{"n": n} for n in range(3)]

    @pytest.mark.parametrize("scheme", ["tcp", "ipc"])
    def test_restarts_in_the_middle_lose_nothing(self, site: Site, scheme: str) -> None:
        if scheme == "ipc":
            site.write(relay_inbound=f"ipc://{site.root}/in.sock")
        site.write(relay_hold=2)
        relay = site.relay("--pidfile", "pid")
        subscriber = site.subscriber()
        text = "for n in range(10_000): fedmsg_relay.publish('made', {'n': n}, timeout=20)\n"
        publishing = script(site, text)
        for quarter in range(1, 4):
            subscriber.wait(quarter * 2_500)
            relay = site.relay("--pidfile", "pid", "--replace", until="holding")
        assert publishing.wait(60) == 0, publishing.output
        received = [body["n"] for body in bodies(subscriber.wait(10_000))]
        assert received == list(range(10_000))
        assert relay.poll() is None

    def test_a_message_that_the_relay_does_not_take(self, site: Site) -> None:
        site.write(relay_max_message_size=1000)
        site.relay()
        subscriber = site.subscriber()
        text = """
            fedmsg_relay.publish('made', {'fits': True})
            try:
                fedmsg_relay.publish('made', {'x': 'x' * 2000}, timeout=1)
            except fedmsg_relay.RelayUnavailable as error:
                print("TOLD:", error)
            fedmsg_relay.publish('made', {'fits': 'too'})
        """
        told = script(site, text)
        assert told.wait() == 0, told.output
        assert re.search(
            r"TOLD: message not sent: 2\d{3} bytes exceed relay_max_message_size = 1000; ",
            told.output,
        )
        assert bodies(subscriber.wait(2)) == [{"fits": True}, {"fits": "too"}]

    def test_a_relay_that_is_stopped_is_not_believed(self, site: Site) -> None:
        relay = site.relay()
        text = """
            fedmsg_relay.publish('made', {'n': 1})
            print("ONE", flush=True)
            sys.stdin.read()
            try:
                fedmsg_relay.publish('made', {'n': 2}, timeout=1)
            except fedmsg_relay.RelayUnavailable as error:
                print("TOLD:", error)
        """
        publishing = script(site, text, stdin=subprocess.PIPE)
        publishing.wait_for("ONE")
        with stopped(relay):
            publishing.stdin.close()
            assert publishing.wait() == 0
            assert (
                f"no relay at {site.inbound} after 1 s (no answer); it may arrive later"
                in publishing.output
            )

    def test_a_relay_that_is_killed_and_comes_back(self, site: Site) -> None:
        relay = site.relay()
        subscriber = site.subscriber()
        text = "for n in range(3000): fedmsg_relay.publish('made', {'n': n}, timeout=20)\n"
        publishing = script(site, text)
        subscriber.wait(500)
        assert relay.end(signal.SIGKILL) == -signal.SIGKILL
        site.write(relay_hold=2)
        site.relay(until="holding")
        assert publishing.wait() == 0, publishing.output
        subscriber.wait(2900)  # but for those that were in the memory of the one that was killed
        wait_for(lambda: bodies(subscriber.received)[-1] == {"n": 2999}, "the last one")

    def test_confirmed_is_on_the_bus(self, site: Site) -> None:
        site.write(relay_hold=1)
        site.relay(until="holding")
        text = """
            fedmsg_relay.publish('made', {'n': 1}, 'test', confirm=True, timeout=20)
            fedmsg_relay.publish('else', {'n': 2}, 'test', confirm=True, timeout=20)
            print("SEEN")
        """
        confirming = script(site, text)
        assert confirming.wait() == 0, confirming.output
        assert "SEEN" in confirming.output

    @pytest.mark.parametrize("outbound", ["nobody", "another"])
    def test_not_confirmed(self, site: Site, outbound: str) -> None:
        site.relay()
        away = f"tcp://127.0.0.1:{free_port()}"
        other_inbound = f"tcp://127.0.0.1:{free_port()}"
        if outbound == "another":
            inbound = site.inbound
            site.write(relay_inbound=other_inbound, endpoints={"relay_outbound": away})
            site.relay()
            site.write(relay_inbound=inbound)
        else:
            site.write(endpoints={"relay_outbound": away})
        text = """
            try:
                fedmsg_relay.publish('made', confirm=True, timeout=1)
            except fedmsg_relay.NotConfirmed as error:
                print("TOLD:", error)
        """
        told = script(site, text)
        assert told.wait() == 0, told.output
        what = "cannot listen" if outbound == "nobody" else "not seen"
        why = "Connection refused" if outbound == "nobody" else "connected"
        said = f"TOLD: message not confirmed: {what} at {away} after 1 s ({why})\n"
        assert said == told.output

    def test_confirmed_after_a_restart_while_idle(self, site: Site) -> None:
        relay = site.relay()
        text = """
            for n in range(3):
                try:
                    fedmsg_relay.publish('made', {'n': n}, confirm=True, timeout=3)
                    print("SEEN", n, flush=True)
                except fedmsg_relay.RelayUnavailable:
                    print("NONE", n, flush=True)
                sys.stdin.readline()
        """
        told = script(site, text, stdin=subprocess.PIPE)

        def go_on() -> None:
            told.stdin.write(b"\n")
            told.stdin.flush()

        told.wait_for("SEEN 0")
        relay.end(signal.SIGKILL)
        go_on()
        told.wait_for("NONE 1")
        site.relay()
        go_on()
        told.wait_for("SEEN 2")
        go_on()
        assert told.wait() == 0, told.output

    def test_threads_have_connections_of_their_own(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        text = """
            def work(name):
                for n in range(100):
                    fedmsg_relay.publish('made', {'name': name, 'n': n})
            threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        """
        assert script(site, text).wait() == 0
        received = bodies(subscriber.wait(400))
        for name in "abcd":
            assert [body["n"] for body in received if body["name"] == name] == list(range(100))

    def test_a_fork_goes_on_with_a_connection_of_its_own(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        text = """
            fedmsg_relay.publish('made', {'who': 'parent'})
            child = os.fork()
            for n in range(100):
                fedmsg_relay.publish('made', {'who': 'parent' if child else 'child'})
            if child:
                sys.exit(os.waitpid(child, 0)[1])
        """
        assert script(site, text).wait() == 0
        received = [body["who"] for body in bodies(subscriber.wait(201))]
        assert (received.count("parent"), received.count("child")) == (101, 100)

    @pytest.mark.parametrize(
        ("config", "says"),
        [
            ({"relay_inbound": None}, "relay_inbound: not set"),
            ({"relay_inbound": "somewhere"}, "relay_inbound = 'somewhere': not an address"),
            ({"zmq_enabled": False}, "zmq_enabled = False"),
        ],
        ids=str,
    )
    def test_a_wrong_config(self, site: Site, config: dict[str, Any], says: str) -> None:
        site.write(**config)
        text = """
            try:
                fedmsg_relay.publish('made')
            except fedmsg_relay.ConfigError as error:
                print("TOLD:", error)
        """
        told = script(site, text)
        assert told.wait() == 0
        assert f"TOLD: {says}" in told.output
        done = publish(site, "--message", "x")
        assert done.returncode == 6
        assert done.stderr.startswith(f"{NAME}: {says}")

    def test_a_time_that_is_none(self, site: Site) -> None:
        for wrong in ("0", "-1", "float('nan')"):
            told = script(site, f"fedmsg_relay.publish('made', timeout={wrong})\n")
            assert told.wait() == 1
            assert "ConfigError: timeout = " in told.output


class TestCommand:
    @pytest.mark.parametrize(
        ("options", "stdin"),
        [
            ([], "Grüße\n\n  spaces  \r\nno newline"),
            (["--message", "This is a message."], ""),
            (["--json-input"], '{"a": [1, "\\u00e9"]}'),
            (["--json-input"], '{"a":\n 1}\n'),
            (["--json-input", "--message", '{"b": null}'], ""),
            (["--modname", "git", "--topic", "repo.update"], "pushed\n"),
        ],
        ids=str,
    )
    def test_the_messages_are_those_of_fedmsg_logger(
        self, site: Site, options: list[str], stdin: str
    ) -> None:
        site.relay()
        subscriber = site.subscriber()
        received = []
        for command in ("fedmsg-logger", NAME):
            assert site.run(command, *options, input=stdin).returncode == 0
            site.publisher().send(b"end", b"{}")
            wait_for(lambda: subscriber.received[-1:] == [[b"end", b"{}"]], "the end")
            received.append([(topic, json.loads(body)) for topic, body in subscriber.received[:-1]])
            subscriber.received.clear()
        stock, ours = received
        for _, message in stock + ours:
            del message["msg_id"], message["timestamp"]
        assert stock
        assert ours == stock

    def test_a_standard_input_that_does_not_block(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        reading, writing = os.pipe()
        with open(reading, "rb") as stdin, open(writing, "wb") as lines:
            os.set_blocking(reading, False)
            publishing = site.start(BIN / NAME, stdin=stdin)
            for line in (b"first\n", b"second\n"):
                lines.write(line)
                lines.flush()
                wait_for(lambda n=line: n.decode().strip() in str(subscriber.received), "it")
        assert publishing.wait() == 0, publishing.output

    def test_a_line_of_many_megabytes(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        lines = ["x" * 15_000_000, "x" * 50_000_000, "end"]
        done = publish(site, input="\n".join(lines), timeout=10)
        assert (done.returncode, done.stderr.count("\n")) == (65, 1), done
        assert "line 2 not sent: 50000" in done.stderr
        received = [body["log"] for body in bodies(subscriber.wait(2))]
        assert received == [lines[0], lines[2]]

    def test_a_full_disk_behind_stderr_changes_no_status(self, site: Site) -> None:
        command = f"{BIN / NAME} --json-input --message no >&2 2>/dev/full"
        assert site.start("sh", "-c", command).wait() == 65

    def test_json_a_line_a_message(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        done = publish(site, "--json-input", input='{"n": 1}\nnot json\n{"n": 3}\n')
        assert (done.returncode, done.stderr) == (
            65,
            f"{NAME}: line 2 not sent: not JSON (Expecting value at column 1)\n",
        )
        assert bodies(subscriber.wait(2)) == [{"n": 1}, {"n": 3}]

    def test_lines_are_sent_as_they_come(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        process = site.start(BIN / NAME, stdin=subprocess.PIPE)
        for n, line in enumerate((b"first\n", b"second\n"), start=1):
            process.stdin.write(line)
            process.stdin.flush()
            assert bodies(subscriber.wait(n))[-1] == {"log": line.decode().strip()}
        process.stdin.close()
        assert process.wait() == 0

    def test_a_full_pipe(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        with subprocess.Popen(["seq", "100000"], stdout=subprocess.PIPE) as seq:
            assert site.start(BIN / NAME, stdin=seq.stdout).wait(100) == 0
        received = bodies(subscriber.wait(100_000))
        assert received == [{"log": str(n)} for n in range(1, 100_001)]

    def test_no_relay(self, site: Site) -> None:
        done = publish(site, input="one\ntwo\n")
        no_relay = f"not sent: no relay at {site.inbound} after 2 s (Connection refused);"
        unavailable(done, f"line 1 and all that follows {no_relay} ")
        done = publish(site, "--message", "x", "--timeout", "0.3")
        unavailable(done, f"message not sent: no relay at {site.inbound} after 0.3 s ")

    def test_a_relay_that_goes_away(self, site: Site) -> None:
        relay = site.relay()
        process = site.start(BIN / NAME, "--timeout", "1", stdin=subprocess.PIPE)
        subscriber = site.subscriber()
        process.stdin.write(b"one\ntwo\n")
        process.stdin.flush()
        subscriber.wait(2)
        assert relay.end() == 0
        process.stdin.write(b"three\nfour\n")
        process.stdin.flush()
        assert process.wait() == UNAVAILABLE
        assert "line 3 and all that follows not sent: no relay at" in process.output

    def test_wait(self, site: Site) -> None:
        process = site.start(BIN / NAME, "--wait", "--timeout", "0.1", "--message", "patient")
        time.sleep(2)
        assert process.poll() is None
        site.write(relay_hold=2)
        site.relay(until="holding")
        subscriber = site.subscriber()
        assert process.wait() == 0
        assert bodies(subscriber.wait(1)) == [{"log": "patient"}]

    def test_confirm(self, site: Site) -> None:
        site.relay()
        assert publish(site, "--confirm", input="one\ntwo\n").returncode == 0
        site.write(endpoints={"relay_outbound": f"tcp://127.0.0.1:{free_port()}"})
        done = publish(site, "--confirm", "--timeout", "1", input="one\ntwo\n")
        unavailable(done, "line 1 not confirmed: cannot listen at tcp://127.0.0.1:")
        assert done.stderr.endswith(" after 1 s (Connection refused); not sent: all that follows\n")

    def test_nothing_to_say(self, site: Site) -> None:
        assert publish(site, input="").returncode == 0

    def test_bytes_that_are_no_text(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        process = site.start(BIN / NAME, stdin=subprocess.PIPE)
        process.stdin.write(b"caf\xe9\n")
        process.stdin.close()
        assert process.wait() == 0
        assert bodies(subscriber.wait(1)) == [{"log": "caf\N{REPLACEMENT CHARACTER}"}]

    def test_what_cannot_be_signed_is_not_sent(self, site: Site) -> None:
        site.relay()
        site.write(sign_messages=True, certnames={})
        done = publish(site, "--message", "x")
        assert (done.returncode, done.stdout) == (6, "")
        assert re.fullmatch(
            rf"{NAME}: certnames: has no 'shell\.\S+', which sign_messages needs .*\n",
            done.stderr,
        )

    def test_signed(self, site: Site) -> None:
        signing(site)
        site.relay()
        subscriber = site.subscriber()
        assert publish(site, "--message", "x").returncode == 0
        ((_, body),) = subscriber.wait(1)
        assert json.loads(body)["signature"]

    def test_without_stderr(self, site: Site) -> None:
        relay = site.relay()
        subscriber = site.subscriber()
        command = f"exec {BIN / NAME} --timeout 1 --message x 2>&-"
        assert site.start("/bin/sh", "-c", command).wait() == 0
        subscriber.wait(1)
        assert relay.end() == 0
        assert site.start("/bin/sh", "-c", command).wait() == UNAVAILABLE

    def test_without_stdin(self, site: Site) -> None:
        site.relay()
        process = site.start("/bin/sh", "-c", f"exec {BIN / NAME} <&-")
        assert process.wait() == UNAVAILABLE
        assert "cannot read standard input: Bad file descriptor" in process.output

    def test_wait_is_not_for_a_relay_that_refuses(self, site: Site) -> None:
        site.write(relay_max_message_size=1000)
        site.relay()
        done = publish(site, "--wait", "--message", "x" * 2000)
        assert done.returncode == 65
        assert "message not sent: 2" in done.stderr
        site.write(relay_max_message_size=0)  # so much for what the script knows
        done = publish(site, "--wait", "--message", "x" * 2000)
        ended = f"the relay at {site.inbound} has disconnected 2 times at a message of 2"
        unavailable(done, ended)
        unavailable(done, "bytes, which probably exceeds its relay_max_message_size")

    def test_progress_on_a_terminal(self, site: Site) -> None:
        site.relay()
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [BIN / NAME],
            cwd=site.root,
            env=site.environ,
            stdin=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        while b"messages" not in shown:
            process.stdin.write(b"line\n")
            process.stdin.flush()
            time.sleep(0.1)
            os.set_blocking(ours, False)
            try:
                shown += os.read(ours, 1000)
            except BlockingIOError:
                assert process.poll() is None
        process.stdin.close()
        assert process.wait() == 0
        os.close(ours)
        assert re.search(rb"\r\d+ messages", shown)

    def test_interrupted(self, site: Site) -> None:
        process = site.start(BIN / NAME, "--wait", "--message", "x")
        with socket.create_server(("127.0.0.1", int(site.inbound.rpartition(":")[2]))) as server:
            server.accept()[0].close()
        process.kill(signal.SIGINT)
        assert process.wait() == 130
        assert f"{NAME}: interrupted" in process.output
        assert "Traceback" not in process.output


def test_older_zmtp_is_told_apart(site: Site) -> None:
    """A PING would be a message to a relay of libzmq 4.1."""
    port = int(site.inbound.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)) as server:
        process = site.start(BIN / NAME, "--message", "x", "--timeout", "1")
        with server.accept()[0] as connection:
            connection.sendall(zmtp.greeting("3.0"))
        assert process.wait() == UNAVAILABLE
    assert "the listener speaks ZMTP older than 3.1" in process.output


def test_help(site: Site) -> None:
    said = publish(site, "--help").stdout
    for status in (0, 2, 6, 65, 69, 130):
        assert re.search(rf"^  {status} +\S", said, re.MULTILINE)


def test_version(site: Site) -> None:
    done = publish(site, "--version")
    assert re.fullmatch(rf"{NAME} \d+\.\d+\.\d+\n", done.stdout)


def test_the_daemon_does_not_import_it(site: Site) -> None:
    modules = "'fedmsg_relay.client' in sys.modules"
    text = f"import sys, fedmsg_relay.commands.relay; sys.exit({modules})"
    assert site.run("python", "-c", text).returncode == 0
