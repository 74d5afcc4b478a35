"""The agent's end of the DNS proxy, with a real proxy at the other."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxylib.dns.policy import DnsRules, Roster, load_roster, load_rules
from tests.unit.proxylib.dns_bed import CLIENT, ROSTER, RULES, Bed, answer_a, bed, fake_server
from tests.unit.tidegate.test_dns_process import node
from tidegate.agent import only_one
from tidegate.dns.side import DnsSide
from tidegate.processes.dns import DnsPlaces
from tidegate.status.diagnosis import Finding, Outcome, check_dns_proxy
from tidegate.status.node import ProcessState

RULES_0, ROSTER_0 = replace(RULES, revision=0), replace(ROSTER, revision=0)
SILENT = ("127.0.0.1", 9)


@pytest.fixture
def places(tmp_path: Path) -> DnsPlaces:
    return DnsPlaces(node(tmp_path))


@pytest.fixture
def served(places: DnsPlaces) -> Iterator[Bed]:
    """A proxy that reads the node's files and answers at its control socket."""
    places.directory.mkdir(parents=True)
    with bed(SILENT, rules_path=places.rules, subjects_path=places.subjects, control_path=places.control) as made:
        yield made


def side(tmp_path: Path, changes: list[int] | None = None) -> DnsSide:
    counted = [] if changes is None else changes
    return DnsSide(node(tmp_path), lambda: counted.append(1))


def test_files_are_written_when_their_content_changes_and_only_then(tmp_path: Path, places: DnsPlaces) -> None:
    one = side(tmp_path)
    one.bring(RULES_0, ROSTER_0)
    assert load_rules(places.rules.read_text()) == replace(RULES, revision=1)
    rules, subjects = places.rules.stat(), places.subjects.stat()
    one.bring(replace(RULES_0), replace(ROSTER_0))
    assert (places.rules.stat(), places.subjects.stat()) == (rules, subjects)
    # A pod that goes changes the subjects alone.
    one.bring(RULES_0, Roster())
    assert (places.rules.stat(), load_roster(places.subjects.read_text())) == (rules, Roster(revision=2))
    # The next agent finds what it wants there, and counts on.
    other = side(tmp_path)
    other.bring(RULES_0, Roster())
    assert places.rules.stat() == rules
    other.bring(DnsRules(), Roster())
    assert load_rules(places.rules.read_text()).revision == 2


@pytest.mark.root
def test_what_is_brought_is_in_force_when_the_call_returns(tmp_path: Path, served: Bed) -> None:
    one = side(tmp_path)
    for revision in range(1, 4):
        one.bring(replace(RULES_0, ttl_seconds_min=revision), ROSTER_0)
        assert (one.status.revision, one.status.state, one.status.slots) == (revision, ProcessState.READY, (1,))
    assert served.proxy.revision == 3


@pytest.mark.root
def test_a_dead_proxy_is_told_of_and_holds_up_nothing(tmp_path: Path, served: Bed) -> None:
    one = side(tmp_path)
    one.bring(RULES_0, ROSTER_0)
    served.stop()
    start_s = time.monotonic()
    one.bring(replace(RULES_0, ttl_seconds_min=1), ROSTER_0)
    assert time.monotonic() - start_s < 5
    assert (one.status.state, one.status.slots, one.status.wanted) == (ProcessState.DOWN, (), 1)
    served.start()
    # It has read the new rules before it answers anybody.
    one.bring(replace(RULES_0, ttl_seconds_min=1), Roster())
    assert (one.status.state, one.status.revision) == (ProcessState.READY, 2)


@pytest.mark.root
def test_files_that_somebody_removed_are_given_back(tmp_path: Path, places: DnsPlaces, served: Bed) -> None:
    async def scenario() -> None:
        changes: list[int] = []
        one = side(tmp_path, changes)
        one.bring(RULES_0, ROSTER_0)
        watching = asyncio.create_task(one.watch())
        places.rules.unlink()
        places.subjects.write_text("{}")
        try:
            async with asyncio.timeout(10):
                while one.status.revision != 2 or one.status.message or not changes:
                    await asyncio.sleep(0.02)
        finally:
            watching.cancel()
        assert load_roster(places.subjects.read_text()).subjects == (CLIENT,)

    asyncio.run(scenario())


@pytest.mark.root
def test_counts_arrive_as_status(tmp_path: Path, places: DnsPlaces) -> None:
    places.directory.mkdir(parents=True)
    paths = {"rules_path": places.rules, "subjects_path": places.subjects, "control_path": places.control}
    with (
        fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server,
        bed(("127.0.0.1", server.port), **paths) as made,
    ):
        one = side(tmp_path)
        one.bring(RULES_0, ROSTER_0)
        made.ask("a.test")
        made.ask("no.example", "AAAA")
        one.bring(RULES_0, Roster())
        status = one.status
        assert status.outcomes == (("allowed", 0, "A", 1), ("refused", 5, "AAAA", 1))
        assert (status.counters["answered"], status.counters["refused"], sum(status.latency_counts)) == (1, 1, 1)
        assert status.names_map["entries"] == 1


@pytest.mark.root
def test_doctor_tells_of_a_proxy_that_outlived_its_agent(tmp_path: Path, served: Bed) -> None:
    one = side(tmp_path)
    one.bring(RULES_0, ROSTER_0)
    finding = check_dns_proxy(node(tmp_path))
    assert (finding.outcome, "1 slots: answers by the last rules" in finding.detail) == (Outcome.WARNING, True)
    served.stop()
    assert check_dns_proxy(node(tmp_path)) == Finding("DNS proxy", Outcome.OK, "none runs")
    served.start()
    with only_one(node(tmp_path).lock_file):
        assert check_dns_proxy(node(tmp_path)).outcome is Outcome.OK
        served.stop()
        assert "does not answer" in check_dns_proxy(node(tmp_path)).detail
        served.start()


def test_the_status_of_a_proxy_stays_small_enough_for_one_datagram(tmp_path: Path) -> None:
    """All outcomes that can be told apart: 4 verdicts, 16 codes, 40 types."""
    line = {"verdict": "audited", "rcode": 15, "qtype": "OPENPGPKEY", "count": 1 << 62}
    assert len(json.dumps([line] * 4 * 16 * 40)) < 256 << 10
