"""The keys ``relay_amqp*``, and what they take from fedora-messaging's file."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pika
import pytest
from keys import Authority

from fedmsg_relay.amqp import settings
from fedmsg_relay.errors import ConfigError

ALL = {
    "relay_amqp": "one",
    "relay_amqp_urls": ["amqp://u:secret@a.example/%2Fpubsub", "amqps://b.example:5000"],
    "relay_amqp_exchanges": ["amq.topic", "zmq.topic"],
    "relay_amqp_send": "org.#",
    "relay_amqp_receive": ["org.fedoraproject.*.git.#"],
    "relay_amqp_window": 5,
    "relay_amqp_prefetch": 6,
    "relay_amqp_heartbeat": 7,
    "relay_amqp_monitoring": "tcp://127.0.0.1:5",
    "relay_amqp_http": "[::1]:6",
}


@pytest.fixture(autouse=True)
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """fedora-messaging's file, which is empty."""
    path = tmp_path / "config.toml"
    path.touch()
    monkeypatch.setenv("FEDORA_MESSAGING_CONF", str(path))
    return path


def test_the_defaults_are_fedora_messagings() -> None:
    made = settings.read({"relay_amqp": "one"})
    (broker,) = made.brokers
    assert settings.shown(broker) == "amqp://localhost:5672"
    assert (made.publish_exchange, made.exchanges) == ("amq.topic", ("amq.topic",))
    assert (made.window, made.prefetch, broker.heartbeat) == (1000, 200, 10)
    assert (made.queue, made.lock) == ("fedmsg-relay.one", "fedmsg-relay.one.lock")
    assert not made.passive_declares


def test_every_key_counts() -> None:
    made = settings.read(ALL)
    assert [settings.shown(broker) for broker in made.brokers] == [
        "amqp://a.example:5672//pubsub",
        "amqps://b.example:5000",
    ]
    assert made.send == ("org.#",)
    assert made.receive == ("org.fedoraproject.*.git.#",)
    assert made.exchanges == ("amq.topic", "zmq.topic")
    assert (made.window, made.prefetch, made.brokers[0].heartbeat) == (5, 6, 7)
    assert made.monitoring == ("tcp://127.0.0.1:5",)
    assert made.http == ("tcp://[::1]:6",)


def test_a_site_has_one_place_for_its_broker(shared: Path) -> None:
    authority = Authority(shared.parent)
    certificate, key = authority.files("client")
    shared.write_text(f"""
        amqp_url = "amqps://broker.example/%2Fpubsub"
        publish_exchange = "mine"
        passive_declares = true
        callback = "ignored"
        [client_properties]
        app = "bus"
        [tls]
        ca_cert = "{authority.path}"
        certfile = "{certificate}"
        keyfile = "{key}"
    """)
    made = settings.read({"relay_amqp": "one"})
    (broker,) = made.brokers
    assert settings.shown(broker) == "amqps://broker.example:5671//pubsub"
    assert isinstance(broker.credentials, pika.credentials.ExternalCredentials)
    assert broker.ssl_options.server_hostname == "broker.example"
    assert broker.ssl_options.context.verify_mode is ssl.CERT_REQUIRED
    assert broker.ssl_options.context.check_hostname
    assert (made.publish_exchange, made.passive_declares) == ("mine", True)
    assert broker.client_properties["app"] == "bus"


def test_a_password_counts_beside_a_certificate(shared: Path) -> None:
    certificate, key = Authority(shared.parent).files("client")
    shared.write_text(
        f'amqp_url = "amqps://u:p@h"\n[tls]\ncertfile = "{certificate}"\nkeyfile = "{key}"\n'
    )
    (broker,) = settings.read({"relay_amqp": "one"}).brokers
    assert isinstance(broker.credentials, pika.PlainCredentials)


def test_a_file_that_nobody_has_named_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDORA_MESSAGING_CONF")
    monkeypatch.setattr(settings, "CONFIG_PATH", "/nonexistent/config.toml")
    assert settings.read({"relay_amqp": "one"}).publish_exchange == "amq.topic"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"relay_amqp": None}, "relay_amqp: not set"),
        ({"relay_amqp": "Host"}, "relay_amqp = 'Host'"),
        ({"relay_amqp": "x" * 65}, "relay_amqp = 'xxx"),
        ({"relay_amqp": 5}, "relay_amqp = 5"),
        ({"relay_amqp_config": 5}, "relay_amqp_config = 5"),
        ({"relay_amqp_config": "/nonexistent"}, "/nonexistent: there is no such file"),
        ({"relay_amqp_config": "/"}, "relay_amqp_config: /: Is a directory"),
        ({"relay_amqp": "a.lock"}, r"relay_amqp = 'a.lock': must not end in '.lock'"),
        ({"relay_amqp_config": "a\0b"}, r"relay_amqp_config = 'a\\x00b'"),
        ({"relay_amqp_urls": []}, "relay_amqp_urls: must be a string or a list of strings"),
        ({"relay_amqp_urls": "http://host"}, "relay_amqp_urls: must be amqp://"),
        ({"relay_amqp_urls": "amqp://host:port"}, "relay_amqp_urls: the port is not"),
        (
            {"relay_amqp_urls": "amqp://h?heartbeet=5"},
            "relay_amqp_urls: .* not one of .* heartbeat",
        ),
        ({"relay_amqp_exchanges": [5]}, "relay_amqp_exchanges"),
        ({"relay_amqp_exchanges": ["a", "x" * 256]}, "relay_amqp_exchanges = 'xxx.*255 bytes"),
        ({"relay_amqp_exchanges": "\udc80"}, r"relay_amqp_exchanges = '\\udc80'"),
        ({"relay_amqp_send": "x" * 256}, "relay_amqp_send"),
        ({"relay_amqp_window": 0}, "relay_amqp_window"),
        ({"relay_amqp_prefetch": 65_536}, "relay_amqp_prefetch"),
        ({"relay_amqp_heartbeat": True}, "relay_amqp_heartbeat"),
        ({"relay_amqp_monitoring": 5}, "relay_amqp_monitoring"),
        ({"relay_amqp_http": "tcp://127.0.0.1:5"}, "relay_amqp_http"),
        ({"relay_amqp_http": 0}, "relay_amqp_http"),
    ],
)
def test_a_wrong_value_is_named(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as raised:
        settings.read({**ALL, **changes})
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not toml", "config.toml: "),
        ('topic_prefix = "x"', "topic_prefix = 'x'"),
        ("x = " + "[" * 5000, "config.toml: "),
        ("amqp_url = 5", "amqp_url: must be a string, not int"),
        ('publish_exchange = ""', "publish_exchange = '': must have 1 to 255 bytes"),
        (f'publish_exchange = "{"x" * 256}"', "publish_exchange = 'xxx.*255 bytes"),
        ("[client_properties]\na = 1.5", "client_properties.a = 1.5: "),
        ("[client_properties]\na = 2026-11-30", "client_properties.a = datetime.date"),
        (f"[client_properties]\na = {2**63}", "client_properties.a = 9223372036854775808: "),
        ("[client_properties]\na = {b = [1, 1.5]}", "client_properties.a = {'b': "),
        (f"[client_properties]\n{'x' * 256} = 1", "client_properties.x{256} = 1: "),
        ("[client_properties.capabilities]", "client_properties.capabilities: "),
        ('[tls]\nca_certs = "/etc/ca"', "tls.ca_certs: no such key; .* ca_cert, certfile, keyfile"),
        ('amqp_url = "amqps://h"\n[tls]\nca_cert = "a\\u0000b"', r"tls.ca_cert = 'a\\x00b'"),
        (
            'amqp_url = "amqps://h"\n[tls]\ncertfile = "a\\u0000b"\nkeyfile = "c"',
            r"tls.certfile = 'a\\x00b'",
        ),
        ("passive_declares = 1", "passive_declares = 1"),
        ('amqp_url = "amqps://h"\n[tls]\nca_cert = "/nonexistent"', "tls.ca_cert = '/nonexistent'"),
        ('amqp_url = "amqps://h"\n[tls]\nca_cert = 5', "tls.ca_cert = 5"),
        ('amqp_url = "amqps://h"\n[tls]\ncertfile = "x"', "belong together"),
        (
            'amqp_url = "amqps://h"\n[tls]\ncertfile = "/etc/passwd"\nkeyfile = "/etc/passwd"',
            "tls.certfile = '/etc/passwd'",
        ),
    ],
)
def test_a_wrong_value_in_fedora_messagings_file_is_named(
    shared: Path, text: str, reason: str
) -> None:
    shared.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        settings.read({"relay_amqp": "one"})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (["amqp://u:SECRET@h", None], r"relay_amqp_urls\[1\]: must be a string, not NoneType"),
        (["amqp://u:SECRET@h", ""], r"relay_amqp_urls\[1\]: is empty"),
        ("", "relay_amqp_urls: is empty"),
        (None, "relay_amqp_urls: must be .*, not NoneType"),
        ({"amqp://u:SECRET@h": 1}, "relay_amqp_urls: must be .*, not dict"),
        (b"amqp://u:SECRET@h", "relay_amqp_urls: must be .*, not bytes"),
        (["amqp://g", "http://u:SECRET@h"], r"relay_amqp_urls\[1\]: must be amqp://"),
        ("amqp:h", "must be amqp://"),
        ("amqp:/h", "must be amqp://"),
        ("amqp://relay:12/SECRET@127.0.0.1/", "'/' is %2F"),
        ("amqp://relay:12?SECRET@127.0.0.1/", "'/' is %2F"),
        ("amqp://relay:12#SECRET@127.0.0.1/", "'/' is %2F"),
        ("amqp://h/SECRET@", "'/' is %2F"),
        ("amqp://h/v#SECRET", "'/' is %2F"),
        ("amqp://h/#", "'/' is %2F"),
        ("amqp://u:SECRET[@h", "must be amqp://"),
        ("amqp://u:SECRET\uff03@h", "must be amqp://"),
        ("amqp://SECRET@h", "no password"),
        ("amqp://u:%zzSECRET@h", "'%' is %25"),
        ("amqp://u:SECRET%@h", "'%' is %25"),
        ("amqp://u:SECRET%ff@h", "not UTF-8"),
        ("amqp://u:SECRET%00@h", "NUL"),
        ("amqp://u:SECRET@h\n", "control character"),
        ("amqp://u:SECRET@h\0", "control character"),
        ("amqp://u:SECRET@h\udc80", "control character"),
        ("amqp://u:SECRET@h%zz", "host"),
        ("amqp://u:SECRET@h%41", "host"),
        ("amqp://u:SECRET@a..b", "host"),
        (f"amqp://u:SECRET@{'x' * 64}.example", "host"),
        (f"amqp://u:SECRET@{'x.' * 127}xx", "host"),
        ("amqp://h,amqp://SECRET", "host"),
        ("amqp://h,SECRET", "host"),
        ("amqp://h SECRET", "host"),
        ("amqp://[::1]SECRET", "host"),
        ("amqp://SECRET[::1]", "must be amqp://|host"),
        ("amqp://u:SECRET@.", "host"),
        ("amqp://[SECRET]", "must be amqp://|host"),
        ("amqp://h:SECRET", "port"),
        ("amqp://h:0", "port"),
        ("amqp://h:65536", "port"),
        ("amqp://h//SECRET", "vhost"),
        ("amqp://h/SECRET/b", "vhost"),
        ("amqp://h/SECRET;b", "vhost"),
        (f"amqp://h/{'x' * 256}", "vhost"),
        ("amqp://h?SECRET=1", "an option"),
        ("amqp://h?heartbeat=SECRET", "option heartbeat"),
        ("amqp://h?ssl_options={", "option ssl_options"),
        ("amqp://h?tcp_options={", "option tcp_options"),
        ("amqp://h?tcp_options={'TCP_KEEPIDLE':'SECRET'}", "option tcp_options"),
        ("amqp://h?client_properties={", "option client_properties"),
        ("amqp://h?tcp_options=" + "(" * 5000, "option tcp_options"),
        ('amqp://h?ssl_options={"ca_certs":"/SECRET"}', "option ssl_options .*: No such file"),
        ('amqp://h?ssl_options={"ca_certs":"\\0"}', "option ssl_options"),
        (f"amqp://h?locale={'x' * 256}", "option locale"),
        ("amqp://h?locale=a&locale=SECRET", "option locale"),
    ],
)
def test_a_wrong_url_is_named_and_not_shown(value: object, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as raised:
        settings.read({**ALL, "relay_amqp_urls": value})
    assert str(raised.value).startswith("relay_amqp_urls")
    assert "\n" not in str(raised.value)
    assert "SECRET" not in str(raised.value).upper()


@pytest.mark.parametrize(
    "text", ['amqp_url = ["amqp://u:SECRET@h"]', '[amqp_url]\nurl = "amqp://u:SECRET@h"']
)
def test_a_url_of_fedora_messagings_file_is_not_shown(shared: Path, text: str) -> None:
    shared.write_text(text)
    with pytest.raises(ConfigError, match="amqp_url: must be a string, not ") as raised:
        settings.read({"relay_amqp": "one"})
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "address", "password"),
    [
        ("amqp://", "amqp://localhost:5672", "guest"),
        ("amqp://?connection_attempts=3&retry_delay=5", "amqp://localhost:5672", "guest"),
        ("AMQPS://H/", "amqps://h:5671", "guest"),
        ("amqp://u:@h.example.:1/v/", "amqp://h.example.:1/v", ""),
        ("amqp://u:%2F%3F%23%40%25%C3%A4@h/%2Fv", "amqp://h:5672//v", "/?#@%ä"),
        ("amqp://u:a@b:c@h_1", "amqp://h_1:5672", "a@b:c"),
        ("amqp://u:ä@bücher.example", "amqp://bücher.example:5672", "ä"),
        ("amqp://[::1]:5", "amqp://[::1]:5", "guest"),
        ("amqp://[fe80::1%eth0]", "amqp://[fe80::1%eth0]:5672", "guest"),
        ("amqp://h?tcp_options={'TCP_KEEPIDLE': 60}&locale=de_DE", "amqp://h:5672", "guest"),
    ],
)
def test_what_a_url_may_be(url: str, address: str, password: str) -> None:
    (broker,) = settings.read({"relay_amqp": "one", "relay_amqp_urls": url}).brokers
    assert settings.shown(broker) == address
    assert broker.credentials.password == password


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("#", ["a", "a.b", "", "a..b"], []),
        ("a", ["a"], ["ab", "a.b", "b"]),
        ("a.*", ["a.b", "a."], ["a", "a.b.c"]),
        ("a.#", ["a", "a.b", "a.b.c"], ["ab", "b"]),
        ("#.c", ["c", "b.c", "a.b.c"], ["c.d", "bc"]),
        ("a.#.c", ["a.c", "a.b.c", "a.b.b.c"], ["a", "a.b"]),
        ("*.b", ["a.b"], ["b", "a.a.b"]),
        ("a+", ["a+"], ["aa"]),
    ],
)
def test_patterns_are_those_of_a_topic_exchange(
    pattern: str, matching: list[str], others: list[str]
) -> None:
    matches = settings.matches((pattern, "another"))
    assert all(map(matches, matching))
    assert not any(map(matches, others))
    assert matches("another")
