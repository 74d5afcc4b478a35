"""The evaluator and its explanations where names are asked for, and where servers are reached by them."""

from __future__ import annotations

import pytest

from l7filters.decision import Flow, Verdict
from l7filters.evaluate import evaluate
from l7filters.explain import Explanation, explain
from l7filters.fqdn import DnsQuestion, pattern_holds
from l7filters.http import HttpRequest
from l7filters.model import DnsRule, L7Protocol, L7Rules, Protocol
from l7filters.world import World
from tests.support.worlds import To, allow, cidr, deny, endpoint, fqdn, http, origin, pods, policy, world

WEB, DNS = endpoint("web", ip="10.0.0.1"), endpoint("dns", ip="10.0.0.2")
OUTSIDE = "203.0.113.7"
RULES = L7Rules(
    L7Protocol.DNS,
    allow=(
        DnsRule(origin("p", "spec.egress[0].toPorts[0].rules.dns[0]"), match_name="a.example.com", query_types=("A",)),
        DnsRule(origin("p", "spec.egress[0].toPorts[0].rules.dns[1]"), match_pattern="*.cdn.example.com", excepts=("bad.**",)),
    ),
)
WORLD = world(
    policy(
        "p",
        "app=web",
        egress=[
            allow(pods("app=dns"), To("53/any", l7=RULES)),
            allow(fqdn("a.example.com"), "443", "8443"),
            allow(fqdn("*.cdn.example.com"), To("443"), To("80", http=(http("GET", "/public"),))),
            deny(cidr("203.0.113.128/25")),
        ],
    ),
    endpoints=(WEB, DNS),
)


def asking(name: str, query_type: str = "A", where: World = WORLD) -> Explanation:
    return explain(where, Flow("default/web", "default/dns", Protocol.UDP, 53, dns=DnsQuestion(name, query_type)))


def connecting(
    port: int, *names: str, to: str = OUTSIDE, sni: str | None = None, request: HttpRequest | None = None
) -> Explanation:
    return explain(WORLD, Flow("default/web", to, Protocol.TCP, port, server_name=sni, http=request, names=names))


@pytest.mark.parametrize(
    ("pattern", "covered", "uncovered"),
    [
        ("*", ["a", "a.b.c", "_x.y-z"], ["", "a..b", "a b"]),
        ("*.example.com", ["a.example.com", "A.EXAMPLE.com."], ["example.com", "a.b.example.com"]),
        ("**.example.com", ["a.example.com", "a.b.example.com"], ["example.com", "aexample.com"]),
        ("*example.com", ["example.com", "myexample.com"], ["my.example.com"]),
        ("sub*.example.com", ["sub.example.com", "sub1.example.com"], ["sub.1.example.com"]),
        ("a*b.c", ["ab.c", "axb.c"], ["axb.d", "a.b.c"]),
        ("*.*", ["a.b"], ["a", "a.b.c"]),
    ],
)
def test_patterns_mean_what_they_mean_in_cilium(pattern: str, covered: list[str], uncovered: list[str]) -> None:
    """Reference: pkg/fqdn/matchpattern."""
    assert [name for name in covered + uncovered if pattern_holds(pattern, name)] == covered


@pytest.mark.parametrize(
    ("name", "query_type", "verdict"),
    [
        ("a.example.com", "A", "allowed"),
        ("A.Example.com.", "A", "allowed"),
        ("a.example.com", "AAAA", "denied"),
        ("x.cdn.example.com", "TXT", "allowed"),
        ("bad.cdn.example.com", "A", "allowed"),
        ("b.example.com", "A", "denied"),
    ],
)
def test_question_is_judged_by_name_and_type(name: str, query_type: str, verdict: str) -> None:
    assert asking(name, query_type).decision.verdict == verdict


def test_refused_question_names_the_rule_that_came_nearest_and_why() -> None:
    miss = asking("a.example.com", "AAAA").nearest_miss
    assert miss is not None
    assert (miss.origin.path, miss.failures) == ("spec.egress[0].toPorts[0].rules.dns[0]", ("type is AAAA, must be A",))
    other = asking("b.example.com").nearest_miss
    assert other is not None
    assert other.failures == ("name is b.example.com, must be a.example.com",)


def test_question_is_told_what_its_answer_would_open() -> None:
    (note,) = asking("a.example.com").notes
    assert note == "its answer would open 443/TCP, 8443/TCP (cnp/default/p:spec.egress[1])"
    assert asking("b.example.com").notes == ("no toFQDNs rule covers b.example.com: its answer opens nothing",)


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (connecting(8443, "a.example.com"), "allowed"),
        (connecting(8443), "denied"),
        (connecting(8443, "b.example.com"), "denied"),
        (connecting(8443, "b.example.com", "a.example.com"), "allowed"),
        (connecting(8443, "a.example.com", to="203.0.113.200"), "denied"),
        (connecting(8443, "a.example.com", to="10.0.0.2"), "denied"),
        (connecting(443, "a.example.com", sni="a.example.com"), "allowed"),
        (connecting(443, "a.example.com", sni="x.cdn.example.com"), "allowed"),
        (connecting(443, "a.example.com", sni="evil.org"), "denied"),
        (connecting(443, "a.example.com", sni=""), "denied"),
        (connecting(443, "a.example.com"), "undecided"),
        (connecting(443, "evil.org", sni="a.example.com"), "denied"),
        (
            connecting(80, "x.cdn.example.com", request=HttpRequest(method="GET", path="/public", authority="x.cdn.example.com")),
            "allowed",
        ),
        (connecting(80, "x.cdn.example.com", request=HttpRequest(method="GET", path="/public", authority="evil.org")), "denied"),
        (
            connecting(80, "x.cdn.example.com", request=HttpRequest(method="GET", path="/x", authority="x.cdn.example.com")),
            "denied",
        ),
        (
            connecting(80, "a.example.com", request=HttpRequest(method="GET", path="/public", authority="x.cdn.example.com")),
            "denied",
        ),
    ],
)
def test_connection_is_judged_by_the_names_of_its_address(report: Explanation, verdict: str) -> None:
    assert report.decision.verdict == verdict, report.as_text()


def test_denied_connections_say_which_name_was_wanted() -> None:
    by_sni = connecting(443, "a.example.com", sni="evil.org").nearest_miss
    assert by_sni is not None
    assert by_sni.failures == ("server name is evil.org, must be a.example.com",)
    unasked = connecting(8443).nearest_miss
    assert unasked is not None
    assert unasked.failures == (f"{OUTSIDE} (world) is not addresses of a.example.com",)
    hidden = connecting(443, "a.example.com", sni="")
    assert any("Encrypted ClientHello" in note for note in hidden.notes)
    inside = connecting(8443, "a.example.com", to="10.0.0.2")
    assert any("inside the cluster" in note for note in inside.notes)


def test_names_and_question_are_in_the_report() -> None:
    flow = connecting(443, "a.example.com", sni="a.example.com").as_json()["flow"]
    assert flow["names"] == ["a.example.com"]
    assert asking("a.example.com").as_json()["flow"]["dns"] == {"name": "a.example.com", "queryType": "A"}
    assert "A a.example.com" in asking("a.example.com").as_text()


def test_decision_by_name_is_named() -> None:
    decision = evaluate(
        WORLD, Flow("default/web", OUTSIDE, Protocol.TCP, 443, server_name="a.example.com", names=("a.example.com",))
    )
    assert decision.verdict is Verdict.ALLOWED
    assert [str(one) for one in decision.deciding] == ["cnp/default/p:spec.egress[1].toPorts[0]"]
