"""The authority of the site's certificates with its revocation list: which certificates are valid.

Judges as :func:`fedmsg.crypto.x509.validate` does: OpenSSL verifies that the certificate is of the
authority, not revoked, and valid now.  An :class:`Authority` never changes.  It caches the result
for a certificate, as each message has the whole certificate.
"""

from __future__ import annotations

import base64
import time
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1
from OpenSSL import crypto

from fedmsg_relay.trust.verdict import Reason, RejectedError

UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, crypto.Error)
"""What the libraries raise for PEM that is broken, or of a kind that they do not know."""

KNOWN_MAX, KNOWN_CHARACTERS_MAX = 1000, 20_000
"""Certificates to remember at most, and how long each may be as it is in messages.  Anybody can pad
one that the bus has seen, before or within its base64."""


class Signer(NamedTuple):
    """A certificate that the authority answers for."""

    name: str
    """The common name."""
    key: RSAPublicKey
    until: float
    """When the certificate or that of the authority expires, in seconds since 1970."""

    def verify(self, signature: bytes, signed: bytes) -> None:
        """Raise :class:`RejectedError` if ``signature`` is not of this certificate's key."""
        try:
            # SHA-1 is what fedmsg signs with, and all that consumers accept.
            self.key.verify(signature, signed, PKCS1v15(), SHA1())
        except InvalidSignature:
            raise RejectedError(
                Reason.WRONG_SIGNATURE, "the signature is not of this message", self.name
            ) from None


class Authority:
    """A certificate authority, with its revocation list if the site has one.

    Raises one of :data:`UNREADABLE`, and ValueError for whatever else would have every consumer
    reject every message: one of the two has expired, or the list is of another authority.
    """

    def __init__(self, authority_pem: str, revoked_pem: str | None) -> None:
        self.certificate = x509.load_pem_x509_certificate(authority_pem.encode())
        # An empty list is broken, as one that is just being written: not a site without a list.
        self.revoked = (
            x509.load_pem_x509_crl(revoked_pem.encode()) if revoked_pem is not None else None
        )
        self._known: dict[str, Signer] = {}  # by the certificate as it is in messages
        self._store = crypto.X509Store()
        authority = crypto.X509.from_cryptography(self.certificate)
        self._store.add_cert(authority)
        # As consumers do.  Only here, as a list that expires while the relay runs, and cannot be
        # read anew, must not stop what goes on.
        strict = crypto.X509Store()
        strict.add_cert(authority)
        if self.revoked is not None:
            strict.add_crl(self.revoked)
            strict.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)
        try:
            crypto.X509StoreContext(strict, authority).verify_certificate()
        except crypto.X509StoreContextError as error:
            raise ValueError(str(error)) from error

    def signer(self, encoded: str) -> Signer:
        """Return the signer whose certificate is ``encoded`` in a message.

        Raises :class:`RejectedError` if the authority does not answer for that certificate.
        """
        known = self._known.get(encoded)
        if known is not None and time.time() < known.until:
            return known
        try:
            found = self.check(x509.load_pem_x509_certificate(base64.b64decode(encoded)))
        except UNREADABLE as error:
            raise RejectedError(Reason.CERTIFICATE, f"unreadable: {error}") from error
        if len(encoded) <= KNOWN_CHARACTERS_MAX:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[encoded] = found
        return found

    def check(self, certificate: x509.Certificate) -> Signer:
        """Return the signer of ``certificate``.  Raises :class:`RejectedError` likewise."""
        name = common_name(certificate)
        try:
            pyopenssl = crypto.X509.from_cryptography(certificate)
            crypto.X509StoreContext(self._store, pyopenssl).verify_certificate()
        except crypto.X509StoreContextError as error:
            raise RejectedError(Reason.CERTIFICATE, str(error), name) from error
        serial = certificate.serial_number
        if self.revoked and self.revoked.get_revoked_certificate_by_serial_number(serial):
            raise RejectedError(Reason.REVOKED, f"serial number {serial:x}", name)
        key = certificate.public_key()
        if not isinstance(key, RSAPublicKey):
            raise RejectedError(Reason.CERTIFICATE, "the key is not RSA", name)
        if not name:
            raise RejectedError(Reason.CERTIFICATE, "no common name")
        return Signer(name, key, min(expires_at(certificate), expires_at(self.certificate)))


def common_name(certificate: x509.Certificate) -> str:
    """Return the common name of a certificate, empty if there is none."""
    found = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def begins_at(certificate: x509.Certificate) -> float:
    """Return when a certificate becomes valid, in seconds since 1970."""
    return certificate.not_valid_before_utc.timestamp()


def expires_at(certificate: x509.Certificate) -> float:
    """Return when a certificate expires, in seconds since 1970."""
    return certificate.not_valid_after_utc.timestamp()
