"""Metrics of the DNS proxy.

Owns: their names, labels and help. The numbers are the proxy's own, exact, and begin anew with it. No name, pod or server is a
label.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.metrics_core import Metric

from tidegate.metrics.spec import Spec, counter, gauge, histogram
from tidegate.status.node import DnsStatus, ProcessState

UP = gauge("tidegate_dns_up", "1 when the DNS proxy is ready.")
RESTARTS = counter("tidegate_dns_restarts_total", "Times the DNS proxy was started again.")
QUERIES = counter("tidegate_dns_queries_total", "Questions of pods, by how they ended.", ("verdict", "rcode", "qtype"))
ANSWER_SECONDS = histogram(
    "tidegate_dns_answer_seconds", "From a question's arrival to the release of its answer, the server's time included."
)
UPSTREAM_FAILURES = counter(
    "tidegate_dns_upstream_failures_total", "Servers that were silent, late or unreachable; answers that were none.", ("reason",)
)
FAILURES = counter("tidegate_dns_failures_total", "What the DNS proxy could not do, or would not.", ("reason",))
IN_FLIGHT = gauge("tidegate_dns_in_flight", "Questions that wait for servers.")
CACHED_NAMES = gauge("tidegate_dns_cached_names", "Names that pods resolved, over all pods.")
CACHED_ADDRESSES = gauge("tidegate_dns_cached_addresses", "Addresses of those names.")
UPSTREAM_SOCKETS = gauge("tidegate_dns_upstream_sockets", "UDP sockets towards servers.")
TCP_CONNECTIONS = gauge("tidegate_dns_tcp_connections", "TCP connections of pods.")
GRANTS = gauge("tidegate_dns_grants", "Entries of tg_names: addresses that pods may reach by name.")
GRANTS_CAPACITY = gauge("tidegate_dns_grants_capacity", "Entries that tg_names can hold.")
EVICTED = counter("tidegate_dns_evicted_total", "What gave way to newer answers, by bound.", ("what",))
REPORTS_LOST = counter("tidegate_dns_reports_lost_total", "Records that the DNS proxy could not hand over.")
SPECS: tuple[Spec, ...] = (
    UP,
    RESTARTS,
    QUERIES,
    ANSWER_SECONDS,
    UPSTREAM_FAILURES,
    FAILURES,
    IN_FLIGHT,
    CACHED_NAMES,
    CACHED_ADDRESSES,
    UPSTREAM_SOCKETS,
    TCP_CONNECTIONS,
    GRANTS,
    GRANTS_CAPACITY,
    EVICTED,
    REPORTS_LOST,
)
RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
UPSTREAM_REASONS = (
    *("upstream_timeouts", "upstream_unreachable", "upstream_malformed", "upstream_lies_id", "upstream_lies_question"),
    *("upstream_late", "upstream_sockets_suspect"),
)
OWN_REASONS = (
    *("failed_limit", "failed_publish", "failed_restore", "failed_internal", "unknown_subject", "malformed", "dropped"),
    *("tcp_refused", "reply_failed", "rules_failed", "listen_failed", "cache_failed", "faults"),
)
_SECOND_NS = 1e9


def dns_metrics(status: DnsStatus) -> Iterator[Metric]:
    """Yield every family."""
    counters, gauges, names = status.counters, status.gauges, status.names_map
    yield UP.value(status.state is ProcessState.READY)
    yield RESTARTS.value(status.restarts)
    queries = QUERIES.counter()
    for verdict, rcode, kind, count in status.outcomes:
        queries.add_metric([verdict, RCODES.get(rcode, "other"), kind], count)
    yield queries
    yield _answer_seconds(status)
    for spec, reasons, prefix in ((UPSTREAM_FAILURES, UPSTREAM_REASONS, "upstream_"), (FAILURES, OWN_REASONS, "failed_")):
        failures = spec.counter()
        for name in reasons:
            failures.add_metric([name.removeprefix(prefix)], counters.get(name, 0))
        yield failures
    yield IN_FLIGHT.value(gauges.get("in_flight", 0))
    yield CACHED_NAMES.value(gauges.get("cached_names", 0))
    yield CACHED_ADDRESSES.value(gauges.get("cached_addresses", 0))
    yield UPSTREAM_SOCKETS.value(gauges.get("upstream_sockets", 0))
    yield TCP_CONNECTIONS.value(gauges.get("tcp_connections", 0))
    yield GRANTS.value(names.get("entries", 0))
    yield GRANTS_CAPACITY.value(names.get("capacity", 0))
    evicted = EVICTED.counter()
    evicted.add_metric(["addresses"], counters.get("evicted_addresses", 0))
    evicted.add_metric(["names"], counters.get("evicted_names", 0))
    evicted.add_metric(["grants"], names.get("evicted_grants", 0))
    yield evicted
    yield REPORTS_LOST.value(counters.get("reports_lost", 0))


def _answer_seconds(status: DnsStatus) -> Metric:
    family = ANSWER_SECONDS.histogram()
    bounds = [*(repr(bound_ns / _SECOND_NS) for bound_ns in status.latency_bounds_ns), "+Inf"]
    cumulated = accumulate(status.latency_counts) if status.latency_counts else [0]
    family.add_metric([], list(zip(bounds, map(float, cumulated), strict=True)), status.latency_sum_ns / _SECOND_NS)
    return family
