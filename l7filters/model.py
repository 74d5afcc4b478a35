"""What the user wrote: policies as typed values, the same for every policy kind.

Owns: the policy model. ``documents/`` parses each kind into it, ``compile`` and ``evaluate`` read it. Must not know YAML,
identities, slots, Envoy or BPF. Everything here is immutable and already validated: after parsing, code trusts the type.

Namespace scoping has been done by the parser: a selector that is confined to a namespace says so in its requirements.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NewType

from l7filters.identity import Network
from l7filters.labels import LabelSelector
from proxylib.dns.rules import NameSelector

PolicyKey = NewType("PolicyKey", str)
"""``KIND/NAMESPACE/NAME`` or ``KIND/NAME``, e.g. ``cnp/default/rule1``; KIND is cnp, ccnp, tp, ctp or knp."""


class Direction(StrEnum):
    """As the selected endpoint sees it."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Mode(StrEnum):
    """Whether a policy is enforced, or only judged and reported."""

    ENFORCE = "enforce"
    AUDIT = "audit"


class Protocol(IntEnum):
    """IP protocol numbers that rules can name. ANY is not a number on the wire: it stands for every protocol."""

    ANY = 0
    ICMP = 1
    IGMP = 2
    IPIP = 4
    TCP = 6
    UDP = 17
    IPV6 = 41
    GRE = 47
    ESP = 50
    AH = 51
    ICMPV6 = 58
    VRRP = 112
    SCTP = 132


PORT_PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
"""Protocols with ports; a port rule with protocol ANY stands for each of these."""


@dataclass(frozen=True, slots=True)
class RuleOrigin:
    """Where a rule stands: policy and field path, e.g. ``spec.ingress[0].toPorts[1].rules.http[0]``."""

    policy: PolicyKey
    path: str

    def __str__(self) -> str:
        return f"{self.policy}:{self.path}"


# ---- who: the peers of a rule -------------------------------------------------------------------------------------


class Entity(StrEnum):
    """Well-known groups of peers; spelling and meaning are Cilium's."""

    ALL = "all"
    WORLD = "world"
    WORLD_IPV4 = "world-ipv4"
    WORLD_IPV6 = "world-ipv6"
    CLUSTER = "cluster"
    CLUSTER_MESH = "cluster-mesh"
    HOST = "host"
    INIT = "init"
    INGRESS = "ingress"
    UNMANAGED = "unmanaged"
    REMOTE_NODE = "remote-node"
    HEALTH = "health"
    NONE = "none"
    KUBE_APISERVER = "kube-apiserver"


@dataclass(frozen=True, slots=True)
class EndpointPeer:
    """Endpoints whose labels match."""

    selector: LabelSelector


@dataclass(frozen=True, slots=True)
class EntityPeer:
    """A well-known group."""

    entity: Entity


@dataclass(frozen=True, slots=True)
class CidrPeer:
    """Addresses outside the cluster in ``cidr`` and in none of ``excepts`` (each contained in ``cidr``)."""

    cidr: Network
    excepts: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class CidrGroupPeer:
    """Addresses of the CiliumCIDRGroups named ``name`` or, if that is None, selected by ``selector``, less ``excepts``."""

    name: str | None
    selector: LabelSelector | None = None
    excepts: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class ServicePeer:
    """Backends of Services: by ``name``, or all that ``selector`` matches; ``namespace`` None means any namespace."""

    namespace: str | None
    name: str | None
    selector: LabelSelector | None = None


@dataclass(frozen=True, slots=True)
class NodePeer:
    """Cluster nodes whose labels match."""

    selector: LabelSelector


@dataclass(frozen=True, slots=True)
class FqdnPeer:
    """Addresses that DNS gave the selected endpoint for a matching name. Exactly one of the first two is set.

    Names and patterns (also in ``excepts``, which are patterns) are lower case, without the trailing dot.
    """

    match_name: str | None = None
    match_pattern: str | None = None
    excepts: tuple[str, ...] = ()

    @property
    def selector(self) -> NameSelector:
        """The names meant; equal for peers that mean the same."""
        return NameSelector(self.match_name, self.match_pattern, tuple(sorted(set(self.excepts))))


Peer = EndpointPeer | EntityPeer | CidrPeer | CidrGroupPeer | ServicePeer | NodePeer | FqdnPeer


# ---- what: ports and L7 -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PortSpec:
    """Ports of a rule. ``port`` is a number (0: every port) or a named port; ``end_port`` makes it a closed range.

    For ICMP and ICMPv6 ``port`` is the message type, and 0 is type 0 (echo reply), not "every".
    """

    protocol: Protocol
    port: int | str = 0
    end_port: int | None = None


class L7Protocol(StrEnum):
    """What a redirected port speaks. The policy says so: nothing is sniffed."""

    HTTP = "http"
    TLS = "tls"
    """TLS passed through unopened: only the server name is judged."""
    KAFKA = "kafka"
    DNS = "dns"


class MatchKind(StrEnum):
    """How a string is compared; a regular expression is RE2 on the whole value."""

    EXACT = "exact"
    PREFIX = "prefix"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class StringMatch:
    """A predicate on one string. A PREFIX on a path ends at a segment: ``/api`` matches ``/api`` and ``/api/x`` only."""

    kind: MatchKind
    value: str
    ignore_case: bool = False


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A key of a Secret. Only the reference is here; values stay in the secret store and never print.

    ``key`` empty: the only key of a Secret that has exactly one (Cilium's form, which names none).
    """

    namespace: str
    name: str
    key: str


class MismatchAction(StrEnum):
    """What happens when a headerMatch does not hold; with any action but FAIL the rule still matches."""

    FAIL = "FAIL"
    LOG = "LOG"
    ADD = "ADD"
    DELETE = "DELETE"
    REPLACE = "REPLACE"


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """A predicate on one request header. ``name`` is lower case. With neither ``value`` nor ``secret``: present."""

    name: str
    value: StringMatch | None = None
    secret: SecretRef | None = None
    mismatch: MismatchAction = MismatchAction.FAIL
    invert: bool = False


@dataclass(frozen=True, slots=True)
class QueryMatch:
    """A predicate on one query parameter; without ``value``: present."""

    name: str
    value: StringMatch | None = None


@dataclass(frozen=True, slots=True)
class HttpRule:
    """One HTTP rule: all its predicates must hold; a rule with none matches every request.

    ``path`` with kind REGEX judges the whole ``:path`` including the query string (Cilium's meaning); EXACT and PREFIX
    judge the path without its query. All judge the normalised path. ``host`` judges ``:authority`` with its port.
    gRPC rules arrive here as ``method`` POST and a ``path`` of kind EXACT or PREFIX, with ``grpc`` set.
    ``names`` is never written: ``compile`` sets it where a rule holds only for servers reached by name. The host of
    ``:authority``, without its port, must then be covered by one of them.
    """

    origin: RuleOrigin
    path: StringMatch | None = None
    method: StringMatch | None = None
    host: StringMatch | None = None
    headers: tuple[HeaderMatch, ...] = ()
    query: tuple[QueryMatch, ...] = ()
    grpc: bool = False
    names: tuple[NameSelector, ...] = ()


class KafkaRole(StrEnum):
    """A name for a set of Kafka API keys."""

    PRODUCE = "produce"
    CONSUME = "consume"


@dataclass(frozen=True, slots=True)
class KafkaRule:
    """One Kafka rule: all that is set must hold. ``topics`` empty: any topic."""

    origin: RuleOrigin
    role: KafkaRole | None = None
    api_key: str | None = None
    api_version: int | None = None
    client_id: str | None = None
    topics: tuple[StringMatch, ...] = ()
    groups: tuple[StringMatch, ...] = ()


@dataclass(frozen=True, slots=True)
class DnsRule:
    """One DNS rule on the queried name; ``query_types`` (upper case) empty: any type. Names as in FqdnPeer."""

    origin: RuleOrigin
    match_name: str | None = None
    match_pattern: str | None = None
    query_types: tuple[str, ...] = ()
    excepts: tuple[str, ...] = ()


L7Rule = HttpRule | KafkaRule | DnsRule


@dataclass(frozen=True, slots=True)
class L7Rules:
    """The L7 rules of a port: a message passes when no ``deny`` rule and at least one ``allow`` rule matches.

    ``deny_only`` says that the user listed deny rules and no allow list: what no deny rule matches then passes.
    """

    protocol: L7Protocol
    allow: tuple[L7Rule, ...] = ()
    deny: tuple[L7Rule, ...] = ()
    deny_only: bool = False


@dataclass(frozen=True, slots=True)
class TlsContext:
    """TLS material of a port: the Secret and the names of its keys. ``trusted_ca`` None: nothing verified (terminating)."""

    namespace: str
    secret: str
    trusted_ca: str | None = None
    certificate: str | None = None
    private_key: str | None = None


@dataclass(frozen=True, slots=True)
class PortRule:
    """One ``toPorts`` item: the ports and what may be said on them."""

    ports: tuple[PortSpec, ...]
    origin: RuleOrigin
    l7: L7Rules | None = None
    server_names: tuple[str, ...] = ()
    terminating_tls: TlsContext | None = None
    originating_tls: TlsContext | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One ingress or egress item.

    ``peers`` None: any peer; empty: no peer at all. ``to_ports`` empty: every port of every protocol (ICMP fields have
    become PortSpecs). ``deny`` rules carry no L7.
    """

    origin: RuleOrigin
    direction: Direction
    deny: bool = False
    peers: tuple[Peer, ...] | None = None
    to_ports: tuple[PortRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Offload:
    """Drop a peer in the kernel for ``seconds`` once more than ``denies_per_second`` of its requests are denied."""

    denies_per_second: int
    seconds: int

    @classmethod
    def strictest(cls, several: Iterable[Offload | None]) -> Offload | None:
        """Return the one that bears the fewest denials, of those the one that lasts longest; None where there is none."""
        return min((each for each in several if each), key=lambda each: (each.denies_per_second, -each.seconds), default=None)


@dataclass(frozen=True, slots=True)
class Observation:
    """Ports of one direction that pass through the proxy to be seen. It allows and denies nothing, and closes no direction.

    ``ports`` has HTTP rules that restrict nothing. ``sample``: the share (0..1) of requests recorded, at most; None: the node's.
    """

    direction: Direction
    ports: PortRule
    sample: float | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """One spec of one document.

    ``selects_nodes`` True: ``subject`` is over node labels (host policy). ``default_deny`` holds the directions that
    this policy turns to default deny. A document with several ``specs`` gives several policies with the same key.
    """

    key: PolicyKey
    subject: LabelSelector
    rules: tuple[Rule, ...]
    default_deny: frozenset[Direction]
    selects_nodes: bool = False
    mode: Mode = Mode.ENFORCE
    description: str = ""
    log_value: str = ""
    offload: Offload | None = None
    observe: tuple[Observation, ...] = ()
