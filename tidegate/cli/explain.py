"""``tidegate explain``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import quote

import typer

from tidegate.cli.errors import CommandError, UsageError, complain
from tidegate.cli.exits import Exit
from tidegate.cli.options import ConfigOption, node_client, node_config
from tidegate.cli.output import Format, FormatOption, print_json, show_text

if TYPE_CHECKING:
    from l7filters.predicates import SecretTexts
    from l7filters.world import World
    from tidegate.explanation import Question
    from tidegate.flows.record import Flow


def explain(
    source: Annotated[
        str, typer.Option("--from", metavar="END", help="Who asks: namespace/name, an address, or host.", show_default=False)
    ] = "",
    destination: Annotated[
        str,
        typer.Option("--to", metavar="END:PORT", help="Whom: namespace/name:port, address:port, [v6]:port.", show_default=False),
    ] = "",
    flow: Annotated[
        str,
        typer.Option(
            "--flow", metavar="UUID", help="Instead: a flow that happened, as `tidegate flows` has it.", show_default=False
        ),
    ] = "",
    flow_file: Annotated[
        Path | None, typer.Option("--flow-file", metavar="PATH", help="Look for it in this file of flows.", show_default=False)
    ] = None,
    http: Annotated[str, typer.Option(metavar="'METHOD PATH'", help="The request, e.g. 'GET /status'.", show_default=False)] = "",
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME=VALUE", help="A header of it. Repeatable.")
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Its host (authority), with its port if any.", show_default=False)
    ] = "",
    sni: Annotated[
        str, typer.Option(metavar="NAME", help="The server name that a TLS client asks for.", show_default=False)
    ] = "",
    kafka: Annotated[
        str,
        typer.Option(
            metavar="'ROLE-OR-API TOPIC... [group=G] [client=C] [version=N]'",
            help="The Kafka request, e.g. 'produce orders'.",
            show_default=False,
        ),
    ] = "",
    dns: Annotated[
        str, typer.Option("--dns", metavar="NAME", help="May END ask the DNS server --to for this name?", show_default=False)
    ] = "",
    query_type: Annotated[str, typer.Option(metavar="TYPE", help="... and this type of record (A).", show_default=False)] = "",
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="NAME", help="For which DNS gave END the address of --to. Repeatable.", show_default=False
        ),
    ] = None,
    protocol: Annotated[
        str, typer.Option(metavar="PROTOCOL", help="tcp (udp with --dns), udp, sctp, icmp, icmpv6, ...", show_default=False)
    ] = "",
    policies: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="Judge by these files or directories. Repeatable.")
    ] = None,
    endpoints: Annotated[
        Path | None, typer.Option(metavar="FILE", help="... and this endpoints.yaml.", show_default=False)
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Ask the running node instead of judging by its files.")] = False,
    config: ConfigOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Say whether policy allows something, which rule decides, or which came nearest and why it didn't.

    With --flow the question is a record: the running node's, judged by what it has in force, or (with --policies or
    --flow-file) by files: what would a candidate policy have said?

    Judges by files: those of --policies and --endpoints, else those of --config. With --live the running node answers by what it
    has in force. Exits 0 if allowed, 1 if denied (or if that depends on a request, and none is given), 3 if a file is wrong.

    Examples:

      tidegate explain --from default/xwing --to default/deathstar:80 --http 'PUT /v1/exhaust-port' -H x-force=true

      tidegate explain --from default/shop --to default/kafka:9092 --kafka 'produce orders'

      tidegate explain --from default/xwing --to kube-system/kube-dns --dns api.example.com

      tidegate explain --from default/xwing --to 203.0.113.7:443 --name api.example.com --sni api.example.com

      tidegate explain --from 192.0.2.7 --to default/db:5432 --policies ./candidate --endpoints endpoints.yaml
    """
    from tidegate.explanation import Question

    if flow:
        if source or destination or http or header or host or sni or kafka or dns or name:
            raise UsageError("--flow is a question by itself", "leave out --from, --to and what describes a request")
        report, broken = _judge_record(flow, flow_file, policies, endpoints, config)
        _finish(report, broken, output)
    if not source or not destination:
        raise UsageError("who asks whom?", "give --from and --to, or --flow UUID")
    question = Question(
        source=source,
        destination=destination,
        protocol=protocol,
        http=http,
        headers=tuple(header or ()),
        host=host,
        server_name=sni,
        kafka=kafka,
        dns=dns,
        query_type=query_type,
        names=tuple(name or ()),
    )
    if live:
        if policies or endpoints:
            raise UsageError("--live judges by what is in force", "leave out --policies and --endpoints, or --live")
        from tidegate.jsonvalue import encode

        report = node_client(config).post("/v1/explain", encode(question))
        broken = False
    else:
        report, broken = _judge_files(question, policies, endpoints, config)
    _finish(report, broken, output)


def _finish(report: dict[str, Any], broken: bool, output: Format) -> NoReturn:
    if output is Format.JSON:
        print_json({key: value for key, value in report.items() if key != "text"})
    else:
        show_text(report["text"])
    if broken:
        raise typer.Exit(Exit.INVALID)
    raise typer.Exit(Exit.OK if report["verdict"] == "allowed" else Exit.NO)


def _judge_record(
    uuid: str, file: Path | None, policies: list[Path] | None, endpoints: Path | None, config: Path | None
) -> tuple[dict[str, Any], bool]:
    """Return the report on a record, and whether some file is wrong."""
    from tidegate.explanation import QuestionError
    from tidegate.flows.reader import NotAFlow, read_flow
    from tidegate.flows.recorded import explain_record

    if file is None and not policies:
        return node_client(config).get(f"/v1/flows/{quote(uuid, safe='')}/explain"), False
    if file is not None:
        flow = _find_in_file(uuid, file)
    else:
        try:
            flow = read_flow(node_client(config).get(f"/v1/flows/{quote(uuid, safe='')}"))
        except NotAFlow as error:
            raise CommandError(str(error), "is the agent of another version?", Exit.REFUSED) from error
    world, secrets, broken = _read_world(policies, endpoints, config)
    try:
        report = explain_record(world, flow, secrets)
    except QuestionError as error:
        raise UsageError(str(error), error.hint) from error
    return {**report.as_json(), "text": report.as_text()}, broken


def _find_in_file(uuid: str, path: Path) -> Flow:
    from tidegate.flows.file import read_files

    try:
        found = next((flow for flow in read_files(path) if flow.uuid == uuid), None)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}", "is it a file of flows?", Exit.INVALID) from error
    if found is None:
        raise UsageError(f"there is no flow {uuid} in {path}", "`tidegate flows --file` shows those there are")
    return found


def _judge_files(
    question: Question, policies: list[Path] | None, endpoints: Path | None, config: Path | None
) -> tuple[dict[str, Any], bool]:
    """Return the report by files, and whether some file is wrong (then it is judged by the good ones)."""
    from tidegate.explanation import QuestionError, answer

    world, secrets, broken = _read_world(policies, endpoints, config)
    try:
        report = answer(world, question, secrets)
    except QuestionError as error:
        raise UsageError(str(error), error.hint) from error
    return {**report.as_json(), "text": report.as_text()}, broken


def _read_world(policies: list[Path] | None, endpoints: Path | None, config: Path | None) -> tuple[World, SecretTexts, bool]:
    """Return the world and the secrets by files, and whether some file is wrong."""
    from tidegate.config.node import ENVIRONMENT_VARIABLE
    from tidegate.explanation import secret_texts
    from tidegate.offline import build_world, node_of, read_endpoints, read_paths, read_secrets
    from tidegate.worlds import StoredSecrets

    is_complete = bool(policies) and endpoints is not None
    settings = None if is_complete or not (config or os.environ.get(ENVIRONMENT_VARIABLE)) else node_config(config)
    if settings is None and not is_complete:
        hint = "give --policies and --endpoints, or --config node.yaml; or ask a running node with --live"
        raise UsageError("judge by which files?", hint)
    state = read_paths(policies or ([settings.policies] if settings else []))
    entries, wrong = read_endpoints(endpoints or (settings.endpoints if settings else Path()))
    stored = [state.secrets]
    errors = [*state.errors, *wrong]
    if settings is not None and settings.secrets is not None:
        kept = read_secrets(settings.secrets)
        stored.append(kept.secrets)
        errors += kept.errors
    for error in errors:
        complain(f"{error.source}: {error}", error.hint)
    node = node_of(settings)
    if settings is None:
        world = build_world(state, entries, node)
    else:
        world = build_world(state, entries, node, settings.enforcement, settings.fqdn.ports)
    return world, secret_texts(world.policies, StoredSecrets(*stored)), bool(errors)
