"""A real RabbitMQ, from Debian's package, on loopback ports and in a directory of its own.

Nothing of a broker that the machine runs is touched.  The node is what a site has: it has users, it
can be stopped, killed and started again, and what is durable is there afterwards.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
from box import skip
from daemons import alive
from harness import DEADLINE_S, Process, free_port, listens, wait_for
from keys import Authority

logging.getLogger("pika").setLevel(logging.CRITICAL)  # tests say themselves what goes wrong

BIN = "/usr/lib/rabbitmq/bin"
"""The commands in the path would run as another user, which cannot see our directory."""

MESSAGE_MAX = 2_000_000
"""Bytes of a message."""

USER = "bridge"
PERMISSIONS = (r"^fedmsg-relay\.", *2 * (r"^(fedmsg-relay\.|amq\.topic$)",))
"""As docs/several-hosts.md has them: to configure, to write and to read."""
NOTHING = 3 * ("^$",)

START_S = 120.0
"""A node takes 5 s to start, and many times that beside other tests."""


class Rabbit(contextlib.AbstractContextManager["Rabbit"]):
    """A broker: one node, or one of a cluster by :meth:`join`."""

    def __init__(self, root: Path, config: str = "", beside: Rabbit | None = None) -> None:
        if shutil.which("rabbitmq-server", path=BIN) is None:
            skip("rabbitmq-server is not installed")
        root.mkdir()
        self.root = root
        self.port = free_port()
        self.tls_port = free_port()
        self.node = f"test{self.port}@localhost"
        self._epmd: Process | None = None
        mapper = beside.environ["ERL_EPMD_PORT"] if beside else str(free_port())
        home = beside.environ["HOME"] if beside else str(root)  # has the cluster's cookie
        distribution = str(free_port())
        self.authority = Authority(root)
        certificate, key = self.authority.files("server")
        (root / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.cacertfile = {self.authority.path}\n"
            f"ssl_options.certfile = {certificate}\n"
            f"ssl_options.keyfile = {key}\n"
            "ssl_options.verify = verify_peer\n"
            "ssl_options.fail_if_no_peer_cert = true\n"
            "auth_mechanisms.1 = PLAIN\n"
            "auth_mechanisms.2 = EXTERNAL\n"
            "ssl_cert_login_from = common_name\n"
            "log.file.level = warning\n"
            f"max_message_size = {MESSAGE_MAX}\n"
            "vm_memory_high_watermark.relative = 0.9\n"
            "disk_free_limit.absolute = 1MB\n"
            f"{config}"
        )
        (root / "plugins").write_text("[rabbitmq_auth_mechanism_ssl].\n")
        self.environ = {
            **os.environ,
            "HOME": home,
            "ERL_EPMD_PORT": mapper,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONFIG_FILE": str(root / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": distribution,
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(root / "plugins"),
            "RABBITMQ_LOG_BASE": str(root / "log"),
            "RABBITMQ_MNESIA_BASE": str(root / "mnesia"),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "+S 2:2 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}"
            ),
            "RUNNING_UNDER_SYSTEMD": "1",  # then its script becomes the server, and not its parent
        }
        if beside is None:
            # Or Erlang would start one that stays behind.
            command = ("epmd", "-address", "127.0.0.1", "-port", mapper)
            self._epmd = Process(command, cwd=root, env=self.environ)
        self._server = 0  # its pid, while it is to run
        # The parent of every process of the node: a test that starts it anew leaves nothing behind.
        self._parent = Process(
            ("sh", "-c", f"while read _; do {BIN}/rabbitmq-server & echo pid $!; done"),
            cwd=root,
            env=self.environ,
            stdin=subprocess.PIPE,
        )
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"amqps://localhost:{self.tls_port}"

    @property
    def user_url(self) -> str:
        return f"amqp://{USER}:secret@127.0.0.1:{self.port}"

    def add_user(self) -> None:
        """Add the user of bridges."""
        self.ctl("add_user", USER, "secret")
        self.permit(PERMISSIONS)

    def permit(self, permissions: tuple[str, ...]) -> None:
        """Give the user of bridges these permissions and no others."""
        self.ctl("set_permissions", USER, *permissions)

    def tls_config(self) -> str:
        """fedora-messaging's configuration, with a certificate of the user of bridges."""
        certificate, key = self.authority.files(USER)
        return (
            f'[tls]\nca_cert = "{self.authority.path}"\n'
            f'certfile = "{certificate}"\nkeyfile = "{key}"\n'
        )

    def start(self) -> None:
        """Start the node, and return when it takes connections."""
        starts = self._parent.output.count("pid ")
        self._parent.stdin.write(b"start\n")
        self._parent.stdin.flush()
        self._parent.wait_for("pid ", starts + 1)
        self._server = int(self._parent.output.rsplit("pid ", 1)[1].split()[0])
        wait_for(self._is_up, f"the broker: {self.root}", START_S)

    def _is_up(self) -> bool:
        assert alive(self._server), self._parent.output
        if not listens(f"tcp://127.0.0.1:{self.port}"):
            return False
        try:
            pika.BlockingConnection(self.parameters()).close()
        except pika.exceptions.AMQPError:
            return False
        return True

    def stop(self) -> None:
        """End the node in good order."""
        self.kill(signal.SIGTERM)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the node by a signal."""
        os.kill(self._server, number)
        wait_for(lambda: not alive(self._server), "the end of the broker", START_S)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The node does nothing within the block."""
        os.kill(self._server, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._server, signal.SIGCONT)

    def join(self, other: Rabbit) -> None:
        """Become a node of the cluster of ``other``."""
        self.ctl("stop_app")
        self.ctl("reset")
        self.ctl("join_cluster", other.node)
        self.ctl("start_app")

    def ctl(self, *words: str) -> str:
        """Run rabbitmqctl, which takes seconds."""
        done = subprocess.run(
            [f"{BIN}/rabbitmqctl", "-q", *words],
            env=self.environ,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def parameters(self) -> pika.ConnectionParameters:
        parameters = pika.URLParameters(self.url)
        parameters.socket_timeout = parameters.stack_timeout = 5
        return parameters

    @contextlib.contextmanager
    def channel(self) -> Iterator[Any]:
        """A channel of an administrator's connection."""
        connection = pika.BlockingConnection(self.parameters())
        try:
            yield connection.channel()
        finally:
            with contextlib.suppress(pika.exceptions.AMQPError):
                connection.close()

    def __exit__(self, *_: object) -> None:
        if self._server and alive(self._server):
            self.kill()
        for process in (self._parent, self._epmd):
            if process is not None:
                process.close()
        wait_for(lambda: not self._is_left(), "the end of the node's helpers")

    def _is_left(self) -> bool:
        """Whether a process of the node runs, such as those that Erlang has for names."""
        mark = f"RABBITMQ_NODENAME={self.node}".encode()
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in environ.read_bytes().split(b"\0"):
                    return True
        return False


@contextlib.contextmanager
def cluster(root: Path) -> Iterator[list[Rabbit]]:
    """A cluster of three nodes."""
    with contextlib.ExitStack() as ending:
        first = ending.enter_context(Rabbit(root / "node1"))
        nodes = [first]
        for number in (2, 3):
            node = ending.enter_context(Rabbit(root / f"node{number}", beside=first))
            node.join(first)
            nodes.append(node)
        yield nodes


def drained(channel: Any, queue: str) -> list[tuple[Any, Any, bytes]]:
    """All messages of a queue, which are removed: method, properties and body."""
    found: list[tuple[Any, Any, bytes]] = []
    while count := channel.queue_declare(queue, passive=True).method.message_count:
        channel.basic_qos(prefetch_count=count)  # so that it holds none that is not returned here
        found += itertools.islice(channel.consume(queue), count)
        channel.cancel()
        channel.basic_ack(found[-1][0].delivery_tag, multiple=True)
    return found


def quiet(count: Any, for_s: float, deadline_s: float = 2 * DEADLINE_S) -> None:
    """Return when ``count()`` has not changed for a while."""
    end = time.monotonic() + deadline_s
    before, since = count(), time.monotonic()
    while time.monotonic() < since + for_s:
        assert time.monotonic() < end, f"not quiet within {deadline_s} s"
        time.sleep(0.05)
        if (now := count()) != before:
            before, since = now, time.monotonic()
