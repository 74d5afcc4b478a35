"""Slots built by hand, in few words."""

from __future__ import annotations

from l7filters.ir import DirectionRules, RuleSet, Slot, SlotKey
from l7filters.model import (
    Direction,
    HeaderMatch,
    HttpRule,
    L7Protocol,
    MatchKind,
    MismatchAction,
    PolicyKey,
    QueryMatch,
    RuleOrigin,
    SecretRef,
    StringMatch,
    TlsContext,
)
from proxylib.dns.rules import NameSelector


def origin(number: int = 0, policy: str = "cnp/default/a") -> RuleOrigin:
    """Where rule ``number`` stands."""
    return RuleOrigin(PolicyKey(policy), f"spec.ingress[0].toPorts[0].rules.http[{number}]")


def exact(value: str, *, ignore_case: bool = False) -> StringMatch:
    return StringMatch(MatchKind.EXACT, value, ignore_case)


def prefix(value: str, *, ignore_case: bool = False) -> StringMatch:
    return StringMatch(MatchKind.PREFIX, value, ignore_case)


def regex(value: str) -> StringMatch:
    return StringMatch(MatchKind.REGEX, value)


def rule(
    number: int = 0,
    *,
    method: StringMatch | str | None = None,
    path: StringMatch | None = None,
    host: StringMatch | None = None,
    headers: tuple[HeaderMatch, ...] = (),
    query: tuple[QueryMatch, ...] = (),
    grpc: bool = False,
    names: tuple[NameSelector, ...] = (),
) -> HttpRule:
    """An HTTP rule; a method that is text is meant exactly."""
    said = exact(method) if isinstance(method, str) else method
    return HttpRule(origin(number), path=path, method=said, host=host, headers=headers, query=query, grpc=grpc, names=names)


def header(
    name: str,
    value: StringMatch | str | None = None,
    *,
    mismatch: MismatchAction = MismatchAction.FAIL,
    invert: bool = False,
    secret: SecretRef | None = None,
) -> HeaderMatch:
    """A headerMatch; a value that is text is meant exactly."""
    said = exact(value) if isinstance(value, str) else value
    return HeaderMatch(name, said, secret, mismatch, invert)


def allowing(*rules: HttpRule, deny: tuple[HttpRule, ...] = ()) -> RuleSet:
    """A rule set of HTTP rules."""
    return RuleSet(allow=rules, deny=deny)


def everything(*origins: RuleOrigin) -> RuleSet:
    """A rule set that some L3/L4 rule makes allow everything."""
    return RuleSet(allow_all=origins or (origin(99),))


def slot(
    ingress: RuleSet | None = None,
    egress: RuleSet | None = None,
    *,
    protocol: L7Protocol = L7Protocol.HTTP,
    ingress_shadow: RuleSet | None = None,
    egress_shadow: RuleSet | None = None,
    terminating: TlsContext | None = None,
    originating: TlsContext | None = None,
    name: str = "x",
) -> Slot:
    """A slot; ``name`` tells apart keys that are otherwise equal."""
    key = SlotKey(protocol, egress=None if egress is None else (name,), ingress=None if ingress is None else (name,))
    return Slot(
        key=key,
        egress=None if egress is None else DirectionRules(egress, egress_shadow),
        ingress=None if ingress is None else DirectionRules(ingress, ingress_shadow),
        terminating_tls=terminating,
        originating_tls=originating,
    )


__all__ = [
    "Direction",
    "allowing",
    "everything",
    "exact",
    "header",
    "origin",
    "prefix",
    "regex",
    "rule",
    "slot",
]
