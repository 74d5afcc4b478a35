"""Pods that come and go cost no word to Envoy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.netns import ip_batch
from tests.support.node import eventually
from tests.support.stage import DEATHSTAR, HTTP, Stage, cnp, from_endpoints, http

pytestmark = [pytest.mark.root, pytest.mark.envoy]
ENDPOINT_COUNT = 200


@pytest.fixture(scope="module")
def own_stage() -> Iterator[Stage]:
    with Stage(prefix="tgchurn") as stage:
        yield stage


def test_two_hundred_endpoints_come_and_go_without_one_xds_response(own_stage: Stage) -> None:
    stage = own_stage
    stage.enforce(
        cnp("rule1", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints({"app": "crowd"}), "toPorts": http({"path": "/a"})}])
    )
    # One member of the crowd is real and holds a connection open all along.
    member = stage.cluster.pod("member", {"app": "crowd"})
    stage.node.write_endpoints()
    stage.node.wait_ready()
    connection = member.connect(stage.deathstar.url(HTTP))
    assert connection.request("/a").status == 200
    pushes = stage.node.status()["xds"]["pushes"]

    crowd = [crowd_member(index) for index in range(ENDPOINT_COUNT)]
    local = crowd[: ENDPOINT_COUNT // 2]
    ip_batch(stage.cluster.node_netns, *(f"link add {each['interface']} type veth peer name in-{each['name']}" for each in local))
    for size in (50, 120, ENDPOINT_COUNT, 90, 0):
        stage.node.write_endpoints(stage.cluster.endpoints_yaml(extra=crowd[:size]))
        eventually(lambda size=size: crowd_size(stage) == min(size, ENDPOINT_COUNT // 2), 30, f"{size} endpoints")  # type: ignore[misc]
        stage.node.wait_ready()
        assert connection.request("/a").status == 200
        assert connection.request("/b").status == 403
    status = stage.node.status()
    assert status["xds"]["pushes"] == pushes
    assert status["xds"]["nacks"] == 0
    connection.close()
    ip_batch(stage.cluster.node_netns, *(f"link delete {each['interface']}" for each in local))


def crowd_member(index: int) -> dict[str, Any]:
    """The first half are local pods with an interface, the others stand on other nodes."""
    member: dict[str, Any] = {
        "name": f"crowd-{index}",
        "namespace": "default",
        "labels": {"app": "crowd", "index": str(index % 7)},
        "ipv4": f"10.0.14.{index + 1}",
        "ipv6": f"fd00:10::e:{index:x}",
    }
    if index < ENDPOINT_COUNT // 2:
        member["interface"] = f"lxc-crowd{index}"
    return member


def crowd_size(stage: Stage) -> int:
    """How many of the crowd the node holds as local endpoints."""
    return sum(endpoint["key"].startswith("default/crowd-") for endpoint in stage.node.status()["endpoints"])
