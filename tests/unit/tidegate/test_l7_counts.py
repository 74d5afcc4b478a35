"""Counts with names, and freeing records: nothing is lost, nothing is counted twice, whoever dies in between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from bpf_redirect.abi import FlowDirection, L7Kind
from bpf_redirect.l7_verdicts import RETIRE_GRACE_NS
from l7filters.identity import IdentityNumber, IdentityTable, LabelSet
from l7filters.ir import CompiledPolicy, SlotKey
from l7filters.model import L7Protocol
from tests.support.verdict_memory import VerdictMemory
from tidegate.counts import keeper as l7_keeper
from tidegate.counts.keeper import HOUR_NS, L7Keeper, age_ns
from tidegate.counts.totals import LEDGER_MAX, OTHER, SERIES_MAX, CountSide, L7Count, Ledger, Names, Series, Total, Workload

WEB, SHOP, OLD_SHOP, RANGE = 256, 257, 258, 259
NAMESPACE = "io.kubernetes.pod.namespace"
LABEL_SETS = {
    WEB: LabelSet.of({"app": "web", NAMESPACE: "prod"}),
    SHOP: LabelSet.of({"app": "shop", "tier": "new", NAMESPACE: "prod"}),
    OLD_SHOP: LabelSet.of({"app": "shop", "tier": "old", NAMESPACE: "prod"}),
}
POLICY = "tp/prod/shop"
KEY = SlotKey(L7Protocol.HTTP, ingress=(f"{POLICY}:spec.ingress[0].toPorts[0]",))
OTHER_KEY = SlotKey(L7Protocol.HTTP, ingress=("tp/prod/other:spec.ingress[0].toPorts[0]",))
TO_SHOP = Series(Workload("prod", "web"), Workload("prod", "shop"), CountSide.INGRESS, "http", (POLICY,), L7Kind.ALLOWED)


def names(slots: Mapping[SlotKey, int] | None = None) -> Names:
    identities = IdentityTable({label_set: IdentityNumber(number) for number, label_set in LABEL_SETS.items()})
    compiled = CompiledPolicy(1, identities, (), (), (), (), ())
    return Names(compiled, slots if slots is not None else {KEY: 1})


@dataclass
class Clock:
    now_ns: int = 7 * HOUR_NS


@pytest.fixture
def memory() -> Iterator[VerdictMemory]:
    with VerdictMemory() as memory:
        yield memory


@pytest.fixture
def clock() -> Clock:
    return Clock()


def keeper(memory: VerdictMemory, clock: Clock, path: Path) -> L7Keeper:
    made = L7Keeper(path / "ledger.json", has_module=True, now_ns=lambda: clock.now_ns)
    made.open(memory.table)
    made.rename(names(), [POLICY])
    return made


def test_a_count_has_the_names_of_client_server_and_policies(memory: VerdictMemory, clock: Clock, tmp_path: Path) -> None:
    memory.count(SHOP, WEB, requests=3, octets=30, now_ns=clock.now_ns)
    memory.count(WEB, SHOP, kind=L7Kind.DENIED, direction=None, now_ns=clock.now_ns)
    memory.count(SHOP, 2, slot=9, now_ns=clock.now_ns)
    found = keeper(memory, clock, tmp_path).read()
    shop, web = Workload("prod", "shop"), Workload("prod", "web")
    assert {(count.series, count.source_identity, count.requests, count.bytes) for count in found.counts} == {
        (TO_SHOP, WEB, 3, 30),
        (Series(web, shop, CountSide.BOTH, "http", (POLICY,), L7Kind.DENIED), WEB, 1, 10),
        (Series(Workload("", "reserved:world"), shop, CountSide.INGRESS, "", (), L7Kind.ALLOWED), 2, 1, 10),
    }


def test_identities_of_one_workload_are_one_series(memory: VerdictMemory, clock: Clock, tmp_path: Path) -> None:
    memory.count(SHOP, WEB, requests=3, now_ns=clock.now_ns)
    memory.count(OLD_SHOP, WEB, requests=4, now_ns=clock.now_ns)
    found = keeper(memory, clock, tmp_path).read()
    assert len(found.counts) == 2
    assert found.totals == {TO_SHOP: Total(7, 20)}


def test_two_records_of_one_key_are_one_count(memory: VerdictMemory, clock: Clock, tmp_path: Path) -> None:
    index = memory.count(SHOP, WEB, requests=3, now_ns=clock.now_ns)
    made = keeper(memory, clock, tmp_path)
    memory.table.retire(next(record for record in memory.table.records() if record.index == index))
    assert memory.count(SHOP, WEB, requests=5, now_ns=clock.now_ns) != index
    assert [(count.requests, count.bytes) for count in made.read().counts] == [(8, 20)]


def test_without_module_or_writer_counts_are_unavailable_and_say_why(memory: VerdictMemory, tmp_path: Path) -> None:
    without = L7Keeper(tmp_path / "ledger.json", has_module=False, now_ns=lambda: 0)
    assert without.read().unavailable == l7_keeper.UNAVAILABLE_NO_MODULE
    assert without.status().unavailable == l7_keeper.UNAVAILABLE_NO_MODULE
    with VerdictMemory() as silent:
        silent._put(0, bytes(64))
        made = keeper(silent, Clock(), tmp_path)
        assert made.read().unavailable == l7_keeper.UNAVAILABLE_NOT_OPENED


def test_an_old_record_is_freed_and_its_series_does_not_fall(memory: VerdictMemory, clock: Clock, tmp_path: Path) -> None:
    made = keeper(memory, clock, tmp_path)
    memory.count(SHOP, WEB, requests=3, now_ns=clock.now_ns)
    clock.now_ns += 6 * HOUR_NS - 1
    assert made.sweep() == 0
    clock.now_ns += 2
    made.sweep()
    assert made.read().totals == {TO_SHOP: Total(3, 10)}, "on its way out it still counts"
    clock.now_ns += RETIRE_GRACE_NS
    assert made.sweep() == 1
    assert list(memory.table.records()) == []
    assert made.read().totals == {TO_SHOP: Total(3, 10)}
    memory.count(SHOP, WEB, requests=2, now_ns=clock.now_ns)
    assert made.read().totals == {TO_SHOP: Total(5, 20)}


def test_a_writer_on_its_way_is_counted_before_the_record_is_freed(memory: VerdictMemory, clock: Clock, tmp_path: Path) -> None:
    made = keeper(memory, clock, tmp_path)
    index = memory.count(SHOP, WEB, requests=3, now_ns=0)
    made.sweep()
    memory.add(index, 1, 0, clock.now_ns)
    assert memory.count(SHOP, WEB, requests=1, now_ns=clock.now_ns) != index, "the next one looks for another record"
    clock.now_ns += RETIRE_GRACE_NS
    assert made.sweep() == 1
    assert made.read().totals == {TO_SHOP: Total(5, 20)}


@pytest.mark.parametrize("dies_before", ["free", "second save"])
def test_an_agent_that_dies_while_it_frees_counts_nothing_twice(
    memory: VerdictMemory, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_before: str
) -> None:
    made = keeper(memory, clock, tmp_path)
    memory.count(SHOP, WEB, requests=3, now_ns=0)
    memory.count(OLD_SHOP, WEB, requests=4, now_ns=0)
    made.sweep()
    clock.now_ns += RETIRE_GRACE_NS

    class Killed(Exception):
        pass

    saves: list[str] = []

    def replace_file(path: Path, text: str) -> None:
        if dies_before == "second save" and saves:
            raise Killed
        saves.append(text)
        path.write_text(text)

    def free(_: object) -> None:
        raise Killed

    monkeypatch.setattr(l7_keeper, "replace_file", replace_file)
    if dies_before == "free":
        monkeypatch.setattr(memory.table, "free", free)
    with pytest.raises(Killed):
        made.sweep()
    monkeypatch.undo()
    with memory.reopen() as table:
        later = L7Keeper(tmp_path / "ledger.json", has_module=True, now_ns=lambda: clock.now_ns)
        later.open(table)
        later.rename(names(), [POLICY])
        assert later.read().totals == {TO_SHOP: Total(7, 20)}
        assert list(table.records()) == []


def test_what_was_being_retired_by_an_agent_that_died_is_freed_by_the_next(
    memory: VerdictMemory, clock: Clock, tmp_path: Path
) -> None:
    made = keeper(memory, clock, tmp_path)
    memory.count(SHOP, WEB, requests=3, now_ns=0)
    made.sweep()
    later = keeper(memory, clock, tmp_path)
    assert later.sweep() == 0, "it can't know for how long"
    clock.now_ns += RETIRE_GRACE_NS
    assert later.sweep() == 1
    assert later.read().totals == {TO_SHOP: Total(3, 10)}


def test_a_slot_that_comes_to_mean_other_policies_keeps_the_old_counts_to_the_old_name(
    memory: VerdictMemory, clock: Clock, tmp_path: Path
) -> None:
    made = keeper(memory, clock, tmp_path)
    memory.count(SHOP, WEB, requests=3, now_ns=clock.now_ns)
    made.rename(names({OTHER_KEY: 1}), [POLICY, "tp/prod/other"])
    memory.count(SHOP, WEB, requests=2, now_ns=clock.now_ns)
    renamed = Series(TO_SHOP.source, TO_SHOP.destination, TO_SHOP.side, "http", ("tp/prod/other",), L7Kind.ALLOWED)
    assert made.read().totals == {TO_SHOP: Total(3, 10), renamed: Total(2, 10)}
    clock.now_ns += RETIRE_GRACE_NS
    assert made.sweep() == 1
    assert made.read().totals == {TO_SHOP: Total(3, 10), renamed: Total(2, 10)}
    made.rename(names({OTHER_KEY: 1}), ["tp/prod/other"])
    made.sweep()
    assert made.read().totals == {renamed: Total(2, 10)}, "a policy that is gone takes its series along"


def test_a_full_table_keeps_records_for_a_shorter_time() -> None:
    assert [age_ns(fill) // 1_000_000_000 for fill in (0.0, 0.5, 0.75, 0.8, 0.9, 1.0)] == [21600, 21600, 600, 600, 60, 60]


def test_a_ledger_that_can_not_be_read_is_an_empty_one(memory: VerdictMemory, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "ledger.json").write_text("{]")
    assert keeper(memory, clock, tmp_path).read().totals == {}


def test_ledger_is_bounded_and_forgets_the_longest_untouched() -> None:
    ledger = Ledger()
    for number in range(LEDGER_MAX + 1):
        ledger.add(series(number), 1, 1)
        ledger.add(series(1), 1, 1)
    assert len(ledger.entries) == LEDGER_MAX
    assert series(0) not in ledger.entries
    assert series(1) in ledger.entries


def test_series_beyond_the_limit_are_counted_as_other() -> None:
    counts = [count(number) for number in range(SERIES_MAX + 5)]
    admission = l7_keeper.Admission()
    totals = admission.totals(counts, Ledger())
    other = Series(OTHER, OTHER, CountSide.INGRESS, "http", (), L7Kind.ALLOWED)
    assert len(totals) == SERIES_MAX + 1
    assert totals[other] == Total(5, 5)
    # Whoever was named stays named, in whatever order they come.
    assert admission.totals(reversed(counts), Ledger()) == totals


def series(number: int) -> Series:
    return Series(Workload("prod", f"w{number}"), TO_SHOP.destination, CountSide.INGRESS, "http", (POLICY,), L7Kind.ALLOWED)


def count(number: int) -> L7Count:
    return L7Count(series=series(number), source_identity=1, destination_identity=2, slot=1, requests=1, bytes=1, last_seen_ns=0)


def test_direction_tells_which_end_the_subject_is(memory: VerdictMemory) -> None:
    for direction in (FlowDirection.INGRESS, FlowDirection.EGRESS, None):
        memory.count(SHOP, WEB, direction=direction)
    found = {str(names().series(record).side): names().series(record).source.name for record in memory.table.records()}
    assert found == {"ingress": "web", "egress": "shop", "both": "shop"}
