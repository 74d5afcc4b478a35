"""Kafka rules.

Owns: ``rules.kafka`` of both dialects and the names of API keys. Semantics: docs/policy.md, "Kafka". Sources: Cilium's
Kafka rules up to 1.19 (fields, its own names of keys), ``proxylib.kafka`` (Kafka's names), Kafka's rules for topic names.
Must not know the wire.
"""

from __future__ import annotations

import re

from l7filters.documents.reader import Fields, Node, closest
from l7filters.documents.regex import regex
from l7filters.documents.scope import MATCHES_MAX, Scope
from l7filters.documents.strings import string_match
from l7filters.model import KafkaRole, KafkaRule, MatchKind, StringMatch
from proxylib.kafka.apis import APIS
from proxylib.kafka.authorization import AUTHORIZATIONS
from proxylib.kafka.pattern import PatternError, compile_pattern

TOPIC_CHARS_MAX = 255
GROUP_CHARS_MAX = 1024
API_VERSION_MAX = 32767

API_KEYS = tuple(api.name.lower() for api in APIS)
"""Names of API keys, lower case."""
_ALIASES = {
    "offsets": "listoffsets",
    "offsetsforleaderepoch": "offsetforleaderepoch",
    "listclientmetricsresources": "listconfigresources",
}
_REMOVED = frozenset({"leaderandisr", "stopreplica", "updatemetadata", "controlledshutdown"})
"""Cilium has names for them; Kafka 4 removed them, so a rule of one matches nothing."""
_UNJUDGED = frozenset(api.name.lower() for api in APIS if not AUTHORIZATIONS[api.number].judged)
_TOPIC = re.compile(r"[a-zA-Z0-9._-]+\Z")
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,4})\Z")


def kafka_deny_rule(node: Node, scope: Scope) -> KafkaRule:
    """Read one item of ``rules.kafkaDeny``: negotiation is never judged, so it can't be denied."""
    rule = kafka_rule(node, scope)
    if rule.api_key in _UNJUDGED:
        node.error(f"{rule.api_key} can't be denied: negotiation (ApiVersions, SASL) always passes", "deny other API keys")
    return rule


def kafka_rule(node: Node, scope: Scope) -> KafkaRule:
    """Read one item of ``rules.kafka``."""
    with node.fields() as fields:
        both = fields.present(("role", "apiKey"))
        if len(both) == 2 and fields.values["role"] != "" and fields.values["apiKey"] != "":
            fields.error("role and apiKey exclude each other", "a role stands for a set of API keys")
        role = fields.read("role", _role, None)
        api_key = fields.read("apiKey", _api_key, None)
        api_version = fields.read("apiVersion", _api_version, None)
        client_id = fields.read("clientID", lambda at: at.string(empty=True, chars_max=GROUP_CHARS_MAX) or None, None)
        topics: tuple[StringMatch, ...]
        groups: tuple[StringMatch, ...] = ()
        if scope.is_tidegate:
            topics = _one_of(fields, "topic", topic=True)
            groups = _one_of(fields, "group", topic=False)
        else:
            topic = fields.get("topic")
            found = None
            if topic is not None and topic.value != "":
                found = _checked(topic, topic.string(), MatchKind.EXACT, topic=True)
            topics = () if found is None else (found,)
    return KafkaRule(scope.origin(node), role, api_key, api_version, client_id, topics, groups)


def _role(node: Node) -> KafkaRole | None:
    return None if node.value == "" else node.choice(KafkaRole)


def _api_key(node: Node) -> str | None:
    text = node.string(empty=True, chars_max=64).lower()
    name = _ALIASES.get(text, text)
    if name and name not in API_KEYS and name not in _REMOVED:
        node.error(f'unknown Kafka API key "{text}"', closest(text, API_KEYS))
        return None
    return name or None


def _api_version(node: Node) -> int | None:
    """Read a decimal in a string, as Cilium has it."""
    text = node.string(empty=True, chars_max=16)
    if not text:
        return None
    if not _DECIMAL.match(text) or int(text) > API_VERSION_MAX:
        node.error(f'"{text}" is not an API version', f"a decimal from 0 to {API_VERSION_MAX}")
        return None
    return int(text)


def _one_of(fields: Fields, name: str, *, topic: bool) -> tuple[StringMatch, ...]:
    """Read ``topic``, ``topicPrefix``, ``topicRegex`` or the list ``topics`` (``name`` "topic"; likewise for groups)."""
    kinds = {name: MatchKind.EXACT, f"{name}Prefix": MatchKind.PREFIX, f"{name}Regex": MatchKind.REGEX}
    given = fields.present((*kinds, f"{name}s"))
    if len(given) > 1:
        fields.error(f"{' and '.join(given)} exclude each other", f"write {name}s: [...] for several")
    if not given:
        return ()
    node = fields.get(given[0])
    assert node is not None
    if given[0] not in kinds:
        items = node.items(MATCHES_MAX)
        if isinstance(node.value, list) and not items and not node.value:
            node.error("must not be empty", f"leave {name}s out to allow any {name}")
        found = [_predicate(item, topic=topic) for item in items]
    else:
        kind = kinds[given[0]]
        text = regex(node) if kind is MatchKind.REGEX else node.string(chars_max=GROUP_CHARS_MAX)
        found = [_checked(node, text, kind, topic=topic)]
    return tuple(match for match in found if match is not None)


def _predicate(node: Node, *, topic: bool) -> StringMatch | None:
    match = string_match(node, MatchKind.EXACT, tuple(MatchKind))
    if match is None:
        return None
    if match.ignore_case:
        node.error("ignoreCase does not go with Kafka names", "they are case-sensitive")
        return None
    return _checked(node, match.value, match.kind, topic=topic)


def _checked(node: Node, text: str, kind: MatchKind, *, topic: bool) -> StringMatch | None:
    """Refuse names that can't exist, and regular expressions that Envoy's filter can't run."""
    if not text:
        return None
    if kind is MatchKind.REGEX:
        try:
            compile_pattern(text)
        except PatternError as problem:
            node.error(f"is not supported in Kafka rules: {problem}", "names are matched whole, by bytes: plain syntax will do")
            return None
    if kind is not MatchKind.REGEX:
        if topic and (len(text) > TOPIC_CHARS_MAX or not _TOPIC.match(text)):
            node.error(f'"{text[:60]}" is not a topic name', f"letters, digits, '.', '_', '-'; at most {TOPIC_CHARS_MAX}")
            return None
        if len(text) > GROUP_CHARS_MAX:
            node.error(f"is longer than {GROUP_CHARS_MAX} characters")
            return None
    return StringMatch(kind, text)
