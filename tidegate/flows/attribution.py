"""Attribution: from what the kernel and Envoy report to a flow record with names, rules and reasons.

Owns: the index from addresses and identities to endpoints, and the two builders of flows. Pure: time and record ids come in
as arguments. Must not know where events are read or records go.

A record is attributed by the world and compiled policy of the moment at which it was made (past_worlds.py); ``revision`` says
which that was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import ip_address
from typing import TYPE_CHECKING, assert_never

from l7filters.decision import Flow as JudgedFlow
from l7filters.envoy.names import (
    HTTP_RBAC_NAMESPACE,
    NETWORK_RBAC_NAMESPACE,
    StageVerdict,
    read_mismatches,
    read_verdicts,
    slot_id_of,
)
from l7filters.identity import IdentityNumber, LabelSet, Reserved
from l7filters.ir import Allow, CompiledPolicy, Deny, EntryVerdict, Redirect
from l7filters.lookup import ANY_PEER, AddressTable, Place, index_entries, would_deny
from l7filters.model import Direction, MismatchAction, Protocol, RuleOrigin
from l7filters.parties import canonical
from l7filters.ports import PORT_BITS, PortPrefix, ancestors
from l7filters.world import Endpoint, World
from tidegate.flows.judged import judged
from tidegate.flows.record import (
    Address,
    Flow,
    FlowEnd,
    HttpPart,
    L7Type,
    MatchType,
    Redaction,
    TlsPart,
    Verdict,
    parse_origin,
    prefixed_labels,
)

POLICY_DENY = "POLICY_DENY"
"""Hubble's word for a deny rule's doing."""
POLICY_DENIED = "POLICY_DENIED"
"""Hubble's word for a default deny."""
ANSWERED_BY_SERVER = ("", "via_upstream")
"""Envoy's response code details of an answer that it did not give itself."""

if TYPE_CHECKING:
    from xds_server.access_log import AccessRecord, SocketAddress

NearestMiss = Callable[[JudgedFlow], str]
"""A denied flow -> the rule that came nearest to allowing it and why it didn't; "" if unknown (explanation.MissFinder)."""


def no_nearest_miss(flow: JudgedFlow) -> str:
    """The NearestMiss of who has no evaluator."""
    del flow
    return ""


@dataclass(frozen=True, slots=True)
class Deciding:
    """Which side's policy decided, what it said, and by which parts of the entry. ``verdict`` None: it can't be told."""

    direction: Direction
    verdict: EntryVerdict | None
    match_type: MatchType | None = None


class WorldIndex:
    """Who has an address, what an identity stands for, and which entry decides: one world and what it compiled to."""

    def __init__(self, world: World, compiled: CompiledPolicy | None) -> None:
        self.revision = world.revision
        self._endpoints: dict[Address, Endpoint] = {}
        for endpoint in world.endpoints:
            for address in endpoint.addresses:
                self._endpoints.setdefault(address, endpoint)
        self._logs = {policy.key: policy.log_value for policy in world.policies if policy.log_value}
        self._label_sets: Mapping[IdentityNumber, LabelSet] = compiled.label_set_by_number() if compiled else {}
        self._compiled = compiled
        self._workloads = _workloads(world, compiled)

    @cached_property
    def _addresses(self) -> AddressTable | None:
        """Made for the first record that asks: a policy edit need not wait for it."""
        return AddressTable.of(self._compiled) if self._compiled else None

    @cached_property
    def _entries(self) -> Mapping[Place, Mapping[PortPrefix, EntryVerdict]]:
        return index_entries(self._compiled.entries if self._compiled else ())

    def end(self, address: Address | None, port: int, identity: int = 0) -> FlowEnd:
        """Return one end of a flow. ``identity`` 0: look it up."""
        number = identity or (self.identity_of(address) if address is not None else 0)
        endpoint = self._endpoints.get(address) if address is not None else None
        if endpoint is None and number in self._workloads:
            return self._workload(address, port, number)
        if endpoint is not None:
            labels = prefixed_labels(endpoint.labels)
            return FlowEnd(
                address=address, port=port, identity=number, namespace=endpoint.namespace, name=endpoint.name, labels=labels
            )
        return FlowEnd(address=address, port=port, identity=number, labels=self._labels(number))

    def proxied_client(self, end: FlowEnd) -> FlowEnd:
        """Return ``end``, the client of a proxied connection; the host is a client only where a workload of it is.

        Which one its address does not tell: it is named where there is one label set that it can be.
        """
        if end.identity != Reserved.HOST or len(self._workloads) != 1:
            return end
        return self._workload(end.address, end.port, next(iter(self._workloads)))

    def _workload(self, address: Address | None, port: int, number: int) -> FlowEnd:
        endpoint = self._workloads[number]
        return FlowEnd(
            address=address,
            port=port,
            identity=number,
            namespace=endpoint.namespace,
            name=endpoint.name,
            labels=prefixed_labels(endpoint.labels),
            is_workload=True,
        )

    def named(self, end: FlowEnd, name_identity: int) -> FlowEnd:
        """Return ``end`` with the name by which it was reached beside its labels."""
        return replace(end, labels=(*end.labels, *self._labels(name_identity)))

    def is_local(self, address: Address | None) -> bool:
        """Tell whether ``address`` is of an endpoint that this node enforces."""
        endpoint = self._endpoints.get(address) if address is not None else None
        return endpoint is not None and endpoint.is_local

    def is_ours(self, end: FlowEnd) -> bool:
        """Tell whether ``end`` is an endpoint that this node enforces."""
        return end.is_workload or self.is_local(end.address)

    def identity_of(self, address: Address) -> int:
        """Return the identity of an address; 0 before anything was compiled."""
        return self._addresses.find(address).identity if self._addresses is not None else 0

    def deciding(self, subject: int, peer: int, direction: Direction, protocol: int, port: int) -> Deciding:
        """Return the entry that decides, found as the kernel finds it (l7filters/lookup.py); none covers it: default deny."""
        sought = PortPrefix(protocol, port, PORT_BITS)
        for wanted in (IdentityNumber(peer), ANY_PEER):
            entries = self._entries.get((IdentityNumber(subject), wanted, direction), {})
            for prefix in ancestors(sought):
                found = entries.get(prefix)
                if found is not None:
                    return Deciding(direction, found, _match_type(wanted == ANY_PEER, prefix))
        return Deciding(direction, Deny(), MatchType.NONE)

    def policy_log(self, rule: RuleOrigin | None) -> str:
        """Return ``log.value`` of the policy of ``rule``."""
        return self._logs.get(rule.policy, "") if rule else ""

    def _labels(self, number: int) -> tuple[str, ...]:
        try:
            return (f"reserved:{Reserved(number).name.lower().replace('_', '-')}",) if number else ()
        except ValueError:
            pass
        label_set = self._label_sets.get(IdentityNumber(number))
        if label_set is None:
            return ()
        if label_set.fqdn is not None:
            return (f"fqdn:{label_set.fqdn.match_name or label_set.fqdn.match_pattern}",)
        cidrs = sorted(label_set.cidrs, key=lambda cidr: (cidr.version, -cidr.prefixlen, int(cidr.network_address)))
        labels = tuple(f"k8s:{key}={value}" for key, value in label_set.labels)
        return (*labels, *(f"cidr:{cidr}" for cidr in cidrs), *(("reserved:world",) if cidrs else ()))


def _workloads(world: World, compiled: CompiledPolicy | None) -> Mapping[int, Endpoint]:
    """Return the processes of the host that policy knows by their cgroups, by identity; of several alike the first."""
    keys: dict[str, int] = {}
    for local in compiled.endpoints if compiled else ():
        if local.cgroup is not None and local.identity not in keys.values():
            keys[local.key] = local.identity
    return {keys[endpoint.key]: endpoint for endpoint in world.endpoints if endpoint.key in keys} if keys else {}


def flow_from_event(
    index: WorldIndex,
    *,
    node: str,
    uuid: str,
    time_ns: int,
    verdict: Verdict,
    reason: str,
    source: Address,
    destination: Address,
    protocol: int,
    source_port: int = 0,
    destination_port: int = 0,
    source_identity: int = 0,
    destination_identity: int = 0,
    tcp_flags: int = 0,
    slot: int = 0,
    is_reply: bool = False,
    name_identity: int = 0,
    nearest_miss: NearestMiss = no_nearest_miss,
) -> Flow:
    """Return the flow of a verdict that the kernel gave on a packet.

    ``source`` and ``destination`` are the packet's. ``name_identity``: of the name by which the destination was reached, if that
    decided. ``reason`` is the name in ``tg_reason``, empty where the packet went on. For
    ICMP ``destination_port`` is the message type.
    """
    is_icmp = protocol in (Protocol.ICMP, Protocol.ICMPV6)
    source_end = index.end(source, 0 if is_icmp else source_port, source_identity)
    destination_end = index.end(destination, 0 if is_icmp else destination_port, destination_identity)
    if name_identity and is_reply:
        source_end = index.named(source_end, name_identity)
    elif name_identity:
        destination_end = index.named(destination_end, name_identity)
    ends = (destination_end, source_end) if is_reply else (source_end, destination_end)
    policy_port = source_port if is_reply and not is_icmp else destination_port
    deciding = _deciding(index, *ends, protocol, policy_port, verdict, name_identity)
    rule = next(iter(deciding.verdict.rules), None) if deciding.verdict is not None else None
    miss = ""
    if verdict is Verdict.DENIED:
        reason = POLICY_DENY if rule else POLICY_DENIED
        if rule is None:
            problem = deciding.verdict.problem if isinstance(deciding.verdict, Deny) else ""
            miss = problem or nearest_miss(judged(*ends, protocol, policy_port, None))
    return Flow(
        time_ns=time_ns,
        uuid=uuid,
        node=node,
        verdict=verdict,
        direction=deciding.direction,
        source=source_end,
        destination=destination_end,
        protocol=protocol,
        tcp_flags=tcp_flags,
        icmp_type=destination_port if is_icmp else 0,
        is_reply=is_reply,
        reason="" if verdict in (Verdict.FORWARDED, Verdict.REDIRECTED, Verdict.AUDITED) else reason,
        rule=rule,
        nearest_miss=miss,
        match_type=deciding.match_type,
        policy_log=index.policy_log(rule),
        revision=index.revision,
        slot=slot,
    )


ERROR_FLAGS = frozenset(
    {
        "failed_local_healthcheck",
        "no_healthy_upstream",
        "upstream_request_timeout",
        "local_reset",
        "upstream_remote_reset",
        "upstream_connection_failure",
        "upstream_connection_termination",
        "upstream_overflow",
        "no_route_found",
        "stream_idle_timeout",
        "duration_timeout",
        "upstream_protocol_error",
        "upstream_max_stream_duration_reached",
        "no_cluster_found",
        "overload_manager",
        "downstream_protocol_error",
        "dns_resolution_failure",
    }
)
"""Envoy's response flags (envoy.data.accesslog.v3.ResponseFlags) that say: the exchange broke, and not by policy."""


def flow_from_access(
    index: WorldIndex,
    record: AccessRecord,
    *,
    node: str,
    uuid: str,
    redaction: Redaction,
    nearest_miss: NearestMiss = no_nearest_miss,
) -> Flow:
    """Return the flow of a request or connection that Envoy judged."""
    source = index.proxied_client(_access_end(index, record.downstream_remote))
    # The listener restores the original destination; where there is none, the upstream's address is as good.
    destination = _access_end(index, record.downstream_local if record.downstream_local.address else record.upstream_remote)
    message = _message(record)
    is_http = isinstance(message, HttpPart)
    stages = read_verdicts(record.metadata.get(HTTP_RBAC_NAMESPACE if is_http else NETWORK_RBAC_NAMESPACE, {}))
    broken = _broken(record)
    verdict, deciding = _judge(stages, broken)
    direction = deciding.direction if deciding else _direction(index, source, destination)
    text = (deciding.shadow_rule if verdict is Verdict.AUDITED else deciding.rule) if deciding else None
    rule = parse_origin(text) if text else None
    miss = ""
    if verdict in (Verdict.DENIED, Verdict.AUDITED) and rule is None:
        miss = nearest_miss(judged(source, destination, Protocol.TCP, destination.port, message))
    reason = ""
    if verdict is Verdict.DENIED:
        reason = POLICY_DENY if rule else POLICY_DENIED
    elif verdict is Verdict.ERROR:
        reason = broken
    return Flow(
        time_ns=record.start_ns,
        uuid=uuid,
        node=node,
        verdict=verdict,
        direction=direction,
        source=source,
        destination=destination,
        protocol=Protocol.TCP,
        reason=reason,
        rule=rule,
        nearest_miss=miss,
        policy_log=index.policy_log(rule),
        revision=index.revision,
        slot=slot_id_of(record.log_name) or 0,
        l7=redaction.apply(message) if isinstance(message, HttpPart) else message,
        l7_type=L7Type.RESPONSE if is_http and record.status and verdict is not Verdict.DENIED else L7Type.REQUEST,
        latency_ns=record.duration_ns,
    )


def _deciding(
    index: WorldIndex,
    source: FlowEnd,
    destination: FlowEnd,
    protocol: int,
    port: int,
    verdict: Verdict,
    name_identity: int = 0,
) -> Deciding:
    """Return which side decided: the kernel asks the source's egress policy, then the destination's ingress policy."""
    sides: list[Deciding] = []
    if index.is_ours(source):
        sides.append(index.deciding(source.identity, name_identity or destination.identity, Direction.EGRESS, protocol, port))
    if index.is_ours(destination):
        sides.append(index.deciding(destination.identity, source.identity, Direction.INGRESS, protocol, port))
    explaining = [side for side in sides if side.verdict is not None and _explains(side.verdict, verdict)]
    # Where both sides let it pass, one that names a rule says more than one that no policy selects. Of two that deny, the
    # first did.
    if verdict is not Verdict.DENIED:
        explaining.sort(key=lambda side: side.verdict is None or not side.verdict.rules)
    if explaining:
        return explaining[0]
    # The policy changed in between, or something else than policy decided: say which side, blame no rule.
    return Deciding(_direction(index, source, destination), None)


def _explains(entry: EntryVerdict, verdict: Verdict) -> bool:
    match verdict:
        case Verdict.DENIED:
            return isinstance(entry, Deny)
        case Verdict.REDIRECTED:
            return isinstance(entry, Redirect)
        case Verdict.AUDITED:
            return would_deny(entry)
        case Verdict.FORWARDED:
            return isinstance(entry, Allow)
        case Verdict.DROPPED | Verdict.ERROR:
            return False
        case _:
            assert_never(verdict)


def _direction(index: WorldIndex, source: FlowEnd, destination: FlowEnd) -> Direction:
    """The side whose endpoint is ours; the source's where both or neither are, for it is asked first."""
    only_destination = index.is_ours(destination) and not index.is_ours(source)
    return Direction.INGRESS if only_destination else Direction.EGRESS


def _match_type(any_peer: bool, prefix: PortPrefix) -> MatchType:
    if prefix.protocol is None:
        return MatchType.ALL if any_peer else MatchType.L3_ONLY
    if prefix.bits == 0:
        return MatchType.PROTO_ONLY if any_peer else MatchType.L3_PROTO
    return MatchType.L4_ONLY if any_peer else MatchType.L3_L4


def _access_end(index: WorldIndex, address: SocketAddress) -> FlowEnd:
    try:
        return index.end(canonical(ip_address(address.address)), address.port)
    except ValueError:
        return FlowEnd()


def _message(record: AccessRecord) -> HttpPart | TlsPart:
    if record.kind == "tcp":
        return TlsPart(server_name=record.requested_server_name)
    mismatches = read_mismatches(record.route_name)
    missing = (MismatchAction.LOG, MismatchAction.ADD)
    return HttpPart(
        method=record.method,
        path=record.path,
        host=record.authority,
        scheme=record.scheme or "http",
        protocol=str(record.http_version),
        code=record.status,
        headers=tuple(sorted(record.request_headers.items())),
        missing_headers=tuple(sorted({each.header for each in mismatches if each.action in missing})),
        rejected_headers=tuple(sorted({each.header for each in mismatches if each.action not in missing})),
        grpc_status=record.grpc_status,
    )


def _broken(record: AccessRecord) -> str:
    """Return why the exchange broke, policy apart; empty where the server answered."""
    flags = sorted(flag.upper() for flag in record.response_flags if flag in ERROR_FLAGS)
    if flags:
        return ",".join(flags)
    details = record.response_code_details
    return "" if details in ANSWERED_BY_SERVER else details.partition("{")[0].upper()


def _judge(stages: tuple[StageVerdict, ...], broken: str) -> tuple[Verdict, StageVerdict | None]:
    """Return the verdict and the stage that gave it."""
    for stage in stages:
        if not stage.allowed:
            return Verdict.DENIED, stage
    for stage in stages:
        if not stage.shadow_allowed:
            return Verdict.AUDITED, stage
    naming = [stage for stage in stages if stage.rule is not None]
    deciding = naming[-1] if naming else stages[-1] if stages else None
    return (Verdict.ERROR if broken else Verdict.FORWARDED), deciding
