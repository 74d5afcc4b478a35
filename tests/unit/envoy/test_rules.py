"""Rules as RBAC and as header actions: what each stage is told, and that a fault never lets more pass."""

from __future__ import annotations

import pytest
from envoy.config.rbac.v3.rbac_pb2 import RBAC

from l7filters.envoy.faults import Faults
from l7filters.envoy.headers import ACTIONS_MAX, action_sets, header_actions, rule_actions
from l7filters.envoy.names import Stage
from l7filters.envoy.rbac import allow_rules, deny_rules, listener_filter, names_connect, route_filters
from l7filters.envoy.resource import RuleProblem
from l7filters.envoy.secrets import Secrets, SecretValue
from l7filters.ir import DirectionRules, RuleSet
from l7filters.model import Direction, HttpRule, MismatchAction, QueryMatch, SecretRef
from tests.support.slots import allowing, everything, exact, header, origin, prefix, regex, rule

REF = SecretRef("default", "tokens", "token")
KNOWN: Secrets = {REF: SecretValue("s3cret\n")}


def allowed(rules: RuleSet, secrets: Secrets | None = None, *, connect: bool = False) -> tuple[RBAC, Faults]:
    faults = Faults()
    return allow_rules(rules, secrets or {}, faults, connect=connect), faults


def denied(rules: RuleSet, secrets: Secrets | None = None) -> tuple[RBAC | None, Faults]:
    faults = Faults()
    return deny_rules(rules, secrets or {}, faults), faults


def test_policies_are_named_by_their_origin() -> None:
    rbac, faults = allowed(allowing(rule(0, method="GET"), rule(1, path=prefix("/x"))))
    assert sorted(rbac.policies) == [str(origin(0)), str(origin(1))]
    assert rbac.action == RBAC.ALLOW
    assert not faults.found


def test_rules_of_one_origin_get_a_policy_each() -> None:
    rbac, _ = allowed(allowing(rule(0, method="GET"), rule(0, method="PUT")))
    assert sorted(rbac.policies) == [str(origin(0)), f"{origin(0)}#2"]


def test_rule_without_predicates_matches_everything() -> None:
    rbac, _ = allowed(allowing(rule(0)))
    policy = rbac.policies[str(origin(0))]
    assert policy.permissions[0].any
    assert policy.principals[0].any


def test_nothing_allowed_allows_nothing() -> None:
    rbac, _ = allowed(RuleSet())
    assert rbac.action == RBAC.ALLOW
    assert not rbac.policies


def test_rule_that_allows_everything_leaves_the_others_out() -> None:
    rules = RuleSet(allow=(rule(0, path=prefix("/x")),), allow_all=(origin(7),))
    rbac, _ = allowed(rules)
    assert list(rbac.policies) == [str(origin(7))]


def test_nothing_denied_needs_no_deny_stage() -> None:
    assert denied(allowing(rule(0)))[0] is None


def test_missing_secret_makes_an_allow_rule_match_nothing() -> None:
    rbac, faults = allowed(allowing(rule(0, headers=(header("x-token", secret=REF),)), rule(1)))
    assert list(rbac.policies) == [str(origin(1))]
    (fault,) = faults.found.values()
    assert (fault.origin, fault.message) == (str(origin(0)), "secret default/tokens, key token, is missing")


def test_missing_secret_makes_a_deny_rule_match_without_that_predicate() -> None:
    rbac, faults = denied(allowing(deny=(rule(0, path=exact("/x"), headers=(header("x-token", secret=REF),)),)))
    assert rbac is not None
    assert rbac.policies[str(origin(0))].permissions[0].url_path.path.exact == "/x"
    assert len(faults.found) == 1


def test_known_secret_is_compared_without_its_final_newline() -> None:
    rbac, faults = allowed(allowing(rule(0, headers=(header("x-token", secret=REF),))), KNOWN)
    assert rbac.policies[str(origin(0))].permissions[0].header.string_match.exact == "s3cret"
    assert not faults.found


@pytest.mark.parametrize("value", [b"a\nb", b"\xff", b"a\0"])
def test_secret_that_no_header_can_carry_is_a_fault(value: bytes) -> None:
    rbac, faults = allowed(allowing(rule(0, headers=(header("x-token", secret=REF),))), {REF: SecretValue(value)})
    assert not rbac.policies
    assert len(faults.found) == 1


def test_secret_missing_but_value_given_compares_the_value() -> None:
    rbac, faults = allowed(allowing(rule(0, headers=(header("x-token", "fallback", secret=REF),))))
    assert rbac.policies[str(origin(0))].permissions[0].header.string_match.exact == "fallback"
    assert not faults.found


def test_server_names_bind_every_allow_rule() -> None:
    for rules in (
        RuleSet(allow=(rule(0, method="GET"),), server_names=("a.com",), any_server_name=False),
        RuleSet(allow_all=(origin(0),), server_names=("a.com",), any_server_name=False),
    ):
        rbac, _ = allowed(rules)
        assert "requested_server_name" in str(rbac.policies[str(origin(0))])


def test_no_server_name_listed_allows_none() -> None:
    rbac, _ = allowed(RuleSet(allow_all=(origin(0),), server_names=(), any_server_name=False))
    assert rbac.policies[str(origin(0))].permissions[0].not_rule.any


@pytest.mark.parametrize(
    "said, means_connect",
    [(None, False), ("GET", False), ("CONNECT", True), (regex("GET|CONNECT"), True), (regex(".*"), False)],
)
def test_connect_has_to_be_named(said: object, means_connect: bool) -> None:
    assert names_connect(rule(0, method=said)) is means_connect  # type: ignore[arg-type]  # a table of both kinds


def test_connect_is_allowed_only_by_rules_that_name_it() -> None:
    rules = RuleSet(allow=(rule(0), rule(1, method="CONNECT")), allow_all=(origin(7),))
    rbac, _ = allowed(rules, connect=True)
    assert list(rbac.policies) == [str(origin(1))]


def test_filter_in_the_listener_is_closed() -> None:
    assert listener_filter(Direction.INGRESS, Stage.ALLOW).HasField("rules")
    assert not listener_filter(Direction.INGRESS, Stage.ALLOW).rules.policies
    assert not listener_filter(Direction.INGRESS, Stage.DENY).HasField("rules")


def test_stage_with_nothing_to_say_is_switched_off() -> None:
    filters = route_filters(Direction.EGRESS, DirectionRules(allowing(rule(0))), {}, Faults())
    assert not filters["tidegate.egress.deny"].HasField("rbac")
    assert filters["tidegate.egress.allow"].rbac.HasField("rules")
    assert not filters["tidegate.egress.allow"].rbac.HasField("shadow_rules")


def test_audited_deny_is_a_shadow_of_a_stage_that_enforces_nothing() -> None:
    rules = DirectionRules(enforced=everything(), shadow=allowing(rule(0), deny=(rule(1),)))
    filters = route_filters(Direction.EGRESS, rules, {}, Faults())
    deny = filters["tidegate.egress.deny"].rbac
    assert not deny.HasField("rules")
    assert list(deny.shadow_rules.policies) == [str(origin(1))]
    assert deny.shadow_rules_stat_prefix == deny.rules_stat_prefix == "egress_deny_"


# ---- header actions -----------------------------------------------------------------------------------------------


def acting(*actions: MismatchAction, number: int = 0) -> HttpRule:
    return rule(number, headers=tuple(header(f"x-{index}", "v", mismatch=action) for index, action in enumerate(actions)))


def test_larger_sets_of_actions_come_first() -> None:
    actions = rule_actions(acting(MismatchAction.ADD, MismatchAction.LOG, MismatchAction.DELETE), {})
    sizes = [len(each) for each in action_sets(actions)]
    assert sizes == [3, 2, 2, 2, 1, 1, 1]


def test_actions_up_to_the_limit_are_taken_and_one_more_is_a_problem() -> None:
    most = [acting(MismatchAction.LOG, number=number) for number in range(ACTIONS_MAX)]
    assert len(header_actions(most, {}, Faults())) == ACTIONS_MAX
    with pytest.raises(RuleProblem, match=f"the most is {ACTIONS_MAX}"):
        header_actions([*most, acting(MismatchAction.LOG, number=99)], {}, Faults())


def test_same_action_of_both_directions_counts_once() -> None:
    assert len(header_actions([acting(MismatchAction.ADD)] * 2, {}, Faults())) == 1


def test_percent_in_a_value_is_no_command() -> None:
    (action,) = rule_actions(rule(0, headers=(header("x", "50%off", mismatch=MismatchAction.ADD),)), {})
    option = action.added()
    assert option is not None
    assert option.header.value == "50%%off"


def test_absent_header_counts_as_a_mismatch() -> None:
    (action,) = rule_actions(acting(MismatchAction.LOG), {})
    (fails,) = action.due
    assert fails.invert_match
    assert fails.treat_missing_header_as_empty


FAULTY = [
    rule(0, headers=(header("host", "v", mismatch=MismatchAction.REPLACE),)),
    rule(0, headers=(header(":path", "v", mismatch=MismatchAction.DELETE),)),
    rule(0, headers=(header("x", regex("a+"), mismatch=MismatchAction.ADD),)),
    rule(0, headers=(header("x", regex("a*"), mismatch=MismatchAction.LOG),)),
    rule(0, headers=(header("x", "v", mismatch=MismatchAction.ADD, invert=True),)),
    rule(0, headers=(header("x", secret=REF, mismatch=MismatchAction.REPLACE),)),
    rule(0, headers=(header("x", "v", mismatch=MismatchAction.ADD),), query=(QueryMatch("q", exact("1")),)),
]


@pytest.mark.parametrize("faulty", FAULTY, ids=str)
def test_rule_whose_action_cannot_be_carried_out_allows_nothing(faulty: HttpRule) -> None:
    rbac, faults = allowed(allowing(faulty, rule(1)))
    assert list(rbac.policies) == [str(origin(1))]
    assert [fault.origin for fault in faults.found.values()] == [str(origin(0))]
    assert header_actions([faulty], {}, Faults()) == ()


def test_log_of_a_host_mismatch_changes_nothing_and_is_fine() -> None:
    (action,) = rule_actions(rule(0, headers=(header("host", "v", mismatch=MismatchAction.LOG),)), {})
    assert action.added() is None
    assert not action.removes()
