"""What people see of a running node: the page's address, the map, flows on disk, metrics, what is unmanaged, a flow explained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.netns import run_ip
from tests.support.node import eventually
from tests.support.stage import DEATHSTAR, HTTP, Stage, cnp, from_endpoints, http

pytestmark = [pytest.mark.root, pytest.mark.envoy]

PAGE = "127.0.0.1:9470"
LANDING = cnp(
    "rule1",
    DEATHSTAR,
    ingress=[{"fromEndpoints": from_endpoints({"org": "empire"}), "toPorts": http({"method": "GET", "path": "/v1/.*"})}],
)
EXIT_NO = 1


@pytest.fixture(scope="module")
def watched() -> Iterator[Stage]:
    config = {
        "admin": {"page": PAGE},
        "flows": {"allowedSample": 1, "file": {"path": "./kept/flows.jsonl", "maxBytes": 65536, "files": 3}},
    }
    with Stage(prefix="tgwatch", config=config) as stage:
        stage.enforce(LANDING)
        yield stage


def ask(stage: Stage, path: str, *arguments: str) -> str:
    """What the page's address answers to a program of the node."""
    result = stage.host.run(["curl", "-sS", "--max-time", "10", *arguments, f"http://{PAGE}{path}"])
    assert result.returncode == 0, result.stderr
    return result.stdout


def metrics(stage: Stage) -> dict[str, float]:
    """Every sample by its name and labels as they are written."""
    lines = (line for line in ask(stage, "/metrics").splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_page_map_disk_and_metrics_tell_the_same_of_the_same_requests(watched: Stage) -> None:
    url = watched.deathstar.url(HTTP)
    before = metrics(watched)
    for _ in range(5):
        assert watched.tiefighter.http(url, path="/v1/land").status == 200
    assert watched.tiefighter.http(url, "PUT", path="/v1/exhaust-port").status == 403
    assert "<title>Tidegate</title>" in ask(watched, "/")

    def edge() -> dict[str, Any]:
        found = json.loads(ask(watched, "/v1/map"))
        ends = ("default/tiefighter", "default/deathstar")
        edges = [each for each in found["edges"] if (each["source"], each["destination"]) == ends]
        return dict(zip(found["columns"], edges[0]["counts"], strict=True)) if edges else {}

    eventually(lambda: edge().get("forwarded", 0) >= 5 and edge().get("denied", 0) >= 1, what="the edge of the map")
    ends = 'destination="default/deathstar",method="{}",policy="cnp/default/rule1",protocol="http",source="default/tiefighter"'
    counted = {
        verdict: f'tidegate_request_records_total{{{ends.format(method)},status="{status}",verdict="{verdict}"}}'
        for method, status, verdict in (("GET", "2xx", "forwarded"), ("PUT", "4xx", "denied"))
    }
    after = metrics(watched)
    grown = {verdict: after[name] - before.get(name, 0) for verdict, name in counted.items()}
    assert grown == {"forwarded": 5, "denied": 1}
    kept = [
        json.loads(line) for line in watched.node.cli("flows", "--stored", "-o", "json", "--method", "PUT").stdout.splitlines()
    ]
    assert [each["l7"]["http"]["url"].rpartition("/")[2] for each in kept] == ["exhaust-port"]
    effect = json.loads(ask(watched, "/v1/policies/effect?key=cnp/default/rule1"))
    assert effect["recent"]["forwarded"] >= 5
    assert effect["nearest_misses"] >= 1
    assert effect["slots"][0]["ready"]


def test_flow_that_happened_is_explained_as_it_was_judged(watched: Stage) -> None:
    assert watched.tiefighter.http(watched.deathstar.url(HTTP), "DELETE", path="/v1/moon").status == 403
    found: list[dict[str, Any]] = []

    def recorded() -> bool:
        found[:] = watched.node.flows("--method", "DELETE", "--verdict", "denied")
        return bool(found)

    eventually(recorded, what="the record")
    result = watched.node.cli("explain", "--flow", found[-1]["uuid"], "-o", "json")
    report = json.loads(result.stdout)
    assert (result.returncode, report["verdict"], report["record"]["agrees"]) == (EXIT_NO, "denied", True)
    assert report["nearestMisses"][0]["text"] == found[-1]["tidegate"]["nearest_miss"]


def test_interface_that_no_endpoint_claims_is_unmanaged_until_it_goes(watched: Stage) -> None:
    netns = watched.cluster.node_netns
    assert watched.node.status()["unmanaged"] == []
    run_ip("-n", netns, "link", "add", "stray0", "type", "veth", "peer", "name", "eth9", "netns", watched.internet.netns)
    try:
        eventually(lambda: [each["name"] for each in watched.node.status()["unmanaged"]] == ["stray0"], what="stray0 unmanaged")
        assert 'tidegate_unmanaged_workloads{kind="interface"}' in metrics(watched)
        assert metrics(watched)['tidegate_unmanaged_workloads{kind="interface"}'] == 1
        assert "stray0" in watched.node.cli("status").stdout
    finally:
        run_ip("-n", netns, "link", "del", "stray0")
    eventually(lambda: watched.node.status()["unmanaged"] == [], what="nothing unmanaged")


def test_page_of_a_pod_or_a_rebound_name_is_refused(watched: Stage) -> None:
    assert watched.xwing.tcp(watched.cluster.host.address(4), 9470) != "connected"
    for attack in (["-H", "Host: evil.example"], ["-H", "Sec-Fetch-Site: cross-site"]):
        assert ask(watched, "/v1/flows", *attack, "-o", "/dev/null", "-w", "%{http_code}") in ("421", "403")
