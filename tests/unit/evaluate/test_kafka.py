"""Kafka requests judged by the evaluator, and by the filter that Envoy runs: places, roles, what rules without a role cover."""

from __future__ import annotations

from typing import Any

import pytest

from l7filters.decision import Flow, Reason
from l7filters.documents import parse_documents
from l7filters.evaluate import evaluate
from l7filters.explain import explain
from l7filters.kafka import API_BY_NAME, KafkaRequest, apis_of
from l7filters.model import KafkaRule
from l7filters.world import World
from tests.support.stage import from_endpoints, ports, tidegate_policy
from tests.support.worlds import endpoint, world
from tidegate.kafka.question import read_kafka_request

PODS = (endpoint("broker", "app=broker"), endpoint("shop", "app=shop"))


def where(*rules: dict[str, Any], deny: tuple[dict[str, Any], ...] = (), mode: str = "enforce") -> World:
    lists: dict[str, Any] = {"kafka": list(rules)} if rules else {}
    if deny:
        lists["kafkaDeny"] = list(deny)
    item = {"fromEndpoints": from_endpoints({"app": "shop"}), "toPorts": ports(9092, rules=lists)}
    text = tidegate_policy("p", {"app": "broker"}, mode=mode, ingress=[item]).text
    parsed = parse_documents(text, "test")
    assert not parsed.errors
    return world(*parsed.policies, endpoints=PODS)


def asked(text: str) -> Flow:
    return Flow("default/shop", "default/broker", destination_port=9092, kafka=read_kafka_request(text))


def passes(place: World, text: str) -> bool:
    verdict = str(evaluate(place, asked(text)).verdict)
    assert verdict in ("allowed", "denied")
    return verdict == "allowed"


PRODUCE = {"role": "produce", "topic": "orders"}
CONSUME = {"role": "consume", "topic": "orders", "group": "billing"}


@pytest.mark.parametrize(
    "rules, text, expected",
    [
        ((PRODUCE,), "produce orders", True),
        ((PRODUCE,), "produce payments", False),
        ((PRODUCE,), "produce orders payments", False),
        ((PRODUCE, {"role": "produce", "topic": "payments"}), "produce orders payments", True),
        ((PRODUCE,), "fetch orders", False),
        ((PRODUCE,), "initproducerid", True),
        ((PRODUCE,), "findcoordinator", True),
        ((PRODUCE,), "findcoordinator group=g", False),
        ((CONSUME,), "findcoordinator group=billing", True),
        ((CONSUME,), "findcoordinator", False),
        ((PRODUCE,), "createtopics orders", False),
        ((CONSUME,), "fetch orders", True),
        ((CONSUME,), "offsetcommit orders group=billing", True),
        ((CONSUME,), "offsetcommit orders group=spies", False),
        ((CONSUME,), "offsetcommit payments group=billing", False),
        ((CONSUME,), "joingroup group=billing", True),
        ((CONSUME,), "joingroup group=spies", False),
        ((CONSUME, {"role": "consume", "topic": "payments", "group": "spies"}), "offsetcommit payments group=billing", False),
        ((PRODUCE,), "metadata", True),
        ((PRODUCE,), "metadata payments", False),
        (({"apiKey": "fetch", "topic": "orders"},), "metadata", True),
        (({"topic": "orders"},), "createtopics orders", True),
        (({"topic": "orders"},), "deletegroups group=g", False),
        (({"topic": "orders"},), "createacls", False),
        (({"topic": "orders"},), "heartbeat group=g", True),
        (({"group": "g"},), "deletegroups group=g", True),
        (({"group": "g"},), "deletetopics orders", False),
        (({},), "createacls", True),
        (({"apiKey": "describeConfigs", "topic": "orders"},), "describeconfigs orders", True),
        (({"apiKey": "describeConfigs", "topic": "orders"},), "describeconfigs", False),
        (({"apiKey": "describeConfigs", "topic": "orders"},), "describeconfigs group=g", False),
        (({"apiKey": "describeConfigs", "group": "g"},), "describeconfigs orders", False),
        (({"apiKey": "fetch", "apiVersion": "12"},), "fetch orders version=12", True),
        (({"apiKey": "fetch", "apiVersion": "12"},), "fetch orders version=13", False),
        (({"role": "produce", "clientID": "app"},), "produce orders client=app", True),
        (({"role": "produce", "clientID": "app"},), "produce orders", False),
        (({"role": "produce", "topicPrefix": "ord"},), "produce orders", True),
        (({"role": "produce", "topicRegex": "o.*s"},), "produce orders", True),
        (({"role": "produce", "topicRegex": "o"},), "produce orders", False),
        (({"role": "produce", "topics": ["a", {"prefix": "b"}]},), "produce a bc", True),
        ((PRODUCE,), "apiversions", True),
        ((PRODUCE,), "saslhandshake", True),
        (({},), "fetch orders version=3", False),
    ],
)
def test_requests_are_judged_place_by_place(rules: tuple[dict[str, Any], ...], text: str, expected: bool) -> None:
    assert passes(where(*rules), text) is expected


@pytest.mark.parametrize(
    "deny, text, expected",
    [
        ({"topic": "secrets"}, "produce secrets", False),
        ({"topic": "secrets"}, "produce orders", True),
        ({"topic": "secrets"}, "produce orders secrets", False),
        ({"topic": "secrets"}, "joingroup group=g", True),
        ({"group": "g"}, "joingroup group=g", False),
        ({"group": "g", "topic": "secrets"}, "offsetcommit orders group=g", True),
        ({"group": "g", "topic": "secrets"}, "offsetcommit secrets group=g", False),
        ({"apiKey": "createTopics"}, "createtopics x", False),
        ({"apiKey": "createTopics"}, "produce x", True),
        ({"clientID": "evil"}, "produce x client=evil", False),
        ({"apiKey": "metadata"}, "metadata", True),
    ],
)
def test_deny_rules_beat_allow_rules_and_deny_no_place_that_lacks_what_they_name(
    deny: dict[str, Any], text: str, expected: bool
) -> None:
    assert passes(where({}, deny=(deny,)), text) is expected
    assert passes(where(deny=(deny,)), text) is expected, "a deny list alone lets all else pass"


def test_denial_names_the_nearest_rule_and_what_fails() -> None:
    report = explain(where(PRODUCE, {"role": "consume", "topic": "payments"}), asked("produce orders payments"))
    assert report.decision.reason is Reason.L7_DEFAULT_DENY
    assert report.nearest_miss is not None
    assert report.nearest_miss.failures == ("topic is payments, must be orders",)
    assert report.as_json()["flow"]["kafka"]["topics"] == ["orders", "payments"]


def test_audit_reports_and_denies_nothing() -> None:
    decision = evaluate(where(PRODUCE, mode="audit"), asked("produce payments"))
    assert (str(decision.verdict), decision.audited) == ("allowed", True)


def test_client_ids_come_with_a_warning() -> None:
    report = explain(where({"role": "produce", "clientID": "app"}), asked("produce orders client=app"))
    assert any("proves nothing" in note for note in report.notes)


def test_unknown_versions_are_refused_whatever_rules_say() -> None:
    decision = evaluate(
        where({}), Flow("default/shop", "default/broker", destination_port=9092, kafka=KafkaRequest(api=0, version=99))
    )
    assert decision.reason is Reason.UNKNOWN_API


def test_roles_cover_what_the_page_says() -> None:
    def names(rule: dict[str, Any]) -> set[str]:
        parsed = where(rule).policies[0].rules[0].to_ports[0].l7
        assert parsed is not None
        (found,) = parsed.allow
        assert isinstance(found, KafkaRule)
        return {name for name, api in API_BY_NAME.items() if api.number in apis_of(found)}

    assert names({"role": "produce"}) == {
        *("produce", "metadata", "listoffsets", "initproducerid", "offsetforleaderepoch"),
        *("addpartitionstotxn", "endtxn", "describecluster", "gettelemetrysubscriptions", "pushtelemetry"),
        *("describetopicpartitions", "describetransactions", "listtransactions"),
    }
    assert "fetch" in names({"role": "consume"})
    assert "createacls" in names({})
    assert "createacls" not in names({"topic": "x"})


@pytest.mark.parametrize(
    "text, why",
    [("", "which role"), ("prodce x", "no role"), ("fetch x color=red", "color"), ("fetch x version=new", "no version")],
)
def test_a_question_that_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_kafka_request(text)
