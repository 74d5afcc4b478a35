"""What load programs, bpftool and /proc print is read as it was meant; anything else is an error, not a zero."""

from __future__ import annotations

import json

import pytest

from bench import bpf_time, processor
from bench.inside import open_loop
from bench.workloads import LoadError, read_h2load, read_json, read_wrk, read_wrk_closing

WRK = """\
Running 2s test @ http://10.0.0.5:8080/small
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   152.09us   98.11us   4.25ms   95.51%
    Req/Sec   104.36k     6.02k  113.33k    76.19%
  218201 requests in 2.10s, 46.40MB read
{more}Requests/sec: 103907.97
Transfer/sec:     22.10MB
"""
H2LOAD = """\
starting benchmark...
finished in 1.00s, 33907.00 req/s, 4.17MB/s
requests: 33907 total, 34067 started, 33907 done, {good} succeeded, {failed} failed, {errored} errored, 0 timeout
status codes: {good} 2xx, 0 3xx, {failed} 4xx, 0 5xx
"""


def test_wrk_counts_requests_over_its_own_time() -> None:
    outcome = read_wrk(WRK.format(more=""))
    assert (outcome.requests, outcome.seconds, outcome.errors) == (218201, 2.10, 0)


def test_a_refused_request_is_an_error_and_no_request() -> None:
    outcome = read_wrk(WRK.format(more="  Non-2xx or 3xx responses: 201\n"))
    assert (outcome.requests, outcome.errors) == (218000, 201)


def test_socket_errors_count_each_kind() -> None:
    more = "  Socket errors: connect 1, read 20, write 300, timeout 4000\n"
    assert read_wrk(WRK.format(more=more)).errors == 4321


def test_with_connection_close_only_the_close_is_forgiven() -> None:
    more = "  Socket errors: connect 1, read 20, write 300, timeout 4000\n"
    assert read_wrk_closing(WRK.format(more=more)).errors == 4301


def test_h2load_counts_only_2xx() -> None:
    outcome = read_h2load(H2LOAD.format(good=33900, failed=7, errored=0))
    assert (outcome.requests, outcome.seconds, outcome.errors) == (33900, 1.0, 0)
    assert read_h2load(H2LOAD.format(good=33900, failed=0, errored=5)).errors == 5


@pytest.mark.parametrize("read", [read_wrk, read_wrk_closing, read_h2load, read_json])
def test_silence_is_a_failure(read: object) -> None:
    assert callable(read)
    with pytest.raises(LoadError):
        read("unable to connect to 10.0.0.5:8080 Connection refused\n")


def test_process_time_survives_a_name_with_spaces_and_brackets() -> None:
    fields = " ".join(["S", *("0" for _ in range(10)), "250", "50", *("0" for _ in range(30))])
    assert processor.parse_process(f"7 (wrk:) worker_0) {fields}") == pytest.approx(300 / processor._TICKS)


def test_machine_time_leaves_idle_out_and_names_softirq() -> None:
    busy, softirq, steal = processor.parse_machine("cpu  100 10 200 9999 77 3 40 5 60 0\ncpu0 1 1 1 1 1 1 1 1\n")
    ticks = processor._TICKS
    assert (busy * ticks, softirq * ticks, steal * ticks) == pytest.approx((353, 40, 5))


def test_only_programs_pinned_beneath_the_roots_count() -> None:
    programs = [
        {"id": 1, "name": "tg_from_endp", "run_cnt": 10, "run_time_ns": 5000, "pinned": ["/sys/fs/bpf/a/programs/x"]},
        {"id": 2, "name": "tg_from_endp", "run_cnt": 99, "run_time_ns": 9999, "pinned": ["/sys/fs/bpf/ab/programs/x"]},
        {"id": 3, "name": "other", "run_cnt": 99, "run_time_ns": 9999},
    ]
    assert bpf_time.parse(json.dumps(programs), ("/sys/fs/bpf/a/",)) == {"tg_from_endp": bpf_time.RunTime(10, 5000)}


def test_growth_leaves_out_programs_that_did_not_run() -> None:
    before = {"a": bpf_time.RunTime(10, 100), "b": bpf_time.RunTime(1, 1)}
    after = {"a": bpf_time.RunTime(30, 500), "b": bpf_time.RunTime(1, 1), "c": bpf_time.RunTime(2, 3)}
    assert bpf_time.since(after, before) == {"a": bpf_time.RunTime(20, 400), "c": bpf_time.RunTime(2, 3)}


def test_percentiles_are_values_that_were_seen() -> None:
    ordered = list(range(1, 1001))
    assert [open_loop.percentile(ordered, share) for share in (0.5, 0.9, 0.99, 0.999)] == [500, 900, 990, 999]
    assert open_loop.percentile([7], 0.999) == 7


def test_only_a_200_with_a_length_is_an_answer() -> None:
    assert open_loop.content_length(b"HTTP/1.1 200 OK\r\nContent-Length: 64") == 64
    assert open_loop.content_length(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 15") is None
    assert open_loop.content_length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked") is None
