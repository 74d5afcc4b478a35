"""A flow record read back from its JSON: from files on disk, or from a pipe.

Owns: the way back of ``Flow.to_json``; ``read_flow(flow.to_json()).to_json() == flow.to_json()``, whatever the flow. Must not
know where the JSON comes from. What a record lacks has its default, so files of older versions stay readable.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from l7filters.model import Direction, PolicyKey, Protocol, RuleOrigin
from tidegate.flows.record import (
    NANOSECONDS,
    DnsPart,
    Flow,
    FlowEnd,
    HttpPart,
    KafkaPart,
    L7Part,
    L7Type,
    MatchType,
    TlsPart,
    Verdict,
)

Record = Mapping[str, Any]

_PORTED = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}
_ICMP = {"ICMPv4": Protocol.ICMP, "ICMPv6": Protocol.ICMPV6}
_TCP_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ECE": 64, "CWR": 128}
_SIDES = ("egress_denied_by", "egress_allowed_by", "ingress_denied_by", "ingress_allowed_by")


class NotAFlow(ValueError):
    """JSON that is no flow record; the message says why."""


def read_flow(record: object) -> Flow:
    """Return the flow that ``record`` (parsed JSON) describes. Raises NotAFlow."""
    try:
        return _read(_mapping(record))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise NotAFlow(f"not a flow record: {type(error).__name__}: {error}") from error


def _read(record: Record) -> Flow:
    ours = _mapping(record.get("tidegate", {}))
    name, l4 = _transport(record)
    flags = sum(_TCP_FLAGS[flag] for flag, is_set in l4.get("flags", {}).items() if is_set)
    source, destination = (_end(record, side, l4) for side in ("source", "destination"))
    match_type = record.get("policy_match_type")
    l7 = _mapping(record.get("l7", {}))
    return Flow(
        time_ns=_time_ns(record["time"]),
        uuid=str(record["uuid"]),
        node=str(record.get("node_name", "")),
        verdict=Verdict(ours["verdict"]),
        direction=Direction[record["traffic_direction"]],
        source=source,
        destination=destination,
        protocol=int(_PORTED.get(name) or _ICMP.get(name) or ours.get("protocol", 0)),
        tcp_flags=flags,
        icmp_type=int(l4.get("type", 0)),
        icmp_code=int(l4.get("code", 0)),
        is_reply=bool(record.get("is_reply", False)),
        reason=str(record.get("drop_reason_desc", "")),
        rule=RuleOrigin(PolicyKey(ours["policy"]), ours.get("rule", "")) if ours.get("policy") else None,
        nearest_miss=str(ours.get("nearest_miss", "")),
        match_type=MatchType(match_type) if match_type is not None else None,
        policy_log=str(next(iter(record.get("policy_log", ())), "")),
        revision=_revision(record, ours),
        slot=int(ours.get("slot", 0)),
        l7=_part(l7, ours) if l7 else None,
        l7_type=L7Type(l7.get("type", L7Type.RESPONSE)),
        latency_ns=int(l7.get("latency_ns") or 0),
    )


def _transport(record: Record) -> tuple[str, Record]:
    for name, l4 in _mapping(record.get("l4", {})).items():
        return name, _mapping(l4)
    return "", {}


def _mapping(value: object) -> Record:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected an object, found {type(value).__name__}")
    return value


def _time_ns(text: str) -> int:
    whole, _, fraction = text.removesuffix("Z").partition(".")
    when = datetime.fromisoformat(whole).replace(tzinfo=UTC)
    return int(when.timestamp()) * NANOSECONDS + int(fraction.ljust(9, "0")[:9] or 0)


def _revision(record: Record, ours: Record) -> int:
    named = [policy.get("revision") for side in _SIDES for policy in record.get(side, ())]
    return int(ours.get("revision") or next(iter(named), None) or 0)


def _end(record: Record, side: str, l4: Record) -> FlowEnd:
    end = _mapping(record.get(side, {}))
    address = _mapping(record.get("IP", {})).get(side, "")
    return FlowEnd(
        address=ip_address(address) if address else None,
        port=int(l4.get(f"{side}_port", 0)),
        identity=int(end.get("identity", 0)),
        namespace=str(end.get("namespace", "")),
        name=str(end.get("pod_name", "")),
        labels=tuple(end.get("labels", ())),
    )


def _part(l7: Record, ours: Record) -> L7Part | None:
    if "http" in l7:
        return _http(l7["http"], ours)
    if "dns" in l7:
        return _dns(l7["dns"])
    if "kafka" in l7:
        return _kafka(l7["kafka"], ours.get("kafka", {}))
    if "tls" in ours:
        return TlsPart(server_name=str(ours["tls"].get("server_name", "")))
    return None


def _http(http: Record, ours: Record) -> HttpPart:
    scheme, separator, rest = str(http.get("url", "")).partition("://")
    # Only a URL with a host has a scheme; a path alone may hold "://" too.
    is_whole = bool(separator) and "/" not in scheme
    host, slash, path = rest.partition("/") if is_whole else ("", "", "")
    grpc = ours.get("grpc")
    return HttpPart(
        method=str(http.get("method", "")),
        path=slash + path if is_whole else str(http.get("url", "")),
        host=host,
        scheme=scheme if is_whole else "http",
        protocol=str(http.get("protocol", "")),
        code=int(http.get("code", 0)),
        headers=tuple((str(header["key"]), str(header["value"])) for header in http.get("headers", ())),
        missing_headers=tuple(ours.get("missing_headers", ())),
        rejected_headers=tuple(ours.get("rejected_headers", ())),
        grpc_status=int(grpc["status"]) if grpc else None,
    )


def _dns(dns: Record) -> DnsPart:
    return DnsPart(
        query=str(dns.get("query", "")),
        query_types=tuple(dns.get("qtypes", ())),
        addresses=tuple(dns.get("ips", ())),
        ttl_seconds=int(dns.get("ttl", 0)),
        cnames=tuple(dns.get("cnames", ())),
        rcode=int(dns.get("rcode", 0)),
        record_types=tuple(dns.get("rrtypes", ())),
    )


def _kafka(kafka: Record, extras: Record) -> KafkaPart:
    return KafkaPart(
        api_key=str(kafka.get("api_key", "")),
        api_version=int(kafka.get("api_version", 0)),
        correlation_id=int(kafka.get("correlation_id", 0)),
        client_id=str(extras.get("client_id", "")),
        topics=tuple(extras.get("topics", ())),
        error_code=int(kafka.get("error_code", 0)),
        group=str(extras.get("group", "")),
        transactional_id=str(extras.get("transactional_id", "")),
    )
