"""The peers that are dropped before they reach a slot, ``tg_offload``, as values.

Owns: reading the entries and deleting those that are over. The proxy's module writes them, the kernel's programs count in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from bpf_redirect import abi
from bpf_redirect.encode import address_struct, decode_struct, struct_address
from bpf_redirect.maps import Map

_WORKLOADS = 1 << 32
"""Addresses ::N below this stand for host workloads: N is the identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadedPeer:
    """One peer: an address, or a host workload by its identity (``source`` is then None). ``until_ns``: monotonic."""

    source: IPv4Address | IPv6Address | None
    workload: int
    slot: int
    until_ns: int
    packets: int


def read_offloaded(offload: Map) -> Iterator[OffloadedPeer]:
    """Iterate over the entries, those included that are over."""
    for raw_key, raw_value in offload.items():
        key, value = decode_struct(abi.OffloadKey, raw_key), decode_struct(abi.Offload, raw_value)
        address = struct_address(key.source)
        is_workload = address.version == 6 and 0 < int(address) < _WORKLOADS
        yield OffloadedPeer(
            source=None if is_workload else address,
            workload=int(address) if is_workload else 0,
            slot=key.slot,
            until_ns=value.until_ns,
            packets=value.packets,
        )


def encode_peer(peer: OffloadedPeer) -> tuple[bytes, bytes]:
    """Return key and value."""
    source = peer.source if peer.source is not None else IPv6Address(peer.workload)
    key = abi.OffloadKey(source=address_struct(source), slot=peer.slot)
    return bytes(key), bytes(abi.Offload(until_ns=peer.until_ns, packets=peer.packets))


def forget_over(offload: Map, now_ns: int) -> int:
    """Delete the entries whose time is up; return how many. One that is renewed in between is gone too: the next denial too many
    makes another."""
    over = [peer for peer in read_offloaded(offload) if peer.until_ns <= now_ns]
    return sum(offload.delete(encode_peer(peer)[0]) for peer in over)
