"""Decides about a message: forward unchanged, forward with a new signature, or reject.

A :class:`Judge` accepts what :func:`fedmsg.crypto.validate` accepts in a consumer with
``validate_signatures``.  It reads no file and asks no server: keys and lists are in memory.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from fedmsg_relay.config.trust import ALL, GPG, X509
from fedmsg_relay.journal import messages
from fedmsg_relay.trust import gpg
from fedmsg_relay.trust.key import CREDENTIALS, encoded, without_credentials
from fedmsg_relay.trust.material import Material
from fedmsg_relay.trust.verdict import Reason, RejectedError

WHITE_SPACE = " \t\n\r"
"""JSON's.  What stands behind the JSON is a mark of bridges, and stays."""

DEPTH_MAX = 450
"""Levels that a message may be nested.  A consumer that validates copies each with two calls of
Python a level, of which 1,000 may be under way: fedmsg-hub raises RecursionError from 490 levels
on, and fedmsg-tail ends from 495 on.  The relay's own limit depends on the version of Python."""

Attend = Callable[[], None]


class Judge:
    """Judges with the keys and the policy of ``material``."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._settings = material.settings

    def judge(self, frames: list[bytes], attend: Attend) -> list[bytes]:
        """Return the frames to forward for a message.  Raises :class:`RejectedError`.

        Calls ``attend`` regularly while gpg verifies a signature, which takes milliseconds.
        """
        topic, body, text = _parse(frames)
        signs = self._settings.signs
        is_signed = not body.keys().isdisjoint(CREDENTIALS)
        if self._settings.validates and (is_signed or not signs):
            self._validate(topic, body, attend)
        key = self._material.key
        if key is None or (is_signed and signs != ALL):
            return frames
        if self._settings.validates:
            self._permit(topic, key.name)
        mark = text[len(text.rstrip(WHITE_SPACE)) :]
        return [frames[0], key.sign(body) + mark.encode()]

    def _validate(self, topic: str, body: dict[str, Any], attend: Attend) -> None:
        # Old versions of fedmsg do not say with what they signed.
        backend = body.get("crypto", X509 if "certificate" in body else GPG)
        needed = ("signature",) if backend == GPG else CREDENTIALS
        if any(name not in body for name in needed):
            raise RejectedError(Reason.UNSIGNED, "no signature, or no certificate")
        if backend not in self._settings.backends:
            raise RejectedError(
                Reason.WRONG_SIGNATURE, f"signatures of {backend!r} are not accepted here"
            )
        credentials = [body[name] for name in needed]
        if not all(isinstance(each, str) for each in credentials):
            raise RejectedError(Reason.WRONG_SIGNATURE, "the signature is not text")
        try:
            signature = base64.b64decode(body["signature"])
        except ValueError as error:
            raise RejectedError(Reason.WRONG_SIGNATURE, str(error)) from error
        if backend == GPG:
            if "msg" not in body:
                raise RejectedError(Reason.WRONG_SIGNATURE, "no msg, which is what gpg signs")
            gpg.verify(self._settings.gpg_home, signature, encoded(body["msg"]), attend)
            return
        signer = self._material.signer(body["certificate"])
        signer.verify(signature, encoded(without_credentials(body)))
        self._permit(topic, signer.name)

    def _permit(self, topic: str, signer: str) -> None:
        policy = self._settings.policy
        if topic in policy:
            if signer not in policy[topic]:
                raise RejectedError(Reason.NOT_PERMITTED, "not in routing_policy", signer)
        elif self._settings.is_nitpicky:
            what = "routing_policy has no such topic, and routing_nitpicky is set"
            raise RejectedError(Reason.NOT_PERMITTED, what, signer)


def _parse(frames: list[bytes]) -> tuple[str, dict[str, Any], str]:
    """Return topic, body, and the text of the body."""
    if len(frames) != 2:
        raise RejectedError(Reason.NOT_FEDMSG, f"{len(frames)} frames instead of 2")
    try:
        topic, text = (frame.decode() for frame in frames)
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RejectedError(Reason.NOT_FEDMSG, str(error)) from error
    if messages.is_deeper(DEPTH_MAX, body, frames[1]):
        raise RejectedError(Reason.NOT_FEDMSG, f"nested deeper than {DEPTH_MAX} levels")
    if not isinstance(body, dict) or "topic" not in body:
        raise RejectedError(Reason.NOT_FEDMSG, "the JSON is not an object with a topic")
    if body["topic"] != topic:
        raise RejectedError(Reason.TOPICS_DIFFER, f"the body has {body['topic']!r}")
    return topic, body, text
