"""What node.yaml can change about a refusal, Services, secrets, and workloads of the node itself."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
import yaml

from tests.support.netns import Pod
from tests.support.node import eventually
from tests.support.pod import Failed
from tests.support.stage import (
    DEATHSTAR,
    DENIED_SECONDS,
    HTTP,
    HTTP_OTHER,
    TCP,
    UDP,
    XWING,
    Document,
    Stage,
    cnp,
    from_endpoints,
    http,
    policy,
    ports,
    reach,
    tidegate_policy,
)

pytestmark = [pytest.mark.root, pytest.mark.envoy]


@pytest.fixture(scope="module")
def own_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    secrets = tmp_path_factory.mktemp("secrets")
    data = {"token": base64.b64encode(b"s3cret").decode()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "rank", "namespace": "default"}, "data": data}
    (secrets / "rank.yaml").write_text(yaml.safe_dump(secret))
    config = {
        "denyResponse": "reset",
        "secrets": str(secrets),
        "http": {"deniedBody": "these are not the droids\n", "deniedHeader": "x-denied-by"},
    }
    with Stage(prefix="tgoptions", config=config) as stage:
        yield stage


def test_denied_connection_is_refused_at_once_where_resets_are_asked_for(own_stage: Stage, family: int) -> None:
    stage = own_stage
    stage.enforce(cnp("rule1", DEATHSTAR, ingress=[{"toPorts": ports(HTTP)}]))
    address = stage.deathstar.address(family)
    assert stage.xwing.tcp(address, HTTP) == "connected"
    assert stage.xwing.tcp(address, TCP) == "refused"
    # Strangers and other nodes are told nothing.
    assert stage.falcon.tcp(address, TCP, timeout=DENIED_SECONDS) == "timeout"
    with pytest.raises(Failed, match=r"refused|unreachable"):
        stage.xwing.udp(address, UDP, timeout=2)


def test_denied_egress_is_refused_at_once_where_resets_are_asked_for(own_stage: Stage, family: int) -> None:
    stage = own_stage
    stage.enforce(cnp("rule1", XWING, egress=[{"toEndpoints": from_endpoints(DEATHSTAR), "toPorts": ports(HTTP)}]))
    assert stage.xwing.tcp(stage.deathstar.address(family), HTTP) == "connected"
    assert stage.xwing.tcp(stage.deathstar.address(family), TCP) == "refused"
    assert stage.xwing.tcp(stage.internet.address(family), TCP) == "refused"


@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_refusal_has_the_body_and_the_header_that_were_asked_for(own_stage: Stage, protocol: str) -> None:
    stage = own_stage
    rules = {"http": [{"path": {"prefix": "/v1"}}], "httpDeny": [{"path": {"prefix": "/v1/admin"}}]}
    stage.enforce(tidegate_policy("named", DEATHSTAR, ingress=[{"toPorts": ports(HTTP, rules=rules)}]))
    denied = stage.xwing.http(stage.deathstar.url(HTTP, "/v1/admin"), protocol=protocol)
    assert (denied.status, denied.body) == (403, b"these are not the droids\n")
    assert "tp/default/named" in (denied.header("x-denied-by") or "")
    assert stage.xwing.http(stage.deathstar.url(HTTP, "/v1/x"), protocol=protocol).header("x-denied-by") is None


def test_header_value_can_come_from_a_secret(own_stage: Stage) -> None:
    stage = own_stage

    def rule(path: str, mismatch: str) -> dict[str, object]:
        secret = {"namespace": "default", "name": "rank"}
        return {"path": path, "headerMatches": [{"name": "x-token", "secret": secret, "mismatch": mismatch}]}

    stage.enforce(cnp("secret", DEATHSTAR, ingress=[{"toPorts": http(rule("/fail", "FAIL"), rule("/replace", "REPLACE"))}]))
    url = stage.deathstar.url(HTTP)
    assert stage.xwing.http(url, path="/fail", headers={"x-token": "s3cret"}).status == 200
    assert stage.xwing.http(url, path="/fail", headers={"x-token": "guess"}).status == 403
    replaced = stage.xwing.http(url, path="/replace", headers={"x-token": "guess"})
    assert (replaced.status, replaced.seen_headers["x-token"]) == (200, "s3cret")
    # A secret is nowhere to be read.
    for shown in (stage.node.log_tail(), stage.node.cli("status", "-o", "json").stdout, stage.node.cli("flows").stdout):
        assert "s3cret" not in shown


def test_service_is_reached_by_its_backends(own_stage: Stage, family: int) -> None:
    stage = own_stage
    service = policy("ships", {"selector": {"class": "deathstar"}}, kind="Service", api_version="v1")
    to_service = [{"k8sService": {"serviceName": "ships", "namespace": "default"}}]
    egress = cnp("egress", XWING, egress=[{"toServices": to_service}])
    stage.enforce()
    stage.forget()
    # Without the Service the rule allows nothing, and the status says what is missing.
    stage.node.write_policy("egress", egress.text)
    assert "there is no Service default/ships" in stage.node.cli("status").stdout
    eventually(lambda: stage.xwing.tcp(stage.deathstar.address(family), HTTP) == "refused")
    stage.enforce(egress, service)
    assert stage.xwing.tcp(stage.deathstar.address(family), HTTP) == "connected"
    assert stage.xwing.tcp(stage.internet.address(family), HTTP) == "refused"


BUILDER = {"app": "builder"}


@pytest.fixture(scope="module")
def builder(shared_stage: Stage) -> Iterator[Pod]:
    """A process of the node in a cgroup of its own."""
    workload = shared_stage.cluster.workload("builder", BUILDER)
    workload.serve_http(9191)
    shared_stage.node.write_endpoints()
    shared_stage.node.wait_ready()
    yield workload
    shared_stage.cluster.remove_workload("builder")
    shared_stage.node.write_endpoints()
    shared_stage.node.wait_ready()


def host_policy(**spec: object) -> Document:
    """A policy for the builder."""
    return policy("builder", {"endpointSelector": {"matchLabels": BUILDER}, **spec}, namespace="host")


def test_egress_of_a_host_workload_is_judged_by_its_cgroup(stage: Stage, builder: Pod, family: int) -> None:
    peers = [{"matchLabels": {"io.kubernetes.pod.namespace": "default", **DEATHSTAR}}]
    stage.enforce(host_policy(egress=[{"toEndpoints": peers, "toPorts": ports(HTTP)}]))
    address = stage.deathstar.address(family)
    assert builder.tcp(address, HTTP) == "connected"
    assert builder.tcp(address, HTTP_OTHER, timeout=DENIED_SECONDS) != "connected"
    assert builder.tcp(stage.internet.address(family), HTTP, timeout=DENIED_SECONDS) != "connected"
    # The rest of the node is not that workload.
    assert reach(stage.host, stage.deathstar, [HTTP, HTTP_OTHER], family) == {HTTP: True, HTTP_OTHER: True}


def test_http_of_a_host_workload_is_judged_request_by_request(stage: Stage, builder: Pod, family: int) -> None:
    peers = [{"matchLabels": {"io.kubernetes.pod.namespace": "default", **DEATHSTAR}}]
    stage.enforce(host_policy(egress=[{"toEndpoints": peers, "toPorts": http({"path": "/ok"})}]))
    url = stage.deathstar.url(HTTP, family=family)
    assert builder.http(url, path="/ok").status == 200
    assert builder.http(url, path="/no").status == 403
    assert stage.host.http(url, path="/no").status == 200
