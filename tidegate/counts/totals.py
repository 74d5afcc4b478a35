"""Exact counts of what the proxy said, with the names of today: one value for metrics, status and people.

Owns: whose a record of the kernel's table is (workloads, policies), how records become series of few labels, and what is
remembered of records that were freed. Pure; ``counts/keeper.py`` reads the table and frees what is old.

A series is what /metrics can show: workloads by name rather than identity, policies rather than slot. Several records share
one, and a freed record must not make it fall: what it counted goes into the ``Ledger``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from bpf_redirect.abi import FlowDirection, L7Kind
from bpf_redirect.l7_verdicts import VerdictRecord
from l7filters.identity import IdentityNumber, LabelSet, Reserved
from l7filters.ir import CompiledPolicy, SlotKey
from l7filters.labels import NAMESPACE_LABEL

SERIES_MAX = 4096
"""Of series with names of their own; a scrape of so many lines takes milliseconds. What comes later is counted as OTHER."""
LEDGER_MAX = 4096
"""Series that are remembered of freed records; the one longest untouched is forgotten first."""
WORKLOAD_LABELS = ("app.kubernetes.io/name", "k8s-app", "app", "name")
"""The first of these that an endpoint has is its workload's name."""
WORKLOAD_LENGTH_MAX = 63


@dataclass(frozen=True, slots=True, order=True)
class Workload:
    """Who, for a metric. ``name`` of a reserved identity is ``reserved:world`` and the like, of an address range its prefix."""

    namespace: str
    name: str


_RESERVED = {int(each): f"reserved:{each.name.lower().replace('_', '-')}" for each in Reserved if each is not Reserved.ANY}
OTHER = Workload("", "other")
UNKNOWN = Workload("", "unknown")


class CountSide(StrEnum):
    """Whose policy judged."""

    INGRESS = "ingress"
    EGRESS = "egress"
    BOTH = "both"


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """What requests are counted by. ``policies`` are the keys of those that speak in the slot, sorted."""

    source: Workload
    destination: Workload
    side: CountSide
    protocol: str
    policies: tuple[str, ...]
    verdict: L7Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class L7Count:
    """One (client, server, slot, verdict) with its names. ``last_seen_ns``: of the monotonic clock."""

    series: Series
    source_identity: int
    destination_identity: int
    slot: int
    requests: int
    bytes: int
    last_seen_ns: int


@dataclass(frozen=True, slots=True)
class Total:
    """Requests, and bytes of their bodies both ways."""

    requests: int = 0
    bytes: int = 0

    def plus(self, requests: int, octets: int) -> Total:
        """Return the sum."""
        return Total(self.requests + requests, self.bytes + octets)


@dataclass(frozen=True, slots=True, kw_only=True)
class L7Counts:
    """What was counted. ``unavailable``: why there are no counts; the rest is then empty.

    ``counts`` is in detail, as far as records exist; ``totals`` by series, freed records included. ``overflow``: requests that
    found no room for a record of their own, by verdict; they are in neither of the two.
    """

    unavailable: str = ""
    counts: tuple[L7Count, ...] = ()
    totals: Mapping[Series, Total] = field(default_factory=dict)
    overflow: Mapping[L7Kind, int] = field(default_factory=dict)
    records: int = 0
    capacity: int = 0


@dataclass(frozen=True, slots=True)
class SlotNames:
    """What a slot is called in a metric."""

    protocol: str = ""
    policies: tuple[str, ...] = ()


class Names:
    """Whose the numbers are, in one compiled policy."""

    def __init__(self, compiled: CompiledPolicy, slot_ids: Mapping[SlotKey, int]) -> None:
        self._label_sets = compiled.label_set_by_number()
        self.slots: Mapping[int, SlotNames] = {number: slot_names(key) for key, number in slot_ids.items()}
        self._workloads: dict[int, Workload] = {}

    def workload(self, number: int) -> Workload:
        """Return who an identity is."""
        known = self._workloads.get(number)
        if known is None:
            known = self._workloads[number] = _workload(number, self._label_sets.get(IdentityNumber(number)))
        return known

    def series(self, record: VerdictRecord, slots: Mapping[int, SlotNames] | None = None) -> Series:
        """Return the series of a record. ``slots``: other names of slots than today's."""
        source, destination = ends(record)
        slot = (self.slots if slots is None else slots).get(record.slot, SlotNames())
        return Series(
            self.workload(source), self.workload(destination), side_of(record), slot.protocol, slot.policies, record.kind
        )


def ends(record: VerdictRecord) -> tuple[int, int]:
    """Return the identities of client and server."""
    if record.direction is FlowDirection.INGRESS:
        return record.peer, record.subject
    return record.subject, record.peer


def side_of(record: VerdictRecord) -> CountSide:
    """Return whose policy judged."""
    match record.direction:
        case None:
            return CountSide.BOTH
        case FlowDirection.INGRESS:
            return CountSide.INGRESS
        case _:
            return CountSide.EGRESS


def slot_names(key: SlotKey) -> SlotNames:
    """Return the policies of a slot: the part of each origin before its field path."""
    origins = (*(key.egress or ()), *(key.ingress or ()))
    return SlotNames(str(key.protocol), tuple(sorted({origin.partition(":")[0] for origin in origins})))


def resolve(records: Iterable[VerdictRecord], names: Names) -> tuple[L7Count, ...]:
    """Return the records with their names; records of one key are one count."""
    merged: dict[tuple[object, ...], L7Count] = {}
    for record in records:
        source, destination = ends(record)
        key = (record.subject, record.peer, record.slot, record.kind, record.direction)
        before = merged.get(key)
        merged[key] = L7Count(
            series=before.series if before else names.series(record),
            source_identity=source,
            destination_identity=destination,
            slot=record.slot,
            requests=record.requests + (before.requests if before else 0),
            bytes=record.bytes + (before.bytes if before else 0),
            last_seen_ns=max(record.last_seen_ns, before.last_seen_ns if before else 0),
        )
    return tuple(sorted(merged.values(), key=lambda count: (count.series, count.source_identity, count.destination_identity)))


def counts_json(counts: L7Counts) -> dict[str, object]:
    """Return all of it as the JSON that /v1/counts answers with."""
    return {
        "unavailable": counts.unavailable,
        "records": counts.records,
        "capacity": counts.capacity,
        "overflow": {kind.name.lower(): number for kind, number in counts.overflow.items()},
        "counts": [
            {
                **_series_json(count.series),
                "source_identity": count.source_identity,
                "destination_identity": count.destination_identity,
                "slot": count.slot,
                "requests": count.requests,
                "bytes": count.bytes,
            }
            for count in counts.counts
        ],
        "totals": [
            {**_series_json(series), "requests": total.requests, "bytes": total.bytes}
            for series, total in sorted(counts.totals.items())
        ],
    }


def _series_json(series: Series) -> dict[str, object]:
    return {
        "source": {"namespace": series.source.namespace, "workload": series.source.name},
        "destination": {"namespace": series.destination.namespace, "workload": series.destination.name},
        "direction": str(series.side),
        "protocol": series.protocol,
        "policies": list(series.policies),
        "verdict": series.verdict.name.lower(),
    }


class Ledger:
    """What freed records had counted, by series. Bounded; the longest untouched goes first."""

    def __init__(self, entries: Mapping[Series, Total] | None = None) -> None:
        self._entries: dict[Series, Total] = dict(entries or {})

    @property
    def entries(self) -> Mapping[Series, Total]:
        """What is remembered, the longest untouched first."""
        return self._entries

    def add(self, series: Series, requests: int, octets: int) -> None:
        """Remember what a record had counted."""
        total = self._entries.pop(series, Total())
        self._entries[series] = total.plus(requests, octets)
        while len(self._entries) > LEDGER_MAX:
            del self._entries[next(iter(self._entries))]

    def keep(self, policies: frozenset[str]) -> bool:
        """Forget series all of whose policies are gone; return whether there were any."""
        gone = [series for series in self._entries if series.policies and policies.isdisjoint(series.policies)]
        for series in gone:
            del self._entries[series]
        return bool(gone)


class Admission:
    """Which series have names of their own: the first SERIES_MAX that came. One that was named stays named."""

    def __init__(self) -> None:
        self._named: set[Series] = set()

    def totals(self, counts: Iterable[L7Count], ledger: Ledger) -> Mapping[Series, Total]:
        """Return the sum of both by series; those without a name of their own under OTHER."""
        found: dict[Series, Total] = {}
        for series, total in ledger.entries.items():
            self._add(found, series, total.requests, total.bytes)
        for count in counts:
            self._add(found, count.series, count.requests, count.bytes)
        self._named &= set(found)
        return found

    def _add(self, found: dict[Series, Total], series: Series, requests: int, octets: int) -> None:
        if series not in self._named:
            if len(self._named) >= SERIES_MAX:
                series = Series(OTHER, OTHER, series.side, series.protocol, (), series.verdict)
            else:
                self._named.add(series)
        found[series] = found.get(series, Total()).plus(requests, octets)


def _workload(number: int, label_set: LabelSet | None) -> Workload:
    if number in _RESERVED:
        return Workload("", _RESERVED[number])
    if label_set is None:
        return UNKNOWN
    if label_set.cidrs:
        narrowest = max(label_set.cidrs, key=lambda cidr: (cidr.prefixlen, str(cidr)))
        return Workload("", str(narrowest))
    labels = label_set.as_dict()
    namespace = labels.pop(NAMESPACE_LABEL, "")
    for label in WORKLOAD_LABELS:
        if labels.get(label):
            return Workload(namespace, labels[label])
    own = sorted(f"{key}={value}" for key, value in labels.items() if not key.startswith("io.cilium.k8s."))
    return Workload(namespace, ",".join(own)[:WORKLOAD_LENGTH_MAX])
