"""Ports that are observed: what passes anyway goes through the proxy; no verdict changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from envoy.config.accesslog.v3.accesslog_pb2 import RuntimeFilter

from l7filters.envoy.access_log import http_access_log
from l7filters.envoy.settings import EnvoySettings
from l7filters.ir import Allow, Deny, Redirect, RuleSet
from l7filters.lookup import Dropped, Flow, Passed
from l7filters.model import Direction, KafkaRule, L7Protocol, L7Rules, Observation, Policy, PortRule, RuleOrigin
from l7filters.precedence import IMPLICIT_ALLOW
from l7filters.world import Enforcement
from tests.support.worlds import To, View, allow, deny, endpoint, fqdn, http, kind, origin, pods, policy, ports, world

PODS = (
    endpoint("web", ip="10.0.0.1"),
    endpoint("client", ip="10.0.0.2"),
    endpoint("other", ip="10.0.0.3"),
    endpoint("builder", cgroup="system.slice/builder.service"),
)
CLIENT = pods("app=client")
GET_A = To("80", http=(http("GET", "/a"),))
KAFKA = To("80", l7=L7Rules(L7Protocol.KAFKA, allow=(KafkaRule(origin("any", "kafka[0]")),)))


def look(port: str = "80", on: str = "app=web", direction: str = "ingress", sample: float | None = None, n: int = 0) -> Policy:
    one = policy(f"look{n}", on)
    rule = PortRule(ports(port), RuleOrigin(one.key, "spec.observe[0]"), L7Rules(L7Protocol.HTTP, deny_only=True))
    return replace(one, observe=(Observation(Direction(direction), rule, sample),))


def seen(*policies: Policy, enforcement: Enforcement = Enforcement.DEFAULT) -> View:
    return View.of(world(*policies, endpoints=PODS, enforcement=enforcement))


def enforce(*items: object) -> Policy:
    return policy("enforce", "app=web", ingress=items)  # type: ignore[arg-type]


def audit(*items: object) -> Policy:
    return policy("audit", "app=web", ingress=items, audit=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policies", "client_80", "client_81", "other_80"),
    [
        ([], "http", "allow", "http"),
        ([enforce(allow(CLIENT, "80"))], "http", "deny", "deny"),
        ([enforce(allow(CLIENT, "81"))], "deny", "allow", "deny"),
        ([enforce(allow(), deny(CLIENT, "80"))], "deny", "allow", "http"),
        ([enforce(allow(CLIENT, KAFKA))], "kafka", "deny", "deny"),
        ([audit(deny(CLIENT, "80"))], "http!", "allow!", "http!"),
        ([audit(allow(CLIENT, GET_A))], "http", "allow!", "http!"),
    ],
)
def test_only_what_passes_is_redirected(policies: list[Policy], client_80: str, client_81: str, other_80: str) -> None:
    view = seen(look(), *policies)
    found = (
        kind(view.ingress("web", "client", "80")),
        kind(view.ingress("web", "client", "81")),
        kind(view.ingress("web", "other", "80")),
    )
    assert found == (client_80, client_81, other_80)
    assert kind(view.egress("web", "client", "80")) == kind(view.ingress("other", "client", "80")) == "allow"
    assert view.compiled.problems == ()


def test_what_is_seen_may_say_everything_and_rules_that_redirect_stay_as_they_are() -> None:
    view = seen(look(sample=0.5), enforce(allow(CLIENT, GET_A), allow(pods("app=other"), "80")))
    observed = view.ingress("web", "other", "80")
    assert view.rules(observed).enforced == RuleSet(allow_all=(origin("enforce", "spec.ingress[1].toPorts[0]"),))
    assert view.slot(observed).sample == 0.5
    judged = view.slot(view.ingress("web", "client", "80"))
    alone = seen(enforce(allow(CLIENT, GET_A), allow(pods("app=other"), "80")))
    assert judged == alone.slot(alone.ingress("web", "client", "80"))


def test_direction_that_is_only_observed_is_not_in_default_deny() -> None:
    view = seen(look())
    assert view.rules(view.ingress("web", "client", "80")).enforced.allow_all == (IMPLICIT_ALLOW,)


@pytest.mark.parametrize(
    ("samples", "lowest"), [((None, None), None), ((0.5, None), 0.5), ((0.5, 0.25), 0.25), ((1.0, 0.0), 0.0)]
)
def test_lowest_sample_of_a_port_counts(samples: tuple[float | None, ...], lowest: float | None) -> None:
    view = seen(*(look(sample=sample, n=number) for number, sample in enumerate(samples)))
    assert view.slot(view.ingress("web", "client", "80")).sample == lowest


def test_sample_of_a_slot_is_not_the_one_that_followers_change() -> None:
    def sampled(sample: float | None) -> RuntimeFilter:
        filters = http_access_log("s", [], EnvoySettings(allowed_sample=0.01), sample).filter.or_filter.filters
        return filters[0].runtime_filter

    own, common = sampled(0.25), sampled(None)
    assert (own.percent_sampled.numerator, common.percent_sampled.numerator) == (250_000, 10_000)
    assert own.runtime_key != common.runtime_key


@pytest.mark.parametrize(("sample", "both"), [(0.5, 0.5), (None, None)])
def test_flow_that_both_ends_observe_is_sampled_only_if_both_say_so(sample: float | None, both: float | None) -> None:
    view = seen(look(sample=0.75), look(on="app=client", direction="egress", sample=sample, n=1))
    (pair,) = (slot for slot in view.compiled.slots if slot.egress and slot.ingress)
    assert pair.sample == both


def test_other_end_that_speaks_something_else_is_judged_as_if_nobody_observed() -> None:
    view = seen(enforce(allow(CLIENT, KAFKA)), look(on="app=client", direction="egress"))
    passed = view.entries.judge(Flow(view.number("client"), view.number("web"), 6, 80))
    assert isinstance(passed, Passed)
    assert passed.slot is not None
    assert (passed.slot.protocol, passed.slot.egress) == (L7Protocol.KAFKA, None)
    assert isinstance(view.entries.judge(Flow(view.number("other"), view.number("web"), 6, 80)), Dropped)
    assert view.compiled.problems == ()


def test_egress_that_goes_by_names_is_not_observed_and_that_is_reported() -> None:
    named = policy("named", "app=web", egress=[allow(fqdn("a.test"), "443"), allow(CLIENT, "80")])
    view = seen(named, look(direction="egress"))
    assert isinstance(view.egress("web", "client", "80"), Allow)
    assert {str(problem.policy) for problem in view.compiled.problems} == {"cnp/default/look0"}


def test_workload_known_by_cgroup_is_observed_on_egress_alone_and_that_is_reported() -> None:
    both = look(on="app=builder"), look(on="app=builder", direction="egress", n=1)
    view = seen(*both)
    assert isinstance(view.ingress("builder", "client", "80"), Allow)
    assert isinstance(view.egress("builder", "client", "80"), Redirect)
    assert [str(problem.policy) for problem in view.compiled.problems] == ["cnp/default/look0"]


def test_enforcement_decides_before_observation() -> None:
    assert isinstance(seen(look(), enforcement=Enforcement.NEVER).ingress("web", "client", "80"), Allow)
    assert isinstance(seen(look(), enforcement=Enforcement.ALWAYS).ingress("web", "client", "80"), Deny)


def test_only_tcp_is_observed() -> None:
    view = seen(look("80/any"))
    assert (kind(view.ingress("web", "client", "80")), kind(view.ingress("web", "client", "80/udp"))) == ("http", "allow")
