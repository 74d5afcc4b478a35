"""The copy of the cluster as a whole: documents, last good versions, what is saved."""

from __future__ import annotations

from typing import Any

from tidegate.sources.kubernetes.cluster import Cluster
from tidegate.sources.kubernetes.kinds import KINDS, Kind, Role
from tidegate.sources.kubernetes.reflector import Changes, key_of
from tidegate.sources.kubernetes.server import Tree
from tidegate.sources.kubernetes.verdict import conditions, event, is_news, node_entry, present_entry
from tidegate.status.node import PolicyState, PolicyStatus


def kind_of(word: str) -> Kind:
    return next(kind for kind in KINDS if kind.word == word)


def policy(name: str = "p", generation: int = 1, status: Any = None, **spec: Any) -> Tree:
    metadata = {"name": name, "namespace": "default", "generation": generation, "uid": f"uid-{name}", "managedFields": [{"x": 1}]}
    return {
        "metadata": metadata,
        "spec": {"endpointSelector": {}, "ingress": [{}], **spec},
        **({"status": status} if status else {}),
    }


def take(cluster: Cluster, word: str, *trees: Tree, gone: tuple[str, ...] = ()) -> None:
    cluster.take(kind_of(word), Changes({key_of(tree): tree for tree in trees}, frozenset(gone)))


def test_a_policy_is_in_force_without_what_the_server_adds() -> None:
    cluster = Cluster("node-a")
    take(cluster, "tp", policy())
    assert [one.key for one in cluster.state().policies.policies] == ["tp/default/p"]
    assert cluster.state().policies.errors == ()


def test_a_bad_version_keeps_the_last_good_one_and_its_generation() -> None:
    cluster = Cluster("node-a")
    take(cluster, "tp", policy())
    take(cluster, "tp", policy(generation=2, ingres=[]))
    state = cluster.state().policies
    assert [one.key for one in state.policies] == ["tp/default/p"]
    assert [(error.path, error.source) for error in state.errors] == [("spec.ingres", "tp/default/p")]
    item = cluster.policies["tp/default/p"]
    assert (item.generation, item.good_generation) == (2, 1)


def test_a_change_of_its_status_alone_changes_no_state() -> None:
    cluster = Cluster("node-a")
    take(cluster, "tp", policy())
    before = cluster.state()
    take(cluster, "tp", policy(status={"summary": "1/1"}))
    assert cluster.state().policies is before.policies
    assert cluster.policies["tp/default/p"].status == {"summary": "1/1"}


def test_pods_come_and_go_without_touching_the_documents() -> None:
    cluster = Cluster("node-a")
    take(cluster, "tp", policy())
    before = cluster.state()
    take(cluster, "pod", {"metadata": {"name": "a", "namespace": "default"}, "spec": {}, "status": {"podIP": "10.0.0.1"}})
    after = cluster.state()
    assert after.policies is before.policies
    assert len(after.endpoints.entries) == 1


def test_what_is_saved_is_taken_in_as_it_was_last_good() -> None:
    cluster, next_one = Cluster("node-a"), Cluster("node-a")
    take(cluster, "tp", policy())
    take(cluster, "tp", policy(generation=2, ingres=[]))
    take(cluster, "namespace", {"metadata": {"name": "default", "labels": {"a": "b"}}})
    take(cluster, "node", {"metadata": {"name": "n"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}})
    service = {"metadata": {"name": "s", "namespace": "default"}, "spec": {"selector": {"a": "b"}, "someday": 1}}
    take(cluster, "service", service)
    pod = {"metadata": {"name": "a", "namespace": "default"}, "spec": {}, "status": {"podIP": "10.0.0.1"}}
    take(cluster, "pod", pod)
    for kind in KINDS:
        next_one.take(kind, Changes(cluster.saved_form(kind)))
    was, now = cluster.state(), next_one.state()
    assert now.policies.policies == was.policies.policies
    assert now.policies.services == was.policies.services
    assert now.endpoints.endpoints == was.endpoints.endpoints
    assert now.remote_nodes == was.remote_nodes


def test_slices_without_a_service_are_of_no_interest() -> None:
    cluster = Cluster("node-a")
    take(cluster, "endpointslice", {"metadata": {"name": "s", "namespace": "default"}, "addressType": "IPv4", "endpoints": []})
    assert cluster.state().policies.errors == ()


def test_every_kind_of_the_table_has_a_path_and_a_role() -> None:
    assert len({kind.path for kind in KINDS}) == len(KINDS)
    assert {kind.role for kind in KINDS} == set(Role)


# ---- the status --------------------------------------------------------------------------------------------------------

NOW = "2026-01-01T00:00:00Z"


def status(state: PolicyState = PolicyState.REALISED, endpoints: int = 1, **more: Any) -> PolicyStatus:
    return PolicyStatus(key="tp/default/p", state=state, endpoints=endpoints, **more)


def item_with(status_tree: Tree, generation: int = 1) -> Any:
    cluster = Cluster("node-a")
    take(cluster, "tp", policy(generation=generation, status=status_tree))
    return cluster.policies["tp/default/p"]


def test_a_node_with_nothing_to_enforce_has_no_entry_unless_it_failed() -> None:
    item = item_with({})
    assert node_entry(item, status(endpoints=0), "n", None) is None
    assert node_entry(item, status(PolicyState.FAILED, endpoints=0, message="m", hint="h"), "n", None) == {
        "name": "n",
        "state": "failed",
        "generation": 1,
        "endpoints": 0,
        "message": "m (h)",
    }


def test_a_policy_in_force_is_not_pending_while_something_else_is_realised() -> None:
    entry = {"name": "n", "state": "realised", "generation": 1, "endpoints": 1, "revision": 5}
    item = item_with({"nodes": [entry]})
    assert node_entry(item, status(PolicyState.PENDING), "n", present_entry(item, "n")) == entry
    newer = item_with({"nodes": [entry]}, generation=2)
    assert (node_entry(newer, status(PolicyState.PENDING), "n", entry) or {})["state"] == "pending"


def test_a_revision_or_a_count_alone_is_no_news() -> None:
    entry = {"name": "n", "state": "realised", "generation": 1, "endpoints": 1, "revision": 5}
    assert not is_news({**entry, "revision": 6, "endpoints": 3}, entry)
    assert is_news({**entry, "state": "failed"}, entry)
    assert is_news(None, entry)


def test_realised_waits_for_every_node_that_has_its_workloads() -> None:
    entry = {"name": "n", "state": "realised", "generation": 1, "endpoints": 1}
    item = item_with({"nodes": [entry]})
    found = {one["type"]: one for one in (conditions(item, (), ["n", "other"], NOW) or {})["conditions"]}
    assert (found["Realised"]["status"], found["Realised"]["message"]) == ("False", "not in force yet on other")
    assert found["Accepted"]["status"] == "True"
    whole = conditions(item, (), ["n"], NOW) or {}
    assert whole["summary"] == "1/1"
    assert whole["conditions"][1]["status"] == "True"
    assert conditions(item_with({"nodes": [entry], **whole}), (), ["n"], "later") is None


def test_the_time_of_a_condition_is_that_of_its_last_change() -> None:
    before = conditions(item_with({}), (), [], NOW) or {}
    after = conditions(item_with(before, generation=2), (), [], "2027-01-01T00:00:00Z") or {}
    assert [one["lastTransitionTime"] for one in after["conditions"]] == [NOW, NOW]
    assert [one["observedGeneration"] for one in after["conditions"]] == [2, 2]


def test_one_version_of_an_object_has_one_event_whoever_makes_it() -> None:
    item = item_with({})
    names = {event(item, (), node, NOW)["metadata"]["name"] for node in ("a", "b")}
    assert len(names) == 1
    assert names != {event(item_with({}, generation=2), (), "a", NOW)["metadata"]["name"]}
