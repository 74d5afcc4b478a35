"""Addresses and prefixes as documents write them.

Owns: their syntax. Host bits are cleared (``10.0.0.1/8`` is ``10.0.0.0/8``, as in Cilium). Refused, because two
spellings of one prefix would end up as different keys: netmask notation, zones, IPv4-mapped IPv6.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from l7filters.documents.reader import Node
from l7filters.identity import Network

_PREFIX_SUFFIX = re.compile(r"[^/]+/(0|[1-9][0-9]{0,2})\Z")


def prefix(node: Node, *, bare_address: bool = False) -> Network | None:
    """Read ``address/bits`` (or, if ``bare_address``, an address alone); None after an error."""
    text = node.string(chars_max=64)
    if not text:
        return None
    if "/" not in text and not bare_address:
        node.error(f'"{text}" has no prefix length', f'write "{text}/{128 if ":" in text else 32}" for one address')
        return None
    try:
        if "%" in text or ("/" in text and not _PREFIX_SUFFIX.match(text)):
            raise ValueError
        network = ip_network(text, strict=False)
    except ValueError:
        node.error(f'"{text}" is not an address prefix', "like 10.0.0.0/8 or fd00::/64")
        return None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= 96:
        node.error(f'"{text}" is an IPv4 prefix in IPv6 form', "write it as IPv4")
        return None
    return network


def address(node: Node) -> IPv4Address | IPv6Address | None:
    """Read one address; None after an error."""
    text = node.string(chars_max=64)
    if not text:
        return None
    try:
        if "%" in text:
            raise ValueError
        value = ip_address(text)
    except ValueError:
        node.error(f'"{text}" is not an IP address')
        return None
    if isinstance(value, IPv6Address) and value.ipv4_mapped:
        node.error(f'"{text}" is an IPv4 address in IPv6 form', "write it as IPv4")
        return None
    return value


def excepts(nodes: list[Node], cidr: Network | None) -> tuple[Network, ...]:
    """Read an ``except`` list; each must lie inside ``cidr`` (any place if that is None)."""
    found: list[Network] = []
    for node in nodes:
        network = prefix(node)
        if network is None:
            continue
        if cidr is not None and not _contains(cidr, network):
            node.error(f"{network} does not lie inside {cidr}", "an exception narrows its own prefix")
            continue
        found.append(network)
    return tuple(found)


def _contains(outer: Network, inner: Network) -> bool:
    if outer.version != inner.version or outer.prefixlen > inner.prefixlen:
        return False
    return inner.network_address in outer
