"""Kubernetes' own kinds: NetworkPolicy, and the objects that policies refer to.

Owns: networking.k8s.io/v1 NetworkPolicy -> Policy, and Namespace, Service, EndpointSlice, Secret as far as policy needs
them. Follows the API server's validation and defaulting. Fields of the support objects that mean nothing for policy are
listed, and accepted unread; a field in no list is an error like everywhere.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from enum import StrEnum

from l7filters.documents.addresses import address, excepts, prefix
from l7filters.documents.metadata import Head
from l7filters.documents.names import data_key, label_map, port_name_problem
from l7filters.documents.ports import PORT_MAX
from l7filters.documents.reader import Fields, Node
from l7filters.documents.scope import EXCEPTS_MAX, PEERS_MAX, PORTS_MAX, RULES_MAX, Dialect, Scope
from l7filters.documents.secrets import Secret
from l7filters.documents.selectors import selector
from l7filters.labels import NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, LabelSelector, Operator, Requirement
from l7filters.model import CidrPeer, Direction, EndpointPeer, Peer, Policy, PolicyKey, PortRule, PortSpec, Protocol, Rule
from l7filters.world import Address, Service

ENDPOINTS_MAX = 1000
"""Of one EndpointSlice; the API server's limit."""
ADDRESSES_MAX = 100
SECRET_ENTRIES_MAX = 256
SECRET_BYTES_MAX = 1 << 20
_EVERY_PORT: int | str = 0
SERVICE_NAME_LABEL = "kubernetes.io/service-name"


class PolicyType(StrEnum):
    """Directions as ``policyTypes`` spells them."""

    INGRESS = "Ingress"
    EGRESS = "Egress"


class _PortProtocol(StrEnum):
    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


@dataclass(frozen=True, slots=True)
class Namespace:
    """A Namespace: its labels become selectable on its endpoints."""

    name: str
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Backend addresses of a Service (those that are ready)."""

    namespace: str
    service: str
    addresses: tuple[Address, ...] = ()


# ---- NetworkPolicy --------------------------------------------------------------------------------------------------


def network_policy(fields: Fields, head: Head) -> tuple[Policy, ...]:
    """Read a NetworkPolicy."""
    node = fields.require("spec")
    if node is None:
        return ()
    assert head.namespace is not None
    scope = Scope(PolicyKey(head.key), head.namespace, Dialect.CILIUM)
    with node.fields() as spec:
        selector_node = spec.require("podSelector", "podSelector: {} selects every pod of the namespace")
        chosen = LabelSelector() if selector_node is None else selector(selector_node)
        ingress = spec.items("ingress", RULES_MAX) or []
        egress = spec.items("egress", RULES_MAX) or []
        types = [found for item in spec.items("policyTypes", 2) or [] if (found := item.choice(PolicyType)) is not None]
        if not types:
            # The API server's default.
            types = [PolicyType.INGRESS, *([PolicyType.EGRESS] if egress else [])]
        for kind, items in ((PolicyType.INGRESS, ingress), (PolicyType.EGRESS, egress)):
            if items and kind not in types:
                spec.error(f"has {kind.lower()} rules, but policyTypes leaves {kind} out", f"add {kind} to policyTypes")
        rules = (
            *(_rule(item, scope, Direction.INGRESS) for item in ingress),
            *(_rule(item, scope, Direction.EGRESS) for item in egress),
        )
    default_deny = frozenset(Direction(kind.value.lower()) for kind in types)
    return (Policy(scope.key, chosen.with_namespace(head.namespace), rules, default_deny),)


def _rule(node: Node, scope: Scope, direction: Direction) -> Rule:
    """Read one rule. Unlike in Cilium, an absent or empty peer list is any peer, and ``{}`` allows everything."""
    member = "from" if direction is Direction.INGRESS else "to"
    with node.fields() as fields:
        peer_nodes = fields.items(member, PEERS_MAX) or []
        peers = tuple(peer for item in peer_nodes if (peer := _peer(item, scope)) is not None)
        ports = tuple(_port(item) for item in fields.items("ports", PORTS_MAX) or [])
    to_ports = (PortRule(ports, scope.origin(node)),) if ports else ()
    return Rule(scope.origin(node), direction, peers=peers if peer_nodes else None, to_ports=to_ports)


def _peer(node: Node, scope: Scope) -> Peer | None:
    with node.fields() as fields:
        pods, namespaces, block = fields.get("podSelector"), fields.get("namespaceSelector"), fields.get("ipBlock")
        if block is not None:
            if pods is not None or namespaces is not None:
                fields.error("ipBlock excludes podSelector and namespaceSelector")
            return _ip_block(block)
        if pods is None and namespaces is None:
            if not fields.broken:
                fields.error("needs podSelector, namespaceSelector or ipBlock", "namespaceSelector: {} is every pod")
            return None
        chosen = LabelSelector() if pods is None else selector(pods)
        if namespaces is None:
            assert scope.namespace is not None
            return EndpointPeer(chosen.with_namespace(scope.namespace))
        return EndpointPeer(LabelSelector((*chosen.requirements, *_in_namespaces(selector(namespaces)))))


def _in_namespaces(namespaces: LabelSelector) -> tuple[Requirement, ...]:
    """Rewrite a selector over namespaces into one over endpoints, which carry their namespace's labels."""
    moved = tuple(
        Requirement(NAMESPACE_LABELS_PREFIX + requirement.key, requirement.operator, requirement.values)
        for requirement in namespaces.requirements
    )
    # A negative requirement also holds for what has no namespace at all; this keeps the peer to pods.
    return (*moved, Requirement(NAMESPACE_LABEL, Operator.EXISTS))


def _ip_block(node: Node) -> Peer | None:
    with node.fields() as fields:
        cidr_node = fields.require("cidr")
        cidr = None if cidr_node is None else prefix(cidr_node)
        narrowed = excepts(fields.items("except", EXCEPTS_MAX) or [], cidr)
    return None if cidr is None else CidrPeer(cidr, narrowed)


def _port(node: Node) -> PortSpec:
    with node.fields() as fields:
        name = fields.read("protocol", lambda at: at.choice(_PortProtocol) or _PortProtocol.TCP, _PortProtocol.TCP)
        port = fields.read("port", _port_or_name, _EVERY_PORT)
        end_node = fields.get("endPort")
        end_port = None
        if end_node is not None:
            end_port = end_node.integer(1, PORT_MAX)
            if isinstance(port, str) or port == 0:
                end_node.error("endPort needs a numeric port to begin at")
            elif end_port < port:
                end_node.error(f"endPort {end_port} lies below port {port}")
            elif end_port == port:
                end_port = None
    return PortSpec(Protocol[name.value], port, end_port)


def _port_or_name(node: Node) -> int | str:
    if not isinstance(node.value, str):
        return node.integer(1, PORT_MAX)
    text = node.string(chars_max=64)
    problem = port_name_problem(text) if text else None
    if problem is not None:
        node.error(problem, "a number stands without quotes here")
    return text or 1


# ---- support objects ------------------------------------------------------------------------------------------------

_SERVICE_UNREAD = (
    *("allocateLoadBalancerNodePorts", "clusterIP", "clusterIPs", "externalIPs", "externalName", "externalTrafficPolicy"),
    *("healthCheckNodePort", "internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy", "loadBalancerClass", "loadBalancerIP"),
    *("loadBalancerSourceRanges", "ports", "publishNotReadyAddresses", "sessionAffinity", "sessionAffinityConfig"),
    *("trafficDistribution", "type"),
)
_SLICE_ENDPOINT_UNREAD = ("hostname", "targetRef", "nodeName", "zone", "hints", "deprecatedTopology")


def namespace(fields: Fields, head: Head) -> Namespace:
    """Read a Namespace."""
    fields.ignore("spec")
    return Namespace(head.name, head.labels)


def service(fields: Fields, head: Head) -> Service:
    """Read a Service; an absent or empty selector means that its backends come from EndpointSlices alone."""
    assert head.namespace is not None
    chosen = None
    spec = fields.require("spec")
    if spec is not None:
        with spec.fields() as inner:
            labels: dict[str, str] = inner.read("selector", label_map, {})
            if labels:
                requirements = tuple(Requirement(key, Operator.IN, (value,)) for key, value in labels.items())
                chosen = LabelSelector(requirements).with_namespace(head.namespace)
            inner.ignore(*_SERVICE_UNREAD)
    return Service(namespace=head.namespace, name=head.name, labels=head.labels, selector=chosen)


def endpoint_slice(fields: Fields, head: Head) -> EndpointSlice:
    """Read an EndpointSlice; an endpoint whose condition ``ready`` is false is left out."""
    assert head.namespace is not None
    service_name = head.labels.get(SERVICE_NAME_LABEL, "")
    if not service_name:
        fields.error("names no Service", f"it belongs into the label {SERVICE_NAME_LABEL}")
    fields.ignore("addressType", "ports")
    found: list[Address] = []
    for item in fields.items("endpoints", ENDPOINTS_MAX) or []:
        with item.fields() as endpoint:
            addresses = [address(node) for node in endpoint.items("addresses", ADDRESSES_MAX) or []]
            ready = endpoint.read("conditions", _is_ready, True)
            endpoint.ignore(*_SLICE_ENDPOINT_UNREAD)
        if ready:
            found += (value for value in addresses if value is not None)
    return EndpointSlice(head.namespace, service_name, tuple(dict.fromkeys(found)))


def _is_ready(node: Node) -> bool:
    with node.fields() as fields:
        fields.ignore("serving", "terminating")
        ready = fields.get("ready")
        return ready is None or ready.value is None or ready.boolean()


def secret(fields: Fields, head: Head) -> Secret:
    """Read a Secret: ``data`` is base64, ``stringData`` plain and stronger. Errors never quote a value."""
    assert head.namespace is not None
    values: dict[str, bytes] = {}
    for name, decode in (("data", _base64), ("stringData", _plain)):
        node = fields.get(name)
        if node is None or node.value is None:
            continue
        for key, item in node.pairs(SECRET_ENTRIES_MAX):
            data_key(Node(key, item.path, item.report))
            values[key] = decode(item)
    if sum(map(len, values.values())) > SECRET_BYTES_MAX:
        fields.error(f"holds more than {SECRET_BYTES_MAX} bytes")
    fields.ignore("type", "immutable")
    return Secret(head.namespace, head.name, values)


def _base64(node: Node) -> bytes:
    if not isinstance(node.value, str):
        node.error("must be a base64 string")
        return b""
    try:
        return base64.b64decode("".join(node.value.split()), validate=True)
    except (binascii.Error, ValueError):
        node.error("is not base64", "plain text belongs into stringData")
        return b""


def _plain(node: Node) -> bytes:
    if not isinstance(node.value, str):
        node.error("must be a string", "put the value in quotes")
        return b""
    return node.value.encode()
