"""The CRDs of ``policy.tidegate.dev`` as the API server enforces them."""

from __future__ import annotations

import pytest

from tests.support.control_plane import ApiFailure
from tests.support.kube_stage import KubeStage
from tests.support.stage import DEATHSTAR, tidegate_policy

pytestmark = [pytest.mark.root, pytest.mark.envoy]
PORTS = [{"ports": [{"port": "80", "protocol": "TCP"}]}]


def refusal(stage: KubeStage, **spec: object) -> str:
    """What the API server says to a TidegatePolicy with this spec; fails if it takes it."""
    with pytest.raises(ApiFailure) as refused:
        stage.kube.apply(tidegate_policy("refused", DEATHSTAR, **spec).text, dryRun="All")
    assert refused.value.status == 422
    return str(refused.value)


def test_a_policy_with_every_field_is_taken(stage: KubeStage) -> None:
    header = {"name": "x-a", "value": {"prefix": "b"}, "secret": {"name": "s", "key": "k"}, "mismatch": "LOG"}
    http = [{"method": {"exact": "GET"}, "path": {"prefix": "/v1"}, "host": "a", "headers": ["X: y"], "headerMatches": [header]}]
    rules = {"http": http, "httpDeny": [{"path": "/x"}], "grpc": [{"service": "a.B", "method": "C"}]}
    stage.kube.apply(
        tidegate_policy(
            "whole",
            DEATHSTAR,
            mode="audit",
            description="all there is",
            offload={"deniesPerSecond": 5, "seconds": 60},
            observe=[{"direction": "egress", "ports": [{"port": "80"}], "protocol": "http", "sample": 0.5}],
            enableDefaultDeny={"ingress": True},
            ingress=[{"fromEndpoints": [{"matchLabels": {"a": "b"}}], "toPorts": [{**PORTS[0], "rules": rules}]}],
            ingressDeny=[{"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]}],
            egress=[
                {"toFQDNs": [{"matchPattern": "*.example.com", "except": ["a.example.com"]}]},
                {"icmps": [{"fields": [{"type": 8}]}]},
            ],
        ).text,
        dryRun="All",
    )


def test_what_types_cant_say_is_refused_with_its_reason(stage: KubeStage) -> None:
    assert "needs at least one of ingress" in refusal(stage)
    assert "exclude each other" in refusal(stage, ingress=[{"toPorts": PORTS, "icmps": [{"fields": [{"type": 8}]}]}])
    assert "only a clusterwide policy can select nodes" in refusal(stage, ingress=[{}], nodeSelector={})
    assert "spec.ingress[0]" in refusal(stage, ingress=[{"fromGroups": []}])
    assert "spec.egress[0].toFQDNs[0]" in refusal(stage, egress=[{"toFQDNs": [{}]}])
    assert "spec.ingress[0].toPorts[0].rules" in refusal(
        stage, ingress=[{"toPorts": [{**PORTS[0], "rules": {"http": [{}], "kafka": [{}]}}]}]
    )
    assert "spec.mode" in refusal(stage, ingress=[{}], mode="enforced")


def test_a_misspelt_field_is_kept_for_the_agent_to_refuse(stage: KubeStage) -> None:
    document = tidegate_policy("misspelt", DEATHSTAR, ingress=[{"toPort": PORTS}], ingresDeny=[{}])
    spec = stage.kube.apply(document.text, dryRun="All")["spec"]
    assert spec["ingress"] == [{"toPort": PORTS}]
    assert spec["ingresDeny"] == [{}]


def test_short_names_and_columns(stage: KubeStage) -> None:
    definition = stage.kube.get("CustomResourceDefinition", "tidegatepolicies.policy.tidegate.dev")
    assert definition["status"]["acceptedNames"]["shortNames"] == ["tp"]
    names = [column["name"] for column in definition["spec"]["versions"][0]["additionalPrinterColumns"]]
    assert names[:4] == ["Accepted", "Realised", "Nodes", "Mode"]
