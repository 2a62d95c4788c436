"""An authority with certificates and a revocation list, and messages that these sign.

Messages are signed by fedmsg itself, as publishers do.
"""

from __future__ import annotations

import datetime
import functools
import ipaddress
import json
import ssl
import uuid
import warnings
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

with warnings.catch_warnings():  # of pyOpenSSL, that newer versions lack what fedmsg uses
    warnings.simplefilter("ignore")
    import fedmsg.crypto
    import fedmsg.encoding

DAY = datetime.timedelta(days=1)
PEM = serialization.Encoding.PEM
LOOPBACK = x509.SubjectAlternativeName(
    [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
)
TOPIC = "org.fedoraproject.dev.ops.disk"


@functools.cache
def key(_name: str) -> rsa.RSAPrivateKey:
    """A key for each name; to make one takes a tenth of a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def write_key(path: Path, made: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    path.write_bytes(
        made.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


class Authority:
    """An authority with its files in ``directory``: ca.crt, crl.pem, and NAME.crt and NAME.key."""

    def __init__(
        self, directory: Path, name: str = "authority", lifetime_days: float = 365
    ) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self._name = name
        self.certificate = self._certificate(
            name, key(name), lifetime_days, x509.BasicConstraints(ca=True, path_length=None)
        )
        self.path = directory / "ca.crt"
        self.path.write_bytes(self.certificate.public_bytes(PEM))
        self.revoked: list[x509.Certificate] = []
        self.crl = directory / "crl.pem"
        self.revoke()

    @property
    def config(self) -> dict[str, Any]:
        """What a site's config has of it."""
        return {
            "ssldir": str(self.directory),
            "ca_cert_location": str(self.path),
            "crl_location": str(self.crl),
            "crypto_validate_backends": ["x509"],
        }

    def issue(self, name: str, lifetime_days: float = 365, **made: Any) -> x509.Certificate:
        """A certificate and its key, as files."""
        made_key = made.get("key") or key(name)
        certificate = self._certificate(
            name, made_key, lifetime_days, x509.BasicConstraints(ca=False, path_length=None)
        )
        (self.directory / f"{name}.crt").write_bytes(certificate.public_bytes(PEM))
        write_key(self.directory / f"{name}.key", made_key)
        return certificate

    def files(self, name: str) -> tuple[Path, Path]:
        """The files of a new certificate, also for a server on loopback, and of its key."""
        self.issue(name)
        return self.directory / f"{name}.crt", self.directory / f"{name}.key"

    def _certificate(
        self, name: str, of: Any, lifetime_days: float, constraints: x509.BasicConstraints
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        begins = now - DAY if lifetime_days > 0 else now + lifetime_days * DAY - DAY
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self._name))
            .public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(now + lifetime_days * DAY)
            .add_extension(constraints, critical=True)
            .add_extension(LOOPBACK, critical=False)
            .sign(key(self._name), hashes.SHA256())
        )

    def revoke(self, *certificates: x509.Certificate, lifetime_days: float = 30) -> None:
        """Write the revocation list, with these certificates too."""
        self.revoked += certificates
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(self._name))
            .last_update(now - 40 * DAY)
            .next_update(now + lifetime_days * DAY)
        )
        for each in self.revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(each.serial_number)
                .revocation_date(now - DAY)
                .build()
            )
        self.crl.write_bytes(builder.sign(key(self._name), hashes.SHA256()).public_bytes(PEM))

    def signed(self, name: str, topic: str = TOPIC, **body: Any) -> list[bytes]:
        """The frames of a message that ``name`` has signed."""
        made = fedmsg.crypto.x509.sign(
            message(topic, **body), ssldir=str(self.directory), certname=name
        )
        return frames(made)


def of_unknown_version(certificate: bytes) -> bytes:
    """A certificate as of a version of X.509 that does not exist."""
    der = ssl.PEM_cert_to_DER_cert(certificate.decode())
    version, unknown = b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05"
    return ssl.DER_cert_to_PEM_cert(der.replace(version, unknown, 1)).encode()


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def message(topic: str = TOPIC, **body: Any) -> dict[str, Any]:
    """The body of a message, as of a publisher that does not sign."""
    return {
        "topic": topic,
        "msg": {"text": "Größe 1.5", "n": 1.5},
        "i": 1,
        "msg_id": f"2026-{uuid.uuid4()}",
        "timestamp": 1795578000,
        "username": "root",
        **body,
    }


def encoded(body: Any) -> bytes:
    """The JSON that fedmsg sends and signs."""
    return fedmsg.encoding.dumps(body).encode()


def frames(body: dict[str, Any]) -> list[bytes]:
    return [body["topic"].encode(), encoded(body)]


def accepts(config: dict[str, Any], received: list[bytes]) -> bool:
    """Whether fedmsg, as it is, accepts a message."""
    topic, body = received
    found = json.loads(body.decode())
    fedmsg.crypto.init(**config)
    return topic.decode() == found["topic"] and bool(fedmsg.crypto.validate(found, **config))
