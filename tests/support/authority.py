"""A certificate authority of a site: for signatures of fedmsg, and for TLS on loopback."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa


class Authority:
    """Writes ``ca.crt``, and for each name ``NAME.crt`` and ``NAME.key``, into ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificate = directory / "ca.crt"
        self._key = rsa.generate_private_key(65537, 2048)
        self._certify("authority", self.certificate, self._key, is_authority=True)

    def issue(self, name: str) -> tuple[Path, Path]:
        """The files of a new certificate, also for a server on loopback, and of its key."""
        certificate, private = (self.directory / f"{name}.{end}" for end in ("crt", "key"))
        key = rsa.generate_private_key(65537, 2048)
        self._certify(name, certificate, key, is_authority=False)
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        return certificate, private

    def _certify(self, name: str, path: Path, key: rsa.RSAPrivateKey, is_authority: bool) -> None:
        now = datetime.datetime.now(datetime.timezone.utc)
        loopback = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = (
            x509.CertificateBuilder(_named("authority"), _named(name), key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(x509.SubjectAlternativeName(loopback), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        path.write_bytes(made.public_bytes(serialization.Encoding.PEM))


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
