"""The DNS proxy's reports as flow records."""

from __future__ import annotations

import asyncio
import json
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from l7filters.decision import Flow as JudgedFlow
from l7filters.model import Direction
from l7filters.world import Endpoint, Node, World
from proxylib.dns.message import Address, Resolution
from proxylib.dns.name import WireName
from proxylib.dns.report import Reason, Report, report_line
from tidegate.dns.reports import RECORDS_PER_SECOND_MAX, DnsReports, flow_from_dns
from tidegate.flows.attribution import WorldIndex
from tidegate.flows.record import DnsPart, Verdict

XWING = Endpoint(
    name="xwing", namespace="default", labels={"org": "alliance"}, interface="lxc0", addresses=(ip_address("10.0.0.2"),)
)
INDEX = WorldIndex(World(revision=7, node=Node(name="a"), endpoints=(XWING,)), None)
RULE = "cnp/default/dns:spec.egress[0].toPorts[0].rules.dns[0]"


def line(verdict: str, reason: Reason = Reason.NONE, rule: str = RULE, rcode: int = 0, addresses: tuple[str, ...] = ()) -> str:
    """What the proxy writes."""
    found = Resolution(
        tuple(Address(ip_address(each).packed) for each in addresses), (WireName(b"\x03cdn\x04test\0"),), (5, 1), 30, 60
    )
    client, server = ("10.0.0.2", 4321), ("10.96.0.10", 53)
    report = Report(verdict, reason, "udp", "default/xwing", client, server, 5, rule, "www.test", 1, rcode, found, 1_500_000)
    return report_line(report, 1_700_000_000_000_000_000)


def test_an_answered_question_is_a_flow_with_its_answer() -> None:
    flow = flow_from_dns(INDEX, json.loads(line("allowed", addresses=("10.1.0.1", "fd00::1"))), node="a", uuid="u")
    assert flow.l7 == DnsPart(
        query="www.test",
        query_types=("A",),
        addresses=("10.1.0.1", "fd00::1"),
        ttl_seconds=30,
        cnames=("cdn.test",),
        rcode=0,
        record_types=("CNAME", "A"),
    )
    assert (flow.verdict, flow.direction, flow.source.key, flow.destination.port) == (
        Verdict.FORWARDED,
        Direction.EGRESS,
        "default/xwing",
        53,
    )
    assert (str(flow.rule), flow.reason, flow.revision, flow.slot, flow.latency_ns) == (RULE, "", 7, 5, 1_500_000)
    assert flow.to_json()["l7"]["dns"]["ips"] == ["10.1.0.1", "fd00::1"]


@pytest.mark.parametrize(
    "verdict, reason, expected",
    [
        ("refused", Reason.NONE, (Verdict.DENIED, "POLICY_DENIED", "something")),
        ("refused", Reason.UNKNOWN_CLIENT, (Verdict.DENIED, "UNKNOWN_CLIENT", "something")),
        ("audited", Reason.NONE, (Verdict.AUDITED, "", "")),
        ("error", Reason.UPSTREAM_TIMEOUT, (Verdict.ERROR, "UPSTREAM_TIMEOUT", "")),
    ],
)
def test_verdicts_and_reasons(verdict: str, reason: Reason, expected: tuple[Verdict, str, str]) -> None:
    def nearest_miss(flow: JudgedFlow) -> str:
        del flow
        return "something"

    report = json.loads(line(verdict, reason, rule=""))
    flow = flow_from_dns(INDEX, report, node="a", uuid="u", nearest_miss=nearest_miss)
    assert (flow.verdict, flow.reason, flow.nearest_miss) == expected


def test_reports_are_read_and_a_flood_is_counted_not_worked_on(tmp_path: Path) -> None:
    taken: list[dict[str, Any]] = []
    lost: list[int] = []
    path = tmp_path / "reports.sock"
    sent = RECORDS_PER_SECOND_MAX + 500

    async def scenario() -> None:
        reading = asyncio.create_task(DnsReports(path, taken.append, lost.append).run())
        loop = asyncio.get_running_loop()
        while not path.exists():
            await asyncio.sleep(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as proxy:
            await loop.sock_connect(proxy, str(path))
            for _ in range(sent // 100):
                await loop.sock_sendall(proxy, "\n".join([line("allowed")] * 100).encode())
            await loop.sock_sendall(proxy, b"{cut short")
            async with asyncio.timeout(10):
                while len(taken) + sum(lost) < sent + 1:
                    await asyncio.sleep(0.01)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    asyncio.run(scenario())
    assert len(taken) >= RECORDS_PER_SECOND_MAX
    assert sum(lost) >= 1
    assert not path.exists()
