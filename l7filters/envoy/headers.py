"""Header mismatch actions: what happens to a request whose rule matches though a headerMatch of it does not hold.

Owns: LOG, ADD, DELETE and REPLACE as routes. Must not know RBAC filters.

Envoy picks the first route that matches. So there is one route for every set of actions that can be due together, the larger
sets first; the route of a set asks that each action in it is due. The first that matches is then exactly the set of all that
are due: a larger one would have matched before. Every action sees the request as the client sent it, whatever the others do.
Where several touch one header, Envoy first removes, then replaces, then adds; of two that replace, the later origin's stays.
2**n routes are cheap for the few that policies hold; ``ACTIONS_MAX`` bounds them.

An action is due when its rule's other predicates hold and the header's does not. The actions that change nothing but the log
are routes too: the route's name is in the access log and tells of every mismatch (names.read_mismatches).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import assert_never

import re2
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from l7filters.envoy.faults import Faults
from l7filters.envoy.matching import (
    as_regex,
    header_value,
    path_regex,
    query_occurs_regex,
    regex_matcher,
    regex_problem,
    string_matcher,
)
from l7filters.envoy.names import HeaderMismatch
from l7filters.envoy.resource import RuleProblem
from l7filters.envoy.secrets import Secrets
from l7filters.model import HeaderMatch, HttpRule, MatchKind, MismatchAction, StringMatch

ACTIONS_MAX = 8
"""Different header mismatch actions in one slot: 256 routes, some 100 KiB. Sixteen would be 65,536."""

_UNTOUCHABLE = frozenset({"host"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderAction:
    """One action. It is due when all ``due`` match. ``add`` is the value to set, for ADD and REPLACE."""

    mismatch: HeaderMismatch
    due: tuple[HeaderMatcher, ...]
    add: str | None

    def added(self) -> HeaderValueOption | None:
        """Return the header to add to the request, with ``%`` escaped: Envoy would take it for a command."""
        if self.add is None:
            return None
        replaces = self.mismatch.action is MismatchAction.REPLACE
        return HeaderValueOption(
            header=HeaderValue(key=self.mismatch.header, value=self.add.replace("%", "%%")),
            append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD if replaces else HeaderValueOption.APPEND_IF_EXISTS_OR_ADD,
            keep_empty_value=True,
        )

    def removes(self) -> bool:
        """Whether the header is taken off the request."""
        return self.mismatch.action is MismatchAction.DELETE


def header_actions(rules: Iterable[HttpRule], secrets: Secrets, faults: Faults) -> tuple[HeaderAction, ...]:
    """Return the actions of ``rules``, sorted by origin and header, each once.

    A rule of which an action can't be carried out is noted and has none (rbac.py lets it allow nothing either). Raises
    RuleProblem when there are more than ACTIONS_MAX.
    """
    found: dict[HeaderMismatch, HeaderAction] = {}
    for rule in rules:
        try:
            actions = rule_actions(rule, secrets)
        except RuleProblem as problem:
            faults.note(str(rule.origin), problem)
            continue
        for action in actions:
            found.setdefault(action.mismatch, action)
    if len(found) > ACTIONS_MAX:
        raise RuleProblem(
            f"{len(found)} header mismatch actions apply to the same traffic, the most is {ACTIONS_MAX}",
            "use mismatch: FAIL, or split the traffic by port",
        )
    return tuple(action for _, action in sorted(found.items()))


def rule_actions(rule: HttpRule, secrets: Secrets) -> tuple[HeaderAction, ...]:
    """Return the actions of one rule. Raises RuleProblem if one of them can't be carried out."""
    acting = [header for header in rule.headers if header.mismatch is not MismatchAction.FAIL]
    if not acting:
        return ()
    conditions = _rule_conditions(rule, secrets)
    return tuple(_action(rule, header, conditions, secrets) for header in acting)


def _action(rule: HttpRule, header: HeaderMatch, conditions: list[HeaderMatcher], secrets: Secrets) -> HeaderAction:
    if header.mismatch is not MismatchAction.LOG and (header.name.startswith(":") or header.name in _UNTOUCHABLE):
        raise RuleProblem(f"Envoy can't change the header {header.name!r}", "use mismatch: FAIL or LOG")
    value = header_value(header, secrets)
    fails = _header_condition(header.name, value, holds=header.invert)
    add: str | None
    match header.mismatch:
        case MismatchAction.ADD | MismatchAction.REPLACE:
            if header.invert or (value is not None and value.kind is not MatchKind.EXACT):
                raise RuleProblem(f"mismatch: {header.mismatch} of {header.name!r} has no one value to set", "give a plain value")
            add = "" if value is None else value.value
        case MismatchAction.LOG | MismatchAction.DELETE:
            add = None
        case MismatchAction.FAIL:
            raise AssertionError("FAIL is no action")
        case _:
            assert_never(header.mismatch)
    mismatch = HeaderMismatch(origin=str(rule.origin), header=header.name, action=header.mismatch)
    return HeaderAction(mismatch=mismatch, due=(*conditions, fails), add=add)


def _rule_conditions(rule: HttpRule, secrets: Secrets) -> list[HeaderMatcher]:
    """Return the rule's predicates, those of its actions excepted, as route header matchers."""
    found: list[HeaderMatcher] = []
    if rule.method is not None:
        found.append(HeaderMatcher(name=":method", string_match=string_matcher(rule.method)))
    if rule.path is not None:
        found.append(_on_path(path_regex(rule.path)))
    if rule.host is not None:
        found.append(HeaderMatcher(name=":authority", string_match=string_matcher(rule.host)))
    for header in rule.headers:
        if header.mismatch is MismatchAction.FAIL:
            found.append(_header_condition(header.name, header_value(header, secrets), holds=not header.invert))
    for query in rule.query:
        if query.value is not None:
            raise RuleProblem(
                "a rule can't both compare a query parameter and act on a header mismatch: Envoy picks routes before it decodes",
                "split it in two rules, or use mismatch: FAIL",
            )
        found.append(_on_path(query_occurs_regex(query.name)))
    return found


def _on_path(pattern: str) -> HeaderMatcher:
    return HeaderMatcher(name=":path", string_match=StringMatcher(safe_regex=regex_matcher(pattern)))


def _header_condition(name: str, value: StringMatch | None, *, holds: bool) -> HeaderMatcher:
    """Return a matcher for "the header is (``holds``) or isn't as asked"; an absent header never is.

    Envoy takes an inverted matcher of an absent header for false unless told to treat the header as empty.
    """
    if value is None:
        return HeaderMatcher(name=name, present_match=True, invert_match=not holds)
    if not holds and _matches_nothing_at_all(value):
        raise RuleProblem(f"header {name!r}: a value that may be empty can't be told from an absent header", "use mismatch: FAIL")
    return HeaderMatcher(
        name=name, string_match=string_matcher(value), invert_match=not holds, treat_missing_header_as_empty=not holds
    )


def _matches_nothing_at_all(value: StringMatch) -> bool:
    match value.kind:
        case MatchKind.EXACT | MatchKind.PREFIX:
            return not value.value
        case MatchKind.REGEX:
            pattern = as_regex(value)
            return regex_problem(pattern) is None and re2.fullmatch(pattern, "") is not None
        case _:
            assert_never(value.kind)


def action_sets(actions: tuple[HeaderAction, ...]) -> Iterable[tuple[HeaderAction, ...]]:
    """Yield every non-empty set of actions, the larger ones first."""
    for size in range(len(actions), 0, -1):
        yield from combinations(actions, size)
