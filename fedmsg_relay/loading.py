"""fedmsg's own loader of the global config, with errors that say where, and without its detours."""

from __future__ import annotations

import argparse
import contextlib
import importlib.machinery
import importlib.util
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from fedmsg_relay.errors import ConfigError


class _Lazy:
    """Puts off the execution of modules that fedmsg imports and the relay has no use for.

    They are more than half of the time from the start of a relay to its being bound, which is a
    gap in the service.  A site's config may use them all the same: that executes them.
    """

    NAMES = ("fedmsg.crypto", "urllib.request")

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _Lazy.NAMES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


sys.meta_path.insert(0, _Lazy)
import fedmsg.config  # noqa: E402

sys.meta_path.remove(_Lazy)

WHERE = (
    "a file in /etc/fedmsg.d, ~/.fedmsg.d or ./fedmsg.d, or the one that --config-filename names"
)
DIRECTORIES = ("/etc/fedmsg.d", "~/.fedmsg.d", "fedmsg.d")
HERE = ("fedmsg.d", "fedmsg-config.py")
"""What the loader looks for in the working directory."""


Option = tuple[list[str], dict[str, Any]]
"""The positional and keyword arguments of :meth:`argparse.ArgumentParser.add_argument`."""

NO_SRV: Option = (
    ["---srv-endpoints"],
    {"action": "store_const", "const": [], "default": [], "help": argparse.SUPPRESS},
)
"""Overrides ``srv_endpoints``, as options do: the loader would ask name servers for each of them,
with dnspython, and wait.  Three hyphens, so that this abbreviates no option of ours."""


def load(
    extra_args: Sequence[Option] | None = None,
    doc: str = "",
    directories: Sequence[str] = DIRECTORIES,
) -> dict[str, Any]:
    """Read the global fedmsg config and the command line, as every fedmsg command does.

    ``extra_args`` are the options beyond those of every fedmsg command; ``doc`` is what ``--help``
    says before the options.  Without them the command line is somebody else's, and left alone.

    Those of ``directories`` that exist must be readable.

    Raises :class:`ConfigError` for a file that is missing, unreadable or broken, and
    :class:`SystemExit` as argparse does: 2 for wrong usage, 0 after ``--help``.
    """
    for directory in map(os.path.expanduser, directories):
        if os.path.isdir(directory) and not os.access(directory, os.R_OK | os.X_OK):
            raise ConfigError(f"cannot load the configuration: {directory} is not readable")
    # The loader refuses a config without endpoints, though a top-level relay_outbound is enough.
    fedmsg.config.defaults.setdefault("endpoints", {})
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore", DeprecationWarning)
            # The loader goes on, with a warning, without a file that it cannot read; but one about
            # srv_endpoints is no more than that.
            warnings.filterwarnings("error", category=UserWarning, module=r"fedmsg\.config$")
            warnings.filterwarnings("default", message=r"There is no appro|The DNS q|No name ser")
            loaded: dict[str, Any] = fedmsg.config.load_config(
                [*(extra_args or ()), NO_SRV], doc, fedmsg_command=extra_args is not None
            )
    except (Exception, SystemExit) as error:
        reason = _reason(error) or _wrong_default(said.getvalue())
        if reason is None:  # an exit that was asked for, or wrong usage
            print(said.getvalue(), end="", file=sys.stderr)
            raise
        raise ConfigError(f"cannot load the configuration: {reason}") from error
    if said.getvalue():
        print(said.getvalue(), end="", file=sys.stderr)
    return loaded


def _reason(error: BaseException) -> str | None:
    """What went wrong, with the file and line of the config file; None if it is an exit."""
    path, line = None, None
    for frame, lineno in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "_process_config_file":
            path = frame.f_locals.get("fname")
        elif path is not None and frame.f_code.co_filename == path:
            line = lineno
    if isinstance(error, SyntaxError) and error.filename == path:
        line = error.lineno
    what = " ".join(f"{type(error).__name__}: {error}".split())
    if path is None:
        return None if isinstance(error, SystemExit) else what
    if line is not None:
        return f"{path}:{line}: {what}"
    if isinstance(error, (Warning, ValueError)):
        return f"{path}: {error}"
    return f"{path}: it must define a dictionary named 'config' ({what})"


def _wrong_default(usage: str) -> str | None:
    """What argparse complains of, if that is not on the command line: it checks defaults too."""
    found = re.search(r"argument (--([\w-]+)): (invalid \w+ value: .*)", usage)
    if not found or any(argument.startswith(found[1]) for argument in sys.argv):
        return None
    key = "zmq_linger" if found[2] == "linger" else found[2].replace("-", "_")
    return f"{key}: {found[3]}"
