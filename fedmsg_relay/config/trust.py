"""What the global fedmsg config says about signatures, for a relay that validates or signs.

Names and defaults of the keys are those of :mod:`fedmsg.crypto`, so that a relay judges as every
consumer of the site does.
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from fedmsg_relay.config import values
from fedmsg_relay.errors import ConfigError

X509, GPG = "x509", "gpg"
UNSIGNED, ALL = "unsigned", "all"
SIGNER = "signing_relay"
"""In ``certnames``, as of ``fedmsg-signing-relay``."""


class TrustSettings(NamedTuple):
    """The keys of a relay that validates or signs, or both."""

    validates: bool
    signs: str
    """:data:`UNSIGNED`, :data:`ALL`, or empty: nothing is signed."""
    backends: tuple[str, ...]
    """Of signatures that are accepted: :data:`X509`, :data:`GPG`."""
    ssldir: str
    certname: str
    """The name of the relay's key and certificate within :attr:`ssldir`; empty if nothing is
    signed."""
    authority: str
    """A path, or a URL that begins with ``https://``; empty if no certificate is accepted."""
    revoked: str
    """Likewise, of the revocation list; empty if there is none."""
    refresh_s: float
    """Age in seconds at which authority and list are read again."""
    gpg_home: str
    policy: Mapping[str, Container[str]]
    """By topic, the names of the certificates that may sign its messages."""
    is_nitpicky: bool
    """Whether a topic that is missing in :attr:`policy` is for nobody, not for everybody."""


def read(config: Mapping[str, Any]) -> TrustSettings | None:
    """Return None for a relay that neither validates nor signs.  Raises :class:`ConfigError`."""
    validates, signs = config.get("relay_validate", False), config.get("relay_sign") or ""
    if not isinstance(validates, bool):
        raise ConfigError(f"relay_validate = {validates!r}: must be True or False")
    if signs not in ("", UNSIGNED, ALL):
        raise ConfigError(f"relay_sign = {signs!r}: must be '{UNSIGNED}' or '{ALL}'")
    if not validates and not signs:
        return None
    backends = _backends(config)
    has_authority = validates and X509 in backends
    authority = _text(config, "ca_cert_location", "https://fedoraproject.org/fedmsg/ca.crt")
    revoked = _text(config, "crl_location", "https://fedoraproject.org/fedmsg/crl.pem")
    if has_authority and not authority:
        raise ConfigError(
            "ca_cert_location: not set; relay_validate needs the certificate of the authority"
        )
    return TrustSettings(
        validates=validates,
        signs=signs,
        backends=backends,
        ssldir=_text(config, "ssldir", "/etc/pki/fedmsg"),
        certname=_certname(config) if signs else "",
        authority=authority if has_authority else "",
        revoked=revoked if has_authority else "",
        refresh_s=values.seconds(config, "crl_cache_expiry", 3600.0),
        gpg_home=_text(config, "gpg_home", os.path.expanduser("~/.gnupg/")),
        policy=_policy(config),
        is_nitpicky=bool(config.get("routing_nitpicky", False)),
    )


def _backends(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what consumers accept, as :func:`fedmsg.crypto.init` finds it out."""
    backend = config.get("crypto_backend", X509)
    if config.get("relay_sign") and backend == GPG:
        raise ConfigError(
            "crypto_backend = 'gpg': relay_sign signs with x509, as fedmsg-signing-relay does;"
            " set it to 'x509', or leave relay_sign out"
        )
    accepted = config.get("crypto_validate_backends") or [GPG if backend == GPG else X509]
    if not isinstance(accepted, (list, tuple)) or not all(each in (X509, GPG) for each in accepted):
        raise ConfigError(
            f"crypto_validate_backends = {accepted!r}: must be a list of '{X509}' and '{GPG}'"
        )
    if config.get("relay_sign") and X509 not in accepted:
        raise ConfigError(
            f"crypto_validate_backends = {accepted!r}: no consumer would accept what relay_sign"
            " signs, which is x509; add 'x509'"
        )
    return tuple(accepted)


def _certname(config: Mapping[str, Any]) -> str:
    certname = _dictionary(config, "certnames").get(SIGNER)
    if not isinstance(certname, str) or not certname or "\0" in certname:
        raise ConfigError(
            f"certnames['{SIGNER}'] = {certname!r}: must name the key and the certificate in ssldir"
            " that relay_sign signs with"
        )
    return certname


def _policy(config: Mapping[str, Any]) -> Mapping[str, Container[str]]:
    policy = _dictionary(config, "routing_policy")
    for topic, names in policy.items():
        # In a string consumers find every name that is a part of it.
        if not isinstance(names, (list, tuple, set, frozenset)):
            raise ConfigError(
                f"routing_policy[{topic!r}] = {names!r}: must be a list of certificates' names"
            )
    return policy


def _text(config: Mapping[str, Any], key: str, default: str) -> str:
    value = config.get(key, default)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{key} = {value!r}: must be a string")
    if value and "\0" in value:
        raise ConfigError(f"{key} = {value!r}: must not contain a NUL character")
    return value or ""


def _dictionary(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{key} = {value!r}: must be a dictionary")
    return value
