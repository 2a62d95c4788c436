"""fedmsg_relay.publish in whatever process: threads, forks, signal handlers, few descriptors."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
from harness import Site, wait_for
from scripts import STEPS, bodies, script, signing

THREADS = 8

AT_ONCE = f"""
    barrier, errors = threading.Barrier({THREADS}), []

    def work(number):
        barrier.wait()
        try:
            for n in range(3):
                fedmsg_relay.publish('made', {{'name': number, 'n': n}}, timeout=20)
        except Exception as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range({THREADS})]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(errors)
    assert not errors
"""


class TestThreads:
    @pytest.mark.parametrize("signed", [False, True], ids=["plain", "signed"])
    def test_they_may_all_begin_at_the_same_moment(self, site: Site, signed: bool) -> None:
        if signed:
            signing(site)
        site.relay()
        subscriber = site.subscriber()
        for _ in range(3):  # the first moment is all that counts
            publishing = script(site, AT_ONCE)
            assert publishing.wait() == 0, publishing.output
        received = subscriber.wait(3 * THREADS * 3)
        assert all(("signature" in json.loads(body)) == signed for _, body in received)
        got = sorted((body["name"], body["n"]) for body in bodies(received))
        assert got == sorted([(t, n) for t in range(THREADS) for n in range(3)] * 3)

    def test_nothing_of_the_process_is_changed(self, site: Site) -> None:
        site.relay()
        before = """
            import io, warnings
            sys.stderr = io.StringIO()
            def state():
                return (sys.stderr, sys.stdout, list(warnings.filters), list(sys.meta_path),
                        fedmsg.config.__dict__['__cache'], dict(fedmsg.config.defaults))
            first = state()
        """
        after = """
            for before, after in zip(first, state()):
                if before != after:
                    sys.exit(f"{before} -> {after}")
        """
        parts = ("import fedmsg.config", before, AT_ONCE, after)
        told = script(site, "\n".join(map(textwrap.dedent, parts)))
        assert told.wait() == 0, told.output

    @pytest.mark.parametrize(
        "use",
        [
            "import fedmsg.crypto; fedmsg.crypto.validate_signed_by",
            "from fedmsg import crypto; crypto.gpg, crypto.x509.sign",
            "from fedmsg.crypto import utils; utils.requests",
            "import fedmsg; vars(fedmsg.crypto)['_possible_backends']",
            "import fedmsg.crypto.x509_ng as ng; ng.sign",
            "import urllib; urllib.request.urlopen",
            "from urllib.request import urlopen",
            "from xml.sax.saxutils import prepare_input_source as p; p('file:///dev/null')",
        ],
        ids=str,
    )
    def test_others_meet_whole_modules(self, site: Site, use: str) -> None:
        text = f"""
            import fedmsg_relay.config.loader
            barrier, errors = threading.Barrier({THREADS}), []

            def work():
                barrier.wait()
                try:
                    {use}
                except Exception as error:
                    errors.append(repr(error))

            threads = [threading.Thread(target=work) for _ in range({THREADS})]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not errors, errors
            assert type(sys.modules['fedmsg.core']) is type(sys)
        """
        told = script(site, text)
        assert told.wait() == 0, told.output

    def test_a_daemon_thread_at_exit(self, site: Site) -> None:
        site.relay()
        text = """
            def work():
                while True:
                    fedmsg_relay.publish('made', {'x': 1})

            fedmsg_relay.publish('made', {'x': 1})
            threading.Thread(target=work, daemon=True).start()
            time.sleep(0.1)
        """
        ending = script(site, text)
        assert ending.wait() == 0
        assert "Traceback" not in ending.output

    def test_a_thread_that_ends_leaves_no_descriptor(self, site: Site) -> None:
        site.relay()
        text = """
            import gc
            gc.disable()  # it may have nothing to do for long
            fedmsg_relay.publish('made', {'n': -1})
            before = os.listdir("/proc/self/fd")
            for n in range(3):
                thread = threading.Thread(target=fedmsg_relay.publish, args=('made', {'n': n}))
                thread.start()
                thread.join()
            assert os.listdir("/proc/self/fd") == before, os.listdir("/proc/self/fd")
        """
        publishing = script(site, text, "env", "PYTHONDEVMODE=1")
        assert publishing.wait() == 0, publishing.output
        assert "ResourceWarning" not in publishing.output

    def test_a_coroutine_has_it_run_in_a_thread(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        text = """
            import asyncio

            async def main():
                def publish(n):
                    return asyncio.to_thread(fedmsg_relay.publish, 'made', {'n': n})
                await asyncio.gather(*map(publish, range(9)))

            asyncio.run(main())
        """
        assert script(site, text).wait() == 0
        assert sorted(body["n"] for body in bodies(subscriber.wait(9))) == list(range(9))

    def test_greenlets(self, site: Site) -> None:
        site.relay()
        site.write(relay_inbound=site.inbound.replace("127.0.0.1", "localhost"))
        subscriber = site.subscriber()
        text = """
            import gevent.monkey
            gevent.monkey.patch_all()
            import gevent

            def work(n):
                fedmsg_relay.publish('made', {'n': n}, timeout=20)

            gevent.joinall([gevent.spawn(work, n) for n in range(9)], raise_error=True)
        """
        publishing = script(site, text)
        assert publishing.wait() == 0, publishing.output
        assert sorted(body["n"] for body in bodies(subscriber.wait(9))) == list(range(9))


class TestChildren:
    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_multiprocessing(self, site: Site, method: str) -> None:
        site.relay()
        subscriber = site.subscriber()
        text = f"""
            import multiprocessing

            def work(number):
                fedmsg_relay.publish('made', {{'n': number}})

            if __name__ == "__main__":
                work(-1)
                with multiprocessing.get_context({method!r}).Pool(3) as pool:
                    pool.map(work, range(30))
        """
        working = script(site, text)
        assert working.wait() == 0, working.output
        assert sorted(body["n"] for body in bodies(subscriber.wait(31))) == list(range(-1, 30))

    def test_an_error_passes_between_processes(self, site: Site) -> None:
        text = """
            import pickle
            try:
                fedmsg_relay.publish('made', timeout=0.1)
            except fedmsg_relay.RelayUnavailable as error:
                copy = pickle.loads(pickle.dumps(error))
                assert (str(copy), type(copy)) == (str(error), type(error)), copy
        """
        told = script(site, text)
        assert told.wait() == 0, told.output


class TestHandlers:
    def test_what_a_handler_publishes_is_neither_lost_nor_sent_twice(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        text = """
            import itertools, signal
            numbers = itertools.count(1)

            def handler(*_):  # which another signal may interrupt
                fedmsg_relay.publish('made', {'handled': next(numbers)}, timeout=20)

            signal.signal(signal.SIGALRM, handler)
            fedmsg_relay.publish('made', {'n': 0}, timeout=20)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0021)
            for n in range(1, 1000):
                fedmsg_relay.publish('made', {'n': n}, timeout=20)
            signal.setitimer(signal.ITIMER_REAL, 0)
            print("HANDLED", next(numbers) - 1)
        """
        publishing = script(site, text)
        assert publishing.wait() == 0, publishing.output
        handled = int(publishing.output.split()[-1])
        assert handled > 20, "it did not interrupt anything"
        received = bodies(subscriber.wait(1000 + handled))
        assert [body["n"] for body in received if "n" in body] == list(range(1000))
        assert sorted(body["handled"] for body in received if "handled" in body) == list(
            range(1, handled + 1)
        )

    def test_a_handler_that_destroys_takes_nothing_from_what_it_interrupts(
        self, site: Site
    ) -> None:
        text = """
            import signal
            def publish(timeout):
                try:
                    fedmsg_relay.publish('made', timeout=timeout)
                except fedmsg_relay.RelayUnavailable:
                    print("TOLD")
            publish(0.01)  # imports all that it needs
            signal.signal(signal.SIGALRM, lambda *_: fedmsg_relay.destroy())
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            publish(1)
        """
        told = script(site, text)
        assert told.wait() == 0
        assert told.output == "TOLD\nTOLD\n"

    def test_a_handler_that_raises(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        text = """
            import signal

            class Enough(Exception):
                pass

            def handler(*_):
                raise Enough

            fedmsg_relay.publish('made', {'n': 'first'})
            signal.signal(signal.SIGALRM, handler)
            for n in range(200):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0001 + n % 50 * 0.0001)
                    fedmsg_relay.publish('made', {'n': n})
                    time.sleep(1)
                except Enough:
                    pass
            fedmsg_relay.publish('made', {'n': 'last'})
        """
        publishing = script(site, text)
        assert publishing.wait() == 0, publishing.output
        received = [body["n"] for body in bodies(subscriber.wait(2))]
        while received[-1] != "last":
            received = [body["n"] for body in bodies(subscriber.wait(len(received) + 1))]
        assert len(set(received)) == len(received), "none may come twice"

    def test_an_oserror_that_a_handler_raises_comes_out(self, site: Site) -> None:
        site.relay()
        site.write(relay_inbound=site.inbound.replace("127.0.0.1", "localhost"))
        text = """
            def handle():
                global raised
                raised += 1
                raise TimeoutError("enough")

            def work():
                global came_out
                try:
                    fedmsg_relay.destroy()
                    fedmsg_relay.publish('made', {'x': 1}, timeout=20)
                except TimeoutError as error:
                    came_out += str(error) == "enough"

            raised = came_out = 0
            work()
            files = ('client/dialing.py', 'zmtp/connection.py', 'net/resolver.py')
            at_each_step(handle, work, *files)
            print(raised, came_out)
        """
        raising = script(site, STEPS + textwrap.dedent(text))
        assert raising.wait() == 0, raising.output
        raised, came_out = map(int, raising.output.split())
        assert raised > 100
        assert came_out == raised

    def test_what_a_handler_gives_up_by_raising_is_not_sent_later(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        text = """
            import concurrent.futures

            class Enough(Exception):
                pass

            def handle():
                raise Enough

            def elsewhere(body):  # after which there is nothing on the way any more
                for _ in range(2):
                    other.submit(fedmsg_relay.publish, 'made', body, confirm=True).result()

            def work():
                global n
                n += 1
                try:
                    fedmsg_relay.publish('made', {'n': n})
                except Enough:
                    elsewhere({'given up': n})
                    fedmsg_relay.publish('made', {'next': n})

            n = 0
            with concurrent.futures.ThreadPoolExecutor(1) as other:
                work()
                at_each_step(handle, work, 'relay/client/delivery.py', 'relay/client/api.py')
                elsewhere({'end': n})
        """
        raising = script(site, STEPS + textwrap.dedent(text))
        assert raising.wait() == 0, raising.output
        wait_for(lambda: "end" in bodies(subscriber.received)[-1], "the end")
        # Of the two messages from elsewhere the second one comes behind all that was on the way.
        said, given_up = 0, 0
        for body in bodies(subscriber.received):
            if "given up" in body:
                said, given_up = body["given up"], said if said == body["given up"] else given_up
            assert body.get("n", given_up + 1) > given_up
        assert given_up > 100

    def test_a_handler_publishes_while_a_name_is_asked_for(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        site.write(relay_inbound=site.inbound.replace("127.0.0.1", "localhost"))
        text = """
            import socket
            asked, handled = socket.getaddrinfo, 0

            def slow(*what, **how):
                if not how.get('flags'):
                    time.sleep(0.005)
                return asked(*what, **how)

            def handle():
                global handled
                handled += 1
                fedmsg_relay.publish('made', {'handled': handled}, timeout=20)

            def work():
                fedmsg_relay.destroy()
                fedmsg_relay.publish('made', {'handled': 0}, timeout=20)

            fedmsg_relay.publish('made', {'handled': 0}, timeout=20)
            socket.getaddrinfo = slow
            at_each_step(handle, work, 'fedmsg_relay/net/resolver.py', '/threading.py')
            print("HANDLED", handled)
        """
        publishing = script(site, STEPS + textwrap.dedent(text))
        assert publishing.wait() == 0, publishing.output
        handled = int(publishing.output.split()[-1])
        received = [body["handled"] for body in bodies(subscriber.wait(2 * handled + 2))]
        assert sorted(received) == [0] * (handled + 2) + list(range(1, handled + 1))


class TestLimits:
    def test_few_descriptors(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        limited = ("/bin/sh", "-c", 'ulimit -n 20; exec "$0" "$@"')
        publishing = script(site, "fedmsg_relay.publish('made', {'x': 1}, confirm=True)", *limited)
        assert publishing.wait() == 0, publishing.output
        assert bodies(subscriber.wait(1)) == [{"x": 1}]

    def test_no_descriptor_at_the_first_call(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        text = """
            import resource
            from fedmsg_relay import publish  # imported, but not yet used
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                publish('made')
            except fedmsg_relay.ConfigError as error:
                print("TOLD:", error)
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
            publish('made', {'x': 1})
        """
        publishing = script(site, text)
        assert publishing.wait() == 0, publishing.output
        assert "TOLD: cannot load the configuration: " in publishing.output
        assert "Too many open files" in publishing.output
        assert bodies(subscriber.wait(1)) == [{"x": 1}]

    def test_without_any_standard_stream(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        closed = ("/bin/sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-')
        assert script(site, "fedmsg_relay.publish('made', {'x': 1})", *closed).wait() == 0
        assert bodies(subscriber.wait(1)) == [{"x": 1}]

    def test_at_exit_also_to_a_name(self, site: Site) -> None:
        site.write(relay_inbound=site.inbound.replace("127.0.0.1", "localhost"))
        site.relay()
        subscriber = site.subscriber()
        text = """
            import atexit
            atexit.register(fedmsg_relay.publish, 'made', {'x': 1})
        """
        ending = script(site, text)
        assert ending.wait() == 0
        assert ending.output == ""
        assert bodies(subscriber.wait(1)) == [{"x": 1}]


def test_what_stock_fedmsg_has_loaded_counts(site: Site) -> None:
    site.relay()
    subscriber = site.subscriber()
    site.path.rename(site.root / "other.py")
    text = """
        import fedmsg.config, warnings
        warnings.simplefilter("ignore")
        fedmsg.config.load_config(filenames=["other.py"])
        fedmsg_relay.publish('made', {'x': 1})
    """
    publishing = script(site, text)
    assert publishing.wait() == 0, publishing.output
    assert bodies(subscriber.wait(1)) == [{"x": 1}]


def test_what_a_start_does_not_import(site: Site) -> None:
    heavy = ("concurrent.futures", "asyncio", "cryptography", "requests", "ssl", "urllib.request")
    found = f"[m for m in {heavy} if m in sys.modules]"
    text = f"import sys, fedmsg_relay.commands.publish\nprint({found})"
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=site.root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
