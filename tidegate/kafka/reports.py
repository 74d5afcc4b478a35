"""What Envoy's module tells of Kafka requests: a line of JSON in a datagram for each that is denied, audited, sampled, and for
each connection that it closed.

Owns: the socket they come to, and reports as values and as flows. Must not know how anything was decided. Reports may be lost
(the module never waits, the kernel's queue is bounded); verdicts never are. Source: ``proxylib/native/src/kafka/report.rs``.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from l7filters.kafka import API_BY_NUMBER
from l7filters.model import Direction, Protocol
from l7filters.parties import canonical
from tidegate.flows.attribution import POLICY_DENIED, POLICY_DENY, NearestMiss, WorldIndex
from tidegate.flows.judged import judged
from tidegate.flows.record import Address, Flow, FlowEnd, KafkaPart, L7Type, Verdict, parse_origin

REPORT_BYTES_MAX = 65536
"""Sixteen topics and groups of at most 32 KB each don't fit; the module sends none that the kernel would cut."""
BATCH_MAX = 512
"""Reports read at one waking: an agent that is told much still does other things."""
BUFFER_BYTES = 1 << 20
"""Of the kernel's queue: thousands of reports."""
VERDICTS = {"allowed": Verdict.FORWARDED, "denied": Verdict.DENIED, "audited": Verdict.AUDITED, "closed": Verdict.ERROR}
REASON_PREFIX = "KAFKA_"


class ReportError(ValueError):
    """A datagram that the module would not have written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaReport:
    """One report. ``api_key`` -1: of a connection that was closed, ``reason`` says why. ``latency_ns`` 0: no broker answered."""

    slot: int
    verdict: Verdict
    client: Address
    client_port: int
    server: Address
    server_port: int
    api_key: int
    api_version: int
    correlation_id: int
    error_code: int
    latency_ns: int
    reason: str
    client_id: str
    topics: tuple[str, ...]
    groups: tuple[str, ...]
    rule: str

    @classmethod
    def parse(cls, data: bytes) -> KafkaReport:
        """Read one datagram. Raises ReportError."""
        try:
            told = json.loads(data)
            return cls(
                slot=int(told["slot"]),
                verdict=VERDICTS[told["verdict"]],
                client=canonical(ip_address(told["client"])),
                client_port=int(told["client_port"]),
                server=canonical(ip_address(told["server"])),
                server_port=int(told["server_port"]),
                api_key=int(told["api_key"]),
                api_version=int(told["api_version"]),
                correlation_id=int(told["correlation_id"]),
                error_code=int(told["error_code"]),
                latency_ns=int(told["latency_ns"]),
                reason=str(told.get("reason", "")),
                client_id=str(told["client_id"]),
                topics=tuple(map(str, told["topics"])),
                groups=tuple(map(str, told["groups"])),
                rule=str(told["rule"] or ""),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ReportError(f"no report of a Kafka request: {error}") from error


class KafkaReports:
    """The socket that reports come to. One per agent; the module finds it by its path, again and again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self.refused_count = 0

    def open(self) -> None:
        """Bind; whoever had the path before (an agent that was killed) is gone."""
        with suppress(FileNotFoundError):
            self._path.unlink()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        # Envoy may run as another user of this directory; who may enter it may report.
        before = os.umask(0o000)
        try:
            self._socket.bind(str(self._path))
        finally:
            os.umask(before)

    def close(self) -> None:
        """Let go of the path."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            with suppress(FileNotFoundError):
                self._path.unlink()

    async def batches(self) -> AsyncIterator[list[KafkaReport]]:
        """Yield what comes, for ever. What is no report is counted."""
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._socket.fileno(), readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                batch = self._read()
                if batch:
                    yield batch
                # Others of this loop first: the socket stays readable while more is there.
                await asyncio.sleep(0)
        finally:
            loop.remove_reader(self._socket.fileno())

    def _read(self) -> list[KafkaReport]:
        assert self._socket is not None
        found: list[KafkaReport] = []
        for _ in range(BATCH_MAX):
            try:
                data = self._socket.recv(REPORT_BYTES_MAX)
            except BlockingIOError:
                break
            try:
                found.append(KafkaReport.parse(data))
            except ReportError:
                self.refused_count += 1
        return found


def flow_from_report(
    index: WorldIndex, report: KafkaReport, *, node: str, uuid: str, time_ns: int, nearest_miss: NearestMiss
) -> Flow:
    """Return the flow of a request that the module judged, or of a connection that it closed."""
    source = index.end(report.client, report.client_port)
    destination = index.end(report.server, report.server_port)
    known = API_BY_NUMBER.get(report.api_key)
    part = None
    if report.api_key >= 0:
        part = KafkaPart(
            api_key=known.name if known is not None else str(report.api_key),
            api_version=report.api_version,
            correlation_id=report.correlation_id,
            client_id=report.client_id,
            topics=report.topics,
            error_code=report.error_code,
            group=report.groups[0] if report.groups else "",
        )
    rule = parse_origin(report.rule) if report.rule else None
    direction = _direction(index, source, destination, report.rule)
    miss = ""
    if rule is None and report.verdict in (Verdict.DENIED, Verdict.AUDITED):
        miss = nearest_miss(judged(source, destination, Protocol.TCP, destination.port, part))
    reason = ""
    if report.verdict is Verdict.DENIED:
        reason = POLICY_DENY if rule else POLICY_DENIED
    elif report.verdict is Verdict.ERROR:
        reason = REASON_PREFIX + report.reason.upper()
    return Flow(
        time_ns=time_ns,
        uuid=uuid,
        node=node,
        verdict=report.verdict,
        direction=direction,
        source=source,
        destination=destination,
        protocol=Protocol.TCP,
        reason=reason,
        rule=rule,
        nearest_miss=miss,
        policy_log=index.policy_log(rule),
        revision=index.revision,
        slot=report.slot,
        l7=part,
        l7_type=L7Type.RESPONSE if report.latency_ns else L7Type.REQUEST,
        latency_ns=report.latency_ns,
    )


def _direction(index: WorldIndex, source: FlowEnd, destination: FlowEnd, rule: str) -> Direction:
    """The side whose rule decided, as its path says; without one the side whose endpoint is ours, the source's first."""
    if ":spec" in rule:
        return Direction.INGRESS if ".ingress" in rule.partition(":")[2].partition("toPorts")[0] else Direction.EGRESS
    only_destination = index.is_local(destination.address) and not index.is_local(source.address)
    return Direction.INGRESS if only_destination else Direction.EGRESS
