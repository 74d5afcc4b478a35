"""Small plots, written as SVG by hand: bars with their spread, and latency percentiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from xml.sax.saxutils import escape

from bench.report import PERCENTILES, number
from bench.results import Results, Run, Spread
from bench.workloads import Kind, Workload

WIDTH, LEFT, RIGHT, BAR, GAP, TOP, BOTTOM, LABEL = 720, 110, 130, 20, 8, 46, 14, 14
COLOURS = {
    "direct": "#9aa0a6",
    "l4": "#5f9ea0",
    "envoy-lean": "#c9b458",
    "envoy-only": "#d99a3d",
    "node-tproxy": "#b07aa1",
    "tidegate": "#1f77b4",
    "sidecars": "#c0504d",
}
OTHER_COLOUR = "#777777"
_STYLE = "text{font:12px sans-serif;fill:#333}.h{font-weight:bold;font-size:13px}.s{fill:#777;font-size:11px}"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar."""

    label: str
    value: Spread


def document(width: int, height: int, body: Sequence[str]) -> str:
    """Return an SVG file."""
    lines = "\n".join(body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
        f'<style>{_STYLE}</style>\n<rect width="{width}" height="{height}" fill="white"/>\n{lines}\n</svg>\n'
    )


def bars(title: str, note: str, chosen: Sequence[Bar]) -> str:
    """Return horizontal bars from zero; a line shows least to greatest."""
    most = max(bar.value.high for bar in chosen) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / most
    body = _head(title, note)
    for index, bar in enumerate(chosen):
        y = TOP + index * (BAR + GAP)
        middle = y + BAR / 2
        low, high = LEFT + bar.value.low * scale, LEFT + bar.value.high * scale
        body += [
            f'<text x="{LEFT - 8}" y="{middle + 4:.0f}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{bar.value.median * scale:.1f}" height="{BAR}" '
            f'fill="{COLOURS.get(bar.label, OTHER_COLOUR)}"/>',
            f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {y + 5}v{BAR - 10}M{high:.1f} {y + 5}v{BAR - 10}" '
            f'stroke="#222"/>',
            f'<text x="{high + 8:.0f}" y="{middle + 4:.0f}">{number(bar.value.median)}</text>',
        ]
    return document(WIDTH, TOP + len(chosen) * (BAR + GAP) + BOTTOM, body)


def percentiles(title: str, note: str, lines: Sequence[tuple[str, Sequence[float]]], ticks: Sequence[str]) -> str:
    """Return latency by percentile, one line each, on a logarithmic scale."""
    height, bottom, right = 320, 290, 150
    values = [value for _, each in lines for value in each]
    low, high = math.floor(math.log10(min(values)) * 4) / 4, math.ceil(math.log10(max(values)) * 4) / 4
    high = max(high, low + 0.25)

    def y(value: float) -> float:
        return bottom - (math.log10(value) - low) / (high - low) * (bottom - TOP)

    xs = [LEFT + index * (WIDTH - LEFT - right) / max(1, len(ticks) - 1) for index in range(len(ticks))]
    body = _head(title, note)
    for mark in (mantissa * 10.0**power for power in range(8) for mantissa in (1, 2, 5)):
        if low <= math.log10(mark) <= high:
            body.append(f'<path d="M{LEFT} {y(mark):.1f}H{WIDTH - right}" stroke="#ddd"/>')
            body.append(f'<text class="s" x="{LEFT - 8}" y="{y(mark) + 4:.1f}" text-anchor="end">{number(mark)} us</text>')
    body += [
        f'<text class="s" x="{x:.0f}" y="{bottom + 18}" text-anchor="middle">{tick}</text>'
        for x, tick in zip(xs, ticks, strict=True)
    ]
    ordered = sorted(lines, key=lambda line: line[1][-1])
    labels = label_heights([y(found[-1]) + 4 for _, found in ordered], TOP)
    for (name, found), label_y in zip(ordered, labels, strict=True):
        colour = COLOURS.get(name, OTHER_COLOUR)
        points = " ".join(f"{x:.1f},{y(value):.1f}" for x, value in zip(xs, found, strict=True))
        body.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body.append(
            f'<text x="{xs[-1] + 8:.0f}" y="{label_y:.0f}" style="fill:{colour}">{escape(name)} {number(found[-1])}</text>'
        )
    return document(WIDTH, height, body)


def label_heights(wanted: Sequence[float], top: float) -> list[float]:
    """Return where labels stand, from the lowest up: a line's height apart, none above ``top``."""
    found: list[float] = []
    for height in wanted:
        found.append(min(height, found[-1] - LABEL) if found else height)
    overflow = max(0.0, top - min(found, default=top))
    return [height + overflow for height in found]


def _head(title: str, note: str) -> list[str]:
    return [f'<text class="h" x="10" y="20">{escape(title)}</text>', f'<text class="s" x="10" y="36">{escape(note)}</text>']


def all_of(results: Results) -> dict[str, str]:
    """Return every plot by file name."""
    note = f"median of {results.about['settings']['rounds']} rounds, line: least..greatest"
    found: dict[str, str] = {}
    for workload in results.workloads:
        if workload.kind is Kind.LATENCY:
            plot = _latency(results, workload, note)
        else:
            plot = _bars(results, workload, f"{workload.kind}, more is better; {note}")
        if plot:
            found[f"{workload.name}.svg"] = plot
    return found


def _bars(results: Results, workload: Workload, note: str) -> str | None:
    pairs = [(arm, results.spread(workload.name, arm, partial(Run.primary, kind=workload.kind))) for arm in results.arms]
    chosen = [Bar(arm, value) for arm, value in pairs if value is not None]
    return bars(workload.text, note, chosen) if chosen else None


def _latency(results: Results, workload: Workload, note: str) -> str | None:
    lines = []
    for arm in results.arms:
        found = [results.spread(workload.name, arm, partial(Run.latency, name=name)) for name in PERCENTILES]
        values = [each.median for each in found if each is not None]
        if len(values) == len(PERCENTILES):
            lines.append((arm, values))
    ticks = [f"p{name[1:3]}.{name[3:]}" if len(name) > 3 else name for name in PERCENTILES]
    return percentiles(workload.text, f"less is better; {note.partition(',')[0]}", lines, ticks) if lines else None
