"""Reading what the DNS load programs print, and the table."""

from __future__ import annotations

import pytest

from bench.__main__ import BenchError
from bench.dns import ARMS, WORKLOADS, Found, read_dnsperf, report

PRINTED = """\
> NOERROR host1.good.test A 0.000100
> NOERROR host2.good.test A 0.000300
> NOERROR host3.good.test A 0.000200
Statistics:

  Queries sent:         4
  Queries completed:    3 (75.00%)
  Queries lost:         1 (25.00%)

  Response codes:       NOERROR 2 (66.67%), REFUSED 1 (33.33%)
  Run time (s):         0.500
  Queries per second:   6.000000
"""


def test_what_dnsperf_prints_is_read() -> None:
    found, completed = read_dnsperf(PRINTED)
    assert (found.rate, found.p50_us, found.p99_us, completed) == (6.0, 200.0, 300.0, 3)
    assert found.problems == {"lost": 1, "REFUSED": 1}


def test_what_can_not_be_read_is_an_error() -> None:
    with pytest.raises(BenchError):
        read_dnsperf("unable to bind")


def test_the_table_tells_what_is_added_within_rounds_and_what_went_wrong() -> None:
    runs = {(workload, arm): [Found(rate=100, p50_us=10, p99_us=20)] * 3 for workload in WORKLOADS for arm in ARMS}
    runs["open", "tidegate"] = [Found(rate=100, p50_us=110, p99_us=320, cpu_us=33.3)] * 3
    runs["full", "tidegate"] = [Found(rate=50, problems={"lost": 2})] * 3
    lines = report(runs).splitlines()
    assert [line.split()[1:] for line in lines if "added" in line] == [["0", "0"], ["100", "300"]]
    assert any("33.3" in line for line in lines)
    assert any("0.50 of direct" in line for line in lines)
    assert any("{'lost': 2}" in line for line in lines)
