"""What the proxy is told at start, and the seams to the rest of the node.

Owns: settings, limits with their reasons, the Publisher contract. Must not know sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from proxylib.dns.message import Address
from proxylib.dns.policy import Subject

SECOND_NS = 1_000_000_000

CONNECT_GRACE_NS = 10 * SECOND_NS
"""How long beyond its TTL an address stays open: the client's clock starts later than ours, and a TTL of 0 means "use it now"."""
REPUBLISH_NS = 5 * SECOND_NS
"""An address open at least this long beyond its new TTL is not published again: repeated questions cost no map write."""
PUBLISH_CHUNK = 256
"""Addresses that are told to the datapath at once when all that an endpoint knows is published anew."""
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
SAVE_NS = 30 * SECOND_NS
"""How often the cache's files are brought up to date; the journal holds what they lack."""


Grants = Mapping[int, int]
"""What one address stands for: selector -> until when (CLOCK_MONOTONIC, nanoseconds). Empty: for nothing."""


class Publisher(Protocol):
    """Makes answers known to the datapath. Called in the proxy's only thread: when it returns, the kernel knows.

    It keeps nothing: what an address stands for is always said whole.
    """

    def publish(self, subject: Subject, addresses: Mapping[Address, Grants]) -> None:
        """Let each address stand for exactly these selectors, for ``subject`` alone.

        Raises PublishError; the answer is then not released. Addresses are never loopback, link-local, multicast or unspecified.
        """
        ...

    def retain(self, allowed: Mapping[int, frozenset[int]]) -> None:
        """Forget, of what a proxy before told the datapath, all but these selectors of these interfaces. Raises PublishError."""
        ...

    def tick(self, now_ns: int) -> bool:
        """Ten times a second: take a step in clearing away what has expired. True: all must be told anew."""
        ...

    def status(self) -> Mapping[str, int]:
        """Return counts and gauges by name, for the metrics."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where things are and how much of them there may be."""

    rules_path: Path
    subjects_path: Path
    cache_directory: Path
    report_path: Path | None = None
    """Unix datagram socket of the agent; gets verdicts as JSON lines."""
    control_path: Path | None = None
    """Unix datagram socket of the proxy's own; see proxy.py."""
    proxy_port_min: int = 19000
    listen_addresses: tuple[str, ...] = ("127.0.0.1", "::1")
    mark: int = 0xA00
    upstream_timeout_ns: int = 4 * SECOND_NS
    """Below the 5 s after which stub resolvers give up by themselves: they learn that this server fails, and ask the next."""
    grace_ns: int = CONNECT_GRACE_NS
    in_flight_max: int = 20_000
    in_flight_per_endpoint_max: int = 2_000
    direct_server: tuple[str, int] | None = None
    """Whom to ask for clients that address the proxy itself; None: they get no answer. No redirect is needed for these."""
