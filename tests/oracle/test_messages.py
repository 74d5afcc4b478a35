"""Envoy gives every HTTP message the verdict of the evaluator: random slots as they are translated, random requests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from l7filters.decision import Flow, Verdict
from l7filters.envoy import EnvoySettings
from l7filters.envoy.faults import Faults
from l7filters.envoy.names import ORIGINAL_DST_CLUSTER, HeaderMismatch, read_mismatches, read_verdicts
from l7filters.envoy.route import directions, route_configuration
from l7filters.envoy.secrets import Secrets, SecretValue
from l7filters.http import HttpRequest
from l7filters.ir import Slot
from l7filters.model import HttpRule
from l7filters.predicates import header_actions
from tests.support.static_envoy import Answer, StaticEnvoy, slot_manager
from tests.support.strategies import SECRETS, http_slots, requests
from tests.support.verdicts import shadow_verdict, slot_verdict

pytestmark = pytest.mark.envoy

SLOTS = 25
REQUESTS = 30
ROUNDS_MIN = 4
HELD: Secrets = {ref: SecretValue(text) for ref, text in SECRETS.items()}


class Round:
    """What one Envoy is asked. Its repr is short: a failed assertion prints the slot and the request in question."""

    def __init__(self, slots: list[Slot], requests: list[HttpRequest]) -> None:
        self.slots = slots
        self.requests = requests

    def __repr__(self) -> str:
        return f"<{len(self.slots)} slots, {len(self.requests)} requests>"


@st.composite
def rounds(draw: st.DrawFn) -> Round:
    """Draw slots and requests."""
    return Round([draw(http_slots()) for _ in range(SLOTS)], [draw(requests()) for _ in range(REQUESTS)])


def _serve(directory: Path, slots: Sequence[Slot]) -> tuple[StaticEnvoy, list[Slot]]:
    """Return Envoy with those of ``slots`` whose rules can all be translated, were all secrets there."""
    managers, served = [], []
    for number, slot in enumerate(slots, start=1):
        faults = Faults()
        routes = route_configuration(slot, f"slot-{number}", ORIGINAL_DST_CLUSTER, EnvoySettings(), HELD, faults)
        if all("is missing" in message for _, message in faults.found):
            managers.append(slot_manager(routes, tuple(direction for direction, _ in directions(slot))))
            served.append(slot)
    return StaticEnvoy(directory, managers), served


def _expected_mismatches(slot: Slot, request: HttpRequest) -> set[HeaderMismatch]:
    rules = [rule for _, side in directions(slot) for rule in side.enforced.allow if isinstance(rule, HttpRule)]
    due = header_actions(rules, request, SECRETS)
    return {HeaderMismatch(str(each.origin), each.header, each.action) for each in due}


def _check(slot: Slot, request: HttpRequest, answer: Answer) -> None:
    flow = Flow("10.0.0.1", "10.0.0.2", destination_port=80, http=request)
    expected = slot_verdict(slot, flow, SECRETS)
    event(str(expected))
    where = f"{request}\n{slot}\n{answer}"
    if request.is_refused:
        assert answer.status == 400, where
        return
    assert answer.status == (200 if expected is Verdict.ALLOWED else 403), where
    if expected is Verdict.ALLOWED:
        judged = read_verdicts(json.loads(answer.headers["x-verdicts"] or "{}"))
        audited = not all(stage.shadow_allowed for stage in judged)
        assert audited == (shadow_verdict(slot, flow, SECRETS) is Verdict.DENIED), where
        if not request.is_connect:
            assert set(read_mismatches(answer.headers["x-route"])) == _expected_mismatches(slot, request), where


@settings(
    max_examples=max(ROUNDS_MIN, settings().max_examples // 50),
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(rounds())
def test_envoy_judges_every_message_as_the_evaluator_does(asked: Round) -> None:
    with TemporaryDirectory(prefix="tidegate-oracle-") as directory:
        envoy, served = _serve(Path(directory), asked.slots)
        with envoy:
            for number, slot in enumerate(served):
                for request in asked.requests:
                    target = request.authority if request.is_connect else request.path
                    answer = envoy.ask(request.method, target, request.headers, host=request.authority, slot=number)
                    _check(slot, request, answer)
