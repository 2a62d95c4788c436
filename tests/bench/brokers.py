"""The peers that a site might use instead: message brokers, from Debian's packages.

Each is started by us on a free port with what it needs in a directory that is thrown away: nothing
of a service that the machine runs is touched.  Whatever would store, limit or delay messages is
off.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness import Site, free_port

from bench import wires
from bench.amqp import Amqp
from bench.peer import Peer, first_line

SBIN = "/usr/sbin"
"""Not in the path of everybody who may run them."""

RABBITMQ = "/usr/lib/rabbitmq/bin"
"""The command in the path would run it as another user, which cannot see our directory."""


class Broker(Peer):
    """It has one address, for publishers and consumers."""

    program: str
    path = f"{os.environ.get('PATH', '')}:{SBIN}"

    def missing(self) -> str:
        return "" if shutil.which(self.program, path=self.path) else f"no {self.program}"

    def prepare(self, site: Site) -> list[str]:
        site.outbound = site.inbound
        return [self._path(), *self._options(site, site.inbound.rpartition(":")[2])]

    def _path(self) -> str:
        return shutil.which(self.program, path=self.path) or self.program

    def _options(self, site: Site, port: str) -> list[str]:
        raise NotImplementedError


class Mosquitto(Broker):
    name = "mosquitto"
    title = "mosquitto, QoS 0"
    program = "mosquitto"
    wire = wires.Mqtt()

    def version(self) -> str:
        return first_line(self._path(), "-h")

    def _options(self, site: Site, port: str) -> list[str]:
        config = site.root / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\n"
            "allow_anonymous true\n"
            "set_tcp_nodelay true\n"
            "max_queued_messages 0\n"
            "log_type error\n"
        )
        return ["-c", str(config)]


class Redis(Broker):
    name = "redis"
    title = "Redis pub/sub"
    program = "redis-server"
    wire = wires.Resp()

    def version(self) -> str:
        return " ".join(first_line(self._path(), "--version").split()[:3])

    def _options(self, _site: Site, port: str) -> list[str]:
        limit = "--client-output-buffer-limit", "pubsub 0 0 0"
        return ["--bind", "127.0.0.1", "--port", port, "--save", "", *limit]


class RabbitMq(Broker):
    name = "rabbitmq"
    title = "RabbitMQ, transient"
    program = "rabbitmq-server"
    path = RABBITMQ
    wire = Amqp()

    def version(self) -> str:
        # The command that tells would start a daemon that stays behind.
        return Path(self._path()).resolve().parents[1].name

    def _options(self, site: Site, port: str) -> list[str]:
        config = site.root / "rabbitmq.conf"
        config.write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\nlog.file = false\n")
        mapper = str(free_port())
        site.environ.update(
            ERL_EPMD_PORT=mapper,
            RABBITMQ_CONFIG_FILE=str(config),
            RABBITMQ_DIST_PORT=str(free_port()),
            RABBITMQ_ENABLED_PLUGINS_FILE=str(site.root / "plugins"),
            RABBITMQ_LOG_BASE=str(site.root),
            RABBITMQ_MNESIA_BASE=str(site.root),
            RABBITMQ_NODENAME="bench@localhost",
            RUNNING_UNDER_SYSTEMD="1",  # then its script becomes the server, and not its parent
        )
        # Or Erlang would start one that stays behind.
        site.start("epmd", "-address", "127.0.0.1", "-port", mapper)
        return []
