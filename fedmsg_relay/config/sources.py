"""The files of the global fedmsg config: which of them fedmsg's loader may execute.

Config files are Python code, and fedmsg also reads some in the working directory.  A command that
only asks for a relay's status, perhaps as root, must not execute files of another user.
"""

from __future__ import annotations

import os
import stat

HERE = ("fedmsg.d", "fedmsg-config.py")
"""The names that fedmsg's loader looks for in the working directory."""


class Sources:
    """Decides which config files are executed, and lists the executed ones.

    With ``only_own`` the files of the working directory are skipped unless this user alone may
    write there, and so are those of a home that is neither this user's nor root's.  ``named`` is
    the file of ``--config-filename``: then no other one counts.
    """

    def __init__(self, only_own: bool, named: str | None = None) -> None:
        self.read: list[str] = []
        """The files that may be executed, in order."""
        self.passed_over: list[str] = []
        """The files that may not."""
        self._only_own = only_own
        self._named = named

    def may_execute(self, path: str) -> bool:
        """Return whether a config file, or a directory of them, counts; list it if it is a file."""
        is_trusted = path == self._named if self._named else self._may_read(path)
        if not os.path.isdir(path):
            (self.read if is_trusted else self.passed_over).append(path)
        return is_trusted

    def warnings(self) -> list[str]:
        """Return a line for each file that was passed over, unless a file was named."""
        if self._named:
            return []
        return [
            f"{path} is skipped, as other users may write there; to use the file, name it with"
            " --config-filename"
            for path in self.passed_over
        ]

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
    """Return whether ``path`` is this user's, with write permission for their group at most."""
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
        return 0  # nothing is there, so nothing can be executed
