"""What random worlds once found: each judged alike by the evaluator and the compiled policy ever since."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from l7filters.decision import Flow, Outcome
from l7filters.model import Policy, Protocol
from l7filters.world import World
from tests.support.verdicts import compiled_verdict, expected_verdict
from tests.support.worlds import To, View, allow, cidr, deny, endpoint, http, pods, policy, world

CLIENT = endpoint("client", ip="10.0.0.1")
WEB = endpoint("web", ip="10.0.0.2")
OUTSIDE = ip_address("198.51.100.7")


def judged(where: World, source: object, destination: object) -> Outcome:
    """Return what becomes of a connection to port 80, once both judges agree."""
    view = View.of(where)
    asked = Flow(str(source), str(destination), Protocol.TCP, 80)
    expected = expected_verdict(view, asked)
    assert compiled_verdict(view, asked) == expected
    return expected.connection


MENTIONED = policy("elsewhere", "app=web", egress=[allow(cidr("198.51.100.0/24"))])
"""Says nothing about the client, but gives addresses of the prefix an identity of their own."""


@pytest.mark.parametrize("others", [(), (MENTIONED,)])
def test_rule_on_reserved_world_covers_addresses_that_some_other_rule_mentions(others: tuple[Policy, ...]) -> None:
    open_to_world = policy("p", "app=client", egress=[allow(pods("reserved:world"))])
    closed_to_world = policy("p", "app=client", egress=[allow(None), deny(pods("reserved:world"))])
    for own, outcome in ((open_to_world, Outcome.ALLOW), (closed_to_world, Outcome.DENY)):
        assert judged(world(own, *others, endpoints=(CLIENT, WEB)), "10.0.0.1", OUTSIDE) is outcome


def test_end_that_passes_everything_leaves_the_judgement_to_the_other() -> None:
    out = policy("out", "app=client", egress=[allow(None, To("80", names=("web.test",))), allow(None, "80")])
    into = policy("in", "app=web", ingress=[allow(None, To("80", http=(http("GET"),)))])
    assert judged(world(out, into, endpoints=(CLIENT, WEB)), "10.0.0.1", "10.0.0.2") is Outcome.REDIRECT
