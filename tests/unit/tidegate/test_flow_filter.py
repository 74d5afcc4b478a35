"""The filter language: what each field matches, how it is written, what is refused."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import ip_address

import pytest

from l7filters.model import Protocol
from tests.unit.tidegate.fakes import NOON_NS, RULE, denied_request, packet
from tidegate.flows.filter import PARAMETERS, VALUE_CHARACTERS_MAX, VALUES_MAX, FlowFilter, parse_verdicts, parse_when
from tidegate.flows.record import DnsPart, Flow, FlowEnd, HttpPart, KafkaPart, Verdict

GRPC = denied_request(l7=HttpPart(method="POST", path="/s/M", grpc_status=7))
WORLD = FlowEnd(address=ip_address("192.0.2.1"), port=53, labels=("cidr:192.0.2.0/24", "reserved:world"))
DNS = packet(destination=WORLD, protocol=Protocol.UDP, l7=DnsPart(query="API.example.com.", query_types=("A",)))
KAFKA = packet(l7=KafkaPart(api_key="produce", api_version=9, topics=("orders", "audit-eu")))
POD = replace(packet().source, name="web-7d4b9c6f5-x2x7k", labels=("k8s:app=web", "k8s:tier=front"))
FROM_WORKLOAD = packet(source=POD)
ALLOWED = packet(rule=RULE)


@pytest.mark.parametrize(
    ("query", "flow", "matches"),
    [
        ("", packet(), True),
        ("verdict=denied", denied_request(), True),
        ("verdict=denied", packet(), False),
        ("verdict=denied,forwarded", packet(), True),
        ("namespace=default", packet(), True),
        ("namespace=other", packet(), False),
        ("name=deathstar", packet(), True),
        ("name=default/deathstar", packet(), True),
        ("name=other/deathstar", packet(), False),
        ("name=10.0.0.3", packet(), True),
        ("name=world", DNS, True),
        ("name=world", packet(), False),
        ("name=web", FROM_WORKLOAD, True),
        ("name=default/web", FROM_WORKLOAD, True),
        ("name=web-7d4b9c6f5-x2x7k", FROM_WORKLOAD, True),
        ("source=xwing", packet(), True),
        ("source=deathstar", packet(), False),
        ("destination=deathstar", packet(), True),
        ("destination=192.0.2.1", DNS, True),
        ("label=org=alliance", packet(), True),
        ("label=k8s:org=empire", packet(), True),
        ("label=org", packet(), True),
        ("label=org=rebels", packet(), False),
        ("label=app=web,tier=front", FROM_WORKLOAD, True),
        ("label=org=alliance,org=empire", packet(), False),
        ("port=80", packet(), True),
        ("port=51234", packet(), False),
        ("protocol=http", denied_request(), True),
        ("protocol=tcp", denied_request(), True),
        ("protocol=HTTP", GRPC, True),
        ("protocol=grpc", GRPC, True),
        ("protocol=grpc", denied_request(), False),
        ("protocol=udp", DNS, True),
        ("protocol=dns", DNS, True),
        ("method=put", denied_request(), True),
        ("method=GET", denied_request(), False),
        ("method=produce", KAFKA, True),
        ("method=GET", packet(), False),
        ("path=exhaust", denied_request(), True),
        ("path=^/v[0-9]+/", denied_request(), True),
        ("path=^exhaust", denied_request(), False),
        ("path=.", packet(), False),
        ("status=403", denied_request(), True),
        ("status=4xx", denied_request(), True),
        ("status=404,5XX", denied_request(), False),
        ("status=4xx", packet(), False),
        ("topic=orders", KAFKA, True),
        ("topic=audit-*", KAFKA, True),
        ("topic=audit", KAFKA, False),
        ("topic=*", packet(), False),
        ("dns=api.example.com", DNS, True),
        ("dns=*.example.com.", DNS, True),
        ("dns=example.com", DNS, False),
        ("dns=*", packet(), False),
        ("policy=rule1", ALLOWED, True),
        ("policy=default/rule1", ALLOWED, True),
        ("policy=cnp/default/rule1", ALLOWED, True),
        ("policy=rule", ALLOWED, False),
        ("policy=rule1", denied_request(nearest_miss=f"{RULE} would allow it, but method is PUT"), True),
        ("policy=rule1", packet(), False),
        (f"since_ns={NOON_NS}", packet(), True),
        (f"since_ns={NOON_NS + 1}", packet(), False),
        (f"until_ns={NOON_NS}", packet(), True),
        (f"until_ns={NOON_NS - 1}", packet(), False),
        ("since=1m", packet(), True),
        ("since=10s", packet(), False),
        ("until=10s", packet(), True),
        ("verdict=denied&method=PUT&path=v1&namespace=default", denied_request(), True),
        ("verdict=denied&method=GET&path=v1&namespace=default", denied_request(), False),
    ],
)
def test_filter_wants_all_that_is_written(query: str, flow: Flow, matches: bool) -> None:
    found = FlowFilter.from_query(dict(part.split("=", 1) for part in query.split("&") if part), NOON_NS + 30_000_000_000)
    assert found.matches(flow) is matches
    assert found.is_empty is (query == "")


EVERY_PARAMETER = {
    "verdict": "denied,error",
    "namespace": "a,b",
    "name": "a/x",
    "source": "s",
    "destination": "d",
    "label": "app=x",
    "port": "53,80",
    "protocol": "http",
    "method": "get",
    "path": "^/a,b$",
    "status": "404,5xx",
    "topic": "t*",
    "dns": "*.example",
    "policy": "p",
    "since_ns": "5",
    "until_ns": "6",
}


def test_filter_survives_the_url() -> None:
    assert EVERY_PARAMETER.keys() == set(PARAMETERS) - {"since", "until"}
    assert FlowFilter.from_query(EVERY_PARAMETER).to_query() == EVERY_PARAMETER
    assert FlowFilter.from_query(FlowFilter.from_query(EVERY_PARAMETER).to_query()) == FlowFilter.from_query(EVERY_PARAMETER)
    assert FlowFilter.from_query({}) == FlowFilter()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"verdict": "forbidden"}, "is no verdict; write one of"),
        ({"since_ns": "yesterday"}, "nanoseconds since the epoch"),
        ({"since_ns": "-1"}, "nanoseconds since the epoch"),
        ({"until_ns": "9" * 30}, "nanoseconds since the epoch"),
        ({"since": "yesterday"}, "write a duration such as 5m"),
        ({"until": "5 minutes"}, "until '5 minutes': write a duration"),
        ({"port": "http"}, "'http' is no port"),
        ({"port": "65536"}, "is no port"),
        ({"status": "4x"}, "write a number such as 404, or a class such as 4xx"),
        ({"path": "("}, "is no regular expression (RE2): missing"),
        ({"path": r"(a)\1"}, "is no regular expression (RE2)"),
        ({"path": "a" * (VALUE_CHARACTERS_MAX + 1)}, "longer than 512 characters"),
        ({"path": "(((((((((a{50}){50}){50}"}, "is no regular expression"),
        ({"name": ",".join(map(str, range(VALUES_MAX + 1)))}, "more than 64 values"),
    ],
)
def test_filter_that_makes_no_sense_is_refused(query: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        FlowFilter.from_query(query)
    assert message in str(caught.value)


def test_regex_of_an_attacker_takes_linear_time() -> None:
    flow = denied_request(l7=HttpPart(method="GET", path="/" + "a" * 50_000))
    started = time.process_time()
    assert not FlowFilter(path="(a*)*(a|aa)+(a+)+$b").matches(flow)
    assert time.process_time() - started < 1


def test_verdicts_are_read_in_hubbles_spelling_too() -> None:
    assert parse_verdicts(["AUDIT", "Forwarded"]) == {Verdict.AUDITED, Verdict.FORWARDED}
    assert parse_verdicts(["DROPPED"]) == {Verdict.DROPPED, Verdict.DENIED}
    assert parse_verdicts(["denied"]) == {Verdict.DENIED}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("90s", NOON_NS - 90_000_000_000),
        ("500ms", NOON_NS - 500_000_000),
        ("2h", NOON_NS - 7_200_000_000_000),
        ("99999d", 0),
        ("2026-01-01T12:00:00Z", NOON_NS),
        ("2026-01-01T13:00:00+01:00", NOON_NS),
    ],
)
def test_time_is_a_duration_before_now_or_a_time(text: str, expected: int) -> None:
    assert parse_when(text, NOON_NS) == expected
