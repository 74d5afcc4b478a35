"""Ratios are made within a round; tables and plots hold what was measured, and what went wrong."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from bench import plots, report
from bench.__main__ import fits, parse_arguments
from bench.arms import DESCRIPTIONS, policy
from bench.processor import Usage
from bench.results import Results, Run, Spread, complaints
from bench.workloads import WORKLOADS, Kind, Outcome
from l7filters.documents import parse_documents

ABOUT: dict[str, Any] = {
    "date": "2026-01-01 00:00 UTC",
    "command": "python -m bench",
    "machine": {"processors": 2, "model": "cpu", "kernel": "6", "load_start": "0", "load_end": "1", "steal_percent": 0.0},
    "versions": {"envoy": "1.40.0", "nginx": "1"},
    "settings": {"rounds": 3, "seconds": 1, "envoy_concurrency": 2},
    "arms": {"tidegate": {"text": "", "envoys": {"node": 70_000_000}}},
}
ARMS = ("direct", "envoy-only", "tidegate", "sidecars")


def run_of(number: int, arm: str, rate: float, workload: str = "h1-64B-c16", **changes: Any) -> Run:
    outcome = Outcome(requests=round(rate), seconds=1.0, latency_us=dict.fromkeys(report.PERCENTILES, 1000000.0 / rate))
    usage = Usage(envoys={} if arm == "direct" else {"node": 0.5}, agents=0.0, busy=1.0, softirq=0.1, steal=0.0)
    return replace(Run(number, workload, arm, outcome, usage), **changes)


@pytest.fixture
def results() -> Results:
    made = Results(ABOUT, (WORKLOADS["h1-64B-c16"], WORKLOADS["open-1000"]), ARMS)
    rates = {"direct": (100, 50, 80), "envoy-only": (20, 10, 16), "tidegate": (40, 15, 16), "sidecars": (10, 5, 8)}
    for arm, found in rates.items():
        for number, rate in enumerate(found, 1):
            for workload in made.workloads:
                made.runs.append(run_of(number, arm, rate * 1000, workload.name))
    return made


def test_a_ratio_compares_runs_of_the_same_round(results: Results) -> None:
    found = results.ratio("h1-64B-c16", "tidegate", "envoy-only", Run.rate)
    assert found == Spread(1.5, 1.0, 2.0, 3)


def test_added_latency_is_compared_above_the_floor(results: Results) -> None:
    added = results.added_ratio("open-1000", "tidegate", "sidecars", "direct", partial(Run.latency, name="p99"))
    assert added is not None
    assert added.high == pytest.approx((1 / 16 - 1 / 80) / (1 / 8 - 1 / 80))


def test_a_round_in_which_one_arm_failed_has_no_ratio(results: Results) -> None:
    results.runs = [
        replace(run, outcome=None, problem="x") if run.round == 2 and run.arm == "tidegate" else run for run in results.runs
    ]
    found = results.ratio("h1-64B-c16", "tidegate", "envoy-only", Run.rate)
    assert found is not None
    assert found.count == 2
    assert any(line == "round 2 h1-64B-c16 tidegate: x" for line in results.problems())


def test_a_proxy_that_did_nothing_is_reported() -> None:
    usage = Usage(envoys={"client": 0.9, "server": 0.0}, agents=0, busy=1, softirq=0, steal=0)
    assert complaints(run_of(1, "sidecars", 1000, usage=usage)) == ["the Envoy in server did nothing"]


def test_errors_are_reported_beside_the_figure() -> None:
    run = run_of(1, "tidegate", 1000, outcome=Outcome(requests=10, seconds=1, errors=3))
    assert complaints(run) == ["3 errors"]
    assert run.primary(Kind.THROUGHPUT) == 10


def test_the_table_holds_ratios_figures_and_problems(results: Results) -> None:
    results.runs.append(Run(4, "h1-64B-c16", "tidegate", None, None, "wrk: exit 1"))
    text = report.text(results)
    assert "tidegate/envoy-only" in text
    assert "1.50 (1.00..2.00)" in text
    assert "round 4 h1-64B-c16 tidegate: wrk: exit 1" in text
    assert "No run failed" not in text


def test_results_are_json_and_plots_are_svg(results: Results) -> None:
    assert len(json.loads(json.dumps(results.document()))["runs"]) == len(results.runs)
    found = plots.all_of(results)
    assert set(found) == {"h1-64B-c16.svg", "open-1000.svg"}
    for text in found.values():
        ElementTree.fromstring(text)
        assert all(arm in text for arm in ARMS)


def test_labels_neither_meet_nor_leave_the_plot() -> None:
    assert plots.label_heights([100, 99, 20], top=46) == [126, 112, 46]
    assert plots.label_heights([200, 100], top=46) == [200, 100]


@pytest.mark.parametrize("http", [True, False])
def test_the_policies_of_the_arms_are_valid(http: bool) -> None:
    parsed = parse_documents(policy(http=http), "bench.yaml")
    assert not parsed.errors
    assert len(parsed.documents) == (1 if http else 2)


def test_raw_tcp_is_only_for_arms_without_a_proxy() -> None:
    assert [name for name in DESCRIPTIONS if fits(WORKLOADS["tcp-ping"], name)] == ["direct", "l4"]


def test_a_part_never_overwrites_the_results_of_the_whole() -> None:
    assert parse_arguments([]).output.name == "results"
    for words in (["--quick"], ["--arms", "direct"], ["--workloads", "tcp-ping"]):
        assert parse_arguments(words).output.name == "partial"


def test_unknown_arms_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--arms", "direct,nothing"])
    assert "'nothing' is none of direct" in capsys.readouterr().err
