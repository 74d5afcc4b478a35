"""What the proxy is told at start, and the seams to the rest of the node.

Owns: settings, limits with their reasons, the Publisher contract, counters. Must not know sockets.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Protocol

from proxylib.dns.message import Address
from proxylib.dns.policy import Subject

SECOND_NS = 1_000_000_000

CONNECT_GRACE_NS = 10 * SECOND_NS
"""How long beyond its TTL an address stays open: the client's clock starts later than ours, and a TTL of 0 means "use it now"."""
REPUBLISH_NS = 5 * SECOND_NS
"""An address open at least this long beyond its new TTL is not published again: repeated questions cost no map write."""
UPSTREAM_SOCKETS_MAX = 2048
"""UDP sockets towards servers, one per (pod, server) in use; the longest unused goes first."""
SOCKET_QUERIES_MAX = 512
"""After so many queries a (pod, server) gets a new source port, so that a port that was found out is soon worth nothing."""
SOCKET_AGE_NS_MAX = 10 * SECOND_NS
SOCKET_LIES_MAX = 8
"""Wrong answers on one socket before it is given up and its open queries are asked again from another port."""
ATTEMPTS_MAX = 2
TCP_CONNECTIONS_MAX = 2048
TCP_CONNECTIONS_PER_ENDPOINT_MAX = 128
TCP_IDLE_NS = 10 * SECOND_NS
"""RFC 7766 6.2.3 wants "a few seconds" or more."""
TCP_QUERIES_MAX = 128
"""Unanswered queries of one connection; beyond it, it is not read until answers are out."""
TCP_UNSENT_BYTES_MAX = 256 << 10
"""What a client may leave unread before we stop reading for it."""
SAVE_NS = SECOND_NS
"""The cache's files lag behind by about this: what a killed proxy may forget."""


class Publisher(Protocol):
    """Makes answers known to the datapath. Called in the proxy's only thread: when it returns, the kernel knows."""

    def publish(
        self, subject: Subject, name: str, selectors: tuple[int, ...], addresses: tuple[Address, ...], expires_ns: int
    ) -> None:
        """Let ``subject`` reach ``addresses`` by what ``selectors`` allow until ``expires_ns`` (CLOCK_MONOTONIC).

        Raises PublishError; the answer is then not released. Addresses are never loopback, link-local, multicast or
        unspecified. An address may come again under another name: it then belongs to the selectors of both.
        """
        ...

    def withdraw(self, subject: Subject, addresses: tuple[Address, ...]) -> None:
        """``addresses`` gave way to newer ones (a bound of the cache), and no other name of ``subject`` has them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where things are and how much of them there may be."""

    rules_path: Path
    cache_directory: Path
    report_path: Path | None = None
    """Unix datagram socket of the agent; gets verdicts as JSON lines."""
    control_path: Path | None = None
    """Unix datagram socket of the proxy's own; see control.py."""
    proxy_port_min: int = 19000
    listen_addresses: tuple[str, ...] = ("127.0.0.1", "::1")
    mark: int = 0xA00
    upstream_timeout_ns: int = 4 * SECOND_NS
    """Below the 5 s after which stub resolvers give up by themselves: they learn that this server fails, and ask the next."""
    in_flight_max: int = 20_000
    in_flight_per_endpoint_max: int = 2_000
    direct_server: tuple[str, int] | None = None
    """Whom to ask for clients that address the proxy itself; None: they get no answer. No redirect is needed for these."""


@dataclass(slots=True)
class Counters:
    """Exact counts since start. Each query ends in one of answered, refused, failed, malformed, dropped."""

    queries_udp: int = 0
    queries_tcp: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    """Answered with SERVFAIL; the ``failed_`` and ``upstream_`` counters say why."""
    malformed: int = 0
    """Queries that can't be read: answered with FORMERR if they have a header."""
    dropped: int = 0
    """Queries that got no answer: addressed to the proxy itself, or their client had gone."""
    unknown_subject: int = 0
    failed_limit: int = 0
    failed_publish: int = 0
    failed_internal: int = 0
    """The kernel refused a socket or a send."""
    upstream_timeouts: int = 0
    upstream_unreachable: int = 0
    upstream_malformed: int = 0
    upstream_lies_id: int = 0
    upstream_lies_question: int = 0
    upstream_late: int = 0
    """Answers to queries that were given up before."""
    upstream_sockets_suspect: int = 0
    asked_again: int = 0
    published: int = 0
    unpublishable: int = 0
    """Addresses in answers that are never opened: loopback, link-local, multicast, unspecified."""
    withdrawn: int = 0
    reply_failed: int = 0
    reports_lost: int = 0
    tcp_refused: int = 0
    """Connections beyond the bounds."""
    rules_loaded: int = 0
    rules_failed: int = 0
    listen_failed: int = 0
    cache_failed: int = 0
    _extra: dict[str, int] = field(default_factory=dict, repr=False)

    def values(self) -> dict[str, int]:
        """Return all counters by name."""
        return {each.name: getattr(self, each.name) for each in fields(self) if not each.name.startswith("_")} | self._extra

    def set_gauges(self, **gauges: int) -> None:
        """Add what is measured, not counted (sockets, queries in flight, ...), to ``values``."""
        self._extra.update(gauges)
