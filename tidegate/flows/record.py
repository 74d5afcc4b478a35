"""The flow record: one verdict on one message or packet, whoever gave it.

Owns: the record and its JSON. Must not know where records come from (flows/attribution.py) or who reads them (flows/ring.py).

The JSON follows Hubble's flow JSON (cilium/cilium api/v1/flow/flow.proto, in protobuf's JSON mapping with the proto's own
field names, so 64-bit numbers are strings) where it has a field; what it lacks stands under ``tidegate``. docs/flows.md
lists every field.

Records hold no secret: query strings, user information in URLs and header values are taken out when the record is built,
unless the configuration says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, assert_never

from l7filters.model import Direction, PolicyKey, Protocol, RuleOrigin

Address = IPv4Address | IPv6Address

REDACTED = "[redacted]"
NANOSECONDS = 1_000_000_000

POLICY_KINDS = {
    "cnp": "CiliumNetworkPolicy",
    "ccnp": "CiliumClusterwideNetworkPolicy",
    "tp": "TidegatePolicy",
    "ctp": "ClusterTidegatePolicy",
    "knp": "NetworkPolicy",
}


class Verdict(StrEnum):
    """What became of the message. ``hubble`` is the word in the JSON field ``verdict``."""

    FORWARDED = "forwarded"
    REDIRECTED = "redirected"
    """Steered to the proxy, which judges its messages one by one."""
    DENIED = "denied"
    """Policy said no: by a deny rule, or because no rule allows it."""
    DROPPED = "dropped"
    """Not forwarded for another reason: malformed, a full map, an endpoint without a realised policy."""
    AUDITED = "audited"
    """Forwarded, though a policy in audit mode would have denied it."""
    ERROR = "error"
    """Allowed, but the server could not be reached or the exchange broke."""

    @property
    def hubble(self) -> str:
        """Hubble's word for it."""
        match self:
            case Verdict.FORWARDED | Verdict.REDIRECTED | Verdict.DROPPED | Verdict.ERROR:
                return self.name
            case Verdict.DENIED:
                return "DROPPED"
            case Verdict.AUDITED:
                return "AUDIT"
            case _:
                assert_never(self)


class MatchType(IntEnum):
    """Which parts of a policy entry decided; numbers are Hubble's ``policy_match_type``."""

    NONE = 0
    L3_ONLY = 1
    L3_L4 = 2
    L4_ONLY = 3
    ALL = 4
    L3_PROTO = 5
    PROTO_ONLY = 6


class L7Type(StrEnum):
    """What the L7 part describes; a request that was answered is a RESPONSE with its latency, as in Hubble."""

    REQUEST = "REQUEST"
    RESPONSE = "RESPONSE"
    SAMPLE = "SAMPLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowEnd:
    """One end of a flow. ``name`` is empty for what is no endpoint; ``labels`` are as Hubble prints them (``k8s:app=x``)."""

    address: Address | None = None
    port: int = 0
    identity: int = 0
    namespace: str = ""
    name: str = ""
    labels: tuple[str, ...] = ()
    is_workload: bool = False
    """A process of the host that policy knows by its cgroup: ``address`` is the node's, and says nothing."""

    @property
    def key(self) -> str:
        """``namespace/name``, else a reserved label's name, else the address."""
        if self.name:
            return f"{self.namespace}/{self.name}"
        reserved = self._reserved
        return reserved if reserved and self.address is None else str(self.address or "?")

    @property
    def workload(self) -> str:
        """``namespace/workload`` of an endpoint, else a reserved name such as ``world``: few, for metrics and maps."""
        if self.name:
            return f"{self.namespace}/{workload_name(self.name, self.labels)}"
        return self._reserved or ("world" if any(label.startswith("cidr:") for label in self.labels) else "unknown")

    @property
    def _reserved(self) -> str:
        return next((label.removeprefix("reserved:") for label in self.labels if label.startswith("reserved:")), "")


WORKLOAD_LABELS = ("app.kubernetes.io/name", "app", "k8s-app")
"""The labels that name a workload, by custom; the first that is there counts."""
_POD_SUFFIX = re.compile(r"(?:-[0-9a-f]{6,10})?-[bcdfghjklmnpqrstvwxz2456789]{5}|-\d{1,5}")
"""What Deployments, DaemonSets and StatefulSets add to a pod's name (Kubernetes' SafeEncodeString alphabet)."""


def prefixed_labels(labels: Mapping[str, str]) -> tuple[str, ...]:
    """Return an endpoint's labels as Hubble prints them."""
    return tuple(f"k8s:{key}={value}" for key, value in sorted(labels.items()))


@lru_cache(maxsize=4096)
def workload_name(name: str, labels: tuple[str, ...]) -> str:
    """Return the workload that an endpoint is of: by a label, else by its name without what its controller adds."""
    found = dict(label.removeprefix("k8s:").partition("=")[::2] for label in labels if label.startswith("k8s:"))
    for key in WORKLOAD_LABELS:
        if found.get(key):
            return found[key]
    suffix = _POD_SUFFIX.search(name)
    return name[: suffix.start()] if suffix and suffix.end() == len(name) and suffix.start() else name


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPart:
    """An HTTP request and, when it was answered, its status (``code`` 0: it was not)."""

    method: str
    path: str
    """As it was judged, with its query string unless that is redacted."""
    host: str = ""
    scheme: str = "http"
    protocol: str = ""
    code: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    missing_headers: tuple[str, ...] = ()
    rejected_headers: tuple[str, ...] = ()
    grpc_status: int | None = None
    """Set for gRPC: the status in the trailers, or the one that a denial was answered with."""

    @property
    def url(self) -> str:
        """Scheme, host and path in one."""
        return f"{self.scheme}://{self.host}{self.path}" if self.host else self.path

    @property
    def grpc_method(self) -> tuple[str, str]:
        """The service and the method that a gRPC request calls."""
        service, _, method = self.path.partition("?")[0].removeprefix("/").rpartition("/")
        return service, method


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsPart:
    """A TLS connection judged by its server name."""

    server_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsPart:
    """A DNS question and, when there is one, its answer."""

    query: str
    query_types: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    ttl_seconds: int = 0
    cnames: tuple[str, ...] = ()
    rcode: int = 0
    record_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaPart:
    """A Kafka request."""

    api_key: str
    api_version: int
    correlation_id: int = 0
    client_id: str = ""
    topics: tuple[str, ...] = ()
    error_code: int = 0
    group: str = ""
    """The consumer group that it speaks for."""
    transactional_id: str = ""


L7Part = HttpPart | TlsPart | DnsPart | KafkaPart


@dataclass(frozen=True, slots=True, kw_only=True)
class Redaction:
    """What is taken out of a record before anybody sees it."""

    query: bool = True
    headers: bool = True

    def apply(self, part: HttpPart) -> HttpPart:
        """Return ``part`` without its secrets. User information in the host goes always; nobody needs to see it."""
        path, _, _ = part.path.partition("?") if self.query else (part.path, "", "")
        headers = tuple((name, REDACTED) for name, _ in part.headers) if self.headers else part.headers
        return replace(part, path=path, headers=headers, host=part.host.rpartition("@")[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One verdict. ``direction`` is as the endpoint sees it whose policy decided; both ends are of the original direction,
    i.e. ``source`` opened the connection, unless ``is_reply``.
    """

    time_ns: int
    """Since the epoch."""
    uuid: str
    node: str
    verdict: Verdict
    direction: Direction
    source: FlowEnd
    destination: FlowEnd
    protocol: int
    """IP protocol number."""
    tcp_flags: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    is_reply: bool = False
    reason: str = ""
    """In Hubble's style (POLICY_DENIED); empty where the message was forwarded."""
    rule: RuleOrigin | None = None
    """The rule that decided; None on a default deny."""
    nearest_miss: str = ""
    """On a default deny: the rule that came nearest, and the predicate that failed."""
    match_type: MatchType | None = None
    policy_log: str = ""
    """``log.value`` of the deciding policy."""
    revision: int = 0
    slot: int = 0
    """The slot that judged; 0: the kernel did."""
    l7: L7Part | None = None
    l7_type: L7Type = L7Type.RESPONSE
    latency_ns: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object; empty fields are left out, as protobuf's mapping does."""
        source, destination = self.source.address, self.destination.address
        some_address = source or destination
        record: dict[str, Any] = {
            "time": rfc3339(self.time_ns),
            "uuid": self.uuid,
            "verdict": self.verdict.hubble,
            "drop_reason_desc": self.reason,
            "IP": {
                "source": str(source or ""),
                "destination": str(destination or ""),
                "ipVersion": f"IPv{some_address.version}" if some_address else "",
            },
            "l4": _l4_json(self),
            "source": _end_json(self.source),
            "destination": _end_json(self.destination),
            "Type": "L7" if self.l7 else "L3_L4",
            "node_name": self.node,
            "l7": _l7_json(self),
            "policy_match_type": int(self.match_type) if self.match_type is not None else None,
            "traffic_direction": self.direction.name,
            "is_reply": self.is_reply,
            "policy_log": [self.policy_log] if self.policy_log else None,
            "Summary": self.summary(),
            **_policy_json(self),
            "tidegate": _pruned(
                {
                    "verdict": self.verdict.value,
                    "policy": str(self.rule.policy) if self.rule else "",
                    "rule": self.rule.path if self.rule else "",
                    "revision": self.revision,
                    "nearest_miss": self.nearest_miss,
                    "slot": self.slot,
                    "audited": self.verdict is Verdict.AUDITED,
                    "protocol": self.protocol if self.protocol not in _L4_NAMES else 0,
                    **_l7_extras(self.l7),
                }
            ),
        }
        return _pruned(record)

    def summary(self) -> str:
        """Return the message in a line."""
        match self.l7:
            case None:
                return _l4_summary(self)
            case HttpPart() as http:
                status = f" {http.code}" if http.code else ""
                grpc = f" grpc-status {http.grpc_status}" if http.grpc_status is not None else ""
                return f"{http.protocol or 'HTTP'} {http.method} {http.url}{status}{grpc}"
            case TlsPart() as tls:
                return f"TLS {tls.server_name or '(no server name)'}"
            case DnsPart() as dns:
                return f"DNS {','.join(dns.query_types)} {dns.query}"
            case KafkaPart() as kafka:
                return f"Kafka {kafka.api_key} v{kafka.api_version} {','.join(kafka.topics)}"
            case _:
                assert_never(self.l7)


def protocol_name(flow: Flow) -> str:
    """Return the most telling protocol: http, grpc, tls, dns, kafka, else tcp, udp, icmp, ..., else a number."""
    match flow.l7:
        case HttpPart() as http:
            return "grpc" if http.grpc_status is not None else "http"
        case TlsPart():
            return "tls"
        case DnsPart():
            return "dns"
        case KafkaPart():
            return "kafka"
        case None:
            return transport_name(flow.protocol)
        case _:
            assert_never(flow.l7)


def transport_name(protocol: int) -> str:
    """Return an IP protocol's name in lower case, or its number."""
    try:
        return Protocol(protocol).name.lower()
    except ValueError:
        return str(protocol)


def rfc3339(time_ns: int) -> str:
    """Return a time in UTC with nanoseconds."""
    seconds, nanoseconds = divmod(time_ns, NANOSECONDS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


_ORIGIN = re.compile(r"(?P<policy>[a-z]+(?:/[^:]+){1,2}):(?P<path>.+)", re.DOTALL)


def parse_origin(text: str) -> RuleOrigin | None:
    """Return the origin that ``str(RuleOrigin)`` wrote; None for anything else (a default deny has none)."""
    found = _ORIGIN.fullmatch(text)
    return RuleOrigin(PolicyKey(found["policy"]), found["path"]) if found else None


def policy_json(origin: RuleOrigin, revision: int) -> dict[str, Any]:
    """Return Hubble's Policy message for the policy of ``origin``."""
    kind, _, rest = str(origin.policy).partition("/")
    namespace, _, name = rest.rpartition("/")
    found = {"name": name, "namespace": namespace, "revision": str(revision), "kind": POLICY_KINDS.get(kind, kind)}
    return _pruned(found)


_TCP_FLAGS = ((1, "FIN"), (2, "SYN"), (4, "RST"), (8, "PSH"), (16, "ACK"), (32, "URG"), (64, "ECE"), (128, "CWR"))


def _tcp_flag_names(flags: int) -> list[str]:
    return [name for bit, name in _TCP_FLAGS if flags & bit]


def _l4_summary(flow: Flow) -> str:
    match flow.protocol:
        case Protocol.TCP:
            names = _tcp_flag_names(flow.tcp_flags)
            return f"TCP Flags: {', '.join(names)}" if names else "TCP"
        case Protocol.ICMP | Protocol.ICMPV6:
            return f"{_L4_NAMES[Protocol(flow.protocol)]} type {flow.icmp_type} code {flow.icmp_code}"
        case _:
            return transport_name(flow.protocol).upper()


_L4_NAMES = {Protocol.TCP: "TCP", Protocol.UDP: "UDP", Protocol.SCTP: "SCTP", Protocol.ICMP: "ICMPv4", Protocol.ICMPV6: "ICMPv6"}


def _l4_json(flow: Flow) -> dict[str, Any]:
    try:
        protocol = Protocol(flow.protocol)
    except ValueError:
        return {}
    if protocol not in _L4_NAMES:
        return {}
    if protocol in (Protocol.ICMP, Protocol.ICMPV6):
        return {_L4_NAMES[protocol]: _pruned({"type": flow.icmp_type, "code": flow.icmp_code})}
    ports: dict[str, Any] = {"source_port": flow.source.port, "destination_port": flow.destination.port}
    if protocol is Protocol.TCP:
        ports["flags"] = dict.fromkeys(_tcp_flag_names(flow.tcp_flags), True)
    return {_L4_NAMES[protocol]: _pruned(ports)}


def _end_json(end: FlowEnd) -> dict[str, Any]:
    return _pruned(
        {
            "identity": end.identity,
            "namespace": end.namespace,
            "labels": list(end.labels),
            "pod_name": end.name,
            "workloads": [{"name": workload_name(end.name, end.labels)}] if end.name else [],
        },
    )


def _l7_json(flow: Flow) -> dict[str, Any] | None:
    if flow.l7 is None:
        return None
    common = {"type": flow.l7_type.value, "latency_ns": str(flow.latency_ns) if flow.latency_ns else ""}
    match flow.l7:
        case HttpPart() as http:
            headers = [{"key": name, "value": value} for name, value in http.headers]
            part = {"code": http.code, "method": http.method, "url": http.url, "protocol": http.protocol, "headers": headers}
            return _pruned({**common, "http": _pruned(part)})
        case DnsPart() as dns:
            found = {
                "query": dns.query,
                "ips": list(dns.addresses),
                "ttl": dns.ttl_seconds,
                "cnames": list(dns.cnames),
                "rcode": dns.rcode,
                "qtypes": list(dns.query_types),
                "rrtypes": list(dns.record_types),
            }
            return _pruned({**common, "dns": _pruned(found)})
        case KafkaPart() as kafka:
            request = {
                "error_code": kafka.error_code,
                "api_version": kafka.api_version,
                "api_key": kafka.api_key,
                "correlation_id": kafka.correlation_id,
                "topic": kafka.topics[0] if kafka.topics else "",
            }
            return _pruned({**common, "kafka": _pruned(request)})
        case TlsPart():
            return _pruned(common)
        case _:
            assert_never(flow.l7)


def _l7_extras(part: L7Part | None) -> dict[str, Any]:
    """What Hubble's L7 messages have no field for."""
    match part:
        case HttpPart() as http:
            service, method = http.grpc_method
            grpc = {"service": service, "method": method, "status": http.grpc_status}
            return {
                "missing_headers": list(http.missing_headers),
                "rejected_headers": list(http.rejected_headers),
                "grpc": grpc if http.grpc_status is not None else None,
            }
        case TlsPart() as tls:
            return {"tls": {"server_name": tls.server_name}}
        case KafkaPart() as kafka:
            return {
                "kafka": _pruned(
                    {
                        "client_id": kafka.client_id,
                        "topics": list(kafka.topics),
                        "group": kafka.group,
                        "transactional_id": kafka.transactional_id,
                    }
                )
            }
        case DnsPart() | None:
            return {}
        case _:
            assert_never(part)


def _policy_json(flow: Flow) -> dict[str, Any]:
    """Hubble's four attribution fields, of which a flow has at most one here: the rule that decided."""
    if flow.rule is None or flow.verdict in (Verdict.ERROR, Verdict.DROPPED):
        return {}
    side = flow.direction.value
    effect = "denied" if flow.verdict is Verdict.DENIED else "allowed"
    return {f"{side}_{effect}_by": [policy_json(flow.rule, flow.revision)]}


def _pruned(record: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is empty; false and 0 are empty too, but ``is_reply`` always shows, as in Hubble."""
    return {key: value for key, value in record.items() if key == "is_reply" or value not in (None, "", 0, False, [], {})}
