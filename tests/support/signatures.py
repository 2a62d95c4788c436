"""Keys of a site, with which fedmsg signs and validates messages."""

from __future__ import annotations

import datetime
import socket

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from harness import Site


def sign(site: Site) -> None:
    """Have the site's messages signed, with a key that an authority of its own has certified."""
    directory = site.root / "pki"
    directory.mkdir()
    now = datetime.datetime.now(datetime.timezone.utc)
    authority = rsa.generate_private_key(65537, 2048)

    def certify(name: str, key: rsa.RSAPrivateKey, is_authority: bool) -> bytes:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

        certificate = (
            x509.CertificateBuilder(named("authority"), named(name), key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .sign(authority, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    (directory / "ca.crt").write_bytes(certify("authority", authority, True))
    key = rsa.generate_private_key(65537, 2048)
    (directory / "shell.crt").write_bytes(certify("shell", key, False))
    (directory / "shell.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    site.write(
        sign_messages=True,
        ssldir=str(directory),
        ca_cert_location=str(directory / "ca.crt"),
        crl_location=None,
        certnames={f"shell.{socket.gethostname().split('.')[0]}": "shell"},
    )
