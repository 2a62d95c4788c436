"""The global fedmsg config -> one frozen :class:`Settings`.  This is the manual of every key.

The configuration is fedmsg's own: every ``*.py`` file in ``/etc/fedmsg.d``, ``~/.fedmsg.d``,
``./fedmsg.d`` and ``$VIRTUAL_ENV/etc/fedmsg.d``, or the one file named by ``--config-filename``;
each defines a dictionary named ``config``.  It is read by the loader that every fedmsg command
uses, so that the relay sees what the scripts see.

Where to listen:

``relay_inbound`` (string or list of strings; required)
    The addresses that scripts publish to.  Every one that is local to this host is bound; one that
    is not, or whose name does not resolve, is skipped with a warning.
``endpoints["relay_outbound"]``, else ``relay_outbound`` (string or list of strings; required)
    The addresses that consumers listen to.  The first that is local and free is bound.

An address is ``tcp://HOST:PORT``, with an IPv4 address, an IPv6 address in brackets, ``*`` or a
host name (which stands for all its addresses on this host), or ``ipc:///PATH``.

How (the keys and defaults are fedmsg's, and count for both sockets):

``io_threads`` (whole number, default 1)
    Threads of libzmq for the network.
``high_water_mark`` (messages, default 0: no limit)
    How many messages may wait for one peer before more are dropped.
``zmq_linger`` (milliseconds, default 1000)
    How long a stop may wait for consumers to take what was sent to them.
``zmq_tcp_keepalive`` (-1, 0 or 1), ``zmq_tcp_keepalive_cnt`` (probes),
``zmq_tcp_keepalive_idle``, ``zmq_tcp_keepalive_intvl`` (seconds)
    TCP keepalive, so that a peer which vanished while idle is noticed.  Default -1: as the
    operating system has it.
``zmq_reconnect_ivl_max`` (milliseconds, default 1000), ``zmq_reconnect_ivl`` (default 100)
    Within what time consumers reconnect.  Only the default of ``relay_hold`` depends on them.
``zmq_enabled`` (must be true)
    A site without ZeroMQ has no use for this relay.
``logging`` (a ``logging.config`` dictionary)
    The relay logs as ``fedmsg.relay``.

The relay's own:

``relay_hold`` (seconds, default ``zmq_reconnect_ivl_max`` + 0.5)
    After a start, keep messages for this long, until the consumers that were cut off by the restart
    are back.
``relay_drain`` (seconds, default 5)
    At a stop, spend at most this long on passing on what has come in.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import math
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
OUTBOUND = "endpoints['relay_outbound']"
OUR_KEYS = ("relay_inbound", "relay_outbound", "relay_hold", "relay_drain")
C_INT_MAX = 2**31 - 1


@dataclass(frozen=True)
class Settings:
    """What the relay was told, validated; the module's docstring says what each key means."""

    inbound: tuple[str, ...]
    """The configured addresses, at least one."""
    outbound: tuple[str, ...]
    """The configured addresses, at least one, in order of preference."""
    io_threads: int
    high_water_mark: int
    """Messages for each peer; 0 is no limit."""
    linger_ms: int
    tcp_keepalive: int
    tcp_keepalive_cnt: int
    tcp_keepalive_idle_s: int
    tcp_keepalive_intvl_s: int
    hold_s: float
    drain_s: float


def load(extra_args: Sequence[tuple[list[str], dict[str, Any]]], doc: str) -> dict[str, Any]:
    """Read the global fedmsg config and the command line, as every fedmsg command does.

    ``extra_args`` are the options beyond those of every fedmsg command, each as the positional and
    keyword arguments of :meth:`argparse.ArgumentParser.add_argument`; ``doc`` is what ``--help``
    says before the options.

    Raises :class:`ConfigError` for a file that is missing, unreadable or broken, and
    :class:`SystemExit` as argparse does: 2 for wrong usage, 0 after ``--help``.
    """
    # The loader refuses a config without endpoints, though a top-level relay_outbound is enough.
    fedmsg.config.defaults.setdefault("endpoints", {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # The loader goes on, with a warning, without a file that it cannot read.
        warnings.filterwarnings("error", message=r"\[Errno")
        try:
            loaded: dict[str, Any] = fedmsg.config.load_config(
                list(extra_args), doc, fedmsg_command=True
            )
        except (Exception, SystemExit) as error:
            reason = _reason(error)
            if reason is None:
                raise
            raise ConfigError(f"cannot load the configuration: {reason}") from error
    return loaded


def _reason(error: BaseException) -> str | None:
    """What went wrong, with the file and line of the config file; None if nothing did (an exit)."""
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


def settings(config: Mapping[str, Any]) -> Settings:
    """Validate what :func:`load` returned.  Raises :class:`ConfigError`, naming key and value."""
    for key in config:
        if key.startswith("relay_") and key not in OUR_KEYS:
            import difflib  # not before somebody has made a mistake

            near = difflib.get_close_matches(key, OUR_KEYS, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(OUR_KEYS)}"
            raise ConfigError(f"{key}: no such key; {hint}")
    if not config.get("zmq_enabled", True):
        raise ConfigError(
            f"zmq_enabled = {config['zmq_enabled']!r}: the relay works with ZeroMQ alone;"
            " set it to True, or do not run the relay"
        )
    reconnect_ms = _whole(config, "zmq_reconnect_ivl_max", 1000) or _whole(
        config, "zmq_reconnect_ivl", 100
    )
    outbound = _endpoints(config).get("relay_outbound")
    return Settings(
        inbound=_addresses("relay_inbound", config.get("relay_inbound")),
        outbound=(
            _addresses("relay_outbound", config["relay_outbound"])
            if outbound is None and "relay_outbound" in config
            else _addresses(OUTBOUND, outbound)
        ),
        io_threads=_whole(config, "io_threads", 1, minimum=1),
        high_water_mark=_whole(config, "high_water_mark", 0),
        linger_ms=_whole(config, "zmq_linger", 1000),
        tcp_keepalive=_whole(config, "zmq_tcp_keepalive", -1, minimum=-1, maximum=1),
        tcp_keepalive_cnt=_whole(config, "zmq_tcp_keepalive_cnt", -1, minimum=-1),
        tcp_keepalive_idle_s=_whole(config, "zmq_tcp_keepalive_idle", -1, minimum=-1),
        tcp_keepalive_intvl_s=_whole(config, "zmq_tcp_keepalive_intvl", -1, minimum=-1),
        hold_s=_seconds(config, "relay_hold", reconnect_ms / 1000 + 0.5),
        drain_s=_seconds(config, "relay_drain", 5.0),
    )


def _endpoints(config: Mapping[str, Any]) -> Mapping[str, Any]:
    endpoints = config.get("endpoints", {})
    if not isinstance(endpoints, Mapping):
        raise ConfigError(f"endpoints = {endpoints!r}: must be a dictionary of names and addresses")
    return endpoints


def _addresses(key: str, value: object) -> tuple[str, ...]:
    if value is None:
        raise ConfigError(f"{key}: not set; it belongs in {WHERE}")
    addresses = (value,) if isinstance(value, str) else value
    if (
        not isinstance(addresses, (list, tuple))
        or not addresses
        or not all(isinstance(address, str) for address in addresses)
    ):
        raise ConfigError(f"{key} = {value!r}: must be an address or a list of addresses")
    return tuple(addresses)


def _whole(
    config: Mapping[str, Any], key: str, default: int, minimum: int = 0, maximum: int = C_INT_MAX
) -> int:
    value = config.get(key, default)
    # A bool is an int to Python; as a switch (maximum 1) it is welcome, as a number a mistake.
    right_type = isinstance(value, int) and (maximum == 1 or not isinstance(value, bool))
    if not right_type or not minimum <= value <= maximum:
        limits = f"from {minimum} to {maximum}" if maximum < C_INT_MAX else f"of at least {minimum}"
        raise ConfigError(f"{key} = {value!r}: must be a whole number {limits}")
    return int(value)


def _seconds(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    right_type = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not right_type or not 0 <= value < math.inf:
        raise ConfigError(f"{key} = {value!r}: must be a number of seconds, 0 or more")
    return float(value)
