"""/metrics."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.tidegate.fakes import denied_request, packet, realised_status
from tidegate.flows import FlowRing, LossSource
from tidegate.metrics import render
from tidegate.status import DropCount, EndpointState, EndpointStatus, MapFill, NodeStatus


def samples(status: NodeStatus, ring: FlowRing) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels, read by the client library's own parser."""
    families = text_string_to_metric_families(render(status, ring).decode())
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


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_say() -> None:
    result = subprocess.run(
        ["promtool", "check", "metrics"], input=render(full_status(), full_ring()), capture_output=True, check=False
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, b"")
