"""Why a message is rejected.  Loads nothing that only a relay which validates or signs needs."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple


class Reason(Enum):
    """The reasons of rejections, with the words that users see."""

    NOT_FEDMSG = "not_fedmsg"
    """The message is not a topic and a JSON object that has one too."""
    TOPICS_DIFFER = "topics_differ"
    """The topic of the envelope is not that of the body."""
    UNSIGNED = "unsigned"
    WRONG_SIGNATURE = "wrong_signature"
    """The signature is not of this message, or of a kind that the site does not accept."""
    CERTIFICATE = "certificate"
    """The certificate is not of the site's authority, has expired or is unreadable."""
    REVOKED = "revoked"
    """The certificate is on the revocation list."""
    NOT_PERMITTED = "not_permitted"
    """The certificate may not sign messages of this topic."""


RejectedCounts = Mapping[Reason, int]
"""How many messages were rejected, by reason."""


class RejectedError(Exception):
    """A message is not to be forwarded."""

    def __init__(self, reason: Reason, detail: str, signer: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.signer = signer
        """The common name of the certificate, as far as it is known."""


class Rejection(NamedTuple):
    """A message that was rejected, for the log."""

    reason: Reason
    topic: str
    signer: str
    detail: str
    is_last: bool
    """Whether the messages that are rejected next are only counted, for a while."""

    def __str__(self) -> str:
        by = f", certificate {self.signer!r}" if self.signer else ""
        more = "; further ones are only counted for a minute" if self.is_last else ""
        return f"{self.reason.value}: topic {self.topic!r}{by}: {self.detail}{more}"


class Expiry(NamedTuple):
    """When something that signatures depend on expires."""

    what: str
    """``"certificate"``, ``"authority"`` or ``"revocation_list"``."""
    key: str
    """The key of the configuration that names the file."""
    path: str
    """The file or URL."""
    since: float
    """The beginning of its validity, in seconds since 1970."""
    until: float
    """The end, likewise."""
