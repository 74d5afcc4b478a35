"""Policies in audit mode: judged and reported, never enforced."""

from __future__ import annotations

import pytest

from l7filters.ir import Redirect
from l7filters.lookup import Flow, Passed
from l7filters.model import DnsRule, L7Protocol, L7Rules, Policy, TlsContext
from l7filters.precedence import IMPLICIT_ALLOW, IMPLICIT_AUDIT_DENY
from tests.support.worlds import To, View, allow, deny, endpoint, http, kind, origin, paths, pods, policy, world

PODS = (endpoint("web", ip="10.0.0.1"), endpoint("client", ip="10.0.0.2"), endpoint("other", ip="10.0.0.3"))
CLIENT = pods("app=client")
GET_A = To("80", http=(http("GET", "/a"),))
GET_B = To("80", http=(http("GET", "/b"),))


def seen(*policies: Policy) -> View:
    return View.of(world(*policies, endpoints=PODS))


def audit(*items: object, name: str = "audit") -> Policy:
    return policy(name, "app=web", ingress=items, audit=True)  # type: ignore[arg-type]


def enforce(*items: object) -> Policy:
    return policy("enforce", "app=web", ingress=items)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policies", "client_80", "client_81", "other_80"),
    [
        ([audit(allow(CLIENT, "80"))], "allow", "allow!", "allow!"),
        ([audit(deny(CLIENT, "80"))], "allow!", "allow!", "allow!"),
        ([enforce(allow()), audit(deny(CLIENT, "80"))], "allow!", "allow", "allow"),
        ([enforce(allow(CLIENT)), audit(allow(None, "80"))], "allow", "allow", "deny"),
        ([enforce(deny(CLIENT), allow()), audit(allow(CLIENT))], "deny", "deny", "allow"),
        ([audit(allow(CLIENT, GET_A))], "http", "allow!", "allow!"),
        ([enforce(allow(CLIENT, GET_A)), audit(deny(CLIENT, "80"))], "http!", "deny", "deny"),
        ([enforce(allow(CLIENT, GET_A)), audit(allow(CLIENT, "80"))], "http", "deny", "deny"),
    ],
)
def test_verdicts(policies: list[Policy], client_80: str, client_81: str, other_80: str) -> None:
    view = seen(*policies)
    found = (
        kind(view.ingress("web", "client", "80")),
        kind(view.ingress("web", "client", "81")),
        kind(view.ingress("web", "other", "80")),
    )
    assert found == (client_80, client_81, other_80)


def test_port_with_only_audited_l7_rules_is_redirected_and_lets_everything_pass() -> None:
    view = seen(audit(allow(CLIENT, GET_A)))
    rules = view.rules(view.ingress("web", "client", "80"))
    assert rules.enforced.allow_all == (IMPLICIT_ALLOW,)
    assert rules.enforced.allow == ()
    assert rules.shadow is not None
    assert (paths(rules.shadow.allow), rules.shadow.allow_all) == (["/a"], ())


def test_audited_rules_join_the_enforced_ones_in_the_shadow_only() -> None:
    view = seen(enforce(allow(CLIENT, GET_A)), audit(allow(CLIENT, GET_B)))
    rules = view.rules(view.ingress("web", "client", "80"))
    assert paths(rules.enforced.allow) == ["/a"]
    assert rules.shadow is not None
    assert sorted(paths(rules.shadow.allow)) == ["/a", "/b"]


def test_audited_l7_denies_are_in_the_shadow_only() -> None:
    view = seen(enforce(allow(CLIENT, GET_A)), audit(allow(CLIENT, To("80", http_deny=(http("GET", "/admin"),)))))
    rules = view.rules(view.ingress("web", "client", "80"))
    assert rules.enforced.deny == ()
    assert rules.shadow is not None
    assert paths(rules.shadow.deny) == ["/admin"]


def test_slot_key_names_audited_rules_too() -> None:
    view = seen(enforce(allow(CLIENT, GET_A)), audit(allow(CLIENT, GET_B)))
    key = view.slot(view.ingress("web", "client", "80")).key
    assert key.ingress == tuple(str(origin(name, "spec.ingress[0].toPorts[0]")) for name in ("audit", "enforce"))


def test_slot_key_tells_a_shadow_in_default_deny_from_one_that_is_not() -> None:
    lax = policy("lax", "app=web", ingress=[allow(CLIENT, GET_A)], default_deny=False)
    alone = seen(lax)
    audited = seen(lax, audit(allow(CLIENT, "443")))
    first, second = (view.slot(view.ingress("web", "client", "80")).key.ingress or () for view in (alone, audited))
    assert set(second) - set(first) == {str(IMPLICIT_AUDIT_DENY)}
    shadow = audited.rules(audited.ingress("web", "client", "80")).shadow
    assert shadow is not None
    assert shadow.allow_all == ()


def test_shadow_that_says_the_same_is_left_out() -> None:
    view = seen(enforce(allow(CLIENT, GET_A)), audit(allow(pods("app=other"), "443")))
    assert view.rules(view.ingress("web", "client", "80")).shadow is None


@pytest.mark.parametrize(
    "unrealisable",
    [
        To("80", l7=L7Rules(L7Protocol.DNS, allow=(DnsRule(origin("audit", "x")),))),
        To("80", names=("a.example",)),
    ],
    ids=["not realised", "conflicts with the enforced rules"],
)
def test_audited_rules_that_cannot_be_realised_deny_nothing_and_are_reported(unrealisable: To) -> None:
    view = seen(enforce(allow(CLIENT, GET_A)), audit(allow(CLIENT, unrealisable)))
    verdict = view.ingress("web", "client", "80")
    assert kind(verdict) == "http!"
    assert paths(view.rules(verdict).enforced.allow) == ["/a"]
    assert "cnp/default/audit" in {problem.policy for problem in view.compiled.problems}


def test_several_audits_share_one_shadow() -> None:
    view = seen(audit(allow(CLIENT, GET_A)), audit(allow(CLIENT, GET_B), name="more"))
    shadow = view.rules(view.ingress("web", "client", "80")).shadow
    assert shadow is not None
    assert sorted(paths(shadow.allow)) == ["/a", "/b"]


SECRET = TlsContext("default", "secret")


@pytest.mark.parametrize(
    ("enforced", "expected"),
    [
        (To("443"), "allow"),
        (To("443", http=(http(),)), "http"),
        (To("443", names=("a.example",)), "tls"),
        (To("443", http=(http(),), terminating=SECRET), "http"),
    ],
)
def test_audited_tls_context_never_changes_what_is_sent(enforced: To, expected: str) -> None:
    audited = To("443", http=(http("GET", "/a"),), names=enforced.names, terminating=SECRET)
    alone = seen(enforce(allow(CLIENT, enforced)))
    view = seen(enforce(allow(CLIENT, enforced)), audit(allow(CLIENT, audited)))
    verdict = view.ingress("web", "client", "443")
    assert kind(verdict) == expected
    if isinstance(verdict, Redirect):
        before = alone.slot(alone.ingress("web", "client", "443"))
        assert view.slot(verdict).terminating_tls == before.terminating_tls
    reported = [problem for problem in view.compiled.problems if "can't be audited" in problem.message]
    assert len(reported) == (0 if enforced.terminating else 1)


def test_audited_rules_at_one_end_never_drop_what_the_other_end_passes() -> None:
    sends = policy("sends", "app=client", egress=[allow(None, To("443", names=("a.example",)))])
    receives = policy("receives", "app=web", ingress=[allow(None, To("443", http=(http(),)))], audit=True)
    view = seen(sends, receives)
    sent = view.egress("client", "web", "443")
    assert isinstance(sent, Redirect)
    assert view.entries.judge(Flow(view.number("client"), view.number("web"), 6, 443)) == Passed(sent.slot)
    (problem,) = view.compiled.problems
    assert (problem.policy, "not audited" in problem.message) == ("cnp/default/receives", True)


def test_two_audited_ends_that_differ_pass() -> None:
    sends = policy("sends", "app=client", egress=[allow(None, To("443", names=("a.example",)))], audit=True)
    receives = policy("receives", "app=web", ingress=[allow(None, To("443", http=(http(),)))], audit=True)
    view = seen(sends, receives)
    assert isinstance(view.entries.judge(Flow(view.number("client"), view.number("web"), 6, 443)), Passed)
