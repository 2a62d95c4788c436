"""Signatures of GnuPG, with a keyring of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keys
import pytest
from harness import Site, wait_for
from keyrings import Keyring
from monitored import KEY, status

pytestmark = pytest.mark.skipif(
    not shutil.which("gpg") and not os.environ.get("REQUIRE_ALL"), reason="needs gpg"
)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, **{KEY: f"ipc://{tmp_path}/monitoring"}) as made:
        yield made


@pytest.fixture
def keyring() -> Iterator[Keyring]:
    with tempfile.TemporaryDirectory() as short:  # a socket's path is limited
        made = Keyring(Path(short) / "gpg")
        try:
            yield made
        finally:
            made.close()


def config(keyring: Keyring) -> dict[str, Any]:
    backends = {"crypto_backend": "gpg", "crypto_validate_backends": ["gpg"]}
    return {"relay_validate": True, "gpg_home": str(keyring.home), **backends}


def test_what_is_signed_by_a_key_of_the_ring_goes_on(site: Site, keyring: Keyring) -> None:
    site.write(**config(keyring))
    relay = site.relay()
    subscriber, publisher = site.subscriber(), site.publisher()
    good = keyring.signed()
    body = json.loads(good[1])
    large = keyring.signed(msg={"text": "x" * 1_000_000})
    old = [good[0], json.dumps({k: v for k, v in body.items() if k != "crypto"}).encode()]
    for accepted in (good, large, old):
        assert keys.accepts(site.config, accepted)
        publisher.send(*accepted)
    # A signature of nothing, as of an empty file that the key's owner has signed.
    nothing = {name: value for name, value in body.items() if name != "msg"}
    publisher.send(good[0], json.dumps({**nothing, "signature": keyring.of(b"")}).encode())
    publisher.send(good[0], json.dumps({**body, "msg": "forged"}).encode())
    publisher.send(good[0], json.dumps({**body, "signature": "AAAA"}).encode())
    publisher.send(good[0], json.dumps({**body, "crypto": "x509"}).encode())
    publisher.send(*keys.frames(keys.message()))
    publisher.send(*good)
    assert subscriber.wait(4) == [good, large, old, good]
    counted = {reason: count for reason, count in status(site)["rejected"].items() if count}
    assert counted == {"wrong_signature": 3, "unsigned": 2}
    assert relay.end() == 0


def test_a_gpg_that_hangs_holds_up_neither_subscriptions_nor_a_stop(
    site: Site, keyring: Keyring
) -> None:
    """A publisher that has no subscription discards what it sends."""
    bin_ = site.root / "bin"
    bin_.mkdir()
    (bin_ / "gpg").write_text(
        f"#!/bin/sh\ncase $* in *--verify*) echo hangs; exec sleep 600;; esac\n"
        f'exec {shutil.which("gpg")} "$@"\n'
    )
    (bin_ / "gpg").chmod(0o755)
    site.environ["PATH"] = f"{bin_}:{os.environ['PATH']}"
    site.write(**config(keyring))
    relay = site.relay()
    site.publisher().send(*keyring.signed())
    wait_for(lambda: _children(relay.pid), "gpg")
    assert status(site)["state"] == "forwarding"
    site.publisher()  # waits for its subscription
    assert _children(relay.pid), "it still hangs"
    relay.kill(signal.SIGTERM)
    assert relay.wait() == 0
    assert "gpg has not ended in time" in relay.output


def _children(pid: int) -> list[str]:
    found = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    return " ".join(found).split()


@pytest.mark.parametrize("missing", ["home", "gpg"])
def test_what_is_missing_is_an_error_at_the_start(
    site: Site, keyring: Keyring, missing: str
) -> None:
    home = str(keyring.home)
    if missing == "gpg":
        site.environ["PATH"] = "/none"
    else:
        home = "/none"
    site.write(**{**config(keyring), "gpg_home": home})
    for options in (("--test",), ()):
        assert f"gpg_home = {home!r}: " in site.refused(*options).stderr
