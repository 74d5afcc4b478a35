"""Local flows that both ends' rules redirect."""

from __future__ import annotations

import pytest

from l7filters.ir import Redirect, Slot
from l7filters.lookup import Dropped, Flow, Passed
from l7filters.model import Policy, TlsContext
from tests.support.worlds import To, View, allow, endpoint, http, paths, pods, policy, world

PODS = (endpoint("web"), endpoint("client"), endpoint("other"))
TLS_A, TLS_B = TlsContext("default", "a"), TlsContext("default", "b")


def http_to(port: str, path: str, **more: object) -> To:
    return To(port, http=(http("GET", path),), **more)  # type: ignore[arg-type]


def pair_slots(view: View) -> list[Slot]:
    return [slot for slot in view.compiled.slots if slot.egress and slot.ingress]


def judge(view: View, source: str, destination: str, port: int = 80) -> Dropped | Passed:
    return view.entries.judge(Flow(view.number(source), view.number(destination), 6, port))


def sends(*tos: To, to: str | None = None) -> Policy:
    return policy("sends", "app=client", egress=[allow(pods(to) if to else None, *tos)])


def receives(*tos: To, frm: str | None = None) -> Policy:
    return policy("receives", "app=web", ingress=[allow(pods(frm) if frm else None, *tos)])


@pytest.mark.parametrize("to", [None, "app=web"])
@pytest.mark.parametrize("frm", [None, "app=client"])
def test_flow_that_both_ends_redirect_is_judged_once_by_both(to: str | None, frm: str | None) -> None:
    view = View.of(world(sends(http_to("80", "/out"), to=to), receives(http_to("80", "/in"), frm=frm), endpoints=PODS))
    (pair,) = pair_slots(view)
    assert judge(view, "client", "web") == Passed(pair.key)
    assert pair.egress is not None
    assert pair.ingress is not None
    assert (paths(pair.egress.enforced.allow), paths(pair.ingress.enforced.allow)) == (["/out"], ["/in"])


def test_flow_that_one_end_redirects_goes_to_that_ends_slot() -> None:
    view = View.of(world(sends(http_to("80", "/out")), receives(http_to("80", "/in")), endpoints=PODS))
    sent = judge(view, "client", "other")
    received = judge(view, "other", "web")
    assert isinstance(sent, Passed)
    assert isinstance(received, Passed)
    assert sent.slot is not None
    assert received.slot is not None
    assert (sent.slot.ingress, received.slot.egress) == (None, None)


def test_rules_on_ports_that_do_not_meet_make_no_pair() -> None:
    view = View.of(world(sends(http_to("80", "/out")), receives(http_to("81", "/in")), endpoints=PODS))
    assert pair_slots(view) == []


def test_range_meets_a_port_within_it() -> None:
    view = View.of(world(sends(http_to("1-1000", "/out")), receives(http_to("80", "/in")), endpoints=PODS))
    (pair,) = pair_slots(view)
    assert judge(view, "client", "web") == Passed(pair.key)


def test_peers_that_exclude_each_other_make_no_pair() -> None:
    view = View.of(
        world(sends(http_to("80", "/out"), to="app=other"), receives(http_to("80", "/in"), frm="app=other"), endpoints=PODS)
    )
    assert pair_slots(view) == []


def test_endpoints_with_one_identity_pair_with_themselves() -> None:
    rules = [policy("both", "app=web", egress=[allow(None, http_to("80", "/out"))], ingress=[allow(None, http_to("80", "/in"))])]
    view = View.of(world(*rules, endpoints=PODS))
    (pair,) = pair_slots(view)
    assert judge(view, "web", "web") == Passed(pair.key)


def test_ends_that_speak_different_protocols_have_no_pair_and_both_policies_say_so() -> None:
    view = View.of(world(sends(http_to("443", "/out")), receives(To("443", names=("a.example",))), endpoints=PODS))
    assert pair_slots(view) == []
    found = judge(view, "client", "web", 443)
    assert isinstance(found, Dropped)
    assert found.no_pair
    assert [problem.policy for problem in view.compiled.problems] == ["cnp/default/receives", "cnp/default/sends"]
    assert "speak http, the other's tls" in view.compiled.problems[0].message


def test_ends_with_different_tls_contexts_have_no_pair() -> None:
    view = View.of(
        world(
            sends(http_to("443", "/out", terminating=TLS_A)),
            receives(http_to("443", "/in", terminating=TLS_B)),
            endpoints=PODS,
        )
    )
    assert pair_slots(view) == []
    assert len(view.compiled.problems) == 2


def test_pair_takes_the_tls_context_of_the_end_that_has_one() -> None:
    view = View.of(
        world(
            sends(http_to("443", "/out", terminating=TLS_A, originating=TLS_B)), receives(http_to("443", "/in")), endpoints=PODS
        )
    )
    (pair,) = pair_slots(view)
    assert (pair.terminating_tls, pair.originating_tls) == (TLS_A, TLS_B)


def test_remote_ends_make_no_pair() -> None:
    far = (endpoint("web", remote=True), endpoint("client"))
    view = View.of(world(sends(http_to("80", "/out")), receives(http_to("80", "/in")), endpoints=far))
    assert pair_slots(view) == []


def test_end_that_passes_everything_is_left_to_the_other_ends_slot() -> None:
    lenient = [allow(None, To("443", names=("a.example",))), allow(None, "443")]
    view = View.of(world(sends(http_to("443", "/out")), policy("p", "app=web", ingress=lenient), endpoints=PODS))
    sent = view.egress("client", "web", "443")
    assert isinstance(sent, Redirect)
    assert judge(view, "client", "web", 443) == Passed(sent.slot)
    assert view.compiled.problems == ()
