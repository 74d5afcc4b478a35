"""What the proxy counts.

Owns: the counters, exact since its start. Must not know who reads them. Label values are few: a query type or response code that
nobody named would be a stranger's way to fill the metrics.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, fields

from proxylib.dns.message import RecordType, type_name

MILLISECOND_NS = 1_000_000
LATENCY_BOUNDS_NS = tuple(
    int(bound * MILLISECOND_NS) for bound in (0.25, 0.5, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
)
"""Upper bounds of the latency histogram: a cached answer of a server on this node up to one that was nearly too late."""
NAMED_TYPES = frozenset(int(each) for each in RecordType)


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
    """Answers whose addresses the datapath did not take."""
    failed_restore: int = 0
    """Times the datapath could not be told what is known or forgotten; it then keeps what it has until that expires."""
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
    faults: int = 0
    """Of this program: an unexpected exception while a message was handled."""
    reports_lost: int = 0
    tcp_refused: int = 0
    """Connections beyond the bounds."""
    rules_loaded: int = 0
    rules_failed: int = 0
    listen_failed: int = 0
    cache_failed: int = 0
    outcomes: dict[tuple[str, int, int], int] = field(default_factory=dict)
    """(verdict, rcode, query type) -> queries that ended so. Types without a name of their own are counted as type 0."""
    latency_counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_NS) + 1))
    """Answered queries by the first of LATENCY_BOUNDS_NS that they kept; the last: none."""
    latency_sum_ns: int = 0

    def end(self, verdict: str, rcode: int, query_type: int) -> None:
        """Count how a query ended."""
        key = (verdict, rcode, query_type if query_type in NAMED_TYPES else 0)
        self.outcomes[key] = self.outcomes.get(key, 0) + 1

    def took(self, latency_ns: int) -> None:
        """Count how long an answer took, from the query's arrival to its release."""
        self.latency_counts[bisect_left(LATENCY_BOUNDS_NS, latency_ns)] += 1
        self.latency_sum_ns += latency_ns

    def values(self) -> dict[str, int]:
        """Return all plain counters by name."""
        return {each.name: value for each in fields(self) if isinstance(value := getattr(self, each.name), int)}

    def tables(self) -> dict[str, object]:
        """Return the counts by outcome and the histogram as JSON values."""
        return {
            "outcomes": [
                {"verdict": verdict, "rcode": rcode, "qtype": type_name(kind) if kind else "other", "count": count}
                for (verdict, rcode, kind), count in sorted(self.outcomes.items())
            ],
            "latency": {
                "bounds_ns": list(LATENCY_BOUNDS_NS),
                "counts": list(self.latency_counts),
                "sum_ns": self.latency_sum_ns,
            },
        }
