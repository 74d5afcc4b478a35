"""The spec of a CiliumNetworkPolicy, which is also that of a TidegatePolicy.

Owns: ``spec``/``specs`` -> Policy: subject, the four rule lists, default deny, the metadata of a rule, and Tidegate's
``mode``, ``offload`` and ``observe``. Semantics: docs/policy.md. Must not know apiVersions.
"""

from __future__ import annotations

from l7filters.documents.metadata import Head
from l7filters.documents.observe import observations
from l7filters.documents.peers import peers
from l7filters.documents.ports import has_ports, to_ports
from l7filters.documents.reader import Fields, Node
from l7filters.documents.scope import RULES_MAX, Dialect, Scope
from l7filters.documents.selectors import INIT_LABEL, selector, subject
from l7filters.labels import LabelSelector
from l7filters.model import Direction, Mode, Observation, Offload, Policy, PolicyKey, Rule

DESCRIPTION_CHARS_MAX = 16384
LOG_CHARS_MAX = 32
LABELS_MAX = 128
DENIES_PER_SECOND_MAX = 1_000_000
OFFLOAD_SECONDS_MAX = 3600

_RULE_LISTS = {
    "ingress": (Direction.INGRESS, False),
    "ingressDeny": (Direction.INGRESS, True),
    "egress": (Direction.EGRESS, False),
    "egressDeny": (Direction.EGRESS, True),
}


def policies(fields: Fields, head: Head, dialect: Dialect) -> tuple[Policy, ...]:
    """Read ``spec`` or ``specs`` (or both) of a document."""
    nodes: list[Node] = []
    spec = fields.get("spec")
    if spec is not None:
        nodes.append(spec)
    specs = fields.items("specs", RULES_MAX)
    if specs is not None:
        nodes += specs
        if not specs and spec is None and fields.values["specs"] == []:
            fields.error("specs is empty", "a policy needs a spec")
    if spec is None and specs is None and not fields.broken:
        fields.error("needs spec or specs")
    return tuple(_policy(node, head, dialect) for node in nodes)


def _policy(node: Node, head: Head, dialect: Dialect) -> Policy:
    with node.fields() as fields:
        chosen, selects_nodes = _subject(fields, head)
        scope = Scope(
            key=PolicyKey(head.key),
            namespace=head.namespace,
            dialect=dialect,
            host=selects_nodes,
            subject_is_init=chosen.mentions(INIT_LABEL),
        )
        lists = {name: fields.items(name, RULES_MAX) or [] for name in _RULE_LISTS}
        needed = (*_RULE_LISTS, "observe") if scope.is_tidegate else tuple(_RULE_LISTS)
        if not fields.broken and all(fields.values.get(name, []) == [] for name in needed):
            fields.error(f"needs at least one of {', '.join(needed)}", "ingress: [{}] denies all ingress")
        rules = tuple(_rule(item, scope, *_RULE_LISTS[name]) for name, items in lists.items() for item in items)
        default_deny = _default_deny(fields, frozenset(rule.direction for rule in rules))
        description = fields.read("description", _description, "")
        log_value = fields.read("log", _log_value, "")
        fields.read("labels", _rule_labels, None)
        mode, offload = Mode.ENFORCE, None
        observe: tuple[Observation, ...] = ()
        if scope.is_tidegate:
            mode = fields.read("mode", lambda at: at.choice(Mode) or Mode.ENFORCE, Mode.ENFORCE)
            offload = fields.read("offload", _offload, None)
            observe = observations(fields, scope)
    return Policy(
        key=scope.key,
        subject=chosen,
        rules=rules,
        default_deny=default_deny,
        selects_nodes=selects_nodes,
        mode=mode,
        description=description,
        log_value=log_value,
        offload=offload,
        observe=observe,
    )


def _subject(fields: Fields, head: Head) -> tuple[LabelSelector, bool]:
    endpoints = fields.get("endpointSelector")
    nodes = fields.get("nodeSelector")
    if endpoints is not None and nodes is not None:
        fields.error("endpointSelector and nodeSelector exclude each other")
    if nodes is not None:
        if head.namespace is not None:
            nodes.error("only a clusterwide policy can select nodes", "use the clusterwide kind, or endpointSelector")
        return selector(nodes), True
    if endpoints is not None:
        return subject(endpoints, head.namespace), False
    if not fields.broken:
        alternative = "" if head.namespace is not None else " or nodeSelector"
        fields.error(f"needs endpointSelector{alternative}", "endpointSelector: {} selects every endpoint in scope")
    return LabelSelector(), False


def _rule(node: Node, scope: Scope, direction: Direction, deny: bool) -> Rule:
    with node.fields() as fields:
        limited = has_ports(fields)
        chosen = peers(fields, scope, direction, deny=deny, has_ports=limited)
        ports = to_ports(fields, scope, direction, deny=deny)
        if not deny:
            fields.read("authentication", _authentication, None)
    return Rule(scope.origin(node), direction, deny, chosen, ports)


def _authentication(node: Node) -> None:
    """Only ``disabled`` can be enforced here; to accept ``required`` would let unauthenticated peers in."""
    with node.fields() as fields:
        mode = fields.require("mode")
        if mode is not None and mode.string() not in ("", "disabled"):
            mode.error("mutual authentication is not supported", 'remove it, or write "disabled"')


def _default_deny(fields: Fields, directions: frozenset[Direction]) -> frozenset[Direction]:
    """A direction with any rule is default deny, unless ``enableDefaultDeny`` says otherwise."""
    chosen = {direction: direction in directions for direction in Direction}
    node = fields.get("enableDefaultDeny")
    if node is not None:
        with node.fields() as given:
            for direction in Direction:
                chosen[direction] = given.read(direction.value, Node.boolean, chosen[direction])
    return frozenset(direction for direction, on in chosen.items() if on)


def _description(node: Node) -> str:
    """Free text: unlike every other string it may have several lines."""
    if isinstance(node.value, str) and len(node.value) <= DESCRIPTION_CHARS_MAX:
        return "".join(char for char in node.value if char.isprintable() or char in "\n\t")
    return node.string(empty=True, chars_max=DESCRIPTION_CHARS_MAX)


def _log_value(node: Node) -> str:
    with node.fields() as fields:
        return fields.string("value", empty=True, chars_max=LOG_CHARS_MAX)


def _rule_labels(node: Node) -> None:
    """Labels of the rule itself carry no meaning for a verdict; their shape is checked all the same."""
    for item in node.items(LABELS_MAX):
        with item.fields() as fields:
            key = fields.require("key")
            if key is not None:
                key.string()
            fields.string("value", empty=True)
            fields.string("source", empty=True)
            fields.ignore("cidr")


def _offload(node: Node) -> Offload | None:
    with node.fields() as fields:
        denies = fields.require("deniesPerSecond")
        seconds = fields.require("seconds")
        if denies is None or seconds is None:
            return None
        return Offload(denies.integer(1, DENIES_PER_SECOND_MAX), seconds.integer(1, OFFLOAD_SECONDS_MAX))
