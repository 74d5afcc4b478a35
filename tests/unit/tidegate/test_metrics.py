"""/metrics."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bpf_redirect.abi import L7Kind
from tests.unit.tidegate.fakes import RULE, denied_request, packet, realised_status
from tidegate.counts.totals import CountSide, L7Counts, Series, Total, Workload
from tidegate.flows.record import DnsPart, Flow, HttpPart, KafkaPart, TlsPart
from tidegate.flows.ring import FlowRing, LossSource
from tidegate.metrics import CATALOGUE, SERIES_MAX, Meters, RequestCollector, render
from tidegate.status.node import DropCount, EndpointState, EndpointStatus, MapFill, NodeStatus

METRICS_PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(status: NodeStatus, ring: FlowRing, meters: Meters | None = None) -> Samples:
    """Every sample by name and labels, read by the client library's own parser."""
    families = text_string_to_metric_families(render(status, ring, meters or Meters()).decode())
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def full_status() -> NodeStatus:
    return realised_status(
        endpoints=(
            EndpointStatus(key="default/a", state=EndpointState.READY),
            EndpointStatus(key="default/b", state=EndpointState.READY),
            EndpointStatus(key="default/c", state=EndpointState.FAILED),
        ),
        drops=(DropCount(reason="policy_denied", direction="from_endpoint", packets=5, bytes=300),),
        maps=(MapFill(name="tg_policy", entries=10, capacity=100),),
    )


def full_ring() -> FlowRing:
    ring = FlowRing(10)
    ring.publish(denied_request())
    ring.publish(packet())
    ring.report_lost(LossSource.BPF, 3)
    return ring


def test_every_number_of_the_status_has_its_sample() -> None:
    found = samples(full_status(), full_ring())
    expected = {
        ("tidegate_endpoints", (("state", "ready"),)): 2,
        ("tidegate_endpoints", (("state", "failed"),)): 1,
        ("tidegate_endpoints", (("state", "waiting"),)): 0,
        ("tidegate_policies", (("state", "realised"),)): 1,
        ("tidegate_policy_revision", ()): 7,
        ("tidegate_policy_revision_realised", ()): 7,
        ("tidegate_all_realised", ()): 0,
        ("tidegate_envoy_up", ()): 1,
        ("tidegate_bpf_up", ()): 1,
        ("tidegate_xds_pushes_total", ()): 3,
        ("tidegate_xds_acks_total", ()): 3,
        ("tidegate_xds_nacks_total", ()): 0,
        ("tidegate_drop_packets_total", (("direction", "from_endpoint"), ("reason", "policy_denied"))): 5,
        ("tidegate_drop_bytes_total", (("direction", "from_endpoint"), ("reason", "policy_denied"))): 300,
        ("tidegate_bpf_map_entries", (("map", "tg_policy"),)): 10,
        ("tidegate_bpf_map_capacity", (("map", "tg_policy"),)): 100,
        ("tidegate_flows_total", (("verdict", "denied"),)): 1,
        ("tidegate_flows_total", (("verdict", "forwarded"),)): 1,
        ("tidegate_flows_lost_total", (("source", "bpf"),)): 3,
        ("tidegate_build_info", (("envoy", "1.40.0"), ("version", "0.1.0"))): 1,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_a_crowd_of_endpoints_adds_no_series() -> None:
    crowd = tuple(EndpointStatus(key=f"default/{number}", state=EndpointState.READY) for number in range(1000))
    assert len(samples(realised_status(endpoints=crowd), FlowRing(1))) == len(samples(realised_status(), FlowRing(1)))


SERIES = Series(
    Workload("default", "xwing"), Workload("", "reserved:world"), CountSide.EGRESS, "http", ("cnp/a/b", "cnp/a/c"), L7Kind.DENIED
)
COUNTS = L7Counts(totals={SERIES: Total(7, 700)}, overflow={L7Kind.ALLOWED: 2})


def metered(*flows: Flow) -> Meters:
    meters = Meters()
    for flow in flows:
        meters.records.take(flow)
    return meters


def full_meters() -> Meters:
    meters = metered(
        denied_request(),
        packet(l7=HttpPart(method="GET", path="/", code=200), latency_ns=3_000_000, rule=RULE),
        packet(l7=DnsPart(query="a.example.", query_types=("A",), rcode=3)),
        packet(l7=KafkaPart(api_key="produce", api_version=9, topics=("t",))),
        packet(l7=TlsPart(server_name="a.example")),
        packet(),
    )
    meters.add(RequestCollector(lambda: COUNTS))
    meters.realisation.noticed(10.0)
    meters.realisation.realised(meters.realisation.started(), 10.02)
    return meters


def test_records_become_counts_by_workload_method_status_class_verdict_and_policy() -> None:
    found = samples(full_status(), full_ring(), full_meters())
    ends = (("destination", "default/deathstar"), ("source", "default/xwing"))

    def value(name: str, **labels: str) -> float | None:
        return found.get((name, tuple(sorted({**dict(ends), **labels}.items()))))

    http = {"protocol": "http", "policy": str(RULE.policy)}
    assert value("tidegate_request_records_total", **http, method="PUT", status="4xx", verdict="denied") == 1
    assert value("tidegate_request_records_total", **http, method="GET", status="2xx", verdict="forwarded") == 1
    tls = {"protocol": "tls", "policy": "", "method": "", "status": ""}
    assert value("tidegate_request_records_total", **tls, verdict="forwarded") == 1
    assert value("tidegate_connection_records_total", protocol="tcp", verdict="forwarded", policy="") == 1
    assert value("tidegate_kafka_records_total", api="produce", error="0", verdict="forwarded", policy="") == 1
    assert value("tidegate_kafka_topic_records_total", api="produce", topic="t", verdict="forwarded") == 1
    dns = (("rcode", "nxdomain"), ("source", "default/xwing"), ("type", "A"), ("verdict", "forwarded"))
    assert found[("tidegate_dns_records_total", dns)] == 1
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in found.items()
        if name == "tidegate_request_duration_seconds_bucket"
    }
    assert [buckets[bound] for bound in sorted(buckets)] == [0, 0, *[1] * 12]
    labels = (("destination", "default/deathstar"), ("protocol", "http"))
    assert found[("tidegate_request_duration_seconds_sum", labels)] == 0.003
    assert found[("tidegate_policy_realisation_seconds_count", ())] == 1
    assert found[("tidegate_policy_realisations_total", (("outcome", "realised"),))] == 1


def test_exact_counts_are_by_workload_direction_protocol_verdict_and_policy() -> None:
    found = samples(full_status(), full_ring(), full_meters())
    labels = {
        "source": "default/xwing",
        "destination": "world",
        "direction": "egress",
        "protocol": "http",
        "verdict": "denied",
        "policy": "cnp/a/b,cnp/a/c",
    }
    assert found[("tidegate_requests_total", tuple(sorted(labels.items())))] == 7
    assert found[("tidegate_request_bytes_total", tuple(sorted(labels.items())))] == 700
    assert found[("tidegate_requests_uncounted_total", (("verdict", "allowed"),))] == 2


def test_a_crawler_with_100_000_paths_adds_no_series() -> None:
    meters = metered(*(denied_request(l7=HttpPart(method="GET", path=f"/{number}", code=403)) for number in range(100_000)))
    counted = {key: value for key, value in samples(full_status(), full_ring(), meters).items() if "request_records" in key[0]}
    assert [value for key, value in counted.items() if key[0].endswith("_total")] == [100_000]


def test_methods_that_a_client_invents_are_one() -> None:
    meters = metered(*(denied_request(l7=HttpPart(method=f"X{number}", path="/", code=403)) for number in range(1000)))
    counted = [dict(key[1])["method"] for key in samples(full_status(), full_ring(), meters) if "request_records" in key[0]]
    assert counted == ["other"]


def test_workloads_beyond_the_limit_are_counted_as_other() -> None:
    sources = [replace(packet().source, name=f"w{number}x") for number in range(SERIES_MAX + 50)]
    found = samples(full_status(), full_ring(), metered(*(packet(source=source) for source in sources)))
    connections = {key: value for key, value in found.items() if key[0] == "tidegate_connection_records_total"}
    assert len(connections) == SERIES_MAX + 1
    assert sum(connections.values()) == SERIES_MAX + 50
    assert [value for key, value in connections.items() if dict(key[1])["source"] == "other"] == [50]
    assert found[("tidegate_metric_overflow_total", (("metric", "tidegate_connection_records_total"),))] == 50


def test_change_that_could_not_be_realised_counts_from_when_it_was_noticed() -> None:
    meters = Meters()
    meters.realisation.noticed(1.0)
    noticed_s = meters.realisation.started()
    meters.realisation.noticed(2.0)
    meters.realisation.failed(noticed_s)
    meters.realisation.realised(meters.realisation.started(), 4.0)
    found = samples(full_status(), full_ring(), meters)
    assert found[("tidegate_policy_realisation_seconds_sum", ())] == 3.0
    assert found[("tidegate_policy_realisations_total", (("outcome", "failed"),))] == 1


def test_promtool_has_nothing_to_say() -> None:
    text = render(full_status(), full_ring(), full_meters())
    result = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (result.returncode, result.stdout + result.stderr) == (0, b"")


def test_every_metric_is_in_the_catalogue_with_its_type_and_labels() -> None:
    text = render(full_status(), full_ring(), full_meters()).decode()
    specs = {spec.name.removesuffix("_total"): spec for spec in CATALOGUE}
    assert len(specs) == len(CATALOGUE)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families.keys() == specs.keys()
    for name, family in families.items():
        spec = specs[name]
        assert (family.type, family.documentation) == (spec.kind.value, spec.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(spec.labels), sample


def test_documentation_lists_every_metric() -> None:
    rows = re.findall(r"^\| `(tidegate_\w+)` \| (\w+) \| ([^|]*) \| (\w+) \|", METRICS_PAGE.read_text(), re.MULTILINE)
    listed = {name: (kind, frozenset(re.findall(r"`(\w+)`", labels)), source) for name, kind, labels, source in rows}
    assert listed == {spec.name: (spec.kind.value, frozenset(spec.labels), spec.source.value) for spec in CATALOGUE}


SCRAPE_SECONDS_MAX = 0.5
"""Of processor time, on a busy machine; it is some 40 ms on an idle one."""


def test_scrape_with_200_services_is_cheap() -> None:
    """200 services that each ask ten others, with three kinds of answer: every metric at its limit."""
    meters = Meters()
    ends = [replace(packet().source, name=f"service{number}x") for number in range(200)]
    for number, source in enumerate(ends):
        for step in range(1, 11):
            flow = packet(source=source, destination=ends[(number + step) % 200], latency_ns=1_000_000)
            for code in (200, 404, 500):
                meters.records.take(replace(flow, l7=HttpPart(method="GET", path="/", code=code)))
    ring = full_ring()
    started = time.process_time()
    text = render(full_status(), ring, meters)
    assert time.process_time() - started < SCRAPE_SECONDS_MAX
    assert len(text.splitlines()) < 8000
