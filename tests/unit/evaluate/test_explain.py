"""Explanations: the nearest miss, the report's two forms, and that every denial has one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from l7filters.decision import Flow, Outcome, Reason, Verdict
from l7filters.evaluate import evaluate
from l7filters.explain import MISSES_MAX, Explanation, Nearness, explain
from l7filters.http import HttpRequest
from l7filters.model import (
    Direction,
    L7Protocol,
    L7Rules,
    MismatchAction,
    Mode,
    Observation,
    Policy,
    PolicyKey,
    PortRule,
    PortSpec,
    Protocol,
    QueryMatch,
    RuleOrigin,
    SecretRef,
)
from l7filters.world import Enforcement, World
from tests.support.slots import exact, header, prefix, rule
from tests.support.strategies import worlds_and_flows
from tests.support.worlds import To, allow, cidr, deny, endpoint, entity, http, pods, policy, world

ENDPOINTS = (endpoint("web", ip="10.0.0.1"), endpoint("client", ip="10.0.0.2"), endpoint("db", ip="10.0.0.3"))
POST = HttpRequest(method="POST", path="/public", authority="web.test")
TOKEN = SecretRef("default", "tokens", "api")
L7 = policy("l7", "app=web", ingress=[allow(pods("app=client"), To("80", http=(http("GET", "/public.*"),)))])


def explained(
    *policies: Policy, request: HttpRequest | None = None, port: int = 80, source: str = "default/client", **rest: Any
) -> Explanation:
    where = world(*policies, endpoints=ENDPOINTS, **rest)
    return explain(where, Flow(source, "default/web", Protocol.TCP, port, request), {TOKEN: "s3cr3t"})


def nearest(*policies: Policy, **asked: Any) -> str:
    """Return the nearest miss in words, its policy by name alone."""
    miss = explained(*policies, **asked).nearest_miss
    return str(miss).replace("cnp/default/", "") if miss is not None else ""


def on_80(*rules: Any) -> Policy:
    return policy("p", "app=web", ingress=[allow(None, To("80", http=rules))])


@pytest.mark.parametrize(
    ("policies", "asked", "words"),
    [
        (
            (L7,),
            {"request": POST},
            "l7:spec.ingress[0].toPorts[0].rules.http[0] would allow it, but method is POST, must match GET",
        ),
        ((L7,), {"port": 81}, "l7:spec.ingress[0].toPorts[0] would allow it, but port 81/TCP is not 80/TCP"),
        (
            (L7,),
            {"source": "default/db"},
            "l7:spec.ingress[0].toPorts[0] would allow it, but default/db (app=db) is not endpoints app=client",
        ),
        (
            (policy("p", "app=web", ingress=[allow(entity("cluster") + cidr("10.0.0.0/8"))]),),
            {"source": "203.0.113.5"},
            "p:spec.ingress[0] would allow it, but 203.0.113.5 (world) is not cluster or 10.0.0.0/8",
        ),
        (
            (policy("p", "app=web", ingress=[allow((), "80")]),),
            {},
            "p:spec.ingress[0].toPorts[0] would allow it, but it is for nobody (its peer list is empty)",
        ),
        (
            (policy("e", "app=web", ingress=[]), policy("o", "app=db", ingress=[allow(pods("app=client"), "80")])),
            {},
            "o:spec.ingress[0] would allow it, but its policy selects app=db, which default/web is not",
        ),
        (
            (on_80(rule(path=prefix("/api"), query=(QueryMatch("t", exact("a")),))),),
            {"request": POST},
            "p:spec.ingress[0].toPorts[0].rules.http[0] would allow it, but path is /public, must be /api or below"
            " and query parameter t is absent, must be a",
        ),
        (
            (on_80(rule(headers=(header("x-token", secret=TOKEN),))),),
            {"request": HttpRequest(method="GET", path="/", headers=(("x-token", "guess"),))},
            "p:spec.ingress[0].toPorts[0].rules.http[0] would allow it, but header x-token is [redacted],"
            " must equal secret default/tokens, key api",
        ),
        (
            (on_80(rule(path=exact("/pkg.S/Get"), method=exact("POST"), grpc=True)),),
            {"request": HttpRequest(method="POST", path="/pkg.S/Put")},
            "p:spec.ingress[0].toPorts[0].rules.http[0] would allow it, but path is /pkg.S/Put, must be /pkg.S/Get",
        ),
        # A deny rule, a conflict or a request that can't be judged: no rule could have allowed it.
        ((L7, policy("d", "app=web", ingress=[deny(None, "80")])), {"request": POST}, ""),
        ((L7,), {"request": HttpRequest(method="GET", path="/%00")}, ""),
        ((policy("d", "app=web", ingress=[allow(None, To("80", http_deny=(http("POST"),)))]),), {"request": POST}, ""),
        # What is allowed has none.
        ((L7,), {"request": HttpRequest(method="GET", path="/public")}, ""),
    ],
)
def test_nearest_miss_names_rule_and_failing_predicates(policies: tuple[Policy, ...], asked: dict[str, Any], words: str) -> None:
    assert nearest(*policies, **asked) == words


def test_misses_are_ranked_by_how_far_the_flow_got() -> None:
    rules = policy(
        "p",
        "app=web",
        ingress=[
            allow(pods("app=db"), "81"),
            allow(pods("app=db"), "80"),
            allow(pods("app=client"), "81"),
            allow(None, To("80", http=(http("PUT", "/x"), http("PUT")))),
        ],
    )
    elsewhere = policy("other", "app=db", ingress=[allow(None)])
    found = explained(elsewhere, rules, request=POST).nearest_misses
    assert [(miss.nearness, miss.origin.path) for miss in found] == [
        (Nearness.L7, "spec.ingress[3].toPorts[0].rules.http[1]"),
        (Nearness.L7, "spec.ingress[3].toPorts[0].rules.http[0]"),
        (Nearness.PEERS, "spec.ingress[2].toPorts[0]"),
        (Nearness.SELECTED, "spec.ingress[1].toPorts[0]"),
        (Nearness.SELECTED, "spec.ingress[0].toPorts[0]"),
    ]
    assert len(found) == MISSES_MAX


def test_server_name_that_no_rule_lists_is_the_miss() -> None:
    names = policy("n", "app=web", ingress=[allow(None, To("443", names=("web.test", "*.example")))])
    asked = Flow("default/client", "default/web", Protocol.TCP, 443, server_name="evil.test")
    report = explain(world(names, endpoints=ENDPOINTS), asked)
    assert str(report.nearest_miss) == (
        "cnp/default/n:spec.ingress[0].toPorts[0] would allow it, but server name is evil.test, must match web.test or *.example"
    )


def test_audited_flow_tells_what_audit_would_have_wanted() -> None:
    audit = policy("a", "app=web", ingress=[allow(None, To("80", http=(http("GET"),)))], audit=True)
    report = explained(audit, request=POST)
    assert (report.decision.verdict, report.decision.audited) == (Verdict.ALLOWED, True)
    assert str(report.nearest_miss).endswith("method is POST, must match GET")
    assert "audit: it would be denied; nearest: cnp/default/a" in report.summary


def test_rules_of_audit_policies_are_no_way_through_a_denial() -> None:
    closed = policy("e", "app=web", ingress=[])
    would = policy("a", "app=web", ingress=[allow(None, "81")], audit=True)
    assert nearest(closed, would) == ""


@pytest.mark.parametrize(
    ("policies", "rest", "note"),
    [
        (
            (L7, policy("plain", "app=web", ingress=[allow(None, "80")])),
            {},
            "ingress: cnp/default/plain:spec.ingress[0].toPorts[0] allows every request here,"
            " so the HTTP rules beside it restrict nothing",
        ),
        (
            (policy("p", "app=web", ingress=[allow(None, To("80", http=(http("GET"),)))], default_deny=False),),
            {},
            "ingress: not in default deny, so HTTP rules that allow restrict nothing",
        ),
        (
            (policy("p", "app=web", ingress=[allow(None, To("80", http=(http("POST"),)))], audit=True),),
            {},
            "ingress: through the proxy only for policies in audit mode",
        ),
        (
            (on_80(rule(headers=(header("x-role", "a", mismatch=MismatchAction.REPLACE),))),),
            {},
            "ingress: cnp/default/p:spec.ingress[0].toPorts[0].rules.http[0] does REPLACE on header x-role",
        ),
        (
            (L7,),
            {"source": "host"},
            "traffic of this node's own processes (health checks) is not subject to its endpoints' policies",
        ),
        ((L7,), {"enforcement": Enforcement.NEVER}, "the node's enforcement mode is never: no policy is enforced"),
    ],
)
def test_notes_say_what_a_reader_would_wonder_about(policies: tuple[Policy, ...], rest: dict[str, Any], note: str) -> None:
    assert note in explained(*policies, request=POST, **rest).notes


def test_flow_of_others_is_said_to_be_nobodys_here() -> None:
    where = world(endpoints=ENDPOINTS)
    assert explain(where, Flow("203.0.113.1", "203.0.113.2")).notes == ("neither end is enforced by node node-a",)


def test_denial_without_any_rule_names_what_closed_the_endpoint() -> None:
    closed = policy("e", "app=web", ingress=[])
    assert explained(closed).summary == "denied: no rule allows it (default deny by cnp/default/e)"
    mode = explained(enforcement=Enforcement.ALWAYS)
    assert mode.summary == "denied: no rule allows it (default deny by the node's enforcement mode)"


def test_text_is_complete() -> None:
    request = HttpRequest(method="POST", path="//public")
    assert explained(L7, request=request).as_text().splitlines() == [
        "default/client -> default/web 80/TCP, POST //public (read as /public)",
        "DENIED: no L7 rule allows it",
        "egress of default/client: allow, allowed: no policy selects the endpoint",
        "  selected by no policy; not in default deny",
        "ingress of default/web: redirect, denied: no L7 rule allows it",
        "  selected by cnp/default/l7; in default deny",
        "nearest misses:",
        "  ingress: cnp/default/l7:spec.ingress[0].toPorts[0].rules.http[0] would allow it, but method is POST, must match GET",
    ]


def test_json_has_a_stable_shape() -> None:
    report = explained(L7, request=POST).as_json()
    assert json.loads(json.dumps(report)) == report
    rule_at = {"policy": "cnp/default/l7", "path": "spec.ingress[0].toPorts[0].rules.http[0]"}
    client_labels = {"app": "client", "io.kubernetes.pod.namespace": "default"}
    allowed_side = {
        "direction": "egress",
        "subject": "default/client",
        "peer": "default/web",
        "selectedBy": [],
        "defaultDenyBy": [],
        "defaultDeny": False,
        "audited": False,
        "observedBy": [],
        "verdict": "allowed",
        "outcome": "allow",
        "reason": "no policy selects the endpoint",
        "problem": None,
        "decidedBy": [],
        "coveredBy": [],
        "l7Protocol": None,
        "headerActions": [],
        "shadow": None,
    }
    denied_side = {
        **allowed_side,
        "direction": "ingress",
        "subject": "default/web",
        "peer": "default/client",
        "selectedBy": ["cnp/default/l7"],
        "defaultDenyBy": ["cnp/default/l7"],
        "defaultDeny": True,
        "verdict": "denied",
        "outcome": "redirect",
        "reason": "no L7 rule allows it",
        "coveredBy": [{"policy": "cnp/default/l7", "path": "spec.ingress[0].toPorts[0]"}],
        "l7Protocol": "http",
    }
    miss_text = "cnp/default/l7:spec.ingress[0].toPorts[0].rules.http[0] would allow it, but method is POST, must match GET"
    assert report == {
        "verdict": "denied",
        "outcome": "redirect",
        "audited": False,
        "reason": "no L7 rule allows it",
        "summary": f"denied: no L7 rule allows it; nearest: {miss_text}",
        "revision": 1,
        "flow": {
            "source": {"kind": "endpoint", "name": "default/client", "address": None, "labels": client_labels, "local": True},
            "destination": {
                "kind": "endpoint",
                "name": "default/web",
                "address": None,
                "labels": {**client_labels, "app": "web"},
                "local": True,
            },
            "protocol": "TCP",
            "port": 80,
            "http": {
                "method": "POST",
                "path": "/public",
                "normalisedPath": "/public",
                "authority": "web.test",
                "headerNames": [],
            },
            "serverName": None,
            "kafka": None,
            "dns": None,
            "names": [],
        },
        "decidedBy": [],
        "sides": [allowed_side, denied_side],
        "nearestMisses": [
            {
                "direction": "ingress",
                **rule_at,
                "reached": "l7",
                "failures": ["method is POST, must match GET"],
                "text": miss_text,
            }
        ],
        "notes": [],
    }


@pytest.mark.parametrize("sent", ["s3cr3t", "nearly-s3cr3t"])
@pytest.mark.parametrize("action", list(MismatchAction))
def test_no_secret_and_nothing_compared_with_one_is_ever_told(sent: str, action: MismatchAction) -> None:
    asked = HttpRequest(method="POST", path="/", headers=(("x-token", sent), ("authorization", "Bearer s3cr3t-too")))
    rules = on_80(
        rule(
            method=exact("GET"), headers=(header("x-token", secret=TOKEN, mismatch=action), header("authorization", "Bearer zzz"))
        ),
    )
    for report in (explained(rules, request=asked), explained(on_80(rule()), request=asked)):
        told = report.as_text() + json.dumps(report.as_json()) + report.summary
        assert "s3cr3t" not in told
        assert "Bearer" not in told


@given(worlds_and_flows())
def test_every_denial_names_its_rules_or_the_nearest_miss_or_who_closed_the_endpoint(
    case: tuple[World, tuple[Flow, ...]],
) -> None:
    where, flows = case
    policies = {policy.key: policy for policy in where.policies}
    for asked in flows:
        report = explain(where, asked)
        assert report.decision == evaluate(where, asked)
        assert report.as_text()
        json.dumps(report.as_json())
        denied = report.decision.verdict is Verdict.DENIED
        if not denied:
            assert report.decision.audited or not report.nearest_misses
            continue
        named = report.decision.deciding or report.nearest_misses
        by_default = any(side.default_deny for side in report.decision.denied_by)
        forced = where.enforcement is Enforcement.ALWAYS
        tunnel = asked.http is not None and asked.http.is_connect  # refused wherever HTTP is looked into and no rule names it
        told = named or by_default or forced or tunnel or report.decision.problem
        assert told or report.decision.reason is Reason.REFUSED, asked
        assert all(miss.failures and policies[miss.origin.policy].mode is Mode.ENFORCE for miss in report.nearest_misses)


def test_explanation_names_who_observes_and_that_nothing_is_denied_for_it() -> None:
    key = PolicyKey("tp/default/look")
    seen = PortRule((PortSpec(Protocol.TCP, 80),), RuleOrigin(key, "spec.observe[0]"), L7Rules(L7Protocol.HTTP, deny_only=True))
    look = replace(policy("look", "app=web"), key=key, observe=(Observation(Direction.INGRESS, seen),))
    report = explained(look, request=POST)
    assert (report.decision.verdict, report.decision.outcome) == (Verdict.ALLOWED, Outcome.REDIRECT)
    assert report.notes == ("ingress: observed by tp/default/look:spec.observe[0], which denies nothing",)
    (egress, ingress) = report.as_json()["sides"]
    assert (egress["observedBy"], ingress["observedBy"]) == ([], [{"policy": "tp/default/look", "path": "spec.observe[0]"}])
    assert explained(look, request=POST, port=81).decision.outcome is Outcome.ALLOW
    assert explained(look, L7, request=POST).decision.verdict is Verdict.DENIED
