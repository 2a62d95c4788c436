"""The addresses and networks of an allow list -> libzmq's accept filters, or a test for an address.

libzmq closes a connection that no filter (``ZMQ_TCP_ACCEPT_FILTER``) matches before it reads a
byte, whatever ZMTP version the peer speaks.  ZAP, which libzmq's manual recommends instead, locks
out peers that speak ZMTP 2.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Union

from fedmsg_relay.errors import ConfigError

Network = Union[IPv4Network, IPv6Network]

MAPPED = IPv6Network("::ffff:0:0/96")
"""What an IPv4 address looks like on a socket that accepts IPv4 and IPv6 (RFC 4291, 2.5.5.2)."""


LOOPBACK: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


def networks(key: str, value: object) -> tuple[Network, ...]:
    """Return the networks of a list of strings.  Raises :class:`ConfigError`, naming the entry."""
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, (list, tuple)) or not entries:
        raise ConfigError(
            f"{key} = {value!r}: must be a list of addresses and networks, and not empty;"
            " remove the key to allow every peer"
        )
    return tuple(_network(key, entry) for entry in entries)


def _network(key: str, entry: object) -> Network:
    try:
        if not isinstance(entry, str) or "%" in entry:  # ip_network() accepts those
            raise ValueError("it must look like 192.0.2.7, 192.0.2.0/24, 2001:db8::/32")
        network = ip_network(entry)
    except ValueError as error:
        raise ConfigError(f"{key}: {entry!r}: not an address or a network: {error}") from error
    if isinstance(network, IPv6Network) and network.subnet_of(MAPPED):
        address = int(network.network_address) - int(MAPPED.network_address)
        return IPv4Network((address, network.prefixlen - MAPPED.prefixlen))
    return network


def allows(allowed: tuple[Network, ...], address: str) -> bool:
    """Return whether a numeric address, which may be IPv4 mapped into IPv6, is in a network."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return any(found.ipv4_mapped in network for network in allowed)
    return any(found in network for network in allowed)


def filters(allowed: tuple[Network, ...]) -> Iterator[tuple[int, str]]:
    """Yield the value that ``ZMQ_IPV6`` must have while a filter is set, and the filter.

    With ``ZMQ_IPV6`` set libzmq turns an IPv4 address into an IPv6 one but leaves the length of the
    prefix as it was: 10.0.0.0/8 would become ::ffff:10.0.0.0/8, which lets in all IPv4 addresses.
    """
    for network in allowed:
        if isinstance(network, IPv4Network):
            yield 0, str(network)
            prefix = MAPPED.prefixlen + network.prefixlen
            yield 1, f"::ffff:{network.network_address}/{prefix}"
        elif network.supernet_of(MAPPED):
            # To allow all of IPv6 is not to allow the IPv4 addresses that are mapped into it.
            for part in network.address_exclude(MAPPED):
                yield 1, str(part)
        else:
            yield 1, str(network)
