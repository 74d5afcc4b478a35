"""From one map state to another, in an order that never lets a packet see a verdict that is in neither.

Owns: the plan (pure), applying it and reading the state back. Must not know where states come from.

The order, and why:

 1. Endpoints and cgroups that go are closed.
 2. Slots and pairs that come: nothing points to them yet.
 3. Policy entries that come or change: those of a named peer first, then those of ANY, each longest prefix first. A
    packet is judged by its peer's longest match, else by ANY's; so an entry is masked until it is the one that counts
    in the wanted state, and a shorter one that is written later is masked by it.
 4. ipcache prefixes that come or change, longest first; then those that go, shortest first. Identities that addresses get
    have their policy by now; those that they lose still have theirs.
 5. Policy entries that go: those of ANY first, then those of a named peer, each shortest first: an entry that masks
    nothing any more, or is masked itself. What it uncovers is already as wanted.
 6. Pairs and slots that go: nothing points to them any more.
 7. Endpoints and cgroups that come or change: opened last.
 8. The epoch: established flows are judged again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import TypeVar, assert_never

from bpf_redirect import encode
from bpf_redirect.abi import Config
from bpf_redirect.maps import Maps
from l7filters.identity import IdentityNumber, Network, Reserved
from l7filters.ir import EntryKey
from l7filters.mapstate import EndpointValue, IpcacheValue, MapState, PolicyValue, SlotValue

_EPOCH_MAX = (1 << 32) - 1
_CONFIG_KEY = encode.encode_u32(0)


class Table(StrEnum):
    """The maps that a MapState speaks of, by their names in the kernel."""

    IPCACHE = "tg_ipcache"
    POLICY = "tg_policy"
    SLOTS = "tg_slots"
    PAIRS = "tg_pairs"
    ENDPOINTS = "tg_endpoints"
    CGROUPS = "tg_cgroups"


Key = Network | EntryKey | int | tuple[int, int]
Value = IpcacheValue | PolicyValue | EndpointValue | SlotValue | int
_K = TypeVar("_K", bound=Key)
_V = TypeVar("_V", bound=Value)


@dataclass(frozen=True, slots=True)
class Put:
    """Write one entry, whether or not its key is there."""

    table: Table
    key: Key
    value: Value


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete one entry."""

    table: Table
    key: Key


@dataclass(frozen=True, slots=True)
class BumpEpoch:
    """Have every established flow judged again."""


Operation = Put | Remove | BumpEpoch


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """What an apply did: entries per map, the epoch afterwards (0: not configured), and how long it took."""

    written: Mapping[str, int]
    removed: Mapping[str, int]
    epoch: int
    duration_ns: int


def _puts(table: Table, current: Mapping[_K, _V], wanted: Mapping[_K, _V]) -> list[Put]:
    if current is wanted:
        return []
    # Most entries are the very objects of last time, and a network's hash costs more than all else here: those aren't looked up.
    same = {id(value): id(key) for key, value in current.items()}
    return [
        Put(table, key, value) for key, value in wanted.items() if same.get(id(value)) != id(key) and current.get(key) != value
    ]


def _removes(table: Table, current: Mapping[_K, _V], wanted: Mapping[_K, _V]) -> list[Remove]:
    if current is wanted:
        return []
    gone = set(map(id, set(current) - set(wanted)))  # sets take the hashes that the dicts have
    return [Remove(table, key) for key in current if id(key) in gone] if gone else []


def _policy_bits(key: Key) -> int:
    assert isinstance(key, EntryKey)
    return 0 if key.protocol is None else 1 + key.port_bits


def _policy_is_any(key: Key) -> bool:
    assert isinstance(key, EntryKey)
    return int(key.peer) == Reserved.ANY


def _ipcache_bits(key: Key) -> int:
    assert not isinstance(key, EntryKey | int | tuple)
    return key.prefixlen


def plan(current: MapState, wanted: MapState) -> tuple[Operation, ...]:
    """Return what turns ``current`` into ``wanted``, in order; empty when they are equal."""
    policy_puts = _puts(Table.POLICY, current.policy, wanted.policy)
    policy_removes = _removes(Table.POLICY, current.policy, wanted.policy)
    ipcache_puts = _puts(Table.IPCACHE, current.ipcache, wanted.ipcache)
    ipcache_removes = _removes(Table.IPCACHE, current.ipcache, wanted.ipcache)
    operations: list[Operation] = [
        *_removes(Table.ENDPOINTS, current.endpoints, wanted.endpoints),
        *_removes(Table.CGROUPS, current.cgroups, wanted.cgroups),
        *_puts(Table.SLOTS, current.slots, wanted.slots),
        *_puts(Table.PAIRS, current.pairs, wanted.pairs),
        *sorted(policy_puts, key=lambda put: (_policy_is_any(put.key), -_policy_bits(put.key))),
        *sorted(ipcache_puts, key=lambda put: -_ipcache_bits(put.key)),
        *sorted(ipcache_removes, key=lambda remove: _ipcache_bits(remove.key)),
        *sorted(policy_removes, key=lambda remove: (not _policy_is_any(remove.key), _policy_bits(remove.key))),
        *_removes(Table.PAIRS, current.pairs, wanted.pairs),
        *_removes(Table.SLOTS, current.slots, wanted.slots),
        *_puts(Table.ENDPOINTS, current.endpoints, wanted.endpoints),
        *_puts(Table.CGROUPS, current.cgroups, wanted.cgroups),
    ]
    if operations:
        operations.append(BumpEpoch())
    return tuple(operations)


def _encoded_key(table: Table, key: Key) -> bytes:
    match table, key:
        case Table.POLICY, EntryKey():
            return encode.encode_policy_key(key)
        case Table.PAIRS, (int(egress), int(ingress)):
            return encode.encode_pair_key((egress, ingress))
        case Table.CGROUPS, int():
            return encode.encode_u64(key)
        case ((Table.SLOTS | Table.ENDPOINTS), int()):
            return encode.encode_u32(key)
        case _:
            assert table is Table.IPCACHE, f"{key!r} in {table}"
            assert not isinstance(key, EntryKey | int | tuple), f"{key!r} in {table}"
            return encode.encode_ipcache_key(key)


def _encoded_value(value: Value) -> bytes:
    match value:
        case IpcacheValue():
            return encode.encode_ipcache_value(value)
        case PolicyValue():
            return encode.encode_policy_value(value)
        case EndpointValue():
            return encode.encode_endpoint(value)
        case SlotValue():
            return encode.encode_slot(value)
        case int():
            return encode.encode_u32(value)
        case _:
            assert_never(value)


def next_epoch(epoch: int) -> int:
    """Return the epoch after ``epoch``. 0 is none: it means that nothing is configured."""
    return 1 if epoch >= _EPOCH_MAX else epoch + 1


def bump_epoch(maps: Maps) -> int:
    """Have every established flow judged again; return the new epoch."""
    raw = maps["tg_config"].lookup(_CONFIG_KEY)
    assert raw is not None, "an array's entries always exist"
    config = encode.decode_struct(Config, raw)
    config.epoch = next_epoch(config.epoch)
    maps["tg_config"].update(_CONFIG_KEY, bytes(config))
    return int(config.epoch)


def _group(operation: Operation) -> tuple[str, str]:
    return type(operation).__name__, "" if isinstance(operation, BumpEpoch) else operation.table


def apply(operations: Iterable[Operation], maps: Maps) -> ApplyReport:
    """Carry out ``operations`` in order. On MapFull (or any KernelError) a first part of them has been carried out:
    every packet still gets its old or its new verdict, and ``plan(read(maps), wanted)`` goes on from there."""
    started_ns = time.monotonic_ns()
    written: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    epoch = 0
    for (_, table), group in groupby(operations, key=_group):
        puts: list[tuple[bytes, bytes]] = []
        for operation in group:
            match operation:
                case Put():
                    puts.append((_encoded_key(operation.table, operation.key), _encoded_value(operation.value)))
                case Remove(table=Table.SLOTS):
                    maps[operation.table].update(_encoded_key(operation.table, operation.key), encode.encode_slot(None))
                    removed[operation.table] += 1
                case Remove():
                    maps[operation.table].delete(_encoded_key(operation.table, operation.key))
                    removed[operation.table] += 1
                case BumpEpoch():
                    epoch = bump_epoch(maps)
                case _:
                    assert_never(operation)
        if puts:
            maps[table].update_all(puts)
            written[table] += len(puts)
    return ApplyReport(dict(written), dict(removed), epoch, time.monotonic_ns() - started_ns)


def read(maps: Maps) -> MapState:
    """Return what the kernel holds, so that a restarted agent starts from there."""
    slots: dict[int, SlotValue] = {}
    for key, value in maps[Table.SLOTS].items():
        slot = encode.decode_slot(value)
        if slot is not None:
            slots[encode.decode_u32(key)] = slot
    return MapState(
        ipcache={encode.decode_ipcache_key(k): encode.decode_ipcache_value(v) for k, v in maps[Table.IPCACHE].items()},
        policy={encode.decode_policy_key(k): encode.decode_policy_value(v) for k, v in maps[Table.POLICY].items()},
        slots=slots,
        pairs={encode.decode_pair_key(k): encode.decode_u32(v) for k, v in maps[Table.PAIRS].items()},
        endpoints={encode.decode_u32(k): encode.decode_endpoint(v) for k, v in maps[Table.ENDPOINTS].items()},
        cgroups={encode.decode_u64(k): IdentityNumber(encode.decode_u32(v)) for k, v in maps[Table.CGROUPS].items()},
    )
