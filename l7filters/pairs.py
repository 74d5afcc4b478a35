"""Slots for flows between two local ends that both redirect: the proxy judges them once, by both ends' rules.

Owns: which (egress slot, ingress slot) can meet on this node, and the slot of each such pair. Must not know ports or labels.

Ends that can't be judged in one pass have no pair, and the kernel drops the flow. But where the enforced rules of one of them
let everything pass (they are there for audit, or beside a plain allow), the pair is the other end's own slot: nothing is lost by
not judging that end, and audit never drops anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from l7filters.identity import IdentityNumber
from l7filters.ir import DirectionRules, PolicyProblem, Slot, SlotKey, SlotPair
from l7filters.model import Offload, PolicyKey
from l7filters.precedence import IMPLICIT_ALLOW
from l7filters.resolution import Resolution
from l7filters.trie import Trie, meeting_slots

Meetings = frozenset[tuple[SlotKey, SlotKey]]


@dataclass(frozen=True, slots=True)
class End:
    """A local identity and what holds in its two directions."""

    number: IdentityNumber
    egress: Resolution
    ingress: Resolution


@dataclass(frozen=True, slots=True)
class Pairing:
    """The pairs, the slots made for them, and the pairs that can't be (no slot: the kernel drops such a flow as NO_PAIR)."""

    pairs: tuple[SlotPair, ...] = ()
    slots: tuple[Slot, ...] = ()
    problems: tuple[PolicyProblem, ...] = ()


def meetings(ends: Sequence[End], known: MutableMapping[tuple[Trie, Trie], Meetings]) -> Meetings:
    """Return every (egress slot, ingress slot) that a flow between two of ``ends`` can meet; ``known`` remembers tries."""
    senders = {end.number: end for end in ends if any(trie.redirects for trie in end.egress.tries())}
    receivers = {end.number: end for end in ends if any(trie.redirects for trie in end.ingress.tries())}
    met: set[tuple[Trie, Trie]] = set()
    for sender in senders.values():
        for peer, trie in sender.egress.peers.items():
            if trie.redirects and peer in receivers:
                met.add((trie, receivers[peer].ingress.trie(sender.number)))
    for receiver in receivers.values():
        for peer, trie in receiver.ingress.peers.items():
            if trie.redirects and peer in senders:
                met.add((senders[peer].egress.trie(receiver.number), trie))
    met |= _any_meets_any(senders.values(), receivers.values())
    slots: set[tuple[SlotKey, SlotKey]] = set()
    for tries in met:
        if tries not in known:
            known[tries] = meeting_slots(*tries)
        slots |= known[tries]
    return frozenset(slots)


def pair_up(met: Meetings, slots: Mapping[SlotKey, Slot]) -> Pairing:
    """Return the pair slot of every meeting; ends that can't be judged in one pass are a problem of both."""
    pairs: list[SlotPair] = []
    paired: list[Slot] = []
    problems: dict[PolicyProblem, None] = {}
    for egress_key, ingress_key in met:
        egress, ingress = slots[egress_key], slots[ingress_key]
        pair = _pair_slot(egress, ingress)
        if isinstance(pair, Slot):
            pairs.append(SlotPair(egress_key, ingress_key, pair.key))
            paired.append(pair)
            continue
        judged = next((key for slot, key in ((egress, ingress_key), (ingress, egress_key)) if _passes_all(slot)), None)
        if judged is not None:
            pairs.append(SlotPair(egress_key, ingress_key, judged))
        for slot in (egress, ingress):
            if slot.key != judged:
                problems.update(dict.fromkeys(_pair_problems(slot, judged is not None, pair)))
    return Pairing(tuple(pairs), tuple(paired), tuple(problems))


def _any_meets_any(senders: Iterable[End], receivers: Iterable[End]) -> set[tuple[Trie, Trie]]:
    """Return the meetings where neither end has a trie for the other. One example of each two tries is enough."""
    by_sent: dict[Trie, list[End]] = {}
    by_received: dict[Trie, list[End]] = {}
    for end in senders:
        if end.egress.any_peer.redirects:
            by_sent.setdefault(end.egress.any_peer, []).append(end)
    for end in receivers:
        if end.ingress.any_peer.redirects:
            by_received.setdefault(end.ingress.any_peer, []).append(end)
    return {
        (sent, received)
        for sent, sending in by_sent.items()
        for received, receiving in by_received.items()
        if any(b.number not in a.egress.peers and a.number not in b.ingress.peers for a in sending for b in receiving)
    }


def _pair_slot(egress: Slot, ingress: Slot) -> Slot | str:
    """Return the slot that judges by both, or why there is none."""
    if egress.key.protocol is not ingress.key.protocol:
        return f"one end's rules speak {egress.key.protocol}, the other's {ingress.key.protocol}"
    for one, other in (
        (egress.terminating_tls, ingress.terminating_tls),
        (egress.originating_tls, ingress.originating_tls),
    ):
        if one is not None and other is not None and one != other:
            return "the two ends use different TLS contexts"
    return Slot(
        SlotKey(egress.key.protocol, egress=egress.key.egress, ingress=ingress.key.ingress),
        egress=egress.egress,
        ingress=ingress.ingress,
        terminating_tls=egress.terminating_tls or ingress.terminating_tls,
        originating_tls=egress.originating_tls or ingress.originating_tls,
        offload=Offload.strictest((egress.offload, ingress.offload)),
        # Where only one end observes, the other's records are nobody's to leave out.
        sample=min(egress.sample, ingress.sample) if egress.sample is not None and ingress.sample is not None else None,
    )


def _passes_all(slot: Slot) -> bool:
    """Tell whether all that is enforced in ``slot`` is to let everything pass as it is."""
    rules = _side(slot).enforced
    lenient = bool(rules.allow_all) and rules.any_server_name and not rules.allow and not rules.deny
    return lenient and slot.terminating_tls is None and slot.originating_tls is None


def _pair_problems(slot: Slot, passed: bool, reason: str) -> Iterable[PolicyProblem]:
    """Yield a problem for every rule of ``slot`` that is not judged. ``passed``: it is left out, and only its audit is lost."""
    side = _side(slot)
    if passed and side.shadow is None:
        return
    unconcerned = {str(origin) for origin in side.enforced.allow_all} if passed else set()
    lost = "audited" if passed else "judged together"
    message = f"rules at both ends of a local flow are not {lost}: {reason}"
    for name in slot.key.egress or slot.key.ingress or ():
        policy, _, path = name.partition(":")
        if policy != IMPLICIT_ALLOW.policy and name not in unconcerned:
            yield PolicyProblem(PolicyKey(policy), path, message, "use one protocol and one TLS context at both ends")


def _side(slot: Slot) -> DirectionRules:
    side = slot.egress or slot.ingress
    assert side is not None
    return side
