"""The keys ``relay_amqp*`` and fedora-messaging's ``config.toml`` -> one frozen :class:`Settings`.

The manual of the keys is :mod:`fedmsg_relay.config`.  A site that has fedora-messaging has the
broker's address, the certificates and the exchange in its file, and nowhere else.
"""

from __future__ import annotations

import os
import re
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pika

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

PATTERN_MAX_BYTES = 255
"""AMQP's limit for a binding's key."""

OPEN_MAX = 65_535
"""AMQP's limit for a prefetch, and enough for a window: 65,535 messages of 16 MiB are 1 TB."""

HEARTBEAT_MAX_S = 3600

MONITORING = "relay_amqp_monitoring"
DEFAULT_MONITORING = "ipc:///var/run/fedmsg/monitoring-fedmsg-relay-amqp.socket"

CONNECT_S = 10.0
"""Longest wait for each of TCP, TLS and AMQP to be set up."""

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
    monitoring: str
    """An address; empty if there is none."""

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
        return f"{self.queue}.lock"


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
    path, shared = _shared(config.get("relay_amqp_config"))
    if shared.get("topic_prefix"):
        raise ConfigError(
            f"{path}: topic_prefix = {shared['topic_prefix']!r}: a topic of fedmsg has its prefix"
            " already; remove it, or name another file as relay_amqp_config"
        )
    return Settings(
        name=name,
        brokers=_brokers(config, path, shared),
        publish_exchange=_of(path, shared, "publish_exchange", str, "amq.topic"),
        exchanges=_texts(config, "relay_amqp_exchanges", ["amq.topic"]),
        passive_declares=_of(path, shared, "passive_declares", bool, False),
        send=_patterns(config, "relay_amqp_send"),
        receive=_patterns(config, "relay_amqp_receive"),
        window=values.whole(config, "relay_amqp_window", 1000, minimum=1, maximum=OPEN_MAX),
        prefetch=values.whole(config, "relay_amqp_prefetch", 200, minimum=1, maximum=OPEN_MAX),
        monitoring=_monitoring(config),
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
    if path is not None and not isinstance(path, str):
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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"relay_amqp_config: {path}: {error}") from error
    return path, {key.lower(): value for key, value in content.items()}


def _of(path: str, shared: Mapping[str, Any], key: str, kind: type[_T], default: _T) -> _T:
    value = shared.get(key, default)
    if not isinstance(value, kind):
        raise ConfigError(f"{path}: {key} = {value!r}: must be a {kind.__name__}")
    return value


def _brokers(
    config: Mapping[str, Any], path: str, shared: Mapping[str, Any]
) -> tuple[pika.ConnectionParameters, ...]:
    key, found = f"{path}: amqp_url", [_of(path, shared, "amqp_url", str, DEFAULT_URL)]
    if "relay_amqp_urls" in config:
        key, found = "relay_amqp_urls", list(_texts(config, "relay_amqp_urls", []))
    tls = _of(path, shared, "tls", dict, {})
    heartbeat_s = values.whole(
        config, "relay_amqp_heartbeat", 10, minimum=1, maximum=HEARTBEAT_MAX_S
    )
    properties = {
        **_of(path, shared, "client_properties", dict, {}),
        "product": "fedmsg-relay-amqp",
        "connection_name": f"fedmsg-relay-amqp {config['relay_amqp']}",
    }
    return tuple(_broker(key, url, path, tls, heartbeat_s, properties) for url in found)


def _broker(
    key: str,
    url: str,
    path: str,
    tls: Mapping[str, Any],
    heartbeat_s: int,
    properties: dict[str, Any],
) -> pika.ConnectionParameters:
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("amqp", "amqps"):
            raise ValueError
        broker = pika.URLParameters(url)
    except (ValueError, TypeError, AttributeError):
        # What is wrong with a URL may be a part of its password, so it is not shown.
        raise ConfigError(
            f"{key}: must be amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps://, where other"
            " characters than letters and digits in each part are written as %XX; options behind"
            " '?' are those of pika.URLParameters"
        ) from None
    if broker.ssl_options is not None:
        broker.ssl_options = pika.SSLOptions(_context(path, tls), broker.host)
        if tls.get("certfile") and parts.password is None:
            broker.credentials = pika.credentials.ExternalCredentials()
    broker.client_properties = properties
    broker.heartbeat = heartbeat_s
    broker.socket_timeout = broker.stack_timeout = CONNECT_S
    # The next broker is tried, and this one again, by whoever connects.
    broker.connection_attempts = 1
    broker.blocked_connection_timeout = None
    return broker


def _context(path: str, tls: Mapping[str, Any]) -> ssl.SSLContext:
    for name in ("ca_cert", "certfile", "keyfile"):
        if not isinstance(tls.get(name), (str, type(None))):
            raise ConfigError(f"{path}: tls.{name} = {tls[name]!r}: must be the path of a file")
    authority, certificate, private = (
        tls.get(n) or None for n in ("ca_cert", "certfile", "keyfile")
    )
    if (certificate is None) != (private is None):
        raise ConfigError(f"{path}: tls: certfile and keyfile belong together; one is missing")
    what = f"tls.ca_cert = {authority!r}"
    try:
        context = ssl.create_default_context(cafile=authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        what = f"tls.certfile = {certificate!r}, tls.keyfile = {private!r}"
        if certificate is not None:
            context.load_cert_chain(certificate, private)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"{path}: {what}: {error.strerror or error}") from error
    return context


def _texts(config: Mapping[str, Any], key: str, default: list[str]) -> tuple[str, ...]:
    found = config.get(key, default)
    found = [found] if isinstance(found, str) else found
    if (
        not isinstance(found, (list, tuple))
        or not found
        or not all(isinstance(text, str) and text for text in found)
    ):
        raise ConfigError(f"{key} = {found!r}: must be a string or a list of strings")
    return tuple(found)


def _patterns(config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = _texts(config, key, ["#"])
    for pattern in found:
        if len(pattern.encode()) > PATTERN_MAX_BYTES:
            raise ConfigError(f"{key} = {pattern!r}: has more than {PATTERN_MAX_BYTES} bytes")
    return found


def _monitoring(config: Mapping[str, Any]) -> str:
    value = config.get(MONITORING, DEFAULT_MONITORING)
    return values.addresses(MONITORING, value)[0] if value else ""
