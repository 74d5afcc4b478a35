"""What things are called in Envoy's configuration, and how to read those names back from its logs.

Owns: names of listeners, routes, clusters, filters, metadata keys and runtime keys. Must not know messages.

**Where verdicts arrive.** Each access log entry carries the log name ``slot-<id>`` and dynamic metadata. HTTP slots use the
namespace ``envoy.filters.http.rbac``, TLS slots ``envoy.filters.network.rbac``. Keys are ``<direction>_<stage>_`` + one of

=================================  ==========================================================================================
``enforced_engine_result``         ``allowed`` or ``denied``; absent when the stage has nothing to judge or wasn't reached
``enforced_effective_policy_id``   the rule that matched, as ``str(RuleOrigin)``; absent when none did (default deny)
``shadow_engine_result``           what it would be if policies in audit mode were enforced; absent: the same as enforced
``shadow_effective_policy_id``     the rule that would have decided
=================================  ==========================================================================================

with direction ``egress`` | ``ingress`` and stage ``deny`` | ``allow`` (TLS slots: ``allow`` only). They are judged in the order
egress deny, egress allow, ingress deny, ingress allow; the first ``denied`` ends the request. Network RBAC can only tell of
shadow rules, so TLS slots have ``enforced_shadow_...`` where the first two keys have ``enforced_...``.

``read_verdicts`` turns such a mapping into values. One rule can give several policies: the second and later ones are called
``<origin>#2`` and so on. Where the rules list server names the policy of a TLS slot is ``SERVER_NAMES_POLICY``, of no rule.
Header mismatches arrive in the entry's route name: see ``read_mismatches``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from l7filters.model import Direction, MismatchAction, SecretRef
from l7filters.slots import SLOT_MAX

XDS_CLUSTER = "xds"
"""The agent, over its Unix socket: configuration and access log."""
ORIGINAL_DST_CLUSTER = "original-dst"
RUNTIME_LAYER = "tidegate"
ALLOWED_SAMPLE_KEY = "tidegate.access_log.allowed_sample"
OBSERVED_SAMPLE_KEY = "tidegate.access_log.observed_sample"
"""Never set: a slot with a sample of its own keeps it, whoever follows."""
HEADER_PREFIX = "x-tidegate-envoy"
"""Envoy obeys request headers with this prefix (retries, timeouts). Its default, ``x-envoy``, is what clients already send."""
FORWARDED_PROTO_KEPT = "x-tidegate-envoy-kept-proto"

HTTP_RBAC_NAMESPACE = "envoy.filters.http.rbac"
NETWORK_RBAC_NAMESPACE = "envoy.filters.network.rbac"
QUERY_FILTER = "tidegate.query"
QUERY_STATE_PREFIX = "tidegate.query."
ROUTER_FILTER = "envoy.filters.http.router"

SERVER_NAMES_POLICY = "server-names"
"""The policy of a TLS slot whose rules list server names: rule sets don't say which rule listed which."""
NETWORK_ENFORCED = "enforced_"
"""Network RBAC puts only shadow results into metadata; the judging filter's are told apart by this, before the key."""

DENIED = "denied"
ALLOWED = "allowed"
ENFORCED_RESULT = "enforced_engine_result"
ENFORCED_POLICY = "enforced_effective_policy_id"
SHADOW_RESULT = "shadow_engine_result"
SHADOW_POLICY = "shadow_effective_policy_id"

_SLOT_PREFIX = "slot-"
_ORIGINATING_SUFFIX = "-originating"
_MISMATCH_PREFIX = "mismatch "
_MISMATCH_SEPARATOR = "; "


class Stage(StrEnum):
    """A direction is judged in two stages, in this order."""

    DENY = "deny"
    ALLOW = "allow"


DIRECTIONS = (Direction.EGRESS, Direction.INGRESS)
"""In the order they are judged: the client's side first."""


def slot_name(slot_id: int) -> str:
    """Return the name of a slot's listener, route configuration and access log."""
    assert 1 <= slot_id <= SLOT_MAX, f"slot id {slot_id} is out of range"
    return f"{_SLOT_PREFIX}{slot_id}"


def slot_id_of(name: str) -> int | None:
    """Return the slot id of a listener, route or log name; None if it is not a slot's."""
    digits = name.removeprefix(_SLOT_PREFIX)
    if digits == name or not digits.isascii() or not digits.isdigit():
        return None
    slot_id = int(digits)
    return slot_id if 1 <= slot_id <= SLOT_MAX and slot_name(slot_id) == name else None


def originating_cluster(slot_id: int) -> str:
    """Return the name of the cluster that originates TLS for a slot."""
    return slot_name(slot_id) + _ORIGINATING_SUFFIX


def server_names_configs(slot_id: int, direction: Direction) -> tuple[str, str]:
    """Return the names of the extension configs that audit and judge the server name in one direction of a TLS slot."""
    name = f"{slot_name(slot_id)}/{direction}"
    return f"{name}/audit", name


def kafka_config(slot_id: int) -> str:
    """Return the name of the extension config that judges a Kafka slot."""
    return f"{slot_name(slot_id)}/kafka"


def rbac_filter(direction: Direction, stage: Stage) -> str:
    """Return the name of an RBAC filter, e.g. ``tidegate.egress.deny``."""
    return f"tidegate.{direction}.{stage}"


def stat_prefix(direction: Direction, stage: Stage) -> str:
    """Return what a filter's metadata keys and statistics begin with, e.g. ``egress_deny_``."""
    return f"{direction}_{stage}_"


def certificate_secret(namespace: str, name: str, certificate: str, private_key: str) -> str:
    """Return the SDS name of a certificate with its key."""
    return f"certificate/{namespace}/{name}/{certificate}/{private_key}"


def trusted_ca_secret(ref: SecretRef) -> str:
    """Return the SDS name of a trust anchor."""
    return f"trusted-ca/{ref.namespace}/{ref.name}/{ref.key}"


# ---- reading back -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StageVerdict:
    """What one stage said. ``rule`` is a ``str(RuleOrigin)``, or None when no rule matched. ``shadow_*``: if audits counted."""

    direction: Direction
    stage: Stage
    allowed: bool
    rule: str | None
    shadow_allowed: bool
    shadow_rule: str | None


def read_verdicts(metadata: Mapping[str, object]) -> tuple[StageVerdict, ...]:
    """Return the verdicts in the RBAC namespace of an access log entry, in the order they were judged."""
    found: list[StageVerdict] = []
    for direction in DIRECTIONS:
        for stage in Stage:
            prefix = stat_prefix(direction, stage)
            enforced = _either(metadata, prefix, ENFORCED_RESULT, SHADOW_RESULT)
            shadow = metadata.get(prefix + SHADOW_RESULT)
            if enforced is None and shadow is None:
                continue
            rule = _rule(_either(metadata, prefix, ENFORCED_POLICY, SHADOW_POLICY))
            found.append(
                StageVerdict(
                    direction=direction,
                    stage=stage,
                    allowed=enforced != DENIED,
                    rule=rule,
                    shadow_allowed=(enforced if shadow is None else shadow) != DENIED,
                    shadow_rule=rule if shadow is None else _rule(metadata.get(prefix + SHADOW_POLICY)),
                )
            )
    return tuple(found)


def _either(metadata: Mapping[str, object], prefix: str, http_key: str, network_key: str) -> object:
    """Return what the enforced rules said, by either kind of filter."""
    return metadata.get(prefix + http_key, metadata.get(prefix + NETWORK_ENFORCED + network_key))


def policy_names(origins: list[str]) -> list[str]:
    """Return a unique RBAC policy name for each origin: a repeated one gets ``#2``, ``#3``, ..."""
    seen: dict[str, int] = {}
    names: list[str] = []
    for origin in origins:
        seen[origin] = seen.get(origin, 0) + 1
        names.append(origin if seen[origin] == 1 else f"{origin}#{seen[origin]}")
    return names


def _rule(policy_id: object) -> str | None:
    return str(policy_id).partition("#")[0] if policy_id else None


@dataclass(frozen=True, slots=True, order=True)
class HeaderMismatch:
    """A headerMatch that did not hold, and what was done about it. ``origin`` is the rule's ``str(RuleOrigin)``."""

    origin: str
    header: str
    action: MismatchAction


def mismatch_route(mismatches: tuple[HeaderMismatch, ...]) -> str:
    """Return the name of the route that carries out ``mismatches``."""
    assert mismatches
    return _MISMATCH_PREFIX + _MISMATCH_SEPARATOR.join(f"{each.action} {each.header} {each.origin}" for each in mismatches)


def read_mismatches(route_name: str) -> tuple[HeaderMismatch, ...]:
    """Return the header mismatches that a route name of an access log entry tells of."""
    listed = route_name.removeprefix(_MISMATCH_PREFIX)
    if listed == route_name:
        return ()
    parts = (each.split(" ", 2) for each in listed.split(_MISMATCH_SEPARATOR))
    return tuple(HeaderMismatch(origin=origin, header=header, action=MismatchAction(action)) for action, header, origin in parts)
