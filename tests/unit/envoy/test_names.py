"""Names that go into Envoy's configuration come back out of its logs."""

from __future__ import annotations

import pytest

from l7filters.envoy import HeaderMismatch, Stage, StageVerdict, read_mismatches, read_verdicts, slot_id_of, slot_name
from l7filters.envoy.names import mismatch_route, policy_names
from l7filters.model import Direction, MismatchAction
from l7filters.slots import SLOT_MAX

RULE = "cnp/default/a:spec.ingress[0].toPorts[0].rules.http[0]"


@pytest.mark.parametrize("slot_id", [1, 9, 10, SLOT_MAX])
def test_slot_id_comes_back_from_its_name(slot_id: int) -> None:
    assert slot_id_of(slot_name(slot_id)) == slot_id


@pytest.mark.parametrize(
    "name", ["", "slot-", "slot-0", "slot-01", "slot-2048", "slot-1-originating", "slot-¹", "slot--1", "xds"]
)
def test_other_names_are_no_slots(name: str) -> None:
    assert slot_id_of(name) is None


def test_verdicts_come_in_the_order_they_were_judged() -> None:
    metadata = {
        "ingress_allow_enforced_engine_result": "denied",
        "egress_deny_enforced_engine_result": "allowed",
        "egress_allow_enforced_engine_result": "allowed",
        "egress_allow_enforced_effective_policy_id": RULE,
    }
    assert read_verdicts(metadata) == (
        StageVerdict(Direction.EGRESS, Stage.DENY, True, None, True, None),
        StageVerdict(Direction.EGRESS, Stage.ALLOW, True, RULE, True, RULE),
        StageVerdict(Direction.INGRESS, Stage.ALLOW, False, None, False, None),
    )


def test_audit_differs_from_what_is_enforced() -> None:
    metadata = {
        "ingress_allow_enforced_engine_result": "allowed",
        "ingress_allow_enforced_effective_policy_id": RULE,
        "ingress_allow_shadow_engine_result": "denied",
    }
    assert read_verdicts(metadata) == (StageVerdict(Direction.INGRESS, Stage.ALLOW, True, RULE, False, None),)


def test_network_filters_tell_what_they_enforced_under_keys_of_their_own() -> None:
    metadata = {
        "ingress_allow_enforced_shadow_engine_result": "allowed",
        "ingress_allow_enforced_shadow_effective_policy_id": "server-names",
        "ingress_allow_shadow_engine_result": "denied",
    }
    assert read_verdicts(metadata) == (StageVerdict(Direction.INGRESS, Stage.ALLOW, True, "server-names", False, None),)


def test_further_policies_of_a_rule_are_read_as_that_rule() -> None:
    assert policy_names([RULE, "other", RULE]) == [RULE, "other", RULE + "#2"]
    metadata = {"egress_deny_enforced_engine_result": "denied", "egress_deny_enforced_effective_policy_id": RULE + "#2"}
    assert read_verdicts(metadata)[0].rule == RULE


def test_foreign_metadata_holds_no_verdict() -> None:
    assert read_verdicts({}) == ()
    assert read_verdicts({"enforced_engine_result": "denied"}) == ()


def test_mismatches_come_back_from_the_route_name() -> None:
    mismatches = (
        HeaderMismatch(RULE, "x-a", MismatchAction.ADD),
        HeaderMismatch(RULE, "x-b", MismatchAction.LOG),
    )
    assert read_mismatches(mismatch_route(mismatches)) == mismatches


@pytest.mark.parametrize("name", ["", "any", "connect"])
def test_other_routes_tell_of_no_mismatch(name: str) -> None:
    assert read_mismatches(name) == ()
