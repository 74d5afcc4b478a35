"""The kernel's side of a compiled policy, as values: what each BPF map should hold.

Owns: the map state and its derivation from a CompiledPolicy, a slot table and the interface numbers of the moment.
Host byte order, no layout: ``bpf_redirect/encode.py`` turns these into bytes. Must not know BPF or do IO.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import assert_never

from l7filters.identity import IdentityNumber, Network
from l7filters.ir import Allow, CompiledPolicy, Deny, EntryKey, EntryVerdict, IpcacheEntry, PolicyEntry, Redirect, SlotKey
from l7filters.model import Offload
from l7filters.population import WORLD_PREFIXES
from l7filters.slots import SlotTable


class MapVerdict(IntEnum):
    """ABI: enum tg_verdict in bpf_redirect/include/abi.h."""

    DENY = 1
    ALLOW = 2
    REDIRECT = 3


@dataclass(frozen=True, slots=True)
class IpcacheValue:
    """``ifindex`` is the local endpoint's interface, 0 when the address is not local.

    ``outside``: neither an endpoint's nor a node's. Only there a name that DNS gave counts: else whoever owns a name would open
    what is inside the cluster with it (DNS rebinding).
    """

    identity: IdentityNumber
    ifindex: int = 0
    outside: bool = False


@dataclass(frozen=True, slots=True)
class PolicyValue:
    """``slot`` is 0 unless the verdict is REDIRECT. ``explicit``: a rule or a problem asks for the DENY; no name overrides it."""

    verdict: MapVerdict
    slot: int = 0
    would_deny: bool = False
    explicit: bool = False


@dataclass(frozen=True, slots=True)
class EndpointValue:
    """A local endpoint as its interface knows it. Packets from it must carry one of ``addresses`` as their source."""

    identity: IdentityNumber
    addresses: tuple[IPv4Address | IPv6Address, ...]


@dataclass(frozen=True, slots=True)
class SlotValue:
    """A slot that is ready: its proxy port, whether audit policies speak in it, and when it gets rid of a peer."""

    port: int
    audited: bool = False
    offload: Offload | None = None


@dataclass(frozen=True, slots=True)
class MapState:
    """What the maps should hold. Slots are keyed by slot id (1..)."""

    ipcache: Mapping[Network, IpcacheValue] = field(default_factory=dict)
    policy: Mapping[EntryKey, PolicyValue] = field(default_factory=dict)
    slots: Mapping[int, SlotValue] = field(default_factory=dict)
    pairs: Mapping[tuple[int, int], int] = field(default_factory=dict)
    endpoints: Mapping[int, EndpointValue] = field(default_factory=dict)
    cgroups: Mapping[int, IdentityNumber] = field(default_factory=dict)

    def highest_identity(self) -> int:
        """Return the highest identity that is mentioned; 0 if none is."""
        named = {*(each.identity for each in self.ipcache.values()), *(each.identity for each in self.endpoints.values())}
        named.update(self.cgroups.values())
        for key in self.policy:
            named |= {key.subject, key.peer}
        return max(named, default=0)

    def slot_ids(self) -> frozenset[int]:
        """Return the slots that are mentioned."""
        named = {each.slot for each in self.policy.values() if each.verdict is MapVerdict.REDIRECT}
        return frozenset({*named, *self.slots, *self.pairs.values(), *(end for pair in self.pairs for end in pair)})


@dataclass(frozen=True, slots=True, eq=False)
class DeriveMemo:
    """What one derivation leaves for the next, so that a change costs what it touches. Opaque; never changes a result."""

    entries: tuple[PolicyEntry, ...] = ()
    numbers: Mapping[SlotKey, int] = field(default_factory=dict)
    policy: Mapping[EntryKey, PolicyValue] = field(default_factory=dict)
    addresses: tuple[IpcacheEntry, ...] = ()
    ifindices: Mapping[str, int] = field(default_factory=dict)
    outside: frozenset[IdentityNumber] = frozenset()
    ipcache: Mapping[Network, IpcacheValue] = field(default_factory=dict)


def derive(
    compiled: CompiledPolicy,
    table: SlotTable,
    ifindex_by_endpoint: Mapping[str, int],
    cgroup_ids: Mapping[str, int],
    ready: AbstractSet[int],
    port_base: int,
) -> MapState:
    """Return what the maps should hold.

    ``ifindex_by_endpoint`` and ``cgroup_ids`` are by endpoint key; an endpoint that is missing has no interface (or cgroup) at
    the moment and is left out. ``ready``: the slot ids whose listener Envoy has acknowledged and that listen; only these have a
    port, and the kernel drops what is sent to any other, with a reason of its own. A place whose slot has no id at all is an
    explicit DENY, not an absence: an absent entry would fall through to what holds for any peer. Slot N listens on
    ``port_base`` + N.
    """
    return rederive(compiled, table, ifindex_by_endpoint, cgroup_ids, ready, port_base, DeriveMemo())[0]


def rederive(
    compiled: CompiledPolicy,
    table: SlotTable,
    ifindex_by_endpoint: Mapping[str, int],
    cgroup_ids: Mapping[str, int],
    ready: AbstractSet[int],
    port_base: int,
    memo: DeriveMemo,
) -> tuple[MapState, DeriveMemo]:
    """Do what ``derive`` does, from where ``memo`` was left; pass on the memo returned."""
    numbers = table.ids
    policy = _policy(compiled.entries, numbers, memo)
    addresses: dict[str, list[IPv4Address | IPv6Address]] = {}
    for entry in compiled.ipcache:
        if entry.endpoint is not None and entry.endpoint in ifindex_by_endpoint:
            addresses.setdefault(entry.endpoint, []).append(entry.prefix.network_address)
    named = {number for label_set, number in compiled.identities.numbers.items() if label_set.cidrs}
    outside = frozenset({*named, *(IdentityNumber(int(number)) for _, number in WORLD_PREFIXES)})
    ipcache = _ipcache(compiled.ipcache, ifindex_by_endpoint, outside, memo)
    pairs: dict[tuple[int, int], int] = {}
    for pair in compiled.pairs:
        egress, ingress = table.ids.get(pair.egress), table.ids.get(pair.ingress)
        if egress is not None and ingress is not None and pair.pair in numbers:
            pairs[egress, ingress] = numbers[pair.pair]
    state = MapState(
        ipcache=ipcache,
        policy=policy,
        slots=_slots(compiled, numbers, ready, port_base),
        pairs=pairs,
        endpoints={
            ifindex_by_endpoint[local.key]: EndpointValue(local.identity, tuple(addresses.get(local.key, ())))
            for local in compiled.endpoints
            if local.interface is not None and local.key in ifindex_by_endpoint
        },
        cgroups={
            cgroup_ids[local.key]: local.identity
            for local in compiled.endpoints
            if local.cgroup is not None and local.key in cgroup_ids
        },
    )
    return state, DeriveMemo(compiled.entries, numbers, policy, compiled.ipcache, dict(ifindex_by_endpoint), outside, ipcache)


def _ipcache(
    entries: tuple[IpcacheEntry, ...], ifindices: Mapping[str, int], outside: frozenset[IdentityNumber], memo: DeriveMemo
) -> Mapping[Network, IpcacheValue]:
    """Return the ipcache's content, touching only entries that are new or whose interface is: a cluster has thousands of others.

    What is untouched is the same key and the same value, by which ``sync.plan`` knows it without looking at it.
    """
    moved = {key for key in {*ifindices, *memo.ifindices} if ifindices.get(key) != memo.ifindices.get(key)}
    if entries is memo.addresses and not moved and outside == memo.outside:
        return memo.ipcache
    # As in _policy: an id names one object, for the memo keeps its own alive.
    known = set(map(id, memo.addresses)) if outside == memo.outside else set()
    present = set(map(id, entries))
    ipcache = dict(memo.ipcache)
    for entry in memo.addresses:
        if id(entry) not in present:
            del ipcache[entry.prefix]
    for entry in entries:
        if id(entry) not in known or (moved and entry.endpoint in moved):
            ifindex = 0 if entry.endpoint is None else ifindices.get(entry.endpoint, 0)
            ipcache[entry.prefix] = IpcacheValue(entry.identity, ifindex, entry.identity in outside)
    return ipcache


def _slots(
    compiled: CompiledPolicy, numbers: Mapping[SlotKey, int], ready: AbstractSet[int], port_base: int
) -> dict[int, SlotValue]:
    found: dict[int, SlotValue] = {}
    for slot in compiled.slots:
        number = numbers.get(slot.key)
        if number is not None and number in ready:
            audited = any(rules is not None and rules.shadow is not None for rules in (slot.egress, slot.ingress))
            found[number] = SlotValue(port_base + number, audited, slot.offload)
    return dict(sorted(found.items()))


def _policy(entries: tuple[PolicyEntry, ...], numbers: Mapping[SlotKey, int], memo: DeriveMemo) -> Mapping[EntryKey, PolicyValue]:
    """Return the policy map's content, touching only entries that are new or whose slot's number is."""
    if numbers is memo.numbers and entries == memo.entries:
        return memo.policy
    renumbered = {key for key in {*numbers, *memo.numbers} if numbers.get(key) != memo.numbers.get(key)}
    # Entries are immutable and shared from one compile to the next; the memo keeps its own alive, so an id names one object.
    known = set(map(id, memo.entries))
    present = set(map(id, entries))
    policy = dict(memo.policy)
    for entry in memo.entries:
        if id(entry) not in present:
            del policy[entry.key]
    for entry in entries:
        verdict = entry.verdict
        if id(entry) not in known or (isinstance(verdict, Redirect) and verdict.slot in renumbered):
            policy[entry.key] = _value(verdict, numbers)
    return policy


def _value(verdict: EntryVerdict, numbers: Mapping[SlotKey, int]) -> PolicyValue:
    match verdict:
        case Deny(explicit=explicit):
            return PolicyValue(MapVerdict.DENY, explicit=explicit)
        case Allow(would_deny=would_deny):
            return PolicyValue(MapVerdict.ALLOW, would_deny=would_deny)
        case Redirect(slot=slot, would_deny=would_deny):
            number = numbers.get(slot)
            if number is None:
                return PolicyValue(MapVerdict.DENY, explicit=True)
            return PolicyValue(MapVerdict.REDIRECT, number, would_deny)
        case _:
            assert_never(verdict)
