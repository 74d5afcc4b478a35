"""``tidegate flows``."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.errors import UsageError
from tidegate.cli.options import ConfigOption, node_client

if TYPE_CHECKING:
    from rich.text import Text

FOLLOW_LAST = 10
"""How much of the past --follow shows first, like tail -f."""


class FlowFormat(StrEnum):
    """How records are printed."""

    TABLE = "table"
    JSON = "json"
    JSONPB = "jsonpb"


def flows(
    config: ConfigOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing what comes.")] = False,
    verdict: Annotated[
        list[str] | None,
        typer.Option(help="forwarded, redirected, denied, dropped (denied too), audited, error. Repeatable.", metavar="VERDICT"),
    ] = None,
    namespace: Annotated[
        list[str] | None, typer.Option("--namespace", "-n", help="Of either end. Repeatable.", metavar="NAMESPACE")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="NAME or NAMESPACE/NAME of either end. Repeatable.", metavar="NAME")
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(help="http, grpc, tls, dns, kafka, tcp, udp, icmp, ... Repeatable.", metavar="PROTOCOL")
    ] = None,
    since: Annotated[
        str, typer.Option(help="Only newer ones: 30s, 5m, 2h, or a time such as 2026-01-31T12:00:00Z.", metavar="WHEN")
    ] = "",
    last: Annotated[
        int | None, typer.Option(min=0, help="Only the last N of those kept (with -f: 10).", metavar="N", show_default=False)
    ] = None,
    output: Annotated[FlowFormat, typer.Option("--output", "-o", help="table, json (a flow per line), jsonpb (Hubble's).")] = (
        FlowFormat.TABLE
    ),
) -> None:
    """Show verdicts on requests and packets: who, to whom, what, and which rule decided.

    Denials are always recorded; allowed requests all while somebody follows, else a sample (flows.allowedSample).

    Examples:

      tidegate flows -f --verdict denied

      tidegate flows --since 5m -n default -o json | jq .tidegate.nearest_miss
    """
    from tidegate.flows import FlowFilter, parse_verdicts

    try:
        wanted = FlowFilter(
            verdicts=parse_verdicts(verdict or ()),
            namespaces=frozenset(namespace or ()),
            names=frozenset(name or ()),
            protocols=frozenset(word.lower() for word in protocol or ()),
            since_ns=_since_ns(since, time.time_ns()),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    if last is None and follow:
        last = FOLLOW_LAST
    query = wanted.to_query()
    query |= {"follow": "1"} if follow else {}
    query |= {"last": str(last)} if last is not None else {}
    lines = node_client(config).stream("/v1/flows", query)
    match output:
        case FlowFormat.TABLE:
            _print_table(lines)
        case FlowFormat.JSON | FlowFormat.JSONPB:
            _print_json(lines, whole=output is FlowFormat.JSONPB)
    if follow:
        from tidegate.client import NodeUnreachable

        raise NodeUnreachable("the agent has stopped", "follow again when it runs")


_AGO = re.compile(r"(\d{1,9})(s|m|h|d)")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _since_ns(text: str, now_ns: int) -> int:
    """Read a duration before now, or a time. Raises ValueError."""
    if not text:
        return 0
    ago = _AGO.fullmatch(text)
    if ago:
        return max(0, now_ns - int(ago[1]) * _UNIT_SECONDS[ago[2]] * 1_000_000_000)
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"--since {text!r}: write a duration such as 5m, or a time such as 2026-01-31T12:00:00Z") from error
    if when.tzinfo is None:
        when = when.astimezone()
    return max(0, int(when.timestamp() * 1e9))


def _print_json(lines: Iterable[dict[str, Any]], whole: bool) -> None:
    from tidegate.cli.errors import complain

    for line in lines:
        if whole:
            print(json.dumps(line), flush=True)
        elif "flow" in line:
            print(json.dumps(line["flow"]), flush=True)
        else:
            complain(_lost(line))


def _lost(line: dict[str, Any]) -> str:
    return f"{line.get('lost_events', {}).get('num_events_lost', '?')} flows lost: this reader is too slow"


def _print_table(lines: Iterator[dict[str, Any]]) -> None:
    """Print a line per record as it comes, so that following needs no screen control and can be piped."""
    from tidegate.cli.output import cell, console

    screen = console()
    heading = True
    for line in lines:
        if heading:
            screen.print(cell(_row("TIME", "VERDICT", "SIDE", "FROM -> TO", "WHAT", "WHY"), "bold"), soft_wrap=True)
            heading = False
        screen.print(_flow_line(line["flow"]) if "flow" in line else cell(_lost(line), "yellow"), soft_wrap=True)


def _row(when: str, verdict: str, side: str, ends: str, what: str, why: str) -> str:
    return f"{when:<12}  {verdict:<10}  {side:<7}  {ends:<44}  {what:<44}  {why}".rstrip()


def _flow_line(flow: dict[str, Any]) -> Text:
    from tidegate.cli.output import STYLES, cell, visible

    ours = flow.get("tidegate", {})
    verdict = ours.get("verdict", flow.get("verdict", "?").lower())
    # One end's text can be longer than its column; escaping comes first so that widths are those of what is seen.
    ends = visible(f"{_end(flow, 'source')} -> {_end(flow, 'destination')}")
    what = visible(flow.get("Summary", ""))
    why = visible(_why(flow, ours))
    text = cell(_row(_clock(flow.get("time", "")), verdict, flow.get("traffic_direction", "").lower(), ends, what, why))
    text.stylize(STYLES.get(verdict, ""), 14, 14 + len(verdict))
    return text


def _clock(stamp: str) -> str:
    """Return the local time of day with milliseconds."""
    try:
        when = datetime.fromisoformat(f"{stamp[:23]}+00:00").replace(tzinfo=UTC).astimezone()
    except ValueError:
        return stamp[:12]
    return f"{when:%H:%M:%S}.{when.microsecond // 1000:03d}"


def _end(flow: dict[str, Any], side: str) -> str:
    end = flow.get(side, {})
    l4: dict[str, Any] = next(iter(flow.get("l4", {}).values()), {})
    port = l4.get(f"{side}_port") if side == "destination" else None
    address = flow.get("IP", {}).get(side, "?")
    if end.get("pod_name"):
        shown = f"{end.get('namespace', '')}/{end['pod_name']}"
    else:
        reserved = [label.removeprefix("reserved:") for label in end.get("labels", ()) if label.startswith("reserved:")]
        shown = f"{address} ({reserved[0]})" if reserved else address
    return f"{shown}:{port}" if port and not shown.endswith(")") else f"{shown} port {port}" if port else shown


def _why(flow: dict[str, Any], ours: dict[str, Any]) -> str:
    if ours.get("policy"):
        return f"{ours['policy']}:{ours.get('rule', '')}"
    if ours.get("nearest_miss"):
        return f"no rule allows it; nearest: {ours['nearest_miss']}"
    reason = str(flow.get("drop_reason_desc", ""))
    return "no rule allows it" if reason == "POLICY_DENIED" else reason.lower().replace("_", " ")
