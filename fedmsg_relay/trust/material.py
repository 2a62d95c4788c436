"""The keys, certificates and lists in memory, and the thread that keeps them current.

Everything is read before the relay starts, so that a fault is an error of the start.  The key is
read once: a reload applies another key.  A thread reads the authority and its revocation list
again, at the age of ``crl_cache_expiry`` and when a certificate is not accepted.  If that fails,
the relay continues with the previous ones.
"""

from __future__ import annotations

import datetime
import logging
import math
import threading
import time
from collections.abc import Iterator

from fedmsg_relay.config.trust import GPG, SIGNER, TrustSettings
from fedmsg_relay.errors import ConfigError, RelayError
from fedmsg_relay.net.resolver import Asking
from fedmsg_relay.system.throttle import Throttle
from fedmsg_relay.trust import gpg
from fedmsg_relay.trust.authority import UNREADABLE, Authority, Signer, begins_at, expires_at
from fedmsg_relay.trust.key import SigningKey
from fedmsg_relay.trust.verdict import Expiry, Reason, RejectedError

log = logging.getLogger("fedmsg.relay")

FETCH_S = 15.0
"""Seconds for a web server to answer in, with everything that was asked for."""

FETCH_MAX = 16 * 2**20
"""Bytes of what a web server answers with: a list with some 300,000 certificates."""

PIECE = 64 * 1024
"""Bytes to read of that at once."""

REFRESH_MIN_S = 60.0
"""Seconds between two reads of the authority and the list at least: anybody can send a certificate
that is not accepted."""

WARN_MAX_S = 30 * 86_400.0
"""Seconds ahead of an expiry from which on it is warned of, at most; of a shorter validity, it is
the last tenth."""

WARN_EVERY_S = 86_400.0
"""Seconds between two warnings of the same thing."""

FAILURE_EVERY_S = 3_600.0
"""Seconds between two warnings that the list cannot be read."""


class Material:
    """What a relay with ``settings`` needs to judge and to sign.

    Raises :class:`ConfigError` for what is missing, unreadable, expired, or does not match, and
    :class:`RelayError` if a server does not answer.
    """

    def __init__(self, settings: TrustSettings) -> None:
        self.settings = settings
        self.key = SigningKey(settings.ssldir, settings.certname) if settings.signs else None
        self.authority = _authority(settings) if settings.authority else None
        if settings.validates and GPG in settings.backends:
            wrong = gpg.check(settings.gpg_home)
            if wrong:
                raise ConfigError(f"gpg_home = {settings.gpg_home!r}: {wrong}")
        if self.key and self.authority:
            try:
                self.authority.check(self.key.certificate)
            except RejectedError as error:
                raise ConfigError(
                    f"certnames['{SIGNER}'] = {settings.certname!r}: no consumer would accept"
                    f" {self.key.path}: {error.reason.value}: {error}"
                ) from error
        self._is_wanted = threading.Event()  # a certificate was not accepted
        self._failures = Throttle(FAILURE_EVERY_S)
        self._warnings: dict[str, Throttle] = {}  # by Expiry.what

    def signer(self, encoded: str) -> Signer:
        """Return the signer of a certificate as it is in messages; for the relay's thread.

        Raises :class:`RejectedError` if the certificate is not accepted.
        """
        assert self.authority is not None  # as x509 is accepted
        try:
            return self.authority.signer(encoded)
        except RejectedError as error:
            # The authority may have a new certificate, as consumers find out at the same moment.
            if error.reason is Reason.CERTIFICATE and not self._is_wanted.is_set():
                self._is_wanted.set()
            raise

    def start(self) -> None:
        """Warn of what expires soon, and keep the authority and its list current, from now on."""
        threading.Thread(target=self._keep_current, name="trust", daemon=True).start()

    def _keep_current(self) -> None:
        while True:
            self._warn_of_expiry()
            time.sleep(REFRESH_MIN_S)
            self._is_wanted.wait(max(0.0, self._refresh_s() - REFRESH_MIN_S))
            self._is_wanted.clear()
            if self.authority is not None:
                self._refresh()

    def _refresh_s(self) -> float:
        """Return the seconds until the list is as old as it may be, or expires, or a day."""
        if self.authority is None or self.authority.revoked is None:
            return WARN_EVERY_S
        next_update = self.authority.revoked.next_update_utc
        left_s = next_update.timestamp() - time.time() if next_update else math.inf
        # A list that has expired was not renewed: it is looked for every now and then.
        return min(self.settings.refresh_s, WARN_EVERY_S, left_s if left_s > 0 else math.inf)

    def _refresh(self) -> None:
        try:
            self.authority = _authority(self.settings)
        except RelayError as error:
            if self._failures.allows():
                log.warning("%s; the relay continues with the previous one", error)

    def expiries(self) -> Iterator[Expiry]:
        """Yield when each of the certificates and the list expires; for any thread."""
        settings, authority = self.settings, self.authority
        if self.key is not None:
            found = self.key.certificate
            key = f"certnames['{SIGNER}']"
            since, until = begins_at(found), expires_at(found)
            yield Expiry("certificate", key, str(self.key.path), since, until)
        if authority is None:
            return
        found = authority.certificate
        since, until = begins_at(found), expires_at(found)
        yield Expiry("authority", "ca_cert_location", settings.authority, since, until)
        revoked = authority.revoked
        if revoked is not None and revoked.next_update_utc is not None:
            since = revoked.last_update_utc.timestamp()
            until = revoked.next_update_utc.timestamp()
            yield Expiry("revocation_list", "crl_location", settings.revoked, since, until)

    def _warn_of_expiry(self) -> None:
        for each in self.expiries():
            left_s = each.until - time.time()
            if left_s < min(WARN_MAX_S, (each.until - each.since) / 10):
                throttle = self._warnings.setdefault(each.what, Throttle(WARN_EVERY_S))
                if throttle.allows():
                    log.warning("%s", warning(each))


def warning(expiry: Expiry) -> str:
    """Return the line about something that expires soon, or has expired."""
    until = datetime.datetime.fromtimestamp(expiry.until, datetime.timezone.utc)
    verb = "expires" if expiry.until > time.time() else "has expired"
    what = expiry.what.replace("_", " ")
    return (
        f"{expiry.key}: the {what} {expiry.path} {verb}, at {until:%F %T} UTC; after that consumers"
        " accept nothing that depends on it; renew it, and reload the relay"
    )


def _authority(settings: TrustSettings) -> Authority:
    """Read the authority and its list.  Raises :class:`ConfigError`, or as :func:`_read`."""
    authority = _read("ca_cert_location", settings.authority)
    revoked = _read("crl_location", settings.revoked) if settings.revoked else None
    try:
        return Authority(authority, revoked)
    except UNREADABLE as error:
        both = f"ca_cert_location = {settings.authority!r}"
        if revoked is not None:
            both += f", crl_location = {settings.revoked!r}"
        raise ConfigError(f"{both}: {error}") from error


def _read(key: str, location: str) -> str:
    """Return the PEM at a path or URL, as fedmsg reads it.

    Raises :class:`ConfigError` for a file, and :class:`RelayError` for a server, which may answer
    the next time.
    """
    if location.startswith("https://"):
        return _fetch(key, location)
    try:
        with open(location, encoding="ascii") as file:
            return file.read()
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{key} = {location!r}: cannot read it: {what}") from error


def _fetch(key: str, url: str) -> str:
    asking = Asking(lambda: _download(url, time.monotonic() + FETCH_S))
    try:
        if not asking.is_answered(FETCH_S):  # a server that sends a byte now and then
            raise TimeoutError(f"no answer within {FETCH_S:g} s")
        return asking.answer()
    except (OSError, ValueError) as error:  # ValueError: what urllib3 says of some addresses
        raise RelayError(f"{key} = {url!r}: cannot read it: {error}") from error


def _download(url: str, until: float) -> str:
    """Return what a web server answers, at most :data:`FETCH_MAX` bytes.

    Raises OSError or ValueError; stops after ``until`` (monotonic), when nobody waits any more.
    """
    import requests  # takes time, and is needed only here

    content = bytearray()
    # A server that is silent from some moment on is too slow as a whole first, see _fetch.
    with requests.get(url, timeout=2 * FETCH_S, stream=True) as answer:
        answer.raise_for_status()
        for piece in answer.iter_content(PIECE):
            content += piece
            if len(content) > FETCH_MAX:
                raise ValueError(f"it is larger than {FETCH_MAX // 2**20} MiB")
            if time.monotonic() > until:
                raise TimeoutError("it comes too slowly")
    return content.decode(errors="replace")  # any text may stand before the PEM
