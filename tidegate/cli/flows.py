"""``tidegate flows``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.errors import CommandError, UsageError
from tidegate.cli.exits import Exit
from tidegate.cli.options import ConfigOption, node_client, node_config

if TYPE_CHECKING:
    from tidegate.flows.filter import FlowFilter
    from tidegate.flows.record import Flow

FOLLOW_LAST = 10
"""How much of the past --follow shows first, like tail -f."""
Words = list[str] | None


class FlowFormat(StrEnum):
    """How records are printed."""

    TABLE = "table"
    JSON = "json"
    JSONPB = "jsonpb"


def _option(text: str, metavar: str, *names: str) -> Any:
    return typer.Option(*names, help=text, metavar=metavar, show_default=False, rich_help_panel="Filters")


def flows(
    config: ConfigOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing what comes.")] = False,
    last: Annotated[
        int | None, typer.Option(min=0, help="Only the last N of those kept (with -f: 10).", metavar="N", show_default=False)
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Count instead: who talks most, which policies and reasons, how long it takes.")
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option(help="Read this file and those it was rotated to; needs no node.", metavar="PATH", show_default=False),
    ] = None,
    stored: Annotated[bool, typer.Option("--stored", help="Read the files that node.yaml names (flows.file).")] = False,
    output: Annotated[FlowFormat, typer.Option("--output", "-o", help="table, json (a flow per line), jsonpb (Hubble's).")] = (
        FlowFormat.TABLE
    ),
    verdict: Annotated[Words, _option("forwarded, redirected, denied, dropped (denied too), audited, error.", "VERDICT")] = None,
    namespace: Annotated[Words, _option("Of either end.", "NAMESPACE", "--namespace", "-n")] = None,
    name: Annotated[Words, _option("[NAMESPACE/]NAME or workload of either end, an address, or world, host.", "NAME")] = None,
    source: Annotated[Words, _option("The same of who asked.", "NAME", "--from")] = None,
    destination: Annotated[Words, _option("The same of who was asked.", "NAME", "--to")] = None,
    label: Annotated[Words, _option("KEY or KEY=VALUE; one end has all of them.", "LABEL", "--label", "-l")] = None,
    port: Annotated[Words, _option("Of the destination.", "PORT")] = None,
    protocol: Annotated[Words, _option("http, grpc, tls, dns, kafka, tcp, udp, icmp, ...", "PROTOCOL")] = None,
    method: Annotated[Words, _option("HTTP method or Kafka API.", "METHOD")] = None,
    path: Annotated[str, _option("Regular expression (RE2) found in the path of a request.", "REGEX")] = "",
    status: Annotated[Words, _option("HTTP status: 404, or a class: 4xx.", "STATUS")] = None,
    topic: Annotated[Words, _option("Kafka topic; * stands for anything.", "TOPIC")] = None,
    dns: Annotated[Words, _option("Name asked for; * stands for anything.", "NAME")] = None,
    policy: Annotated[Words, _option("That decided, or came nearest: KEY, NAMESPACE/NAME or NAME.", "POLICY")] = None,
    since: Annotated[str, _option("Only newer ones: 30s, 5m, 2h, or a time such as 2026-01-31T12:00:00Z.", "WHEN")] = "",
    until: Annotated[str, _option("Only older ones.", "WHEN")] = "",
) -> None:
    """Show verdicts on requests and packets: who, to whom, what, and which rule decided.

    Denials are always recorded; allowed requests all while somebody follows, else a sample (flows.allowedSample). Filters may be
    repeated, or list values with commas; all kinds that are given must hold.

    Examples:

      tidegate flows -f --verdict denied

      tidegate flows --since 5m -n default --status 5xx -o json | jq .Summary

      tidegate flows --since 1h --summary
    """
    query = {
        "verdict": verdict,
        "namespace": namespace,
        "name": name,
        "source": source,
        "destination": destination,
        "label": label,
        "port": port,
        "protocol": protocol,
        "method": method,
        "path": [path],
        "status": status,
        "topic": topic,
        "dns": dns,
        "policy": policy,
        "since": [since],
        "until": [until],
    }
    wanted = _filter({key: ",".join(words) for key, words in query.items() if words})
    if follow and (summary or file or stored):
        raise UsageError("--follow goes with none of --summary, --file and --stored", "leave one out")
    if file or stored:
        lines = _read(file or _stored_path(config), wanted, last)
    else:
        lines = _ask(config, wanted, FOLLOW_LAST if last is None and follow else last, follow=follow)
    if summary:
        _print_summary(lines, output)
    elif output is FlowFormat.TABLE:
        _print_table(lines)
    else:
        _print_json(lines, whole=output is FlowFormat.JSONPB)
    if follow:
        from tidegate.admin.client import NodeUnreachable

        raise NodeUnreachable("the agent has stopped", "follow again when it runs")


def _filter(query: dict[str, str]) -> FlowFilter:
    from tidegate.flows.filter import FlowFilter

    try:
        return FlowFilter.from_query(query, time.time_ns())
    except ValueError as error:
        raise UsageError(str(error)) from error


# ---- where records come from: lines as the admin API sends them ----------------------------------------------------------


def _ask(config: Path | None, wanted: FlowFilter, last: int | None, *, follow: bool) -> Iterator[dict[str, Any]]:
    query = wanted.to_query()
    query |= {"follow": "1"} if follow else {}
    query |= {"last": str(last)} if last is not None else {}
    return node_client(config).stream("/v1/flows", query)


def _stored_path(config: Path | None) -> Path:
    settings = node_config(config)
    if settings.flows.file is None:
        raise CommandError("this node keeps no flows on disk", "add `flows: {file: {path: ./flows.jsonl}}` to node.yaml", Exit.NO)
    return settings.flows.file.path


def _read(path: Path, wanted: FlowFilter, last: int | None) -> Iterator[dict[str, Any]]:
    from collections import deque

    from tidegate.flows.file import read_files
    from tidegate.flows.record import rfc3339

    try:
        found: Iterable[Flow] = (flow for flow in read_files(path) if wanted.matches(flow))
        for flow in found if last is None else deque(found, maxlen=last):
            yield {"flow": flow.to_json(), "node_name": flow.node, "time": rfc3339(flow.time_ns)}
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}", "is it the file that flows.file names?", Exit.INVALID) from error


# ---- how they are shown ----------------------------------------------------------------------------------------------------


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
    """Print each record as it comes, so that following needs no screen control and can be piped."""
    from tidegate.cli.flow_table import Columns, flow_lines, heading
    from tidegate.cli.output import cell, console, screen_width
    from tidegate.flows.reader import NotAFlow, read_flow

    screen = console()
    for index, line in enumerate(lines):
        columns = Columns.fit(screen_width())  # anew for each: a window may be resized
        if not index:
            screen.print(heading(columns), soft_wrap=True)
        if "flow" not in line:
            screen.print(cell(_lost(line), "yellow"), soft_wrap=True)
            continue
        try:
            for text in flow_lines(read_flow(line["flow"]), columns):
                screen.print(text, soft_wrap=True)
        except NotAFlow:  # from a newer agent: show what can be shown
            screen.print(cell(line["flow"].get("Summary", "?")), soft_wrap=True)


def _print_summary(lines: Iterator[dict[str, Any]], output: FlowFormat) -> None:
    from tidegate.cli.flow_table import show_summary
    from tidegate.cli.output import print_json
    from tidegate.flows.reader import read_flow
    from tidegate.flows.summary import summarise

    found = summarise(read_flow(line["flow"]) for line in lines if "flow" in line)
    if output is FlowFormat.TABLE:
        show_summary(found)
    else:
        print_json(found.as_json())
