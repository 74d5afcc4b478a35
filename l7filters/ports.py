"""Ports as prefixes: how a rule's ports become nodes of the kernel's longest-prefix trie.

Owns: the (protocol, port prefix) value, the decomposition of ranges, and which prefix covers which. Must not know peers,
verdicts or identities.

What a PortSpec means here:

1. Protocol ANY stands for TCP, UDP and SCTP (``PORT_PROTOCOLS``), with a port or without one.
2. Port 0 stands for every port, except for ICMP and ICMPv6, where the port is the message type and 0 is a type of its own
   (echo reply).
3. Protocols without ports (GRE, ESP...) are matched whole; a port given with them means nothing.
4. A range becomes the fewest prefixes that cover it exactly: at most 30 for any range of 16-bit numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from l7filters.model import PORT_PROTOCOLS, PortSpec, Protocol

PORT_BITS = 16
PORT_MAX = 0xFFFF
_ICMP = (Protocol.ICMP, Protocol.ICMPV6)


class PortPrefix(NamedTuple):
    """A node of the trie. ``protocol`` None: every protocol (then the rest is 0). ``bits`` leading bits of ``port`` count.

    A tuple, not a dataclass: a large compile hashes these some hundred thousand times.
    """

    protocol: int | None
    port: int
    bits: int


ANY_PORT = PortPrefix(None, 0, 0)


class PortNumber(NamedTuple):
    """What a named port of an endpoint means."""

    name: str
    protocol: int
    port: int


def covers(outer: PortPrefix, inner: PortPrefix) -> bool:
    """Tell whether everything ``inner`` matches, ``outer`` matches too."""
    if outer.protocol is None:
        return True
    if outer.protocol != inner.protocol or outer.bits > inner.bits:
        return False
    shift = PORT_BITS - outer.bits
    return outer.port >> shift == inner.port >> shift


def ancestors(prefix: PortPrefix) -> Iterator[PortPrefix]:
    """Yield ``prefix`` itself, then each shorter prefix that covers it, longest first, ANY_PORT last."""
    protocol, port, bits = prefix
    if protocol is not None:
        for length in range(bits, -1, -1):
            yield PortPrefix(protocol, port & _mask(length), length)
    yield ANY_PORT


def range_prefixes(protocol: int, first: int, last: int) -> Iterator[PortPrefix]:
    """Yield the fewest prefixes that cover exactly ``first`` to ``last``, both included."""
    assert 0 <= first <= last <= PORT_MAX
    while first <= last:
        size = first & -first if first else PORT_MAX + 1
        while size > last - first + 1:
            size >>= 1
        yield PortPrefix(protocol, first, PORT_BITS - size.bit_length() + 1)
        first += size


def spec_prefixes(spec: PortSpec, named: Iterable[PortNumber]) -> tuple[PortPrefix, ...]:
    """Return what ``spec`` covers; ``named`` are the named ports on the side that owns them, and only a named spec reads it."""
    protocols = PORT_PROTOCOLS if spec.protocol is Protocol.ANY else (spec.protocol,)
    if isinstance(spec.port, str):
        wanted = {int(protocol) for protocol in protocols}
        return tuple(
            sorted(PortPrefix(n.protocol, n.port, PORT_BITS) for n in named if n.name == spec.port and n.protocol in wanted)
        )
    prefixes: list[PortPrefix] = []
    for protocol in protocols:
        if protocol in _ICMP:
            prefixes.extend(range_prefixes(int(protocol), spec.port, spec.port))
        elif protocol not in PORT_PROTOCOLS or spec.port == 0:
            prefixes.append(PortPrefix(int(protocol), 0, 0))
        else:
            prefixes.extend(range_prefixes(int(protocol), spec.port, spec.end_port or spec.port))
    return tuple(prefixes)


def is_named(spec: PortSpec) -> bool:
    """Tell whether ``spec`` needs somebody's named ports."""
    return isinstance(spec.port, str)


def trie_order(prefix: PortPrefix) -> tuple[int, int, int]:
    """Return a sort key that puts every prefix after those that cover it."""
    protocol, port, bits = prefix
    return (-1 if protocol is None else protocol, bits, port)


def _mask(bits: int) -> int:
    return (PORT_MAX << (PORT_BITS - bits)) & PORT_MAX
