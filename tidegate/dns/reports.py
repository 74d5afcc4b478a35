"""What the DNS proxy reports, as flow records.

Owns: the socket on which reports arrive, their bound per second, and reading one. Reports may be lost (counted); verdicts and
counts never are: those are the proxy's own. Must not know who reads the records.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from l7filters.model import Direction, Protocol
from tidegate.flows.attribution import POLICY_DENIED, NearestMiss, WorldIndex, no_nearest_miss
from tidegate.flows.judged import judged
from tidegate.flows.record import DnsPart, Flow, L7Type, Verdict, parse_origin

DATAGRAM_BYTES_MAX = 64 << 10
RECEIVE_BUFFER_BYTES = 4 << 20
RECORDS_PER_SECOND_MAX = 2000
"""A pod that asks for refused names as fast as it can must not take the agent's time; what is beyond is counted as lost."""
DATAGRAMS_PER_TURN = 16
SO_RCVBUFFORCE = 33

_VERDICTS = {
    "allowed": Verdict.FORWARDED,
    "audited": Verdict.AUDITED,
    "refused": Verdict.DENIED,
    "error": Verdict.ERROR,
}


class DnsReports:
    """Reads reports until closed. ``take`` gets each as a JSON object, ``lost`` a count of those that were not read."""

    def __init__(self, path: Path, take: Callable[[dict[str, Any]], None], lost: Callable[[int], None]) -> None:
        self._path = path
        self._take = take
        self._lost = lost
        self._tokens = float(RECORDS_PER_SECOND_MAX)
        self._refilled_s = time.monotonic()

    async def run(self) -> None:
        """Listen and read until cancelled. Raises OSError if the socket can't be had."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as listening:
            listening.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
            listening.bind(str(self._path))
            self._path.chmod(0o600)
            try:
                while True:
                    self._read(await loop.sock_recv(listening, DATAGRAM_BYTES_MAX))
                    for _ in range(DATAGRAMS_PER_TURN):
                        try:
                            self._read(listening.recv(DATAGRAM_BYTES_MAX))
                        except BlockingIOError:
                            break
                    await asyncio.sleep(0)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    self._path.unlink()

    def _read(self, datagram: bytes) -> None:
        lines = datagram.split(b"\n")
        now_s = time.monotonic()
        self._tokens = min(RECORDS_PER_SECOND_MAX, self._tokens + (now_s - self._refilled_s) * RECORDS_PER_SECOND_MAX)
        self._refilled_s = now_s
        taken = lines[: int(self._tokens)]
        self._tokens -= len(taken)
        for line in taken:
            try:
                report = json.loads(line)
            except ValueError:
                self._lost(1)  # cut short: longer than a datagram
                continue
            self._take(report)
        if len(taken) < len(lines):
            self._lost(len(lines) - len(taken))


def flow_from_dns(
    index: WorldIndex, report: dict[str, Any], *, node: str, uuid: str, nearest_miss: NearestMiss = no_nearest_miss
) -> Flow:
    """Return the flow of a question that the DNS proxy judged; ``report`` is a line as proxylib/dns/report.py describes it."""
    verdict = _VERDICTS[report["verdict"]]
    protocol = Protocol.TCP if report["protocol"] == "tcp" else Protocol.UDP
    source = index.end(ip_address(report["pod"]), report["pod_port"])
    destination = index.end(ip_address(report["server"]), report["server_port"])
    rule = parse_origin(report["rule"])
    part = DnsPart(
        query=report["query"],
        query_types=tuple(report["qtypes"]),
        addresses=tuple(report["ips"]),
        ttl_seconds=report["ttl"],
        cnames=tuple(report["cnames"]),
        rcode=report["rcode"],
        record_types=tuple(report["rrtypes"]),
    )
    reason = str(report["reason"]).upper()
    miss = ""
    if verdict is Verdict.DENIED:
        reason = reason or POLICY_DENIED
        miss = nearest_miss(judged(source, destination, protocol, destination.port, part))
    return Flow(
        time_ns=report["time_ns"],
        uuid=uuid,
        node=node,
        verdict=verdict,
        direction=Direction.EGRESS,
        source=source,
        destination=destination,
        protocol=protocol,
        reason=reason,
        rule=rule,
        nearest_miss=miss,
        policy_log=index.policy_log(rule),
        revision=index.revision,
        slot=report["slot"],
        l7=part,
        l7_type=L7Type.REQUEST if verdict is Verdict.DENIED else L7Type.RESPONSE,
        latency_ns=report["latency_us"] * 1000,
    )
