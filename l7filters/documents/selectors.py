"""Label selectors and their confinement to a namespace.

Owns: the parsing of ``matchLabels``/``matchExpressions`` and Cilium's scoping rules. Must not know rules or peers.

Scoping, in order (``namespace`` None: a clusterwide policy):

1. A subject is always confined to the policy's namespace; naming another one is an error.
2. A peer that mentions a ``reserved:`` label is not confined.
3. A peer that mentions the namespace label is not confined further.
4. A clusterwide policy's peer gets "has a namespace", so that ``{}`` means every workload, not the world; except
   where the subject is ``reserved:init``.
5. A namespaced policy's peer that mentions labels of namespaces is not confined; any other is, to the policy's namespace.
"""

from __future__ import annotations

from l7filters.documents.names import label_key, label_map, label_value
from l7filters.documents.reader import Node
from l7filters.labels import NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, RESERVED_PREFIX, LabelSelector, Operator, Requirement

EXPRESSIONS_MAX = 256
VALUES_MAX = 1024
INIT_LABEL = RESERVED_PREFIX + "init"


def selector(node: Node) -> LabelSelector:
    """Read a selector; ``{}`` selects everything. After an error the result must not be used."""
    requirements: list[Requirement] = []
    with node.fields() as fields:
        labels = fields.get("matchLabels")
        if labels is not None:
            requirements += (Requirement(key, Operator.IN, (value,)) for key, value in label_map(labels).items())
        for expression in fields.items("matchExpressions", EXPRESSIONS_MAX) or []:
            requirement = _expression(expression)
            if requirement is not None:
                requirements.append(requirement)
    return LabelSelector(tuple(requirements))


def _expression(node: Node) -> Requirement | None:
    with node.fields() as fields:
        key_node = fields.require("key")
        operator_node = fields.require("operator")
        key = "" if key_node is None else label_key(key_node)
        operator = None if operator_node is None else operator_node.choice(Operator)
        values = tuple(label_value(value) for value in fields.items("values", VALUES_MAX) or [])
    if not key or operator is None:
        return None
    if operator in (Operator.IN, Operator.NOT_IN):
        if not values:
            node.error(f"operator {operator} needs values")
            return None
    elif values:
        node.error(f"operator {operator} takes no values")
        return None
    return Requirement(key, operator, values)


def subject(node: Node, namespace: str | None) -> LabelSelector:
    """Read the selector of a policy's subject, confined to its namespace."""
    chosen = selector(node)
    if namespace is None:
        return chosen
    for requirement in chosen.requirements:
        if requirement.key == NAMESPACE_LABEL and requirement.operator is Operator.IN and namespace not in requirement.values:
            node.error(f'can select only endpoints of the policy\'s own namespace "{namespace}"', "use a clusterwide policy")
    return chosen.with_namespace(namespace)


def peer(node: Node, namespace: str | None, *, subject_is_init: bool = False) -> LabelSelector:
    """Read the selector of a peer and scope it (module docstring, 2 to 5)."""
    chosen = selector(node)
    keys = [requirement.key for requirement in chosen.requirements]
    if any(key.startswith(RESERVED_PREFIX) for key in keys) or NAMESPACE_LABEL in keys:
        return chosen
    if namespace is None:
        if subject_is_init:
            return chosen
        return LabelSelector((*chosen.requirements, Requirement(NAMESPACE_LABEL, Operator.EXISTS)))
    if any(key.startswith(NAMESPACE_LABELS_PREFIX) for key in keys):
        return chosen
    return chosen.with_namespace(namespace)
