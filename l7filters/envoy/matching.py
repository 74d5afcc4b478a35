"""The predicates of an HTTP rule as Envoy matchers, in two dialects: RBAC permissions and route header matchers.

Owns: string, header, path, host and query predicates. Must not know slots or filters.

**A header with several values.** Envoy is told (bootstrap.py) to join the lines of a header with commas before it compares.
A rule that allows compares the whole of that, so a second value smuggled beside the allowed one does not pass. A rule that
denies looks at every element, so a second value does not hide the denied one. An inverted predicate swaps the two.

**Query parameters** are judged percent-decoded: the filter ``tidegate.query`` puts the decoded value of each parameter that
some rule names into the request's filter state, as route configuration tells it to, and RBAC principals compare that. Envoy
decodes the first occurrence only, so a regular expression on ``:path`` counts occurrences, in every spelling of the name:
a rule that allows wants exactly one, a rule that denies takes a second one for a match. ``+`` stays ``+``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import Enum
from functools import lru_cache
from typing import assert_never

import re2
from envoy.config.rbac.v3.rbac_pb2 import Permission, Principal
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.type.matcher.v3.filter_state_pb2 import FilterStateMatcher
from envoy.type.matcher.v3.path_pb2 import PathMatcher
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from l7filters.documents.regex import RE2_PROGRAM_SIZE_MAX
from l7filters.envoy.names import QUERY_STATE_PREFIX
from l7filters.envoy.resource import RuleProblem
from l7filters.envoy.secrets import Secrets
from l7filters.model import HeaderMatch, HttpRule, MatchKind, QueryMatch, StringMatch

REGEX_PROGRAM_SIZE_MAX = 2 * RE2_PROGRAM_SIZE_MAX
"""Instructions of one compiled RE2 program: what a policy may write, and as much again for what is put around it here. The
bootstrap gives Envoy the same bound, so nothing that passes here is refused there."""

ANYTHING = r"\C*"
"""Any bytes at all. RE2's ``.`` matches no byte that isn't UTF-8, so one such byte would hide what comes after it."""

QUERY_NAME = re.compile(r"[A-Za-z0-9._~\-\[\]$!*'+/@;]{1,128}")
"""Parameter names that can stand in Envoy's ``%QUERY_PARAM(name)%``."""

LITERAL = re.compile(r"[A-Za-z0-9_/:%&=@~, -]*")
"""Regular expressions without an operator: as most methods and many paths are written. Comparing is cheaper than matching."""

REGEX_CACHE_ENTRIES = 4096


class Stance(Enum):
    """Which side to err on where a request is ambiguous."""

    NARROW = "the rule allows"
    BROAD = "the rule denies"


# ---- strings ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=REGEX_CACHE_ENTRIES)
def regex_problem(pattern: str) -> str | None:
    """Return why Envoy would refuse ``pattern``, or None."""
    try:
        size = re2.compile(pattern, _quiet()).programsize
    except re2.error as error:
        reason = error.args[0] if error.args else "syntax error"
        return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
    if size > REGEX_PROGRAM_SIZE_MAX:
        return f"it compiles to {size} instructions, the most is {REGEX_PROGRAM_SIZE_MAX}"
    return None


def _quiet() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    return options


def regex_matcher(pattern: str) -> RegexMatcher:
    """Return a matcher for ``pattern`` on the whole value. Raises RuleProblem if Envoy would refuse it."""
    problem = regex_problem(pattern)
    if problem:
        raise RuleProblem(f"regular expression refused: {problem}", "use a shorter one, of RE2's syntax")
    return RegexMatcher(regex=pattern)


def string_matcher(match: StringMatch) -> StringMatcher:
    """Return the matcher for one whole string."""
    match match.kind:
        case MatchKind.EXACT:
            return StringMatcher(exact=match.value, ignore_case=match.ignore_case)
        case MatchKind.PREFIX if not match.value:
            return StringMatcher(safe_regex=RegexMatcher(regex=ANYTHING))  # Envoy takes no empty prefix
        case MatchKind.PREFIX:
            return StringMatcher(prefix=match.value, ignore_case=match.ignore_case)
        case MatchKind.REGEX if LITERAL.fullmatch(match.value):
            return StringMatcher(exact=match.value, ignore_case=match.ignore_case)
        case MatchKind.REGEX:
            return StringMatcher(safe_regex=regex_matcher(as_regex(match)))
        case _:
            assert_never(match.kind)


def as_regex(match: StringMatch) -> str:
    """Return a regular expression for the whole value."""
    match match.kind:
        case MatchKind.EXACT:
            pattern = re.escape(match.value)
        case MatchKind.PREFIX:
            pattern = re.escape(match.value) + ANYTHING
        case MatchKind.REGEX:
            pattern = match.value
        case _:
            assert_never(match.kind)
    return f"(?i:{pattern})" if match.ignore_case else pattern


def _any_element(match: StringMatch) -> StringMatcher:
    """Match if some element of a comma-separated list does, or the whole."""
    pattern = as_regex(match)
    return StringMatcher(safe_regex=regex_matcher(rf"(?:{ANYTHING},)?[ \t]*(?:{pattern})[ \t]*(?:,{ANYTHING})?"))


# ---- headers ------------------------------------------------------------------------------------------------------


def header_value(header: HeaderMatch, secrets: Secrets) -> StringMatch | None:
    """Return what the header's value is compared with; None: its presence is asked for.

    Raises RuleProblem when the secret is missing or can't be a header value: such a predicate can't be judged.
    """
    if header.secret is None:
        return header.value
    key = f"key {header.secret.key}" if header.secret.key else "its only key"
    where = f"secret {header.secret.namespace}/{header.secret.name}, {key}"
    value = secrets.get(header.secret)
    if value is None:
        if header.value is not None:
            return header.value
        raise RuleProblem(f"{where}, is missing", "create it; until then the rule matches nothing")
    text = value.reveal_header_value()
    if text is None:
        raise RuleProblem(f"{where}, can't be a header value", "it must be UTF-8 text on one line")
    return StringMatch(MatchKind.EXACT, text)


def header_permission(name: str, value: StringMatch | None, stance: Stance, *, invert: bool = False) -> Permission:
    """Return the predicate on one request header; ``value`` None: present."""
    if value is None:
        matcher = HeaderMatcher(name=name, present_match=True)
    else:
        element_wise = (stance is Stance.BROAD) != invert
        matcher = HeaderMatcher(name=name, string_match=_any_element(value) if element_wise else string_matcher(value))
    permission = Permission(header=matcher)
    return Permission(not_rule=permission) if invert else permission


def host_permission(host: StringMatch, stance: Stance) -> Permission:
    """Return the predicate on the host: for a rule that denies in any spelling that means the same to a server.

    Those are other letter cases, a final dot, and any port where the rule does not ask for one.
    """
    if stance is Stance.NARROW:
        return header_permission(":authority", host, stance)
    pattern = as_regex(replace(host, ignore_case=True)) + r"\.?(?::[0-9]*)?"
    return header_permission(":authority", StringMatch(MatchKind.REGEX, pattern), stance)


def header_holds(header: HeaderMatch, secrets: Secrets, stance: Stance) -> Permission:
    """Return the predicate of a headerMatch. Raises RuleProblem as ``header_value`` does."""
    return header_permission(header.name, header_value(header, secrets), stance, invert=header.invert)


# ---- paths --------------------------------------------------------------------------------------------------------


def path_permission(path: StringMatch) -> Permission:
    """Return the predicate on the path: a REGEX sees the query string, EXACT and PREFIX don't."""
    match path.kind:
        case MatchKind.EXACT:
            return _url_path(StringMatcher(exact=path.value, ignore_case=path.ignore_case))
        case MatchKind.PREFIX if path.value.endswith("/"):
            return _url_path(StringMatcher(prefix=path.value, ignore_case=path.ignore_case))
        case MatchKind.PREFIX:
            whole = StringMatcher(exact=path.value, ignore_case=path.ignore_case)
            below = StringMatcher(prefix=path.value + "/", ignore_case=path.ignore_case)
            return any_of([_url_path(whole), _url_path(below)])
        case MatchKind.REGEX:
            return Permission(header=HeaderMatcher(name=":path", string_match=string_matcher(path)))
        case _:
            assert_never(path.kind)


def _url_path(matcher: StringMatcher) -> Permission:
    return Permission(url_path=PathMatcher(path=matcher))


def path_regex(path: StringMatch) -> str:
    """Return a regular expression on the whole of ``:path`` that says the same as ``path_permission``."""
    match path.kind:
        case MatchKind.EXACT:
            pattern = re.escape(path.value) + rf"(?:\?{ANYTHING})?"
        case MatchKind.PREFIX if path.value.endswith("/"):
            pattern = re.escape(path.value) + ANYTHING
        case MatchKind.PREFIX:
            pattern = re.escape(path.value) + rf"(?:[/?]{ANYTHING})?"
        case MatchKind.REGEX:
            pattern = path.value
        case _:
            assert_never(path.kind)
    return f"(?i:{pattern})" if path.ignore_case else pattern


# ---- query parameters ---------------------------------------------------------------------------------------------


def query_state_key(name: str) -> str:
    """Return the filter state key that holds the decoded first value of a parameter."""
    return QUERY_STATE_PREFIX + name


def check_query_name(name: str) -> str:
    """Return ``name``. Raises RuleProblem if Envoy can't be asked for it."""
    if not QUERY_NAME.fullmatch(name):
        raise RuleProblem(f"query parameter name {name!r} can't be judged", f"names match {QUERY_NAME.pattern}")
    return name


def _any_spelling(text: str) -> str:
    """Return a regular expression for ``text`` with any of its bytes percent-encoded."""
    return "".join(_byte_spelling(byte) for byte in text.encode())


def _byte_spelling(byte: int) -> str:
    encoded = "%" + "".join(digit if digit.isdigit() else f"[{digit}{digit.lower()}]" for digit in f"{byte:02X}")
    return f"(?:{re.escape(chr(byte))}|{encoded})" if 0x20 < byte < 0x7F and chr(byte) not in "&=%#" else encoded


def query_occurs_regex(name: str) -> str:
    """Return a regular expression on ``:path``: the parameter occurs."""
    return rf"[^?]*\?(?:{ANYTHING}&)?{_any_spelling(name)}(?:[=&]{ANYTHING})?"


def query_repeats_regex(name: str) -> str:
    """Return a regular expression on ``:path``: the parameter occurs twice or more."""
    spelled = _any_spelling(name)
    return rf"[^?]*\?(?:{ANYTHING}&)?{spelled}(?:=[^&]*)?&(?:{ANYTHING}&)?{spelled}(?:[=&]{ANYTHING})?"


def _path_matches(pattern: str) -> HeaderMatcher:
    return HeaderMatcher(name=":path", string_match=StringMatcher(safe_regex=regex_matcher(pattern)))


def query_principals(query: QueryMatch, stance: Stance) -> list[Principal]:
    """Return the predicates, all of which must hold, on one query parameter. They are principals: RBAC has filter state there."""
    name = check_query_name(query.name)
    occurs = Principal(header=_path_matches(query_occurs_regex(name)))
    if query.value is None:
        return [occurs]
    state = FilterStateMatcher(key=query_state_key(name), string_match=string_matcher(query.value))
    holds = Principal(filter_state=state)
    repeats = Principal(header=_path_matches(query_repeats_regex(name)))
    match stance:
        case Stance.NARROW:
            return [occurs, Principal(not_id=repeats), holds]
        case Stance.BROAD:
            return [occurs, Principal(or_ids=Principal.Set(ids=[repeats, holds]))]
        case _:
            assert_never(stance)


def query_names(rules: Iterable[HttpRule]) -> list[str]:
    """Return the parameters whose value some rule asks for, sorted."""
    return sorted({query.name for rule in rules for query in rule.query if query.value is not None})


# ---- combinations -------------------------------------------------------------------------------------------------


def all_of(permissions: Sequence[Permission]) -> Permission:
    """Return the conjunction; of none: always true."""
    if not permissions:
        return Permission(any=True)
    return permissions[0] if len(permissions) == 1 else Permission(and_rules=Permission.Set(rules=permissions))


def any_of(permissions: Sequence[Permission]) -> Permission:
    """Return the disjunction of at least one."""
    assert permissions
    return permissions[0] if len(permissions) == 1 else Permission(or_rules=Permission.Set(rules=permissions))


def every_principal(principals: Sequence[Principal]) -> Principal:
    """Return the conjunction; of none: always true."""
    if not principals:
        return Principal(any=True)
    return principals[0] if len(principals) == 1 else Principal(and_ids=Principal.Set(ids=principals))
