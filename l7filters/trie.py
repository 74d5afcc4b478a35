"""The policy trie of one peer: every (protocol, port prefix) that rules mention, each with its resolved verdict.

Owns: the building of a trie from what covers what, its minimal form, and how two tries meet. The precedence of clauses is
precedence.py's. Must not know identities: the same trie serves every (subject, peer) that the same rules cover.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from l7filters.ir import Deny, EntryVerdict, PolicyProblem, Redirect, Slot, SlotKey
from l7filters.model import L7Protocol, Protocol
from l7filters.ports import ANY_PORT, PORT_BITS, PortPrefix, ancestors, trie_order
from l7filters.precedence import Clause, Place, Resolved, Stance, resolve

DEFAULT_DENY = Deny()
DNS_PORT = 53


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """A clause and the ports it covers. Compared by identity, so that tries can be remembered by what they are made of."""

    clause: Clause
    prefixes: tuple[PortPrefix, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Trie:
    """``nodes`` in trie order (a prefix after those that cover it), none of which repeats what the prefix above it says.

    Where no node covers a port, the verdict is default deny.
    """

    nodes: Mapping[PortPrefix, EntryVerdict]
    slots: tuple[Slot, ...] = ()
    problems: tuple[PolicyProblem, ...] = ()

    def verdict(self, prefix: PortPrefix) -> EntryVerdict:
        """Return what the longest node that covers ``prefix`` says."""
        for ancestor in ancestors(prefix):
            found = self.nodes.get(ancestor)
            if found is not None:
                return found
        return DEFAULT_DENY

    @property
    def redirects(self) -> bool:
        """Whether some node redirects."""
        return bool(self.slots)


def build_trie(placements: Iterable[Placement], stance: Stance, kin: Collection[Placement] = ()) -> Trie:
    """Resolve every node that ``placements`` mention and keep those that change something.

    ``kin``: all that the subject may reach by name, where ``placements`` are about something reached by name.
    """
    carried = _carried(stance, by_name=bool(kin))
    quic = {PortPrefix(int(Protocol.UDP), port, PORT_BITS) for port in stance.ports.tls} if kin else set()
    at: dict[PortPrefix, set[Clause]] = {ANY_PORT: set(), **{prefix: set() for prefix in (*carried, *quic)}}
    kin_at: dict[PortPrefix, set[Clause]] = {}
    for some, table in ((placements, at), (kin, kin_at)):
        for placement in some:
            for prefix in placement.prefixes:
                at.setdefault(prefix, set())
                table.setdefault(prefix, set()).add(placement.clause)
    nodes: dict[PortPrefix, EntryVerdict] = {}
    slots: dict[SlotKey, Slot] = {}
    problems: dict[PolicyProblem, None] = {}
    known: dict[tuple[frozenset[Clause], Place], Resolved] = {}
    above: dict[PortPrefix, tuple[frozenset[Clause], frozenset[Clause]]] = {}
    effective: dict[PortPrefix, EntryVerdict] = {}
    for prefix in sorted(at, key=trie_order):
        parent = _parent(prefix, above)
        covering, kin_covering = above[parent] if parent is not None else (frozenset[Clause](), frozenset[Clause]())
        covering, kin_covering = covering | at[prefix], kin_covering | kin_at.get(prefix, set())
        above[prefix] = covering, kin_covering
        place = Place(carried.get(prefix), kin_covering, prefix in quic)
        resolved = known.get((covering, place))
        if resolved is None:
            resolved = known[covering, place] = resolve(covering, stance, place)
            problems.update(dict.fromkeys(resolved.problems))
        effective[prefix] = resolved.verdict
        if resolved.verdict == (effective[parent] if parent is not None else DEFAULT_DENY):
            continue
        nodes[prefix] = resolved.verdict
        if resolved.slot is not None:
            slots[resolved.slot.key] = resolved.slot
    return Trie(nodes, tuple(slots.values()), tuple(problems))


def meeting_slots(egress: Trie, ingress: Trie) -> frozenset[tuple[SlotKey, SlotKey]]:
    """Return the (egress slot, ingress slot) of every place where both tries redirect.

    A place that lies wholly under longer prefixes counts too: at worst that is a slot more, never one too few.
    """
    met: set[tuple[SlotKey, SlotKey]] = set()
    for prefix in {**egress.nodes, **ingress.nodes}:
        sent, received = egress.verdict(prefix), ingress.verdict(prefix)
        if isinstance(sent, Redirect) and isinstance(received, Redirect):
            met.add((sent.slot, received.slot))
    return frozenset(met)


def _carried(stance: Stance, *, by_name: bool) -> dict[PortPrefix, L7Protocol]:
    """Return what single ports are known to carry, as far as it matters: where names are asked for, and where they are sent."""
    if not stance.watches_names:
        return {}
    carried: dict[PortPrefix, L7Protocol] = {}
    if by_name:
        tcp = int(Protocol.TCP)
        carried.update({PortPrefix(tcp, port, PORT_BITS): L7Protocol.HTTP for port in stance.ports.http})
        carried.update({PortPrefix(tcp, port, PORT_BITS): L7Protocol.TLS for port in stance.ports.tls})
    carried.update({PortPrefix(int(each), DNS_PORT, PORT_BITS): L7Protocol.DNS for each in (Protocol.TCP, Protocol.UDP)})
    return carried


def _parent(prefix: PortPrefix, known: Mapping[PortPrefix, object]) -> PortPrefix | None:
    """Return the longest of ``known`` that covers ``prefix``; None only for ANY_PORT, which is always known first."""
    for ancestor in ancestors(prefix):
        if ancestor in known:
            return ancestor
    return None
