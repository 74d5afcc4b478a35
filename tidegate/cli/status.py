"""``tidegate status``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from tidegate.cli.exits import Exit
from tidegate.cli.options import ConfigOption, node_client
from tidegate.cli.output import Format, FormatOption, cell, print_json, show, table


def status(
    config: ConfigOption = None,
    wait: Annotated[
        float,
        typer.Option("--wait", min=0, max=3600, metavar="SECONDS", help="Wait up to this long until everything is realised."),
    ] = 0,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show whether everything is realised: endpoints, policies, Envoy, BPF.

    Exits 0 only if all of it is; 1 if something is outstanding or wrong; 4 if no agent answers.

    Example:  tidegate status --wait 10 -o json
    """
    found = node_client(config).status(wait)
    if output is Format.JSON:
        print_json(found)
    else:
        _print_status(found)
    raise typer.Exit(Exit.OK if found["all_realised"] else Exit.NO)


def _print_status(found: dict[str, Any]) -> None:
    drops = ((each["reason"], each["direction"], each["packets"], each["bytes"]) for each in found["drops"] if each["packets"])
    parts = [
        (("PART", "STATE", "DETAIL"), _summary(found)),
        (_ENDPOINT_COLUMNS, [_endpoint_row(each) for each in found["endpoints"]]),
        (("UNMANAGED", "KIND", "MESSAGE"), [(each["name"], each["kind"], each["reason"]) for each in found.get("unmanaged", ())]),
        (_POLICY_COLUMNS, [_policy_row(each) for each in found["policies"]]),
        (("DOCUMENT", "FIELD", "MESSAGE"), [_document_row(each) for each in found["document_errors"]]),
        (("REFUSED BY ENVOY", "MESSAGE"), list(found["xds"]["quarantined"].items())),
        (("DROPPED", "AT", "PACKETS", "BYTES"), list(drops)),
    ]
    for index, (columns, rows) in enumerate(parts):
        if rows:
            print(end="\n" if index else "")
            show(table(columns, rows))
    if not found["all_realised"]:
        print()
        show(cell("Not all is realised:", "bold yellow"))
        for line in found["obstacles"]:
            show(cell(f"  {line}"))


def _summary(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    envoy, bpf, xds, flows = found["envoy"], found["bpf"], found["xds"], found["flows"]
    attached = ", ".join(f"{hook} {count}" for hook, count in sorted(bpf["attached"].items()))
    fullest = max(found["maps"], key=lambda each: each["entries"] / max(1, each["capacity"]), default=None)
    fill = f"; fullest map {fullest['name']} {fullest['entries']}/{fullest['capacity']}" if fullest else ""
    version = " ".join(filter(None, (envoy["version"], f"pid {envoy['pid']}" if envoy["pid"] else "")))
    lost = sum(flows["lost"].values())
    stream = "connected" if xds["connected"] else "not connected"
    return [
        ("Node", "ok" if found["all_realised"] else "pending", f"{found['node']}, revision {found['revision']}"),
        ("BPF", "ok" if bpf["healthy"] else "failed", bpf["message"] or f"attached: {attached or 'nothing'}{fill}"),
        ("Envoy", envoy["state"], envoy["message"] or version),
        ("DNS proxy", *_dns_summary(found["dns"])),
        (
            "xDS",
            "ok" if xds["connected"] and not xds["quarantined"] else "warning",
            f"{stream}; {xds['resources']} resources, {xds['pushes']} pushes, {xds['acks']} ACKs, {xds['nacks']} NACKs",
        ),
        _counts_row(found.get("counts", {})),
        (
            "Flows",
            "ok" if not lost and not flows.get("message") else "warning",
            f"{flows['seen']} recorded, {lost} lost, {flows['followers']} following"
            + (f"; {flows['message']}" if flows.get("message") else ""),
        ),
    ]


def _dns_summary(dns: dict[str, Any]) -> tuple[str, str]:
    """State and detail; a proxy that no policy needs is no trouble."""
    if not dns["wanted"] and dns["state"] != "ready":
        return "unused", "no policy has DNS rules"
    counters, gauges = dns["counters"], dns["gauges"]
    numbers = f"{counters.get('answered', 0)} answered, {counters.get('refused', 0)} refused, {counters.get('failed', 0)} failed"
    known = f"{gauges.get('cached_names', 0)} names known, {gauges.get('in_flight', 0)} in flight"
    detail = f"pid {dns['pid']}, {len(dns['slots'])} of {dns['wanted']} slots; {numbers}; {known}"
    return "warning" if dns["message"] and dns["state"] == "ready" else dns["state"], dns["message"] or detail


def _counts_row(counts: Mapping[str, Any]) -> tuple[str, str, str]:
    """An older agent tells nothing of counts."""
    if not counts or counts["unavailable"]:
        return "Counts", "warning", counts["unavailable"] if counts else "unknown: an older agent"
    lost = sum(counts["overflow"].values())
    room = f"{counts['records']} of {counts['capacity']} records in use"
    return "Counts", "warning" if lost else "ok", room + (f"; {lost} requests without a record of their own" if lost else "")


_ENDPOINT_COLUMNS = ("ENDPOINT", "STATE", "ID", "ON", "POLICIES", "REV", "ADDRESSES", "MESSAGE")
_POLICY_COLUMNS = ("POLICY", "STATE", "MODE", "REV", "ENDPOINTS", "SOURCE", "MESSAGE")


def _endpoint_row(each: dict[str, Any]) -> tuple[Any, ...]:
    addresses = " ".join(each["addresses"])
    return (
        each["key"],
        each["state"],
        each["identity"] or "-",
        each["attachment"] or "-",
        each["policies"],
        each["revision"] or "-",
        addresses,
        each["message"],
    )


def _policy_row(each: dict[str, Any]) -> tuple[Any, ...]:
    message = _with_hint(each)
    revision = each["revision"] or "-"
    return (each["key"], each["state"], each["mode"], revision, each["endpoints"], each["source"], message)


def _document_row(each: dict[str, Any]) -> tuple[str, str, str]:
    kept = "; the last good version stays in force" if each["kept"] else ""
    message = _with_hint(each) + kept
    return (f"{each['source']}[{each['index']}]", each["path"], message)


def _with_hint(each: dict[str, Any]) -> str:
    return f"{each['message']} ({each['hint']})" if each["hint"] else each["message"]
