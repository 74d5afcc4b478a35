"""What should become of a flow, in the terms that every judge can answer in; and the same read from a compiled policy.

``expected_verdict`` is the reference: it asks ``evaluate``. ``compiled_verdict`` follows compiled entries as the kernel does and
reads the slot's rule sets as Envoy should; only the predicates of single HTTP rules are shared with the evaluator.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from l7filters.decision import Decision, Flow, Outcome, Verdict
from l7filters.evaluate import evaluate
from l7filters.fqdn import dns_holds, names_hold
from l7filters.identity import IdentityNumber, Reserved
from l7filters.ir import DirectionRules, EntryVerdict, IpcacheEntry, RuleSet, ServerNameRule, Slot
from l7filters.lookup import Flow as EntryFlow
from l7filters.lookup import Passed, would_deny
from l7filters.model import Direction, DnsRule, HttpRule, L7Protocol
from l7filters.ports import PORT_BITS, PortPrefix
from l7filters.predicates import NO_SECRETS, SecretTexts, http_holds, server_name_holds
from tests.support.worlds import View

HOST = IdentityNumber(int(Reserved.HOST))


@dataclass(frozen=True)
class Expected:
    """``connection`` is what the kernel does, ``message`` what comes of it in the end."""

    connection: Outcome
    message: Verdict
    audited: bool


def expected_of(decision: Decision) -> Expected:
    """Return what ``decision`` asks of the data plane. Of what is denied nothing is audited."""
    return Expected(decision.outcome, decision.verdict, decision.audited)


def expected_verdict(view: View, flow: Flow, secrets: SecretTexts = NO_SECRETS) -> Expected:
    """Return what should become of ``flow``."""
    return expected_of(evaluate(view.world, flow, secrets))


def compiled_verdict(view: View, flow: Flow, secrets: SecretTexts = NO_SECRETS) -> Expected:
    """Return what becomes of ``flow``, both ends of which are addresses, by the compiled policy."""
    source, destination = _entry(view, flow.source), _entry(view, flow.destination)
    if source.identity == HOST and destination.endpoint is not None:
        return Expected(Outcome.ALLOW, Verdict.ALLOWED, audited=False)
    asked = EntryFlow(
        source.identity,
        destination.identity,
        int(flow.protocol),
        flow.destination_port,
        source_local=_is_local(source),
        destination_local=_is_local(destination),
        names=view.granted(*flow.names) if is_outside(view, destination) else (),
    )
    judged = view.entries.judge(asked)
    if not isinstance(judged, Passed):
        return Expected(Outcome.DENY, Verdict.DENIED, audited=False)
    audited = any(would_deny(entry) for entry in _ends(view, asked))
    if judged.slot is None:
        return Expected(Outcome.ALLOW, Verdict.ALLOWED, audited)
    slot = next(slot for slot in view.compiled.slots if slot.key == judged.slot)
    enforced = slot_verdict(slot, flow, secrets)
    audited = enforced is not Verdict.DENIED and (audited or shadow_verdict(slot, flow, secrets) is Verdict.DENIED)
    return Expected(Outcome.REDIRECT, enforced, audited)


def rule_set_verdict(protocol: L7Protocol, rules: RuleSet, flow: Flow, secrets: SecretTexts) -> Verdict:
    """Return what a rule set says of the message of ``flow``, by the words of ir.RuleSet."""
    if not rules.any_server_name:
        if flow.server_name is None:
            return Verdict.UNDECIDED
        listed = any(server_name_holds(pattern, flow.server_name) for pattern in rules.server_names)
        if not listed and not any(_by_name(rule, flow.server_name) for rule in rules.by_name):
            return Verdict.DENIED
    if protocol is L7Protocol.TLS:
        return Verdict.ALLOWED
    if protocol is L7Protocol.DNS:
        if rules.allow_all:
            return Verdict.ALLOWED
        if flow.dns is None:
            return Verdict.UNDECIDED
        return (
            Verdict.ALLOWED
            if any(isinstance(rule, DnsRule) and dns_holds(rule, flow.dns) for rule in rules.allow)
            else Verdict.DENIED
        )
    if protocol is L7Protocol.KAFKA:
        return Verdict.ALLOWED if rules.allow_all and not rules.deny else Verdict.UNDECIDED
    assert protocol is L7Protocol.HTTP
    if flow.http is None:
        return Verdict.ALLOWED if rules.allow_all and not rules.deny else Verdict.UNDECIDED
    if flow.http.is_refused:
        return Verdict.DENIED
    for rule in rules.deny:
        assert isinstance(rule, HttpRule)
        if http_holds(rule, flow.http, secrets, denies=True):
            return Verdict.DENIED
    if rules.allow_all and not flow.http.is_connect:
        return Verdict.ALLOWED
    for rule in rules.allow:
        assert isinstance(rule, HttpRule)
        if http_holds(rule, flow.http, secrets, denies=False):
            return Verdict.ALLOWED
    return Verdict.DENIED


def slot_verdict(slot: Slot, flow: Flow, secrets: SecretTexts) -> Verdict:
    """Return what a slot says of the message of ``flow``: both directions must allow."""
    return _strictest([rule_set_verdict(slot.key.protocol, side.enforced, flow, secrets) for side in _sides(slot)])


def shadow_verdict(slot: Slot, flow: Flow, secrets: SecretTexts) -> Verdict:
    """Return what a slot would say if policies in audit mode were enforced."""
    rule_sets = [side.enforced if side.shadow is None else side.shadow for side in _sides(slot)]
    return _strictest([rule_set_verdict(slot.key.protocol, rules, flow, secrets) for rules in rule_sets])


def _by_name(rule: ServerNameRule, name: str) -> bool:
    listed = not rule.patterns or any(server_name_holds(pattern, name) for pattern in rule.patterns)
    return listed and names_hold(rule.names, name)


def is_outside(view: View, entry: IpcacheEntry) -> bool:
    """Tell whether an address is neither an endpoint's nor a node's: there names count."""
    ranges = {number for label_set, number in view.compiled.identities.numbers.items() if label_set.cidrs}
    return entry.identity in {*ranges, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6}


def _sides(slot: Slot) -> list[DirectionRules]:
    return [side for side in (slot.egress, slot.ingress) if side is not None]


def _strictest(verdicts: list[Verdict]) -> Verdict:
    for verdict in (Verdict.DENIED, Verdict.UNDECIDED):
        if verdict in verdicts:
            return verdict
    return Verdict.ALLOWED


def _entry(view: View, who: object) -> IpcacheEntry:
    return view.addresses.find(ip_address(str(who)))


def _is_local(entry: IpcacheEntry) -> bool:
    """Tell whether this node enforces what has the address: its own endpoints, and itself."""
    return entry.endpoint is not None or entry.identity == HOST


def _ends(view: View, asked: EntryFlow) -> list[EntryVerdict]:
    """Return the entries of both ends that passed a flow."""
    prefix = PortPrefix(asked.protocol, asked.port, PORT_BITS)
    ends: list[EntryVerdict | None] = []
    if asked.source_local:
        ends.append(view.entries.egress(asked)[0])
    if asked.destination_local:
        ends.append(view.entries.verdict(asked.destination, asked.source, Direction.INGRESS, prefix))
    return [entry for entry in ends if entry is not None]
