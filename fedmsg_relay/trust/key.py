"""The relay's own key and certificate, which sign as :func:`fedmsg.crypto.x509.sign` does."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fedmsg.encoding
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA1

from fedmsg_relay.config.trust import SIGNER
from fedmsg_relay.errors import ConfigError
from fedmsg_relay.trust import authority

CREDENTIALS = ("signature", "certificate")
"""The fields of a message that its signature does not cover."""

LINE = 76
"""Characters in a line of base64, as all versions of fedmsg have it."""


class SigningKey:
    """A key and its certificate, ``certname`` in ``ssldir``, read once.

    Raises :class:`ConfigError`, naming the key of the configuration and the file.
    """

    def __init__(self, ssldir: str, certname: str) -> None:
        self.path = Path(ssldir, f"{certname}.crt")
        private = Path(ssldir, f"{certname}.key")
        self._named = f"certnames['{SIGNER}'] = {certname!r}"
        pem = self._read(private)
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (*authority.UNREADABLE, TypeError) as error:  # TypeError: it has a passphrase
            raise ConfigError(f"{self._named}: {private}: {error}") from error
        try:
            self.certificate = x509.load_pem_x509_certificate(self._read(self.path))
            public_key = self.certificate.public_key()
        except authority.UNREADABLE as error:
            raise ConfigError(f"{self._named}: {self.path}: {error}") from error
        if not isinstance(key, RSAPrivateKey):
            raise ConfigError(f"{self._named}: {private}: fedmsg signs with RSA alone")
        if key.public_key() != public_key:
            raise ConfigError(
                f"{self._named}: {self.path} is not the certificate of the key in {private}"
            )
        if time.time() < authority.begins_at(self.certificate):
            begins = self.certificate.not_valid_before_utc
            raise ConfigError(f"{self._named}: {self.path} is not valid before {begins:%F %T} UTC")
        if time.time() > authority.expires_at(self.certificate):
            expired = self.certificate.not_valid_after_utc
            raise ConfigError(f"{self._named}: {self.path} has expired, at {expired:%F %T} UTC")
        self.name = authority.common_name(self.certificate)
        """The common name."""
        self._key = key
        self._encoded = _lines(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{self._named}: cannot read {path}: {error.strerror}") from error

    def sign(self, body: Mapping[str, Any]) -> bytes:
        """Return the JSON of a message with a new signature; an old signature is dropped."""
        unsigned = {**without_credentials(body), "crypto": "x509"}
        signature = self._key.sign(encoded(unsigned), PKCS1v15(), SHA1())
        return encoded({**unsigned, "signature": _lines(signature), "certificate": self._encoded})


def without_credentials(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a signature covers."""
    return {name: value for name, value in body.items() if name not in CREDENTIALS}


def encoded(body: Any) -> bytes:
    """Return the JSON that fedmsg signs: the same for the same message."""
    json: str = fedmsg.encoding.dumps(body)
    return json.encode()


def _lines(content: bytes) -> str:
    text = base64.b64encode(content).decode()
    return "".join(f"{text[at : at + LINE]}\n" for at in range(0, len(text), LINE))
