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

Names: a clause *with names* (``toFQDNs``) holds for an address as long as DNS gave it to the subject for one of them. Many names
share an address, so the address alone does not tell which of them is meant:

n1. where HTTP or TLS is spoken, what such a clause allows (and denies) it does only for its own names: Host or SNI must be
    covered by one of them. Clauses with names that cover the same port of the same subject are *kin*: where one of them covers
    the place, all count, so that all addresses reached by name on that port lead to one slot, whichever names they have;
n2. kin that speak neither (Kafka, DNS) are left apart: nothing there says which name is meant;
n3. where a port is known to carry HTTP or TLS (``Place.carries``, from the node's settings), clauses with names redirect though
    they have no L7 rules, unless a clause without names allows everything there;
n4. on the UDP ports of the same numbers (QUIC) nobody sees which name is meant: there only clauses count that name UDP;
n5. a subject that has clauses with names must be seen asking for names: what is allowed to port 53 goes to the DNS proxy.

Audit: clauses of policies in audit mode are left out of the enforced verdict. Their shadow is the verdict of all clauses
together, found by the same list. Where the enforced verdict passes and the shadow would drop, ``would_deny`` is set; where
the shadow restricts L7, the flow is redirected to a slot that enforces the one and reports the other. Nothing in audit mode
turns into a drop, so a TLS context can't be audited: it would change what is sent. Where the shadow needs one that the enforced
rules don't have, it is left out and reported.

Observe: clauses that only observe are left out of all of the above. Where the rest come to a plain Allow, the flow is redirected
to an HTTP slot that allows every message; a Deny stays, and so does a Redirect. Where the proxy can't be used, or addresses are
reached by name (an observed Allow would no longer come before the redirect of a name), nothing is observed, and that is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import assert_never

from l7filters.ir import (
    Allow,
    Deny,
    DirectionRules,
    EntryVerdict,
    PolicyProblem,
    Redirect,
    RuleSet,
    ServerNameRule,
    Slot,
    SlotKey,
)
from l7filters.model import Direction, HttpRule, L7Protocol, L7Rule, L7Rules, Offload, PolicyKey, RuleOrigin, TlsContext
from l7filters.world import DEFAULT_FQDN_PORTS, FqdnPorts
from proxylib.dns.rules import NameSelector

_NAMING_PROTOCOLS = frozenset({L7Protocol.HTTP, L7Protocol.TLS})
"""What says which server is meant."""

IMPLICIT_ALLOW = RuleOrigin(PolicyKey("default"), "allow")
"""Stands in ``allow_all`` and slot keys for a direction that is not in default deny."""
IMPLICIT_AUDIT_DENY = RuleOrigin(PolicyKey("default"), "audit-deny")
"""Stands in slot keys beside IMPLICIT_ALLOW when only the shadow is in default deny."""
_NAMED_UNOBSERVED = "egress of a workload that reaches servers by name (toFQDNs) is not observed"


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
    names: tuple[NameSelector, ...] = ()
    """Not empty: it holds only for servers reached by one of these."""
    lists_udp: bool = False
    """Whether its ports name UDP, rather than any protocol."""
    offload: Offload | None = None
    observes: bool = False
    """It neither allows nor denies: what is allowed anyway is to be seen."""
    sample: float | None = None
    """Of one that observes: how much is recorded, as in ``Slot.sample``."""

    @property
    def redirects(self) -> bool:
        """Whether this clause needs the proxy."""
        return bool(self.l7 is not None or self.server_names or self.terminating_tls or self.originating_tls)

    def says_the_same(self, other: Clause) -> bool:
        """Whether both would be judged alike."""
        return (
            (self.origin, self.deny, self.audit, self.l7, self.server_names, self.names, self.lists_udp, self.offload)
            == (other.origin, other.deny, other.audit, other.l7, other.server_names, other.names, other.lists_udp, other.offload)
        ) and (self.terminating_tls, self.originating_tls, self.observes, self.sample) == (
            other.terminating_tls,
            other.originating_tls,
            other.observes,
            other.sample,
        )

    @property
    def allows_every_message(self) -> bool:
        """Whether this clause sets no L7 allow rules (server names aside)."""
        return self.l7 is None or self.l7.deny_only


@dataclass(frozen=True, slots=True)
class Stance:
    """What holds for a subject's whole direction, whatever the clause.

    ``open``: not in default deny. ``audited``: some policy in audit mode selects the subject here; ``shadow_open`` is then
    what ``open`` would be if it were enforced. ``unredirectable``: why the proxy can't be used, or empty; ``nameless``: why names
    mean nothing here, or empty. ``watches_names``: some clause has names (n5).
    """

    direction: Direction
    open: bool
    audited: bool = False
    shadow_open: bool = False
    unredirectable: str = ""
    nameless: str = ""
    watches_names: bool = False
    ports: FqdnPorts = DEFAULT_FQDN_PORTS


@dataclass(frozen=True, slots=True)
class Place:
    """What is special about a place. ``carries``: what is known of the port; ``kin``: clauses with names that cover it (n1).

    ``quic``: a UDP port whose TCP twin carries TLS (n4).
    """

    carries: L7Protocol | None = None
    kin: frozenset[Clause] = frozenset()
    quic: bool = False


NOWHERE_SPECIAL = Place()


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


def resolve(clauses: Iterable[Clause], stance: Stance, place: Place = NOWHERE_SPECIAL) -> Resolved:
    """Return what ``clauses``, all those that cover one place, say together. Their order is of no consequence."""
    clauses = list(clauses)
    judged = _resolve([clause for clause in clauses if not clause.observes], stance, place)
    observing = sorted((clause for clause in clauses if clause.observes), key=lambda clause: clause.name)
    return _observed(judged, judged.verdict, observing, stance) if observing and isinstance(judged.verdict, Allow) else judged


def _observed(judged: Resolved, verdict: Allow, observing: Sequence[Clause], stance: Stance) -> Resolved:
    """Lead what ``verdict`` allows through a slot that allows everything, if the proxy can be in its way."""
    hindered = stance.unredirectable or (_NAMED_UNOBSERVED if stance.watches_names else "")
    if hindered:
        unseen = _Conflict(hindered, "observe the port at the other end, or not at all", tuple(observing))
        return replace(judged, problems=(*judged.problems, *unseen.problems()))
    rules = _allow_everything(verdict.rules, stance.open)
    names = {clause.name for clause in observing} | {str(origin) for origin in rules.allow_all}
    sides = {stance.direction.value: tuple(sorted(names))}
    key = SlotKey(L7Protocol.HTTP, **sides)
    slot = _slot(key, _Content(L7Protocol.HTTP, rules, None, None), rules, None, stance.direction, ())
    samples = [clause.sample for clause in observing if clause.sample is not None]
    return Resolved(
        Redirect(key, verdict.rules, verdict.would_deny), replace(slot, sample=min(samples, default=None)), judged.problems
    )


def _resolve(clauses: Iterable[Clause], stance: Stance, place: Place) -> Resolved:
    """Return what clauses that don't observe say together."""
    covering = {clause for clause in clauses if not (place.quic and clause.names and not clause.lists_udp)}
    everything = _with_kin(covering, place.kin)
    enforcing = _with_kin(
        {clause for clause in covering if not clause.audit}, {clause for clause in place.kin if not clause.audit}
    )
    enforced = _judge(enforcing, covering, stance.open, stance, place.carries)
    match enforced.kind:
        case _Kind.DENY:
            return Resolved(Deny(enforced.origins, enforced.problem), None, enforced.problems)
        case _Kind.DEFAULT_DENY:
            return Resolved(Deny())
        case _Kind.ALLOW | _Kind.REDIRECT:
            shadow = _judge(everything, covering, stance.shadow_open, stance, place.carries) if stance.audited else enforced
            return _beside_shadow(enforced, shadow, enforcing, everything, stance)
        case _:
            assert_never(enforced.kind)


def _with_kin(clauses: AbstractSet[Clause], kin: AbstractSet[Clause]) -> list[Clause]:
    """Return ``clauses`` and, where some has names, those of ``kin`` that they are united with (n1, n2); sorted."""
    named = [clause for clause in clauses if clause.names]
    if named and all(_may_name(clause) for clause in named):
        clauses = clauses | {clause for clause in kin if _may_name(clause)}
    return sorted(clauses, key=lambda clause: clause.name)


def _may_name(clause: Clause) -> bool:
    """Tell whether ``clause`` can be held to its names by what is said."""
    return clause.l7 is None or clause.l7.protocol in _NAMING_PROTOCOLS


def _judge(
    clauses: Sequence[Clause], covering: AbstractSet[Clause], is_open: bool, stance: Stance, carries: L7Protocol | None
) -> _Judgement:
    """Apply the numbered list to ``clauses``, all of which count; those that aren't ``covering`` the place are kin."""
    denies = [clause for clause in clauses if clause.deny]
    if denies:  # 1
        return _Judgement(_Kind.DENY, _origins(denies))
    by_name = carries in _NAMING_PROTOCOLS and bool(clauses) and not is_open and all(clause.names for clause in clauses)
    if by_name or any(clause.redirects for clause in clauses):  # 2, n3
        merged = _merge(clauses, is_open, stance, carries)
        if isinstance(merged, _Conflict):
            return _Judgement(_Kind.DENY, problem=merged.message, problems=merged.problems())
        return _Judgement(_Kind.REDIRECT, _origins(clauses), merged)
    if (clauses or is_open) and carries is L7Protocol.DNS and stance.watches_names:  # n5
        content = _Content(L7Protocol.DNS, _unite(clauses, is_open, L7Protocol.DNS), None, None)
        return _Judgement(_Kind.REDIRECT, _origins(clauses), content)
    if clauses or is_open:  # 3
        return _Judgement(_Kind.ALLOW, _origins([clause for clause in clauses if clause in covering]))
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
    elif shadow.content is not None and enforced.content is not None and _differ(shadow.content, enforced.content):
        # What only the port's number made TLS (n3), audit takes for HTTP: audit changes nothing that is enforced.
        shadow, everything, stance = enforced, enforcing, replace(stance, audited=False)
    would_deny = shadow.kind in (_Kind.DENY, _Kind.DEFAULT_DENY)
    if enforced.content is None and shadow.content is None:
        return Resolved(Allow(enforced.origins, would_deny), None, shadow.problems)
    if shadow.content is None:
        # The shadow drops or passes the flow as a whole, so it adds nothing that the slot could judge.
        assert enforced.content is not None
        key = _slot_key(enforced.content.protocol, enforcing, stance, with_shadow=False)
        slot = _slot(key, enforced.content, enforced.content.rules, None, stance.direction, enforcing)
        return Resolved(Redirect(key, enforced.origins, would_deny), slot, shadow.problems)
    rules = enforced.content.rules if enforced.content else _allow_everything(enforced.origins, stance.open)
    shadow_rules = shadow.content.rules if shadow.content.rules != rules else None
    key = _slot_key(shadow.content.protocol, everything, stance, with_shadow=stance.audited)
    slot = _slot(key, shadow.content, rules, shadow_rules, stance.direction, enforcing)
    return Resolved(Redirect(key, enforced.origins), slot, shadow.problems)


def _differ(one: _Content, other: _Content) -> bool:
    return one.protocol is not other.protocol


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


def _slot(
    key: SlotKey,
    content: _Content,
    rules: RuleSet,
    shadow: RuleSet | None,
    direction: Direction,
    enforcing: Sequence[Clause],
) -> Slot:
    side = DirectionRules(rules, shadow)
    return Slot(
        key,
        egress=side if direction is Direction.EGRESS else None,
        ingress=side if direction is Direction.INGRESS else None,
        terminating_tls=content.terminating_tls,
        originating_tls=content.originating_tls,
        offload=Offload.strictest(clause.offload for clause in enforcing),
    )


def _allow_everything(origins: tuple[RuleOrigin, ...], is_open: bool) -> RuleSet:
    """The rule set of an enforced plain allow that is redirected only for its shadow."""
    return RuleSet(allow_all=(*origins, IMPLICIT_ALLOW) if is_open else origins)


def _merge(clauses: Sequence[Clause], is_open: bool, stance: Stance, carries: L7Protocol | None) -> _Content | _Conflict:
    """Unite the allow clauses of one place (2a-2f): at least one redirects, or all have names and ``carries`` is known."""
    redirecting = tuple(clause for clause in clauses if clause.redirects)
    if stance.unredirectable:
        return _Conflict(stance.unredirectable, "move the L7 rules to the other end, or use L3/L4 rules here", redirecting)
    if stance.nameless and any(clause.l7 is not None and clause.l7.protocol is L7Protocol.DNS for clause in redirecting):
        return _Conflict(stance.nameless, "run the workload in a network namespace of its own", redirecting)
    terminating = _contexts(clause.terminating_tls for clause in redirecting)
    originating = _contexts(clause.originating_tls for clause in redirecting)
    if len(terminating) > 1 or len(originating) > 1:
        return _Conflict("conflicting TLS contexts on one port", "use one Secret for the port in every rule", redirecting)
    protocol = _protocol(redirecting, bool(terminating), bool(originating)) if redirecting else carries
    if isinstance(protocol, _Conflict):
        return protocol
    assert protocol is not None
    if protocol is not L7Protocol.TLS and _names_conflict(clauses, is_open):
        hint = "give the same serverNames in every rule with terminatingTLS on this port"
        return _Conflict("rules on one terminated port differ in serverNames and in what they allow", hint, redirecting)
    return _Content(
        protocol,
        _unite(clauses, is_open, protocol),
        terminating[0] if terminating else None,
        originating[0] if originating else None,
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
    unopened = names_only or any(clause.server_names for clause in redirecting)
    if protocol is L7Protocol.DNS and (unopened or terminates or originates):
        return _Conflict("DNS rules beside serverNames or a TLS context", "DNS is judged in the clear only", redirecting)
    if protocol in (L7Protocol.HTTP, L7Protocol.KAFKA) and unopened and not terminates:
        spoken_here = {L7Protocol.HTTP: "HTTP", L7Protocol.KAFKA: "Kafka"}[protocol]
        message = f"serverNames beside {spoken_here} rules without terminatingTLS"
        return _Conflict(message, "add terminatingTLS to the port", redirecting)
    return protocol


def _names_conflict(clauses: Sequence[Clause], is_open: bool) -> bool:
    """Tell whether uniting names and rules separately would allow what no clause does (2f)."""
    if is_open or any(not clause.server_names and clause.allows_every_message and not clause.names for clause in clauses):
        return False
    return len({frozenset(name.lower() for name in clause.server_names) for clause in clauses}) > 1


def _unite(clauses: Sequence[Clause], is_open: bool, protocol: L7Protocol) -> RuleSet:
    allow: list[L7Rule] = []
    deny: list[L7Rule] = []
    allow_all: list[RuleOrigin] = []
    by_name: list[ServerNameRule] = []
    for clause in clauses:
        limited = bool(clause.names) and protocol in _NAMING_PROTOCOLS
        if clause.l7 is not None:
            allow.extend(_of_names(rule, clause.names) for rule in clause.l7.allow)
            deny.extend(_of_names(rule, clause.names) for rule in clause.l7.deny)
        if limited and protocol is L7Protocol.TLS:
            by_name.append(ServerNameRule(clause.origin, clause.names, clause.server_names))
        elif limited and clause.allows_every_message:
            allow.append(HttpRule(clause.origin, names=clause.names))
        elif clause.allows_every_message:
            allow_all.append(clause.origin)
    if is_open:
        allow_all.append(IMPLICIT_ALLOW)
    listing = [clause for clause in clauses if not clause.names] if protocol is L7Protocol.TLS else clauses
    any_name = is_open or any(not clause.server_names for clause in listing)
    names = {name.lower() for clause in listing for name in clause.server_names}
    return RuleSet(
        allow=_distinct(allow),
        deny=_distinct(deny),
        allow_all=tuple(dict.fromkeys(allow_all)),
        server_names=() if any_name else tuple(sorted(names)),
        any_server_name=any_name,
        by_name=() if any_name else tuple(by_name),
    )


def _of_names(rule: L7Rule, names: tuple[NameSelector, ...]) -> L7Rule:
    """Return ``rule`` as it holds for servers reached by one of ``names``; none: for any server."""
    return replace(rule, names=names) if names and isinstance(rule, HttpRule) else rule


def _distinct(rules: Iterable[L7Rule]) -> tuple[L7Rule, ...]:
    """Drop repeats (a rule that the parser split over several peers)."""
    distinct: dict[tuple[RuleOrigin, tuple[NameSelector, ...]], L7Rule] = {}
    for rule in rules:
        distinct.setdefault((rule.origin, rule.names if isinstance(rule, HttpRule) else ()), rule)
    return tuple(distinct.values())


def _origins(clauses: Sequence[Clause]) -> tuple[RuleOrigin, ...]:
    return tuple(dict.fromkeys(clause.origin for clause in clauses))


def _contexts(contexts: Iterable[TlsContext | None]) -> list[TlsContext]:
    return list(dict.fromkeys(context for context in contexts if context is not None))
