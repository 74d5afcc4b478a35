"""The kernel's side of a compiled policy, as values: what each BPF map should hold.

Owns: the map state and its derivation from a CompiledPolicy, a slot table and the interface numbers of the moment.
Host byte order, no layout: ``bpf_redirect/encode.py`` turns these into bytes. Must not know BPF or do IO.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from l7filters.identity import IdentityNumber, Network
from l7filters.ir import EntryKey


class MapVerdict(IntEnum):
    """ABI: enum tg_verdict in bpf_redirect/include/abi.h."""

    DENY = 1
    ALLOW = 2
    REDIRECT = 3


@dataclass(frozen=True, slots=True)
class IpcacheValue:
    """``ifindex`` is the local endpoint's interface, 0 when the address is not local."""

    identity: IdentityNumber
    ifindex: int = 0


@dataclass(frozen=True, slots=True)
class PolicyValue:
    """``slot`` is 0 unless the verdict is REDIRECT."""

    verdict: MapVerdict
    slot: int = 0
    would_deny: bool = False


@dataclass(frozen=True, slots=True)
class EndpointValue:
    """A local endpoint as its interface knows it. Packets from it must carry one of ``addresses`` as their source."""

    identity: IdentityNumber
    addresses: tuple[IPv4Address | IPv6Address, ...]


@dataclass(frozen=True, slots=True)
class MapState:
    """What the maps should hold. Slots are keyed by slot id (1..), values are proxy ports."""

    ipcache: Mapping[Network, IpcacheValue] = field(default_factory=dict)
    policy: Mapping[EntryKey, PolicyValue] = field(default_factory=dict)
    slots: Mapping[int, int] = field(default_factory=dict)
    pairs: Mapping[tuple[int, int], int] = field(default_factory=dict)
    endpoints: Mapping[int, EndpointValue] = field(default_factory=dict)
    cgroups: Mapping[int, IdentityNumber] = field(default_factory=dict)
