"""NetworkPolicy, and the objects that policies refer to."""

from __future__ import annotations

import textwrap
from ipaddress import ip_address, ip_network

import pytest

from l7filters.documents import EndpointSlice, Namespace, Secret, SecretStore, parse_documents
from l7filters.labels import LabelSelector, Operator, Requirement
from l7filters.model import CidrPeer, Direction, EndpointPeer, Peer, PortSpec, Protocol, SecretRef
from l7filters.world import CidrGroup, Service
from tests.support.documents import KNP, document, only, refused

NS = "io.kubernetes.pod.namespace"
NS_LABELS = "io.cilium.k8s.namespace.labels."
IN, NOT_IN, EXISTS = Operator.IN, Operator.NOT_IN, Operator.EXISTS
DEFAULT = Requirement(NS, IN, ("default",))
ANY_NS = Requirement(NS, EXISTS)
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS


def endpoints(*requirements: Requirement) -> EndpointPeer:
    return EndpointPeer(LabelSelector(requirements))


def test_pod_selector_is_confined_to_the_namespace() -> None:
    policy = only(document(KNP, "podSelector: {matchLabels: {a: b}}"))
    assert policy.key == "knp/default/p"
    assert policy.subject == LabelSelector((Requirement("a", IN, ("b",)), DEFAULT))


@pytest.mark.parametrize(
    ("spec", "default_deny", "rules"),
    [
        ("podSelector: {}", {INGRESS}, []),
        ("podSelector: {}\negress: [{}]", {INGRESS, EGRESS}, [EGRESS]),
        ("podSelector: {}\negress: []", {INGRESS}, []),
        ("podSelector: {}\npolicyTypes: []\ningress: [{}]", {INGRESS}, [INGRESS]),
        ("podSelector: {}\npolicyTypes: [Egress]", {EGRESS}, []),
        ("podSelector: {}\npolicyTypes: [Ingress, Egress]\negress: [{}]", {INGRESS, EGRESS}, [EGRESS]),
    ],
)
def test_policy_types(spec: str, default_deny: set[Direction], rules: list[Direction]) -> None:
    policy = only(document(KNP, spec))
    assert policy.default_deny == default_deny
    assert [rule.direction for rule in policy.rules] == rules


@pytest.mark.parametrize(
    ("rule", "peers", "ports"),
    [
        ("{}", None, ()),
        ("{from: []}", None, ()),
        ("{from: [], ports: []}", None, ()),
        ("{ports: [{port: 80}]}", None, (PortSpec(Protocol.TCP, 80),)),
        ("{ports: [{}]}", None, (PortSpec(Protocol.TCP, 0),)),
        ("{ports: [{protocol: UDP}]}", None, (PortSpec(Protocol.UDP, 0),)),
        ("{ports: [{protocol: SCTP, port: 7, endPort: 9}]}", None, (PortSpec(Protocol.SCTP, 7, 9),)),
        ("{ports: [{port: http}, {port: 7, endPort: 7}]}", None, (PortSpec(Protocol.TCP, "http"), PortSpec(Protocol.TCP, 7))),
        ("{from: [{podSelector: {}}]}", (endpoints(DEFAULT),), ()),
        ("{from: [{namespaceSelector: {}}]}", (endpoints(ANY_NS),), ()),
        (
            "{from: [{podSelector: {matchLabels: {a: b}}, namespaceSelector: {matchLabels: {team: x}}}]}",
            (endpoints(Requirement("a", IN, ("b",)), Requirement(NS_LABELS + "team", IN, ("x",)), ANY_NS),),
            (),
        ),
        (
            "{from: [{namespaceSelector: {matchExpressions: ["
            "{key: kubernetes.io/metadata.name, operator: NotIn, values: [x]}]}}]}",
            (endpoints(Requirement(NS_LABELS + "kubernetes.io/metadata.name", NOT_IN, ("x",)), ANY_NS),),
            (),
        ),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}, {ipBlock: {cidr: 'fd00::/8'}}]}",
            (CidrPeer(ip_network("10.0.0.0/8"), (ip_network("10.1.0.0/16"),)), CidrPeer(ip_network("fd00::/8"))),
            (),
        ),
    ],
)
def test_rule(rule: str, peers: tuple[Peer, ...] | None, ports: tuple[PortSpec, ...]) -> None:
    for field, direction in (("ingress", INGRESS), ("egress", EGRESS)):
        text = rule if field == "ingress" else rule.replace("from:", "to:")
        (found,) = only(document(KNP, f"podSelector: {{}}\npolicyTypes: [Ingress, Egress]\n{field}: [{text}]")).rules
        assert (found.direction, found.peers, tuple(port for item in found.to_ports for port in item.ports)) == (
            direction,
            peers,
            ports,
        )
        assert found.origin.path == f"spec.{field}[0]"


@pytest.mark.parametrize(
    ("spec", "path", "message"),
    [
        ("ingress: [{}]", "spec.podSelector", "is required"),
        ("podSelector: null", "spec.podSelector", "must be a mapping, not null"),
        ("podSelector: {}\npolicyTypes: [ingress]", "spec.policyTypes[0]", 'unknown value "ingress"'),
        (
            "podSelector: {}\npolicyTypes: [Egress]\ningress: [{}]",
            "spec",
            "has ingress rules, but policyTypes leaves Ingress out",
        ),
        ("podSelector: {}\ningress: [{to: []}]", "spec.ingress[0].to", "unknown field"),
        (
            "podSelector: {}\ningress: [{from: [{}]}]",
            "spec.ingress[0].from[0]",
            "needs podSelector, namespaceSelector or ipBlock",
        ),
        (
            "podSelector: {}\ningress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]",
            "spec.ingress[0].from[0]",
            "ipBlock excludes podSelector",
        ),
        ("podSelector: {}\ningress: [{from: [{ipBlock: {}}]}]", "spec.ingress[0].from[0].ipBlock.cidr", "is required"),
        (
            "podSelector: {}\ningress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/8]}}]}]",
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "11.0.0.0/8 does not lie inside",
        ),
        ("podSelector: {}\ningress: [{ports: [{port: '80'}]}]", "spec.ingress[0].ports[0].port", '"80" is neither'),
        ("podSelector: {}\ningress: [{ports: [{port: 0}]}]", "spec.ingress[0].ports[0].port", "must be between 1 and 65535"),
        (
            "podSelector: {}\ningress: [{ports: [{port: 80, protocol: tcp}]}]",
            "spec.ingress[0].ports[0].protocol",
            'unknown value "tcp"',
        ),
        (
            "podSelector: {}\ningress: [{ports: [{port: http, endPort: 90}]}]",
            "spec.ingress[0].ports[0].endPort",
            "endPort needs a numeric port",
        ),
        (
            "podSelector: {}\ningress: [{ports: [{endPort: 90}]}]",
            "spec.ingress[0].ports[0].endPort",
            "endPort needs a numeric port",
        ),
        (
            "podSelector: {}\ningress: [{ports: [{port: 80, endPort: 79}]}]",
            "spec.ingress[0].ports[0].endPort",
            "endPort 79 lies below",
        ),
    ],
)
def test_network_policy_rejects(spec: str, path: str, message: str) -> None:
    refused(document(KNP, spec), path, message)


def parse(text: str) -> object:
    parsed = parse_documents(text, "test")
    assert [str(error) for error in parsed.errors] == []
    (only_document,) = parsed.documents
    return only_document.value


def test_namespace() -> None:
    text = "{apiVersion: v1, kind: Namespace, metadata: {name: prod, labels: {team: a}}, spec: {finalizers: [kubernetes]}}"
    assert parse(text) == Namespace("prod", {"team": "a"})


def test_service() -> None:
    text = """
    apiVersion: v1
    kind: Service
    metadata: {name: db, namespace: data, labels: {tier: storage}}
    spec: {type: ClusterIP, clusterIP: 10.96.0.1, ports: [{port: 5432}], selector: {app: db}}
    """
    selector = LabelSelector((Requirement("app", IN, ("db",)), Requirement(NS, IN, ("data",))))
    assert parse(text) == Service(namespace="data", name="db", labels={"tier": "storage"}, selector=selector)


def test_service_without_selector_gets_its_backends_from_slices() -> None:
    text = """
    {apiVersion: v1, kind: Service, metadata: {name: db}, spec: {selector: {}}}
    ---
    apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata: {name: db-1, labels: {kubernetes.io/service-name: db}}
    addressType: IPv4
    ports: [{port: 5432}]
    endpoints:
    - {addresses: [10.0.0.1, 10.0.0.2], conditions: {ready: true}, nodeName: a}
    - {addresses: [10.0.0.3], conditions: {ready: false, serving: true}}
    - {addresses: [10.0.0.1]}
    """
    parsed = parse_documents(textwrap.dedent(text), "test")
    assert parsed.errors == ()
    assert parsed.documents[1].value == EndpointSlice("default", "db", (ip_address("10.0.0.1"), ip_address("10.0.0.2")))
    (service,) = parsed.services
    assert service == Service(namespace="default", name="db", addresses=(ip_address("10.0.0.1"), ip_address("10.0.0.2")))


@pytest.mark.parametrize("version", ["cilium.io/v2", "cilium.io/v2alpha1"])
def test_cidr_group(version: str) -> None:
    head = f"apiVersion: {version}, kind: CiliumCIDRGroup, metadata: {{name: vpn, labels: {{a: b}}}}"
    found = parse(f"{{{head}, spec: {{externalCIDRs: [10.0.0.0/8, 'fd00::/8']}}}}")
    assert found == CidrGroup(name="vpn", labels={"a": "b"}, cidrs=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")))


SECRET = """
apiVersion: v1
kind: Secret
type: Opaque
metadata: {name: keys, namespace: prod}
data: {api: czNjcmV0, other: b2xk}
stringData: {other: n3w-s3cret}
"""


def test_secret_decodes_its_values() -> None:
    assert parse(SECRET) == Secret("prod", "keys", {"api": b"s3cret", "other": b"n3w-s3cret"})


def test_secrets_never_print() -> None:
    secret = parse(SECRET)
    assert isinstance(secret, Secret)
    for shown in (
        repr(secret),
        str(secret),
        repr(SecretStore([secret])),
        str(SecretStore([secret])),
        repr(parse_documents(SECRET, "t")),
    ):
        assert "s3cret" not in shown


def test_errors_in_a_secret_do_not_quote_its_values() -> None:
    text = "{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {x: 'hunter2!', y: 12345}, stringData: {z: 67890}}"
    parsed = parse_documents(text, "t")
    assert [(error.path, error.message) for error in parsed.errors] == [
        ("data.x", "is not base64"),
        ("data.y", "must be a base64 string"),
        ("stringData.z", "must be a string"),
    ]
    assert not any(word in str(parsed.errors) for word in ("hunter2", "12345", "67890"))


def test_store_finds_keys_and_the_single_entry() -> None:
    one = Secret("a", "one", {"k": b"v"})
    two = Secret("a", "two", {"k": b"v", "l": b"w"})
    store = SecretStore([one, two])
    assert store.value(SecretRef("a", "one", "")) == b"v"
    assert store.value(SecretRef("a", "two", "l")) == b"w"
    assert store.value(SecretRef("a", "two", "")) is None
    assert store.value(SecretRef("a", "two", "m")) is None
    assert store.value(SecretRef("b", "one", "k")) is None
    assert (len(store), store) == (2, SecretStore([two, one]))


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("{apiVersion: v1, kind: Service, metadata: {name: a}}", "spec", "is required"),
        ("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {selectr: {}}}", "spec.selectr", "unknown field"),
        ("{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}}", "", "names no Service"),
        (
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, "
            "metadata: {name: a, labels: {kubernetes.io/service-name: s}}, endpoints: [{addresses: [a.io]}]}",
            "endpoints[0].addresses[0]",
            '"a.io" is not an IP address',
        ),
        (
            "{apiVersion: cilium.io/v2, kind: CiliumCIDRGroup, metadata: {name: a}, spec: {externalCIDRs: [x]}}",
            "spec.externalCIDRs[0]",
            '"x" is not',
        ),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {name: a, namespace: b}}",
            "metadata.namespace",
            "this kind belongs to no namespace",
        ),
    ],
)
def test_support_objects_reject(text: str, path: str, message: str) -> None:
    refused(text, path, message)
