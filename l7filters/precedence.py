"""Precedence: what all the rules that cover one place of the policy trie say together. Stated once, here.

A *clause* is one ``toPorts`` item (or one rule without any) of one policy, stripped of whom and which ports it covers: those
who call ``resolve`` have already found every clause that covers the (peer, protocol, port prefix) in question.

The order, first match decides:

1. **Deny.** Any deny clause: drop. It beats every allow, redirects included, whichever policy or kind it comes from.
2. **Redirect.** Any allow clause with L7 rules, server names or a TLS context: to the proxy, which applies the union of all
   clauses:

   a. a message passes when no L7 deny rule matches and some L7 allow rule does;
   b. a clause without L7 rules, or with L7 deny rules only, allows every message (``RuleSet.allow_all``);
   c. so does a direction that is not in default deny: there L7 allow rules restrict nothing, L7 deny rules still deny;
   d. server names are united; a clause without them allows every name;
   e. the clauses must agree on what is spoken: one L7 protocol, one terminating and one originating TLS context. Clauses
      that only name servers join HTTP rules when the TLS is terminated. Clauses that disagree are *all* closed (Deny, with a
      problem for each of them), for nothing can speak two protocols on one port;
   f. on terminated TLS, clauses that give different server names must not also differ in what they allow: the union would
      open to one name what was allowed for another. They are closed too, unless one of them allows everything.

3. **Allow.** Any other allow clause, or a direction that is not in default deny.
4. **Default deny.**

Audit: clauses of policies in audit mode are left out of the enforced verdict. Their shadow is the verdict of all clauses
together, found by the same list. Where the enforced verdict passes and the shadow would drop, ``would_deny`` is set; where
the shadow restricts L7, the flow is redirected to a slot that enforces the one and reports the other. Nothing in audit mode
turns into a drop, so a TLS context can't be audited: it would change what is sent. Where the shadow needs one that the enforced
rules don't have, it is left out and reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import assert_never

from l7filters.ir import Allow, Deny, DirectionRules, EntryVerdict, PolicyProblem, Redirect, RuleSet, Slot, SlotKey
from l7filters.model import Direction, HttpRule, KafkaRule, L7Protocol, L7Rule, L7Rules, PolicyKey, RuleOrigin, TlsContext

REALISED_PROTOCOLS = frozenset({L7Protocol.HTTP, L7Protocol.TLS, L7Protocol.KAFKA})
"""What the proxy can judge today. Rules for any other protocol are closed and reported."""

IMPLICIT_ALLOW = RuleOrigin(PolicyKey("default"), "allow")
"""Stands in ``allow_all`` and slot keys for a direction that is not in default deny."""
IMPLICIT_AUDIT_DENY = RuleOrigin(PolicyKey("default"), "audit-deny")
"""Stands in slot keys beside IMPLICIT_ALLOW when only the shadow is in default deny."""


@dataclass(frozen=True, slots=True, eq=False)
class Clause:
    """One ``toPorts`` item of one policy, without its peers and ports. Compared by identity; ``name`` is str(origin)."""

    origin: RuleOrigin
    name: str
    deny: bool
    audit: bool
    l7: L7Rules | None = None
    server_names: tuple[str, ...] = ()
    terminating_tls: TlsContext | None = None
    originating_tls: TlsContext | None = None

    @property
    def redirects(self) -> bool:
        """Whether this clause needs the proxy."""
        return bool(self.l7 is not None or self.server_names or self.terminating_tls or self.originating_tls)

    def says_the_same(self, other: Clause) -> bool:
        """Whether both would be judged alike."""
        return (
            (self.origin, self.deny, self.audit, self.l7, self.server_names)
            == (other.origin, other.deny, other.audit, other.l7, other.server_names)
        ) and (self.terminating_tls, self.originating_tls) == (other.terminating_tls, other.originating_tls)

    @property
    def allows_every_message(self) -> bool:
        """Whether this clause sets no L7 allow rules (server names aside)."""
        return self.l7 is None or self.l7.deny_only


@dataclass(frozen=True, slots=True)
class Stance:
    """What holds for a subject's whole direction, whatever the clause.

    ``open``: not in default deny. ``audited``: some policy in audit mode selects the subject here; ``shadow_open`` is then
    what ``open`` would be if it were enforced. ``unredirectable``: why the proxy can't be used, or empty.
    """

    direction: Direction
    open: bool
    audited: bool = False
    shadow_open: bool = False
    unredirectable: str = ""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A verdict, the slot it redirects to, and what could not be realised."""

    verdict: EntryVerdict
    slot: Slot | None = None
    problems: tuple[PolicyProblem, ...] = ()


class _Kind(Enum):
    DENY = auto()
    REDIRECT = auto()
    ALLOW = auto()
    DEFAULT_DENY = auto()


@dataclass(frozen=True, slots=True)
class _Content:
    protocol: L7Protocol
    rules: RuleSet
    terminating_tls: TlsContext | None
    originating_tls: TlsContext | None


@dataclass(frozen=True, slots=True)
class _Judgement:
    kind: _Kind
    origins: tuple[RuleOrigin, ...] = ()
    content: _Content | None = None
    problem: str = ""
    problems: tuple[PolicyProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class _Conflict:
    message: str
    hint: str
    clauses: tuple[Clause, ...]

    def problems(self) -> tuple[PolicyProblem, ...]:
        origins = dict.fromkeys(clause.origin for clause in self.clauses)
        return tuple(PolicyProblem(o.policy, o.path, self.message, self.hint) for o in origins)


def resolve(clauses: Iterable[Clause], stance: Stance) -> Resolved:
    """Return what ``clauses``, all those that cover one place, say together. Their order is of no consequence."""
    everything = sorted(set(clauses), key=lambda clause: clause.name)
    enforcing = [clause for clause in everything if not clause.audit]
    enforced = _judge(enforcing, stance.open, stance)
    match enforced.kind:
        case _Kind.DENY:
            return Resolved(Deny(enforced.origins, enforced.problem), None, enforced.problems)
        case _Kind.DEFAULT_DENY:
            return Resolved(Deny())
        case _Kind.ALLOW | _Kind.REDIRECT:
            shadow = _judge(everything, stance.shadow_open, stance) if stance.audited else enforced
            return _beside_shadow(enforced, shadow, enforcing, everything, stance)
        case _:
            assert_never(enforced.kind)


def _judge(clauses: Sequence[Clause], is_open: bool, stance: Stance) -> _Judgement:
    """Apply the numbered list to ``clauses``, all of which count."""
    denies = [clause for clause in clauses if clause.deny]
    if denies:  # 1
        return _Judgement(_Kind.DENY, _origins(denies))
    if any(clause.redirects for clause in clauses):  # 2
        merged = _merge(clauses, is_open, stance)
        if isinstance(merged, _Conflict):
            return _Judgement(_Kind.DENY, problem=merged.message, problems=merged.problems())
        return _Judgement(_Kind.REDIRECT, _origins(clauses), merged)
    if clauses or is_open:  # 3
        return _Judgement(_Kind.ALLOW, _origins(clauses))
    return _Judgement(_Kind.DEFAULT_DENY)  # 4


def _beside_shadow(
    enforced: _Judgement, shadow: _Judgement, enforcing: Sequence[Clause], everything: Sequence[Clause], stance: Stance
) -> Resolved:
    """Combine an enforced verdict that passes with its shadow; without audit they are the same object."""
    if shadow.content is not None and _contexts_of(shadow.content) != _contexts_of(enforced.content):
        unseen = _Conflict(
            "a TLS context can't be audited: it would change what is sent",
            "use the TLS context of an enforced rule, or none",
            tuple(clause for clause in everything if clause.audit and (clause.terminating_tls or clause.originating_tls)),
        )
        shadow = replace(enforced, problems=unseen.problems())
        everything, stance = enforcing, replace(stance, audited=False)
    would_deny = shadow.kind in (_Kind.DENY, _Kind.DEFAULT_DENY)
    if enforced.content is None and shadow.content is None:
        return Resolved(Allow(enforced.origins, would_deny), None, shadow.problems)
    if shadow.content is None:
        # The shadow drops the flow as a whole, so it adds nothing that the slot could judge.
        assert would_deny
        assert enforced.content is not None
        key = _slot_key(enforced.content.protocol, enforcing, stance, with_shadow=False)
        slot = _slot(key, enforced.content, enforced.content.rules, None, stance.direction)
        return Resolved(Redirect(key, enforced.origins, would_deny=True), slot, shadow.problems)
    rules = enforced.content.rules if enforced.content else _allow_everything(enforced.origins, stance.open)
    shadow_rules = shadow.content.rules if shadow.content.rules != rules else None
    key = _slot_key(shadow.content.protocol, everything, stance, with_shadow=stance.audited)
    slot = _slot(key, shadow.content, rules, shadow_rules, stance.direction)
    return Resolved(Redirect(key, enforced.origins), slot, shadow.problems)


def _contexts_of(content: _Content | None) -> tuple[TlsContext | None, TlsContext | None]:
    return (None, None) if content is None else (content.terminating_tls, content.originating_tls)


def _slot_key(protocol: L7Protocol, clauses: Sequence[Clause], stance: Stance, *, with_shadow: bool) -> SlotKey:
    names = {clause.name for clause in clauses}
    if stance.open:
        names.add(str(IMPLICIT_ALLOW))
        if with_shadow and not stance.shadow_open:
            names.add(str(IMPLICIT_AUDIT_DENY))
    origins = tuple(sorted(names))
    if stance.direction is Direction.EGRESS:
        return SlotKey(protocol, egress=origins)
    return SlotKey(protocol, ingress=origins)


def _slot(key: SlotKey, content: _Content, rules: RuleSet, shadow: RuleSet | None, direction: Direction) -> Slot:
    side = DirectionRules(rules, shadow)
    return Slot(
        key,
        egress=side if direction is Direction.EGRESS else None,
        ingress=side if direction is Direction.INGRESS else None,
        terminating_tls=content.terminating_tls,
        originating_tls=content.originating_tls,
    )


def _allow_everything(origins: tuple[RuleOrigin, ...], is_open: bool) -> RuleSet:
    """The rule set of an enforced plain allow that is redirected only for its shadow."""
    return RuleSet(allow_all=(*origins, IMPLICIT_ALLOW) if is_open else origins)


def _merge(clauses: Sequence[Clause], is_open: bool, stance: Stance) -> _Content | _Conflict:
    """Unite the allow clauses of one place, of which at least one redirects (2a-2f)."""
    redirecting = tuple(clause for clause in clauses if clause.redirects)
    if stance.unredirectable:
        return _Conflict(stance.unredirectable, "move the L7 rules to the other end, or use L3/L4 rules here", redirecting)
    terminating = _contexts(clause.terminating_tls for clause in redirecting)
    originating = _contexts(clause.originating_tls for clause in redirecting)
    if len(terminating) > 1 or len(originating) > 1:
        return _Conflict("conflicting TLS contexts on one port", "use one Secret for the port in every rule", redirecting)
    protocol = _protocol(redirecting, bool(terminating), bool(originating))
    if isinstance(protocol, _Conflict):
        return protocol
    if protocol is not L7Protocol.TLS and _names_conflict(clauses, is_open):
        hint = "give the same serverNames in every rule with terminatingTLS on this port"
        return _Conflict("rules on one terminated port differ in serverNames and in what they allow", hint, redirecting)
    return _Content(
        protocol, _unite(clauses, is_open), terminating[0] if terminating else None, originating[0] if originating else None
    )


def _protocol(redirecting: tuple[Clause, ...], terminates: bool, originates: bool) -> L7Protocol | _Conflict:
    """Return what the port speaks (2e), or why no slot can speak it."""
    spoken = sorted({clause.l7.protocol for clause in redirecting if clause.l7 is not None})
    names_only = any(clause.l7 is None for clause in redirecting)
    if len(spoken) > 1:
        return _Conflict(
            f"conflicting L7 protocols on one port: {', '.join(spoken)}", "use one L7 protocol per port and peer", redirecting
        )
    if not spoken:
        if terminates or originates:
            return _Conflict(
                "a TLS context without L7 rules", "add rules.http or rules.kafka; 'http: [{}]' allows every request", redirecting
            )
        return L7Protocol.TLS
    protocol = spoken[0]
    if protocol not in REALISED_PROTOCOLS:
        return _Conflict(f"{protocol} rules are not enforced by this version", "use L3/L4 rules for this port", redirecting)
    unopened = names_only or any(clause.server_names for clause in redirecting)
    if protocol in (L7Protocol.HTTP, L7Protocol.KAFKA) and unopened and not terminates:
        spoken_here = {L7Protocol.HTTP: "HTTP", L7Protocol.KAFKA: "Kafka"}[protocol]
        message = f"serverNames beside {spoken_here} rules without terminatingTLS"
        return _Conflict(message, "add terminatingTLS to the port", redirecting)
    return protocol


def _names_conflict(clauses: Sequence[Clause], is_open: bool) -> bool:
    """Tell whether uniting names and rules separately would allow what no clause does (2f)."""
    if is_open or any(not clause.server_names and clause.allows_every_message for clause in clauses):
        return False
    return len({frozenset(name.lower() for name in clause.server_names) for clause in clauses}) > 1


def _unite(clauses: Sequence[Clause], is_open: bool) -> RuleSet:
    allow: list[L7Rule] = []
    deny: list[L7Rule] = []
    allow_all = [clause.origin for clause in clauses if clause.allows_every_message]
    for clause in clauses:
        if clause.l7 is not None:
            allow.extend(clause.l7.allow)
            deny.extend(clause.l7.deny)
    if is_open:
        allow_all.append(IMPLICIT_ALLOW)
    any_name = is_open or any(not clause.server_names for clause in clauses)
    names = {name.lower() for clause in clauses for name in clause.server_names}
    return RuleSet(
        allow=_distinct(allow),
        deny=_distinct(deny),
        allow_all=tuple(dict.fromkeys(allow_all)),
        server_names=() if any_name else tuple(sorted(names)),
        any_server_name=any_name,
    )


def _distinct(rules: Iterable[L7Rule]) -> tuple[HttpRule | KafkaRule, ...]:
    """Drop repeats (a rule that the parser split over several peers). DNS rules never get here: they have no slots."""
    by_origin: dict[RuleOrigin, HttpRule | KafkaRule] = {}
    for rule in rules:
        assert isinstance(rule, HttpRule | KafkaRule)
        by_origin.setdefault(rule.origin, rule)
    return tuple(by_origin.values())


def _origins(clauses: Sequence[Clause]) -> tuple[RuleOrigin, ...]:
    return tuple(dict.fromkeys(clause.origin for clause in clauses))


def _contexts(contexts: Iterable[TlsContext | None]) -> list[TlsContext]:
    return list(dict.fromkeys(context for context in contexts if context is not None))
