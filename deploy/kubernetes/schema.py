"""The OpenAPI schema of a TidegatePolicy's spec: what the API server checks before an agent sees the object.

Owns: the shape. The parsers of ``l7filters.documents`` are the judges; a test compares this with what they ask for, field by
field. Unknown fields are kept, not pruned: a misspelt ``ingressDeny`` that vanished in silence would open what it was to close.
The agent refuses the object and says so in its status, with the field's path and a hint; its last good version stays in force.

What a schema can't say in types is said by ``oneOf``/``not`` with ``required``, which cost nothing, and at the top, where lists
are short, by CEL rules with a message of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from l7filters.documents.dns import QUERY_TYPES_MAX
from l7filters.documents.icmp import Family
from l7filters.documents.names import DOMAIN_CHARS_MAX, LABEL_CHARS_MAX, NAME_CHARS_MAX
from l7filters.documents.observe import OBSERVE_MAX, ObservedProtocol
from l7filters.documents.ports import SERVER_NAME_CHARS_MAX, ProtocolName
from l7filters.documents.scope import (
    EXCEPTS_MAX,
    ICMP_FIELDS_MAX,
    L7_RULES_MAX,
    MATCHES_MAX,
    PEERS_MAX,
    PORT_RULES_MAX,
    PORTS_MAX,
    RULES_MAX,
    SERVER_NAMES_MAX,
)
from l7filters.documents.selectors import EXPRESSIONS_MAX, VALUES_MAX
from l7filters.documents.spec import DENIES_PER_SECOND_MAX, DESCRIPTION_CHARS_MAX, LABELS_MAX, LOG_CHARS_MAX, OFFLOAD_SECONDS_MAX
from l7filters.documents.strings import VALUE_CHARS_MAX
from l7filters.labels import Operator
from l7filters.model import Direction, Entity, KafkaRole, MismatchAction, Mode

Schema = dict[str, Any]
_KEPT = {"x-kubernetes-preserve-unknown-fields": True}
GRPC_CHARS_MAX = VALUE_CHARS_MAX


def text(description: str = "", *, longest: int = VALUE_CHARS_MAX, least: int = 0, pattern: str = "") -> Schema:
    """A string."""
    schema: Schema = {"type": "string", "maxLength": longest}
    if least:
        schema["minLength"] = least
    if pattern:
        schema["pattern"] = pattern
    return _described(schema, description)


def choice(kind: type[StrEnum], description: str = "", *, empty: bool = False) -> Schema:
    """A string out of an enumeration; ``empty``: "" stands for leaving it out, as in Cilium."""
    return _described({"type": "string", "enum": ([""] if empty else []) + [member.value for member in kind]}, description)


def integer(least: int, most: int, description: str = "") -> Schema:
    """A whole number."""
    return _described({"type": "integer", "minimum": least, "maximum": most}, description)


def boolean(description: str = "") -> Schema:
    """True or false."""
    return _described({"type": "boolean"}, description)


def number(least: float, most: float, description: str = "") -> Schema:
    """A number, whole or not."""
    return _described({"type": "number", "minimum": least, "maximum": most}, description)


def array(items: Schema, most: int, description: str = "", *, least: int = 0) -> Schema:
    """A list."""
    schema: Schema = {"type": "array", "maxItems": most, "items": items}
    if least:
        schema["minItems"] = least
    return _described(schema, description)


def mapping(properties: dict[str, Schema], description: str = "", *, required: Iterable[str] = (), **more: Any) -> Schema:
    """An object whose fields are known; others are kept for the agent to refuse."""
    schema: Schema = {"type": "object", "properties": properties, **_KEPT, **more}
    if required:
        schema["required"] = sorted(required)
    return _described(schema, description)


def either(description: str) -> Schema:
    """A string, or an object that says how it is meant: no type of OpenAPI, so the agent alone judges it."""
    return _described(dict(_KEPT), description)


def refused(description: str) -> Schema:
    """A field of Cilium's that can't be enforced: any value is refused by a rule on the object it stands in."""
    return _described(dict(_KEPT), description)


def exactly_one(names: Iterable[str]) -> Schema:
    """Just one of these fields is set."""
    return {"oneOf": [{"required": [name]} for name in names]}


def at_most_one(names: Iterable[str]) -> Schema:
    """No two of these fields are set."""
    listed = list(names)
    pairs = [(one, other) for index, one in enumerate(listed) for other in listed[index + 1 :]]
    return {"not": {"anyOf": [{"required": list(pair)} for pair in pairs]}}


def _described(schema: Schema, description: str) -> Schema:
    return {"description": description, **schema} if description else schema


# ---- selectors and peers --------------------------------------------------------------------------------------------


def selector(description: str) -> Schema:
    """A label selector."""
    expression = mapping(
        {
            "key": text(longest=NAME_CHARS_MAX + LABEL_CHARS_MAX + 64, least=1),
            "operator": choice(Operator),
            "values": array(text(longest=LABEL_CHARS_MAX), VALUES_MAX),
        },
        required=("key", "operator"),
    )
    labels = {"type": "object", "additionalProperties": text(longest=LABEL_CHARS_MAX)}
    return mapping({"matchLabels": labels, "matchExpressions": array(expression, EXPRESSIONS_MAX)}, description)


def _cidr_set() -> Schema:
    names = ("cidr", "cidrGroupRef", "cidrGroupSelector")
    return mapping(
        {
            "cidr": text("A prefix, like 10.0.0.0/8.", longest=64, least=1),
            "cidrGroupRef": text("The name of a CiliumCIDRGroup.", longest=NAME_CHARS_MAX, least=1),
            "cidrGroupSelector": selector("Selects CiliumCIDRGroups by their labels."),
            "except": array(text(longest=64, least=1), EXCEPTS_MAX, "Prefixes within it that are left out."),
        },
        **exactly_one(names),
    )


def _service() -> Schema:
    namespace = text("Empty: any.", longest=LABEL_CHARS_MAX)
    named = mapping({"serviceName": text(longest=NAME_CHARS_MAX, least=1), "namespace": namespace}, required=("serviceName",))
    selected = mapping({"selector": selector("By the Service's labels."), "namespace": namespace}, required=("selector",))
    return mapping({"k8sService": named, "k8sServiceSelector": selected}, **exactly_one(("k8sService", "k8sServiceSelector")))


def _names(properties: dict[str, Schema]) -> Schema:
    return mapping(
        {
            "matchName": text("A full name.", longest=DOMAIN_CHARS_MAX, least=1),
            "matchPattern": text("A name with * for any run within a label, **. for labels.", longest=DOMAIN_CHARS_MAX, least=1),
            "except": array(text(longest=DOMAIN_CHARS_MAX, least=1), EXCEPTS_MAX, "Patterns of names that are left out."),
            **properties,
        },
        **exactly_one(("matchName", "matchPattern")),
    )


def peers(word: str, *, deny: bool) -> dict[str, Schema]:
    """The peer fields of a rule; ``word`` is ``from`` or ``to``."""
    fields = {
        f"{word}Endpoints": array(selector("Workloads by their labels."), PEERS_MAX, "Workloads; {} is every one in scope."),
        f"{word}Entities": array(choice(Entity), PEERS_MAX, "Groups of peers that have a name."),
        f"{word}CIDR": array(text(longest=64, least=1), PEERS_MAX, "Addresses outside the cluster."),
        f"{word}CIDRSet": array(_cidr_set(), PEERS_MAX, "Addresses outside the cluster, with exceptions."),
        f"{word}Nodes": array(selector("Nodes by their labels."), PEERS_MAX, "Nodes of the cluster."),
        f"{word}Groups": refused("Not supported: list the addresses in a CIDR set."),
        f"{word}Requires": refused("Removed: put the requirement into each selector. An empty list means nothing."),
    }
    if word == "to":
        fields["toServices"] = array(_service(), PEERS_MAX, "The backends of Services.")
        fields["toFQDNs"] = refused("Names can't be denied.") if deny else array(_names({}), PEERS_MAX, "DNS names.")
    return fields


# ---- what may be said -----------------------------------------------------------------------------------------------


def _secret(description: str, *, with_key: bool) -> Schema:
    fields = {
        "name": text(longest=NAME_CHARS_MAX, least=1),
        "namespace": text("The policy's own unless given; clusterwide policies must give it.", longest=LABEL_CHARS_MAX),
    }
    if with_key:
        fields["key"] = text("Which entry of the Secret; may be left out if it has just one.", longest=NAME_CHARS_MAX)
    return mapping(fields, description, required=("name",))


def _headers() -> dict[str, Schema]:
    match = mapping(
        {
            "name": text(longest=256, least=1),
            "value": either("A string (exact), or {exact: ..}, {prefix: ..} or {regex: ..}."),
            "invert": boolean("The predicate must not hold; without a value: the header is absent."),
            "secret": _secret("Equals this Secret's entry.", with_key=True),
            "mismatch": choice(MismatchAction, "What happens when the header is not so.", empty=True),
        },
        required=("name",),
    )
    return {
        "headers": array(text(longest=VALUE_CHARS_MAX + 256, least=1), MATCHES_MAX, '"Name: value", or "Name": present.'),
        "headerMatches": array(match, MATCHES_MAX, "Predicates on headers."),
    }


def http_rule() -> Schema:
    """One HTTP rule."""
    query = mapping(
        {"name": text(least=1), "value": either("A string (exact), or {exact|prefix|regex: ..}.")}, required=("name",)
    )
    return mapping(
        {
            "method": either("A string (a regular expression), or {exact: ..} or {regex: ..}."),
            "path": either("A string (a regular expression), or {exact: ..}, {prefix: ..} or {regex: ..}."),
            "host": either("A string (a regular expression), or {exact: ..} or {regex: ..}."),
            "query": array(query, MATCHES_MAX, "Predicates on query parameters."),
            **_headers(),
        },
        "All that is set must hold; {} is every request.",
    )


def grpc_rule() -> Schema:
    """One gRPC rule."""
    return mapping(
        {
            "service": text("Like package.Service.", longest=GRPC_CHARS_MAX, least=1),
            "method": text("Without it every method of the service.", longest=GRPC_CHARS_MAX, least=1),
            **_headers(),
        },
        "A call; {} is every one.",
        anyOf=[{"required": ["service"]}, {"not": {"required": ["method"]}}],
    )


def kafka_rule() -> Schema:
    """One Kafka rule."""
    fields: dict[str, Schema] = {
        "role": choice(KafkaRole, "A set of API keys.", empty=True),
        "apiKey": text("The name of one API, case aside.", longest=64),
        "apiVersion": text("A decimal.", longest=16),
        "clientID": text(longest=1024),
    }
    for name, what in (("topic", "topic"), ("group", "consumer group")):
        fields[name] = text(f"A {what}'s name.", longest=1024, least=1)
        fields[f"{name}Prefix"] = text(f"How the {what}'s name begins.", longest=1024, least=1)
        fields[f"{name}Regex"] = text(f"A regular expression for the whole of the {what}'s name.", least=1)
        fields[f"{name}s"] = array(either("A name, or {prefix: ..} or {regex: ..}."), MATCHES_MAX, least=1)
    return mapping(fields, "All that is set must hold; {} is every request.")


def l7_rules() -> Schema:
    """The ``rules`` of a port."""
    dns = _names({"queryTypes": array(text("Like AAAA.", longest=16, least=1), QUERY_TYPES_MAX)})

    def rules(items: Schema, description: str) -> Schema:
        return array(items, L7_RULES_MAX, description, least=1)

    families = (("http", "httpDeny", "grpc", "grpcDeny"), ("kafka", "kafkaDeny"), ("dns",))
    mixed = [
        {"required": [one, other]}
        for index, family in enumerate(families)
        for one in family
        for rest in families[index + 1 :]
        for other in rest
    ]
    return mapping(
        {
            "http": rules(http_rule(), "Requests that pass."),
            "httpDeny": rules(http_rule(), "Requests that don't, whatever any policy allows."),
            "grpc": rules(grpc_rule(), "Calls that pass; counts with http."),
            "grpcDeny": rules(grpc_rule(), "Calls that don't."),
            "kafka": rules(kafka_rule(), "Kafka requests that pass."),
            "kafkaDeny": rules(kafka_rule(), "Kafka requests that don't."),
            "dns": rules(dns, "Names that may be asked for."),
            "l7proto": refused("Not supported."),
            "l7": refused("Not supported."),
        },
        "What may be said on the port; one protocol.",
        **{"not": {"anyOf": [*mixed, {"required": ["l7proto"]}, {"required": ["l7"]}]}},
    )


def _tls(description: str) -> Schema:
    key = text("An entry of the Secret.", longest=NAME_CHARS_MAX)
    fields = {"secret": _secret("Where the keys are.", with_key=False), "trustedCA": key, "certificate": key, "privateKey": key}
    return mapping(fields, description, required=("secret",))


def ports() -> Schema:
    """A list of ports."""
    port = mapping(
        {
            "port": text('A number or a name; "0" is every port.', longest=64, least=1),
            "endPort": integer(0, 65535, "The last port of a range."),
            "protocol": text(f"ANY unless given; else one of {', '.join(ProtocolName)}.", longest=16),
        }
    )
    return array(port, PORTS_MAX, least=1)


def to_ports(*, deny: bool) -> Schema:
    """One ``toPorts`` item."""
    if deny:
        fields = {"ports": ports(), "rules": refused("A deny rule can't look into L7: use httpDeny of an allow rule.")}
        return mapping(fields, required=("ports",), **{"not": {"required": ["rules"]}})
    fields = {
        "ports": ports(),
        "rules": l7_rules(),
        "serverNames": array(text(longest=SERVER_NAME_CHARS_MAX, least=1), SERVER_NAMES_MAX, "Allowed names of TLS (SNI)."),
        "terminatingTLS": _tls("The proxy opens the client's TLS."),
        "originatingTLS": _tls("The proxy speaks TLS to the server."),
        "listener": refused("Not supported: Tidegate makes the listeners itself."),
    }
    return mapping(fields, required=("ports",), **{"not": {"required": ["listener"]}})


# ---- rules and the spec -----------------------------------------------------------------------------------------------


def rule(word: str, *, deny: bool) -> Schema:
    """One item of a rule list."""
    field = mapping(
        {
            "family": choice(Family, "IPv4 unless given.", empty=True),
            "type": {"description": "A number or a name.", "x-kubernetes-int-or-string": True},
        },
        required=("type",),
    )
    fields = {
        **peers(word, deny=deny),
        "toPorts": array(to_ports(deny=deny), PORT_RULES_MAX, "Which ports, and what may be said there."),
        "icmps": array(
            mapping({"fields": array(field, ICMP_FIELDS_MAX, least=1)}, required=("fields",)), PORT_RULES_MAX, "Types of ICMP."
        ),
    }
    if not deny:
        fields["authentication"] = mapping(
            {"mode": {"type": "string", "enum": ["", "disabled"]}}, "Only disabled can be had.", required=("mode",)
        )
    wrong = [f"{word}Groups"] + (["toFQDNs"] if deny and word == "to" else [])
    return mapping(
        fields,
        "Peers of one kind, and ports; {} allows nothing but turns default deny on."
        if not deny
        else "Peers of one kind, and ports, that are denied.",
        **{"not": {"anyOf": [{"required": [name]} for name in wrong]}},
        **{
            "x-kubernetes-validations": [
                cel(
                    "!(has(self.toPorts) && size(self.toPorts) > 0 && has(self.icmps) && size(self.icmps) > 0)",
                    "icmps and toPorts exclude each other",
                ),
            ]
        },
    )


def cel(expression: str, message: str) -> Schema:
    """A rule in the Common Expression Language."""
    return {"rule": expression, "message": message}


RULE_LISTS = {"ingress": ("from", False), "ingressDeny": ("from", True), "egress": ("to", False), "egressDeny": ("to", True)}


def spec(*, clusterwide: bool) -> Schema:
    """The spec of a TidegatePolicy."""
    label = mapping(
        {
            "key": text(longest=NAME_CHARS_MAX, least=1),
            "value": text(),
            "source": text(longest=64, least=1),
            "cidr": refused("Unread."),
        },
        required=("key",),
    )
    needed = (*RULE_LISTS, "observe")
    any_list = " || ".join(f"(has(self.{name}) && size(self.{name}) > 0)" for name in needed)
    observed = mapping(
        {
            "direction": choice(Direction, "As the workload sees it."),
            "ports": ports(),
            "protocol": choice(ObservedProtocol, "What is spoken there."),
            "sample": number(
                0, 1, "The share of requests that is recorded, whoever follows; the node's flows.allowedSample if not given."
            ),
        },
        required=("direction", "ports", "protocol"),
    )
    fields = {
        "endpointSelector": selector("The workloads that the policy is about; {} is every one in scope."),
        "nodeSelector": selector("The nodes that it is about; clusterwide policies only."),
        **{
            name: array(
                rule(word, deny=deny),
                RULES_MAX,
                f"{'Denied' if deny else 'Allowed'} {'clients' if word == 'from' else 'servers'}.",
            )
            for name, (word, deny) in RULE_LISTS.items()
        },
        "enableDefaultDeny": mapping(
            {"ingress": boolean(), "egress": boolean()}, "Whether what no rule allows is denied; true where there are rules."
        ),
        "description": text(longest=DESCRIPTION_CHARS_MAX),
        "labels": array(label, LABELS_MAX, "Of the rule itself; without meaning for verdicts."),
        "log": mapping({"value": text("A word that flow records of this policy carry.", longest=LOG_CHARS_MAX)}),
        "mode": choice(Mode, "audit: what would be denied is counted and reported, and passes."),
        "offload": mapping(
            {"deniesPerSecond": integer(1, DENIES_PER_SECOND_MAX), "seconds": integer(1, OFFLOAD_SECONDS_MAX)},
            "Drop a peer in the kernel for a while once more of its requests are denied.",
            required=("deniesPerSecond", "seconds"),
        ),
        "observe": array(observed, OBSERVE_MAX, "TCP ports that are led through the proxy to be seen; nothing is denied."),
    }
    subjects = ("endpointSelector", "nodeSelector")
    rules = [
        cel(
            f"{' || '.join(f'has(self.{name})' for name in subjects)}",
            f"needs {' or '.join(subjects if clusterwide else subjects[:1])}",
        ),
        cel(
            f"!({' && '.join(f'has(self.{name})' for name in subjects)})", "endpointSelector and nodeSelector exclude each other"
        ),
        cel(any_list, f"needs at least one of {', '.join(needed)}; ingress: [{{}}] denies all ingress"),
    ]
    if not clusterwide:
        rules.append(cel("!has(self.nodeSelector)", "only a clusterwide policy can select nodes"))
    return mapping(fields, "What is allowed and denied.", **{"x-kubernetes-validations": rules})
