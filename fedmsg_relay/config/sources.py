"""The files of the global fedmsg config: which of them fedmsg's loader executes.

They are Python, and some lie wherever the command happens to be started.  Whoever only asks how a
relay is, root or Nagios, must not execute there what others have written.
"""

from __future__ import annotations

import os
import stat

HERE = ("fedmsg.d", "fedmsg-config.py")
"""What fedmsg's loader looks for in the working directory."""


class Sources:
    """The files that :meth:`may_execute` was asked of.

    With ``only_own``, those of the working directory are passed over unless nobody but this user
    may write there; and those of a home that is neither this user's nor root's.  ``named`` is the
    file that ``--config-filename`` names, which counts wherever it is.
    """

    def __init__(self, only_own: bool, named: str | None = None) -> None:
        self.read: list[str] = []
        self.passed_over: list[str] = []
        self._only_own = only_own
        self._named = named

    def may_execute(self, path: str) -> bool:
        """Whether a config file counts, or a directory of them; notes the files that do."""
        is_trusted = path == self._named or self._may_read(path)
        if not os.path.isdir(path):
            (self.read if is_trusted else self.passed_over).append(path)
        return is_trusted

    def _may_read(self, path: str) -> bool:
        if not self._only_own:
            return True
        path = os.path.abspath(path)
        working, home = os.getcwd(), os.path.expanduser("~")
        if path.startswith("/etc/fedmsg"):
            return True
        if path.startswith(tuple(os.path.join(working, name) for name in HERE)):
            return all(map(_is_own, (working, os.path.dirname(path), path)))
        return not path.startswith(os.path.join(home, ".")) or _owner(home) in (0, os.geteuid())


def _is_own(path: str) -> bool:
    """Whether it is this user's, and nobody else may write to it; a group of one's own may."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    foreign = stat.S_IWOTH if status.st_gid == os.getegid() else stat.S_IWOTH | stat.S_IWGRP
    return status.st_uid == os.geteuid() and not status.st_mode & foreign


def _owner(path: str) -> int:
    try:
        return os.stat(path).st_uid
    except OSError:
        return 0  # there is nothing there
