"""Compiled entries, read as the kernel reads them, say what the rules say when each packet is judged from scratch.

The judge here knows nothing of identities, tries or precedence code: it walks the policies for one flow, by labels, addresses and
port numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from l7filters.compile import Memo, compile, recompile
from l7filters.identity import IdentityTable, Network
from l7filters.ir import CompiledPolicy, Redirect
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
from tests.support.worlds import NODE, Item, To, View, endpoint, http, kind, policy, selector, world

LABELS = [f"a={a},b={b}" for a in "xy" for b in "xy"]
SELECTORS = ["", "a=x", "b=y", "a=x,b=y", "a=y,b=x", "!c", "c"]
NETWORKS = [ip_network(text) for text in ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "::/0", "2001:db8::/32")]
OUTSIDE = [ip_address(text) for text in ("8.8.8.8", "10.9.9.9", "10.1.9.9", "10.1.2.9", "2001:db8::9", "2002::9", "192.168.0.1")]
PORTS = ["0", "80", "81", "80-95", "64-127", "79-82", "0/any", "80/any", "53/udp", "8/icmp", "0/icmp", "web"]
FLOWS = [
    (Protocol.TCP, 80),
    (Protocol.TCP, 81),
    (Protocol.TCP, 82),
    (Protocol.TCP, 100),
    (Protocol.TCP, 8080),
    (Protocol.UDP, 53),
    (Protocol.UDP, 80),
    (Protocol.ICMP, 8),
    (Protocol.ICMP, 0),
    (Protocol.GRE, 0),
]


def _cidr_peer(network: Network, holes: list[Network]) -> CidrPeer:
    """Return a peer with those ``holes`` that lie within it."""
    return CidrPeer(network, tuple(hole for hole in holes if hole != network and _within(hole, network)))


@st.composite
def peers(draw: st.DrawFn) -> tuple[Peer, ...] | None:
    """Draw the peers of a rule."""
    kinds = st.one_of(
        st.sampled_from(SELECTORS).map(lambda text: EndpointPeer(selector(text))),
        st.sampled_from([Entity.WORLD, Entity.HOST, Entity.CLUSTER, Entity.ALL, Entity.WORLD_IPV6, Entity.NONE]).map(EntityPeer),
        st.builds(_cidr_peer, st.sampled_from(NETWORKS), st.lists(st.sampled_from(NETWORKS), max_size=2, unique=True)),
    )
    chosen = draw(st.none() | st.lists(kinds, max_size=2))
    return None if chosen is None else tuple(chosen)


def _within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


@st.composite
def items(draw: st.DrawFn) -> Item:
    """Draw a rule."""
    denies = draw(st.integers(0, 3)) == 0
    tos = draw(st.lists(st.sampled_from(PORTS), max_size=2))
    if denies:
        return Item(draw(peers()), tuple(To(one) for one in tos), deny=True)
    l7 = (None, (http("GET", "/a"),), (http("GET", "/b"), http("POST", "/c")))
    return Item(draw(peers()), tuple(To(one, http=draw(st.sampled_from(l7))) for one in tos))


@st.composite
def policies(draw: st.DrawFn, *, audit: bool = True) -> list[Policy]:
    """Draw a few policies."""
    rules = st.none() | st.lists(items(), max_size=3)
    return [
        policy(
            f"p{number}",
            draw(st.sampled_from(SELECTORS)),
            ingress=draw(rules),
            egress=draw(rules),
            default_deny=draw(st.integers(0, 3)) > 0,
            audit=audit and draw(st.integers(0, 3)) == 0,
        )
        for number in range(draw(st.integers(1, 4)))
    ]


@st.composite
def worlds(draw: st.DrawFn, *, audit: bool = True) -> World:
    """Draw a small world."""
    pods = [
        endpoint(
            f"pod-{index}",
            draw(st.sampled_from(LABELS)),
            ip=f"10.1.2.{index + 1}",
            remote=index > 0 and draw(st.booleans()),
        )
        for index in range(draw(st.integers(1, 4)))
    ]
    return world(
        *draw(policies(audit=audit)), endpoints=pods, enforcement=draw(st.sampled_from([Enforcement.DEFAULT, *Enforcement]))
    )


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


@given(worlds(), st.randoms(use_true_random=False))
def test_order_of_policies_endpoints_and_rules_is_of_no_consequence(seen: World, random: object) -> None:
    def shuffled(some: tuple[object, ...]) -> tuple[object, ...]:
        mixed = list(some)
        random.shuffle(mixed)  # type: ignore[attr-defined]
        return tuple(mixed)

    mixed = replace(
        seen,
        endpoints=shuffled(seen.endpoints),  # type: ignore[arg-type]
        policies=tuple(replace(one, rules=shuffled(one.rules)) for one in shuffled(seen.policies)),  # type: ignore[type-var,arg-type]
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


@given(st.lists(worlds(audit=False), min_size=2, max_size=5))
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
        assert all(after.ids[key] == number for key, number in table.ids.items() if key in after.ids)
        assert after.resting.isdisjoint(after.ids.values())
        assert set(table.ids.values()) | table.resting <= set(after.ids.values()) | after.resting
        fresh = set(after.ids) - set(table.ids)
        assert all(after.ids[key] not in table.resting for key in fresh)
        assert set(found.changed.values()) == {key for key in fresh if after.ids[key] in table.ids.values()}
        if previous is not None:
            check_moves(previous, table, compiled, after, {(m.subject, m.peer, m.direction, m.slot) for m in found.moved})
        table, identities, previous = after, compiled.identities, compiled


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
