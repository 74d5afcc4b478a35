"""Servers reached by DNS name: identities of names, and what their entries say."""

from __future__ import annotations

import pytest

from l7filters.compile import Memo, compile, recompile
from l7filters.identity import IdentityTable, LabelSet
from l7filters.ir import Allow, Deny, ServerNameRule
from l7filters.model import DnsRule, L7Protocol, L7Rules, RuleOrigin
from l7filters.saved import dump_identities, load_identities
from l7filters.world import FqdnPorts
from proxylib.dns.rules import NameSelector
from tests.support.worlds import (
    Item,
    To,
    View,
    allow,
    cidr,
    deny,
    endpoint,
    entity,
    fqdn,
    http,
    kind,
    number_of,
    paths,
    pods,
    policy,
    world,
)

WEB, OTHER, JOB = endpoint("web", ip="10.0.0.1"), endpoint("other", ip="10.0.0.2"), endpoint("job", cgroup="job")
PODS = (WEB, OTHER, JOB)
OUTSIDE, OUTSIDE_V6 = "8.8.8.8", "2001:db8::8"
ASKS = L7Rules(L7Protocol.DNS, allow=(DnsRule(RuleOrigin(policy("p").key, "rules.dns[0]"), match_pattern="*.example.com"),))


def sends(*items: Item, **rest: object) -> View:
    return View.of(world(policy("p", "app=web", egress=items), endpoints=PODS, **rest))


# ---- identities ---------------------------------------------------------------------------------------------------


def test_every_selector_of_names_has_one_number_that_lasts_whatever_order_its_exceptions_have() -> None:
    def compiled(*but: str, identities: IdentityTable) -> IdentityTable:
        return compile(
            world(policy("p", "app=web", egress=[allow(fqdn("*.example.com", but=but), "443")]), endpoints=PODS), identities
        ).identities

    first = compiled("a.example.com", "b.example.com", identities=IdentityTable())
    again = compiled("b.example.com", "a.example.com", identities=first)
    label_set = LabelSet(fqdn=NameSelector(None, "*.example.com", ("a.example.com", "b.example.com")))
    assert again.numbers[label_set] == first.numbers[label_set]
    assert load_identities(dump_identities(again)) == again


def test_numbering_that_was_saved_before_there_were_names_is_read() -> None:
    text = '{"version": 1, "next": 257, "identities": [{"number": 256, "labels": {"app": "web"}, "cidrs": []}]}'
    assert load_identities(text).numbers == {LabelSet((("app", "web"),)): 256}


def test_names_have_entries_only_for_subjects_whose_policies_list_them() -> None:
    view = View.of(
        world(
            policy("p", "app=web", egress=[allow(fqdn("a.example.com"), "8443")]),
            policy("q", "app=other", egress=[allow(entity("world"), "8443")], ingress=[allow(entity("world"))]),
            endpoints=PODS,
        )
    )
    names = set(view.granted("a.example.com"))
    assert {entry.key.subject for entry in view.compiled.entries if entry.key.peer in names} == {number_of(view.compiled, WEB)}


def test_policy_that_forgets_a_name_closes_it_in_a_recompile() -> None:
    first, memo = recompile(
        world(policy("p", "app=web", egress=[allow(fqdn("a.example.com", "b.example.com"), "8443")]), endpoints=PODS),
        IdentityTable(),
        Memo(),
    )
    after = world(policy("p", "app=web", egress=[allow(fqdn("b.example.com"), "8443")]), endpoints=PODS)
    second, _ = recompile(after, first.identities, memo)
    gone = first.identities.numbers[LabelSet(fqdn=NameSelector("a.example.com"))]
    assert gone not in second.identities.numbers.values()
    assert gone not in {entry.key.peer for entry in second.entries}


# ---- L3/L4 --------------------------------------------------------------------------------------------------------


def test_name_opens_its_ports_and_nothing_else() -> None:
    view = sends(allow(fqdn("a.example.com"), "8443"))
    assert kind(view.reached("web", OUTSIDE, "8443", "a.example.com")) == "allow"
    assert kind(view.reached("web", OUTSIDE, "8444", "a.example.com")) == "deny"
    assert kind(view.reached("web", OUTSIDE, "8443", "b.example.com")) == "deny"
    assert kind(view.reached("web", OUTSIDE, "8443")) == "deny"
    assert kind(view.reached("other", OUTSIDE, "8443", "a.example.com")) == "allow", "no policy selects it"


@pytest.mark.parametrize(
    ("rule", "address", "expected"),
    [
        (deny(cidr("8.8.0.0/16")), OUTSIDE, "deny"),
        (deny(cidr("9.9.0.0/16")), OUTSIDE, "allow"),
        (deny(None, "8443"), OUTSIDE, "deny"),
        (deny(entity("world"), "8443"), OUTSIDE, "deny"),
        (deny(cidr("0.0.0.0/0"), "8443"), OUTSIDE, "deny"),
        (deny(cidr("0.0.0.0/0"), "8443"), OUTSIDE_V6, "allow"),
        (deny(cidr("0.0.0.0/0", "8.8.0.0/16"), "8443"), OUTSIDE, "allow"),
    ],
)
def test_deny_of_the_address_beats_the_name(rule: Item, address: str, expected: str) -> None:
    view = sends(allow(fqdn("a.example.com"), "8443"), rule)
    assert kind(view.reached("web", address, "8443", "a.example.com")) == expected


def test_allow_of_one_family_opens_no_address_of_the_other_by_a_name() -> None:
    view = sends(allow(fqdn("a.example.com"), "8443"), allow(cidr("0.0.0.0/0"), "22"))
    assert kind(view.reached("web", OUTSIDE, "22", "a.example.com")) == "allow"
    assert kind(view.reached("web", OUTSIDE_V6, "22", "a.example.com")) == "deny"


def test_conflict_is_explicit_so_that_no_name_overrides_it() -> None:
    kafka = To("9092", l7=L7Rules(L7Protocol.KAFKA))
    view = sends(allow(fqdn("a.example.com"), "9092"), allow(cidr("8.8.0.0/16"), kafka), allow(cidr("8.8.0.0/16"), GET("9092")))
    verdict = view.reached("web", OUTSIDE, "9092", "a.example.com")
    assert isinstance(verdict, Deny)
    assert verdict.explicit


def GET(port: str, path: str = "/") -> To:
    return To(port, http=(http("GET", path),))


# ---- two names on one address -------------------------------------------------------------------------------------


def test_tls_port_asks_for_the_name_though_the_rule_has_no_l7() -> None:
    view = sends(allow(fqdn("a.example.com", "*.cdn.example.com")))
    verdict = view.reached("web", OUTSIDE, "443", "a.example.com")
    rules = view.rules(verdict).enforced
    origin = RuleOrigin(policy("p").key, "spec.egress[0]")
    names = (NameSelector("a.example.com"), NameSelector(None, "*.cdn.example.com"))
    assert (kind(verdict), rules.by_name, rules.any_server_name) == ("tls", (ServerNameRule(origin, names),), False)
    assert kind(view.reached("web", OUTSIDE, "443/udp", "a.example.com")) == "deny", "QUIC"
    assert kind(view.reached("web", OUTSIDE, "8443", "a.example.com")) == "allow"


def test_http_port_asks_for_the_name_though_the_rule_has_no_l7() -> None:
    view = sends(allow(fqdn("a.example.com"), "80"))
    rules = view.rules(view.reached("web", OUTSIDE, "80", "a.example.com")).enforced
    assert [(str(rule.origin.path), rule.names) for rule in rules.allow] == [  # type: ignore[union-attr]
        ("spec.egress[0].toPorts[0]", (NameSelector("a.example.com"),))
    ]
    assert rules.allow_all == ()


def test_ports_that_ask_for_names_are_settings() -> None:
    view = sends(allow(fqdn("a.example.com")), fqdn_ports=FqdnPorts(tls=(8443,), http=()))
    found = {port: kind(view.reached("web", OUTSIDE, port, "a.example.com")) for port in ("443", "80", "8443")}
    assert found == {"443": "allow", "80": "allow", "8443": "tls"}


def test_all_names_of_a_port_lead_to_one_slot_each_rule_held_to_its_names() -> None:
    view = sends(allow(fqdn("a.example.com"), GET("8080", "/a")), allow(fqdn("b.example.com"), "8080"))
    by_a, by_b = (view.reached("web", OUTSIDE, "8080", f"{name}.example.com") for name in "ab")
    assert view.slot(by_a).key == view.slot(by_b).key
    assert view.reached("web", OUTSIDE, "8080", "a.example.com", "b.example.com") in (by_a, by_b)
    rules = view.rules(by_a).enforced
    assert sorted((paths([rule])[0], [one.match_name for one in rule.names]) for rule in rules.allow) == [  # type: ignore[union-attr,list-item]
        ("*", ["b.example.com"]),
        ("/a", ["a.example.com"]),
    ]


def test_name_without_rules_for_a_port_does_not_lead_to_its_slot() -> None:
    view = sends(allow(fqdn("a.example.com"), GET("8080")), allow(fqdn("b.example.com"), "8081"))
    assert kind(view.reached("web", OUTSIDE, "8080", "b.example.com")) == "deny"


def test_plain_allow_of_the_world_beside_names_asks_for_none() -> None:
    view = sends(allow(fqdn("a.example.com"), "443"), allow(entity("world"), "443"))
    assert isinstance(view.reached("web", OUTSIDE, "443", "a.example.com"), Allow)


def test_l7_rules_for_the_world_hold_beside_those_for_names() -> None:
    view = sends(allow(fqdn("a.example.com"), GET("80", "/a")), allow(entity("world"), GET("80", "/w")))
    rules = view.rules(view.reached("web", OUTSIDE, "80", "a.example.com")).enforced
    assert sorted(paths(rules.allow)) == ["/a", "/w"]  # type: ignore[arg-type]


def test_names_on_ports_that_tell_none_are_left_apart() -> None:
    kafka = To("9092", l7=L7Rules(L7Protocol.KAFKA))
    view = sends(allow(fqdn("a.example.com"), kafka), allow(fqdn("b.example.com"), "9092"))
    assert kind(view.reached("web", OUTSIDE, "9092", "a.example.com")) == "kafka"
    assert view.rules(view.reached("web", OUTSIDE, "9092", "a.example.com")).enforced.allow_all == ()
    assert kind(view.reached("web", OUTSIDE, "9092", "b.example.com")) == "allow"


# ---- DNS ----------------------------------------------------------------------------------------------------------


def test_dns_rules_lead_to_a_slot_of_the_dns_proxy_by_udp_and_tcp() -> None:
    view = sends(allow(pods("app=other"), To("53/any", l7=ASKS)))
    by_udp, by_tcp = (view.egress("web", "other", f"53/{protocol}") for protocol in ("udp", "tcp"))
    assert (kind(by_udp), by_udp) == ("dns", by_tcp)
    assert view.rules(by_udp).enforced.allow == ASKS.allow
    assert kind(view.egress("web", "other", "53/sctp")) == "deny"


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_subject_that_goes_by_names_is_seen_asking_for_them(protocol: str) -> None:
    port = f"53/{protocol}"
    view = sends(allow(fqdn("a.example.com"), "443"), allow(pods("app=other"), "53/any"), allow(cidr("8.8.0.0/16")))
    for peer in ("other", OUTSIDE):
        verdict = view.egress("web", peer, port)
        assert kind(verdict) == "dns"
        assert view.rules(verdict).enforced.allow_all
    assert kind(view.egress("other", OUTSIDE, port)) == "allow"


def test_dns_rules_beside_a_plain_allow_restrict_nothing() -> None:
    view = sends(allow(pods("app=other"), To("53/udp", l7=ASKS)), allow(pods("app=other"), "53/udp"))
    assert view.rules(view.egress("web", "other", "53/udp")).enforced.allow_all


# ---- where names can't be had -------------------------------------------------------------------------------------


def test_workload_known_by_its_cgroup_has_no_names_and_its_policy_says_so() -> None:
    view = View.of(
        world(
            policy("p", "app=job", egress=[allow(fqdn("a.example.com"), "8443"), allow(pods("app=web"), To("53/udp", l7=ASKS))]),
            endpoints=PODS,
        )
    )
    assert kind(view.reached("job", OUTSIDE, "8443", "a.example.com")) == "deny"
    assert kind(view.egress("job", "web", "53/udp")) == "deny"
    found = {(problem.path, problem.message.partition(" can't")[0]) for problem in view.compiled.problems}
    assert found == {
        ("spec.egress[0].toPorts[0]", "toFQDNs and DNS rules"),
        ("spec.egress[1].toPorts[0]", "toFQDNs and DNS rules"),
    }


def test_audit_of_names_changes_no_verdict_and_is_reported() -> None:
    view = View.of(world(policy("p", "app=web", egress=[allow(fqdn("a.example.com"), "8443")], audit=True), endpoints=PODS))
    assert kind(view.reached("web", OUTSIDE, "8443", "a.example.com")) == "allow"
    assert kind(view.reached("web", OUTSIDE, "8443")) == "allow!"
