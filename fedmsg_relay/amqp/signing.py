"""The site's signature for messages that no fedmsg program made, where the site signs messages."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

from fedmsg_relay.amqp.mapping import USERNAME
from fedmsg_relay.config import loader  # noqa: F401 (makes the import of fedmsg a quick one)
from fedmsg_relay.errors import ConfigError

Sign = Callable[[dict[str, Any]], dict[str, Any]]


def signer(site: Mapping[str, Any]) -> Sign:
    """Return a function that signs by the global fedmsg config ``site``; a no-op if signing is off.

    The certificate is that of ``amqp-bridge.HOST`` in ``certnames``, else that of ``shell.HOST``.
    Raises :class:`ConfigError` if there is neither.
    """
    if not site.get("sign_messages"):
        return lambda message: message
    options = dict(site)
    if site.get("crypto_backend") != "gpg":
        host = socket.gethostname().partition(".")[0]
        names = [f"{program}.{host}" for program in (USERNAME, "shell")]
        certificates = site.get("certnames") or {}
        found = next((certificates[name] for name in names if name in certificates), None)
        if found is None:
            raise ConfigError(
                f"certnames: neither {names[0]!r} nor {names[1]!r} is set; sign_messages needs one"
                " of them to sign unsigned messages from the broker"
            )
        options["certname"] = found
    import fedmsg.crypto

    def sign(message: dict[str, Any]) -> dict[str, Any]:
        signed: dict[str, Any] = fedmsg.crypto.sign(message, **options)
        if signed is None:
            raise ConfigError(
                "sign_messages: fedmsg did not sign the message, and gave no reason; install"
                " fedmsg[crypto_ng] and a pyOpenSSL older than 24.3"
            )
        return signed

    sign(
        {"topic": "", "msg": {}}
    )  # a key that is missing is found now, and not at the first message
    return sign
