"""Policies written through the API server, enforced on real packets of pods."""

from __future__ import annotations

import pytest

from tests.support.kube_stage import KubeStage
from tests.support.stage import (
    DEATHSTAR,
    FALCON,
    HTTP,
    TIEFIGHTER,
    XWING,
    cnp,
    from_endpoints,
    http,
    network_policy,
    ports,
    reach,
)

pytestmark = [pytest.mark.root, pytest.mark.envoy]


def test_a_cilium_policy_written_through_the_api_judges_requests(stage: KubeStage, family: int) -> None:
    rules = http({"method": "GET", "path": "/allowed"})
    stage.enforce(cnp("http", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints({"org": "empire"}), "toPorts": rules}]))
    server = stage.deathstar
    assert stage.tiefighter.http(server.url(HTTP, "/allowed", family)).status == 200
    assert stage.tiefighter.http(server.url(HTTP, "/other", family)).status == 403
    assert reach(stage.xwing, server, [HTTP], family) == {HTTP: False}


def test_ingress_is_judged_on_the_servers_node_with_the_clients_own_address(stage: KubeStage, family: int) -> None:
    rules = http({"method": "GET", "path": "/allowed"})
    stage.enforce(cnp("far", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints({"class": "shuttle"}), "toPorts": rules}]))
    server = stage.deathstar
    answer = stage.shuttle.http(server.url(HTTP, "/allowed", family))
    assert answer.status == 200
    assert answer.json["peer"][0] == stage.shuttle.address(family)
    assert stage.shuttle.http(server.url(HTTP, "/other", family)).status == 403
    assert reach(stage.falcon, server, [HTTP], family) == {HTTP: False}


def test_egress_is_judged_on_the_clients_node(stage: KubeStage) -> None:
    rules = http({"method": "GET", "path": "/allowed"})
    stage.enforce(cnp("out", XWING, egress=[{"toEndpoints": from_endpoints(FALCON), "toPorts": rules}]))
    assert stage.xwing.http(stage.falcon.url(HTTP, "/allowed")).status == 200
    assert stage.xwing.http(stage.falcon.url(HTTP, "/other")).status == 403
    assert reach(stage.xwing, stage.deathstar, [HTTP], 4) == {HTTP: False}


def test_a_network_policy_is_read_where_no_other_kind_is_wanted(stage: KubeStage) -> None:
    rule = {"from": [{"podSelector": {"matchLabels": TIEFIGHTER}}], "ports": [{"port": "http", "protocol": "TCP"}]}
    stage.enforce(network_policy("kube", DEATHSTAR, ingress=[rule], policyTypes=["Ingress"]))
    assert reach(stage.tiefighter, stage.deathstar, [HTTP, 7000], 4) == {HTTP: True, 7000: False}
    assert reach(stage.xwing, stage.deathstar, [HTTP], 4) == {HTTP: False}


def test_a_deleted_policy_is_no_longer_in_force(stage: KubeStage) -> None:
    stage.enforce(cnp("none", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(TIEFIGHTER), "toPorts": ports(HTTP)}]))
    assert reach(stage.xwing, stage.deathstar, [HTTP], 4) == {HTTP: False}
    stage.clear()
    assert reach(stage.xwing, stage.deathstar, [HTTP], 4) == {HTTP: True}


def test_a_relabelled_pod_is_judged_by_its_new_labels(stage: KubeStage) -> None:
    stage.enforce(
        cnp("labels", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints({"clearance": "high"}), "toPorts": ports(HTTP)}])
    )
    assert reach(stage.falcon, stage.deathstar, [HTTP], 4) == {HTTP: False}
    stage.kube.relabel(stage.falcon, {"clearance": "high"})
    stage.wait_ready()
    try:
        assert reach(stage.falcon, stage.deathstar, [HTTP], 4) == {HTTP: True}
    finally:
        stage.kube.relabel(stage.falcon, {"clearance": None})


def test_a_new_pod_is_an_endpoint_of_its_node_and_an_identity_on_the_other(stage: KubeStage) -> None:
    stage.enforce(cnp("new", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints({"class": "droid"}), "toPorts": ports(HTTP)}]))
    pod = stage.pod_on("node-b", "droid", {"class": "droid"})
    try:
        stage.wait_ready()
        assert "default/droid" in {endpoint["key"] for endpoint in stage.far.status()["endpoints"]}
        assert "default/droid" not in {endpoint["key"] for endpoint in stage.node.status()["endpoints"]}
        assert reach(pod, stage.deathstar, [HTTP], 4) == {HTTP: True}
    finally:
        stage.remove_pod(pod)


def test_labels_of_namespaces_select_their_pods(stage: KubeStage) -> None:
    peer = {"io.cilium.k8s.namespace.labels.side": "light"}
    stage.enforce(cnp("namespaces", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(peer), "toPorts": ports(HTTP)}]))
    assert reach(stage.xwing, stage.deathstar, [HTTP], 4) == {HTTP: False}
    stage.kube.namespace("default", {"side": "light"})
    stage.wait_ready()
    try:
        assert reach(stage.xwing, stage.deathstar, [HTTP], 4) == {HTTP: True}
    finally:
        stage.kube.namespace("default")
