"""What a client is answered through Tidegate by an open broker, and what by a broker with the same ACLs: the same, case by case.

Each case is an API, a version, and a policy with the ACLs that say the same. The answers are compared whole but for what differs
between any two brokers (essence.py). The differences that are meant stand in ``MEANT``, each with its reason.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.kafka.conftest import BROKER, SHOP, Brokers
from tests.kafka.essence import essence
from tests.kafka.requests import REQUESTS
from tests.support.kafka import KAFKA
from tests.support.kafka_build import build, versions
from tests.support.kafka_wire import Wire
from tests.support.netns import Pod
from tests.support.node import eventually
from tests.support.stage import Document, from_endpoints, ports, tidegate_policy

pytestmark = [pytest.mark.root, pytest.mark.envoy, pytest.mark.slow]

Acl = tuple[str, str, str, str]
TRANSACTION: Acl = ("TRANSACTIONAL_ID", "*", "LITERAL", "WRITE")


@dataclass(frozen=True)
class Policy:
    """Rules, and the ACLs that mean the same to the broker."""

    name: str
    rules: tuple[dict[str, Any], ...]
    acls: tuple[Acl, ...]

    def document(self) -> Document:
        peers = from_endpoints(SHOP)
        rules = [dict(rule) for rule in self.rules]
        return tidegate_policy(
            self.name, BROKER, ingress=[{"fromEndpoints": peers, "toPorts": ports(KAFKA, rules={"kafka": rules})}]
        )


SESSION = (
    {"apiKey": "describeCluster"},
    {"apiKey": "endTxn"},
    {"apiKey": "initProducerId"},
    {"apiKey": "describeTransactions"},
    {"apiKey": "listTransactions"},
)
"""What Kafka allows anybody, or who may use a transactional id, and Tidegate where a rule says so."""
POLICIES = (
    Policy(
        "produce", ({"role": "produce", "topic": "orders"}, SESSION[3]), (("TOPIC", "orders", "LITERAL", "WRITE"), TRANSACTION)
    ),
    Policy(
        "consume",
        ({"role": "consume", "topic": "orders", "group": "billing"}, *SESSION[1:]),
        (
            ("TOPIC", "orders", "LITERAL", "READ"),
            ("GROUP", "billing", "LITERAL", "READ"),
            TRANSACTION,
            ("BROKER", "kafka-cluster", "LITERAL", "IDEMPOTENT_WRITE"),
        ),
    ),
    Policy(
        "admin",
        (
            {"apiKey": "createTopics", "topicPrefix": "new"},
            {"apiKey": "deleteTopics", "topicPrefix": "new"},
            {"apiKey": "metadata", "topicPrefix": "new"},
            {"apiKey": "describeTopicPartitions", "topicPrefix": "new"},
            {"apiKey": "describeConfigs", "topic": "orders"},
            {"apiKey": "alterConfigs", "topic": "orders"},
            {"apiKey": "incrementalAlterConfigs", "topic": "orders"},
            SESSION[0],
        ),
        (
            ("TOPIC", "new", "PREFIXED", "CREATE"),
            ("TOPIC", "new", "PREFIXED", "DELETE"),
            ("TOPIC", "new", "PREFIXED", "DESCRIBE"),
            ("TOPIC", "orders", "LITERAL", "DESCRIBE_CONFIGS"),
            ("TOPIC", "orders", "LITERAL", "ALTER_CONFIGS"),
        ),
    ),
)

MEANT: dict[tuple[str, str, str], str] = {
    ("consume", "describe_transactions", "one"): "not compared: kio can't read the time (-1) of a transaction that has not begun",
}
"""(policy, API, what of it) -> why Tidegate's answer is another than Kafka's, or can't be compared."""


NOT_YET = ("coordinator_load_in_progress", "coordinator_not_available", "not_coordinator", "concurrent_transactions")
"""Answers of a broker whose coordinator has only just come to be: a client asks again."""
RETRIES_MAX = 100

UNASKED = {
    ("init_producer_id", 6),  # not released: Kafka 4.3 closes the connection
    ("metadata", 0),  # has no way to say "all topics" that kio would write
    ("offset_fetch", 1),  # likewise
    ("add_partitions_to_txn", 4),  # between brokers; a client that sends it is told 31 by Kafka, and of its topics by Tidegate
    ("add_partitions_to_txn", 5),
}
"""(API, version) that is not compared, and why."""


def topic_ids(pod: Pod) -> dict[str, uuid.UUID]:
    """The ids of a broker's topics, as its own pod learns them."""
    with Wire.open(pod.netns, pod.ipv4, KAFKA) as wire:
        answer = wire.ask(build("metadata", 12, {"topics": None}))
    return {topic.name: topic.topic_id for topic in answer.topics if topic.topic_id is not None}


@pytest.fixture(scope="module")
def ids(brokers: Brokers) -> dict[str, dict[str, uuid.UUID]]:
    """Each broker's topics by name."""
    allow(brokers, ("TOPIC", "*", "LITERAL", "DESCRIBE"))
    found = {"strict": topic_ids(brokers.strict)}
    return found | {"behind": topic_ids(brokers.behind)}


@pytest.fixture(scope="module", params=POLICIES, ids=lambda policy: policy.name)
def policy(request: pytest.FixtureRequest, brokers: Brokers, ids: dict[str, dict[str, uuid.UUID]]) -> Policy:
    """A policy in force at both."""
    chosen: Policy = request.param
    brokers.enforce(chosen.document())
    allow(brokers, *chosen.acls)
    return chosen


def allow(brokers: Brokers, *acls: Acl) -> None:
    """Make these the ACLs of the strict broker; it may still be electing itself."""
    with brokers.administrator(brokers.strict) as admin:
        eventually(lambda: admin.ask("allow", acls=[list(acl) for acl in acls]) == {"ok": len(acls)}, 60, "ACLs")


class Asked:
    """A client's connection to one broker; made anew when it was closed."""

    def __init__(self, pod: Pod, shop: Pod, topics: dict[str, uuid.UUID]) -> None:
        self.pod, self.shop, self.topics = pod, shop, topics
        self.names = {identity: topic for topic, identity in topics.items()}
        self._wire: Wire | None = None

    def answer(self, name: str, version: int, values: Any) -> Any:
        """What the client is answered, or how the connection ended."""
        if self._wire is None:
            self._wire = Wire.open(self.shop.netns, self.pod.ipv4, KAFKA)
            self._wire.ask(build("metadata", 12, {"topics": None}))  # clients learn topics' ids before they use them
        try:
            return essence(self._wire.ask(build(name, version, values(self.topics))), self.names)
        except EOFError:
            self.close()
            return "closed"

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None


@pytest.fixture
def asked(brokers: Brokers, ids: dict[str, dict[str, uuid.UUID]]) -> Iterator[tuple[Asked, Asked]]:
    """A connection through Tidegate, and one to Kafka's own authorizer."""
    both = (Asked(brokers.behind, brokers.shop, ids["behind"]), Asked(brokers.strict, brokers.shop, ids["strict"]))
    yield both
    for one in both:
        one.close()


@pytest.mark.parametrize("name", sorted({name for name, _, _ in REQUESTS}))
def test_a_client_is_answered_as_by_kafkas_own_authorizer(policy: Policy, asked: tuple[Asked, Asked], name: str) -> None:
    different = []
    for api, what, values in REQUESTS:
        if api != name or (policy.name, name, what) in MEANT:
            continue
        for version in versions(name):
            if (name, version) in UNASKED:
                continue
            for _ in range(RETRIES_MAX):
                through, own = (one.answer(name, version, values) for one in asked)
                if through == own or not any(word in repr((through, own)) for word in NOT_YET):
                    break
                time.sleep(0.1)
            assert own != "closed", f"{name} v{version}: the broker does not know it"
            if through != own:
                different.append(f"{name} v{version} {what}:\n  tidegate {through}\n  kafka    {own}")
    assert not different, "\n".join(different)
