"""The evaluator and the compiled policy give every flow the same verdict."""

from __future__ import annotations

from hypothesis import HealthCheck, event, given, settings

from l7filters.decision import Flow
from l7filters.world import World
from tests.support.strategies import worlds_and_flows
from tests.support.verdicts import compiled_verdict, expected_verdict
from tests.support.worlds import View

EXAMPLES_MIN = 150


@settings(
    max_examples=max(EXAMPLES_MIN, settings().max_examples),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(worlds_and_flows())
def test_evaluator_and_compiled_entries_agree_on_every_flow(case: tuple[World, tuple[Flow, ...]]) -> None:
    world, flows = case
    view = View.of(world)
    for flow in flows:
        expected = expected_verdict(view, flow)
        event(f"{expected.connection} {expected.message}{' audited' if expected.audited else ''}")
        assert compiled_verdict(view, flow) == expected, flow
