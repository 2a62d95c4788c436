"""The keys ``relay_amqp*`` and fedora-messaging's ``config.toml`` -> one frozen :class:`Settings`.

The manual of the keys is :mod:`fedmsg_relay.config`.  A site that has fedora-messaging has the
broker's address, the certificates and the exchange in its file, and nowhere else.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pika

from fedmsg_relay.amqp import brokers
from fedmsg_relay.config import values
from fedmsg_relay.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_PATH = "/etc/fedora-messaging/config.toml"
CONFIG_VARIABLE = "FEDORA_MESSAGING_CONF"

DEFAULT_URL = "amqp://"
"""fedora-messaging's: localhost, as guest."""

NAME = re.compile(r"[a-z0-9.-]{1,64}")
LOCK = ".lock"
"""What the name of a relay's lock has behind that of its queue."""

OPEN_MAX = 65_535
"""AMQP's limit for a prefetch, and enough for a window: 65,535 messages of 16 MiB are 1 TB."""

HEARTBEAT_MAX_S = 3600

MONITORING = "relay_amqp_monitoring"
DEFAULT_MONITORING = "ipc:///var/run/fedmsg/monitoring-fedmsg-relay-amqp.socket"
HTTP = "relay_amqp_http"

_T = TypeVar("_T")


@dataclass(frozen=True)
class Settings:
    """The validated configuration; :mod:`fedmsg_relay.config` says what each key means."""

    name: str
    brokers: tuple[pika.ConnectionParameters, ...]
    """To be tried in turn, at least one."""
    publish_exchange: str
    exchanges: tuple[str, ...]
    """To consume from, at least one."""
    passive_declares: bool
    """Whether somebody else declares the queue and binds it."""
    send: tuple[str, ...]
    """Patterns of topics, here and in the next."""
    receive: tuple[str, ...]
    window: int
    """Messages published and not confirmed."""
    prefetch: int
    """Messages delivered and not acknowledged."""
    monitoring: tuple[str, ...]
    """The configured address; empty if there is none."""
    http: tuple[str, ...]
    """The configured address as ``tcp://HOST:PORT``; empty if there is none."""
    shared: str
    """The path of fedora-messaging's configuration, which may be missing."""

    @property
    def queue(self) -> str:
        """The durable queue of this relay."""
        return f"fedmsg-relay.{self.name}"

    @property
    def receives_all(self) -> bool:
        """Whether every topic is consumed."""
        return "#" in self.receive

    @property
    def lock(self) -> str:
        """The exclusive queue that only one bridge of this name can have."""
        return f"{self.queue}{LOCK}"


def read(config: Mapping[str, Any]) -> Settings:
    """Validate the configuration and what it refers to.  Raises :class:`ConfigError`."""
    name = config.get("relay_amqp")
    if name is None:
        raise ConfigError(
            "relay_amqp: not set; give this relay a name, which no other relay at the broker has,"
            " such as its host's"
        )
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(
            f"relay_amqp = {name!r}: must be a name of 1 to 64 characters: a-z, 0-9, '.' and '-'"
        )
    if name.endswith(LOCK):
        raise ConfigError(
            f"relay_amqp = {name!r}: must not end in {LOCK!r}: the queue of that name is the lock"
            f" of the relay {name[: -len(LOCK)]!r}; choose another name"
        )
    path, shared = _shared(config.get("relay_amqp_config"))
    if shared.get("topic_prefix"):
        raise ConfigError(
            f"{path}: topic_prefix = {shared['topic_prefix']!r}: a topic of fedmsg has its prefix"
            " already; remove it, or name another file as relay_amqp_config"
        )
    return Settings(
        name=name,
        brokers=_brokers(config, path, shared),
        publish_exchange=brokers.short(
            f"{path}: publish_exchange", _of(path, shared, "publish_exchange", str, "amq.topic")
        ),
        exchanges=_texts(config, "relay_amqp_exchanges", "amq.topic"),
        passive_declares=_of(path, shared, "passive_declares", bool, False),
        send=_texts(config, "relay_amqp_send", "#"),
        receive=_texts(config, "relay_amqp_receive", "#"),
        window=values.whole(config, "relay_amqp_window", 1000, minimum=1, maximum=OPEN_MAX),
        prefetch=values.whole(config, "relay_amqp_prefetch", 200, minimum=1, maximum=OPEN_MAX),
        monitoring=_monitoring(config),
        http=values.http(config, HTTP),
        shared=path,
    )


def shown(broker: pika.ConnectionParameters) -> str:
    """Return a broker's address for a person, without the password."""
    scheme = "amqps" if broker.ssl_options is not None else "amqp"
    host = f"[{broker.host}]" if ":" in broker.host else broker.host
    vhost = "" if broker.virtual_host == "/" else f"/{broker.virtual_host}"
    return f"{scheme}://{host}:{broker.port}{vhost}"


def matches(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Return a function that matches a topic as a topic exchange does.

    ``*`` stands for one word, ``#`` for any number of words.
    """
    parts = {"*": r"[^.]*\.", "#": r"(?:[^.]*\.)*"}
    regex = re.compile(
        "|".join(
            "".join(parts.get(word) or re.escape(word) + r"\." for word in pattern.split("."))
            for pattern in patterns
        )
    )
    return lambda topic: regex.fullmatch(f"{topic}.") is not None


def _shared(path: object) -> tuple[str, dict[str, Any]]:
    """Return the path and the content of fedora-messaging's configuration.

    Only a file that nobody has named may be missing.
    """
    if path is not None and (not isinstance(path, str) or "\0" in path):
        raise ConfigError(f"relay_amqp_config = {path!r}: must be the path of a file")
    named = path or os.environ.get(CONFIG_VARIABLE)
    path = named or CONFIG_PATH
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except FileNotFoundError:
        if named:
            raise ConfigError(
                f"relay_amqp_config: {path}: there is no such file; make it, or name another"
            ) from None
        return path, {}
    except OSError as error:
        raise ConfigError(f"relay_amqp_config: {path}: {error.strerror}") from error
    except ValueError as error:  # neither TOML nor UTF-8, or a path that cannot be encoded
        raise ConfigError(f"relay_amqp_config: {path}: {error}") from error
    except RecursionError:
        raise ConfigError(f"relay_amqp_config: {path}: is nested too deeply") from None
    return path, {key.lower(): value for key, value in content.items()}


def _of(path: str, shared: Mapping[str, Any], key: str, kind: type[_T], default: _T) -> _T:
    value = shared.get(key, default)
    if not isinstance(value, kind):
        raise ConfigError(f"{path}: {key} = {value!r}: must be a {kind.__name__}")
    return value


def _brokers(
    config: Mapping[str, Any], path: str, shared: Mapping[str, Any]
) -> tuple[pika.ConnectionParameters, ...]:
    properties = {
        **_of(path, shared, "client_properties", dict, {}),
        "product": "fedmsg-relay-amqp",
        "connection_name": f"fedmsg-relay-amqp {config['relay_amqp']}",
    }
    return brokers.read(
        _urls(config, path, shared),
        path,
        _of(path, shared, "tls", dict, {}),
        properties,
        values.whole(config, "relay_amqp_heartbeat", 10, minimum=1, maximum=HEARTBEAT_MAX_S),
    )


def _urls(
    config: Mapping[str, Any], path: str, shared: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield the key and the value of each URL; no error shows a value, which has a password."""
    key = "relay_amqp_urls"
    found, kinds = config.get(key), "a string or a list of strings"
    if key not in config:
        key, kinds = f"{path}: amqp_url", "a string"
        found = shared.get("amqp_url", DEFAULT_URL)
    elif isinstance(found, (list, tuple)) and found:
        for position, url in enumerate(found):
            yield _url(f"{key}[{position}]", url, "a string")
        return
    yield _url(key, found, kinds)


def _url(key: str, value: object, kinds: str) -> tuple[str, str]:
    if not isinstance(value, str):
        empty = "an empty " if value in ([], ()) else ""
        raise ConfigError(f"{key}: must be {kinds}, not {empty}{type(value).__name__}")
    if not value:
        raise ConfigError(f"{key}: is empty; write {brokers.FORM}")
    return key, value


def _texts(config: Mapping[str, Any], key: str, default: str) -> tuple[str, ...]:
    found = config.get(key, default)
    found = [found] if isinstance(found, str) else found
    if (
        not isinstance(found, (list, tuple))
        or not found
        or not all(isinstance(text, str) and text for text in found)
    ):
        raise ConfigError(f"{key} = {found!r}: must be a string or a list of strings")
    return tuple(brokers.short(key, text) for text in found)


def _monitoring(config: Mapping[str, Any]) -> tuple[str, ...]:
    value = config.get(MONITORING, DEFAULT_MONITORING)
    return values.addresses(MONITORING, value) if value else ()
