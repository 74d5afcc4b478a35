"""RBAC: the policy of a slot as Envoy judges it.

Owns: policies, and what each RBAC filter of a slot is told in the route configuration. Must not know listeners.

A direction is judged by two filters (names.py says which and in what order): ``deny`` (action DENY: a matching rule ends the
request) and ``allow`` (action ALLOW: no matching rule ends it). A filter's own configuration in the listener is closed (the
allow filter lets nothing pass); the route configuration, which can change under live connections, overrides it. A stage
that has nothing to say is switched off there.

The policy's name is the rule's origin, so dynamic metadata tells which rule decided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from envoy.config.rbac.v3.rbac_pb2 import RBAC as RBACRules
from envoy.config.rbac.v3.rbac_pb2 import Permission, Policy, Principal
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC, RBACPerRoute
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from l7filters.envoy import names
from l7filters.envoy.faults import Faults
from l7filters.envoy.fqdn import host_names_permission
from l7filters.envoy.headers import rule_actions
from l7filters.envoy.matching import (
    Stance,
    all_of,
    any_of,
    every_principal,
    header_holds,
    header_permission,
    host_permission,
    path_permission,
    query_principals,
    regex_matcher,
)
from l7filters.envoy.names import Stage
from l7filters.envoy.resource import RuleProblem
from l7filters.envoy.secrets import Secrets
from l7filters.envoy.server_name import server_name_regex
from l7filters.ir import DirectionRules, RuleSet
from l7filters.model import Direction, HttpRule, MismatchAction

CONNECT = "CONNECT"
_NO_RULES_ALLOW = RBACRules(action=RBACRules.ALLOW)


def names_connect(rule: HttpRule) -> bool:
    """Tell whether a rule means CONNECT: its method predicate has to say so in as many letters."""
    return rule.method is not None and CONNECT in rule.method.value.upper()


# ---- one rule -----------------------------------------------------------------------------------------------------


def rule_policy(rule: HttpRule, secrets: Secrets, stance: Stance, faults: Faults) -> Policy | None:
    """Return the policy that matches what ``rule`` does; None: it can match nothing.

    A predicate that can't be judged (a missing secret, a regular expression that Envoy would refuse) is noted. In a rule that
    allows it then holds for nothing; in one that denies it holds for everything. So neither lets more pass than was written.
    Nor does a rule allow anything whose header actions can't be carried out.
    """
    permissions: list[Permission] = []
    principals: list[Principal] = []
    judged = True

    def hold(predicate: Callable[[], Permission]) -> None:
        nonlocal judged
        try:
            permissions.append(predicate())
        except RuleProblem as problem:
            faults.note(str(rule.origin), problem)
            judged = False

    if rule.method is not None:
        method = rule.method
        hold(lambda: header_permission(":method", method, Stance.NARROW))
    if rule.path is not None:
        path = rule.path
        hold(lambda: path_permission(path))
    if rule.host is not None:
        host = rule.host
        hold(lambda: host_permission(host, stance))
    if rule.names:
        hold(lambda: host_names_permission(rule.names, stance))
    for header in rule.headers:
        if header.mismatch is MismatchAction.FAIL:
            hold(partial(header_holds, header, secrets, stance))
    for query in rule.query:
        try:
            principals.extend(query_principals(query, stance))
        except RuleProblem as problem:
            faults.note(str(rule.origin), problem)
            judged = False
    if stance is Stance.NARROW:
        try:
            rule_actions(rule, secrets)
        except RuleProblem as problem:
            faults.note(str(rule.origin), problem)
            judged = False
        if not judged:
            return None
    return Policy(permissions=[all_of(permissions)], principals=[every_principal(principals)])


def rule_policies(rules: Iterable[HttpRule], secrets: Secrets, stance: Stance, faults: Faults) -> list[tuple[str, Policy]]:
    """Return (origin, policy) of each rule that can match something."""
    judged = ((str(rule.origin), rule_policy(rule, secrets, stance, faults)) for rule in rules)
    return [(origin, policy) for origin, policy in judged if policy is not None]


def server_names_permission(rules: RuleSet) -> Permission | None:
    """Return the predicate on the TLS server name; None: any name, or none, will do."""
    if rules.any_server_name:
        return None
    matchers = [StringMatcher(safe_regex=regex_matcher(server_name_regex(each))) for each in rules.server_names]
    if not matchers:
        return Permission(not_rule=Permission(any=True))
    return any_of([Permission(requested_server_name=matcher) for matcher in matchers])


# ---- one stage ----------------------------------------------------------------------------------------------------


def _http_rules(rules: Sequence[object]) -> list[HttpRule]:
    found = [rule for rule in rules if isinstance(rule, HttpRule)]
    assert len(found) == len(rules), "an HTTP slot holds HTTP rules"
    return found


def deny_rules(rules: RuleSet, secrets: Secrets, faults: Faults) -> RBACRules | None:
    """Return the deny stage; None when nothing is denied."""
    policies = rule_policies(_http_rules(rules.deny), secrets, Stance.BROAD, faults)
    if not policies:
        return None
    return RBACRules(action=RBACRules.DENY, policies=_named(policies))


def allow_rules(rules: RuleSet, secrets: Secrets, faults: Faults, *, connect: bool) -> RBACRules:
    """Return the allow stage. ``connect``: of a CONNECT request, which only rules that name the method can allow.

    Where some rule allows every message the others are left out: they can change nothing but the name that is reported.
    """
    server_names = server_names_permission(rules)
    if rules.allow_all and not connect:
        everything = Policy(permissions=[server_names or Permission(any=True)], principals=[Principal(any=True)])
        return RBACRules(action=RBACRules.ALLOW, policies=_named([(str(origin), everything) for origin in rules.allow_all]))
    chosen = [rule for rule in _http_rules(rules.allow) if not connect or names_connect(rule)]
    policies = rule_policies(chosen, secrets, Stance.NARROW, faults)
    if server_names is not None:
        for _, policy in policies:
            judged = policy.permissions[0]
            del policy.permissions[:]
            policy.permissions.append(Permission(and_rules=Permission.Set(rules=[server_names, judged])))
    return RBACRules(action=RBACRules.ALLOW, policies=_named(policies))


def _named(policies: list[tuple[str, Policy]]) -> dict[str, Policy]:
    return dict(zip(names.policy_names([origin for origin, _ in policies]), (policy for _, policy in policies), strict=True))


# ---- filters ------------------------------------------------------------------------------------------------------


def listener_filter(direction: Direction, stage: Stage) -> RBAC:
    """Return a filter as the listener has it: closed, until the route configuration says what it judges."""
    prefix = names.stat_prefix(direction, stage)
    return RBAC(
        rules=_NO_RULES_ALLOW if stage is Stage.ALLOW else None,
        rules_stat_prefix=prefix,
        shadow_rules_stat_prefix=prefix,
    )


def route_filters(
    direction: Direction, rules: DirectionRules, secrets: Secrets, faults: Faults, *, connect: bool = False
) -> dict[str, RBACPerRoute]:
    """Return what the route configuration tells the two filters of a direction."""
    enforced = deny_rules(rules.enforced, secrets, faults), allow_rules(rules.enforced, secrets, faults, connect=connect)
    if rules.shadow is None:
        shadow: tuple[RBACRules | None, RBACRules | None] = (None, None)
    else:
        shadow = deny_rules(rules.shadow, secrets, faults), allow_rules(rules.shadow, secrets, faults, connect=connect)
    found: dict[str, RBACPerRoute] = {}
    for stage, judged, audited in zip(Stage, enforced, shadow, strict=True):
        prefix = names.stat_prefix(direction, stage)
        per_route = RBACPerRoute()
        if judged is not None or audited is not None:
            per_route.rbac.CopyFrom(
                RBAC(rules=judged, shadow_rules=audited, rules_stat_prefix=prefix, shadow_rules_stat_prefix=prefix)
            )
        found[names.rbac_filter(direction, stage)] = per_route
    return found
