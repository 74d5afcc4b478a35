"""Keeping the table of verdict counts: reading it, freeing what is old, remembering what that had counted.

Owns: when a record is old, the two steps of freeing one, and the ledger on disk. A crash at any point counts nothing twice and
loses nothing: what is about to be freed stands in the ledger's file, with the record it came from, before it is freed.

A record is freed when nothing was counted in it for long (sooner where the table is nearly full), or when its slot has come to
mean other policies: its counts belong to those it had.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from bpf_redirect.abi import L7Kind
from bpf_redirect.l7_verdicts import RETIRE_GRACE_NS, VerdictRecord, VerdictTable
from tidegate.counts.totals import Admission, CountSide, L7Counts, Ledger, Names, Series, SlotNames, Total, Workload, resolve
from tidegate.numbering import replace_file
from tidegate.status.node import CountsStatus

_log = structlog.get_logger()

SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS
AGE_NS_BY_FILL = ((0.9, 60 * SECOND_NS), (0.75, 600 * SECOND_NS), (0.0, 6 * HOUR_NS))
"""How long a record is kept after its last request, by how full the table is."""
SWEEP_S = 5.0
UNAVAILABLE_NO_MODULE = "Envoy's module is not there (deploy/setup/native.sh builds it): requests are not counted"
UNAVAILABLE_NOT_OPENED = "Envoy's module has not opened the table (yet): see envoy.log"
_FORMAT = 1


def age_ns(fill: float) -> int:
    """Return how long a record is kept in a table that is ``fill`` (0..1) full."""
    return next(age for least, age in AGE_NS_BY_FILL if fill >= least)


@dataclass(frozen=True, slots=True)
class _Retiring:
    """A record on its way out, what it was called, and since when."""

    series: Series
    since_ns: int


Place = tuple[int, int, int, int]
"""Index, subject, peer and slot: enough to know a record again after a restart."""


class L7Keeper:
    """One per agent, of one thread. ``table`` None, or ``has_module`` false: counts are unavailable."""

    def __init__(self, path: Path, *, has_module: bool, now_ns: Callable[[], int]) -> None:
        self._path = path
        self._has_module = has_module
        self._now_ns = now_ns
        self._table: VerdictTable | None = None
        self._names: Names | None = None
        self._slots: Mapping[int, SlotNames] = {}
        self._policies: frozenset[str] = frozenset()
        self._retiring: dict[Place, _Retiring] = {}
        self._admission = Admission()
        self._ledger, self._pending = _load(path)

    def open(self, table: VerdictTable) -> None:
        """Use the table, and end what an earlier agent had begun."""
        self._table = table
        if self._pending:
            for record in list(table.records()):
                if record.retiring and _place(record) in self._pending:
                    table.free(record)
            self._pending = frozenset()
            self._save()

    # ---- names ------------------------------------------------------------------------------------------------------

    def rename(self, names: Names, policies: Iterable[str]) -> None:
        """Name records as of now. Records of slots that mean something else than before are freed under their old names."""
        before, self._slots = self._slots, names.slots
        first, self._names = self._names is None, names
        self._policies = frozenset(policies)
        if self._table is None or first:
            return
        other = {number for number, was in before.items() if names.slots.get(number) != was}
        if other:
            for record in list(self._table.records()):
                if record.slot in other and not record.retiring:
                    self._retire(self._table, names.series(record, before), record)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def read(self) -> L7Counts:
        """Return what was counted until now."""
        table, names = self._table, self._names
        if not self._has_module:
            return L7Counts(unavailable=UNAVAILABLE_NO_MODULE)
        if table is None or names is None:
            return L7Counts(unavailable="the maps are not open yet")
        if table.writer() is None:
            return L7Counts(unavailable=UNAVAILABLE_NOT_OPENED, capacity=table.capacity)
        records = list(table.records())
        # What is on its way out still counts, under the name it had.
        current = [record for record in records if _place(record) not in self._retiring]
        counts = resolve(current, names)
        leaving = Ledger(self._ledger.entries)
        for record in records:
            retiring = self._retiring.get(_place(record))
            if retiring is not None:
                leaving.add(retiring.series, record.requests, record.bytes)
        return L7Counts(
            counts=counts,
            totals=self._admission.totals(counts, leaving),
            overflow=table.overflow(),
            records=len(records),
            capacity=table.capacity,
        )

    def status(self) -> CountsStatus:
        """Return whether there are counts, and how much room is left for them."""
        counts = self.read()
        overflow = {kind.name.lower(): number for kind, number in counts.overflow.items() if number}
        return CountsStatus(unavailable=counts.unavailable, records=counts.records, capacity=counts.capacity, overflow=overflow)

    # ---- freeing ----------------------------------------------------------------------------------------------------

    def sweep(self) -> int:
        """Retire what is old and free what was retired; return how many were freed. Raises OSError: nothing was freed then."""
        table, names = self._table, self._names
        if table is None or names is None:
            return 0
        now_ns = self._now_ns()
        records = list(table.records())
        oldest_ns = now_ns - age_ns(len(records) / table.capacity)
        for record in records:
            if _place(record) not in self._retiring and (record.retiring or record.last_seen_ns < oldest_ns):
                self._retire(table, names.series(record), record)
        due = [
            (record, retiring)
            for record in table.records()
            if (retiring := self._retiring.get(_place(record))) and now_ns - retiring.since_ns >= RETIRE_GRACE_NS
        ]
        forgotten = self._ledger.keep(self._policies)
        if due:
            self._free(table, due)
        elif forgotten:
            self._save()
        return len(due)

    def _retire(self, table: VerdictTable, series: Series, record: VerdictRecord) -> None:
        table.retire(record)
        self._retiring[_place(record)] = _Retiring(series, self._now_ns())

    def _free(self, table: VerdictTable, due: list[tuple[VerdictRecord, _Retiring]]) -> None:
        for record, retiring in due:
            self._ledger.add(retiring.series, record.requests, record.bytes)
        self._pending = frozenset(_place(record) for record, _ in due)
        self._save()
        for record, _ in due:
            table.free(record)
            del self._retiring[_place(record)]
        self._pending = frozenset()
        self._save()

    def _save(self) -> None:
        entries = [[*_plain(series), total.requests, total.bytes] for series, total in self._ledger.entries.items()]
        replace_file(self._path, json.dumps({"format": _FORMAT, "entries": entries, "pending": sorted(self._pending)}))


def _place(record: VerdictRecord) -> Place:
    return record.index, record.subject, record.peer, record.slot


def _plain(series: Series) -> list[object]:
    source, destination = series.source, series.destination
    return [
        *(source.namespace, source.name, destination.namespace, destination.name),
        *(str(series.side), series.protocol, list(series.policies), int(series.verdict)),
    ]


def _load(path: Path) -> tuple[Ledger, frozenset[Place]]:
    """Return the ledger as it was saved; an empty one where it can't be read."""
    try:
        saved = json.loads(path.read_text())
        if saved["format"] != _FORMAT:
            raise ValueError("another format")
        entries: dict[Series, Total] = {}
        for *ends, side, protocol, policies, verdict, requests, octets in saved["entries"]:
            workloads = Workload(*ends[:2]), Workload(*ends[2:])
            entries[Series(*workloads, CountSide(side), protocol, tuple(policies), L7Kind(verdict))] = Total(requests, octets)
        return Ledger(entries), frozenset((i, s, p, n) for i, s, p, n in saved["pending"])
    except FileNotFoundError:
        return Ledger(), frozenset()
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("l7_ledger_unreadable", path=str(path), reason=str(error))
        return Ledger(), frozenset()
