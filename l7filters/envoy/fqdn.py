"""Servers reached by DNS name: the names of ``toFQDNs`` as predicates on Host and on the TLS server name.

Owns: those predicates. The meaning of patterns is proxylib/dns/rules.py's; here it holds for what a client says, so case and, in
a Host, a final dot and the port don't count, and no pattern covers a name that is missing (the root, to DNS).
"""

from __future__ import annotations

import re

from envoy.config.rbac.v3.rbac_pb2 import Permission
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from l7filters.envoy.matching import Stance, all_of, any_of, header_permission, regex_matcher
from l7filters.envoy.server_name import server_name_regex
from l7filters.ir import ServerNameRule
from l7filters.model import MatchKind, StringMatch
from proxylib.dns.rules import NameSelector, pattern_expression

_HOST_END = r"\.?(?::[0-9]*)?"
_LABEL = "[-a-z0-9_]+"
_STARS = re.compile(r"\*+")


def host_names_permission(selectors: tuple[NameSelector, ...], stance: Stance) -> Permission:
    """Return the predicate that the Host, port aside, is one of the names. Raises RuleProblem."""
    return any_of([_host_permission(selector, stance) for selector in selectors])


def server_name_permission(rule: ServerNameRule) -> Permission:
    """Return the predicate on the TLS server name; without one none holds. Raises RuleProblem as above."""
    wanted = any_of([_sni_permission(selector) for selector in rule.names])
    if not rule.patterns:
        return wanted
    return all_of([wanted, any_of([_sni(server_name_regex(pattern)) for pattern in rule.patterns])])


def _host_permission(selector: NameSelector, stance: Stance) -> Permission:
    def host(pattern: str) -> Permission:
        return header_permission(":authority", StringMatch(MatchKind.REGEX, f"(?i:{pattern}){_HOST_END}"), stance)

    return _but(host(_covered(selector)), [host(_pattern(each)) for each in selector.excepts])


def _sni_permission(selector: NameSelector) -> Permission:
    return _but(_sni(f"(?i:{_covered(selector)})"), [_sni(f"(?i:{_pattern(each)})") for each in selector.excepts])


def _sni(pattern: str) -> Permission:
    return Permission(requested_server_name=StringMatcher(safe_regex=regex_matcher(pattern)))


def _but(wanted: Permission, holes: list[Permission]) -> Permission:
    return all_of([wanted, Permission(not_rule=any_of(holes))]) if holes else wanted


def _covered(selector: NameSelector) -> str:
    return re.escape(selector.match_name) if selector.match_name is not None else _pattern(selector.match_pattern or "")


def _pattern(pattern: str) -> str:
    """Return the expression for a pattern: as for DNS, but that a client can also write a label that is empty."""
    if _STARS.fullmatch(pattern):
        return rf"{_LABEL}(?:\.{_LABEL})*"
    first, *rest = pattern.split(".")
    if rest and len(first) > 1 and _STARS.fullmatch(first):
        return rf"(?:{_LABEL}\.)+" + _labels(rest)
    return _labels([first, *rest])


def _labels(labels: list[str]) -> str:
    return r"\.".join(_LABEL if _STARS.fullmatch(label) else pattern_expression(label) for label in labels)
