"""One direction of one subject: the tries of all its peers.

Owns: which policies put a direction in default deny, and which peers need a trie of their own beside ANY's. Must not know the
subject's number: every subject that the same policies select shares one resolution.

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
from l7filters.world import Enforcement

ALLOW_ALL = Trie({ANY_PORT: Allow()})
"""A direction that no policy selects: one explicit entry, so that readers need no rule for what is absent."""

TrieKey = tuple[frozenset[Placement], Stance]


@dataclass(frozen=True, slots=True, eq=False)
class Resolution:
    """The tries of one direction. Compared by identity."""

    direction: Direction
    any_peer: Trie
    peers: Mapping[IdentityNumber, Trie] = field(default_factory=dict)

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
        for trie in self.tries():
            yield from trie.problems


UNSELECTED = {direction: Resolution(direction, ALLOW_ALL) for direction in Direction}


@dataclass(frozen=True, slots=True)
class SubjectTraits:
    """What a resolution depends on besides the policies. ``names``: the subject's named ports (they matter on ingress)."""

    enforcement: Enforcement
    names: tuple[PortNumber, ...] = ()
    unredirectable: str = ""


def stance_of(direction: Direction, selecting: Sequence[ResolvedProgram], traits: SubjectTraits) -> Stance | None:
    """Return what holds for the whole direction; None when everything is simply allowed."""
    relevant = [program for program in selecting if _touches(program, direction)]
    always = traits.enforcement is Enforcement.ALWAYS
    if traits.enforcement is Enforcement.NEVER or not (relevant or always):
        return None
    denying = [program for program in relevant if direction in program.program.policy.default_deny]
    return Stance(
        direction,
        open=not always and all(program.program.audit for program in denying),
        audited=any(program.program.audit for program in relevant),
        shadow_open=not always and not denying,
        unredirectable=traits.unredirectable,
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
    for program in selecting:
        for statement in program.statements(direction):
            placement = _placement(statement, traits)
            if statement.peers is None:
                to_any.append(placement)
            else:
                for peer in statement.peers:
                    to_peer.setdefault(peer, []).append(placement)
    everyone = frozenset(to_any)
    any_peer = _trie(everyone, stance, tries)
    peers: dict[IdentityNumber, Trie] = {}
    for peer, placements in to_peer.items():
        trie = _trie(everyone.union(placements), stance, tries)
        if trie is not any_peer and trie.nodes != any_peer.nodes:
            peers[peer] = trie
    return Resolution(direction, any_peer, peers)


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


def _trie(placements: frozenset[Placement], stance: Stance, tries: MutableMapping[TrieKey, Trie]) -> Trie:
    key = (placements, stance)
    trie = tries.get(key)
    if trie is None:
        trie = tries[key] = build_trie(placements, stance)
    return trie
