"""Records read back from JSON."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l7filters.model import Direction, PolicyKey, Protocol, RuleOrigin
from tests.unit.tidegate.fakes import RULE, denied_request, packet
from tidegate.flows.reader import NotAFlow, read_flow
from tidegate.flows.record import DnsPart, Flow, FlowEnd, HttpPart, KafkaPart, L7Part, L7Type, MatchType, TlsPart, Verdict

WORDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
NAMES = st.from_regex(r"[a-z][a-z0-9.-]{0,11}", fullmatch=True)
NUMBERS = st.integers(0, 65535)
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
TEXTS = st.lists(NAMES, max_size=3).map(tuple)
ENDS = st.builds(
    FlowEnd, address=ADDRESSES, port=NUMBERS, identity=NUMBERS, namespace=st.just("default"), name=NAMES, labels=TEXTS
)
PARTS: st.SearchStrategy[L7Part | None] = st.one_of(
    st.none(),
    st.builds(
        HttpPart,
        method=NAMES,
        path=WORDS.map(lambda text: "/" + text),
        host=st.one_of(st.just(""), NAMES),
        protocol=st.sampled_from(["HTTP/1.1", "HTTP/2", ""]),
        code=st.integers(0, 599),
        headers=st.lists(st.tuples(NAMES, WORDS), max_size=2).map(tuple),
        missing_headers=TEXTS,
        rejected_headers=TEXTS,
        grpc_status=st.one_of(st.none(), st.integers(0, 16)),
    ),
    st.builds(TlsPart, server_name=st.one_of(st.just(""), NAMES)),
    st.builds(
        DnsPart,
        query=NAMES,
        query_types=TEXTS,
        addresses=TEXTS,
        ttl_seconds=NUMBERS,
        cnames=TEXTS,
        rcode=st.integers(0, 15),
        record_types=TEXTS,
    ),
    st.builds(
        KafkaPart,
        api_key=NAMES,
        api_version=NUMBERS,
        correlation_id=NUMBERS,
        client_id=WORDS,
        topics=TEXTS,
        error_code=NUMBERS,
        group=WORDS,
        transactional_id=WORDS,
    ),
)
FLOWS = st.builds(
    Flow,
    time_ns=st.integers(0, 1 << 62),
    uuid=NAMES,
    node=NAMES,
    verdict=st.sampled_from(Verdict),
    direction=st.sampled_from(Direction),
    source=ENDS,
    destination=ENDS,
    protocol=st.sampled_from([*Protocol, 200]),
    tcp_flags=st.integers(0, 255),
    icmp_type=st.integers(0, 255),
    icmp_code=st.integers(0, 255),
    is_reply=st.booleans(),
    reason=st.sampled_from(["", "POLICY_DENIED", "NO_LISTENER"]),
    rule=st.one_of(st.none(), st.just(RULE), st.just(RuleOrigin(PolicyKey("ccnp/x"), "spec"))),
    nearest_miss=WORDS,
    match_type=st.one_of(st.none(), st.sampled_from(MatchType)),
    policy_log=WORDS,
    revision=NUMBERS,
    slot=NUMBERS,
    l7=PARTS,
    l7_type=st.sampled_from(L7Type),
    latency_ns=st.integers(0, 1 << 62),
)


@given(FLOWS)
def test_record_read_back_says_the_same(flow: Flow) -> None:
    written = json.loads(json.dumps(flow.to_json()))
    assert read_flow(written).to_json() == written


@pytest.mark.parametrize("flow", [packet(), denied_request(), packet(protocol=Protocol.UDP, tcp_flags=0), packet(rule=RULE)])
def test_record_read_back_is_the_same(flow: Flow) -> None:
    assert read_flow(flow.to_json()) == flow


def test_record_without_a_host_keeps_a_path_that_looks_like_an_url() -> None:
    part = HttpPart(method="GET", path="/go?to=http://x/y")
    assert read_flow(denied_request(l7=part).to_json()).l7 == part


@pytest.mark.parametrize(
    "record", [None, [], "x", {}, {"time": 1}, {**packet().to_json(), "time": "never"}, {**packet().to_json(), "l7": []}]
)
def test_what_is_no_record_is_refused_by_one_error(record: object) -> None:
    with pytest.raises(NotAFlow, match="not a flow record"):
        read_flow(record)


@pytest.mark.parametrize(
    ("end", "workload"),
    [
        (FlowEnd(namespace="a", name="web-7d4b9c6f5-x2x7k"), "a/web"),
        (FlowEnd(namespace="a", name="db-0"), "a/db"),
        (FlowEnd(namespace="a", name="agent-x2x7k"), "a/agent"),
        (FlowEnd(namespace="a", name="tie-fighter"), "a/tie-fighter"),
        (FlowEnd(namespace="a", name="x", labels=("k8s:app=web",)), "a/web"),
        (FlowEnd(namespace="a", name="x", labels=("k8s:app=web", "k8s:app.kubernetes.io/name=front")), "a/front"),
        (FlowEnd(address=ip_address("192.0.2.1"), labels=("cidr:192.0.2.0/24", "reserved:world")), "world"),
        (FlowEnd(address=ip_address("192.0.2.1"), labels=("cidr:192.0.2.0/24",)), "world"),
        (FlowEnd(labels=("reserved:host",)), "host"),
        (FlowEnd(), "unknown"),
    ],
)
def test_workload_of_an_end(end: FlowEnd, workload: str) -> None:
    assert end.workload == workload
