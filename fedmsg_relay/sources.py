"""The files of the global fedmsg config: which of them fedmsg's loader executes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


class Sources:
    """The files that were executed within :meth:`watched`."""

    def __init__(self) -> None:
        self.read: list[str] = []

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within, note each file that fedmsg's loader executes."""
        import fedmsg.config  # here, as it is for `loading` to import first

        execute = fedmsg.config.execfile
        fedmsg.config.execfile = self._execute
        self._original = execute
        try:
            yield
        finally:
            fedmsg.config.execfile = execute

    def _execute(self, path: str, variables: dict[str, Any]) -> None:
        self.read.append(path)
        self._original(path, variables)
