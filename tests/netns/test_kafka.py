"""Kafka topic policy: real clients, a real broker, the real node, Envoy and its module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.kafka import KAFKA, Broker, Client
from tests.support.kafka_wire import Wire, produce, produce_errors
from tests.support.netns import Cluster, Pod
from tests.support.node import Node, eventually
from tests.support.stage import Document, cnp, from_endpoints, ports, tidegate_policy

pytestmark = [pytest.mark.root, pytest.mark.envoy]

BROKER = {"app": "broker"}
SHOP = {"app": "shop"}
OTHER = {"app": "other"}
DENIED = "TOPIC_AUTHORIZATION_FAILED"
TOPICS = ("orders", "orders-eu", "payments", "secrets")


class KafkaStage:
    """A broker, two clients' pods and the node."""

    def __init__(self) -> None:
        self.cluster = Cluster(prefix="tgkafka")
        self.node = Node(self.cluster)
        self._enforced: dict[str, str] = {}

    def enforce(self, *documents: Document) -> None:
        wanted = {document.name: document.text for document in documents}
        if wanted != self._enforced:
            self.node.set_policies(wanted)
            self._enforced = wanted

    def client(self, library: str = "confluent", pod: Pod | None = None, family: int = 4) -> Client:
        return Client(pod or self.shop, library, self.broker.authority(KAFKA, family))

    broker: Pod
    shop: Pod
    other: Pod


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaStage]:
    stage = KafkaStage()
    with stage.cluster as cluster:
        stage.broker = cluster.pod("broker", BROKER)
        stage.shop = cluster.pod("shop", SHOP)
        stage.other = cluster.pod("other", OTHER)
        with Broker.tansu(stage.broker, cluster.directory), stage.node:
            with Client(stage.shop, "confluent", stage.broker.authority(KAFKA)) as admin:
                assert admin.ask("create", topics=list(TOPICS)) == {"ok": dict.fromkeys(TOPICS, "ok")}
                assert admin.ask("produce", topics=list(TOPICS), count=3) == {"ok": dict.fromkeys(TOPICS, "ok")}
            yield stage


@pytest.fixture(params=["confluent", "aiokafka", "kafka-python"])
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def rules(*items: dict[str, Any], deny: tuple[dict[str, Any], ...] = ()) -> list[dict[str, Any]]:
    lists: dict[str, Any] = {"kafka": list(items)} if items else {}
    if deny:
        lists["kafkaDeny"] = list(deny)
    return [{"fromEndpoints": from_endpoints(SHOP), "toPorts": ports(KAFKA, rules=lists)}]


def test_producer_may_write_the_topic_of_its_rule_and_no_other(kafka: KafkaStage, library: str) -> None:
    kafka.enforce(cnp("orders", BROKER, ingress=rules({"role": "produce", "topic": "orders"})))
    with kafka.client(library) as client:
        assert client.ask("produce", topics=["orders"], count=3) == {"ok": {"orders": "ok"}}
        assert client.ask("produce", topics=["payments"]) == {"ok": {"payments": DENIED}}


def test_one_producer_with_allowed_and_denied_topics_is_answered_per_topic(kafka: KafkaStage) -> None:
    kafka.enforce(cnp("orders", BROKER, ingress=rules({"role": "produce", "topic": "orders"})))
    with kafka.client() as client:
        assert client.ask("produce", topics=["orders", "payments"]) == {"ok": {"orders": "ok", "payments": DENIED}}
        assert client.ask("produce", topics=["orders", "payments"]) == {"ok": {"orders": "ok", "payments": DENIED}}


def test_consumer_may_read_the_topic_of_its_rule_and_no_other(kafka: KafkaStage, library: str) -> None:
    kafka.enforce(cnp("orders", BROKER, ingress=rules({"role": "consume", "topic": "orders"})))
    with kafka.client(library) as client:
        assert client.ask("consume", topic="orders", count=3) == {"ok": 3}
        assert client.ask("consume", topic="payments", patience_s=2)["error"] in (DENIED, "NOTHING")


def test_consumer_of_a_group(kafka: KafkaStage) -> None:
    rule = {"role": "consume", "topic": "orders", "group": "billing"}
    kafka.enforce(tidegate_policy("orders", BROKER, ingress=rules(rule)))
    with kafka.client() as client:
        assert client.ask("group", topics=["orders"], group="billing") == {"ok": 1}
        assert client.ask("group", topics=["orders"], group="spies") == {"error": "GROUP_AUTHORIZATION_FAILED"}


def test_metadata_of_all_topics_is_filtered(kafka: KafkaStage) -> None:
    kafka.enforce(cnp("orders", BROKER, ingress=rules({"role": "consume", "topic": "orders"})))
    with kafka.client() as client:
        assert client.ask("metadata") == {"ok": {"orders": "ok"}}
        assert client.ask("metadata", topic="payments")["ok"]["payments"] == DENIED


def test_an_edit_reaches_the_next_request_of_a_live_connection(kafka: KafkaStage) -> None:
    orders = cnp("orders", BROKER, ingress=rules({"role": "produce", "topic": "orders"}))
    payments = cnp("orders", BROKER, ingress=rules({"role": "produce", "topic": "payments"}))
    kafka.enforce(orders)
    with Wire.open(kafka.shop.netns, kafka.broker.ipv4, KAFKA) as wire:
        for document, expected in ((orders, "none"), (payments, DENIED.lower()), (orders, "none")):
            kafka.enforce(document)
            assert produce_errors(wire.ask(produce(("orders",)))) == {"orders": expected}


def test_pipelined_requests_are_answered_in_their_order(kafka: KafkaStage) -> None:
    kafka.enforce(cnp("orders", BROKER, ingress=rules({"role": "produce", "topic": "orders"})))
    with Wire.open(kafka.shop.netns, kafka.broker.ipv4, KAFKA) as wire:
        sent = [wire.send(produce((topic,))) for topic in ("orders", "payments", "orders", "payments", "payments", "orders")]
        answers = [wire.receive("produce", 9) for _ in sent]
    assert [number for number, _ in answers] == sent
    errors = [error for _, answer in answers for error in produce_errors(answer).values()]
    assert errors == ["none", DENIED.lower(), "none", DENIED.lower(), DENIED.lower(), "none"]


def test_every_request_is_counted_by_its_verdict(kafka: KafkaStage) -> None:
    kafka.enforce(cnp("orders", BROKER, ingress=rules({"role": "produce", "topic": "orders"})))
    before = counted(kafka)
    with Wire.open(kafka.shop.netns, kafka.broker.ipv4, KAFKA) as wire:
        for topic in ("orders", "payments", "orders", "payments", "payments", "orders", "orders"):
            wire.ask(produce((topic,)))
    eventually(lambda: counted(kafka) - before == Counter(allowed=4, denied=3), 10, "seven requests")


def counted(kafka: KafkaStage) -> Counter[str]:
    """Verdict -> requests that the module has counted."""
    answer = kafka.node.counts()
    assert answer["unavailable"] == ""
    found: Counter[str] = Counter()
    for row in answer["counts"]:
        found[row["verdict"]] += row["requests"]
    return found


def test_denied_produce_without_acknowledgement_ends_the_connection_as_kafka_does(kafka: KafkaStage) -> None:
    kafka.enforce(cnp("orders", BROKER, ingress=rules({"role": "produce", "topic": "orders"})))
    with Wire.open(kafka.shop.netns, kafka.broker.ipv4, KAFKA) as wire:
        assert produce_errors(wire.ask(produce(("orders",)))) == {"orders": "none"}
        wire.send(produce(("payments",), acks=0))
        with pytest.raises(EOFError):
            wire.frame()


def test_tls_where_kafka_is_expected_is_closed_and_told(kafka: KafkaStage) -> None:
    kafka.enforce(cnp("orders", BROKER, ingress=rules({"role": "produce", "topic": "orders"})))
    hello = bytes.fromhex("16030100c8010000c40303") + bytes(192)
    with Wire.open(kafka.shop.netns, kafka.broker.ipv4, KAFKA) as wire:
        wire.connection.sendall(hello)
        assert wire.connection.recv(1) == b""

    def found() -> bool:
        flows = kafka.node.flows("--last", "50", "--verdict", "error")
        return any(flow.get("drop_reason_desc") == "KAFKA_TLS" or "KAFKA_TLS" in str(flow) for flow in flows)

    eventually(found, what="a flow that says TLS")


def test_topic_prefix_regex_and_deny_rules(kafka: KafkaStage) -> None:
    kafka.enforce(
        tidegate_policy(
            "prefix",
            BROKER,
            ingress=rules(
                {"role": "produce", "topicPrefix": "orders"},
                {"role": "produce", "topicRegex": "pay.*s"},
                deny=({"topic": "orders-eu"},),
            ),
        )
    )
    with kafka.client() as client:
        assert client.ask("produce", topics=list(TOPICS)) == {
            "ok": {"orders": "ok", "orders-eu": DENIED, "payments": "ok", "secrets": DENIED}
        }


def test_admin_apis_need_rules_of_their_own(kafka: KafkaStage) -> None:
    kafka.enforce(cnp("orders", BROKER, ingress=rules({"role": "produce", "topic": "orders"})))
    with kafka.client() as client:
        assert client.ask("create", topics=["new"]) == {"ok": {"new": DENIED}}
        assert client.ask("delete", topics=["payments"]) == {"ok": {"payments": DENIED}}
    kafka.enforce(tidegate_policy("admin", BROKER, ingress=rules({"apiKey": "createTopics", "topicPrefix": "new"})))
    with kafka.client() as client:
        assert client.ask("create", topics=["new-1", "old-1"]) == {"ok": {"new-1": "ok", "old-1": DENIED}}


def test_who_may_not_connect_does_not_get_an_answer(kafka: KafkaStage) -> None:
    kafka.enforce(cnp("orders", BROKER, ingress=rules({"role": "produce", "topic": "orders"})))
    assert kafka.other.tcp(kafka.broker.ipv4, KAFKA, timeout=0.5) == "timeout"


def test_denials_and_followed_requests_are_flows_with_rule_or_nearest_miss(kafka: KafkaStage) -> None:
    kafka.enforce(cnp("orders", BROKER, ingress=rules({"role": "produce", "topic": "orders"})))
    with kafka.client() as client:
        assert client.ask("produce", topics=["payments"]) == {"ok": {"payments": DENIED}}

    def found() -> list[Any]:
        flows = kafka.node.flows("--last", "200", "--protocol", "kafka", "--verdict", "denied")
        return [flow for flow in flows if "payments" in str(flow["l7"])]

    eventually(lambda: bool(found()), what="a flow of the denial")
    flow = found()[-1]
    assert "topic is payments, must be orders" in str(flow)


def test_explain_agrees(kafka: KafkaStage) -> None:
    kafka.enforce(cnp("orders", BROKER, ingress=rules({"role": "produce", "topic": "orders"})))
    ends = ("--from", "default/shop", "--to", f"default/broker:{KAFKA}", "--live")
    assert kafka.node.cli("explain", *ends, "--kafka", "produce orders").returncode == 0
    denied = kafka.node.cli("explain", *ends, "--kafka", "produce orders payments")
    assert denied.returncode == 1
    assert "topic is payments, must be orders" in denied.stdout
