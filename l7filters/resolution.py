"""One direction of one subject: the tries of all its peers.

Owns: which policies put a direction in default deny, and which peers need a trie of their own beside ANY's. Must not know the
subject's number: every subject that the same policies select shares one resolution.

A subject that may reach servers by name has a trie for each set of names (an identity of its own, see population.py), made of the
rules for those names, for any peer and for all of the world; precedence.py says how those of one port are united.

Readers look at a peer's own trie first and at ANY's only when the peer has none that covers the port. So a peer's trie is
complete: it repeats what the rules for any peer say. A peer whose trie would equal ANY's gets none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

from l7filters.identity import IdentityNumber
from l7filters.ir import Allow, EntryVerdict, PolicyProblem, Slot, SlotKey
from l7filters.model import Direction
from l7filters.ports import ANY_PORT, PortNumber, PortPrefix, trie_order
from l7filters.precedence import Stance
from l7filters.program import ResolvedProgram, Statement
from l7filters.trie import Placement, Trie, build_trie
from l7filters.world import DEFAULT_FQDN_PORTS, Enforcement, FqdnPorts

ALLOW_ALL = Trie({ANY_PORT: Allow()})
"""A direction that no policy selects: one explicit entry, so that readers need no rule for what is absent."""

TrieKey = tuple[frozenset[Placement], Stance, frozenset[Placement]]
"""What covers, what holds for the whole direction, and all that may be reached by name (for tries of names)."""


@dataclass(frozen=True, slots=True, eq=False)
class Resolution:
    """The tries of one direction. Compared by identity."""

    direction: Direction
    any_peer: Trie
    peers: Mapping[IdentityNumber, Trie] = field(default_factory=dict)
    unmet: tuple[PolicyProblem, ...] = ()
    """What is asked for of the direction as a whole and can't be had."""

    def trie(self, peer: IdentityNumber) -> Trie:
        """Return the trie that decides for ``peer``."""
        return self.peers.get(peer, self.any_peer)

    def tries(self) -> set[Trie]:
        """Return every trie once."""
        return {self.any_peer, *self.peers.values()}

    def slots(self) -> dict[SlotKey, Slot]:
        """Return the slots that some trie redirects to."""
        return {slot.key: slot for trie in self.tries() for slot in trie.slots}

    def problems(self) -> Iterable[PolicyProblem]:
        """Yield what could not be realised, with repeats."""
        yield from self.unmet
        for trie in self.tries():
            yield from trie.problems


UNSELECTED = {direction: Resolution(direction, ALLOW_ALL) for direction in Direction}


@dataclass(frozen=True, slots=True)
class SubjectTraits:
    """What a resolution depends on besides the policies. ``names``: the subject's named ports (they matter on ingress)."""

    enforcement: Enforcement
    names: tuple[PortNumber, ...] = ()
    unredirectable: str = ""
    nameless: str = ""
    """Why names mean nothing for this subject's egress, or empty."""
    ports: FqdnPorts = DEFAULT_FQDN_PORTS


def stance_of(direction: Direction, selecting: Sequence[ResolvedProgram], traits: SubjectTraits) -> Stance | None:
    """Return what holds for the whole direction; None when everything is simply allowed."""
    relevant = [program for program in selecting if _touches(program, direction)]
    always = traits.enforcement is Enforcement.ALWAYS
    named = direction is Direction.EGRESS and not traits.nameless and any(one.speaks_of_names for one in relevant)
    if traits.enforcement is Enforcement.NEVER or not (relevant or always):
        return None
    denying = [program for program in relevant if direction in program.program.policy.default_deny]
    return Stance(
        direction,
        open=not always and all(program.program.audit for program in denying),
        audited=any(program.program.audit for program in relevant),
        shadow_open=not always and not denying,
        unredirectable=traits.unredirectable,
        nameless=traits.nameless,
        watches_names=bool(named),
        ports=traits.ports if named else DEFAULT_FQDN_PORTS,
    )


def resolve_direction(
    direction: Direction,
    selecting: Sequence[ResolvedProgram],
    traits: SubjectTraits,
    tries: MutableMapping[TrieKey, Trie],
) -> Resolution:
    """Return the tries of one direction; ``tries`` remembers those already built and is added to."""
    stance = stance_of(direction, selecting, traits)
    if stance is None:
        return UNSELECTED[direction]
    to_any: list[Placement] = []
    to_peer: dict[IdentityNumber, list[Placement]] = {}
    by_name: dict[IdentityNumber, list[Placement]] = {}
    outside: list[Placement] = []
    for program in selecting:
        for statement in program.statements(direction):
            placement = _placement(statement, traits)
            if statement.peers is None:
                to_any.append(placement)
                continue
            if placement.clause.names and not stance.watches_names:
                continue
            if statement.outside:
                outside.append(placement)
            table = by_name if placement.clause.names else to_peer
            for peer in statement.peers:
                table.setdefault(peer, []).append(placement)
    everyone = frozenset(to_any)
    any_peer = _trie(everyone, stance, tries)
    peers = {peer: _trie(everyone.union(some), stance, tries) for peer, some in to_peer.items()}
    kin = frozenset(placement for some in by_name.values() for placement in some)
    peers.update({name: _trie(everyone.union(outside, some), stance, tries, kin) for name, some in by_name.items()})
    own = {peer: trie for peer, trie in peers.items() if trie is not any_peer and trie.nodes != any_peer.nodes}
    problems = _nameless_problems(selecting, traits) if direction is Direction.EGRESS else ()
    return Resolution(direction, any_peer, own, problems)


def entry_rows(egress: Resolution, ingress: Resolution) -> Iterable[tuple[IdentityNumber, Direction, PortPrefix, EntryVerdict]]:
    """Yield all nodes of both directions, sorted by peer, direction, protocol, bits and port; peer 0 is ANY."""
    any_peer = IdentityNumber(0)
    for peer in (any_peer, *sorted({*egress.peers, *ingress.peers})):
        for resolution in (egress, ingress):
            trie = resolution.any_peer if peer == any_peer else resolution.peers.get(peer)
            if trie is not None:
                for prefix, verdict in sorted(trie.nodes.items(), key=lambda node: trie_order(node[0])):
                    yield peer, resolution.direction, prefix, verdict


def _touches(program: ResolvedProgram, direction: Direction) -> bool:
    """Tell whether the policy selects its subjects in ``direction`` at all."""
    return direction in program.program.policy.default_deny or bool(program.statements(direction))


def _placement(statement: Statement, traits: SubjectTraits) -> Placement:
    if statement.item is None:
        return statement.placement
    return Placement(statement.item.clause, statement.item.prefixes_with(traits.names))


def _nameless_problems(selecting: Sequence[ResolvedProgram], traits: SubjectTraits) -> tuple[PolicyProblem, ...]:
    """Return a problem for every rule with names, if they mean nothing here: it then allows nothing."""
    origins = {
        statement.placement.clause.origin: None
        for program in selecting
        for statement in program.egress
        if traits.nameless and statement.placement.clause.names
    }
    hint = "name the addresses with toCIDR, or run the workload in a network namespace of its own"
    return tuple(PolicyProblem(each.policy, each.path, traits.nameless, hint) for each in origins)


def _trie(
    placements: frozenset[Placement],
    stance: Stance,
    tries: MutableMapping[TrieKey, Trie],
    kin: frozenset[Placement] = frozenset(),
) -> Trie:
    key = (placements, stance, kin)
    trie = tries.get(key)
    if trie is None:
        trie = tries[key] = build_trie(placements, stance, kin)
    return trie
