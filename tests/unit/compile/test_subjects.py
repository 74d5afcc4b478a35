"""Subjects: which have entries, named ports, host policies, workloads known by cgroup."""

from __future__ import annotations

from l7filters.compile import compile
from l7filters.identity import Reserved
from l7filters.ir import Allow, Deny, EntryKey
from l7filters.model import Direction, Protocol
from l7filters.world import Enforcement, NamedPort
from tests.support.worlds import NO_IDENTITIES, To, View, allow, cidr, deny, endpoint, http, kind, number_of, pods, policy, world

WEB, CLIENT = endpoint("web", ip="10.0.0.1"), endpoint("client", ip="10.0.0.2")
FAR = endpoint("far", ip="10.0.0.3", remote=True)


def test_unselected_subject_has_one_explicit_entry_per_direction() -> None:
    compiled = compile(world(endpoints=(WEB,)), NO_IDENTITIES)
    number = number_of(compiled, WEB)
    mine = {entry.key: entry.verdict for entry in compiled.entries if entry.key.subject == number}
    assert mine == {EntryKey(number, 0, direction, None, 0, 0): Allow() for direction in Direction}  # type: ignore[arg-type]


def test_only_local_identities_and_the_host_are_subjects() -> None:
    compiled = compile(world(endpoints=(WEB, FAR)), NO_IDENTITIES)
    assert {entry.key.subject for entry in compiled.entries} == {number_of(compiled, WEB), Reserved.HOST}
    assert [local.key for local in compiled.endpoints] == ["default/web"]


def test_no_entry_repeats_what_the_prefix_above_it_says() -> None:
    rules = [allow(pods("app=client"), "0", "80", "8000-8999")]
    view = View.of(world(policy("p", "app=web", ingress=[allow(pods("app=client"))]), endpoints=(WEB, CLIENT)))
    assert len([e for e in view.compiled.entries if e.key.peer == view.number("client")]) == 1
    same = View.of(world(policy("p", "app=web", ingress=rules), endpoints=(WEB, CLIENT)))
    tops = [e.key for e in same.compiled.entries if e.key.peer == same.number("client")]
    assert len(tops) == len(set(tops))


def test_peer_with_what_anyone_gets_has_no_entries_of_its_own() -> None:
    view = View.of(
        world(policy("p", "app=web", ingress=[deny(None, "80"), allow(pods("app=client"), "80")]), endpoints=(WEB, CLIENT))
    )
    assert kind(view.ingress("web", "client", "80")) == "deny"
    assert [e for e in view.compiled.entries if e.key.peer == view.number("client")] == []


def test_specific_peer_is_complete_so_that_readers_need_not_look_further() -> None:
    rules = [allow(None, "443"), allow(pods("app=client"), "80")]
    view = View.of(world(policy("p", "app=web", ingress=rules), endpoints=(WEB, CLIENT)))
    ports = {e.key.port for e in view.compiled.entries if e.key.peer == view.number("client")}
    assert ports == {80, 443}


# ---- named ports --------------------------------------------------------------------------------------------------

HTTP_80 = NamedPort("http", 80)
HTTP_8080 = NamedPort("http", 8080)


def test_named_port_on_ingress_is_the_subjects() -> None:
    web = endpoint("web", ports=[HTTP_8080])
    client = endpoint("client", ports=[HTTP_80])
    view = View.of(world(policy("p", "app=web", ingress=[allow(None, "http")]), endpoints=(web, client)))
    assert kind(view.ingress("web", "client", "8080")) == "allow"
    assert kind(view.ingress("web", "client", "80")) == "deny"


def test_named_port_on_egress_is_each_peers_own() -> None:
    peers = (endpoint("a", ports=[HTTP_80]), endpoint("b", ports=[HTTP_8080], remote=True), endpoint("c"))
    view = View.of(world(policy("p", "app=web", egress=[allow(None, "http")]), endpoints=(WEB, *peers)))
    seen = {(who, port): kind(view.egress("web", who, port)) for who in "abc" for port in ("80", "8080")}
    assert [where for where, verdict in seen.items() if verdict == "allow"] == [("a", "80"), ("b", "8080")]


def test_named_port_opens_only_the_peers_that_the_rule_names() -> None:
    peers = (endpoint("a", ports=[HTTP_80]), endpoint("b", ports=[HTTP_80]))
    view = View.of(world(policy("p", "app=web", egress=[allow(pods("app=a"), "http")]), endpoints=(WEB, *peers)))
    assert [kind(view.egress("web", who, "80")) for who in "ab"] == ["allow", "deny"]


def test_named_ports_of_endpoints_with_one_identity_unite() -> None:
    first = endpoint("web-1", "app=web", ports=[HTTP_80])
    second = endpoint("web-2", "app=web", ports=[HTTP_8080])
    view = View.of(world(policy("p", "app=web", ingress=[allow(None, "http")]), endpoints=(first, second, CLIENT)))
    assert [kind(view.ingress("web-1", "client", port)) for port in ("80", "8080", "81")] == ["allow", "allow", "deny"]


def test_named_port_of_another_protocol_is_another_port() -> None:
    web = endpoint("web", ports=[NamedPort("dns", 53, Protocol.UDP)])
    tcp = View.of(world(policy("p", "app=web", ingress=[allow(None, "dns")]), endpoints=(web, CLIENT)))
    assert kind(tcp.ingress("web", "client", "53")) == "deny"
    either = View.of(world(policy("p", "app=web", ingress=[allow(None, "dns/any")]), endpoints=(web, CLIENT)))
    assert kind(either.ingress("web", "client", "53/udp")) == "allow"
    assert kind(either.ingress("web", "client", "53/tcp")) == "deny"


# ---- the host, and workloads without an interface -----------------------------------------------------------------


def test_host_policy_judges_the_host_identity() -> None:
    view = View.of(world(policy("p", "role=worker", ingress=[allow(cidr("8.8.8.0/24"), "22")], nodes=True), endpoints=(WEB,)))
    assert kind(view.ingress(Reserved.HOST, "8.8.8.8", "22")) == "allow"
    assert kind(view.ingress(Reserved.HOST, "web", "22")) == "deny"
    assert kind(view.egress(Reserved.HOST, "web", "22")) == "allow"
    assert kind(view.ingress("web", "8.8.8.8", "22")) == "allow", "host policies are not about pods"


def test_host_policy_for_other_nodes_leaves_this_one_alone() -> None:
    view = View.of(world(policy("p", "role=edge", ingress=[], nodes=True), endpoints=(WEB,)))
    assert kind(view.ingress(Reserved.HOST, "web", "22")) == "allow"


def test_enforcement_always_does_not_close_the_node_itself() -> None:
    view = View.of(world(endpoints=(WEB,), enforcement=Enforcement.ALWAYS))
    assert kind(view.ingress(Reserved.HOST, "web", "22")) == "allow"
    assert kind(view.ingress("web", Reserved.HOST, "80")) == "deny"


def test_l7_rules_of_a_host_policy_are_closed_and_reported() -> None:
    view = View.of(
        world(policy("p", "role=worker", egress=[allow(None, To("80", http=(http(),)))], nodes=True), endpoints=(WEB,))
    )
    verdict = view.egress(Reserved.HOST, "web", "80")
    assert isinstance(verdict, Deny)
    assert [problem.path for problem in view.compiled.problems] == ["spec.egress[0].toPorts[0]", "spec.nodeSelector"]


def test_workload_known_by_cgroup_has_l7_on_egress_but_not_on_ingress() -> None:
    job = endpoint("job", cgroup="system.slice/job.service")
    l7 = To("80", http=(http(),))
    view = View.of(world(policy("p", "app=job", egress=[allow(None, l7)], ingress=[allow(None, l7)]), endpoints=(job, WEB)))
    assert kind(view.egress("job", "web", "80")) == "http"
    assert kind(view.ingress("job", "web", "80")) == "deny"
    assert [problem.path for problem in view.compiled.problems] == ["spec.ingress[0].toPorts[0]"]
    assert view.compiled.endpoints[0].cgroup == "system.slice/job.service"


def test_two_contents_under_one_origin_get_two_slots() -> None:
    """Two documents may carry one name by mistake; no subject may then be judged by the other's rules."""
    one = policy("twin", "app=web", ingress=[allow(None, To("80", http=(http("GET", "/a"),)))])
    two = policy("twin", "app=client", ingress=[allow(None, To("80", http=(http("GET", "/b"),)))])
    view = View.of(world(one, two, endpoints=(WEB, CLIENT)))
    judged = [view.rules(view.ingress(who, "10.9.9.9", "80")).enforced.allow[0] for who in ("web", "client")]
    assert [rule.path.value for rule in judged if rule.path] == ["/a", "/b"]  # type: ignore[union-attr]
