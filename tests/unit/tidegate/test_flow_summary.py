"""What many records come to."""

from __future__ import annotations

from tests.unit.tidegate.fakes import NOON_NS, RULE, denied_request, packet
from tidegate.flows.record import HttpPart, Verdict
from tidegate.flows.summary import Latency, Talk, summarise

GET = HttpPart(method="GET", path="/", code=200)
MISS = f"{RULE} would allow it, but method is PUT, must match POST"


def test_summary_counts_talkers_policies_reasons_and_latencies() -> None:
    answered = [packet(l7=GET, rule=RULE, latency_ns=number * 1_000_000) for number in range(1, 101)]
    denied = [denied_request(nearest_miss=MISS, time_ns=NOON_NS + number) for number in range(3)]
    found = summarise([*answered, *denied, packet(time_ns=NOON_NS + 9)])
    ends = ("default/xwing", "default/deathstar", 80)
    assert found.records == 104
    assert (found.first_ns, found.last_ns) == (NOON_NS, NOON_NS + 9)
    assert found.verdicts == ((Verdict.FORWARDED, 101), (Verdict.DENIED, 3))
    assert found.talkers == (
        (Talk(*ends, "http"), Verdict.FORWARDED, 100),
        (Talk(*ends, "http"), Verdict.DENIED, 3),
        (Talk(*ends, "tcp"), Verdict.FORWARDED, 1),
    )
    assert found.policies == (
        ("cnp/default/rule1", RULE.path, Verdict.FORWARDED, 100),
        ("cnp/default/rule1", "nearest miss", Verdict.DENIED, 3),
    )
    assert found.reasons == (("POLICY_DENIED", 3),)
    quantiles = (51_000_000, 91_000_000, 100_000_000)
    assert found.latencies == (Latency(protocol="http", count=100, quantiles_ns=quantiles, max_ns=100_000_000),)


def test_summary_of_nothing_is_nothing() -> None:
    assert summarise([]).as_json() == {
        "records": 0,
        "first": None,
        "last": None,
        "verdicts": {},
        "talkers": [],
        "policies": [],
        "reasons": [],
        "latencies": [],
    }


def test_summary_keeps_the_top() -> None:
    flows = [
        packet(destination=packet().destination.__class__(namespace="n", name=f"s{n}x")) for n in range(30) for _ in range(n)
    ]
    assert [count for _, _, count in summarise(flows, top=3).talkers] == [29, 28, 27]
