"""From what the kernel, Envoy and the DNS proxy report to the flow ring.

Owns: reading all, attributing each report to the world that judged, and counting what was lost on the way. Must not know who
reads the ring. Reports may be lost (bounded queues everywhere); verdicts never are: those are in the kernel and in Envoy.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from bpf_redirect.abi import DropReason
from bpf_redirect.abi import Verdict as KernelVerdict
from bpf_redirect.events import VerdictEvent
from l7filters.predicates import SecretTexts
from tidegate.config.node import NodeConfig
from tidegate.dns.reports import DnsReports, flow_from_dns
from tidegate.flows.attribution import WorldIndex, flow_from_access, flow_from_event
from tidegate.flows.nearest import NOT_KNOWN, MissFinder
from tidegate.flows.past_worlds import PastWorld, PastWorlds
from tidegate.flows.record import Flow, Redaction, Verdict
from tidegate.flows.ring import FlowRing, LossSource
from tidegate.kafka.reports import KafkaReport, KafkaReports, flow_from_report
from tidegate.kernel import KernelSide
from tidegate.realise import Realisation
from tidegate.status.node import DnsStatus, FlowsStatus
from xds_server.access_log import AccessRecord, RecordQueue

_log = structlog.get_logger()

EVENT_BATCH_S = 0.05
"""How long events gather before they are read. The ring holds thousands; the kernel writes at most hundreds in this time."""
LOSS_POLL_S = 2.0
"""How often the loss counters are read."""


class Observer:
    """Reads every kind of report and publishes flows."""

    def __init__(self, config: NodeConfig, ring: FlowRing) -> None:
        self._node = config.node.name
        self._ring = ring
        self._redaction = Redaction(query=config.flows.redact_query, headers=config.flows.redact_headers)
        self._worlds = PastWorlds()
        self._run = uuid.uuid4().hex[:12]
        self._serials = itertools.count(1)
        # The kernel's clock is monotonic; a flow's time is since the epoch.
        self._monotonic_to_epoch_ns = time.time_ns() - time.monotonic_ns()

    def world_changed(self, realisation: Realisation, secrets: SecretTexts) -> None:
        """Attribute what is judged from now on to this world. ``secrets``: those that its rules compare headers with."""
        index = WorldIndex(realisation.world, realisation.compiled)
        nearest = MissFinder(realisation.world, secrets, self._redaction)
        self._worlds.add(PastWorld(time.time_ns(), index, nearest))

    def _publish(self, time_ns: int, build: Callable[[PastWorld, str], Flow]) -> None:
        """Publish the record that ``build`` makes of a verdict given at ``time_ns``, by the world that explains it."""
        identifier = self._uuid()
        first: Flow | None = None
        for world in self._worlds.at(time_ns):
            flow = build(world, identifier)
            first = first or flow
            if flow.verdict not in (Verdict.DENIED, Verdict.AUDITED) or flow.rule is not None or flow.nearest_miss:
                self._ring.publish(flow)
                return
        if first is not None:
            self._ring.publish(replace(first, nearest_miss=NOT_KNOWN))

    async def read_access_log(self, records: RecordQueue) -> None:
        """Publish Envoy's records until cancelled."""
        dropped = 0
        async for batch in records.batches():
            for record in batch:
                self._publish(record.start_ns, partial(self._from_access, record))
            if records.dropped_count > dropped:
                self._ring.report_lost(LossSource.ACCESS_LOG, records.dropped_count - dropped)
                dropped = records.dropped_count

    async def read_dns(self, path: Path, status: Callable[[], DnsStatus]) -> None:
        """Publish the DNS proxy's records until cancelled; ``status`` says how many it lost itself."""
        lost_before = (0, 0)

        def take(report: dict[str, Any]) -> None:
            nonlocal lost_before
            now = (status().pid, status().counters.get("reports_lost", 0))
            if now[1] > lost_before[1] and now[0] == lost_before[0]:
                self._ring.report_lost(LossSource.DNS, now[1] - lost_before[1])
            lost_before = now
            self._publish(report["time_ns"], partial(self._from_dns, report))

        await DnsReports(path, take, lambda count: self._ring.report_lost(LossSource.DNS, count)).run()

    async def read_kafka(self, reports: KafkaReports) -> None:
        """Publish what the module tells of Kafka requests until cancelled."""
        async for batch in reports.batches():
            now_ns = time.time_ns()
            for report in batch:
                time_ns = now_ns - report.latency_ns
                self._publish(time_ns, partial(self._from_kafka, report, time_ns))

    async def read_kernel(self, kernel: KernelSide) -> None:
        """Publish the kernel's verdict events until cancelled."""
        lost = kernel.event_totals().lost
        with kernel.events() as reader:
            while True:
                if await _readable(reader.fileno(), LOSS_POLL_S):
                    # One waking for many events: each by itself would cost the loop more than its record does.
                    await asyncio.sleep(EVENT_BATCH_S)
                for event in reader.read():
                    self._publish(event.time_ns + self._monotonic_to_epoch_ns, partial(self._from_event, event))
                total = kernel.event_totals().lost
                if total > lost:
                    self._ring.report_lost(LossSource.BPF, total - lost)
                    lost = total

    def _from_access(self, record: AccessRecord, world: PastWorld, identifier: str) -> Flow:
        return flow_from_access(
            world.index,
            record,
            node=self._node,
            uuid=identifier,
            redaction=self._redaction,
            nearest_miss=world.nearest,
        )

    def _from_dns(self, report: dict[str, Any], world: PastWorld, identifier: str) -> Flow:
        return flow_from_dns(world.index, report, node=self._node, uuid=identifier, nearest_miss=world.nearest)

    def _from_kafka(self, report: KafkaReport, time_ns: int, world: PastWorld, identifier: str) -> Flow:
        return flow_from_report(
            world.index, report, node=self._node, uuid=identifier, time_ns=time_ns, nearest_miss=world.nearest
        )

    def _from_event(self, event: VerdictEvent, world: PastWorld, identifier: str) -> Flow:
        return flow_from_event(
            world.index,
            node=self._node,
            uuid=identifier,
            time_ns=event.time_ns + self._monotonic_to_epoch_ns,
            verdict=_verdict(event),
            reason=event.reason.name if isinstance(event.reason, DropReason) else "",
            source=event.source,
            destination=event.destination,
            protocol=event.protocol,
            source_port=event.source_port,
            destination_port=event.destination_port,
            source_identity=event.source_identity,
            destination_identity=event.destination_identity,
            name_identity=event.name_identity,
            tcp_flags=event.tcp_flags,
            slot=event.slot,
            is_reply=event.is_reply,
            nearest_miss=world.nearest,
        )

    def _uuid(self) -> str:
        """Unique over restarts and cheap: a record needs no randomness of its own."""
        return f"{self._run}-{next(self._serials):x}"

    def status(self) -> FlowsStatus:
        """How many records there were and where some were lost."""
        return FlowsStatus(
            seen=sum(self._ring.seen.values()),
            lost={str(source): count for source, count in self._ring.lost.items()},
            followers=self._ring.follower_count,
        )


async def _readable(descriptor: int, timeout_s: float) -> bool:
    """Wait until ``descriptor`` is readable; tell whether it is. It is not watched in between: while it stays readable it would
    wake the loop without end.
    """
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        async with asyncio.timeout(timeout_s):
            await ready.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True


def _verdict(event: VerdictEvent) -> Verdict:
    if event.reason is DropReason.POLICY_DENIED:
        return Verdict.DENIED
    if isinstance(event.reason, DropReason):
        return Verdict.DROPPED
    if event.would_deny:
        return Verdict.AUDITED
    return Verdict.REDIRECTED if event.verdict is KernelVerdict.REDIRECT else Verdict.FORWARDED
