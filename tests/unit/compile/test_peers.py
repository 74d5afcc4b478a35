"""Who an address is, and whom each kind of peer names."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from l7filters.identity import IdentityTable, LabelSet, Network, Reserved
from l7filters.labels import LabelSelector, Operator, Requirement
from l7filters.model import CidrGroupPeer, EndpointPeer, NodePeer, Peer, ServicePeer
from l7filters.population import cidr_label_sets
from l7filters.world import CidrGroup, Node, Service, World
from tests.support.worlds import NODE, View, allow, cidr, deny, endpoint, entity, kind, pods, policy, selector, world

PODS = (
    endpoint("web", ip=("10.0.0.1", "fd00::1")),
    endpoint("client", ip="10.0.0.2"),
    endpoint("far", ip="10.0.9.9", remote=True),
)
OTHER_NODES = (
    Node(name="node-b", labels={"role": "worker"}, addresses=(ip_address("192.168.0.2"),)),
    Node(name="node-c", labels={"role": "edge"}, addresses=(ip_address("192.168.0.3"),)),
)
EVERYWHERE = (
    "web",
    "client",
    "far",
    "192.168.0.1",
    "192.168.0.2",
    "192.168.0.3",
    "fd01::1",
    *["10.1.0.1", "8.8.8.8", "2001:db8::1"],
)
NAMES = dict(zip(EVERYWHERE, ["web", "client", "far", "host", "host-b", "host-c", "host6", "ten", "v4", "v6"], strict=True))


def a_world(*peers: Peer, **rest: object) -> World:
    return world(
        policy("p", "app=web", egress=[allow(peers)]),
        endpoints=PODS,
        remote_nodes=OTHER_NODES,
        **rest,  # type: ignore[arg-type]
    )


def reached(*peers: Peer, **rest: object) -> set[str]:
    """Return which of EVERYWHERE a rule with ``peers`` allows."""
    view = View.of(a_world(*peers, **rest))
    return {NAMES[one] for one in EVERYWHERE if kind(view.egress("web", one, "80")) == "allow"}


IN_CLUSTER = {"web", "client", "far", "host", "host-b", "host-c", "host6"}
WORLD = {"ten", "v4", "v6"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("all", IN_CLUSTER | WORLD),
        ("world", WORLD),
        ("world-ipv4", {"ten", "v4"}),
        ("world-ipv6", {"v6"}),
        ("cluster", IN_CLUSTER),
        ("cluster-mesh", IN_CLUSTER),
        ("host", {"host", "host6"}),
        ("remote-node", {"host-b", "host-c"}),
        ("init", set()),
        ("ingress", set()),
        ("unmanaged", set()),
        ("health", set()),
        ("kube-apiserver", set()),
        ("none", set()),
    ],
)
def test_entity_names(name: str, expected: set[str]) -> None:
    assert reached(*entity(name)) == expected


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        (cidr("10.0.0.0/8"), {"ten"}),
        (cidr("10.0.0.0/8", "10.1.0.0/16"), set()),
        (cidr("0.0.0.0/0"), {"ten", "v4"}),
        (cidr("0.0.0.0/0", "10.0.0.0/8"), {"v4"}),
        (cidr("::/0"), {"v6"}),
        (cidr("2001:db8::/32"), {"v6"}),
        (cidr("::ffff:10.0.0.0/104"), {"ten"}),
        (cidr("10.0.0.1/32"), set()),
        (cidr("192.168.0.0/16"), set()),
    ],
    ids=str,
)
def test_cidr_names_addresses_outside_only(peers: tuple[Peer, ...], expected: set[str]) -> None:
    assert reached(*peers) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"web", "client", "far"}),
        ("app=client", {"client"}),
        ("!app", set()),
        ("reserved:host", {"host", "host6"}),
        ("reserved:world", {"ten", "v4", "v6"}),
        ("reserved:remote-node", {"host-b", "host-c"}),
        ("!reserved:host", {"web", "client", "far"}),
    ],
)
def test_endpoint_selector_names(text: str, expected: set[str]) -> None:
    assert reached(*pods(text)) == expected


def test_not_in_selects_endpoints_without_the_label_but_never_the_world() -> None:
    peer = EndpointPeer(LabelSelector((Requirement("app", Operator.NOT_IN, ("client", "web")),)))
    assert reached(peer) == {"far"}


def test_node_selector_names_nodes_by_their_labels() -> None:
    assert reached(NodePeer(selector("role=worker"))) == {"host", "host6", "host-b"}
    assert reached(NodePeer(selector("role=edge"))) == {"host-c"}


def test_entities_still_cover_nodes_that_have_identities_of_their_own() -> None:
    edge = NodePeer(selector("role=edge"))
    assert reached(edge, *entity("remote-node")) == {"host-b", "host-c"}
    assert reached(edge, *entity("cluster")) == IN_CLUSTER


def test_cidr_group_names_its_prefixes_less_the_excepts() -> None:
    groups = (CidrGroup(name="ours", labels={"team": "a"}, cidrs=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))),)
    assert reached(CidrGroupPeer("ours"), cidr_groups=groups) == {"ten", "v6"}
    assert reached(CidrGroupPeer(None, selector("team=a")), cidr_groups=groups) == {"ten", "v6"}
    assert reached(CidrGroupPeer("ours", None, (ip_network("10.1.0.0/16"),)), cidr_groups=groups) == {"v6"}


def test_service_names_the_endpoints_and_addresses_behind_it() -> None:
    services = (
        Service(namespace="default", name="db", labels={"tier": "db"}, selector=selector("app=far")),
        Service(
            namespace="default",
            name="mixed",
            addresses=(ip_address("10.0.0.2"), ip_address("8.8.8.8"), ip_address("192.168.0.2")),
        ),
    )
    assert reached(ServicePeer("default", "db"), services=services) == {"far"}
    assert reached(ServicePeer(None, None, selector("tier=db")), services=services) == {"far"}
    assert reached(ServicePeer("default", "mixed"), services=services) == {"client", "v4", "host-b", "host-c"}
    assert reached(ServicePeer("other", "db"), services=services) == set()


@pytest.mark.parametrize(
    ("peer", "named"), [(CidrGroupPeer("gone"), "CiliumCIDRGroup gone"), (ServicePeer("default", "gone"), "Service default/gone")]
)
def test_reference_to_what_is_not_there_is_reported(peer: Peer, named: str) -> None:
    (problem,) = View.of(a_world(peer)).compiled.problems
    assert (problem.path, problem.message) == ("spec.egress[0]", f"there is no {named}")


def test_denied_prefix_within_an_allowed_one_is_denied() -> None:
    view = View.of(world(policy("p", "app=web", egress=[allow(cidr("10.0.0.0/8")), deny(cidr("10.1.0.0/16"))]), endpoints=PODS))
    assert kind(view.egress("web", "10.1.0.1", "80")) == "deny"
    assert kind(view.egress("web", "10.2.0.1", "80")) == "allow"


def test_address_belongs_to_node_then_endpoint_then_longest_prefix_then_world() -> None:
    endpoints = (
        *PODS,
        endpoint("hostnet", ip="192.168.0.1"),
        endpoint("twin", ip="10.0.9.9"),
    )
    policies = [policy("p", "app=web", egress=[allow(cidr("10.0.0.0/8")), allow(cidr("10.0.9.0/24"))])]
    view = View.of(world(*policies, endpoints=endpoints, remote_nodes=OTHER_NODES))
    find = view.addresses.find
    assert find(ip_address("192.168.0.1")).identity == int(Reserved.HOST)
    assert find(ip_address("192.168.0.2")).identity == int(Reserved.REMOTE_NODE)
    assert find(ip_address("10.0.9.9")).endpoint == "default/twin", "a local endpoint before a remote one"
    assert find(ip_address("10.0.9.8")).prefix == ip_network("10.0.9.0/24")
    assert find(ip_address("10.3.0.1")).prefix == ip_network("10.0.0.0/8")
    assert find(ip_address("8.8.8.8")).identity == int(Reserved.WORLD_IPV4)
    assert find(ip_address("::ffff:8.8.8.8")).identity == int(Reserved.WORLD_IPV4)
    assert find(ip_address("2001:db8::1")).identity == int(Reserved.WORLD_IPV6)


def test_prefix_identity_is_the_set_of_mentioned_prefixes_around_it() -> None:
    def networks(*texts: str) -> list[Network]:
        return [ip_network(text) for text in texts]

    sets = cidr_label_sets(networks("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8", "fd00::/8"))
    assert sets == {
        ip_network("10.0.0.0/8"): LabelSet(cidrs=frozenset(networks("10.0.0.0/8"))),
        ip_network("10.1.0.0/16"): LabelSet(cidrs=frozenset(networks("10.0.0.0/8", "10.1.0.0/16"))),
        ip_network("11.0.0.0/8"): LabelSet(cidrs=frozenset(networks("11.0.0.0/8"))),
        ip_network("fd00::/8"): LabelSet(cidrs=frozenset(networks("fd00::/8"))),
    }


def test_numbers_survive_and_new_ones_do_not_depend_on_order() -> None:
    from l7filters.compile import compile

    first = compile(world(endpoints=PODS), IdentityTable())
    assert first.identities == compile(world(endpoints=PODS[::-1]), IdentityTable()).identities
    second = compile(world(endpoints=(endpoint("aaa"), *PODS[1:])), first.identities)
    kept = {number for label_set, number in first.identities.numbers.items() if label_set in second.identities.numbers}
    assert kept == {second.identities.numbers[LabelSet.of(one.labels)] for one in PODS[1:]}
    assert second.identities.numbers[LabelSet.of(endpoint("aaa").labels)] not in first.identities.numbers.values()


def test_node_of_the_builder_has_both_families() -> None:
    assert {address.version for address in NODE.addresses} == {4, 6}
