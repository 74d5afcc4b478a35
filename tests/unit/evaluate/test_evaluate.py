"""The verdict on one flow, by tables: who, what, precedence, audit."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from l7filters.decision import Decision, Flow, Outcome, Problem, Reason, Verdict
from l7filters.evaluate import evaluate
from l7filters.http import HttpRequest
from l7filters.labels import NAMESPACE_LABEL
from l7filters.model import (
    CidrGroupPeer,
    Direction,
    L7Protocol,
    L7Rules,
    MismatchAction,
    NodePeer,
    Peer,
    Policy,
    Protocol,
    SecretRef,
    ServicePeer,
    TlsContext,
)
from l7filters.parties import UnknownPartyError
from l7filters.world import CidrGroup, Enforcement, NamedPort, Node, Service, World
from tests.support.slots import header, rule
from tests.support.worlds import To, allow, cidr, deny, endpoint, entity, http, origin, pods, policy, selector, world

WEB = endpoint("web", ip=("10.0.0.1", "fd00::1"), ports=(NamedPort("http", 80), NamedPort("dns", 53, Protocol.UDP)))
CLIENT = endpoint("client", ip=("10.0.0.2", "fd00::2"))
OTHER = endpoint("other", ip="10.0.0.3", namespace="elsewhere")
FAR = endpoint("far", ip="10.0.9.9", remote=True)
BUILDER = endpoint("builder", cgroup="system.slice/builder.service")
NODE_B = Node(name="node-b", labels={"zone": "b"}, addresses=(ip_address("192.168.0.2"),))
ENDPOINTS = (WEB, CLIENT, OTHER, FAR, BUILDER)
GET = HttpRequest(method="GET", path="/public", authority="web.test")
POST = HttpRequest(method="POST", path="/public", authority="web.test")
CONNECT = HttpRequest(method="CONNECT", path="", authority="web.test:80")


def here(*policies: Policy, **rest: Any) -> World:
    return world(*policies, endpoints=ENDPOINTS, remote_nodes=(NODE_B,), **rest)


def flow(
    text: str = "client -> web", port: str = "80", request: HttpRequest | None = None, server_name: str | None = None
) -> Flow:
    """``client -> web`` by endpoint names, ``host`` or addresses; ports as ``80``, ``53/udp``, ``8/icmp``."""
    names = {each.name: each.key for each in ENDPOINTS}
    source, destination = (names.get(who, who) for who in text.split(" -> "))
    number, _, protocol = port.partition("/")
    return Flow(source, destination, Protocol[(protocol or "tcp").upper()], int(number), request, server_name)


def said(decision: Decision) -> str:
    """Return the decision in two words: what happens to the connection, and to the message where that is more."""
    if decision.outcome is Outcome.REDIRECT:
        return f"redirect {decision.verdict}"
    assert (decision.outcome is Outcome.DENY) == (decision.verdict is Verdict.DENIED)
    return str(decision.outcome)


def verdict(where: World, asked: Flow, audited: bool = False) -> str:
    decision = evaluate(where, asked)
    return said(decision) + "!" * decision.audited


# ---- who ----------------------------------------------------------------------------------------------------------


def peers(*some: Peer) -> tuple[Peer, ...]:
    return some


GROUPS = (
    CidrGroup(name="partners", labels={"team": "x"}, cidrs=(ip_network("203.0.113.0/24"),)),
    CidrGroup(name="empty"),
)
SERVICES = (
    Service(namespace="default", name="clients", labels={"kind": "in"}, selector=selector("app=client")),
    Service(namespace="default", name="listed", addresses=(ip_address("203.0.113.5"), ip_address("10.0.9.9"))),
)
EVERYONE = ("client", "other", "far", "192.168.0.2", "203.0.113.5", "203.0.113.9", "2001:db8::1")


@pytest.mark.parametrize(
    ("whom", "admitted"),
    [
        (None, EVERYONE),
        ((), ()),
        (pods(""), ("client", "other", "far")),
        (pods("app=client"), ("client",)),
        (pods(f"{NAMESPACE_LABEL}=elsewhere"), ("other",)),
        (pods("!app"), ()),
        (pods("reserved:world"), ("203.0.113.5", "203.0.113.9", "2001:db8::1")),
        (pods("reserved:remote-node"), ("192.168.0.2",)),
        (pods("!reserved:world"), ("client", "other", "far")),
        (entity("all"), EVERYONE),
        (entity("world"), ("203.0.113.5", "203.0.113.9", "2001:db8::1")),
        (entity("world-ipv4"), ("203.0.113.5", "203.0.113.9")),
        (entity("world-ipv6"), ("2001:db8::1",)),
        (entity("cluster"), ("client", "other", "far", "192.168.0.2")),
        (entity("remote-node"), ("192.168.0.2",)),
        (entity("host"), ()),
        (entity("none"), ()),
        (entity("kube-apiserver"), ()),
        # A CIDR never means a pod or a node.
        (cidr("0.0.0.0/0"), ("203.0.113.5", "203.0.113.9")),
        (cidr("::/0"), ("2001:db8::1",)),
        (cidr("203.0.113.0/24", "203.0.113.8/29"), ("203.0.113.5",)),
        (cidr("::ffff:203.0.113.8/125"), ("203.0.113.9",)),
        (cidr("10.0.0.0/8"), ()),
        (peers(CidrGroupPeer("partners")), ("203.0.113.5", "203.0.113.9")),
        (peers(CidrGroupPeer("partners", excepts=(ip_network("203.0.113.9/32"),))), ("203.0.113.5",)),
        (peers(CidrGroupPeer(None, selector("team=x"))), ("203.0.113.5", "203.0.113.9")),
        (peers(CidrGroupPeer("absent"), CidrGroupPeer("empty")), ()),
        (peers(ServicePeer("default", "clients")), ("client",)),
        (peers(ServicePeer(None, None, selector("kind=in"))), ("client",)),
        (peers(ServicePeer("default", "listed")), ("far", "203.0.113.5")),
        (peers(ServicePeer("other", "clients")), ()),
        (peers(NodePeer(selector("zone=b"))), ("192.168.0.2",)),
        (peers(NodePeer(selector("zone=a"))), ()),
        (cidr("203.0.113.5/32") + pods("app=client"), ("client", "203.0.113.5")),
    ],
)
def test_peers_name_whom_they_say(whom: tuple[Peer, ...] | None, admitted: tuple[str, ...]) -> None:
    where = here(policy("p", "app=web", ingress=[allow(whom)]), cidr_groups=GROUPS, services=SERVICES)
    found = [who for who in EVERYONE if verdict(where, flow(f"{who} -> web")) == "allow"]
    assert found == [who for who in EVERYONE if who in admitted]


@pytest.mark.parametrize(
    ("who", "name"),
    [
        ("default/web", "default/web"),
        (ip_address("10.0.0.1"), "default/web"),
        (ip_address("::ffff:10.0.0.1"), "default/web"),
        (ip_address("fd00::1"), "default/web"),
        ("10.0.0.1", "default/web"),
        ("host", "host node-a"),
        ("192.168.0.1", "host node-a"),
        ("192.168.0.2", "remote-node node-b"),
        ("203.0.113.5", "203.0.113.5"),
    ],
)
def test_end_is_known_by_key_or_address(who: Any, name: str) -> None:
    assert evaluate(here(), Flow(who, "203.0.113.1")).source.name == name


def test_node_comes_before_an_endpoint_at_the_same_address() -> None:
    squatter = endpoint("squatter", ip="192.168.0.1")
    seen = world(endpoints=(WEB, squatter))
    assert evaluate(seen, Flow("192.168.0.1", "default/web")).source.name == "host node-a"


def test_unknown_endpoint_is_an_error_that_says_how_to_name_one() -> None:
    with pytest.raises(UnknownPartyError, match="no endpoint default/nobody; name one as NAMESPACE/NAME"):
        evaluate(here(), Flow("default/nobody", "default/web"))


def test_host_always_reaches_its_own_endpoints() -> None:
    where = here(policy("p", "app=web", ingress=[deny(None)]), enforcement=Enforcement.ALWAYS)
    assert verdict(where, flow("host -> web")) == "allow"
    assert verdict(where, flow("192.168.0.2 -> web")) == "deny"
    assert evaluate(where, flow("host -> web")).reason is Reason.FROM_HOST


def test_workload_of_the_host_is_held_to_its_own_policy_and_seen_as_the_host() -> None:
    own = policy("own", "app=builder", egress=[allow(pods("app=web"))])
    closed = policy("web", "app=web", ingress=[allow(())])
    assert verdict(here(own, closed), flow("builder -> web")) == "allow"
    assert verdict(here(own, closed), flow("builder -> client")) == "deny"
    assert verdict(here(own), flow("builder -> 203.0.113.5")) == "deny"
    assert verdict(here(policy("c", "app=client", egress=[allow(entity("host"))])), flow("client -> builder")) == "allow"


def test_host_policy_selects_nodes_and_nothing_else() -> None:
    hosts = policy("p", "role=worker", nodes=True, ingress=[allow(pods("app=client"), "22")], egress=[allow(cidr("0.0.0.0/0"))])
    assert verdict(here(hosts), flow("client -> host", "22")) == "allow"
    assert verdict(here(hosts), flow("other -> host", "22")) == "deny"
    assert verdict(here(hosts), flow("host -> 203.0.113.5")) == "allow"
    assert verdict(here(hosts), flow("host -> 2001:db8::1")) == "deny"
    assert verdict(here(hosts), flow("other -> web", "22")) == "allow"
    elsewhere = replace(hosts, subject=selector("role=other"))
    assert verdict(here(elsewhere), flow("other -> host", "22")) == "allow"


def test_only_ends_of_this_node_are_enforced() -> None:
    everywhere = policy("p", "", ingress=[allow(())], egress=[allow(())])
    assert verdict(here(everywhere), flow("far -> 203.0.113.5")) == "allow"
    assert [side.direction for side in evaluate(here(everywhere), flow("far -> web")).sides] == [Direction.INGRESS]
    assert [side.direction for side in evaluate(here(everywhere), flow("web -> far")).sides] == [Direction.EGRESS]


# ---- what ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ports", "covered"),
    [
        ("80", ("80",)),
        ("80-81", ("80", "81")),
        ("0", ("80", "81", "8080")),
        ("80/any", ("80", "80/udp", "80/sctp")),
        ("0/any", ("80", "81", "8080", "53/udp", "80/udp", "80/sctp")),
        ("http", ("80",)),
        ("http/udp", ()),
        ("dns/any", ("53/udp",)),
        ("absent", ()),
        ("8/icmp", ("8/icmp",)),
        ("0/icmp", ("0/icmp",)),
        ("0/gre", ("0/gre",)),
        ("0/sctp", ("80/sctp",)),
        ("81,53/udp", ("81", "53/udp")),
    ],
)
def test_ports_cover_what_they_say(ports: str, covered: tuple[str, ...]) -> None:
    all_ports = ("80", "81", "8080", "53/udp", "80/udp", "80/sctp", "8/icmp", "0/icmp", "0/gre")
    where = here(policy("p", "app=web", ingress=[allow(None, ports)]))
    assert [port for port in all_ports if verdict(where, flow(port=port)) == "allow"] == [p for p in all_ports if p in covered]


def test_rule_without_ports_covers_every_protocol() -> None:
    where = here(policy("p", "app=web", ingress=[allow(pods("app=client"))]))
    assert {verdict(where, flow(port=port)) for port in ("80", "53/udp", "8/icmp", "0/esp")} == {"allow"}


def test_named_port_belongs_to_the_listener_and_to_all_with_its_labels() -> None:
    twin = endpoint("twin", "app=web", ip="10.0.0.7", ports=(NamedPort("http", 8080),))
    egress = world(policy("p", "app=client", egress=[allow(pods("app=web"), "http")]), endpoints=(*ENDPOINTS, twin))
    assert verdict(egress, flow(port="80")) == "allow"
    assert verdict(egress, flow(port="8080")) == "allow"
    assert verdict(egress, flow("client -> 203.0.113.5")) == "deny"
    ingress = here(policy("p", "app=client", ingress=[allow(None, "http")]))
    assert verdict(ingress, flow("web -> client")) == "deny"


# ---- precedence ---------------------------------------------------------------------------------------------------

L3 = policy("l3", "app=web", ingress=[allow(pods("app=client"))])
L4 = policy("l4", "app=web", ingress=[allow(None, "80")])
L4_81 = policy("l4-81", "app=web", ingress=[allow(None, "81")])
L7 = policy("l7", "app=web", ingress=[allow(None, To("80", http=(http("GET", "/public.*"),)))])
L7_POST = policy("l7-post", "app=web", ingress=[allow(None, To("80", http=(http("POST"),)))])
DENY_80 = policy("deny-80", "app=web", ingress=[deny(None, "80")], default_deny=False)
DENY_L3 = policy("deny-l3", "app=web", ingress=[deny(pods("app=client"))], default_deny=False)
OPEN_L7 = replace(L7, default_deny=frozenset())
AUDIT_L7 = policy("audit-l7", "app=web", ingress=[allow(None, To("80", http=(http("GET"),)))], audit=True)


@pytest.mark.parametrize(
    ("denies", "port_81", "port_80", "ping"),
    [
        ((), "allow", "redirect allowed", "allow"),
        ((DENY_80,), "allow", "deny", "allow"),
        ((DENY_L3,), "deny", "deny", "deny"),
        ((DENY_80, DENY_L3), "deny", "deny", "deny"),
    ],
)
def test_deny_beats_every_allow(denies: tuple[Policy, ...], port_81: str, port_80: str, ping: str) -> None:
    where = here(L3, L4, L4_81, L7, *denies)
    found = (verdict(where, flow(port="81")), verdict(where, flow(request=GET)), verdict(where, flow(port="8/icmp")))
    assert found == (port_81, port_80, ping)


def test_deny_without_any_allow_closes_the_direction() -> None:
    where = here(replace(DENY_80, default_deny=frozenset({Direction.INGRESS})))
    assert {verdict(where, flow(port=port)) for port in ("80", "81", "8/icmp")} == {"deny"}
    assert evaluate(where, flow(port="81")).reason is Reason.DEFAULT_DENY
    assert evaluate(where, flow(port="80")).reason is Reason.DENY_RULE


@pytest.mark.parametrize(
    ("policies", "get", "post", "reason"),
    [
        ((), "allow", "allow", Reason.NOT_SELECTED),
        ((L4,), "allow", "allow", Reason.ALLOW_RULE),
        ((L7,), "redirect allowed", "redirect denied", Reason.L7_ALLOW_RULE),
        # The union of L7 rules.
        ((L7, L7_POST), "redirect allowed", "redirect allowed", Reason.L7_ALLOW_RULE),
        # A plain allow beside them allows every request, through the proxy all the same.
        ((L7, L4), "redirect allowed", "redirect allowed", Reason.L7_ALLOW_RULE),
        ((L7, L3), "redirect allowed", "redirect allowed", Reason.L7_ALLOW_RULE),
        # enableDefaultDeny: false is a wildcard beside them, unless another policy closes the direction.
        ((OPEN_L7,), "redirect allowed", "redirect allowed", Reason.L7_ALLOW_RULE),
        ((OPEN_L7, L4_81), "redirect allowed", "redirect denied", Reason.L7_ALLOW_RULE),
        ((policy("e", "app=web", ingress=[]),), "deny", "deny", Reason.DEFAULT_DENY),
        ((policy("e", "app=web", ingress=[allow(())]),), "deny", "deny", Reason.DEFAULT_DENY),
        ((policy("e", "app=web", egress=[]),), "allow", "allow", Reason.NOT_SELECTED),
        ((policy("e", "app=web", ingress=[], default_deny=False),), "allow", "allow", Reason.NOT_SELECTED),
        ((policy("e", "app=web", ingress=[allow(())], default_deny=False),), "allow", "allow", Reason.NOT_DEFAULT_DENY),
    ],
)
def test_rules_of_one_side_add_up(policies: tuple[Policy, ...], get: str, post: str, reason: Reason) -> None:
    where = here(*policies)
    assert (verdict(where, flow(request=GET)), verdict(where, flow(request=POST))) == (get, post)
    assert evaluate(where, flow(request=GET)).reason is reason


def test_l7_rules_hold_for_the_peers_they_name() -> None:
    for_client = policy("c", "app=web", ingress=[allow(pods("app=client"), To("80", http=(http("GET"),)))])
    for_other = policy("o", "app=web", ingress=[allow(pods("app=other"), "80")])
    where = here(for_client, for_other)
    assert verdict(where, flow(request=POST)) == "redirect denied"
    assert verdict(where, flow("other -> web", request=POST)) == "allow"


def test_http_list_that_is_empty_and_one_with_an_empty_rule() -> None:
    nothing = policy("n", "app=web", ingress=[allow(None, To("80", l7=L7Rules(L7Protocol.HTTP)))])
    anything = policy("a", "app=web", ingress=[allow(None, To("80", http=(http(),)))])
    assert verdict(here(nothing), flow(request=GET)) == "redirect denied"
    assert verdict(here(anything), flow(request=POST)) == "redirect allowed"


def test_l7_deny_beats_every_l7_allow_and_plain_allow() -> None:
    denies = policy("d", "app=web", ingress=[allow(None, To("80", http_deny=(http("POST"),)))])
    for where in (here(denies), here(denies, L4), here(denies, L7_POST), here(replace(denies, default_deny=frozenset()))):
        assert verdict(where, flow(request=POST)) == "redirect denied"
        assert evaluate(where, flow(request=POST)).reason is Reason.L7_DENY_RULE
        assert verdict(where, flow(request=GET)) == "redirect allowed"


def test_both_ends_must_allow_and_each_request_is_judged_by_both() -> None:
    egress = policy("out", "app=client", egress=[allow(pods("app=web"), To("80", http=(http(None, "/public"),)))])
    assert verdict(here(egress, L7), flow(request=GET)) == "redirect allowed"
    assert verdict(here(egress, L7), flow(request=POST)) == "redirect denied"
    assert verdict(here(egress, L7), flow(request=replace(GET, path="/public/x"))) == "redirect denied"
    assert verdict(here(egress, policy("in", "app=web", ingress=[])), flow(request=GET)) == "deny"
    assert verdict(here(egress), flow(request=GET)) == "redirect allowed"


def test_flow_that_states_no_message_is_undecided_where_l7_rules_decide() -> None:
    assert verdict(here(L7), flow()) == "redirect undecided"
    assert verdict(here(L7, L4), flow()) == "redirect allowed"
    names = policy("n", "app=web", ingress=[allow(None, To("443", names=("*.test",)))])
    assert verdict(here(names), flow(port="443")) == "redirect undecided"


def test_request_that_envoy_refuses_is_denied_in_the_proxy_only() -> None:
    refused = replace(GET, path="/a%00")
    assert verdict(here(L7, L4), flow(request=refused)) == "redirect denied"
    assert evaluate(here(L7, L4), flow(request=refused)).reason is Reason.REFUSED
    assert verdict(here(L4), flow(request=refused)) == "allow"


def test_tunnel_needs_a_rule_that_names_it() -> None:
    named = policy("c", "app=web", ingress=[allow(None, To("80", http=(http("CONNECT"),)))])
    assert verdict(here(L7, L4), flow(request=CONNECT)) == "redirect denied"
    assert verdict(here(L7, L4, named), flow(request=CONNECT)) == "redirect allowed"
    assert verdict(here(L4), flow(request=CONNECT)) == "allow"


def test_l7_rules_cover_what_can_carry_them() -> None:
    where = here(policy("p", "app=web", ingress=[allow(None, To("80/any", http=(http(),)))]))
    assert verdict(where, flow(port="80/udp")) == "deny"
    assert verdict(where, flow(request=GET)) == "redirect allowed"


# ---- server names and TLS -----------------------------------------------------------------------------------------

TLS_ONE = TlsContext("default", "one", certificate="tls.crt", private_key="tls.key")
TLS_TWO = replace(TLS_ONE, secret="two")


def on_443(name: str, **rest: Any) -> Policy:
    return policy(name, "app=web", ingress=[allow(None, To("443", **rest))])


@pytest.mark.parametrize(
    ("policies", "allowed"),
    [
        ((on_443("a", names=("web.test",)),), ("web.test",)),
        ((on_443("a", names=("web.test",)), on_443("b", names=("*.example",))), ("web.test", "a.example")),
        ((on_443("a", names=("*",)),), ("web.test", "a.example")),
        ((on_443("a", names=("web.test",)), on_443("b")), ("web.test", "a.example", "")),
        ((replace(on_443("a", names=("web.test",)), default_deny=frozenset()),), ("web.test", "a.example", "")),
    ],
)
def test_server_names_are_united(policies: tuple[Policy, ...], allowed: tuple[str, ...]) -> None:
    names = ("web.test", "a.example", "")
    found = [name for name in names if verdict(here(*policies), flow(port="443", server_name=name)) == "redirect allowed"]
    assert found == list(allowed)


def test_server_names_beside_http_rules_hold_together_on_terminated_tls() -> None:
    sealed = on_443("s", names=("web.test",), http=(http("GET"),), terminating=TLS_ONE)
    where = here(sealed)
    assert verdict(where, flow(port="443", request=GET, server_name="web.test")) == "redirect allowed"
    assert verdict(where, flow(port="443", request=POST, server_name="web.test")) == "redirect denied"
    assert verdict(where, flow(port="443", request=GET, server_name="other.test")) == "redirect denied"
    assert evaluate(where, flow(port="443", request=GET, server_name="other.test")).reason is Reason.SERVER_NAME


KAFKA = L7Rules(L7Protocol.KAFKA)


@pytest.mark.parametrize(
    ("policies", "problem"),
    [
        ((on_443("a", http=(http(),)), on_443("b", l7=KAFKA)), Problem.PROTOCOLS),
        ((on_443("a", l7=L7Rules(L7Protocol.DNS)), on_443("b", names=("web.test",))), Problem.DNS_OVER_TLS),
        (
            (on_443("a", http=(http(),), terminating=TLS_ONE), on_443("b", http=(http(),), terminating=TLS_TWO)),
            Problem.TLS_CONTEXTS,
        ),
        ((on_443("a", terminating=TLS_ONE),), Problem.TLS_WITHOUT_L7),
        ((on_443("a", names=("web.test",)), on_443("b", http=(http(),))), Problem.NAMES_BESIDE_HTTP),
        (
            (
                on_443("a", names=("a.test",), http=(http("GET"),), terminating=TLS_ONE),
                on_443("b", names=("b.test",), http=(http("POST"),), terminating=TLS_ONE),
            ),
            Problem.NAMES_DIFFER,
        ),
    ],
)
def test_rules_that_cannot_be_united_close_what_they_cover(policies: tuple[Policy, ...], problem: Problem) -> None:
    decision = evaluate(here(*policies), flow(port="443", request=GET, server_name="web.test"))
    assert (said(decision), decision.reason, decision.problem) == ("deny", Reason.UNREALISABLE, problem)
    assert {each.policy for each in decision.deciding} == {each.key for each in policies}


def test_different_protocols_for_different_peers_live_side_by_side() -> None:
    where = here(
        policy("h", "app=web", ingress=[allow(pods("app=client"), To("443", http=(http(),)))]),
        policy("n", "app=web", ingress=[allow(pods("app=other"), To("443", names=("web.test",)))]),
    )
    assert verdict(where, flow(port="443", request=GET)) == "redirect allowed"
    assert verdict(where, flow("other -> web", "443", server_name="web.test")) == "redirect allowed"


def test_two_local_ends_with_different_protocols_are_closed_unless_one_passes_everything() -> None:
    names = policy("out", "app=client", egress=[allow(None, To("80", names=("web.test",)))])
    where = here(names, L7)
    assert evaluate(where, flow(request=GET, server_name="web.test")).problem is Problem.ENDS_DIFFER
    assert verdict(where, flow(request=GET, server_name="web.test")) == "deny"
    lenient = policy("out-2", "app=client", egress=[allow(None, "80")])
    assert verdict(here(names, lenient, L7), flow(request=GET, server_name="x.test")) == "redirect allowed"


def test_l7_rules_on_the_host_and_on_ingress_of_its_workloads_are_closed() -> None:
    hosts = policy("h", "role=worker", nodes=True, ingress=[allow(None, To("80", http=(http(),)))])
    assert evaluate(here(hosts), flow("client -> host", request=GET)).problem is Problem.ON_HOST
    job = endpoint("job", ip="10.0.0.8", cgroup="system.slice/job.service")
    seen = world(policy("j", "app=job", ingress=[allow(None, To("80", http=(http(),)))]), endpoints=(*ENDPOINTS, job))
    assert evaluate(seen, Flow("default/client", "default/job", http=GET, destination_port=80)).problem is Problem.ON_CGROUP


# ---- audit, modes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policies", "get", "post"),
    [
        ((AUDIT_L7,), "redirect allowed", "redirect allowed!"),
        ((AUDIT_L7, L4), "redirect allowed", "redirect allowed"),
        ((AUDIT_L7, L7), "redirect allowed", "redirect denied"),
        ((replace(L4_81, mode=AUDIT_L7.mode),), "allow!", "allow!"),
        ((replace(L4_81, mode=AUDIT_L7.mode), L4), "allow", "allow"),
        ((replace(DENY_80, mode=AUDIT_L7.mode), L4), "allow!", "allow!"),
        ((replace(DENY_80, mode=AUDIT_L7.mode), L7), "redirect allowed!", "redirect denied"),
        # What audit would allow stays denied.
        ((L4_81, replace(L4, mode=AUDIT_L7.mode)), "deny", "deny"),
        # A conflict with audited rules drops nothing.
        (
            (L7, policy("n", "app=web", ingress=[allow(None, To("80", names=("x",)))], audit=True)),
            "redirect allowed!",
            "redirect denied",
        ),
    ],
)
def test_audit_reports_and_changes_nothing(policies: tuple[Policy, ...], get: str, post: str) -> None:
    where = here(*policies)
    assert (verdict(where, flow(request=GET)), verdict(where, flow(request=POST))) == (get, post)


def test_tls_context_of_an_audit_policy_is_not_judged() -> None:
    sealed = policy("s", "app=web", ingress=[allow(None, To("80", http=(http("GET"),), terminating=TLS_ONE))], audit=True)
    assert verdict(here(L4, sealed), flow(request=POST)) == "allow"


@pytest.mark.parametrize(
    ("enforcement", "policies", "expected"),
    [
        (Enforcement.ALWAYS, (), "deny"),
        (Enforcement.ALWAYS, (L4,), "deny"),
        (Enforcement.ALWAYS, (L4, policy("c", "app=client", egress=[allow(None)])), "allow"),
        (Enforcement.ALWAYS, (replace(L4, default_deny=frozenset()),), "deny"),
        (Enforcement.NEVER, (DENY_80, L7), "allow"),
    ],
)
def test_enforcement_mode(enforcement: Enforcement, policies: tuple[Policy, ...], expected: str) -> None:
    assert verdict(here(*policies, enforcement=enforcement), flow(request=POST)) == expected


def test_always_does_not_close_the_node_itself() -> None:
    assert verdict(here(enforcement=Enforcement.ALWAYS), flow("host -> 203.0.113.5")) == "allow"
    assert verdict(here(enforcement=Enforcement.ALWAYS), flow("203.0.113.5 -> host")) == "allow"


# ---- what is reported ---------------------------------------------------------------------------------------------


def test_decision_names_the_rules_that_made_the_difference() -> None:
    first = origin("l7", "spec.ingress[0].toPorts[0].rules.http[0]")
    assert evaluate(here(L7), flow(request=GET)).deciding == (first,)
    assert evaluate(here(L7, L4), flow(request=POST)).deciding == (origin("l4", "spec.ingress[0].toPorts[0]"),)
    assert evaluate(here(L7, DENY_80), flow(request=GET)).deciding == (origin("deny-80", "spec.ingressDeny[0].toPorts[0]"),)
    assert evaluate(here(L3), flow()).deciding == (origin("l3", "spec.ingress[0]"),)
    assert evaluate(here(L7), flow(request=POST)).deciding == ()


TOKEN = SecretRef("default", "tokens", "api")


def test_header_actions_are_those_of_both_sides_and_none_of_a_denied_request() -> None:
    adding = rule(headers=(header("x-token", secret=TOKEN, mismatch=MismatchAction.ADD),))
    ingress = policy("i", "app=web", ingress=[allow(None, To("80", http=(adding,)))])
    egress = policy(
        "e", "app=client", egress=[allow(None, To("80", http=(rule(headers=(header("x", mismatch=MismatchAction.LOG),)),)))]
    )
    decision = evaluate(here(ingress, egress), flow(request=GET), {TOKEN: "s3cr3t"})
    assert [(each.header, each.action) for each in decision.header_actions] == [
        ("x", MismatchAction.LOG),
        ("x-token", MismatchAction.ADD),
    ]
    assert "s3cr3t" not in repr(decision)
    missing = evaluate(here(ingress, egress), flow(request=GET))
    assert (missing.verdict, missing.header_actions) == (Verdict.DENIED, ())
