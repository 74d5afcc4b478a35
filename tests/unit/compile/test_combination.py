"""How rules combine: each row of Cilium's combination table and its deny table, then our own additions."""

from __future__ import annotations

import pytest

from l7filters.ir import Deny
from l7filters.model import DnsRule, KafkaRule, L7Protocol, L7Rules, TlsContext
from l7filters.precedence import IMPLICIT_ALLOW
from l7filters.world import Enforcement
from tests.support.worlds import (
    Item,
    To,
    View,
    allow,
    deny,
    endpoint,
    entity,
    http,
    kind,
    origin,
    paths,
    pods,
    policy,
    world,
)

PODS = (endpoint("web", ip="10.0.0.1"), endpoint("client", ip="10.0.0.2"), endpoint("other", ip="10.0.0.3"))
CLIENT = pods("app=client")
GET_A = To("80", http=(http("GET", "/a"),))
GET_B = To("80", http=(http("GET", "/b"),))
KAFKA = L7Rules(L7Protocol.KAFKA, allow=(KafkaRule(origin("k", "rules.kafka[0]")),))
DNS = L7Rules(L7Protocol.DNS, allow=(DnsRule(origin("d", "rules.dns[0]"), match_pattern="*"),))
TLS_A = TlsContext("default", "a")
TLS_B = TlsContext("default", "b")


def on_web(*items: Item, **more: object) -> View:
    """Compile one ingress policy on ``web``."""
    return View.of(world(policy("p", "app=web", ingress=items, **more), endpoints=PODS))  # type: ignore[arg-type]


def problem_paths(view: View) -> list[str]:
    return [problem.path for problem in view.compiled.problems]


# ---- Cilium's combination table -----------------------------------------------------------------------------------


def test_same_port_and_peer_unite_their_http_rules() -> None:
    view = on_web(allow(CLIENT, GET_A), allow(CLIENT, GET_B))
    rules = view.rules(view.ingress("web", "client", "80"))
    assert paths(rules.enforced.allow) == ["/a", "/b"]
    assert rules.enforced.allow_all == ()


def test_rule_without_l7_lifts_the_l7_restriction_but_still_redirects() -> None:
    view = on_web(allow(CLIENT, GET_A), allow(CLIENT, "80"))
    rules = view.rules(view.ingress("web", "client", "80"))
    assert paths(rules.enforced.allow) == ["/a"]
    assert rules.enforced.allow_all == (origin("p", "spec.ingress[1].toPorts[0]"),)


@pytest.mark.parametrize("other", [KAFKA, DNS], ids=["kafka", "dns"])
def test_conflicting_l7_protocols_on_one_port_are_closed_and_both_reported(other: L7Rules) -> None:
    view = on_web(allow(CLIENT, GET_A), allow(CLIENT, To("80", l7=other)))
    verdict = view.ingress("web", "client", "80")
    assert isinstance(verdict, Deny)
    assert "conflicting L7 protocols" in verdict.problem
    assert problem_paths(view) == ["spec.ingress[0].toPorts[0]", "spec.ingress[1].toPorts[0]"]


def test_different_protocols_for_different_peers_of_one_port_are_fine() -> None:
    view = on_web(allow(CLIENT, GET_A), allow(pods("app=other"), To("80", names=("x.example",))))
    assert kind(view.ingress("web", "client", "80")) == "http"
    assert kind(view.ingress("web", "other", "80")) == "tls"
    assert view.compiled.problems == ()


@pytest.mark.parametrize("field", ["terminating", "originating"])
def test_conflicting_tls_contexts_are_closed_and_both_reported(field: str) -> None:
    view = on_web(
        allow(CLIENT, To("443", http=(http(),), **{field: TLS_A})),  # type: ignore[arg-type]
        allow(CLIENT, To("443", http=(http(),), **{field: TLS_B})),  # type: ignore[arg-type]
    )
    assert kind(view.ingress("web", "client", "443")) == "deny"
    assert problem_paths(view) == ["spec.ingress[0].toPorts[0]", "spec.ingress[1].toPorts[0]"]


def test_terminating_tls_promotes_server_names_to_http() -> None:
    named = To("443", names=("a.example",), terminating=TLS_A)
    view = on_web(allow(CLIENT, named), allow(CLIENT, To("443", http=(http("GET"),), names=("a.example",), terminating=TLS_A)))
    verdict = view.ingress("web", "client", "443")
    assert kind(verdict) == "http"
    assert view.slot(verdict).terminating_tls == TLS_A
    enforced = view.rules(verdict).enforced
    assert (enforced.server_names, enforced.any_server_name) == (("a.example",), False)
    assert enforced.allow_all == (origin("p", "spec.ingress[0].toPorts[0]"),)


def test_http_beside_unterminated_server_names_is_closed() -> None:
    view = on_web(allow(CLIENT, To("443", http=(http(),))), allow(CLIENT, To("443", names=("a.example",))))
    assert kind(view.ingress("web", "client", "443")) == "deny"
    assert len(problem_paths(view)) == 2


@pytest.mark.parametrize("other", [KAFKA, DNS], ids=["kafka", "dns"])
def test_server_names_are_never_promoted_to_another_protocol(other: L7Rules) -> None:
    view = on_web(allow(CLIENT, To("443", l7=other)), allow(CLIENT, To("443", names=("a.example",))))
    assert kind(view.ingress("web", "client", "443")) == "deny"


def test_server_names_of_several_rules_unite() -> None:
    view = on_web(allow(CLIENT, To("443", names=("B.example", "a.example"))), allow(CLIENT, To("443", names=("c.example",))))
    enforced = view.rules(view.ingress("web", "client", "443")).enforced
    assert enforced.server_names == ("a.example", "b.example", "c.example")
    assert not enforced.any_server_name


def test_plain_allow_beside_server_names_allows_every_name() -> None:
    view = on_web(allow(CLIENT, To("443", names=("a.example",))), allow(CLIENT, "443"))
    enforced = view.rules(view.ingress("web", "client", "443")).enforced
    assert enforced.any_server_name
    assert enforced.server_names == ()


def test_l3_allow_beside_l7_for_anyone_redirects_and_allows_every_message_of_that_peer_only() -> None:
    view = on_web(allow(CLIENT), allow(None, GET_A))
    allowed = view.rules(view.ingress("web", "client", "80")).enforced
    assert allowed.allow_all == (origin("p", "spec.ingress[0]"),)
    restricted = view.rules(view.ingress("web", "other", "80")).enforced
    assert restricted.allow_all == ()
    assert kind(view.ingress("web", "client", "81")) == "allow"
    assert kind(view.ingress("web", "other", "81")) == "deny"


def test_deny_beats_allow_and_l7_of_every_other_policy() -> None:
    view = View.of(
        world(
            policy("l7", "app=web", ingress=[allow(CLIENT, GET_A)]),
            policy("open", "app=web", ingress=[allow()]),
            policy("shut", "app=web", ingress=[deny(CLIENT)]),
            endpoints=PODS,
        )
    )
    assert view.ingress("web", "client", "80") == Deny((origin("shut", "spec.ingressDeny[0]"),))
    assert kind(view.ingress("web", "other", "80")) == "allow"


DENY_80 = deny(None, "80")
DENY_CLIENT = deny(CLIENT)


@pytest.mark.parametrize(
    ("denies", "allows", "curl_81", "curl_80", "ping"),
    [
        ((), True, "allow", "http", "allow"),
        ((DENY_80,), True, "allow", "deny", "allow"),
        ((DENY_CLIENT,), True, "deny", "deny", "deny"),
        ((DENY_80, DENY_CLIENT), True, "deny", "deny", "deny"),
        ((DENY_80,), False, "deny", "deny", "deny"),
    ],
    ids=["no deny", "deny 80", "deny client", "deny both", "deny 80, no allows"],
)
def test_deny_table(denies: tuple[Item, ...], allows: bool, curl_81: str, curl_80: str, ping: str) -> None:
    allowing = (allow(CLIENT), allow(None, "80"), allow(None, "81"), allow(None, To("80", http=(http(),)))) if allows else ()
    view = on_web(*allowing, *denies)
    seen = tuple(kind(view.ingress("web", "client", port)) for port in ("81", "80", "8/icmp"))
    assert seen == (curl_81, curl_80, ping)


# ---- default deny -------------------------------------------------------------------------------------------------


def test_rules_of_a_direction_not_in_default_deny_restrict_nothing_but_l7_denies_still_deny() -> None:
    view = on_web(allow(CLIENT, To("80", http=(http("GET", "/a"),), http_deny=(http("GET", "/admin"),))), default_deny=False)
    enforced = view.rules(view.ingress("web", "client", "80")).enforced
    assert enforced.allow_all == (IMPLICIT_ALLOW,)
    assert paths(enforced.deny) == ["/admin"]
    assert kind(view.ingress("web", "client", "81")) == "allow"
    assert kind(view.ingress("web", "other", "80")) == "allow"


def test_any_policy_with_default_deny_wins() -> None:
    view = View.of(
        world(
            policy("lax", "app=web", ingress=[allow(CLIENT, GET_A)], default_deny=False),
            policy("strict", "app=web", ingress=[allow(CLIENT, "443")]),
            endpoints=PODS,
        )
    )
    assert view.rules(view.ingress("web", "client", "80")).enforced.allow_all == ()
    assert kind(view.ingress("web", "client", "81")) == "deny"
    assert kind(view.ingress("web", "other", "80")) == "deny"


def test_deny_rule_of_a_policy_without_default_deny_denies_only_what_it_names() -> None:
    view = on_web(deny(CLIENT, "80"), default_deny=False)
    assert [kind(view.ingress("web", who, port)) for who in ("client", "other") for port in ("80", "81")] == [
        "deny",
        "allow",
        "allow",
        "allow",
    ]


@pytest.mark.parametrize(
    ("enforcement", "selected", "unselected"),
    [(Enforcement.DEFAULT, "deny", "allow"), (Enforcement.ALWAYS, "deny", "deny"), (Enforcement.NEVER, "allow", "allow")],
)
def test_enforcement_decides_what_no_rule_allows(enforcement: Enforcement, selected: str, unselected: str) -> None:
    view = View.of(world(policy("p", "app=web", ingress=[]), endpoints=PODS, enforcement=enforcement))
    assert kind(view.ingress("web", "client", "80")) == selected
    assert kind(view.egress("web", "client", "80")) == unselected
    assert kind(view.ingress("other", "client", "80")) == unselected


def test_always_enforces_even_with_default_deny_switched_off() -> None:
    view = View.of(
        world(
            policy("p", "app=web", ingress=[allow(CLIENT, "80")], default_deny=False),
            endpoints=PODS,
            enforcement=Enforcement.ALWAYS,
        )
    )
    assert kind(view.ingress("web", "client", "80")) == "allow"
    assert kind(view.ingress("web", "client", "81")) == "deny"


def test_empty_rule_item_allows_everyone_and_empty_peer_list_nobody() -> None:
    assert kind(on_web(allow()).ingress("web", "other", "80")) == "allow"
    assert kind(on_web(allow((), "80")).ingress("web", "other", "80")) == "deny"
    assert kind(on_web().ingress("web", "other", "80")) == "deny"


def test_entity_none_allows_nobody_and_all_anybody() -> None:
    assert kind(on_web(allow(entity("none"))).ingress("web", "client", "80")) == "deny"
    assert kind(on_web(allow(entity("all"))).ingress("web", "8.8.8.8", "80")) == "allow"


# ---- our own ------------------------------------------------------------------------------------------------------


def test_deny_only_l7_allows_what_it_does_not_deny() -> None:
    view = on_web(allow(CLIENT, To("80", http_deny=(http("DELETE"),))))
    enforced = view.rules(view.ingress("web", "client", "80")).enforced
    assert enforced.allow_all == (origin("p", "spec.ingress[0].toPorts[0]"),)
    assert [rule.origin.path for rule in enforced.deny] == ["spec.ingress[0].toPorts[0].rules.httpDeny[0]"]


def test_l7_deny_holds_beside_a_plain_allow_of_another_policy() -> None:
    view = View.of(
        world(
            policy("deny", "app=web", ingress=[allow(CLIENT, To("80", http_deny=(http("DELETE"),)))]),
            policy("open", "app=web", ingress=[allow(CLIENT)]),
            endpoints=PODS,
        )
    )
    assert len(view.rules(view.ingress("web", "client", "80")).enforced.deny) == 1


def test_tls_context_without_l7_rules_is_closed_and_reported() -> None:
    view = on_web(allow(CLIENT, To("443", terminating=TLS_A)))
    assert view.ingress("web", "client", "443") == Deny(problem="a TLS context without L7 rules")
    assert problem_paths(view) == ["spec.ingress[0].toPorts[0]"]


def test_differing_server_names_with_differing_rules_on_terminated_tls_are_closed() -> None:
    view = on_web(
        allow(CLIENT, To("443", http=(http("GET"),), names=("a.example",), terminating=TLS_A)),
        allow(CLIENT, To("443", http=(http("POST"),), names=("b.example",), terminating=TLS_A)),
    )
    assert kind(view.ingress("web", "client", "443")) == "deny"
    assert len(problem_paths(view)) == 2


def test_names_alone_beside_http_for_other_names_on_terminated_tls_are_closed() -> None:
    """Every message is allowed to a.example and some to b.example; united, every message would be allowed to both."""
    view = on_web(
        allow(CLIENT, To("443", names=("a.example",), terminating=TLS_A)),
        allow(CLIENT, To("443", http=(http("POST"),), names=("b.example",), terminating=TLS_A)),
    )
    assert kind(view.ingress("web", "client", "443")) == "deny"


def test_plain_allow_beside_differing_server_names_allows_everything() -> None:
    view = on_web(
        allow(CLIENT, "443"),
        allow(CLIENT, To("443", http=(http("POST"),), names=("b.example",), terminating=TLS_A)),
    )
    enforced = view.rules(view.ingress("web", "client", "443")).enforced
    assert enforced.any_server_name
    assert enforced.allow_all


def test_l7_rules_on_protocol_any_cover_tcp_only() -> None:
    view = on_web(allow(CLIENT, To("80/any", http=(http(),))))
    assert kind(view.ingress("web", "client", "80/tcp")) == "http"
    assert kind(view.ingress("web", "client", "80/udp")) == "deny"
