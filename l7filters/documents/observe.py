"""Ports that a TidegatePolicy wants seen, not judged: ``observe``.

Owns: the items of ``observe``. Semantics: docs/policy.md. Must not know rules.
"""

from __future__ import annotations

from enum import StrEnum

from l7filters.documents.ports import port_list
from l7filters.documents.reader import Fields, Node
from l7filters.documents.scope import Scope
from l7filters.model import Direction, L7Protocol, L7Rules, Observation, PortRule, Protocol

OBSERVE_MAX = 128
"""Items of one ``observe``."""


class ObservedProtocol(StrEnum):
    """What can be seen without being judged."""

    HTTP = "http"


def observation(node: Node, scope: Scope) -> Observation:
    """Read one item."""
    direction, sample = None, None
    with node.fields() as fields:
        direction_node, protocol_node = fields.require("direction"), fields.require("protocol")
        if direction_node is not None:
            direction = direction_node.choice(Direction)
        if protocol_node is not None:
            protocol_node.choice(ObservedProtocol)
        chosen = port_list(fields)
        if any(spec.protocol not in (Protocol.ANY, Protocol.TCP) for spec in chosen):
            fields.error("only TCP ports can be observed", "HTTP is read on TCP")
        if any(spec.port == 0 for spec in chosen):
            fields.error("every port can't be observed", "name those that speak HTTP: all else ends at the proxy")
        sample = fields.read("sample", _share, None)
        if scope.host:
            fields.error("a policy on nodes can't observe", "the proxy is not in the way of the host's own traffic")
    rules = PortRule(chosen, scope.origin(node), L7Rules(L7Protocol.HTTP, deny_only=True))
    return Observation(direction or Direction.INGRESS, rules, sample)


def observations(fields: Fields, scope: Scope) -> tuple[Observation, ...]:
    """Read ``observe``."""
    return tuple(observation(node, scope) for node in fields.items("observe", OBSERVE_MAX) or [])


def _share(node: Node) -> float | None:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        node.error("must be a number between 0 and 1", "0.1 records a tenth of the requests")
        return None
    return float(value)
