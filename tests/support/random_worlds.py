"""Hypothesis strategies for small worlds in which rules meet, overlap and conflict.

Few labels, prefixes and ports on purpose: what is interesting is how they cover each other. ``plain`` worlds keep to endpoints,
entities, prefixes and HTTP; the others have all that a rule can say.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import strategies as st

from l7filters.identity import Network
from l7filters.model import (
    CidrGroupPeer,
    CidrPeer,
    DnsRule,
    EndpointPeer,
    Entity,
    EntityPeer,
    FqdnPeer,
    KafkaRule,
    L7Protocol,
    L7Rules,
    NodePeer,
    Peer,
    Policy,
    Protocol,
    ServicePeer,
    TlsContext,
)
from l7filters.world import CidrGroup, Endpoint, Enforcement, NamedPort, Node, Service, World
from tests.support.worlds import NODE, Item, To, endpoint, http, origin, policy, selector, world

LABELS = [f"a={a},b={b}" for a in "xy" for b in "xy"]
SELECTORS = ["", "a=x", "b=y", "a=x,b=y", "a=y,b=x", "!c", "c"]
NETWORKS = [ip_network(text) for text in ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "::/0", "2001:db8::/32")]
OUTSIDE = [ip_address(text) for text in ("8.8.8.8", "10.9.9.9", "10.1.9.9", "10.1.2.9", "2001:db8::9", "2002::9", "192.168.0.1")]
PORTS = [
    "0",
    "80",
    "81",
    "80-95",
    "64-127",
    "79-82",
    "0/any",
    "80/any",
    "443",
    "443/udp",
    "53/udp",
    "53/any",
    "8/icmp",
    "0/icmp",
    "web",
]
NAMES = ["example.com", "a.example.com", "b.example.com", "a.b.com", "elsewhere.org"]
FLOWS = [
    (Protocol.TCP, 80),
    (Protocol.TCP, 81),
    (Protocol.TCP, 82),
    (Protocol.TCP, 100),
    (Protocol.TCP, 8080),
    (Protocol.TCP, 443),
    (Protocol.UDP, 443),
    (Protocol.TCP, 53),
    (Protocol.UDP, 53),
    (Protocol.UDP, 80),
    (Protocol.ICMP, 8),
    (Protocol.ICMP, 0),
    (Protocol.GRE, 0),
]
REMOTE_NODES = (
    Node(name="node-b", labels={"role": "worker"}, addresses=(ip_address("192.168.0.2"),)),
    Node(name="node-c", labels={"role": "edge"}, addresses=(ip_address("192.168.0.3"),)),
)
SERVICES = (
    Service(namespace="default", name="db", labels={"t": "db"}, selector=selector("a=x,b=x")),
    Service(namespace="default", name="out", addresses=(ip_address("8.8.8.8"), ip_address("2002::9"))),
)
GROUPS = (CidrGroup(name="ours", labels={"t": "g"}, cidrs=(ip_network("10.1.0.0/16"), ip_network("2001:db8::/32"))),)
HTTP_A = (http("GET", "/a"),)
HTTP_BC = (http("GET", "/b"), http("POST", "/c"))
TLS_ONE, TLS_TWO = TlsContext("default", "one"), TlsContext("default", "two")
DNS = L7Rules(L7Protocol.DNS, allow=(DnsRule(origin("any", "dns[0]"), match_pattern="*.example.com"),))
KAFKA = L7Rules(L7Protocol.KAFKA, allow=(KafkaRule(origin("any", "kafka[0]")),))


def _plain_peers() -> st.SearchStrategy[Peer]:
    return st.one_of(
        st.sampled_from(SELECTORS).map(lambda text: EndpointPeer(selector(text))),
        st.sampled_from([Entity.WORLD, Entity.HOST, Entity.CLUSTER, Entity.ALL, Entity.WORLD_IPV6, Entity.NONE]).map(EntityPeer),
        st.builds(_cidr_peer, st.sampled_from(NETWORKS), st.lists(st.sampled_from(NETWORKS), max_size=2, unique=True)),
    )


def _all_peers() -> st.SearchStrategy[Peer]:
    others: list[Peer] = [
        CidrGroupPeer("ours"),
        CidrGroupPeer(None, selector("t=g"), (ip_network("10.1.2.0/24"),)),
        CidrGroupPeer("gone"),
        ServicePeer("default", "db"),
        ServicePeer(None, None, selector("t=db")),
        ServicePeer("default", "out"),
        NodePeer(selector("role=worker")),
        NodePeer(selector("role=edge")),
        EntityPeer(Entity.REMOTE_NODE),
        EndpointPeer(selector("reserved:host")),
        EndpointPeer(selector("reserved:world")),
        FqdnPeer(match_name="example.com"),
        FqdnPeer(match_name="a.example.com"),
        FqdnPeer(match_pattern="*.example.com"),
        FqdnPeer(match_pattern="**.com", excepts=("b.example.com",)),
    ]
    return st.one_of(_plain_peers(), st.sampled_from(others))


def _cidr_peer(network: Network, holes: list[Network]) -> CidrPeer:
    """Return a peer with those ``holes`` that lie within it."""
    return CidrPeer(network, tuple(hole for hole in holes if hole != network and _within(hole, network)))


def _within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _to(port: str, variant: int) -> To:
    """Return one of the things that a ``toPorts`` item can say; the first three are the plain ones."""
    match variant:
        case 0:
            return To(port)
        case 1:
            return To(port, http=HTTP_A)
        case 2:
            return To(port, http=HTTP_BC)
        case 3:
            return To(port, http_deny=(http("GET", "/d"),))
        case 4:
            return To(port, names=("One.example",))
        case 5:
            return To(port, names=("two.example", "one.example"))
        case 6:
            return To(port, http=HTTP_A, names=("one.example",), terminating=TLS_ONE)
        case 7:
            return To(port, http=HTTP_BC, terminating=TLS_ONE, originating=TLS_TWO)
        case 8:
            return To(port, http=HTTP_A, terminating=TLS_TWO)
        case 9:
            return To(port, terminating=TLS_ONE)
        case 10:
            return To(port, l7=DNS)
        case _:
            return To(port, l7=KAFKA)


@st.composite
def _items(draw: st.DrawFn, plain: bool) -> Item:
    chosen = draw(st.none() | st.lists(_plain_peers() if plain else _all_peers(), max_size=2))
    peers = None if chosen is None else tuple(chosen)
    ports = draw(st.lists(st.sampled_from(PORTS), max_size=2))
    if draw(st.integers(0, 3)) == 0:
        return Item(peers, tuple(To(one) for one in ports), deny=True)
    return Item(peers, tuple(_to(one, draw(st.integers(0, 2 if plain else 11))) for one in ports))


@st.composite
def _policies(draw: st.DrawFn, plain: bool, audit: bool) -> list[Policy]:
    rules = st.none() | st.lists(_items(plain), max_size=3)
    return [
        policy(
            f"p{number}",
            draw(st.sampled_from(SELECTORS)),
            ingress=draw(rules),
            egress=draw(rules),
            default_deny=draw(st.integers(0, 3)) > 0,
            audit=audit and draw(st.integers(0, 3)) == 0,
        )
        for number in range(draw(st.integers(1, 4)))
    ]


@st.composite
def _endpoints(draw: st.DrawFn, plain: bool) -> list[Endpoint]:
    names = [NamedPort("web", 80), NamedPort("web", 8080), NamedPort("web", 53, Protocol.UDP)]
    return [
        endpoint(
            f"pod-{index}",
            draw(st.sampled_from(LABELS)),
            ip=f"10.1.2.{index + 1}",
            remote=index > 0 and draw(st.booleans()),
            ports=[] if plain else draw(st.lists(st.sampled_from(names), max_size=2, unique=True)),
        )
        for index in range(draw(st.integers(1, 4)))
    ]


@st.composite
def worlds(draw: st.DrawFn, *, plain: bool = True, audit: bool = True) -> World:
    """Draw a small world."""
    enforcement = draw(st.sampled_from([Enforcement.DEFAULT, *Enforcement]))
    policies = draw(_policies(plain, audit))
    endpoints = draw(_endpoints(plain))
    if plain:
        return world(*policies, endpoints=endpoints, enforcement=enforcement)
    return world(
        *policies,
        endpoints=endpoints,
        enforcement=enforcement,
        remote_nodes=REMOTE_NODES,
        services=SERVICES,
        cidr_groups=GROUPS,
        node=NODE,
    )
