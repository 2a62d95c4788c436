"""Signatures of GnuPG, verified by ``gpg`` as :mod:`fedmsg.crypto.gpg` does: no policy, no topics.

``gpg`` runs for each message.  Its input stays in memory, and while it runs, the caller continues
its other work.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable

from fedmsg_relay.trust.verdict import Reason, RejectedError

ATTEND_EVERY_MS = 20
"""Milliseconds between two calls of ``attend``."""

PATIENCE_S = 10.0
"""Seconds for ``gpg``, which takes hundredths of one."""


def check(home: str) -> str:
    """Return what is wrong with the keyring in ``home``, or that ``gpg`` is missing; else empty."""
    if not os.path.isdir(home):
        return "there is no such directory"
    try:
        done = subprocess.run(
            ["gpg", "--homedir", home, "--batch", "--list-keys"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot run gpg: {error}"
    return _last_line(done.stderr) if done.returncode else ""


def verify(home: str, signature: bytes, signed: bytes, attend: Callable[[], None]) -> None:
    """Raise :class:`RejectedError` if no key in ``home`` made ``signature`` for ``signed``.

    Calls ``attend`` regularly.
    """
    files = [_in_memory(content) for content in (signature, signed)]
    names = [f"/proc/self/fd/{fd}" for fd in files]
    try:
        with subprocess.Popen(
            ["gpg", "--homedir", home, "--batch", "--verify", *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=files,
        ) as process:
            said = _read(process, attend)
    finally:
        for fd in files:
            os.close(fd)
    if process.returncode:
        raise RejectedError(Reason.WRONG_SIGNATURE, _last_line(said))


def _in_memory(content: bytes) -> int:
    """Return a descriptor of a file with ``content`` that is on no disk."""
    fd = os.memfd_create("gpg")
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    return fd


def _read(process: subprocess.Popen[bytes], attend: Callable[[], None]) -> bytes:
    """Return what ``process`` prints to standard error until its end, or until it is killed."""
    assert process.stderr is not None
    until = time.monotonic() + PATIENCE_S
    said = b""
    poller = select.poll()
    poller.register(process.stderr, select.POLLIN)
    while time.monotonic() < until:
        attend()
        if poller.poll(ATTEND_EVERY_MS):
            found = os.read(process.stderr.fileno(), 4096)
            if not found:
                return said
            said += found
    process.kill()
    return b"gpg has not ended in time"


def _last_line(said: bytes) -> str:
    return (said.decode(errors="replace").splitlines() or ["no details"])[-1]
