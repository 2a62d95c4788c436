"""Where to ask a relay from outside, and why there is no answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Future
from typing import TypeVar

from fedmsg_relay import endpoints, zmtp
from fedmsg_relay.endpoints import WILDCARDS, Endpoint
from fedmsg_relay.errors import RelayError

EXPLAIN_S = 1.0
"""How long to try to find out why there was no answer."""

_T = TypeVar("_T")


def uri(endpoint: Endpoint) -> str:
    """The address to connect to; of a wildcard that of stock scripts, which speak IPv4."""
    if endpoint.address[0] in WILDCARDS:
        return f"tcp://127.0.0.1:{endpoint.address[1]}"
    return endpoint.uri


def first(key: str, address: str, deadline: float) -> Endpoint:
    """Of what a configured address stands for, that which stock peers take: IPv4 if there is.

    Raises :class:`RelayError` if the name is unknown.
    """
    found = sorted(
        endpoints.resolve(key, address, deadline), key=lambda e: e.family == socket.AF_INET6
    )
    if not found:
        raise RelayError(f"{key}: cannot resolve {address}")
    return found[0]


def in_time(find: Callable[[], _T], timeout_s: float) -> _T:
    """What ``find`` returns or raises; :class:`RelayError` if a name server keeps it for longer."""
    found: Future[_T] = Future()

    def run() -> None:
        try:
            found.set_result(find())
        except BaseException as error:  # noqa: BLE001 (it is raised where it was asked for)
            found.set_exception(error)

    threading.Thread(target=run, name="names", daemon=True).start()
    try:
        return found.result(timeout_s)
    except futures.TimeoutError:
        raise RelayError(f"no name server has answered within {timeout_s:g} s") from None


def why_silent(uris: Sequence[str], waited_s: float) -> str:
    """Why none of these has answered for so long: what connect(2) says of each, or nothing."""
    return "; ".join(f"{uri}: {_why(uri, waited_s, EXPLAIN_S / len(uris))}" for uri in uris)


def _why(uri: str, waited_s: float, timeout_s: float) -> str:
    silent = f"no answer within {waited_s:.2g} s"
    try:
        zmtp.connect(uri, timeout_s).close()
    except BlockingIOError:  # the queue of one that is stopped may be full
        pass
    except OSError as error:
        return f"{silent}: {error.strerror or error}"
    return (
        f"{silent}, though somebody listens: it is stopped or hung, is not the relay,"
        " or lets nobody in from here"
    )
