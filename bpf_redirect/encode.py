"""From values to bytes and back: ``l7filters.mapstate`` on one side, ``abi`` on the other.

Owns: wire order and the v4-mapped form of addresses. Must not do IO. ``decode_x(encode_x(v)) == v`` for every value.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeVar

from bpf_redirect import abi
from l7filters.identity import IdentityNumber, Network
from l7filters.ir import EntryKey
from l7filters.mapstate import EndpointValue, IpcacheValue, MapVerdict, PolicyValue, SlotValue
from l7filters.model import Direction, Offload

Address = IPv4Address | IPv6Address
_MAPPED = b"\0" * 10 + b"\xff\xff"
_MAPPED_BITS = 96
_SLOT = struct.Struct("=HBBII4x")
_DIRECTIONS = {Direction.INGRESS: abi.FlowDirection.INGRESS, Direction.EGRESS: abi.FlowDirection.EGRESS}
_DIRECTIONS_BACK = {number: direction for direction, number in _DIRECTIONS.items()}
_Struct = TypeVar("_Struct", bound=ctypes.Structure)


def decode_struct(kind: type[_Struct], raw: bytes) -> _Struct:
    """Read one struct; ``raw`` has just its size."""
    assert len(raw) == ctypes.sizeof(kind), f"{kind.__name__}: {len(raw)} bytes"
    return kind.from_buffer_copy(raw)


def packed_address(address: Address) -> bytes:
    """Return 16 bytes in wire order, IPv4 as v4-mapped."""
    return _MAPPED + address.packed if address.version == 4 else address.packed


def unpacked_address(raw: bytes) -> Address:
    """Return the address; a v4-mapped one as IPv4."""
    return IPv4Address(raw[12:]) if raw.startswith(_MAPPED) else IPv6Address(raw)


def address_struct(address: Address | None) -> abi.Address:
    """Return the struct; None is all zero."""
    return abi.Address.from_buffer_copy(packed_address(address) if address is not None else bytes(16))


def struct_address(struct_value: abi.Address) -> Address:
    """Return the address in a struct."""
    return unpacked_address(bytes(struct_value))


def encode_ipcache_key(network: Network) -> bytes:
    """``tg_ipcache_key``; an IPv4 prefix is 96 bits longer."""
    bits = network.prefixlen + (_MAPPED_BITS if network.version == 4 else 0)
    return struct.pack("=I", bits) + packed_address(network.network_address)


def decode_ipcache_key(raw: bytes) -> Network:
    """Return the prefix. ``::ffff:0:0/96`` reads as 0.0.0.0/0, shorter ones as IPv6."""
    (bits,) = struct.unpack_from("=I", raw)
    if bits >= _MAPPED_BITS and raw[4:].startswith(_MAPPED):
        return IPv4Network((raw[16:20], bits - _MAPPED_BITS))
    return IPv6Network((raw[4:20], bits))


def encode_ipcache_value(value: IpcacheValue) -> bytes:
    """``tg_ipcache_value``."""
    return struct.pack("=III", value.identity, value.ifindex, abi.IpcacheFlag.OUTSIDE if value.outside else 0)


def decode_ipcache_value(raw: bytes) -> IpcacheValue:
    """Return the value."""
    identity, ifindex, flags = struct.unpack("=III", raw)
    return IpcacheValue(IdentityNumber(identity), ifindex, bool(flags & abi.IpcacheFlag.OUTSIDE))


def encode_policy_key(key: EntryKey) -> bytes:
    """``tg_policy_key``: the LPM prefix covers the protocol if one is named, then ``port_bits`` of the port."""
    bits = abi.POLICY_PREFIX_ANY if key.protocol is None else abi.POLICY_PREFIX_PROTOCOL + key.port_bits
    return struct.pack(
        "=IIIBBH", bits, key.subject, key.peer, _DIRECTIONS[key.direction], key.protocol or 0, socket.htons(key.port)
    )


def decode_policy_key(raw: bytes) -> EntryKey:
    """Return the key."""
    bits, subject, peer, direction, protocol, port_be = struct.unpack("=IIIBBH", raw)
    return EntryKey(
        subject=IdentityNumber(subject),
        peer=IdentityNumber(peer),
        direction=_DIRECTIONS_BACK[abi.FlowDirection(direction)],
        protocol=None if bits == abi.POLICY_PREFIX_ANY else protocol,
        port=socket.ntohs(port_be),
        port_bits=max(0, bits - abi.POLICY_PREFIX_PROTOCOL),
    )


def encode_policy_value(value: PolicyValue) -> bytes:
    """``tg_policy_value``."""
    flags = abi.PolicyFlag.WOULD_DENY if value.would_deny else abi.PolicyFlag(0)
    flags |= abi.PolicyFlag.EXPLICIT_DENY if value.explicit else abi.PolicyFlag(0)
    return struct.pack("=BBH", value.verdict, flags, value.slot)


def decode_policy_value(raw: bytes) -> PolicyValue:
    """Return the value."""
    verdict, flags, slot = struct.unpack("=BBH", raw)
    return PolicyValue(
        MapVerdict(verdict), slot, bool(flags & abi.PolicyFlag.WOULD_DENY), bool(flags & abi.PolicyFlag.EXPLICIT_DENY)
    )


def encode_slot(value: SlotValue | None) -> bytes:
    """``tg_slot``; None is a slot that is not ready."""
    if value is None:
        return bytes(_SLOT.size)
    flags = abi.SlotFlag.AUDITED if value.audited else 0
    denies, seconds = (value.offload.denies_per_second, value.offload.seconds) if value.offload else (0, 0)
    return _SLOT.pack(socket.htons(value.port), 1, flags, denies, seconds)


def decode_slot(raw: bytes) -> SlotValue | None:
    """Return the value, None when the slot is not ready."""
    port_be, ready, flags, denies, seconds = _SLOT.unpack(raw)
    if not ready:
        return None
    offload = Offload(denies, seconds) if denies else None
    return SlotValue(socket.ntohs(port_be), bool(flags & abi.SlotFlag.AUDITED), offload)


def encode_pair_key(pair: tuple[int, int]) -> bytes:
    """``tg_pair_key``: (egress slot, ingress slot)."""
    return struct.pack("=HH", *pair)


def decode_pair_key(raw: bytes) -> tuple[int, int]:
    """Return (egress slot, ingress slot)."""
    egress, ingress = struct.unpack("=HH", raw)
    return egress, ingress


def encode_u32(number: int) -> bytes:
    """A bare ``__u32``."""
    return struct.pack("=I", number)


def decode_u32(raw: bytes) -> int:
    """Return the number."""
    return int(struct.unpack("=I", raw)[0])


def encode_u64(number: int) -> bytes:
    """A bare ``__u64``."""
    return struct.pack("=Q", number)


def decode_u64(raw: bytes) -> int:
    """Return the number."""
    return int(struct.unpack("=Q", raw)[0])


def encode_endpoint(value: EndpointValue) -> bytes:
    """``tg_endpoint``; raises ValueError for more addresses than it holds."""
    if len(value.addresses) > abi.ENDPOINT_ADDRESSES_MAX:
        raise ValueError(f"an endpoint has {len(value.addresses)} addresses; {abi.ENDPOINT_ADDRESSES_MAX} is the limit")
    packed = b"".join(packed_address(address) for address in value.addresses)
    return struct.pack("=II", value.identity, len(value.addresses)) + packed.ljust(16 * abi.ENDPOINT_ADDRESSES_MAX, b"\0")


def decode_endpoint(raw: bytes) -> EndpointValue:
    """Return the value."""
    identity, count = struct.unpack_from("=II", raw)
    addresses = tuple(unpacked_address(raw[8 + 16 * index : 24 + 16 * index]) for index in range(count))
    return EndpointValue(IdentityNumber(identity), addresses)
