"""One Kafka request as a policy sees it, and what one rule says of it.

Owns: which rules cover an API, and the predicates on version, client id, topics and groups. Must not know the wire, precedence
or Envoy; the filter in Envoy says the same in Rust. How each API is authorised is ``proxylib.kafka.authorization``'s;
docs/kafka.md tells both.

What a request names is judged in *places*: each topic, each group, or, where it names both, the group and then each topic within
the group. A request that names neither is one place. Every place must be allowed for the whole to pass; Kafka answers those that
aren't one by one.

1. A rule covers an API by its ``apiKey``; by its ``role``; or, with neither: every API, but a rule that gives topics or groups
   only those that name such, and those of a role. So ``{topic: x}`` grants no administration of anything but x.
2. An allow rule's ``topics`` count where the place has a topic, its ``groups`` where it has a group: a request that names no
   topic is not kept from passing by them (Cilium's meaning). In the APIs of configuration a resource that is neither topic nor
   group is the cluster's, and only a rule without topics and groups allows it.
3. A deny rule's ``topics`` and ``groups`` must hold: it denies no place that lacks one.
4. Who asks for all topics (Metadata, DescribeTopicPartitions) or groups (ListGroups) is answered, with those that he may see.
5. Negotiation (ApiVersions and SASL) is not judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from l7filters.model import KafkaRole, KafkaRule, StringMatch
from l7filters.predicates import Check, shown, string_holds, wanted_words
from proxylib.kafka.apis import APIS, Api
from proxylib.kafka.authorization import (
    AUTHORIZATIONS,
    GROUPS_FILTERED,
    TOPICS_FILTERED,
    TRANSACTIONAL,
    TRANSACTIONS,
    Roles,
    Scope,
)

API_BY_NUMBER: Final = {api.number: api for api in APIS}
API_BY_NAME: Final = {api.name.lower(): api for api in APIS}
"""By the lower-case name that rules hold."""
JUDGED_APIS: Final = (*sorted(number for number, row in AUTHORIZATIONS.items() if row.judged), TRANSACTIONS)
ROLES: Final = {KafkaRole.PRODUCE: Roles.PRODUCE, KafkaRole.CONSUME: Roles.CONSUME}
_TOPICS: Final = Scope.TOPIC | Scope.RESOURCE
_GROUPS: Final = Scope.GROUP | Scope.RESOURCE | Scope.COORDINATOR


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaRequest:
    """One request. ``client_id`` is what the client says of itself: empty when it says nothing.

    ``topics`` empty: it names none, or asks for all that there are. ``groups`` likewise.
    """

    api: int
    version: int
    client_id: str = ""
    topics: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = [*(f"topic {shown(topic)}" for topic in self.topics), *(f"group {shown(group)}" for group in self.groups)]
        return " ".join([f"Kafka {self.name} v{self.version}", ", ".join(named)]).rstrip()

    @property
    def name(self) -> str:
        """Kafka's name of the API."""
        known = API_BY_NUMBER.get(self.api)
        return known.name if known is not None else f"API key {self.api}"

    @property
    def is_known(self) -> bool:
        """Whether Kafka 4 has this API in this version; what it hasn't is refused, whatever rules say."""
        known = API_BY_NUMBER.get(self.api)
        return known is not None and known.version_min <= self.version <= known.version_max

    @property
    def lists(self) -> bool:
        """Whether it asks for all topics or groups that there are: such a request passes, and its answer is filtered."""
        return (self.api in TOPICS_FILTERED and not self.topics) or (self.api in GROUPS_FILTERED and not self.groups)

    def places(self) -> tuple[Place, ...]:
        """Return what is judged, in order. Raises KeyError for an unknown API."""
        scope = AUTHORIZATIONS[self.api].scope
        topics = self.topics if scope & _TOPICS else ()
        groups = self.groups if scope & _GROUPS else ()
        found = [Place(None, group) for group in groups]
        if scope & Scope.RESOURCE or not groups:
            found += [Place(topic, None) for topic in topics]
        else:
            found += [Place(topic, group) for group in groups for topic in topics]
        return tuple(found) or (Place(None, None),)


class Place(NamedTuple):
    """What of a request is judged at once."""

    topic: str | None
    group: str | None


NOWHERE: Final = Place(None, None)
"""The place of a request that names nothing."""


def apis_of(rule: KafkaRule) -> tuple[int, ...]:
    """Return the numbers of the judged APIs that a rule covers, ascending; TRANSACTIONS where it covers those."""
    found = tuple(number for number in sorted(AUTHORIZATIONS) if covers(rule, number))
    return (*found, TRANSACTIONS) if covers_transactions(rule) else found


def covers_transactions(rule: KafkaRule) -> bool:
    """Tell whether a rule speaks of transactional ids: the use of one, whatever it is used for."""
    if rule.api_key is not None:
        named = API_BY_NAME.get(rule.api_key)
        return named is not None and named.number in TRANSACTIONAL
    return rule.role is not KafkaRole.CONSUME


def covers(rule: KafkaRule, api: int) -> bool:
    """Tell whether a rule speaks of an API at all."""
    row = AUTHORIZATIONS[api]
    if not row.judged:
        return False
    if rule.api_key is not None:
        named = API_BY_NAME.get(rule.api_key)
        return named is not None and named.number == api
    if rule.role is not None:
        return ROLES[rule.role] in row.roles
    if not rule.topics and not rule.groups:
        return True
    if row.roles is not Roles.NONE:
        return True
    return bool((rule.topics and row.scope & _TOPICS) or (rule.groups and row.scope & _GROUPS))


def kafka_checks(rule: KafkaRule, request: KafkaRequest, place: Place, *, denies: bool) -> tuple[Check, ...]:
    """Return every predicate of ``rule`` as judged on one place of ``request``; the rule matches when all hold."""
    of_transaction = bool(AUTHORIZATIONS[request.api].scope & Scope.COORDINATOR) and place == NOWHERE
    covered = covers_transactions(rule) if of_transaction else covers(rule, request.api)
    checks = [Check(topic="API", found=f"is {request.name}", wanted=_coverage(rule), holds=covered)]
    if rule.api_version is not None:
        holds = rule.api_version == request.version
        checks.append(Check(topic="version", found=f"is {request.version}", wanted=f"must be {rule.api_version}", holds=holds))
    if rule.client_id is not None:
        holds = rule.client_id == request.client_id
        found = f"is {shown(request.client_id)}" if request.client_id else "is empty"
        checks.append(Check(topic="client id", found=found, wanted=f"must be {shown(rule.client_id)}", holds=holds))
    strict = bool(AUTHORIZATIONS[request.api].scope & Scope.RESOURCE) and not denies
    for word, wanted, others, name in (
        ("topic", rule.topics, rule.groups, place.topic),
        ("group", rule.groups, rule.topics, place.group),
    ):
        if wanted and (name is not None or denies or (strict and place == NOWHERE)):
            checks.append(_named(word, wanted, name))
        elif strict and others and not wanted and name is not None:
            checks.append(Check(topic=word, found=f"is {shown(name)}", wanted=f"the rule gives no {word}", holds=False))
    return tuple(checks)


def kafka_holds(rule: KafkaRule, request: KafkaRequest, place: Place, *, denies: bool) -> bool:
    """Tell whether ``rule`` matches one place of ``request``."""
    return all(check.holds for check in kafka_checks(rule, request, place, denies=denies))


def _named(topic: str, wanted: tuple[StringMatch, ...], found: str | None) -> Check:
    words = " or ".join(wanted_words(match) if index == 0 else wanted_words(match)[5:] for index, match in enumerate(wanted))
    if found is None:
        return Check(topic=topic, found="is not named", wanted=words, holds=False)
    holds = any(string_holds(match, found) for match in wanted)
    return Check(topic=topic, found=f"is {shown(found)}", wanted=words, holds=holds)


def _coverage(rule: KafkaRule) -> str:
    if rule.api_key is not None:
        return f"must be {_api_name(rule.api_key)}"
    if rule.role is not None:
        return f"must be one of the role {rule.role}"
    return "must be one that names what the rule names"


def _api_name(key: str) -> str:
    known: Api | None = API_BY_NAME.get(key)
    return known.name if known is not None else key


def main_request(role: KafkaRole, topics: Iterable[str], groups: tuple[str, ...], client_id: str) -> KafkaRequest:
    """Return the request that a role is about: Produce; or Fetch, or with a group OffsetCommit, which names both."""
    name = "produce" if role is KafkaRole.PRODUCE else ("offsetcommit" if groups else "fetch")
    api = API_BY_NAME[name]
    return KafkaRequest(api=api.number, version=api.version_max, client_id=client_id, topics=tuple(topics), groups=groups)
