"""The tables, as text: figures of every arm, then the ratios that can be quoted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bench.results import Figure, Results, Run, Spread
from bench.workloads import Kind, Workload

RATIOS = (
    ("tidegate", "envoy-only"),
    ("tidegate", "envoy-lean"),
    ("tidegate", "node-tproxy"),
    ("tidegate", "sidecars"),
    ("tidegate", "direct"),
    ("l4", "direct"),
)
PERCENTILES = ("p50", "p90", "p99", "p999")
_HEADS = {"p999": "p99.9"}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    return [line(head), "  ".join("-" * width for width in widths), *map(line, rows)]


def number(value: float) -> str:
    """Return three significant digits or so, without exponents."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(found: Spread | None) -> str:
    """Return the median and how far the farthest round was from it."""
    if found is None:
        return "-"
    farthest = max(found.high - found.median, found.median - found.low)
    return f"{number(found.median)} ±{100 * farthest / found.median:.0f}%" if found.median else "0"


def times(found: Spread | None) -> str:
    """Return a ratio."""
    return "-" if found is None else f"{found.median:.2f} ({found.low:.2f}..{found.high:.2f})"


def text(results: Results) -> str:
    """Return the whole report."""
    parts = [_about(results), _ratios(results), _added(results), _throughput(results), _cpu(results)]
    parts += [_latency(results, each) for each in results.workloads if each.kind is Kind.LATENCY]
    parts += [_bpf(results), _memory(results), _problems(results)]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _about(results: Results) -> list[str]:
    about = results.about
    machine, settings = about["machine"], about["settings"]
    return [
        f"Tidegate benchmark, {about['date']}: {about['command']}",
        f"{machine['processors']} x {machine['model']}, Linux {machine['kernel']}, Envoy {about['versions']['envoy']} "
        f"({settings['envoy_concurrency']} workers in every Envoy), nginx {about['versions']['nginx']} (1 worker)",
        f"{settings['rounds']} rounds of {settings['seconds']} s per workload and arm, arms interleaved; figures are medians "
        "over rounds, with the farthest round (±) or least..greatest in brackets",
        f"load average at the start {machine['load_start']}, at the end {machine['load_end']}; "
        f"time stolen by the hypervisor {machine['steal_percent']:.1f} %",
    ]


def _named(results: Results, *names: str) -> bool:
    return all(name in results.arms for name in names)


def _ratios(results: Results) -> list[str]:
    chosen = [(above, below) for above, below in RATIOS if _named(results, above, below)]
    if not chosen:
        return []
    rows = []
    for workload in results.workloads:
        figure: Figure = partial(Run.primary, kind=workload.kind)
        cells = [times(results.ratio(workload.name, above, below, figure)) for above, below in chosen]
        better = "less is better" if workload.kind is Kind.LATENCY else "more is better"
        rows.append([f"{workload.name} ({'p99' if workload.kind is Kind.LATENCY else workload.kind}; {better})", *cells])
    for workload in results.workloads:
        if workload.kind is Kind.THROUGHPUT:
            cells = [times(results.ratio(workload.name, above, below, Run.machine_us)) for above, below in chosen]
            rows.append([f"{workload.name} (CPU of the machine per request; less is better)", *cells])
    lines = table(["ratio within a round", *(f"{above}/{below}" for above, below in chosen)], rows)
    return ["RATIOS", *lines]


def _added(results: Results) -> list[str]:
    if not _named(results, "tidegate", "sidecars", "direct"):
        return []
    rows = []
    for workload in results.workloads:
        if workload.kind is Kind.LATENCY and not workload.raw_tcp:
            cells = [
                times(results.added_ratio(workload.name, "tidegate", below, "direct", partial(Run.latency, name=name)))
                for below in ("sidecars", "envoy-only")
                if below in results.arms
                for name in ("p50", "p99")
            ]
            rows.append([workload.name, *cells])
    if not rows:
        return []
    heads = [f"{below}, {name}" for below in ("sidecars", "envoy-only") if below in results.arms for name in ("p50", "p99")]
    return [
        "LATENCY ADDED BY tidegate TO direct, AS A SHARE OF WHAT IS ADDED BY ... (less is better)",
        *table(["", *heads], rows),
    ]


def _throughput(results: Results) -> list[str]:
    chosen = [each for each in results.workloads if each.kind is not Kind.LATENCY]
    rows = [
        [f"{each.name} ({each.kind})"]
        + [spread(results.spread(each.name, arm, partial(Run.primary, kind=each.kind))) for arm in results.arms]
        for each in chosen
    ]
    return ["THROUGHPUT (closed loop)", *table(["", *results.arms], rows)] if rows else []


def _cpu(results: Results) -> list[str]:
    rows = []
    for each in results.workloads:
        if each.raw_tcp:
            continue
        for what, figure in (("Envoys", Run.envoy_us), ("agent", Run.agent_us), ("machine", Run.machine_us)):
            rows.append([f"{each.name}, {what}", *(spread(results.spread(each.name, arm, figure)) for arm in results.arms)])
    for each in results.workloads:
        if each.kind is Kind.BANDWIDTH:
            cells = [spread(results.spread(each.name, arm, Run.machine_us_per_mb)) for arm in results.arms]
            rows.append([f"{each.name}, machine, us per MB", *cells])
    if not rows:
        return []
    return ["CPU, microseconds per request (= milliseconds per 1,000 requests)", *table(["", *results.arms], rows)]


def _latency(results: Results, workload: Workload) -> list[str]:
    rows = [
        [arm, *(spread(results.spread(workload.name, arm, partial(Run.latency, name=name))) for name in PERCENTILES)]
        for arm in results.arms
        if results.spread(workload.name, arm, partial(Run.latency, name="p50")) is not None
    ]
    if not rows:
        return []
    late = Spread.of(
        run.outcome.client_late_us["p99"]
        for run in results.runs
        if run.workload == workload.name and run.outcome is not None and run.outcome.client_late_us
    )
    note = "" if late is None else f"; the client itself sent late by {spread(late)} us at p99"
    head = f"LATENCY, microseconds: {workload.name}, {workload.text}{note}"
    return [head, *table(["arm", *(_HEADS.get(name, name) for name in PERCENTILES)], rows)]


def _bpf(results: Results) -> list[str]:
    rows = [
        [
            f"{arm}, {workload}, {name}",
            f"{program['per_request']:.2f}",
            f"{program['ns_per_run']:.0f}",
            f"{program['us_per_request']:.2f}",
        ]
        for arm, workloads in results.bpf.items()
        for workload, programs in workloads.items()
        for name, program in programs.items()
    ]
    if not rows:
        return []
    return [
        "BPF PROGRAMS (runs of their own with the kernel's counting on; requests are round trips, or megabytes of tcp-stream)",
        *table(["", "runs per request", "ns per run", "us per request"], rows),
    ]


def _memory(results: Results) -> list[str]:
    rows = [
        [arm, str(len(found["envoys"])), number(sum(found["envoys"].values()) / 1e6)]
        for arm, found in results.about["arms"].items()
        if found.get("envoys")
    ]
    return ["MEMORY of Envoys at the end, MB resident", *table(["arm", "Envoys", "MB"], rows)] if rows else []


def _problems(results: Results) -> list[str]:
    problems = results.problems()
    if not problems:
        return ["No run failed, no request had an error, every proxy was in the way of its arm's requests."]
    return ["PROBLEMS", *problems]
