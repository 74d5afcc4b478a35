"""Reports of Envoy's module about Kafka requests: the socket, and reports as flows."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from l7filters.compile import compile
from l7filters.identity import IdentityTable
from l7filters.model import Direction
from tests.support.worlds import endpoint, world
from tests.unit.tidegate.fakes import NOON_NS
from tidegate.flows.attribution import WorldIndex, no_nearest_miss
from tidegate.flows.record import Flow, KafkaPart, Verdict
from tidegate.kafka.reports import KafkaReport, KafkaReports, ReportError, flow_from_report

RULE = "cnp/default/p:spec.ingress[0].toPorts[0].rules.kafka[0]"
LINE: dict[str, Any] = {
    "slot": 7,
    "client": "10.0.0.2",
    "client_port": 40000,
    "server": "10.0.0.3",
    "server_port": 9092,
    "verdict": "denied",
    "api_key": 0,
    "api_version": 11,
    "correlation_id": 5,
    "error_code": 29,
    "latency_ns": 0,
    "client_id": "app",
    "topics": ["orders"],
    "groups": [],
    "rule": None,
}
WORLD = world(endpoints=(endpoint("shop", "app=shop", ip="10.0.0.2"), endpoint("broker", "app=broker", ip="10.0.0.3")))
INDEX = WorldIndex(WORLD, compile(WORLD, IdentityTable()))


def flow(**changes: Any) -> Flow:
    report = KafkaReport.parse(json.dumps({**LINE, **changes}).encode())
    return flow_from_report(
        INDEX, report, node="n", uuid="u", time_ns=NOON_NS, nearest_miss=lambda judged: f"near {judged.kafka}"
    )


def test_a_denial_is_a_flow_with_its_request_and_the_nearest_miss() -> None:
    found = flow()
    assert found.verdict is Verdict.DENIED
    assert found.l7 == KafkaPart(
        api_key="Produce", api_version=11, correlation_id=5, client_id="app", topics=("orders",), error_code=29
    )
    assert (found.source.name, found.destination.name, found.destination.port, found.slot) == ("shop", "broker", 9092, 7)
    assert found.nearest_miss == "near Kafka Produce v11 topic orders"
    assert (found.rule, found.reason) == (None, "POLICY_DENIED")


def test_a_deny_rule_says_which_side_denied() -> None:
    found = flow(rule=RULE)
    assert (str(found.rule), found.direction, found.reason, found.nearest_miss) == (RULE, Direction.INGRESS, "POLICY_DENY", "")
    assert flow(rule=RULE.replace("ingress", "egress")).direction is Direction.EGRESS


def test_an_allowed_request_has_its_latency_and_group() -> None:
    found = flow(verdict="allowed", rule=RULE, latency_ns=1500, api_key=8, groups=["billing"], error_code=0)
    assert (found.verdict, found.latency_ns) == (Verdict.FORWARDED, 1500)
    assert isinstance(found.l7, KafkaPart)
    assert (found.l7.api_key, found.l7.group) == ("OffsetCommit", "billing")


def test_a_closed_connection_says_why() -> None:
    found = flow(verdict="closed", reason="tls", api_key=-1, api_version=-1, topics=[])
    assert (found.verdict, found.reason, found.l7) == (Verdict.ERROR, "KAFKA_TLS", None)


@pytest.mark.parametrize("data", [b"", b"\xff", b"{}", b"[]", json.dumps({**LINE, "verdict": "maybe"}).encode(), b'{"slot": {}}'])
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(ReportError):
        KafkaReport.parse(data)


def test_reports_come_by_datagram_and_junk_is_counted(tmp_path: Path) -> None:
    async def run() -> None:
        reports = KafkaReports(tmp_path / "kafka.sock")
        (tmp_path / "kafka.sock").write_text("left by an agent that was killed")
        reports.open()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.connect(str(tmp_path / "kafka.sock"))
                for data in (b"junk", json.dumps(LINE).encode(), json.dumps({**LINE, "slot": 8}).encode()):
                    sender.send(data)
            async with asyncio.timeout(5):
                found: list[KafkaReport] = []
                async for batch in reports.batches():
                    found += batch
                    if len(found) == 2:
                        break
            assert [report.slot for report in found] == [7, 8]
            assert reports.refused_count == 1
        finally:
            reports.close()
        assert not (tmp_path / "kafka.sock").exists()

    asyncio.run(run())


def test_nearest_miss_is_asked_for_denials_alone() -> None:
    report = KafkaReport.parse(json.dumps({**LINE, "verdict": "allowed"}).encode())
    found = flow_from_report(INDEX, report, node="n", uuid="u", time_ns=1, nearest_miss=no_nearest_miss)
    assert found.nearest_miss == ""
