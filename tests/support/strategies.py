"""Random small worlds and flows, for tests that hold several judges of one policy against each other.

Everything is drawn from small pools, so that what rules ask for and what flows are meet often: a few labels, nested prefixes,
neighbouring ports, paths that match and paths that nearly do. Values shrink towards the first of each pool. ``worlds`` and
``flows`` know nothing of who judges; ``tests/support/verdicts.py`` says what should come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TypeVar

from hypothesis import strategies as st

from l7filters.decision import Flow
from l7filters.fqdn import DnsQuestion
from l7filters.http import HttpRequest
from l7filters.ir import DirectionRules, RuleSet, Slot, SlotKey
from l7filters.labels import NAMESPACE_LABEL, LabelSelector, Operator, Requirement
from l7filters.model import (
    CidrGroupPeer,
    CidrPeer,
    Direction,
    DnsRule,
    EndpointPeer,
    Entity,
    EntityPeer,
    FqdnPeer,
    HeaderMatch,
    HttpRule,
    L7Protocol,
    L7Rules,
    MatchKind,
    MismatchAction,
    Mode,
    NodePeer,
    Observation,
    Peer,
    Policy,
    PolicyKey,
    PortRule,
    PortSpec,
    Protocol,
    QueryMatch,
    Rule,
    RuleOrigin,
    SecretRef,
    ServicePeer,
    StringMatch,
    TlsContext,
)
from l7filters.predicates import SecretTexts
from l7filters.world import CidrGroup, Endpoint, Enforcement, NamedPort, Node, Service, World

T = TypeVar("T")
_NOWHERE = RuleOrigin(PolicyKey(""), "")

ENDPOINTS_MAX = 5
POLICIES_MAX = 4
REMOTE_NODE = Node(name="node-b", labels={"zone": "b"}, addresses=(ip_address("192.168.0.2"), ip_address("fd01::2")))
THIS_NODE = Node(name="node-a", labels={"zone": "a"}, addresses=(ip_address("192.168.0.1"), ip_address("fd01::1")))

OUTSIDE = tuple(
    ip_address(text) for text in ("198.51.100.7", "198.51.100.200", "203.0.113.9", "10.0.0.77", "2001:db8::7", "2001:db8:1::9")
)
"""Addresses that no endpoint or node has."""
_CIDRS = tuple(
    ip_network(text)
    for text in ("198.51.100.0/24", "198.51.100.0/25", "198.51.100.7/32", "0.0.0.0/0", "10.0.0.0/8", "2001:db8::/32", "::/0")
)
_CIDR_PEERS = (
    *(CidrPeer(cidr) for cidr in _CIDRS),
    CidrPeer(_CIDRS[0], (_CIDRS[1],)),
    CidrPeer(_CIDRS[0], (_CIDRS[2],)),
    CidrPeer(_CIDRS[3], (_CIDRS[0],)),
    CidrPeer(_CIDRS[3], (_CIDRS[4], _CIDRS[2])),
    CidrPeer(_CIDRS[6], (_CIDRS[5],)),
)
_GROUPS = (
    CidrGroup(name="partners", labels={"team": "x"}, cidrs=(ip_network("203.0.113.0/24"), ip_network("2001:db8:1::/48"))),
    CidrGroup(name="none", labels={"team": "y"}),
)
_SERVICES = (
    Service(
        namespace="default",
        name="a",
        labels={"kind": "internal"},
        selector=LabelSelector((Requirement("app", Operator.IN, ("a",)),)),
    ),
    Service(namespace="default", name="outside", labels={"kind": "external"}, addresses=(ip_address("203.0.113.9"),)),
)
_TLS = tuple(TlsContext("default", name, certificate="tls.crt", private_key="tls.key") for name in ("one", "two"))


def few(elements: st.SearchStrategy[T], most: int, *, least: int = 0) -> st.SearchStrategy[tuple[T, ...]]:
    """Return tuples of ``least`` to ``most`` elements."""
    return st.lists(elements, min_size=least, max_size=most).map(tuple)


def sometimes(elements: st.SearchStrategy[T], in_hundred: int) -> st.SearchStrategy[T | None]:
    """Draw an element so many times in a hundred, else None."""
    return st.integers(0, 99).flatmap(lambda chance: st.none() if chance < 100 - in_hundred else elements)


def few_or_none(found: tuple[T, ...] | None) -> tuple[T, ...]:
    """Return what was drawn, or nothing."""
    return found or ()


def one_of(values: Sequence[T]) -> st.SearchStrategy[T]:
    """Return a strategy over a pool."""
    return st.sampled_from(list(values))


# ---- whom ---------------------------------------------------------------------------------------------------------


@st.composite
def endpoints(draw: st.DrawFn) -> tuple[Endpoint, ...]:
    """Draw two to five endpoints, the first local, of label sets that are sometimes the same."""
    count = draw(st.integers(2, ENDPOINTS_MAX))
    found: list[Endpoint] = []
    for index in range(count):
        name = f"pod-{index}"
        namespace = draw(one_of(("default", "default", "other")))
        labels = {"app": draw(one_of("abc")), NAMESPACE_LABEL: namespace}
        if draw(st.booleans()):
            labels["tier"] = draw(one_of(("front", "back")))
        kind = "local" if index == 0 else draw(one_of(("local", "local", "local", "remote", "cgroup")))
        addresses = (ip_address(f"10.0.0.{index + 2}"), ip_address(f"fd00::{index + 2:x}"))
        named = (NamedPort("web", draw(one_of((80, 8080)))), NamedPort("dns", 53, Protocol.UDP))
        found.append(
            Endpoint(
                name=name,
                namespace=namespace,
                labels=labels,
                addresses=addresses,
                interface=f"lxc-{name}" if kind == "local" else None,
                cgroup=f"system.slice/{name}.service" if kind == "cgroup" else None,
                named_ports=named if draw(st.booleans()) else (),
            )
        )
    return tuple(found)


def selectors() -> st.SearchStrategy[LabelSelector]:
    """Draw selectors over the labels that ``endpoints`` have."""
    requirement = one_of(
        (
            Requirement("app", Operator.IN, ("a",)),
            Requirement("app", Operator.IN, ("a", "b")),
            Requirement("app", Operator.NOT_IN, ("a",)),
            Requirement("tier", Operator.EXISTS),
            Requirement("tier", Operator.DOES_NOT_EXIST),
            Requirement(NAMESPACE_LABEL, Operator.IN, ("default",)),
        )
    )
    return sometimes(few(requirement, 2), 60).map(lambda found: LabelSelector(found or ()))


_FQDN_PEERS = (
    FqdnPeer("web.test"),
    FqdnPeer("a.web.test"),
    FqdnPeer(match_pattern="*.web.test"),
    FqdnPeer(match_pattern="**.test", excepts=("evil.test",)),
    FqdnPeer(match_pattern="*"),
)
FQDN_NAMES = ("web.test", "a.web.test", "evil.test", "a.b.example", "evil.example")
_DNS_RULES = (
    DnsRule(_NOWHERE, "web.test"),
    DnsRule(_NOWHERE, match_pattern="*.web.test", query_types=("AAAA",)),
    DnsRule(_NOWHERE, match_pattern="*", excepts=("*.example",)),
)


def peers() -> st.SearchStrategy[Peer]:
    """Draw a peer of any kind that doesn't depend on DNS."""
    reserved = one_of(("host", "remote-node", "world")).map(
        lambda name: LabelSelector((Requirement(f"reserved:{name}", Operator.EXISTS),))
    )
    cidr = one_of(_CIDR_PEERS)
    group = one_of(
        (
            CidrGroupPeer("partners"),
            CidrGroupPeer("partners", excepts=(ip_network("203.0.113.9/32"),)),
            CidrGroupPeer("missing"),
            CidrGroupPeer(None, LabelSelector((Requirement("team", Operator.EXISTS),))),
        )
    )
    service = one_of(
        (
            ServicePeer("default", "a"),
            ServicePeer("default", "outside"),
            ServicePeer(None, None, LabelSelector((Requirement("kind", Operator.EXISTS),))),
            ServicePeer("default", "missing"),
        )
    )
    node = one_of((NodePeer(LabelSelector()), NodePeer(LabelSelector((Requirement("zone", Operator.IN, ("b",)),)))))
    return st.one_of(
        selectors().map(EndpointPeer),
        one_of(list(Entity)).map(EntityPeer),
        cidr,
        reserved.map(EndpointPeer),
        group,
        service,
        node,
    )


# ---- what ---------------------------------------------------------------------------------------------------------

_METHODS = (
    StringMatch(MatchKind.REGEX, "GET"),
    StringMatch(MatchKind.REGEX, "GET|HEAD"),
    StringMatch(MatchKind.EXACT, "CONNECT"),
)
_PATHS = (
    StringMatch(MatchKind.REGEX, "/public.*"),
    StringMatch(MatchKind.REGEX, "/public/?"),
    StringMatch(MatchKind.EXACT, "/public"),
    StringMatch(MatchKind.PREFIX, "/public"),
    StringMatch(MatchKind.PREFIX, "/"),
    StringMatch(MatchKind.EXACT, "/Public", ignore_case=True),
)
_HOSTS = (StringMatch(MatchKind.REGEX, r"web\.test(:80)?"), StringMatch(MatchKind.EXACT, "web.test"))
_HEADERS: tuple[HeaderMatch, ...] = (
    HeaderMatch("x-role"),
    HeaderMatch("x-role", StringMatch(MatchKind.EXACT, "admin")),
    HeaderMatch("x-role", StringMatch(MatchKind.REGEX, "a.*")),
    HeaderMatch("x-role", StringMatch(MatchKind.PREFIX, "ad"), invert=True),
    HeaderMatch("x-role", invert=True),
    HeaderMatch("x-role", StringMatch(MatchKind.EXACT, "admin"), mismatch=MismatchAction.REPLACE),
    HeaderMatch("x-team", StringMatch(MatchKind.EXACT, "red"), mismatch=MismatchAction.LOG),
    HeaderMatch("x-team", StringMatch(MatchKind.EXACT, "red"), mismatch=MismatchAction.DELETE),
)
SECRETS: SecretTexts = {SecretRef("default", "tokens", "api"): "s3cr3t"}
_TOKEN, _MISSING_TOKEN = SecretRef("default", "tokens", "api"), SecretRef("default", "tokens", "missing")
_HEADERS += (
    HeaderMatch("x-token", secret=_TOKEN),
    HeaderMatch("x-token", secret=_TOKEN, mismatch=MismatchAction.ADD),
    HeaderMatch("x-token", secret=_MISSING_TOKEN),
    HeaderMatch("x-token", secret=_MISSING_TOKEN, mismatch=MismatchAction.LOG),
    HeaderMatch("x-token", StringMatch(MatchKind.EXACT, "spare"), secret=_MISSING_TOKEN),
)
_QUERIES = (
    QueryMatch("tenant"),
    QueryMatch("tenant", StringMatch(MatchKind.EXACT, "a")),
    QueryMatch("tenant", StringMatch(MatchKind.REGEX, "[ab]")),
)


@st.composite
def http_rules(draw: st.DrawFn, origin: RuleOrigin) -> HttpRule:
    """Draw one HTTP rule; often it has one predicate only."""
    return HttpRule(
        origin,
        path=draw(sometimes(one_of(_PATHS), 50)),
        method=draw(sometimes(one_of(_METHODS), 25)),
        host=draw(sometimes(one_of(_HOSTS), 25)),
        headers=few_or_none(draw(sometimes(few(one_of(_HEADERS), 2), 25))),
        query=few_or_none(draw(sometimes(few(one_of(_QUERIES), 1), 25))),
    )


@st.composite
def l7_rules(draw: st.DrawFn, origin: RuleOrigin) -> L7Rules:
    """Draw the HTTP rules of a port; now and then those of DNS, or of Kafka that allow nothing."""
    if draw(st.integers(0, 19)) == 19:
        return L7Rules(L7Protocol.KAFKA)
    if draw(st.integers(0, 9)) == 9:
        chosen = draw(few(one_of(_DNS_RULES), 2, least=1))
        return L7Rules(
            L7Protocol.DNS,
            tuple(
                replace(rule, origin=RuleOrigin(origin.policy, f"{origin.path}.rules.dns[{index}]"))
                for index, rule in enumerate(chosen)
            ),
        )

    def some(field: str, most: int) -> tuple[HttpRule, ...]:
        count = draw(st.integers(0, most))
        return tuple(
            draw(http_rules(RuleOrigin(origin.policy, f"{origin.path}.rules.{field}[{index}]"))) for index in range(count)
        )

    allow, deny = some("http", 2), some("httpDeny", 1)
    return L7Rules(L7Protocol.HTTP, allow, deny, deny_only=bool(deny) and not allow and draw(st.booleans()))


@st.composite
def rule_sets(draw: st.DrawFn, field: str) -> RuleSet:
    """Draw what a slot says of HTTP in one direction, its rules below ``field``."""
    key = PolicyKey("cnp/default/p")

    def some(kind: str, most: int) -> tuple[HttpRule, ...]:
        return tuple(draw(http_rules(RuleOrigin(key, f"{field}.{kind}[{index}]"))) for index in range(draw(st.integers(0, most))))

    everything = draw(st.integers(0, 4)) == 4
    return RuleSet(allow=some("http", 3), deny=some("httpDeny", 2), allow_all=(RuleOrigin(key, field),) if everything else ())


@st.composite
def http_slots(draw: st.DrawFn) -> Slot:
    """Draw an HTTP slot of one direction, or of both, some with a shadow."""

    def side(field: str) -> DirectionRules:
        return DirectionRules(draw(rule_sets(field)), draw(sometimes(rule_sets(f"{field}.audit"), 30)))

    both = draw(st.integers(0, 3)) == 3
    key = SlotKey(L7Protocol.HTTP, egress=("out",) if both else None, ingress=("in",))
    return Slot(key, egress=side("spec.egress[0]") if both else None, ingress=side("spec.ingress[0]"))


_PORTS = (
    *(PortSpec(Protocol.TCP, 80),) * 6,
    *(PortSpec(Protocol.TCP, 80, 81),) * 3,
    PortSpec(Protocol.TCP, 64, 8090),
    PortSpec(Protocol.ANY, 80),
    PortSpec(Protocol.TCP, 0),
    PortSpec(Protocol.TCP, "web"),
    PortSpec(Protocol.ANY, "dns"),
    PortSpec(Protocol.UDP, 53),
    PortSpec(Protocol.ANY, 53),
    PortSpec(Protocol.TCP, 443),
    PortSpec(Protocol.UDP, 443),
    PortSpec(Protocol.ANY, 443, 444),
    PortSpec(Protocol.ANY, 0),
    PortSpec(Protocol.SCTP, 80),
    PortSpec(Protocol.ICMP, 8),
    PortSpec(Protocol.ICMP, 0),
    PortSpec(Protocol.ICMPV6, 128),
    PortSpec(Protocol.GRE),
)
_NAMES = ("web.test", "*.test", "**.test", "*")


@st.composite
def port_rules(draw: st.DrawFn, origin: RuleOrigin, *, deny: bool) -> PortRule:
    """Draw a ``toPorts`` item; half of those that allow have L7 rules, some server names or TLS contexts."""
    specs = draw(few(one_of(_PORTS), 2, least=1))
    kind = (
        "plain"
        if deny
        else draw(one_of(("http", "plain", "http", "http", "plain", "http", "http", "names", "http", "sealed", "http", "odd")))
    )
    match kind:
        case "http":
            return PortRule(specs, origin, draw(l7_rules(origin)))
        case "names":
            return PortRule(specs, origin, server_names=draw(few(one_of(_NAMES), 2, least=1)))
        case "sealed":
            names = draw(st.just(()) | few(one_of(_NAMES), 1, least=1))
            return PortRule(specs, origin, draw(l7_rules(origin)), names, terminating_tls=_TLS[0])
        case "odd":
            context, names = draw(one_of(_TLS)), draw(few(one_of(_NAMES), 1))
            l7 = draw(sometimes(l7_rules(origin), 50))
            if draw(st.booleans()):
                return PortRule(specs, origin, l7, names, terminating_tls=context)
            return PortRule(specs, origin, l7, names, originating_tls=context)
        case _:
            return PortRule(specs, origin)


@st.composite
def rules(draw: st.DrawFn, key: PolicyKey, direction: Direction, index: int) -> Rule:
    """Draw one ingress or egress item."""
    deny = draw(st.integers(0, 14)) == 14
    origin = RuleOrigin(key, f"spec.{direction}{'Deny' if deny else ''}[{index}]")
    count = draw(one_of((1, 2, 1, 2, 0)))
    by_name = direction is Direction.EGRESS and not deny and draw(st.integers(0, 3)) == 3
    return Rule(
        origin,
        direction,
        deny,
        peers=draw(few(one_of(_FQDN_PEERS), 2, least=1) if by_name else sometimes(few(peers(), 2), 40)),
        to_ports=tuple(
            draw(port_rules(RuleOrigin(key, f"{origin.path}.toPorts[{number}]"), deny=deny)) for number in range(count)
        ),
    )


@st.composite
def observations(draw: st.DrawFn, key: PolicyKey) -> Observation:
    """Draw ports to be seen."""
    ports, direction = draw(few(one_of(_PORTS), 2, least=1)), draw(one_of(tuple(Direction)))
    place = f"spec.observe[{draw(st.integers(0, 3))}]"
    return Observation(direction, PortRule(ports, RuleOrigin(key, place), L7Rules(L7Protocol.HTTP, deny_only=True)))


@st.composite
def policies(draw: st.DrawFn, number: int) -> Policy:
    """Draw one policy. The first selects everything in both directions, so that most flows meet some rules."""
    key = PolicyKey(f"cnp/default/p{number}")
    both = (Direction.INGRESS, Direction.EGRESS)
    directions = both if number == 0 else draw(one_of((both, (Direction.INGRESS,), (Direction.EGRESS,))))
    found = tuple(draw(rules(key, direction, index)) for direction in directions for index in range(draw(one_of((1, 2, 3, 0)))))
    on_nodes = number > 0 and draw(st.integers(0, 9)) == 9
    return Policy(
        key=key,
        subject=LabelSelector() if number == 0 else draw(selectors()),
        rules=found,
        default_deny=frozenset(directions if draw(one_of((True, True, True, True, False))) else ()),
        selects_nodes=on_nodes,
        mode=draw(one_of((Mode.ENFORCE, Mode.ENFORCE, Mode.ENFORCE, Mode.ENFORCE, Mode.AUDIT))),
        observe=() if on_nodes or draw(st.integers(0, 3)) else draw(few(observations(key), 2, least=1)),
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw a world of one node."""
    return World(
        revision=1,
        node=THIS_NODE,
        remote_nodes=(REMOTE_NODE,),
        endpoints=draw(endpoints()),
        policies=tuple(draw(policies(number)) for number in range(draw(st.integers(1, POLICIES_MAX)))),
        services=_SERVICES,
        cidr_groups=_GROUPS,
        enforcement=draw(one_of((Enforcement.DEFAULT,) * 30 + (Enforcement.ALWAYS, Enforcement.NEVER))),
    )


# ---- flows --------------------------------------------------------------------------------------------------------


@st.composite
def requests(draw: st.DrawFn) -> HttpRequest:
    """Draw a request that is near to what rules ask for."""
    paths = (
        "/public",
        "/public/",
        "/public/x",
        "/public?tenant=a",
        "/x/../public?tenant=b&tenant=a",
        "//public?ten%61nt=%61",
        "/publicity",
        "/PUBLIC",
        "/",
        "/a%00",
    )
    roles = (
        (),
        (("X-Role", "admin"),),
        (("x-role", "guest"),),
        (("x-role", "admin"), ("x-role", "guest")),
        (("x-role", "guest , admin"),),
        (("x-role", ""),),
        (("x-team", "red"),),
        (("connection", "x-role"), ("x-role", "admin")),
    )
    tokens = ((), (), (), (("x-token", "s3cr3t"),), (("x-token", "spare"),), (("x-token", "guess"), ("x-token", "s3cr3t")))
    method = draw(one_of(("GET", "POST", "HEAD", "CONNECT")))
    return HttpRequest(
        method=method,
        path="" if method == "CONNECT" else draw(one_of(paths)),
        authority=draw(one_of(("web.test", "web.test:80", "evil.test", "evil.test,web.test", "a.web.test", "A.Web.test.:80"))),
        headers=draw(one_of(roles)) + draw(one_of(tokens)),
    )


@st.composite
def flows(draw: st.DrawFn, world: World) -> Flow:
    """Draw a flow between two addresses of one family, at least one of which is a local endpoint's more often than not."""
    version = draw(one_of((4, 6)))

    def of_family(addresses: Sequence[object]) -> list[object]:
        return [address for address in addresses if getattr(address, "version", None) == version]

    by_name = draw(st.integers(0, 3)) == 3
    inside = of_family([address for endpoint in world.endpoints for address in endpoint.addresses])
    outside = of_family([*OUTSIDE, *THIS_NODE.addresses, *REMOTE_NODE.addresses])
    local = of_family([address for endpoint in world.endpoints if endpoint.is_local for address in endpoint.addresses])
    anyone = [*inside, *outside] if draw(st.integers(0, 3)) == 3 else inside
    ends = [draw(st.sampled_from(local if draw(st.integers(0, 7)) < 7 else anyone))]
    others = outside if by_name else anyone
    ends.append(draw(st.sampled_from([address for address in others if address != ends[0]])))
    source, destination = ends if by_name or draw(st.booleans()) else ends[::-1]
    protocol = draw(one_of((Protocol.TCP,) * 12 + (Protocol.UDP, Protocol.SCTP, Protocol.GRE)))
    if draw(st.integers(0, 14)) == 14:
        protocol = Protocol.ICMP if version == 4 else Protocol.ICMPV6
    match protocol:
        case Protocol.ICMP | Protocol.ICMPV6:
            port = draw(one_of((8, 0, 128)))
        case Protocol.GRE:
            port = 0
        case _:
            ports = (80, 80, 443, 443, 53, 8090) if by_name else (*(80,) * 16, 81, 81, 8080, 53, 63, 443, 8090, 8091, 65535)
            port = draw(one_of(ports))
    tcp = protocol is Protocol.TCP
    return Flow(
        source,  # type: ignore[arg-type]
        destination,  # type: ignore[arg-type]
        protocol,
        port,
        http=draw(sometimes(requests(), 90)) if tcp else None,
        server_name=draw(one_of(("web.test", "a.web.test", "evil.example", "", None))) if tcp else None,
        dns=draw(sometimes(st.builds(DnsQuestion, one_of(FQDN_NAMES), one_of(("A", "AAAA"))), 80)),
        names=draw(few(one_of(FQDN_NAMES), 2, least=1)) if by_name else (),
    )


@st.composite
def worlds_and_flows(draw: st.DrawFn, flows_max: int = 12) -> tuple[World, tuple[Flow, ...]]:
    """Draw a world and some flows in it."""
    world = draw(worlds())
    return world, tuple(draw(flows(world)) for _ in range(draw(st.integers(flows_max // 2, flows_max))))
