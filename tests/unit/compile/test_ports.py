"""Ports as prefixes."""

from __future__ import annotations

import pytest

from l7filters.model import PortSpec, Protocol
from l7filters.ports import ANY_PORT, PortNumber, PortPrefix, ancestors, covers, range_prefixes, spec_prefixes
from tests.support.worlds import ports


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (80, 80, [(80, 16)]),
        (0, 0xFFFF, [(0, 0)]),
        (0, 1, [(0, 15)]),
        (8000, 8003, [(8000, 14)]),
        (1, 0xFFFF, [(1 << bit, 16 - bit) for bit in range(16)]),
        (8080, 8083, [(8080, 14)]),
        (8081, 8083, [(8081, 16), (8082, 15)]),
        (0xFFFF, 0xFFFF, [(0xFFFF, 16)]),
    ],
)
def test_range_becomes_the_fewest_prefixes(first: int, last: int, expected: list[tuple[int, int]]) -> None:
    assert list(range_prefixes(6, first, last)) == [PortPrefix(6, port, bits) for port, bits in expected]


def test_worst_range_takes_thirty_prefixes() -> None:
    assert len(list(range_prefixes(6, 1, 0xFFFE))) == 30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [(6, 80, 16)]),
        ("80/any", [(6, 80, 16), (17, 80, 16), (132, 80, 16)]),
        ("0/any", [(6, 0, 0), (17, 0, 0), (132, 0, 0)]),
        ("0/udp", [(17, 0, 0)]),
        ("8/icmp", [(1, 8, 16)]),
        ("0/icmp", [(1, 0, 16)]),
        ("128/icmpv6", [(58, 128, 16)]),
        ("0/gre", [(47, 0, 0)]),
        ("7/gre", [(47, 0, 0)]),
        ("web", [(6, 8080, 16)]),
        ("web/udp", []),
        ("dns/any", [(6, 53, 16), (17, 53, 16)]),
        ("nothing", []),
    ],
)
def test_spec_covers(text: str, expected: list[tuple[int, int, int]]) -> None:
    named = [PortNumber("web", 6, 8080), PortNumber("dns", 17, 53), PortNumber("dns", 6, 53)]
    assert list(spec_prefixes(ports(text)[0], named)) == [PortPrefix(*one) for one in expected]


def test_range_that_ends_where_it_begins_is_one_port() -> None:
    assert spec_prefixes(PortSpec(Protocol.TCP, 80, 80), ()) == (PortPrefix(6, 80, 16),)


def test_ancestors_are_all_that_covers_longest_first() -> None:
    found = list(ancestors(PortPrefix(6, 80, 16)))
    assert found[0] == PortPrefix(6, 80, 16)
    assert found[-2:] == [PortPrefix(6, 0, 0), ANY_PORT]
    assert len(found) == 18
    assert all(covers(one, PortPrefix(6, 80, 16)) for one in found)


def test_prefix_of_another_protocol_or_port_does_not_cover() -> None:
    assert not covers(PortPrefix(17, 0, 0), PortPrefix(6, 80, 16))
    assert not covers(PortPrefix(6, 81, 16), PortPrefix(6, 80, 16))
    assert not covers(PortPrefix(6, 80, 16), PortPrefix(6, 80, 15))
