"""CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy: what good documents mean."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from l7filters.labels import LabelSelector, Operator, Requirement
from l7filters.model import (
    CidrGroupPeer,
    CidrPeer,
    Direction,
    EndpointPeer,
    Entity,
    EntityPeer,
    FqdnPeer,
    NodePeer,
    Peer,
    PortSpec,
    Protocol,
    ServicePeer,
    TlsContext,
)
from tests.support.documents import CCNP, CNP, document, only, port_rule, rule_of

NS = "io.kubernetes.pod.namespace"
NS_LABELS = "io.cilium.k8s.namespace.labels."
IN, NOT_IN, EXISTS, ABSENT = Operator.IN, Operator.NOT_IN, Operator.EXISTS, Operator.DOES_NOT_EXIST
DEFAULT = Requirement(NS, IN, ("default",))
ANY_NS = Requirement(NS, EXISTS)


def select(*requirements: Requirement) -> LabelSelector:
    return LabelSelector(requirements)


def test_document_becomes_a_policy_with_origins() -> None:
    policy = only(
        """
        apiVersion: cilium.io/v2
        kind: CiliumNetworkPolicy
        metadata: {name: rule1, namespace: prod, labels: {team: a}, annotations: {x: y}, creationTimestamp: null}
        spec:
          description: |
            Two
            lines
          labels: [{key: a, value: b, source: k8s}]
          log: {value: landing}
          endpointSelector: {matchLabels: {k8s:class: deathstar}}
          ingress:
          - fromEndpoints: [{matchLabels: {any:org: empire}}]
            toPorts:
            - ports: [{port: "80", protocol: TCP}]
        status: {anything: [goes]}
        """
    )
    assert (policy.key, policy.description, policy.log_value) == ("cnp/prod/rule1", "Two\nlines\n", "landing")
    assert policy.subject == select(Requirement("class", IN, ("deathstar",)), Requirement(NS, IN, ("prod",)))
    assert policy.default_deny == {Direction.INGRESS}
    (rule,) = policy.rules
    assert rule.peers == (EndpointPeer(select(Requirement("org", IN, ("empire",)), Requirement(NS, IN, ("prod",)))),)
    assert str(rule.origin) == "cnp/prod/rule1:spec.ingress[0]"
    assert [str(port.origin) for port in rule.to_ports] == ["cnp/prod/rule1:spec.ingress[0].toPorts[0]"]


def test_specs_give_one_policy_each_under_one_key() -> None:
    from l7filters.documents import parse_documents

    text = """
    apiVersion: cilium.io/v2
    kind: CiliumNetworkPolicy
    metadata: {name: many}
    specs:
    - {endpointSelector: {}, ingress: [{}]}
    - {endpointSelector: {}, egress: [{}]}
    """
    parsed = parse_documents(text, "test")
    assert [policy.key for policy in parsed.policies] == ["cnp/default/many"] * 2
    assert [str(policy.rules[0].origin) for policy in parsed.policies] == [
        "cnp/default/many:specs[0].ingress[0]",
        "cnp/default/many:specs[1].egress[0]",
    ]


@pytest.mark.parametrize(
    ("kind", "selector", "requirements"),
    [
        (CNP, "{}", [DEFAULT]),
        (CNP, "{matchLabels: {a: b}}", [Requirement("a", IN, ("b",)), DEFAULT]),
        (CNP, "{matchLabels: {a: ''}}", [Requirement("a", IN, ("",)), DEFAULT]),
        (CNP, "{matchExpressions: [{key: a, operator: In, values: [x, y]}]}", [Requirement("a", IN, ("x", "y")), DEFAULT]),
        (CNP, "{matchExpressions: [{key: 'k8s:a', operator: NotIn, values: [x]}]}", [Requirement("a", NOT_IN, ("x",)), DEFAULT]),
        (CNP, "{matchExpressions: [{key: a, operator: Exists}]}", [Requirement("a", EXISTS), DEFAULT]),
        (CNP, "{matchExpressions: [{key: a, operator: DoesNotExist, values: []}]}", [Requirement("a", ABSENT), DEFAULT]),
        (CNP, "{matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}", [Requirement(NS, IN, ("other",))]),
        (CNP, "{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}", [ANY_NS]),
        (
            CNP,
            "{matchLabels: {'k8s:io.cilium.k8s.namespace.labels.team': blue}}",
            [Requirement(NS_LABELS + "team", IN, ("blue",))],
        ),
        (CNP, "{matchLabels: {'reserved:host': ''}}", [Requirement("reserved:host", IN, ("",))]),
        (CCNP, "{}", [ANY_NS]),
        (CCNP, "{matchLabels: {a: b}}", [Requirement("a", IN, ("b",)), ANY_NS]),
        (CCNP, "{matchLabels: {io.kubernetes.pod.namespace: other}}", [Requirement(NS, IN, ("other",))]),
        (
            CCNP,
            "{matchLabels: {io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name: x}}",
            [Requirement(NS_LABELS + "kubernetes.io/metadata.name", IN, ("x",)), ANY_NS],
        ),
        (CCNP, "{matchLabels: {'reserved:init': ''}}", [Requirement("reserved:init", IN, ("",))]),
    ],
)
def test_peer_selector_is_scoped(kind: tuple[str, str], selector: str, requirements: list[Requirement]) -> None:
    expected = (EndpointPeer(LabelSelector(tuple(requirements))),)
    assert rule_of(kind, f"{{fromEndpoints: [{selector}]}}").peers == expected
    assert rule_of(kind, f"{{toEndpoints: [{selector}]}}", "egress").peers == expected


def test_clusterwide_subject_is_not_scoped() -> None:
    assert only(document(CCNP, "endpointSelector: {}\ningress: [{}]")).subject == select()


def test_clusterwide_policy_on_starting_endpoints_leaves_peers_unscoped() -> None:
    policy = only(document(CCNP, "endpointSelector: {matchLabels: {'reserved:init': ''}}\ningress: [{fromEndpoints: [{}]}]"))
    assert policy.rules[0].peers == (EndpointPeer(select()),)


def test_node_selector_makes_a_host_policy() -> None:
    policy = only(document(CCNP, "nodeSelector: {matchLabels: {role: gateway}}\ningress: [{fromEntities: [cluster]}]"))
    assert policy.selects_nodes
    assert policy.subject == select(Requirement("role", IN, ("gateway",)))
    assert policy.key == "ccnp/p"


ANY_PEER: tuple[Peer, ...] | None = None


@pytest.mark.parametrize(
    ("rule", "peers", "ports"),
    [
        ("{}", (), 0),
        ("{toPorts: []}", (), 0),
        ("{icmps: []}", (), 0),
        ("{fromEndpoints: []}", (), 0),
        ("{fromEndpoints: [], toPorts: [{ports: [{port: '80'}]}]}", (), 1),
        ("{fromEntities: []}", (), 0),
        ("{fromCIDR: []}", (), 0),
        ("{fromCIDRSet: []}", (), 0),
        ("{fromNodes: []}", (), 0),
        ("{fromRequires: []}", (), 0),
        ("{fromEntities: [world], fromCIDR: []}", (), 0),
        ("{toPorts: [{ports: [{port: '80'}]}]}", ANY_PEER, 1),
        ("{icmps: [{fields: [{type: 8}]}]}", ANY_PEER, 1),
        ("{fromEntities: [world], toPorts: []}", (EntityPeer(Entity.WORLD),), 0),
        ("{fromEndpoints: [{}]}", (EndpointPeer(select(DEFAULT)),), 0),
    ],
)
def test_absent_and_empty_members(rule: str, peers: tuple[Peer, ...] | None, ports: int) -> None:
    found = rule_of(CNP, rule)
    assert (found.peers, len(found.to_ports)) == (peers, ports)


@pytest.mark.parametrize(
    ("rule", "peers"),
    [
        (
            "{toEntities: [all, world-ipv4, kube-apiserver]}",
            [EntityPeer(Entity(name)) for name in ("all", "world-ipv4", "kube-apiserver")],
        ),
        (
            "{toCIDR: [10.0.0.1/8, 192.0.2.1, 'fd00::/64']}",
            [CidrPeer(ip_network(t)) for t in ("10.0.0.0/8", "192.0.2.1/32", "fd00::/64")],
        ),
        (
            "{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.2.0.0/16]}]}",
            [CidrPeer(ip_network("10.0.0.0/8"), (ip_network("10.1.0.0/16"), ip_network("10.2.0.0/16")))],
        ),
        ("{toCIDRSet: [{cidrGroupRef: vpn}]}", [CidrGroupPeer("vpn")]),
        ("{toCIDRSet: [{cidrGroupRef: vpn, except: [10.1.0.0/16]}]}", [CidrGroupPeer("vpn", None, (ip_network("10.1.0.0/16"),))]),
        (
            "{toCIDRSet: [{cidrGroupSelector: {matchLabels: {a: b}}}]}",
            [CidrGroupPeer(None, select(Requirement("a", IN, ("b",))))],
        ),
        ("{toServices: [{k8sService: {serviceName: db, namespace: data}}]}", [ServicePeer("data", "db")]),
        ("{toServices: [{k8sService: {serviceName: db}}]}", [ServicePeer(None, "db")]),
        (
            "{toServices: [{k8sServiceSelector: {selector: {matchLabels: {a: b}}, namespace: data}}]}",
            [ServicePeer("data", None, select(Requirement("a", IN, ("b",))))],
        ),
        ("{toNodes: [{matchLabels: {role: gateway}}]}", [NodePeer(select(Requirement("role", IN, ("gateway",))))]),
        (
            "{toFQDNs: [{matchName: API.Example.com.}, {matchPattern: '*.Example.com'}]}",
            [FqdnPeer("api.example.com"), FqdnPeer(None, "*.example.com")],
        ),
    ],
)
def test_egress_peers(rule: str, peers: list[Peer]) -> None:
    assert rule_of(CNP, rule, "egress").peers == tuple(peers)


@pytest.mark.parametrize(
    ("port", "spec"),
    [
        ('{port: "80", protocol: TCP}', PortSpec(Protocol.TCP, 80)),
        ('{port: "80", protocol: tcp}', PortSpec(Protocol.TCP, 80)),
        ('{port: "80"}', PortSpec(Protocol.ANY, 80)),
        ('{port: "80", protocol: ANY}', PortSpec(Protocol.ANY, 80)),
        ('{port: "0"}', PortSpec(Protocol.ANY, 0)),
        ('{port: "0", protocol: UDP}', PortSpec(Protocol.UDP, 0)),
        ('{port: "1000", endPort: 2000, protocol: SCTP}', PortSpec(Protocol.SCTP, 1000, 2000)),
        ('{port: "1000", endPort: 1000}', PortSpec(Protocol.ANY, 1000)),
        ('{port: "1000", endPort: 0}', PortSpec(Protocol.ANY, 1000)),
        ('{port: "65535"}', PortSpec(Protocol.ANY, 65535)),
        ("{port: HTTP-alt, protocol: TCP}", PortSpec(Protocol.TCP, "http-alt")),
        ('{port: "0x10", protocol: TCP}', PortSpec(Protocol.TCP, "0x10")),
        ("{protocol: GRE}", PortSpec(Protocol.GRE)),
        ("{protocol: ESP}", PortSpec(Protocol.ESP)),
        ("{protocol: VRRP}", PortSpec(Protocol.VRRP)),
    ],
)
def test_port(port: str, spec: PortSpec) -> None:
    assert port_rule(CNP, f"{{ports: [{port}]}}").ports == (spec,)


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("{type: 0}", PortSpec(Protocol.ICMP, 0)),
        ("{type: 8, family: IPv4}", PortSpec(Protocol.ICMP, 8)),
        ("{type: EchoRequest}", PortSpec(Protocol.ICMP, 8)),
        ("{type: DestinationUnreachable}", PortSpec(Protocol.ICMP, 3)),
        ("{type: EchoRequest, family: IPv6}", PortSpec(Protocol.ICMPV6, 128)),
        ("{type: NeighborSolicitation, family: IPv6}", PortSpec(Protocol.ICMPV6, 135)),
        ("{type: '255', family: IPv6}", PortSpec(Protocol.ICMPV6, 255)),
    ],
)
def test_icmp_field(field: str, spec: PortSpec) -> None:
    rule = rule_of(CNP, f"{{fromEntities: [all], icmps: [{{fields: [{field}]}}]}}")
    assert [port.ports for port in rule.to_ports] == [(spec,)]
    assert rule.to_ports[0].origin.path == "spec.ingress[0].icmps[0]"


@pytest.mark.parametrize(
    ("lists", "default_deny"),
    [
        ("ingress: [{}]", {"ingress"}),
        ("ingressDeny: [{fromEntities: [world]}]", {"ingress"}),
        ("egressDeny: [{toEntities: [world]}]", {"egress"}),
        ("ingress: [{}]\negress: [{}]", {"ingress", "egress"}),
        ("ingress: []\negress: [{}]", {"egress"}),
        ("ingress: [{}]\nenableDefaultDeny: {ingress: false}", set()),
        ("ingress: [{}]\nenableDefaultDeny: {egress: true}", {"ingress", "egress"}),
        ("ingress: [{}]\negress: [{}]\nenableDefaultDeny: {ingress: false}", {"egress"}),
    ],
)
def test_default_deny(lists: str, default_deny: set[str]) -> None:
    assert only(document(CNP, f"endpointSelector: {{}}\n{lists}")).default_deny == default_deny


def test_deny_rules_are_marked() -> None:
    rule = rule_of(CNP, "{fromEntities: [world], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}", "ingressDeny")
    assert rule.deny
    assert rule.origin.path == "spec.ingressDeny[0]"
    assert rule.to_ports[0].ports == (PortSpec(Protocol.TCP, 80),)


def test_authentication_that_is_off_means_nothing() -> None:
    assert rule_of(CNP, "{fromEntities: [world], authentication: {mode: disabled}}") == rule_of(CNP, "{fromEntities: [world]}")


TCP443 = 'ports: [{port: "443", protocol: TCP}]'


def test_server_names_are_lower_case() -> None:
    found = port_rule(CNP, f"{{{TCP443}, serverNames: [API.example.com, '*.x.io', 'sub.**.example.com', '**']}}", "egress")
    assert found.server_names == ("api.example.com", "*.x.io", "sub.**.example.com", "**")
    assert found.l7 is None


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("{secret: {name: s}}", TlsContext("default", "s", None, "tls.crt", "tls.key")),
        ("{secret: {name: s, namespace: other}}", TlsContext("other", "s", None, "tls.crt", "tls.key")),
        (
            "{secret: {name: s}, trustedCA: ca.pem, certificate: c.pem, privateKey: k.pem}",
            TlsContext("default", "s", "ca.pem", "c.pem", "k.pem"),
        ),
    ],
)
def test_terminating_tls(context: str, expected: TlsContext) -> None:
    assert port_rule(CNP, f"{{{TCP443}, terminatingTLS: {context}}}").terminating_tls == expected


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("{secret: {name: s}}", TlsContext("default", "s", "ca.crt", None, None)),
        ("{secret: {name: s}, trustedCA: root.pem}", TlsContext("default", "s", "root.pem", None, None)),
        ("{secret: {name: s}, certificate: c.pem}", TlsContext("default", "s", "ca.crt", "c.pem", "tls.key")),
    ],
)
def test_originating_tls_always_verifies_the_server(context: str, expected: TlsContext) -> None:
    assert port_rule(CNP, f"{{{TCP443}, originatingTLS: {context}}}", "egress").originating_tls == expected
