"""The pinned maps as rows for people: how full each is, and what is in it.

Owns: which map is decoded how. Reads the pins themselves, so it needs no agent. Maps without a decoder are shown as hexadecimal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

from bpf_redirect import abi, encode
from bpf_redirect.conntrack import decode_entry, read_workload_connections
from bpf_redirect.l7_verdicts import VerdictTable
from bpf_redirect.maps import Map, Maps
from bpf_redirect.offload import read_offloaded

Row = Mapping[str, object]
_ARRAYS = (2, 6)
"""BPF_MAP_TYPE_ARRAY and _PERCPU_ARRAY: every entry always exists."""
_UNREADABLE = (18, 27)
"""SOCKHASH and RINGBUF: their entries are no bytes to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapFillRow:
    """One map. ``entries`` None: they can't be counted."""

    name: str
    entries: int | None
    capacity: int


def fills(maps: Maps) -> tuple[MapFillRow, ...]:
    """Return how full every map is, by name."""
    return tuple(
        MapFillRow(name=each.name, entries=_entries(each), capacity=each.info.max_entries)
        for each in sorted(maps.by_name.values(), key=lambda each: each.name)
    )


def _entries(one: Map) -> int | None:
    if one.info.type in _UNREADABLE:
        return None
    if one.name == "tg_l7_verdicts":
        with VerdictTable(one) as table:
            return sum(1 for _ in table.records())
    if one.name == "tg_slots":
        return sum(encode.decode_slot(value) is not None for _, value in one.items())
    if one.info.type in _ARRAYS:
        return one.info.max_entries
    return sum(1 for _ in one.items())


def rows(one: Map) -> Iterator[Row]:
    """Iterate over the entries of a map, decoded."""
    if one.info.type in _UNREADABLE:
        return
    decode = _DECODERS.get(one.name)
    if decode is not None:
        yield from decode(one)
        return
    for key, value in one.items():
        yield {"key": key.hex(" "), "value": value.hex(" ")}


def _ipcache(one: Map) -> Iterator[Row]:
    for key, value in one.items():
        yield {"prefix": str(encode.decode_ipcache_key(key)), **asdict(encode.decode_ipcache_value(value))}


def _policy(one: Map) -> Iterator[Row]:
    for raw_key, raw_value in one.items():
        key, value = encode.decode_policy_key(raw_key), encode.decode_policy_value(raw_value)
        yield {
            "subject": int(key.subject),
            "peer": int(key.peer),
            "direction": str(key.direction),
            "protocol": "any" if key.protocol is None else key.protocol,
            "port": "any" if key.port_bits == 0 else f"{key.port}/{key.port_bits}",
            "verdict": value.verdict.name.lower(),
            "slot": value.slot,
            "would_deny": value.would_deny,
        }


def _slots(one: Map) -> Iterator[Row]:
    for key, raw in one.items():
        value = encode.decode_slot(raw)
        if value is not None:
            offload = f"{value.offload.denies_per_second}/s for {value.offload.seconds} s" if value.offload else ""
            yield {"slot": encode.decode_u32(key), "port": value.port, "audited": value.audited, "offload": offload}


def _pairs(one: Map) -> Iterator[Row]:
    for key, value in one.items():
        egress, ingress = encode.decode_pair_key(key)
        yield {"egress": egress, "ingress": ingress, "slot": encode.decode_u32(value)}


def _endpoints(one: Map) -> Iterator[Row]:
    for key, raw in one.items():
        value = encode.decode_endpoint(raw)
        addresses = " ".join(str(address) for address in value.addresses)
        yield {"ifindex": encode.decode_u32(key), "identity": int(value.identity), "addresses": addresses}


def _cgroups(one: Map) -> Iterator[Row]:
    for key, value in one.items():
        yield {"cgroup": encode.decode_u64(key), "identity": encode.decode_u32(value)}


def _conntrack(one: Map) -> Iterator[Row]:
    now_ns = time.monotonic_ns()
    for key, value in one.items():
        entry = decode_entry(key, value)
        yield {
            "protocol": entry.protocol,
            "source": f"{entry.source}:{entry.source_port}",
            "destination": f"{entry.destination}:{entry.destination_port}",
            "kind": entry.kind.name.lower(),
            "slot": entry.slot,
            "source_identity": entry.source_identity,
            "destination_identity": entry.destination_identity,
            "epoch": entry.epoch,
            "packets": entry.packets,
            "bytes": entry.bytes,
            "idle_s": _seconds(now_ns - entry.last_seen_ns),
        }


def _origins(one: Map) -> Iterator[Row]:
    for entry in read_workload_connections(one):
        yield {
            "client": f"{entry.client}:{entry.client_port}",
            "proxy_port": entry.proxy_port,
            "dialled": f"{entry.destination}:{entry.destination_port}",
            "identity": entry.identity,
        }


def _offload(one: Map) -> Iterator[Row]:
    now_ns = time.monotonic_ns()
    for peer in read_offloaded(one):
        who = str(peer.source) if peer.source is not None else f"workload {peer.workload}"
        yield {"peer": who, "slot": peer.slot, "for_s": max(0.0, _seconds(peer.until_ns - now_ns)), "packets": peer.packets}


def _l7_verdicts(one: Map) -> Iterator[Row]:
    now_ns = time.monotonic_ns()
    with VerdictTable(one) as table:
        for record in table.records():
            yield {
                "subject": record.subject,
                "peer": record.peer,
                "direction": record.direction.name.lower() if record.direction else "both",
                "slot": record.slot,
                "verdict": record.kind.name.lower(),
                "requests": record.requests,
                "bytes": record.bytes,
                "idle_s": _seconds(now_ns - record.last_seen_ns),
            }
        for kind, requests in table.overflow().items():
            if requests:
                yield {"verdict": f"{kind.name.lower()} (no record)", "requests": requests}


def _counters(one: Map) -> Iterator[Row]:
    from bpf_redirect.events import read_counters

    for (reason, hook), counter in sorted(read_counters(one).items()):
        if counter.packets:
            names = {"reason": reason.name.lower(), "hook": abi.Hook(hook).name.lower()}
            yield {**names, "packets": counter.packets, "bytes": counter.bytes}


def _seconds(nanoseconds: int) -> float:
    return round(nanoseconds / 1e9, 1)


_DECODERS: Mapping[str, Callable[[Map], Iterator[Row]]] = {
    "tg_ipcache": _ipcache,
    "tg_policy": _policy,
    "tg_slots": _slots,
    "tg_pairs": _pairs,
    "tg_endpoints": _endpoints,
    "tg_cgroups": _cgroups,
    "tg_conntrack": _conntrack,
    "tg_origins": _origins,
    "tg_offload": _offload,
    "tg_l7_verdicts": _l7_verdicts,
    "tg_counters": _counters,
}
