"""The Kafka filter of a slot: what Tidegate's module is told of the rules, and how an edit of them gets there.

Owns: the configuration of the module's filter ``kafka``. Must not know Kafka's messages; the filter has tables of its own.

The filter's configuration is an extension config (ECDS). Envoy makes a configuration of the new rules at once; in it the module
finds the slot that it is for, and every live connection of that slot goes by it from its next request.

What the filter is told, as JSON (``proxylib/native/src/kafka/policy.rs`` reads it)::

    {"slot": 7, "sides": [SIDE, ...],              all sides must allow
     "report": {"socket": PATH, "allowed_every": N},   datagrams go there; of allowed requests every Nth, 0: none
     "counts": TEXT}                                   what each request is counted by, as l7filters/envoy/counts.py writes it
    SIDE   {"audit": bool, "allow": [RULE, ...], "deny": [RULE, ...]}      audit: it is reported, and denies nothing
    RULE   {"origin": TEXT, "apis": [NUMBER, ...], "version": NUMBER, "client": TEXT, "topics": [MATCH, ...],
            "groups": [MATCH, ...]}
    MATCH  {"exact": TEXT} | {"prefix": TEXT} | {"program": [STEP, ...]}   a regular expression as proxylib/kafka/pattern.py
                                                                           compiles it

``apis`` is written out; what else a rule does not set is absent. What allows every request is a rule for every API.
What a rule means for a request is told in ``l7filters/kafka.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from envoy.config.core.v3.config_source_pb2 import ExtensionConfigSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.listener.v3.listener_components_pb2 import Filter

from l7filters.envoy import names
from l7filters.envoy.counts import counts_settings
from l7filters.envoy.message import from_agent
from l7filters.envoy.native import dynamic_module, part_config, typed_struct
from l7filters.envoy.resource import RuleProblem
from l7filters.envoy.settings import EnvoySettings
from l7filters.ir import DirectionRules, RuleSet, Slot
from l7filters.kafka import JUDGED_APIS, apis_of
from l7filters.model import Direction, KafkaRule, MatchKind, StringMatch
from proxylib.kafka.pattern import compile_pattern

PART = "kafka"
MESSAGE = "envoy.extensions.filters.network.dynamic_modules.v3.DynamicModuleNetworkFilter"


def kafka_config(slot: Slot, slot_id: int, settings: EnvoySettings, allowed_sample: float) -> TypedExtensionConfig:
    """Return the extension config of a Kafka slot. Raises RuleProblem where there is no module."""
    if settings.native_module is None:
        raise RuleProblem(
            "Kafka rules need Tidegate's native module, and there is none",
            "build it with deploy/setup/native.sh, or name its file in node.yaml: envoy.nativeModule",
        )
    sides = [side for rules in (slot.egress, slot.ingress) if rules is not None for side in _sides(rules)]
    told: dict[str, object] = {"slot": slot_id, "sides": sides}
    if settings.kafka_reports is not None:
        every = round(1 / allowed_sample) if allowed_sample > 0 else 0
        told["report"] = {"socket": settings.kafka_reports, "allowed_every": every}
    if settings.maps_directory is not None:
        judging = ((Direction.EGRESS, slot.egress), (Direction.INGRESS, slot.ingress))
        told["counts"] = counts_settings(slot_id, [each for each, rules in judging if rules is not None], settings)
    config = {
        "dynamic_module_config": dynamic_module(settings.native_module),
        "filter_name": PART,
        "filter_config": part_config(told),
    }
    return TypedExtensionConfig(name=names.kafka_config(slot_id), typed_config=typed_struct(MESSAGE, config))


def kafka_filter(slot_id: int) -> Filter:
    """Return the filter that asks the agent for its rules; without them the connection is closed."""
    source = ExtensionConfigSource(config_source=from_agent(), type_urls=["type.googleapis.com/" + MESSAGE])
    return Filter(name=names.kafka_config(slot_id), config_discovery=source)


def _sides(rules: DirectionRules) -> list[dict[str, object]]:
    """Return what is enforced and, where it differs, what audit would say."""
    found = [{"audit": False, **_rules(rules.enforced)}]
    if rules.shadow is not None:
        found.append({"audit": True, **_rules(rules.shadow)})
    return found


def _rules(rules: RuleSet) -> dict[str, object]:
    every = list(JUDGED_APIS)
    return {
        "deny": [_rule(rule) for rule in rules.deny if isinstance(rule, KafkaRule)],
        "allow": [
            *(_rule(rule) for rule in rules.allow if isinstance(rule, KafkaRule)),
            *({"origin": str(origin), "apis": every} for origin in rules.allow_all),
        ],
    }


def _rule(rule: KafkaRule) -> dict[str, object]:
    told: dict[str, object] = {"origin": str(rule.origin), "apis": list(apis_of(rule))}
    if rule.api_version is not None:
        told["version"] = rule.api_version
    if rule.client_id is not None:
        told["client"] = rule.client_id
    if rule.topics:
        told["topics"] = _matches(rule.topics)
    if rule.groups:
        told["groups"] = _matches(rule.groups)
    return told


def _matches(matches: Iterable[StringMatch]) -> list[dict[str, object]]:
    return [_match(match) for match in matches]


def _match(match: StringMatch) -> dict[str, object]:
    match match.kind:
        case MatchKind.EXACT | MatchKind.PREFIX:
            return {str(match.kind): match.value}
        case MatchKind.REGEX:
            return {"program": [list(step) for step in compile_pattern(match.value)]}
        case _:
            assert_never(match.kind)
