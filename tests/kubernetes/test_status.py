"""What users see of their policies through the API server: conditions, one entry a node, Events."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.support.control_plane import Tree
from tests.support.kube import wait_for
from tests.support.kube_stage import KubeStage
from tests.support.stage import DEATHSTAR, HTTP, cnp, from_endpoints, http, reach, tidegate_policy

pytestmark = [pytest.mark.root, pytest.mark.envoy]
RULES = http({"method": "GET"})


def status(stage: KubeStage, name: str, kind: str = "TidegatePolicy") -> Tree:
    return dict(stage.kube.get(kind, name).get("status", {}))


def condition(stage: KubeStage, name: str, kind: str, value: str, seconds: float = 20.0) -> Tree:
    """Wait until a condition of the present generation has this value."""

    def look() -> Tree | None:
        tree = stage.kube.get("TidegatePolicy", name)
        found = next((one for one in tree.get("status", {}).get("conditions", []) if one["type"] == kind), None)
        is_it = found is not None and found["status"] == value and found["observedGeneration"] == tree["metadata"]["generation"]
        return found if is_it else None

    return dict(wait_for(look, seconds, f"{kind}={value} of {name}: {status(stage, name)}"))


def test_a_good_policy_is_accepted_and_realised_on_the_nodes_it_concerns(stage: KubeStage) -> None:
    stage.kube.apply(tidegate_policy("ours", {"org": "empire"}, ingress=[{"toPorts": RULES}]).text)
    condition(stage, "ours", "Accepted", "True")
    assert condition(stage, "ours", "Realised", "True")["message"] == "in force on 2 nodes"
    found = status(stage, "ours")
    nodes = {entry["name"]: entry for entry in found["nodes"]}
    assert {name: (entry["state"], entry["endpoints"], entry["generation"]) for name, entry in nodes.items()} == {
        "node-a": ("realised", 2, 1),
        "node-b": ("realised", 1, 1),
    }
    assert nodes["node-a"]["revision"] > 0
    assert found["summary"] == "2/2"


def test_a_node_without_workloads_of_a_policy_writes_no_entry(stage: KubeStage) -> None:
    stage.kube.apply(tidegate_policy("here", DEATHSTAR, ingress=[{"toPorts": RULES}]).text)
    condition(stage, "here", "Realised", "True")
    assert [entry["name"] for entry in status(stage, "here")["nodes"]] == ["node-a"]


def test_an_edit_is_realised_under_its_own_generation(stage: KubeStage) -> None:
    stage.kube.apply(tidegate_policy("edit", DEATHSTAR, ingress=[{"toPorts": RULES}]).text)
    condition(stage, "edit", "Realised", "True")
    stage.kube.apply(tidegate_policy("edit", DEATHSTAR, ingress=[{"toPorts": http({"method": "PUT"})}]).text)
    condition(stage, "edit", "Realised", "True")
    assert [entry["generation"] for entry in status(stage, "edit")["nodes"]] == [2]
    assert stage.tiefighter.http(stage.deathstar.url(HTTP), "PUT").status == 200


def test_a_bad_version_is_rejected_with_its_field_and_the_last_good_one_stays(stage: KubeStage) -> None:
    stage.kube.apply(tidegate_policy("bad", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(DEATHSTAR)}]).text)
    condition(stage, "bad", "Realised", "True")
    wrong = [{"fromEndpoint": from_endpoints({"org": "alliance"})}]
    stage.kube.apply(tidegate_policy("bad", DEATHSTAR, ingress=wrong).text)
    said = condition(stage, "bad", "Accepted", "False")
    assert said["reason"] == "Invalid"
    assert said["message"].startswith('spec.ingress[0].fromEndpoint: unknown field (did you mean "fromEndpoints"?)')
    assert said["message"].endswith("generation 1 stays in force")
    assert condition(stage, "bad", "Realised", "False")["reason"] == "NotAccepted"
    assert reach(stage.xwing, stage.deathstar, [HTTP], 4) == {HTTP: False}
    (event,) = events(stage, "bad")
    assert (event["reason"], event["type"], event["message"]) == ("Rejected", "Warning", said["message"])


def test_a_bad_policy_of_another_group_is_told_by_an_event_alone(stage: KubeStage) -> None:
    document = yaml.safe_load(cnp("foreign", DEATHSTAR, ingress=[{"toPorts": [{"ports": []}]}]).text)
    stage.kube.apply(document)
    (event,) = wait_for(lambda: events(stage, "foreign"), 20.0, "an Event")
    assert event["involvedObject"]["kind"] == "CiliumNetworkPolicy"
    assert "spec.ingress[0].toPorts[0]" in event["message"]
    assert "status" not in stage.kube.get("CiliumNetworkPolicy", "foreign")


def test_each_rejected_version_makes_one_event_however_many_nodes_there_are(stage: KubeStage) -> None:
    stage.kube.apply(cnp("twice", DEATHSTAR, ingress=[{"nonsense": 1}]).text)
    wait_for(lambda: events(stage, "twice"), 20.0, "an Event")
    stage.kube.apply(cnp("twice", DEATHSTAR, ingress=[{"nonsense": 2}]).text)
    wait_for(lambda: len(events(stage, "twice")) == 2, 20.0, "a second Event")


def test_workloads_that_come_to_a_node_make_it_report(stage: KubeStage) -> None:
    stage.kube.apply(tidegate_policy("droids", {"class": "droid"}, ingress=[{"toPorts": RULES}]).text)
    assert condition(stage, "droids", "Realised", "True")["reason"] == "SelectsNothing"
    pod = stage.pod_on("node-b", "droid", {"class": "droid"})
    try:
        wait_for(lambda: status(stage, "droids").get("summary") == "1/1", 30.0, "the node's entry")
    finally:
        stage.remove_pod(pod)
    wait_for(lambda: not status(stage, "droids").get("nodes"), 30.0, "the entry goes")


def events(stage: KubeStage, name: str) -> list[Any]:
    return [event for event in stage.kube.list("Event") if event["involvedObject"]["name"] == name]
