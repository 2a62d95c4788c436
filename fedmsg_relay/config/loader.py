"""The global fedmsg config, loaded by fedmsg's own loader, with errors that name file and line.

Owns the import of fedmsg: a module of this package that needs fedmsg imports this module first.
Any number of threads may load at once.  Loading changes nothing that the rest of the process sees:
no warning filter, no standard stream, no cache of fedmsg's.
"""

from __future__ import annotations

import argparse
import functools
import os
import threading
import traceback
import types
from collections.abc import Callable, Sequence
from typing import Any

from fedmsg_relay.config.deferred import deferring
from fedmsg_relay.config.parser import Option, Parser
from fedmsg_relay.errors import ConfigError

with deferring():
    import fedmsg.config

WHERE = (
    "a file in /etc/fedmsg.d, ~/.fedmsg.d or ./fedmsg.d, or the one that --config-filename names"
)
CANNOT = "cannot load the configuration"

MayExecute = Callable[[str], bool]
"""Whether the config file at a path, or a directory of them, counts."""

_lock = threading.RLock()
_shared: dict[str, Any] = {}
"""What :func:`load_shared` has loaded; a script's threads share it."""


def _forget_lock() -> None:
    """Replace the lock after a fork: a thread that the child does not have may hold it."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_forget_lock)


def load(
    options: Sequence[Option], doc: str, may_execute: MayExecute = lambda _: True
) -> dict[str, Any]:
    """Read the global fedmsg config and the command line, as every fedmsg command does.

    ``options`` come in addition to those of every fedmsg command; ``doc`` is the text of ``--help``
    as :class:`Parser` takes it.  ``may_execute`` is called with the path of each config file, and
    of a directory that cannot be read; where it returns False the path is skipped.

    Raises :class:`ConfigError` for a file that is missing, unreadable or broken, and
    :class:`SystemExit` as argparse does: 2 for wrong usage, 0 after ``--help``.
    """
    return _load(list(options), doc, True, may_execute)


def load_alone(filename: str | None, may_execute: MayExecute) -> dict[str, Any]:
    """Return the global fedmsg config for a command that parses its command line itself.

    ``filename`` is the one file to be read; None means all of them.  Raises :class:`ConfigError` as
    :func:`load`, which has ``may_execute`` too.
    """
    return _load([], "", False, may_execute, [filename] if filename else None)


def load_shared() -> dict[str, Any]:
    """Return the global fedmsg config for a script, whose command line is its own.

    What the process has loaded already, by this function or by fedmsg's own loader, is not read
    again.  Raises :class:`ConfigError` as :func:`load`.
    """
    global _shared
    stock: dict[str, Any] = vars(fedmsg.config)["__cache"]
    if stock:
        return stock
    if not _shared:
        with _lock:
            _shared = _shared or _load([], "", False, lambda _: True)
    return _shared


def _load(
    options: list[Option],
    doc: str,
    fedmsg_command: bool,
    may_execute: MayExecute,
    filenames: list[str] | None = None,
) -> dict[str, Any]:
    try:
        load_config = _copy(options, may_execute)["load_config"]
        loaded: dict[str, Any] = load_config(
            options, doc, filenames=filenames, fedmsg_command=fedmsg_command
        )
    except ConfigError:
        raise
    except Exception as error:
        what = str(error) if isinstance(error, ValueError) else _what(error)
        raise ConfigError(f"{CANNOT}: {what}") from error
    return loaded


def parser(options: Sequence[Option], doc: str, name: str) -> argparse.ArgumentParser:
    """Return the parser of :func:`load`, with fedmsg's defaults, for the command ``name``."""
    build_parser = _copy(options, lambda _: False)["build_parser"]
    made: argparse.ArgumentParser = build_parser(list(options), doc, prog=name)
    return made


def _copy(options: Sequence[Option], may_execute: MayExecute) -> dict[str, Any]:
    """Return a copy of the functions of ``fedmsg.config`` that call those below."""
    module = dict(vars(fedmsg.config))
    for name, value in vars(fedmsg.config).items():
        if isinstance(value, types.FunctionType) and value.__module__ == fedmsg.config.__name__:
            module[name] = types.FunctionType(
                value.__code__, module, name, value.__defaults__, value.__closure__
            )
    module["__cache"] = {}
    # The loader refuses a config without endpoints, though a top-level relay_outbound is enough.
    module["defaults"] = {"endpoints": {}, **fedmsg.config.defaults}
    module["_gather_configs_in"] = lambda directory: _files_in(directory, may_execute)
    module["execfile"] = lambda path, variables: _execute(path, variables, may_execute)
    module["warnings"] = types.SimpleNamespace(warn=_warn)
    make_parser = functools.partial(Parser, declared=options)
    module["argparse"] = types.SimpleNamespace(**{**vars(argparse), "ArgumentParser": make_parser})
    return module


def _files_in(directory: str, may_execute: MayExecute) -> list[str]:
    """Return the config files of a directory, in order.  Raises :class:`ConfigError`."""
    try:
        names = sorted(os.listdir(directory))
        if names and not os.access(directory, os.X_OK):
            raise PermissionError(0, "Permission denied")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if not may_execute(directory):
            return []
        raise ConfigError(
            f"{CANNOT}: {directory.rstrip('/')} is not readable: {error.strerror}"
        ) from error
    return [os.path.join(directory, name) for name in names if name.endswith(".py")]


def _execute(path: str, variables: dict[str, Any], may_execute: MayExecute) -> None:
    """Execute a config file.  Raises :class:`ConfigError`, with the file and the line."""
    if not may_execute(path):
        variables["config"] = {}
        return
    try:
        with open(path) as file:
            exec(compile(file.read(), path, "exec"), variables)
    except (Exception, SystemExit) as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        for frame, lineno in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename == path:
                line = lineno
        if isinstance(error, OSError) and error.filename == path:
            what = f"{path}: {error.strerror}"
        elif line is None or isinstance(error, OSError):
            what = f"{path}: {error}"
        else:
            what = f"{path}:{line}: {_what(error)}"
        raise ConfigError(f"{CANNOT}: {what}") from error
    found = variables.get("config")
    if not isinstance(found, dict):
        raise ConfigError(f"{CANNOT}: {path}: it must define a dictionary named 'config'")
    # fedmsg would ask a name server for more addresses of consumers, which the relay does not use.
    found.pop("srv_endpoints", None)


def _warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Raise :class:`ConfigError` for a warning: the loader gives one for a file it cannot read."""
    if not issubclass(category, DeprecationWarning):  # about the loader itself
        raise ConfigError(f"{CANNOT}: {message}")


def _what(error: BaseException) -> str:
    said = str(error)
    if isinstance(error, SyntaxError):  # str() repeats the file and the line
        said = error.msg + (f": {error.text.strip()}" if error.text else "")
    return " ".join(f"{type(error).__name__}: {said}".split())
