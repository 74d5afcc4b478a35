"""Flow records as lines for a person: as wide as the screen, in colour, one or two lines each.

Owns: the columns and what stands in them. Where there is no screen (a pipe) nothing is cut. On a screen a record is one line;
what was not forwarded gets a second one that says why, unless the screen is wide enough for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tidegate.flows.record import NANOSECONDS, Flow, FlowEnd, HttpPart, Verdict

if TYPE_CHECKING:
    from rich.text import Text

    from tidegate.flows.summary import FlowSummary

WHY_COLUMN_WIDTH_MIN = 160
"""From this width on, why stands in the same line."""
SIDE_COLUMN_WIDTH_MIN = 110
TIME_WIDTH, VERDICT_WIDTH, SIDE_WIDTH = 12, 10, 7
GAP = "  "
ARROW = " -> "
PIPE_COLUMN_WIDTH = 44

_VERDICT_STYLES = {
    Verdict.FORWARDED: "green",
    Verdict.REDIRECTED: "cyan",
    Verdict.DENIED: "bold red",
    Verdict.DROPPED: "red",
    Verdict.AUDITED: "yellow",
    Verdict.ERROR: "magenta",
}


@dataclass(frozen=True, slots=True)
class Columns:
    """How wide what is. ``width`` None: a pipe, where columns only have a least width."""

    width: int | None
    ends: int
    what: int
    has_side: bool
    has_why: bool

    @classmethod
    def fit(cls, width: int | None) -> Columns:
        """Share ``width`` cells."""
        if width is None:
            return cls(None, PIPE_COLUMN_WIDTH, PIPE_COLUMN_WIDTH, has_side=True, has_why=True)
        has_side, has_why = width >= SIDE_COLUMN_WIDTH_MIN, width >= WHY_COLUMN_WIDTH_MIN
        fixed = TIME_WIDTH + VERDICT_WIDTH + 2 * len(GAP) + (SIDE_WIDTH + len(GAP) if has_side else 0)
        rest = max(20, width - fixed - len(GAP) - (width // 3 if has_why else 0))
        ends = min(rest // 2, 56)
        return cls(width, ends, rest - ends, has_side, has_why)


def heading(columns: Columns) -> Text:
    """Return the names of the columns."""
    from rich.text import Text

    parts = [Text("TIME"), Text("VERDICT"), Text("SIDE"), Text("FROM -> TO"), Text("WHAT"), Text("WHY")]
    line = _line(columns, parts)
    line.stylize("bold")
    return line


def flow_lines(flow: Flow, columns: Columns) -> list[Text]:
    """Return the line of a record, or its two."""
    from tidegate.cli.output import cell

    style = _VERDICT_STYLES[flow.verdict]
    verdict, why = cell(flow.verdict.value, style), cell(why_of(flow), "" if columns.has_why else "dim")
    time, side = cell(_clock(flow.time_ns), "dim" if columns.width else ""), cell(flow.direction.value)
    on_screen = columns.width is not None
    ends = _ends(flow, columns.ends if on_screen else None)
    what = _what(flow, columns.what if on_screen else None)
    lines = [_line(columns, [time, verdict, side, ends, what, why])]
    if not columns.has_why and flow.verdict not in (Verdict.FORWARDED, Verdict.REDIRECTED) and why.plain:
        second = cell(" " * (TIME_WIDTH + len(GAP)) + "└ ", "dim")
        second.append_text(why)
        lines.append(second)
    return lines


def why_of(flow: Flow) -> str:
    """Return what decided, in words."""
    if flow.rule is not None:
        return str(flow.rule)
    if flow.nearest_miss:
        return f"no rule allows it; nearest: {flow.nearest_miss}"
    return "no rule allows it" if flow.reason == "POLICY_DENIED" else flow.reason.lower().replace("_", " ")


def _line(columns: Columns, parts: list[Text]) -> Text:
    """Join the six parts; on a screen each is cut to its column, and so is the line."""
    time, verdict, side, ends, what, why = parts
    shown = [(time, TIME_WIDTH), (verdict, VERDICT_WIDTH)]
    shown += [(side, SIDE_WIDTH)] if columns.has_side else []
    shown += [(ends, columns.ends), (what, columns.what)]
    shown += [(why, 0)] if columns.has_why else []
    line = type(time)()
    for index, (part, width) in enumerate(shown):
        if width and columns.width is not None:
            part.truncate(width, overflow="ellipsis", pad=True)
        elif width:
            part.pad_right(max(0, width - part.cell_len))
        line.append_text(part)
        if index < len(shown) - 1:
            line.append(GAP)
    line.rstrip()
    return line


def _clock(time_ns: int) -> str:
    """Return the local time of day with milliseconds."""
    when = datetime.fromtimestamp(time_ns // NANOSECONDS, UTC).astimezone()
    return f"{when:%H:%M:%S}.{time_ns % NANOSECONDS // 1_000_000:03d}"


def _ends(flow: Flow, width: int | None) -> Text:
    """Return both ends within ``width``: by name, else by workload, else without namespaces, else cut."""
    from tidegate.cli.output import visible

    ends = (flow.source, flow.destination)
    port = flow.destination.port
    suffix = (f":{port}" if flow.destination.name else f" port {port}") if port else ""
    if width is None:
        return _joined(visible(_end(flow.source)), visible(_end(flow.destination)), suffix)
    for name in (_end, _workload, _bare):
        source, destination = (visible(name(end)) for end in ends)
        text = _joined(source, destination, suffix)
        if text.cell_len <= width:
            return text
    share = max(4, (width - len(ARROW) - len(suffix)) // 2)
    return _joined(_cut(source, share), _cut(destination, width - len(ARROW) - len(suffix) - min(share, len(source))), suffix)


def _joined(source: str, destination: str, suffix: str) -> Text:
    from rich.text import Text

    return Text.assemble(source, (ARROW, "dim"), destination, (suffix, "dim"))


def _end(end: FlowEnd) -> str:
    if end.name:
        return end.key
    reserved = [label.removeprefix("reserved:") for label in end.labels if label.startswith("reserved:")]
    address = str(end.address or "?")
    return f"{address} ({reserved[0]})" if reserved else address


def _workload(end: FlowEnd) -> str:
    return end.workload if end.name else _end(end)


def _bare(end: FlowEnd) -> str:
    return end.workload.rpartition("/")[2] if end.name else str(end.address or "?")


def _what(flow: Flow, width: int | None) -> Text:
    """Return the message. On a screen an HTTP request is method, path and status, and it is the path that gives way."""
    from rich.text import Text

    from tidegate.cli.output import cell, visible

    message = flow.l7
    if width is None or not isinstance(message, HttpPart):
        return cell(flow.summary())
    grpc = f" grpc-status {message.grpc_status}" if message.grpc_status is not None else ""
    code = f" {message.code}" if message.code else ""
    method, path = f"{message.method} ", visible(message.url)
    if len(method) + len(path) + len(code) + len(grpc) > width:
        path = visible(message.path)
    style = "green" if message.code < 400 else "yellow" if message.code < 500 else "red"
    return Text.assemble(visible(method), _cut(path, width - len(method) - len(code) - len(grpc)), (code, style), grpc)


def _cut(text: str, width: int) -> str:
    from rich.text import Text

    shown = Text(text)
    shown.truncate(max(1, width), overflow="ellipsis")
    return shown.plain


# ---- the summary --------------------------------------------------------------------------------------------------------


def show_summary(summary: FlowSummary) -> None:
    """Print a summary as tables."""
    from tidegate.cli.output import cell, show, table

    if not summary.records:
        show(cell("No records."))
        return
    span = (summary.last_ns - summary.first_ns) / NANOSECONDS
    counts = ", ".join(f"{count} {verdict.value}" for verdict, count in summary.verdicts)
    show(cell(f"{summary.records} records in {span:.1f} s: {counts}", "bold"))
    talkers = [
        (count, verdict.value, talk.source, talk.destination, talk.port or "", talk.protocol)
        for talk, verdict, count in summary.talkers
    ]
    policies = [(count, verdict.value, policy, rule) for policy, rule, verdict, count in summary.policies]
    latencies = [
        (each.protocol, each.count, *(_milliseconds(value) for value in (*each.quantiles_ns, each.max_ns)))
        for each in summary.latencies
    ]
    parts: list[tuple[tuple[str, ...], Sequence[Sequence[Any]]]] = [
        (("RECORDS", "VERDICT", "FROM", "TO", "PORT", "PROTOCOL"), talkers),
        (("RECORDS", "VERDICT", "POLICY", "RULE"), policies),
        (("RECORDS", "REASON"), [(count, reason) for reason, count in summary.reasons]),
        (("PROTOCOL", "RECORDS", "P50", "P90", "P99", "MAX"), latencies),
    ]
    for columns, rows in parts:
        if rows:
            print()
            show(table(columns, rows))


def _milliseconds(value_ns: int) -> str:
    return f"{value_ns / 1_000_000:.2f} ms"
