"""A keyring of GnuPG with one secret key, and messages that it signs.

keyrings.py HOME ADDRESS    make a keyring, and publish a signed message and a forged one
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keys
import zmq
from harness import Publisher


class Keyring:
    """A home of gpg with one secret key; made if there is none."""

    def __init__(self, home: Path) -> None:
        self.home = home
        if not home.exists():
            home.mkdir(mode=0o700)
            self._gpg("--quick-gen-key", "publisher@example.com", "default", "sign", "never")

    def _gpg(self, *arguments: str, stdin: bytes = b"") -> bytes:
        options = ["--batch", "--pinentry-mode", "loopback", "--passphrase", ""]
        return subprocess.run(
            ["gpg", "--homedir", self.home, *options, *arguments],
            input=stdin,
            capture_output=True,
            check=True,
        ).stdout

    def signed(self, **fields: Any) -> list[bytes]:
        """The frames of a message as fedmsg for Python 2 signs it; that for 3 cannot."""
        body = {**keys.message(), "crypto": "gpg", **fields}
        return keys.frames({**body, "signature": self.of(keys.encoded(body["msg"]))})

    def of(self, signed: bytes) -> str:
        """A signature, as it is in messages."""
        return base64.b64encode(self._gpg("--detach-sign", stdin=signed)).decode()

    def close(self) -> None:
        subprocess.run(
            ["gpgconf", "--homedir", self.home, "--kill", "all"], check=False, capture_output=True
        )


if __name__ == "__main__":
    ring = Keyring(Path(sys.argv[1]))
    topic, good = ring.signed(msg={"is": "genuine"})
    forged = keys.encoded({**json.loads(good), "msg": {"is": "forged"}})
    if len(sys.argv) > 2:
        with zmq.Context() as context:  # the end of which waits until both are written
            publisher = Publisher(context, sys.argv[2])
            publisher.send(topic, forged)
            publisher.send(topic, good)
            publisher.close()
    ring.close()
