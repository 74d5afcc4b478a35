"""Metrics from flow records: who asks whom for what, with which answer and how fast.

Owns: which parts of a record become labels. A record costs two look-ups. Paths, headers, names asked for and addresses are
never labels; a method that nobody knows is ``other``; what workloads, policies and topics there are is bounded by ``SERIES_MAX``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tidegate.flows.filter import policy_of
from tidegate.flows.record import DnsPart, Flow, HttpPart, KafkaPart, TlsPart, Verdict, protocol_name
from tidegate.metrics.spec import BoundedHistogram, BoundedSeries, Source, Spec, counter, histogram, overflow_of

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
"""RFC 9110 and RFC 5789; clients can write anything."""
LATENCY_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LATENCY_SERIES_MAX = 400
"""Destinations by protocol: 200 services that speak two. A series of a histogram is 16 lines."""
RCODES = {0: "noerror", 1: "formerr", 2: "servfail", 3: "nxdomain", 4: "notimp", 5: "refused"}

_RECORDS = Source.RECORDS
REQUESTS = counter(
    "tidegate_request_records_total",
    "Requests and TLS connections judged by Envoy.",
    ("source", "destination", "protocol", "method", "status", "verdict", "policy"),
    _RECORDS,
)
LATENCY = histogram(
    "tidegate_request_duration_seconds",
    "From a request's first byte to the end of its answer, where it was forwarded.",
    ("destination", "protocol"),
    _RECORDS,
)
CONNECTIONS = counter(
    "tidegate_connection_records_total",
    "Verdicts on connections and packets given in the kernel.",
    ("source", "destination", "protocol", "verdict", "policy"),
    _RECORDS,
)
DNS = counter("tidegate_dns_records_total", "DNS queries by who asked.", ("source", "type", "rcode", "verdict"), _RECORDS)
KAFKA = counter(
    "tidegate_kafka_records_total",
    "Kafka requests.",
    ("source", "destination", "api", "error", "verdict", "policy"),
    _RECORDS,
)
KAFKA_TOPICS = counter(
    "tidegate_kafka_topic_records_total",
    "Kafka requests by the topics that they name; topics beyond the limit are other.",
    ("source", "destination", "topic", "api", "verdict"),
    _RECORDS,
)
OVERFLOW = counter(
    "tidegate_metric_overflow_total",
    "Records counted under the value other, for a metric has as many series as it may.",
    ("metric",),
)
SPECS: tuple[Spec, ...] = (REQUESTS, LATENCY, CONNECTIONS, DNS, KAFKA, KAFKA_TOPICS, OVERFLOW)


class RecordMeter(Collector):
    """Counts records as they are published."""

    def __init__(self) -> None:
        self._requests = BoundedSeries(REQUESTS)
        self._latency = BoundedHistogram(LATENCY, LATENCY_BOUNDS_S, LATENCY_SERIES_MAX)
        self._connections = BoundedSeries(CONNECTIONS)
        self._dns = BoundedSeries(DNS)
        self._kafka = BoundedSeries(KAFKA)
        self._kafka_topics = BoundedSeries(KAFKA_TOPICS)

    def take(self, flow: Flow) -> None:
        """Count one record."""
        source, destination, verdict = flow.source.workload, flow.destination.workload, flow.verdict.value
        policy = str(policy_of(flow) or "")
        match flow.l7:
            case HttpPart() as http:
                method = http.method if http.method in METHODS else "other"
                status = f"{http.code // 100}xx" if http.code else ""
                protocol = "grpc" if http.grpc_status is not None else "http"
                self._requests.add((source, destination, protocol, method, status, verdict, policy))
            case TlsPart():
                self._requests.add((source, destination, "tls", "", "", verdict, policy))
            case DnsPart() as dns:
                kind = dns.query_types[0] if dns.query_types and len(dns.query_types[0]) <= 10 else "other"
                self._dns.add((source, kind, RCODES.get(dns.rcode, "other"), verdict))
            case KafkaPart() as kafka:
                self._kafka.add((source, destination, kafka.api_key, str(kafka.error_code), verdict, policy))
                for topic in kafka.topics:
                    self._kafka_topics.add((source, destination, topic, kafka.api_key, verdict))
            case None:
                self._connections.add((source, destination, protocol_name(flow), verdict, policy))
        if flow.latency_ns and flow.verdict in (Verdict.FORWARDED, Verdict.AUDITED):
            self._latency.observe((destination, protocol_name(flow)), flow.latency_ns / 1e9)

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        bounded = (self._requests, self._latency, self._connections, self._dns, self._kafka, self._kafka_topics)
        for each in bounded:
            yield each.collect()
        yield overflow_of(OVERFLOW, bounded)
