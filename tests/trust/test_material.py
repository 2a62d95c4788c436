"""Keys, certificates and lists: what is wrong with one is an error at the start, or a warning."""

from __future__ import annotations

import contextlib
import http.server
import shutil
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keys
import load
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from harness import DEADLINE_S, RELAY, Site, free_port, hastened
from keys import Authority
from monitored import KEY, status

NAMED = "certnames['signing_relay'] = 'relay'"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "pki")
    made.issue("relay")
    return made


def both(site: Site, authority: Authority, **config: Any) -> None:
    """Write a config that validates and signs."""
    certnames = {"signing_relay": "relay"}
    keys = {"relay_validate": True, "relay_sign": "unsigned", "certnames": certnames}
    site.write(**{**keys, **authority.config, **config})


def refused(site: Site) -> str:
    """What --test and a start refuse with: the same line."""
    tested, started = site.refused("--test"), site.refused()
    assert (tested.returncode, tested.stderr) == (started.returncode, started.stderr)
    assert tested.returncode == 6
    return tested.stderr


def test_the_answer_of_test_says_how_long_each_is_valid(site: Site, authority: Authority) -> None:
    both(site, authority)
    done = site.run(*RELAY, "--test")
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()[-4:]
    assert lines[0].startswith(f"certnames['signing_relay']: {authority.directory}/relay.crt, ")
    assert lines[1].startswith(f"ca_cert_location: {authority.path}, valid until 20")
    assert lines[2].startswith(f"crl_location: {authority.crl}, valid until 20")
    assert lines[3] == "configuration OK"


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"relay_validate": "yes"}, "relay_validate = 'yes': must be True or False"),
        ({"relay_sign": True}, "relay_sign = True: must be 'unsigned' or 'all'"),
        ({"certnames": {}}, "certnames['signing_relay'] = None: must name"),
        ({"certnames": []}, "certnames = []: must be a dictionary"),
        ({"routing_policy": []}, "routing_policy = []: must be a dictionary"),
        (
            {"routing_policy": {"topic": "relay"}},
            "routing_policy['topic'] = 'relay': must be a list",
        ),
        ({"routing_policy": {"topic": None}}, "routing_policy['topic'] = None: must be a list"),
        ({"ssldir": 1}, "ssldir = 1: must be a string"),
        ({"ssldir": "/\0"}, "ssldir = '/\\x00': must not contain a NUL character"),
        ({"certnames": {"signing_relay": "\0"}}, "certnames['signing_relay'] = '\\x00': must name"),
        ({"crypto_backend": "gpg"}, "crypto_backend = 'gpg': relay_sign signs with x509"),
        ({"crypto_validate_backends": ["pgp"]}, "crypto_validate_backends = ['pgp']: must be"),
        (
            {"crypto_validate_backends": [["x509"]]},
            "crypto_validate_backends = [['x509']]: must be",
        ),
        ({"crypto_validate_backends": ["gpg"]}, "crypto_validate_backends = ['gpg']: no consumer"),
        ({"ca_cert_location": None}, "ca_cert_location: not set"),
        ({"ca_cert_location": "/none"}, "ca_cert_location = '/none': cannot read it: No such file"),
        ({"crl_location": "/none"}, "crl_location = '/none': cannot read it: No such file"),
        ({"crl_cache_expiry": -1}, "crl_cache_expiry = -1: must be a number of seconds"),
    ],
    ids=str,
)
def test_wrong_keys(site: Site, authority: Authority, config: dict[str, Any], named: str) -> None:
    both(site, authority, **config)
    assert named in refused(site)


def _is_of_another_key(authority: Authority) -> None:
    keys.write_key(authority.directory / "relay.key", keys.key("another"))


def _is_not_of_rsa(authority: Authority) -> None:
    keys.write_key(authority.directory / "relay.key", ec.generate_private_key(ec.SECP256R1()))


def _has_a_passphrase(authority: Authority) -> None:
    (authority.directory / "relay.key").write_bytes(
        keys.key("relay").private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


def _is_of_an_unknown_kind(authority: Authority) -> None:
    """A key that OpenSSL makes and the libraries do not know."""
    openssl = ["openssl", "genpkey", "-algorithm", "SM2", "-out", "relay.key"]
    subprocess.run(openssl, cwd=authority.directory, check=True, capture_output=True)


def _has_a_certificate_of_an_unknown_kind(authority: Authority) -> None:
    openssl = ["openssl", "req", "-x509", "-newkey", "SM2", "-nodes", "-subj", "/CN=relay"]
    openssl += ["-keyout", "other.key", "-out", "relay.crt"]
    subprocess.run(openssl, cwd=authority.directory, check=True, capture_output=True)


def _is_of_another_authority(authority: Authority) -> None:
    foreign = Authority(authority.directory.parent / "foreign", "foreign")
    foreign.issue("relay")
    shutil.copy(foreign.directory / "relay.crt", authority.directory)


def _has_a_list_of_another_authority(authority: Authority) -> None:
    foreign = Authority(authority.directory.parent / "foreign", "foreign")
    shutil.copy(foreign.crl, authority.crl)


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (
            lambda a: (a.directory / "relay.key").unlink(),
            f"{NAMED}: cannot read {{}}/relay.key: No",
        ),
        (
            lambda a: (a.directory / "relay.crt").unlink(),
            f"{NAMED}: cannot read {{}}/relay.crt: No",
        ),
        (lambda a: (a.directory / "relay.key").write_text("x"), f"{NAMED}: {{}}/relay.key: "),
        (lambda a: (a.directory / "relay.crt").write_text("x"), f"{NAMED}: {{}}/relay.crt: "),
        (_has_a_passphrase, f"{NAMED}: {{}}/relay.key: Password was not given"),
        (_is_not_of_rsa, f"{NAMED}: {{}}/relay.key: fedmsg signs with RSA alone"),
        (_is_of_another_key, f"{NAMED}: {{}}/relay.crt is not the certificate of the key in"),
        (lambda a: a.issue("relay", -1), f"{NAMED}: {{}}/relay.crt has expired, at 20"),
        (
            _is_of_another_authority,
            f"{NAMED}: no consumer would accept {{}}/relay.crt: certificate",
        ),
        (
            lambda a: a.revoke(a.issue("relay")),
            f"{NAMED}: no consumer would accept {{}}/relay.crt: r",
        ),
        (_is_of_an_unknown_kind, f"{NAMED}: {{}}/relay.key: "),
        (_has_a_certificate_of_an_unknown_kind, f"{NAMED}: {{}}/relay.crt: "),
        (
            lambda a: a.path.write_bytes(keys.of_unknown_version(a.path.read_bytes())),
            "ca_cert_location = '{}/ca.crt', crl_location = ",
        ),
        (lambda a: a.path.write_text("x"), "ca_cert_location = '{}/ca.crt', crl_location = "),
        (lambda a: a.crl.write_text("x"), "crl_location = '{}/crl.pem': "),
        (lambda a: a.crl.write_text(""), "crl_location = '{}/crl.pem': "),
        (lambda a: a.revoke(lifetime_days=-1), "crl_location = '{}/crl.pem': CRL has expired"),
        (lambda a: Authority(a.directory, lifetime_days=-1), "certificate has expired"),
        (
            _has_a_list_of_another_authority,
            "crl_location = '{}/crl.pem': unable to get certificate C",
        ),
    ],
    ids=[
        "no key",
        "no certificate",
        "broken key",
        "broken certificate",
        "passphrase",
        "not RSA",
        "another key",
        "expired",
        "another authority",
        "revoked",
        "key of an unknown kind",
        "certificate of an unknown kind",
        "authority of an unknown version",
        "broken authority",
        "broken list",
        "empty list",
        "expired list",
        "expired authority",
        "list of another authority",
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(
    site: Site, authority: Authority, break_it: Callable[[Authority], object], named: str
) -> None:
    break_it(authority)
    both(site, authority)
    assert named.format(authority.directory) in refused(site)


@pytest.fixture
def web(authority: Authority) -> Iterator[http.server.ThreadingHTTPServer]:
    """Serves the list over https, until its ``hangs`` is set; then it takes what is asked.

    With ``grows`` set the list has no end.
    """
    authority.issue("web")
    hangs, grows, ended = threading.Event(), threading.Event(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if hangs.is_set():
                ended.wait()
            else:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(authority.crl.read_bytes())
                with contextlib.suppress(OSError):  # the relay has had enough
                    while grows.is_set() and not ended.is_set():
                        self.wfile.write(bytes(2**16))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(authority.directory / "web.crt", authority.directory / "web.key")
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.hangs, server.grows = hangs, grows
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield server
        ended.set()
        server.shutdown()
        serving.join()


def test_a_web_server_that_hangs_stops_nothing(site: Site, authority: Authority, web: Any) -> None:
    site.environ["REQUESTS_CA_BUNDLE"] = str(authority.path)
    site.environ["no_proxy"] = "*"
    url = f"https://127.0.0.1:{web.server_port}/crl.pem"
    both(site, authority, crl_location=url, crl_cache_expiry=1)
    command = hastened("trust.material.REFRESH_MIN_S=0.2", "trust.material.FETCH_S=1")
    relay = site.relay(command=command)
    web.hangs.set()
    subscriber, publisher = site.subscriber(), site.publisher()
    relay.wait_for("no answer within 1 s; the relay continues with the previous one")
    publisher.send(*keys.frames(keys.message()))
    assert keys.accepts({**site.config, **authority.config}, subscriber.wait(1)[0])
    refused = site.run(*RELAY, "--test")
    assert refused.returncode == 1, "it may answer the next time"
    assert f"crl_location = '{url}': cannot read it: " in refused.stderr
    assert relay.end() == 0


def test_a_list_without_an_end_takes_no_memory(site: Site, authority: Authority, web: Any) -> None:
    site.environ["REQUESTS_CA_BUNDLE"] = str(authority.path)
    site.environ["no_proxy"] = "*"
    url = f"https://127.0.0.1:{web.server_port}/crl.pem"
    both(site, authority, crl_location=url, crl_cache_expiry=1)
    relay = site.relay(command=hastened("trust.material.REFRESH_MIN_S=0.2"))
    before = load.peak(relay.pid)
    web.grows.set()
    relay.wait_for(
        f"crl_location = '{url}': cannot read it: it is larger than 16 MiB;"
        " the relay continues with the previous one"
    )
    assert load.peak(relay.pid) < before + 64 * 2**20
    refused = site.run(*RELAY, "--test")
    assert refused.returncode == 1
    assert refused.stderr.endswith(f"'{url}': cannot read it: it is larger than 16 MiB\n")
    assert relay.end() == 0


def test_an_address_that_is_none_is_named(site: Site, authority: Authority) -> None:
    url = f"https://{'x' * 70}.example/"
    both(site, authority, crl_location=url)
    refused = site.run(*RELAY, "--test")
    assert refused.returncode == 1
    assert f"crl_location = '{url}': cannot read it: " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_who_only_signs_needs_no_authority(site: Site, authority: Authority) -> None:
    authority.path.unlink()
    authority.crl.unlink()
    both(site, authority, relay_validate=False)
    relay = site.relay()
    assert relay.end() == 0


def test_a_broken_key_leaves_the_running_relay_as_it_is(site: Site, authority: Authority) -> None:
    both(site, authority)
    pidfile = str(site.root / "pid")
    relay = site.relay("--pidfile", pidfile)
    (authority.directory / "relay.key").unlink()
    done = site.refused("--pidfile", pidfile, "--replace")
    assert "relay.key" in done.stderr
    subscriber, publisher = site.subscriber(), site.publisher()
    publisher.send(*keys.frames(keys.message()))
    assert keys.accepts(site.config, subscriber.wait(1)[0])
    assert relay.end() == 0


def test_what_expires_soon_is_said(tmp_path: Path) -> None:
    with Site(tmp_path, relay_http=free_port(), **{KEY: f"ipc://{tmp_path}/m"}) as site:
        authority = Authority(tmp_path / "pki")
        authority.issue("relay", lifetime_days=0.01)
        authority.revoke(lifetime_days=2)
        both(site, authority)
        relay = site.relay()
        relay.wait_for(
            f"certnames['signing_relay']: the certificate {authority.directory}/relay.crt"
        )
        relay.wait_for(f"crl_location: the revocation list {authority.crl} expires, at 20")
        assert "the authority" not in relay.output
        left = {each["what"]: each["left_s"] for each in status(site)["expiries"]}
        assert 0 < left["certificate"] < 900
        assert 0 < left["revocation_list"] < 2 * 86_400
        assert 0 < left["authority"] < 366 * 86_400
        done = site.run(*RELAY, "--check", "--timeout", "20")
        assert done.returncode == 0, done
        shown = site.run(*RELAY, "--status").stdout
        assert f"certificate {authority.directory}/relay.crt: 14 min" in shown
        address = f"http://127.0.0.1:{site.config['relay_http']}/metrics"
        with urllib.request.urlopen(address, timeout=DEADLINE_S) as answer:
            metrics = answer.read().decode()
        for what in left:
            assert f'fedmsg_relay_expires_in_seconds{{of="{what}"}} ' in metrics
        assert 'fedmsg_relay_rejected_total{reason="unsigned"} 0.0' in metrics


def test_a_list_that_expires_and_is_not_renewed_stops_nothing(
    site: Site, authority: Authority
) -> None:
    authority.revoke(authority.issue("revoked"), lifetime_days=5 / 86_400)
    both(site, authority, crl_cache_expiry=1, **{KEY: f"ipc://{site.root}/monitoring"})
    relay = site.relay(command=hastened("trust.material.REFRESH_MIN_S=0.2"))
    subscriber, publisher = site.subscriber(), site.publisher()
    relay.wait_for("CRL has expired; the relay continues with the previous one")
    publisher.send(*authority.signed("revoked"))
    sent = authority.signed("relay")
    publisher.send(*sent)
    assert subscriber.wait(1) == [sent]
    assert not keys.accepts(site.config, sent)  # who looks only now has the expired list
    done = site.run(*RELAY, "--check", "--timeout", "20")
    assert (done.returncode, done.stdout[:22]) == (1, "FEDMSG-RELAY WARNING -"), done
    assert f"the revocation list {authority.crl} has expired" in done.stdout
    assert relay.end() == 0
    assert "rejected 1 message: 1 revoked" in relay.output
