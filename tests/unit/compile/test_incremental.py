"""A memo changes what a compile costs, never what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from l7filters.compile import Memo, compile, recompile
from l7filters.model import CidrGroupPeer, NodePeer, ServicePeer
from l7filters.world import CidrGroup, Enforcement, NamedPort, Node, Service, World
from tests.support.worlds import NO_IDENTITIES, To, allow, cidr, deny, endpoint, http, pods, policy, selector, world

PODS = tuple(endpoint(name, ip=f"10.0.0.{index}") for index, name in enumerate(("web", "client", "other"), start=1))
BASE = world(
    policy("in", "app=web", ingress=[allow(pods("app=client"), To("80", http=(http("GET", "/a"),)), "http")]),
    policy("out", "app=client", egress=[allow(None, To("80", http=(http("GET", "/b"),))), allow(cidr("10.1.0.0/16"), "443")]),
    policy("group", "app=other", egress=[allow((CidrGroupPeer("ours"), ServicePeer("default", "db")))]),
    endpoints=PODS,
    cidr_groups=(CidrGroup(name="ours", cidrs=(ip_network("10.2.0.0/16"),)),),
    services=(Service(namespace="default", name="db", addresses=(ip_address("10.0.0.1"),)),),
)


def with_policies(world: World, *more: object) -> World:
    return replace(world, policies=(*world.policies, *more))  # type: ignore[arg-type]


CHANGES: dict[str, Callable[[World], World]] = {
    "nothing": lambda w: w,
    "equal but not the same objects": lambda w: replace(
        w, endpoints=tuple(replace(e) for e in w.endpoints), policies=tuple(replace(p) for p in w.policies)
    ),
    "a pod with known labels": lambda w: replace(w, endpoints=(*w.endpoints, endpoint("web-2", "app=web", ip="10.0.0.9"))),
    "a pod with new labels": lambda w: replace(w, endpoints=(endpoint("new", ip="10.0.0.9"), *w.endpoints)),
    "a pod gone": lambda w: replace(w, endpoints=w.endpoints[1:]),
    "a pod relabelled": lambda w: replace(w, endpoints=(endpoint("web", "app=client", ip="10.0.0.1"), *w.endpoints[1:])),
    "a pod with another address": lambda w: replace(w, endpoints=(endpoint("web", ip="10.0.0.77"), *w.endpoints[1:])),
    "a pod with a named port": lambda w: replace(
        w, endpoints=(endpoint("web", ip="10.0.0.1", ports=[NamedPort("http", 8080)]), *w.endpoints[1:])
    ),
    "a pod gone remote": lambda w: replace(w, endpoints=(endpoint("web", ip="10.0.0.1", remote=True), *w.endpoints[1:])),
    "a pod gone to a cgroup": lambda w: replace(w, endpoints=(endpoint("web", ip="10.0.0.1", cgroup="x"), *w.endpoints[1:])),
    "a policy edited": lambda w: replace(
        w,
        policies=(
            policy("in", "app=web", ingress=[allow(pods("app=client"), To("80", http=(http("GET", "/z"),)))]),
            *w.policies[1:],
        ),
    ),
    "a policy to audit": lambda w: replace(
        w, policies=(policy("in", "app=web", ingress=[deny(pods("app=client"))], audit=True), *w.policies[1:])
    ),
    "a policy gone": lambda w: replace(w, policies=w.policies[1:]),
    "policies reversed": lambda w: replace(w, policies=w.policies[::-1], endpoints=w.endpoints[::-1]),
    "a policy with a new prefix": lambda w: with_policies(w, policy("x", "app=web", egress=[allow(cidr("10.1.2.0/24"))])),
    "a policy on nodes as peers": lambda w: with_policies(
        w, policy("x", "app=web", egress=[allow((NodePeer(selector("role=edge")),))])
    ),
    "a host policy": lambda w: with_policies(w, policy("x", "role=worker", ingress=[allow(None, "22")], nodes=True)),
    "a node relabelled": lambda w: replace(w, node=Node(name="node-a", labels={}, addresses=w.node.addresses)),
    "another node": lambda w: replace(w, remote_nodes=(Node(name="b", addresses=(ip_address("192.168.0.2"),)),)),
    "a service with other backends": lambda w: replace(
        w, services=(Service(namespace="default", name="db", addresses=(ip_address("10.0.0.2"), ip_address("1.1.1.1"))),)
    ),
    "a group with other prefixes": lambda w: replace(
        w, cidr_groups=(CidrGroup(name="ours", cidrs=(ip_network("10.3.0.0/16"),)),)
    ),
    "a group gone": lambda w: replace(w, cidr_groups=()),
    "enforcement always": lambda w: replace(w, enforcement=Enforcement.ALWAYS),
    "enforcement never": lambda w: replace(w, enforcement=Enforcement.NEVER),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_recompile_equals_compile_there_and_back(change: Callable[[World], World]) -> None:
    first, memo = recompile(BASE, NO_IDENTITIES, Memo())
    changed = replace(change(BASE), revision=2)
    second, memo = recompile(changed, first.identities, memo)
    assert second == compile(changed, first.identities)
    third, _ = recompile(BASE, second.identities, memo)
    assert third == compile(BASE, second.identities)


def test_pod_with_known_labels_leaves_entries_and_slots_the_same_objects() -> None:
    first, memo = recompile(BASE, NO_IDENTITIES, Memo())
    more = replace(BASE, endpoints=(*PODS, endpoint("web-2", "app=web", ip="10.0.0.9")))
    second, _ = recompile(more, first.identities, memo)
    assert second.entries is first.entries
    assert second.slots is first.slots
    assert second.identities is first.identities
    assert len(second.ipcache) == len(first.ipcache) + 1


def test_edit_leaves_the_entries_of_other_subjects_the_same_objects() -> None:
    first, memo = recompile(BASE, NO_IDENTITIES, Memo())
    second, _ = recompile(CHANGES["a policy edited"](BASE), first.identities, memo)
    before = {id(entry) for entry in first.entries}
    touched = {entry.key.subject for entry in second.entries if id(entry) not in before}
    web = next(number for label_set, number in first.identities.numbers.items() if ("app", "web") in label_set.labels)
    assert touched == {web}


def test_memo_is_swept_of_tries_no_longer_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import l7filters.compile as module

    monkeypatch.setattr(module, "TRIES_SPARE_MAX", 3)
    memo = Memo(verdicts=module._Verdicts(tries_max=3))
    identities = NO_IDENTITIES
    for edit in range(30):
        rule = allow(pods("app=client"), To("80", http=(http("GET", f"/{edit}"),)))
        compiled, memo = recompile(world(policy("p", "app=web", ingress=[rule]), endpoints=PODS), identities, memo)
        identities = compiled.identities
    assert len(memo.verdicts.tries) <= 10
    assert len(memo.verdicts.resolutions) <= 8
