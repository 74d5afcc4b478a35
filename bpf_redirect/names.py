"""What DNS told each pod about addresses, as it lies in ``tg_names``.

Owns: the layout of that map as values, and forgetting pods that are gone. The DNS proxy is the only one who grants
(tidegate/dns/names.py, in a process of its own). Must not know names or rules: a grant is the identity of a selector of names,
until a second of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping

from bpf_redirect import abi
from bpf_redirect.encode import Address, packed_address, unpacked_address
from bpf_redirect.maps import Map

_KEY = struct.Struct("=I16s")
_GRANT = struct.Struct("=II")


def encode_names_key(ifindex: int, address: Address) -> bytes:
    """``tg_names_key``: of the pod behind an interface, and an address."""
    return _KEY.pack(ifindex, packed_address(address))


def decode_names_key(raw: bytes) -> tuple[int, Address]:
    """Return (interface of the pod, address)."""
    ifindex, address = _KEY.unpack(raw)
    return int(ifindex), unpacked_address(address)


def encode_grants(grants: Mapping[int, int]) -> bytes:
    """``tg_names`` of identity -> expiry in seconds; at most NAMES_PER_ADDRESS_MAX."""
    assert len(grants) <= abi.NAMES_PER_ADDRESS_MAX
    packed = b"".join(_GRANT.pack(identity, expires_s) for identity, expires_s in sorted(grants.items()))
    return packed.ljust(_GRANT.size * abi.NAMES_PER_ADDRESS_MAX, b"\0")


def decode_grants(raw: bytes) -> dict[int, int]:
    """Return identity -> expiry in seconds, of what has expired, too."""
    grants: dict[int, int] = {}
    for identity, expires_s in _GRANT.iter_unpack(raw):
        if not identity:
            break
        grants[identity] = expires_s
    return grants


def forget_pods(names: Map, interfaces: Collection[int]) -> int:
    """Delete what the pods behind ``interfaces`` were told; return how many entries. Reads the whole map."""
    if not interfaces:
        return 0
    gone = [key for key, _ in names.items() if decode_names_key(key)[0] in interfaces]
    return sum(names.delete(key) for key in gone)
