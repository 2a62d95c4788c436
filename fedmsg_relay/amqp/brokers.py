"""URLs of brokers, TLS and client properties -> parameters of a connection, checked.

What a connection could not be made with is refused here, so that no connection fails for it later.
A URL may have a password in any place, so no error shows a part of a URL: the error names the key,
the position and the option.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
import struct
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlencode, urlsplit

import pika
import pika.data
import pika.exceptions

from fedmsg_relay.amqp.mapping import SHORT_MAX_BYTES
from fedmsg_relay.errors import ConfigError

HOST_MAX_BYTES = 255
"""DNS's limit for a name."""

CONNECT_S = 10.0
"""Longest wait for each of TCP, TLS and AMQP to be set up."""

FORM = "amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps://"
ENCODE = (
    "in the user, the password and the vhost '/' is %2F, '?' is %3F, '#' is %23, '@' is %40 and"
    " '%' is %25"
)

SCHEME = re.compile("amqps?://", re.IGNORECASE)
HOST = re.compile(r"[\w.-]+")
IN_BRACKETS = re.compile(r"\[[^\]]*\](:.*)?")
PATH = re.compile(r"(/|/[^/;]+/?)?")  # pika drops what is behind another '/' and behind ';'
BARE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")

SETTER = "_set_url_"
OPTIONS = {name[len(SETTER) :] for name in dir(pika.URLParameters) if name.startswith(SETTER)}

TLS_KEYS = "ca_cert", "certfile", "keyfile"
"""fedora-messaging's, and no others."""


def read(
    urls: Iterable[tuple[str, str]],
    path: str,
    tls: Mapping[str, Any],
    properties: Mapping[str, Any],
    heartbeat_s: int,
) -> tuple[pika.ConnectionParameters, ...]:
    """Return the parameters for each of ``urls``, which are pairs of a key and its value.

    ``tls`` and ``properties`` are tables of the file ``path``.  Raises :class:`ConfigError`.
    """
    for name in tls:
        if name not in TLS_KEYS:
            raise ConfigError(
                f"{path}: tls.{name}: no such key; the keys of [tls] are {', '.join(TLS_KEYS)}"
            )
    for name, value in properties.items():
        _check_property(path, name, value)
    made = []
    for key, url in urls:
        broker = _parameters(key, url)
        if broker.ssl_options is not None:
            broker.ssl_options = pika.SSLOptions(_context(path, tls), broker.host)
            if tls.get("certfile") and urlsplit(url).password is None:
                broker.credentials = pika.credentials.ExternalCredentials()
        broker.client_properties = dict(properties)
        broker.heartbeat = heartbeat_s
        broker.socket_timeout = broker.stack_timeout = CONNECT_S
        # The next broker is tried, and this one again, by whoever connects.
        broker.connection_attempts = 1
        broker.blocked_connection_timeout = None
        made.append(broker)
    return tuple(made)


def short(key: str, text: str) -> str:
    """Return ``text`` if AMQP can have it as a name.  Raises :class:`ConfigError`."""
    if not 1 <= _size(text) <= SHORT_MAX_BYTES:
        raise ConfigError(f"{key} = {text!r}: must have 1 to {SHORT_MAX_BYTES} bytes of UTF-8")
    return text


def _size(text: str) -> int:
    """Return the bytes of ``text``; 0 if it cannot be encoded."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return 0


def _check_property(path: str, name: str, value: object) -> None:
    if name == "capabilities":
        raise ConfigError(
            f"{path}: client_properties.{name}: would replace the bridge's own, which it needs;"
            " remove it"
        )
    try:
        pika.data.encode_table([], {name: value})
    except (pika.exceptions.AMQPError, struct.error, ValueError, TypeError, AttributeError):
        raise ConfigError(
            f"{path}: client_properties.{name} = {value!r}: must be a string, a boolean, an integer"
            " of 64 bits, or an array or a table of these, and its name must not exceed"
            f" {SHORT_MAX_BYTES} bytes"
        ) from None


def _parameters(key: str, url: str) -> pika.ConnectionParameters:
    """Return what pika reads in ``url``, if pika reads all of it as it was meant."""
    parts = _split(key, url)
    for name, given in parse_qs(parts.query).items():
        if name not in OPTIONS:
            raise ConfigError(
                f"{key}: has an option behind '?' that is not one of {', '.join(sorted(OPTIONS))}"
            )
        try:
            alone = pika.URLParameters(f"{parts.scheme}://?{urlencode({name: given}, doseq=True)}")
            _check_option(name, alone)
        except Exception as error:  # noqa: BLE001 (the options are Python, and name files)
            why = isinstance(error, OSError) and error.strerror
            raise ConfigError(
                f"{key}: the option {name} behind '?': {why or 'cannot be read'}; correct or"
                " remove it"
            ) from None
    broker = pika.URLParameters(url)
    if _size(broker.virtual_host) > SHORT_MAX_BYTES:
        raise ConfigError(f"{key}: the vhost has more than {SHORT_MAX_BYTES} bytes; correct it")
    return broker


def _check_option(name: str, alone: pika.ConnectionParameters) -> None:
    """Raise ValueError for what pika itself notices at each connection, and not before."""
    if name == "locale" and _size(alone.locale) > SHORT_MAX_BYTES:
        raise ValueError
    if name == "tcp_options" and not all(
        isinstance(value, int) for value in (alone.tcp_options or {}).values()
    ):
        raise ValueError


def _split(key: str, url: str) -> SplitResult:
    if not url.isprintable():
        raise ConfigError(f"{key}: has a control character; write {FORM}")
    try:
        if not SCHEME.match(url):
            raise ValueError
        parts = urlsplit(url)
    except ValueError:  # of urlsplit, which shows the URL
        raise ConfigError(f"{key}: must be {FORM}, one URL for each broker; {ENCODE}") from None
    if "#" in url or "@" in parts.path + parts.query:
        raise ConfigError(
            f"{key}: has a '#', or an '@' behind the '/' or '?' that ends the host; {ENCODE}"
        )
    user, at, address = parts.netloc.rpartition("@")
    encoded = f"{user} {parts.path} {parts.query}"
    if BARE_PERCENT.search(encoded):
        raise ConfigError(f"{key}: has a '%' without two hexadecimal digits behind it; {ENCODE}")
    try:
        if "\0" in unquote(encoded, errors="strict"):
            raise ConfigError(f"{key}: has a NUL character, %00; remove it")
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: what is written as %XX is not UTF-8; correct it") from None
    if at and ":" not in user:
        raise ConfigError(f"{key}: the user has no password; write {FORM}")
    _check_address(key, parts, is_ip=IN_BRACKETS.fullmatch(address) is not None)
    if not PATH.fullmatch(parts.path):
        raise ConfigError(f"{key}: the vhost has a '/' or ';', which must be %2F or %3B")
    return parts


def _check_address(key: str, parts: SplitResult, is_ip: bool) -> None:
    host = parts.hostname  # None: localhost, as in "amqp://"
    try:
        if is_ip:
            ipaddress.IPv6Address(host or "")
        # An empty or a long label is an error of the encoding, as when the name is resolved.
        elif host and not (HOST.fullmatch(host) and len(host.encode("idna")) <= HOST_MAX_BYTES):
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{key}: the host is neither a host name nor an address; write {FORM}, one URL for"
            " each broker"
        ) from None
    try:
        if parts.port == 0:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{key}: the port is not a number from 1 to 65535; write {FORM}, where {ENCODE}"
        ) from None


def _context(path: str, tls: Mapping[str, Any]) -> ssl.SSLContext:
    for name in TLS_KEYS:
        if not isinstance(tls.get(name), (str, type(None))):
            raise ConfigError(f"{path}: tls.{name} = {tls[name]!r}: must be the path of a file")
    authority, certificate, private = (tls.get(name) or None for name in TLS_KEYS)
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
    except ValueError as error:  # a NUL
        raise ConfigError(f"{path}: {what}: {error}") from error
    return context
