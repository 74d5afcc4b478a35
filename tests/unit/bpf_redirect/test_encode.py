"""Bytes and values: the layout of one of each by hand, and the way back for any."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf_redirect import abi, encode
from l7filters.identity import IDENTITY_MAX, IdentityNumber, Network
from l7filters.ir import EntryKey
from l7filters.mapstate import EndpointValue, IpcacheValue, MapVerdict, PolicyValue, SlotValue
from l7filters.model import Direction, Offload

identities = st.integers(0, IDENTITY_MAX).map(IdentityNumber)
addresses = st.ip_addresses().filter(lambda address: address.version == 4 or address.ipv4_mapped is None)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    address = draw(addresses)
    network = ip_network((address, draw(st.integers(0, address.max_prefixlen))), strict=False)
    if network.version == 6 and network.network_address.packed.startswith(bytes(10) + b"\xff\xff"):
        network = ip_network("::/0")
    return network


@st.composite
def entry_keys(draw: st.DrawFn) -> EntryKey:
    protocol = draw(st.none() | st.integers(0, 255))
    bits = 0 if protocol is None else draw(st.integers(0, 16))
    port = draw(st.integers(0, 0xFFFF)) & ~((1 << (16 - bits)) - 1)
    return EntryKey(draw(identities), draw(identities), draw(st.sampled_from(Direction)), protocol, port, bits)


def test_policy_key_is_a_prefix_of_what_the_kernel_looks_up() -> None:
    key = EntryKey(IdentityNumber(0x010203), IdentityNumber(9), Direction.EGRESS, 6, 0x1F90, 12)
    assert encode.encode_policy_key(key) == (
        (92).to_bytes(4, "little") + b"\x03\x02\x01\x00" + b"\x09\0\0\0" + b"\x02" + b"\x06" + b"\x1f\x90"
    )


def test_policy_key_without_protocol_ends_before_it() -> None:
    key = EntryKey(IdentityNumber(1), IdentityNumber(2), Direction.INGRESS, None, 0, 0)
    assert encode.encode_policy_key(key)[:4] == (72).to_bytes(4, "little")


def test_ipv4_is_mapped_into_ipv6() -> None:
    assert (
        encode.encode_ipcache_key(ip_network("10.1.0.0/16")) == (112).to_bytes(4, "little") + bytes(10) + b"\xff\xff\x0a\x01\0\0"
    )
    assert encode.decode_ipcache_key(encode.encode_ipcache_key(ip_network("0.0.0.0/0"))) == ip_network("0.0.0.0/0")
    assert encode.decode_ipcache_key(encode.encode_ipcache_key(ip_network("::/0"))) == ip_network("::/0")


@given(networks())
def test_ipcache_key_there_and_back(network: Network) -> None:
    assert encode.decode_ipcache_key(encode.encode_ipcache_key(network)) == network


@given(entry_keys())
def test_policy_key_there_and_back(key: EntryKey) -> None:
    assert encode.decode_policy_key(encode.encode_policy_key(key)) == key


@given(st.sampled_from(MapVerdict), st.integers(0, abi.SLOTS_MAX - 1), st.booleans())
def test_policy_value_there_and_back(verdict: MapVerdict, slot: int, would_deny: bool) -> None:
    value = PolicyValue(verdict, slot, would_deny)
    assert encode.decode_policy_value(encode.encode_policy_value(value)) == value


@given(identities, st.integers(0, (1 << 31) - 1))
def test_ipcache_value_there_and_back(identity: IdentityNumber, ifindex: int) -> None:
    value = IpcacheValue(identity, ifindex)
    assert encode.decode_ipcache_value(encode.encode_ipcache_value(value)) == value


@given(identities, st.lists(addresses, max_size=abi.ENDPOINT_ADDRESSES_MAX))
def test_endpoint_there_and_back(identity: IdentityNumber, those: list[IPv4Address | IPv6Address]) -> None:
    value = EndpointValue(identity, tuple(those))
    assert encode.decode_endpoint(encode.encode_endpoint(value)) == value


offloads = st.none() | st.builds(Offload, st.integers(1, 0xFFFFFFFF), st.integers(1, 0xFFFFFFFF))


@given(st.none() | st.builds(SlotValue, st.integers(0, 0xFFFF), st.booleans(), offloads))
def test_slot_there_and_back(value: SlotValue | None) -> None:
    assert encode.decode_slot(encode.encode_slot(value)) == value


@given(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)))
def test_pair_there_and_back(pair: tuple[int, int]) -> None:
    assert encode.decode_pair_key(encode.encode_pair_key(pair)) == pair


def test_endpoint_with_too_many_addresses_is_refused() -> None:
    nine = tuple(ip_address(f"10.0.0.{number}") for number in range(abi.ENDPOINT_ADDRESSES_MAX + 1))
    with pytest.raises(ValueError, match="9 addresses; 8 is the limit"):
        encode.encode_endpoint(EndpointValue(IdentityNumber(300), nine))
