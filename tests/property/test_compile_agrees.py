"""Compiled entries, read as the kernel reads them, say what the rules say when each packet is judged from scratch.

The judge here knows nothing of identities, tries or precedence code: it walks the policies for one flow, by labels, addresses and
port numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from l7filters.compile import Memo, compile, recompile
from l7filters.identity import IdentityTable
from l7filters.ir import CompiledPolicy, Redirect, SlotKey
from l7filters.lookup import EntryTable
from l7filters.model import (
    CidrPeer,
    Direction,
    EndpointPeer,
    Entity,
    EntityPeer,
    Mode,
    Peer,
    Policy,
    PortRule,
    PortSpec,
    Protocol,
    Rule,
)
from l7filters.slots import SLOT_MAX, SlotTable, assign
from l7filters.world import Address, Endpoint, Enforcement, World
from tests.support.random_worlds import FLOWS, OUTSIDE, worlds
from tests.support.worlds import NODE, View, kind

# ---- the judge ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """``word`` is deny, allow or http; for http also what the slot must hold."""

    word: str
    allow: frozenset[str] = frozenset()
    allows_all: bool = False


def names(rule_peers: tuple[Peer, ...] | None, other: Endpoint | Address) -> bool:
    """Tell whether a rule's peers name ``other``."""
    return rule_peers is None or any(names_one(peer, other) for peer in rule_peers)


def names_one(peer: Peer, other: Endpoint | Address) -> bool:
    is_pod = isinstance(other, Endpoint)
    is_host = not is_pod and other in NODE.addresses
    match peer:
        case EndpointPeer(selector=wanted):
            return isinstance(other, Endpoint) and wanted.matches(other.labels)
        case EntityPeer(entity=Entity.ALL):
            return True
        case EntityPeer(entity=Entity.HOST):
            return is_host
        case EntityPeer(entity=Entity.CLUSTER):
            return is_pod or is_host
        case EntityPeer(entity=Entity.WORLD):
            return not is_pod and not is_host
        case EntityPeer(entity=Entity.WORLD_IPV6):
            return not isinstance(other, Endpoint) and not is_host and other.version == 6
        case CidrPeer(cidr=cidr, excepts=excepts):
            if isinstance(other, Endpoint) or is_host:
                return False
            return other in cidr and not any(other in hole for hole in excepts)
        case _:
            return False


def covers(spec: PortSpec, protocol: Protocol, port: int) -> bool:
    if isinstance(spec.port, str):
        return False
    if spec.protocol is Protocol.ANY:
        if protocol not in (Protocol.TCP, Protocol.UDP, Protocol.SCTP):
            return False
    elif spec.protocol is not protocol:
        return False
    if protocol is Protocol.ICMP:
        return spec.port == port
    return spec.port == 0 or spec.port <= port <= (spec.end_port or spec.port)


def judge(chosen: Iterable[Policy], subject: Endpoint, other: Endpoint | Address, way: Direction, flow: tuple[Protocol, int],
          enforcement: Enforcement) -> Judged:  # fmt: skip
    """Judge one flow of ``subject`` by ``chosen``, all of which count."""
    if enforcement is Enforcement.NEVER:
        return Judged("allow")
    selecting = [one for one in chosen if one.subject.matches(subject.labels)]
    denied = enforcement is Enforcement.ALWAYS or any(way in one.default_deny for one in selecting)
    hits: list[tuple[Rule, PortRule | None]] = []
    for one in selecting:
        for rule in one.rules:
            if rule.direction is not way or not names(rule.peers, other):
                continue
            if not rule.to_ports:
                hits.append((rule, None))
            for to in rule.to_ports:
                l7_fits = to.l7 is None or flow[0] is Protocol.TCP
                if l7_fits and any(covers(spec, *flow) for spec in to.ports):
                    hits.append((rule, to))
    if any(rule.deny for rule, _ in hits):
        return Judged("deny")
    with_l7 = [to.l7 for _, to in hits if to is not None and to.l7 is not None]
    if with_l7:
        allows_all = not denied or any(to is None or to.l7 is None for _, to in hits)
        return Judged("http", frozenset(str(rule.origin) for l7 in with_l7 for rule in l7.allow), allows_all)
    return Judged("allow" if hits or not denied else "deny")


def peers_of(seen: World) -> list[Endpoint | Address]:
    return [*seen.endpoints, *OUTSIDE]


def cases(seen: World) -> Iterable[tuple[Endpoint, Endpoint | Address, Direction, tuple[Protocol, int]]]:
    for subject in seen.endpoints:
        if subject.is_local:
            for other in peers_of(seen):
                for way in Direction:
                    for flow in FLOWS:
                        yield subject, other, way, flow


@given(worlds())
def test_entries_agree_with_rules_judged_from_scratch(seen: World) -> None:
    view = View.of(seen)
    enforcing = [one for one in seen.policies if one.mode is Mode.ENFORCE]
    for subject, other, way, flow in cases(seen):
        peer = other.name if isinstance(other, Endpoint) else str(other)
        verdict = view.verdict(subject.name, peer, way, f"{flow[1]}/{flow[0].name}")
        expected = judge(enforcing, subject, other, way, flow, seen.enforcement)
        shadow = judge(seen.policies, subject, other, way, flow, seen.enforcement)
        word = kind(verdict).rstrip("!")
        where = (subject.name, peer, way, flow)
        if expected.word == "deny":
            assert word == "deny", where
            continue
        assert word == ("http" if "http" in (expected.word, shadow.word) else expected.word), where
        assert kind(verdict).endswith("!") == (shadow.word == "deny"), where
        if not isinstance(verdict, Redirect):
            continue
        rules = view.rules(verdict)
        assert {str(rule.origin) for rule in rules.enforced.allow} == expected.allow, where
        assert bool(rules.enforced.allow_all) == (expected.allows_all or expected.word == "allow"), where
        if shadow.word == "http":
            told = rules.shadow or rules.enforced
            assert {str(rule.origin) for rule in told.allow} == shadow.allow, where
            assert bool(told.allow_all) == shadow.allows_all, where


T = TypeVar("T")


@given(worlds(), st.randoms(use_true_random=False))
def test_order_of_policies_endpoints_and_rules_is_of_no_consequence(seen: World, random: Random) -> None:
    def shuffled(some: tuple[T, ...]) -> tuple[T, ...]:
        mixed = list(some)
        random.shuffle(mixed)
        return tuple(mixed)

    mixed = replace(
        seen,
        endpoints=shuffled(seen.endpoints),
        policies=tuple(replace(one, rules=shuffled(one.rules)) for one in shuffled(seen.policies)),
    )
    assert compile(mixed, IdentityTable()) == compile(seen, IdentityTable())


@given(worlds(), worlds(), worlds())
def test_memo_of_any_other_world_changes_no_result(first: World, second: World, third: World) -> None:
    identities, memo = IdentityTable(), Memo()
    for seen in (first, second, third, first):
        compiled, memo = recompile(seen, identities, memo)
        assert compiled == compile(seen, identities)
        identities = compiled.identities


@given(worlds())
def test_compiled_policy_is_whole(seen: World) -> None:
    """Every slot that anything names is there once, nothing is there that nothing names, and every key is unique."""
    compiled = compile(seen, IdentityTable())
    keys = [entry.key for entry in compiled.entries]
    slots = [slot.key for slot in compiled.slots]
    assert len(set(keys)) == len(keys)
    assert len(set(slots)) == len(slots)
    assert len({entry.prefix for entry in compiled.ipcache}) == len(compiled.ipcache)
    named = {entry.verdict.slot for entry in compiled.entries if isinstance(entry.verdict, Redirect)}
    for pair in compiled.pairs:
        assert {pair.egress, pair.ingress} <= named
    assert set(slots) == named | {pair.pair for pair in compiled.pairs}


@given(worlds())
def test_flow_between_local_ends_that_both_redirect_has_a_pair(seen: World) -> None:
    view = View.of(seen)
    pairs = {(pair.egress, pair.ingress) for pair in view.compiled.pairs}
    local = [one for one in seen.endpoints if one.is_local]
    for sender in local:
        for receiver in local:
            for protocol, port in FLOWS:
                sent = view.egress(sender.name, receiver.name, f"{port}/{protocol.name}")
                received = view.ingress(receiver.name, sender.name, f"{port}/{protocol.name}")
                if isinstance(sent, Redirect) and isinstance(received, Redirect):
                    assert (sent.slot, received.slot) in pairs


# ---- slots --------------------------------------------------------------------------------------------------------


@given(st.lists(worlds(plain=False, audit=False), min_size=2, max_size=5))
def test_slot_assignments_keep_their_promises(history: list[World]) -> None:
    table, identities, memo = SlotTable(), IdentityTable(), Memo()
    previous: CompiledPolicy | None = None
    for seen in history:
        compiled, memo = recompile(seen, identities, memo)
        found = assign(table, previous, compiled)
        after = found.table
        assert set(after.ids) == {slot.key for slot in compiled.slots}
        assert len(set(after.ids.values())) == len(after.ids)
        assert all(1 <= number <= SLOT_MAX for number in after.ids.values())
        anew = keys_with_other_contexts(previous, compiled)
        assert all(after.ids[key] == number for key, number in table.ids.items() if key in after.ids and key not in anew)
        assert all(after.ids[key] != table.ids[key] for key in anew)
        assert after.resting.isdisjoint(after.ids.values())
        assert set(table.ids.values()) | table.resting <= set(after.ids.values()) | after.resting
        fresh = set(after.ids) - set(table.ids) | anew
        assert all(after.ids[key] not in table.resting for key in fresh)
        assert set(found.changed.values()) == {key for key in fresh if after.ids[key] in table.ids.values()}
        if previous is not None:
            check_moves(previous, table, compiled, after, {(m.subject, m.peer, m.direction, m.slot) for m in found.moved})
        table, identities, previous = after, compiled.identities, compiled


def keys_with_other_contexts(previous: CompiledPolicy | None, compiled: CompiledPolicy) -> set[SlotKey]:
    """Return the keys that both have, with different TLS contexts."""
    before = {slot.key: slot for slot in previous.slots} if previous else {}
    return {
        slot.key
        for slot in compiled.slots
        if slot.key in before
        and (slot.terminating_tls, slot.originating_tls) != (before[slot.key].terminating_tls, before[slot.key].originating_tls)
    }


def check_moves(
    previous: CompiledPolicy, before: SlotTable, compiled: CompiledPolicy, after: SlotTable, moved: set[tuple[object, ...]]
) -> None:
    """Whatever left its slot is reported, for its peer or for any."""
    old, new = EntryTable.of(previous), EntryTable.of(compiled)
    alive = {*compiled.identities.numbers.values(), *range(256)}
    for entry in previous.entries:
        key = entry.key
        if not isinstance(entry.verdict, Redirect) or key.subject not in alive or key.peer not in alive:
            continue
        for nodes in (old.tries[key.subject, key.peer, key.direction],):
            for prefix in nodes:
                was = old.verdict(key.subject, key.peer, key.direction, prefix)
                now = new.verdict(key.subject, key.peer, key.direction, prefix)
                if not isinstance(was, Redirect):
                    continue
                number = before.ids[was.slot]
                if not isinstance(now, Redirect) or after.ids[now.slot] != number:
                    assert (key.subject, key.peer, key.direction, number) in moved
