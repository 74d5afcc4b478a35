"""Verdicts on their way to the agent: JSON lines in Unix datagrams.

Owns: the shape of a line, and that reporting never holds up an answer: what the agent does not take at once is lost and counted.
One datagram holds the lines of one round of the loop. While nobody listens nothing is even written. Of what is allowed a share is
reported; everything else always is.

A line: ``{"time_ns" (CLOCK_REALTIME), "verdict": "allowed"|"audited"|"refused"|"error", "reason", "protocol": "udp"|"tcp",
"endpoint", "pod", "pod_port", "server", "server_port", "slot", "rule", "query", "qtypes", "rcode", "ips", "ttl", "cnames",
"rrtypes", "latency_us"}``.
``rcode`` is what the client got; ``reason`` (``Reason``) is empty unless the verdict is ``error``, or ``refused`` by something
else than a rule.
"""

from __future__ import annotations

import json
import random
import socket
import time
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from proxylib.dns.cache import address_text
from proxylib.dns.counters import Counters
from proxylib.dns.message import Resolution, type_name
from proxylib.dns.name import to_text
from proxylib.dns.settings import SECOND_NS

DATAGRAM_BYTES_MAX = 64 << 10
LINES_MAX = 4096
"""Lines that wait for an agent that is busy; beyond it they are lost."""
RETRY_NS = 5_000_000
"""How soon an agent that could take no more is tried again."""
ADDRESSES_MAX = 64
"""Addresses in one line; a flow record needs no more."""
RECONNECT_NS = SECOND_NS // 2


class Reason(StrEnum):
    """Why a question was not answered as it was asked, policy apart."""

    NONE = ""
    UNKNOWN_CLIENT = "unknown_client"
    """No rules are known for who asks: its address is no subject's, or its role does not have the slot."""
    ZONE_TRANSFER = "zone_transfer"
    """Answers to these are streams of messages, which are not judged."""
    IN_FLIGHT_LIMIT = "in_flight_limit"
    CLIENT_GONE = "client_gone"
    """The address is another pod's by now."""
    NOT_PUBLISHED = "not_published"
    """The kernel did not take the answer's addresses, so they are not told."""
    NO_SOCKET = "no_socket"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_MALFORMED = "upstream_malformed"
    UPSTREAM_LIES = "upstream_lies"
    """Too many answers that were none to the question."""


class Report(NamedTuple):
    """One query and how it ended."""

    verdict: str
    reason: Reason
    protocol: str
    endpoint: str
    client: tuple[str, int]
    server: tuple[str, int]
    slot: int
    rule: str
    query: str
    type: int
    rcode: int
    resolution: Resolution = Resolution()
    latency_ns: int = 0


def report_line(report: Report, time_ns: int) -> str:
    """Return ``report`` as one line of JSON."""
    resolution = report.resolution
    return json.dumps(
        {
            "time_ns": time_ns,
            "verdict": report.verdict,
            "reason": report.reason,
            "protocol": report.protocol,
            "endpoint": report.endpoint,
            "pod": report.client[0],
            "pod_port": report.client[1],
            "server": report.server[0],
            "server_port": report.server[1],
            "slot": report.slot,
            "rule": report.rule,
            "query": report.query,
            "qtypes": [type_name(report.type)],
            "rcode": report.rcode,
            "ips": [address_text(address) for address in resolution.addresses[:ADDRESSES_MAX]],
            "ttl": resolution.ttl_seconds_min,
            "cnames": [to_text(name) for name in resolution.aliases],
            "rrtypes": [type_name(number) for number in resolution.types],
            "latency_us": report.latency_ns // 1000,
        },
        separators=(",", ":"),
    )


class Reporter:
    """Collects the lines of a round and sends them. ``connected``: somebody listens, so reports are worth making."""

    def __init__(self, path: Path | None, counters: Counters) -> None:
        self._path = path
        self._counters = counters
        self._socket: socket.socket | None = None
        self._lines: list[str] = []
        self._retry_ns = self._busy_until_ns = 0
        self.allowed_sample = 1.0
        """The share of allowed questions that are reported."""

    def wants_allowed(self) -> bool:
        """Tell whether the next allowed question is to be reported."""
        return self._socket is not None and (self.allowed_sample >= 1 or random.random() < self.allowed_sample)

    @property
    def connected(self) -> bool:
        """Whether the agent listened when last tried."""
        return self._socket is not None

    def add(self, report: Report) -> None:
        """Take a report for this round's datagram."""
        if self._socket is None:
            return
        if len(self._lines) >= LINES_MAX:
            self._counters.reports_lost += 1
            return
        self._lines.append(report_line(report, time.time_ns()))

    def flush(self) -> None:
        """Send what was taken."""
        if not self._lines or self._socket is None or time.monotonic_ns() < self._busy_until_ns:
            return
        while self._lines:
            size, count = 0, 0
            for line in self._lines:
                size += len(line) + 1
                if size > DATAGRAM_BYTES_MAX and count:
                    break
                count += 1
            try:
                self._socket.send("\n".join(self._lines[:count]).encode())
            except (BlockingIOError, InterruptedError):
                self._busy_until_ns = time.monotonic_ns() + RETRY_NS
                return
            except OSError:
                self._counters.reports_lost += len(self._lines)
                self.close()
                return
            del self._lines[:count]

    def tick(self, now_ns: int) -> None:
        """Try to reach the agent again, if it was not there."""
        if self._socket is not None or self._path is None or now_ns < self._retry_ns:
            return
        self._retry_ns = now_ns + RECONNECT_NS
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            made.connect(str(self._path))
        except OSError:
            made.close()
            return
        self._socket = made

    def close(self) -> None:
        """Stop reporting until the agent is found again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._lines.clear()
