"""Pods as endpoints: addresses, labels, this node's, and the cost of a change."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from l7filters.labels import NAMESPACE_LABEL
from l7filters.world import Endpoint
from tidegate.sources.kubernetes.objects import Pod, pod_tree, read_node, read_pod
from tidegate.sources.kubernetes.people import Attachment, People

V4 = ip_address("10.0.0.5")
NODE = "node-a"


def pod(name: str = "a", **more: Any) -> Pod:
    default: dict[str, Any] = {
        "namespace": "default",
        "uid": f"uid-{name}",
        "node": NODE,
        "addresses": (V4,),
        "created": "2026-01-01",
    }
    return Pod(name=name, **{**default, **more})


def endpoints(people: People) -> dict[str, Endpoint]:
    return {entry.endpoint.key: entry.endpoint for entry in people.state.entries}


def test_a_pod_without_an_address_is_no_endpoint() -> None:
    people = People(NODE)
    people.take_pods([pod(addresses=())])
    assert endpoints(people) == {}
    people.take_pods([pod()])
    assert endpoints(people)["default/a"].addresses == (V4,)


def test_a_local_pod_is_unmanaged_until_its_interface_is_known() -> None:
    people = People(NODE)
    people.take_pods([pod()])
    assert [one.key for one in people.unmanaged()] == ["default/a"]
    assert not endpoints(people)["default/a"].is_local
    people.take_attachments({"default/a": Attachment((V4,), interface="veth1")})
    assert people.unmanaged() == ()
    assert endpoints(people)["default/a"].interface == "veth1"


def test_an_interface_found_for_other_addresses_does_not_count() -> None:
    people = People(NODE)
    people.take_pods([pod()])
    people.take_attachments({"default/a": Attachment((V4,), interface="veth1")})
    people.take_pods([pod(addresses=(ip_address("10.0.0.6"),))])
    assert endpoints(people)["default/a"].interface is None
    assert [wanting.key for wanting, _ in people.wanting()] == ["default/a"]


def test_a_remote_pod_is_an_identity_alone() -> None:
    people = People(NODE)
    people.take_pods([pod(node="node-b")])
    people.take_attachments({"default/a": Attachment((V4,), interface="veth1")})
    assert not endpoints(people)["default/a"].is_local
    assert people.wanting() == ()


def test_an_address_belongs_to_the_pod_that_is_not_being_deleted_then_to_the_newer_one() -> None:
    people = People(NODE)
    people.take_pods([pod("old", ending=True), pod("new", created="2026-01-02")])
    assert {key: one.addresses for key, one in endpoints(people).items()} == {"default/new": (V4,)}
    people.take_pods([pod("newest", created="2026-01-03")])
    assert {key: one.addresses for key, one in endpoints(people).items()} == {"default/newest": (V4,)}
    people.take_pods([], ["default/newest"])
    assert set(endpoints(people)) == {"default/new"}


def test_a_pod_that_has_ended_leaves_its_address() -> None:
    people = People(NODE)
    people.take_pods([pod("job"), pod("next", created="2025-01-01")])
    people.take_pods([pod("job", addresses=(), ended=True)])
    assert set(endpoints(people)) == {"default/next"}


def test_labels_of_the_namespace_are_the_pods_too_and_follow_it() -> None:
    people = People(NODE)
    people.take_pods([pod(labels={"app": "x"})])
    people.take_namespaces({"default": {"side": "light"}})
    labels = endpoints(people)["default/a"].labels
    assert labels["app"] == "x"
    assert labels["io.cilium.k8s.namespace.labels.side"] == "light"
    assert labels[NAMESPACE_LABEL] == "default"
    people.take_namespaces({"default": {"side": "dark"}})
    assert endpoints(people)["default/a"].labels["io.cilium.k8s.namespace.labels.side"] == "dark"
    people.take_namespaces({}, ["default"])
    assert "io.cilium.k8s.namespace.labels.side" not in endpoints(people)["default/a"].labels


def test_labels_of_a_rollout_take_part_only_while_a_selector_mentions_them() -> None:
    people = People(NODE)
    people.take_pods([pod(labels={"app": "x", "pod-template-hash": "1"})])
    assert "pod-template-hash" not in endpoints(people)["default/a"].labels
    people.take_mentioned(frozenset({"pod-template-hash"}))
    assert endpoints(people)["default/a"].labels["pod-template-hash"] == "1"
    people.take_mentioned(frozenset())
    assert "pod-template-hash" not in endpoints(people)["default/a"].labels


def test_a_change_of_one_pod_leaves_every_other_object_as_it_was() -> None:
    people = People(NODE)
    people.take_pods([pod(f"p{number}", addresses=(ip_address(f"10.0.1.{number}"),)) for number in range(50)])
    before = {entry.endpoint.key: entry for entry in people.state.entries}
    people.take_pods([pod("p7", addresses=(ip_address("10.0.1.7"),), labels={"new": "label"})])
    after = {entry.endpoint.key: entry for entry in people.state.entries}
    assert {key for key in after if after[key] is not before[key]} == {"default/p7"}


def test_equal_labels_are_one_object() -> None:
    people = People(NODE)
    people.take_pods([pod(f"p{number}", addresses=(ip_address(f"10.0.1.{number}"),), labels={"app": "x"}) for number in range(9)])
    assert len({id(entry.endpoint.labels) for entry in people.state.entries}) == 1


def test_a_report_that_says_nothing_new_changes_no_state() -> None:
    people = People(NODE)
    people.take_pods([pod()])
    state = people.state
    people.take_pods([pod()])
    assert people.state is state


def test_a_sandbox_gives_addresses_before_the_api_server_does() -> None:
    people = People(NODE)
    people.take_sandbox("default/a", Attachment((V4,), interface="veth1"), "c1")
    assert endpoints(people) == {}, "nobody knows its labels yet"
    people.take_pods([pod(addresses=())])
    found = endpoints(people)["default/a"]
    assert (found.addresses, found.interface) == ((V4,), "veth1")
    people.take_pods([pod()])
    assert endpoints(people)["default/a"] == found
    assert not people.drop_sandbox("default/a", "another")
    assert people.drop_sandbox("default/a", "c1")
    assert endpoints(people)["default/a"].interface is None


def test_pods_from_before_us_are_left_alone_and_listed() -> None:
    people = People(NODE)
    people.take_pods([pod()])
    people.leave_alone(frozenset({"uid-a"}))
    people.take_attachments({"default/a": Attachment((V4,), interface="veth1")})
    assert not endpoints(people)["default/a"].is_local
    assert people.wanting() == ()
    assert "before Tidegate" in people.unmanaged()[0].reason
    people.take_pods([], ["default/a"])
    people.take_pods([pod(uid="uid-next")])
    assert [one.key for one, _ in people.wanting()] == ["default/a"]


def test_a_host_network_pod_is_an_endpoint_by_its_cgroup_without_an_address() -> None:
    people = People(NODE)
    people.take_pods([pod(host_network=True)])
    assert endpoints(people) == {}
    people.take_attachments({"default/a": Attachment((V4,), cgroup="kubepods/x")})
    found = endpoints(people)["default/a"]
    assert (found.addresses, found.cgroup) == ((), "kubepods/x")


def test_nodes_of_a_selection_follow_the_pods() -> None:
    people = People(NODE)
    people.take_pods(
        [pod(labels={"app": "x"}), pod("b", node="node-b", labels={"app": "x"}, addresses=(ip_address("10.1.0.1"),))]
    )

    def selected() -> set[str]:
        return set(people.nodes_of(lambda labels: labels.get("app") == "x"))

    assert selected() == {NODE, "node-b"}
    people.take_pods([replace(pod(), labels={"app": "y"})])
    assert selected() == {"node-b"}
    people.take_pods([], ["default/b"])
    assert selected() == set()


def test_a_saved_pod_is_read_as_it_was() -> None:
    tree = {
        "metadata": {
            "name": "a",
            "namespace": "n",
            "uid": "u",
            "labels": {"k": "v"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"nodeName": NODE, "containers": [{"ports": [{"name": "HTTP", "containerPort": 80}, {"containerPort": 81}]}]},
        "status": {
            "podIPs": [{"ip": "10.0.0.5"}, {"ip": "fd00::5"}, {"ip": "nonsense"}],
            "qosClass": "Burstable",
            "phase": "Running",
        },
    }
    read = read_pod(tree)
    assert read is not None
    assert [port.name for port in read.named_ports] == ["http"]
    assert read.addresses == (V4, ip_address("fd00::5"))
    assert read_pod(pod_tree(read)) == read


def test_objects_that_are_not_what_they_should_be_are_read_without_harm() -> None:
    for tree in ({}, {"metadata": []}, {"metadata": {"name": 5, "namespace": "n"}}, {"metadata": None, "spec": "x"}):
        assert read_pod(tree) is None
        assert read_node(tree) is None
