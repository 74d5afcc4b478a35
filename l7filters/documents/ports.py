"""Ports of a rule and what may be said on them: ``toPorts`` and ``icmps``.

Owns: ports, protocols, server names, TLS contexts, the L7 block, and the rules on which of them go together (Cilium's
``rule_validation.go``). Must not know peers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum

from l7filters.documents.dns import dns_rule
from l7filters.documents.http import grpc_rule, http_rule
from l7filters.documents.icmp import icmp_type
from l7filters.documents.kafka import kafka_deny_rule, kafka_rule
from l7filters.documents.names import data_key, port_name_problem
from l7filters.documents.reader import Fields, Node
from l7filters.documents.scope import (
    ICMP_FIELDS_MAX,
    L7_RULES_MAX,
    PORT_RULES_MAX,
    PORTS_MAX,
    SERVER_NAMES_MAX,
    Scope,
    secret_place,
)
from l7filters.model import (
    PORT_PROTOCOLS,
    Direction,
    HttpRule,
    L7Protocol,
    L7Rule,
    L7Rules,
    MismatchAction,
    PortRule,
    PortSpec,
    Protocol,
    TlsContext,
)

PORT_MAX = 65535
_FAIL = MismatchAction.FAIL
_NUMBER = re.compile(r"[0-9]+\Z")
_SERVER_LABEL = re.compile(r"[-a-zA-Z0-9_*]+\Z")
SERVER_NAME_CHARS_MAX = 255


class ProtocolName(StrEnum):
    """Protocols as ``ports`` spells them."""

    ANY = "ANY"
    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"
    ICMP = "ICMP"
    ICMPV6 = "ICMPv6"
    VRRP = "VRRP"
    IGMP = "IGMP"
    GRE = "GRE"
    IPIP = "IPIP"
    IPV6 = "IPV6"
    ESP = "ESP"
    AH = "AH"


def to_ports(fields: Fields, scope: Scope, direction: Direction, *, deny: bool) -> tuple[PortRule, ...]:
    """Read ``toPorts`` and ``icmps`` of one item; empty means every port of every protocol."""
    port_nodes = fields.items("toPorts", PORT_RULES_MAX) or []
    icmp_nodes = fields.items("icmps", PORT_RULES_MAX) or []
    if port_nodes and icmp_nodes:
        fields.error("icmps and toPorts exclude each other", "write one rule for each")
    rules = [_deny_ports(node, scope) if deny else _port_rule(node, scope, direction) for node in port_nodes]
    return (*rules, *(_icmp_rule(node, scope) for node in icmp_nodes))


def has_ports(fields: Fields) -> bool:
    """Tell whether the item restricts ports at all (an empty list doesn't)."""
    return any(fields.values.get(name) for name in fields.present(("toPorts", "icmps")))


def _icmp_rule(node: Node, scope: Scope) -> PortRule:
    with node.fields() as fields:
        items = fields.items("fields", ICMP_FIELDS_MAX)
        if not items and not fields.broken:
            fields.error("needs at least one entry in fields", "like {family: IPv4, type: 8}")
        ports = tuple(icmp_type(item) for item in items or [])
    return PortRule(ports, scope.origin(node))


def _deny_ports(node: Node, scope: Scope) -> PortRule:
    with node.fields() as fields:
        ports = port_list(fields)
        hint = "L7 deny rules stand in rules.httpDeny of an allow rule" if scope.is_tidegate else "deny rules have no L7 part"
        fields.refuse("rules", "a deny rule can't look into L7", hint)
    return PortRule(ports, scope.origin(node))


def port_list(fields: Fields) -> tuple[PortSpec, ...]:
    """Read the ``ports`` of an item."""
    nodes = fields.items("ports", PORTS_MAX)
    if not fields.broken and fields.values.get("ports", []) == []:
        fields.error("needs at least one port", "leave toPorts out to mean every port")
    return tuple(_port(node) for node in nodes or [])


def _port(node: Node) -> PortSpec:
    with node.fields() as fields:
        protocol = _protocol(fields)
        port_node = fields.get("port")
        if port_node is None and protocol in (Protocol.ANY, *PORT_PROTOCOLS) and not fields.broken:
            fields.node.report.add((*node.path, "port"), "is required", 'port: "0" means every port')
        port = 0 if port_node is None else _port_value(port_node)
        if port_node is not None and protocol not in (Protocol.ANY, *PORT_PROTOCOLS):
            port_node.error(f"{protocol.name} has no ports", "leave port out")
        end_port = _end_port(fields, port)
    return PortSpec(protocol, port, end_port)


def _protocol(fields: Fields) -> Protocol:
    node = fields.get("protocol")
    if node is None or node.value == "":
        return Protocol.ANY
    # Cilium upper-cases the name before it looks it up.
    if isinstance(node.value, str) and node.value.upper() in ProtocolName.__members__:
        name = ProtocolName[node.value.upper()]
    else:
        chosen = node.choice(ProtocolName)
        if chosen is None:
            return Protocol.TCP
        name = chosen
    if name in (ProtocolName.ICMP, ProtocolName.ICMPV6):
        node.error(f"{name} has types, not ports", "use icmps: [{fields: [{family: IPv4, type: EchoRequest}]}]")
    return Protocol[name.name]


def _port_value(node: Node) -> int | str:
    text = node.string(chars_max=64)
    if not text:
        return 1
    if _NUMBER.match(text):
        if len(text) > 1 and text.startswith("0"):
            node.error(f'"{text}" is ambiguous', "write the port without leading zeros")
        elif int(text) > PORT_MAX:
            node.error(f"must be between 0 and {PORT_MAX}, not {text}")
        else:
            return int(text)
        return 1
    name = text.lower()
    problem = port_name_problem(name)
    if problem is not None:
        node.error(problem, "digits, or at most 15 letters, digits and '-' with a letter among them")
    return name


def _end_port(fields: Fields, port: int | str) -> int | None:
    node = fields.get("endPort")
    if node is None:
        return None
    end_port = node.integer(0, PORT_MAX)
    if end_port == 0:
        return None
    if isinstance(port, str) or port == 0:
        node.error("endPort needs a port number to begin at")
        return None
    if end_port < port:
        node.error(f"endPort {end_port} lies below port {port}")
        return None
    return end_port if end_port > port else None


def _port_rule(node: Node, scope: Scope, direction: Direction) -> PortRule:
    with node.fields() as fields:
        ports = port_list(fields)
        terminating = fields.read("terminatingTLS", lambda at: _tls(at, scope, terminating=True), None)
        originating = fields.read("originatingTLS", lambda at: _tls(at, scope, terminating=False), None)
        server_names = tuple(_server_name(item) for item in fields.items("serverNames", SERVER_NAMES_MAX) or [])
        rules_node = fields.get("rules")
        l7 = None if rules_node is None else _l7_rules(rules_node, scope)
        fields.refuse("listener", "custom Envoy listeners are not supported", "Tidegate makes the listeners itself")
        _check_together(fields, scope, direction, ports, l7)
    return PortRule(ports, scope.origin(node), l7, server_names, terminating, originating)


def _check_together(fields: Fields, scope: Scope, direction: Direction, ports: tuple[PortSpec, ...], l7: L7Rules | None) -> None:
    """Refuse what can't be enforced together on one port."""
    with_tls = [name for name in ("serverNames", "terminatingTLS", "originatingTLS") if fields.values.get(name)]
    if "serverNames" in with_tls and l7 is not None and "terminatingTLS" not in with_tls:
        fields.error("serverNames with L7 rules needs terminatingTLS", "the rules can't be read inside TLS")
    if l7 is not None and l7.protocol is L7Protocol.DNS:
        if direction is Direction.INGRESS:
            fields.error("DNS rules are not supported on ingress")
        if with_tls:
            fields.error(f"DNS rules do not go with {with_tls[0]}")
        if any(spec.end_port is not None for spec in ports):
            fields.error("DNS rules do not support port ranges")
        if any(spec.protocol not in (Protocol.ANY, Protocol.TCP, Protocol.UDP) for spec in ports):
            fields.error("DNS rules need protocol UDP, TCP or ANY")
    elif l7 is not None or with_tls:
        what = "L7 rules" if l7 is not None else with_tls[0]
        wrong = [spec.protocol.name for spec in ports if spec.protocol is not Protocol.TCP]
        if wrong:
            fields.error(f"{what} can only apply to TCP, not {wrong[0]}", "write protocol: TCP")
    if (l7 is not None or with_tls) and any(
        spec.port == 0 and spec.protocol in (Protocol.ANY, *PORT_PROTOCOLS) for spec in ports
    ):
        fields.error("L7 rules can not be used when a port is 0", "name the ports that speak the protocol")
    if scope.host and (with_tls or (l7 is not None and (l7.protocol is not L7Protocol.DNS or direction is Direction.INGRESS))):
        fields.error("a policy on nodes supports no L7 rules but DNS on egress")


def _l7_rules(node: Node, scope: Scope) -> L7Rules | None:
    """Read ``rules``; None when it restricts nothing (no list, or in Cilium's dialect only empty ones)."""
    readers: dict[str, tuple[L7Protocol, bool, Callable[[Node, Scope], L7Rule]]] = {
        "http": (L7Protocol.HTTP, False, http_rule),
        "kafka": (L7Protocol.KAFKA, False, kafka_rule),
        "dns": (L7Protocol.DNS, False, dns_rule),
    }
    if scope.is_tidegate:
        readers["httpDeny"] = (L7Protocol.HTTP, True, http_rule)
        readers["grpc"] = (L7Protocol.HTTP, False, grpc_rule)
        readers["grpcDeny"] = (L7Protocol.HTTP, True, grpc_rule)
        readers["kafkaDeny"] = (L7Protocol.KAFKA, True, kafka_deny_rule)
    allow: list[L7Rule] = []
    deny: list[L7Rule] = []
    with node.fields() as fields:
        for name in ("l7proto", "l7"):
            fields.refuse(name, "generic L7 parsers are not supported", "http, kafka and dns are")
        given = fields.present(readers)
        protocols = sorted({readers[name][0] for name in given})
        if len(protocols) > 1:
            fields.error(f"one port can't speak {' and '.join(protocols)}", "write one toPorts item for each")
        for name in given:
            _, is_deny, read = readers[name]
            items = fields.items(name, L7_RULES_MAX) or []
            if scope.is_tidegate and fields.values[name] == []:
                at = fields.get(name)
                assert at is not None
                at.error("must not be empty", "leave the list out for no restriction; [{}] matches everything")
            for item in items:
                rule = read(item, scope)
                if is_deny and isinstance(rule, HttpRule) and any(match.mismatch is not _FAIL for match in rule.headers):
                    item.error(
                        "header actions do not go with a deny rule", "a mismatch other than FAIL lets the rule match anyway"
                    )
                (deny if is_deny else allow).append(rule)
    if not allow and not deny:
        return None
    return L7Rules(protocols[0], tuple(allow), tuple(deny), deny_only=not allow)


def _server_name(node: Node) -> str:
    """Read an SNI pattern: ``*`` within a label, ``**`` as a whole label for one or more; lower case."""
    text = node.string(chars_max=SERVER_NAME_CHARS_MAX)
    if not text:
        return ""
    labels = text.split(".")
    if not all(_SERVER_LABEL.match(label) for label in labels):
        node.error(f'"{text}" is not a server name', "letters, digits, '-', '_', '*' between single dots, no dot at the end")
    elif any("**" in label and label != "**" for label in labels):
        node.error(f'"{text}" has "**" inside a label', '"**" stands alone, for one or more labels')
    return text.lower()


def _tls(node: Node, scope: Scope, *, terminating: bool) -> TlsContext | None:
    """Read a TLS context; key names that are not given get Kubernetes' names where the side needs them."""
    with node.fields() as fields:
        secret_node = fields.require("secret")
        namespace, name = "", ""
        if secret_node is not None:
            with secret_node.fields() as secret:
                namespace, name = secret_place(secret, scope)
        keys = {key: fields.read(key, _optional_key, None) for key in ("trustedCA", "certificate", "privateKey")}
    trusted_ca, certificate, private_key = keys["trustedCA"], keys["certificate"], keys["privateKey"]
    if not terminating and trusted_ca is None:
        trusted_ca = "ca.crt"
    if terminating or certificate or private_key:
        certificate, private_key = certificate or "tls.crt", private_key or "tls.key"
    return TlsContext(namespace, name, trusted_ca, certificate, private_key) if name and namespace else None


def _optional_key(node: Node) -> str | None:
    return None if node.value == "" else data_key(node) or None
