"""Which machines a server may be sent to by a stranger's address: public ones, checked after resolution."""

from __future__ import annotations

import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as ResolvingTimeout

from beholder.core.errors import InputError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Public by number, and yet inside: a cloud's own services, and networks for protocols rather than for hosts.
INSIDE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "2001::/23",
        "2002::/16",
        "3fff::/20",
    )
)
# The part of IPv6 in which hosts of the internet are.
HOSTS = ipaddress.ip_network("2000::/3")
# An IPv6 address in these is an IPv4 address in its last 32 bits, which is where the packets end.
CARRIERS = tuple(ipaddress.ip_network(network) for network in ("::ffff:0:0/96", "64:ff9b::/96"))

# The system's resolver cannot be interrupted, so it waits elsewhere and the request goes on without it.
_resolving = ThreadPoolExecutor(max_workers=8, thread_name_prefix="resolve")


class AddressError(InputError):
    """A picture's address may not be used."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what is bound there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_public(address: Address) -> bool:
    """Whether an address belongs to a host on the open internet."""
    if any(address in network for network in CARRIERS):
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if isinstance(address, ipaddress.IPv6Address) and address not in HOSTS:
        return False
    inside = any(address in network for network in INSIDE)
    return address.is_global and not (inside or address.is_multicast or address.is_reserved)


def lookup(host: str, port: int) -> list[str]:
    """All addresses that the system knows for a host, in its order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def resolve(host: str, port: int, seconds: float, *, trusted: bool) -> list[str]:
    """The addresses to connect to. One that is not public spoils them all, unless the host is trusted.

    Whoever connects must use these and not the name: a second resolution may give another answer.
    """
    try:
        found = _resolving.submit(lookup, host, port).result(timeout=max(seconds, 0.0))
    except ResolvingTimeout:
        raise AddressError(f"the host {host} could not be resolved in time; check the address") from None
    except (OSError, UnicodeError):
        raise AddressError(f"the host {host} cannot be resolved; check the address") from None
    addresses = [ipaddress.ip_address(address.partition("%")[0]) for address in found]
    if not addresses:
        raise AddressError(f"the host {host} has no address; check its name")
    if not trusted and not all(map(is_public, addresses)):
        raise AddressError(
            f"the host {host} is not on the public internet; send the picture itself as a data URL"
        )
    return found
