"""Slot numbers: which SlotKey has which id, from one compiled policy to the next.

Owns: the table of ids, its limit, and what an assignment means for connections that are already in a slot. A slot's id is its
Envoy listener and proxy port, so:

1. A key that was known keeps its id, unless its TLS contexts changed: a listener's chain can't change in place.
2. A new key inherits the id of a slot whose key is gone when *every* member of that slot now points to the new key: its content
   then changes in place and live connections stay. Members are the places (subject, peer, direction, protocol, port prefix)
   whose verdict was that slot; members whose subject or peer is gone don't count. A pair slot inherits when both its ends did
   (or stayed). Protocol and TLS contexts must be the same, for the reason given in 1.
3. Any other new key gets an id that is neither in use nor resting. Ids are handed out in turn, not lowest first, so that an id
   rests long before it comes back.
4. The ids of keys that are gone *rest*: their listener may still drain connections. The caller ``release``s them once it is gone.
5. When no id is free the key is refused; ``mapstate.derive`` closes its entries, and the problem says so.

Must not know Envoy, BPF or time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from l7filters.identity import FIRST_DYNAMIC, IdentityNumber, Network
from l7filters.ir import CompiledPolicy, EntryKey, EntryVerdict, PolicyProblem, Redirect, Slot, SlotKey, SlotPair
from l7filters.lookup import EntryTable, index_entries, key_prefix
from l7filters.model import Direction, PolicyKey
from l7filters.population import network_order

SLOT_MAX = 2047
"""Ids are 1..SLOT_MAX. ABI: TG_SLOT_MAX in bpf_redirect/include/abi.h; 0 means no slot."""


@dataclass(frozen=True, slots=True)
class SlotTable:
    """The numbering, as a value. ``next_id`` is where the search for a free id begins."""

    ids: Mapping[SlotKey, int] = field(default_factory=dict)
    resting: frozenset[int] = frozenset()
    next_id: int = 1

    def __post_init__(self) -> None:
        assert len(set(self.ids.values())) == len(self.ids), "two keys share an id"
        assert self.resting.isdisjoint(self.ids.values()), "an id in use rests"
        assert 1 <= self.next_id <= SLOT_MAX

    def rest(self, ids: Iterable[int]) -> SlotTable:
        """Return a table in which those of ``ids`` that are not in use rest."""
        return SlotTable(self.ids, self.resting | (frozenset(ids) - frozenset(self.ids.values())), self.next_id)

    def release(self, ids: Iterable[int]) -> SlotTable:
        """Return a table in which ``ids`` no longer rest."""
        return SlotTable(self.ids, self.resting - frozenset(ids), self.next_id)


@dataclass(frozen=True, slots=True, order=True)
class MovedMember:
    """A place whose connections in slot ``slot`` no longer belong there.

    ``key`` may cover more than what moved (an entry for any peer, while one peer stays): ask ``lookup.EntryTable.judge`` for a
    connection's own identities before closing it.
    """

    subject: IdentityNumber
    peer: IdentityNumber
    direction: Direction
    protocol: int
    """-1: any."""
    port: int
    port_bits: int
    slot: int

    @classmethod
    def of(cls, key: EntryKey, slot: int) -> MovedMember:
        """Return the member at ``key``."""
        protocol = -1 if key.protocol is None else key.protocol
        return cls(key.subject, key.peer, key.direction, protocol, key.port, key.port_bits, slot)


@dataclass(frozen=True, slots=True)
class SlotAssignment:
    """A new table and what it means. ``changed`` maps the ids that were inherited to their new key.

    ``readdressed``: prefixes that mean another identity than before (a relabelled pod, a prefix that policies began or ceased to
    mention). Nothing need have moved for their connections to be in the wrong slot. A pod that came or went is not among them:
    it has no connections to judge again.
    """

    table: SlotTable
    moved: tuple[MovedMember, ...] = ()
    readdressed: tuple[Network, ...] = ()
    changed: Mapping[int, SlotKey] = field(default_factory=dict)
    refused: tuple[SlotKey, ...] = ()

    def problems(self) -> tuple[PolicyProblem, ...]:
        """Return a problem for every rule whose slot was refused."""
        message = f"no slot is free: all {SLOT_MAX} are in use or still draining; the rule's traffic is closed"
        hint = "use fewer distinct combinations of L7 rules"
        problems: dict[PolicyProblem, None] = {}
        for key in self.refused:
            for name in (*(key.egress or ()), *(key.ingress or ())):
                policy, _, path = name.partition(":")
                problems[PolicyProblem(PolicyKey(policy), path, message, hint)] = None
        return tuple(problems)


def assign(previous: SlotTable, previous_compiled: CompiledPolicy | None, compiled: CompiledPolicy) -> SlotAssignment:
    """Number the slots of ``compiled``. Without ``previous_compiled`` (a restart) known keys keep their ids and nothing moves."""
    if previous_compiled is not None and _same_places(previous, previous_compiled, compiled):
        return SlotAssignment(previous, readdressed=_readdressed(previous_compiled, compiled))
    wanted = [slot.key for slot in compiled.slots]
    old_slots = {slot.key: slot for slot in previous_compiled.slots} if previous_compiled is not None else {}
    new_slots = {slot.key: slot for slot in compiled.slots}
    ids = {key: previous.ids[key] for key in wanted if key in previous.ids and _same_chain(old_slots.get(key), new_slots[key])}
    changed: dict[int, SlotKey] = {}
    changes: list[_Change] = []
    if previous_compiled is not None:
        changes = _changes(previous_compiled, compiled)
        heirs = _heirs(changes, previous_compiled, compiled, previous.ids)
        for old in sorted(heirs, key=lambda key: previous.ids[key]):
            new = heirs[old]
            if new not in ids and _same_chain(old_slots.get(old), new_slots[new]):
                ids[new] = previous.ids[old]
                changed[ids[new]] = new
    used = frozenset(ids.values())
    resting = previous.resting | (frozenset(previous.ids.values()) - used)
    next_id = previous.next_id
    refused: list[SlotKey] = []
    taken = set(used | resting)
    for key in wanted:
        if key in ids:
            continue
        if len(taken) >= SLOT_MAX:
            refused.append(key)
            continue
        while next_id in taken:
            next_id = next_id % SLOT_MAX + 1
        ids[key] = next_id
        taken.add(next_id)
        next_id = next_id % SLOT_MAX + 1
    table = SlotTable({key: ids[key] for key in wanted if key in ids}, resting, next_id)
    if previous_compiled is None:
        return SlotAssignment(table, refused=tuple(refused))
    moved = _moved(changes, previous.ids, table.ids, previous_compiled.pairs, compiled.pairs)
    return SlotAssignment(table, moved, _readdressed(previous_compiled, compiled), changed, tuple(refused))


def _same_chain(old: Slot | None, new: Slot) -> bool:
    """Tell whether ``new`` can be served where ``old`` was by changing rules alone; an unknown ``old`` is taken to be alike."""
    return old is None or (old.key.protocol, old.terminating_tls, old.originating_tls) == (
        new.key.protocol,
        new.terminating_tls,
        new.originating_tls,
    )


def _same_places(table: SlotTable, previous: CompiledPolicy, compiled: CompiledPolicy) -> bool:
    """Tell whether only rules within slots changed, as most edits do. What is shared with ``previous`` costs next to nothing."""
    return (
        len(previous.slots) == len(compiled.slots) == len(table.ids)
        and all(
            new is old or (new.key == old.key and _same_chain(old, new))
            for old, new in zip(previous.slots, compiled.slots, strict=True)
        )
        and previous.entries == compiled.entries
        and previous.pairs == compiled.pairs
        and all(slot.key in table.ids for slot in compiled.slots)
    )


def _readdressed(previous: CompiledPolicy, compiled: CompiledPolicy) -> tuple[Network, ...]:
    if previous.ipcache == compiled.ipcache:
        return ()
    same = set(map(id, previous.ipcache)) & set(map(id, compiled.ipcache))
    before = {entry.prefix: entry.identity for entry in previous.ipcache if id(entry) not in same}
    after = {entry.prefix: entry.identity for entry in compiled.ipcache if id(entry) not in same}
    ranges = {
        number
        for table in (previous.identities, compiled.identities)
        for label_set, number in table.numbers.items()
        if label_set.cidrs
    }
    found = [prefix for prefix in before.keys() & after.keys() if before[prefix] != after[prefix]]
    for some, others in ((before, after), (after, before)):
        found.extend(p for p, number in some.items() if p not in others and (number in ranges or number < FIRST_DYNAMIC))
    return tuple(sorted(found, key=network_order))


@dataclass(frozen=True, slots=True)
class _Change:
    """A place whose entries changed: what was said of it and what is. ``gone``: its subject or peer no longer exists."""

    key: EntryKey
    before: EntryVerdict | None
    after: EntryVerdict | None
    gone: bool


def _changes(previous: CompiledPolicy, compiled: CompiledPolicy) -> list[_Change]:
    """Return every place that either side has an entry for, of the subjects whose entries are not all the same objects."""
    if previous.entries is compiled.entries:
        return []
    # Entries are immutable and shared from one compile to the next, so "the same object" is a cheap "nothing changed".
    before_ids = set(map(id, previous.entries))
    after_ids = set(map(id, compiled.entries))
    subjects = {entry.key.subject for entry in previous.entries if id(entry) not in after_ids}
    subjects.update(entry.key.subject for entry in compiled.entries if id(entry) not in before_ids)
    old = [entry for entry in previous.entries if entry.key.subject in subjects]
    new = [entry for entry in compiled.entries if entry.key.subject in subjects]
    before, after = EntryTable(index_entries(old), {}), EntryTable(index_entries(new), {})
    alive = {*compiled.identities.numbers.values(), *range(FIRST_DYNAMIC)}
    changes: list[_Change] = []
    for key in {entry.key: None for entry in (*old, *new)}:
        place = (key.subject, key.peer, key.direction, key_prefix(key))
        gone = key.subject not in alive or key.peer not in alive
        changes.append(_Change(key, before.verdict(*place), None if gone else after.verdict(*place), gone))
    return changes


def _heirs(
    changes: Iterable[_Change], previous: CompiledPolicy, compiled: CompiledPolicy, ids: Mapping[SlotKey, int]
) -> dict[SlotKey, SlotKey]:
    """Return, for each old key that is gone, the new key that all its members now point to, if there is one."""
    present = {slot.key for slot in compiled.slots}
    targets: dict[SlotKey, set[SlotKey | None]] = {}
    for change in changes:
        if isinstance(change.before, Redirect) and not change.gone:
            after = change.after.slot if isinstance(change.after, Redirect) else None
            targets.setdefault(change.before.slot, set()).add(after)
    heirs: dict[SlotKey, SlotKey] = {}
    for old, new in targets.items():
        heir = next(iter(new))
        if old in ids and old not in present and len(new) == 1 and heir is not None:
            heirs[old] = heir
    ends = {**heirs, **{key: key for key in present}}
    pairs = {(pair.egress, pair.ingress): pair.pair for pair in compiled.pairs}
    for pair in previous.pairs:  # A pair may be one end's own slot; that one has been seen to.
        if pair.egress in ends and pair.ingress in ends and pair.pair in ids and pair.pair not in present:
            successor = pairs.get((ends[pair.egress], ends[pair.ingress]))
            if successor is not None and pair.pair not in targets:
                heirs[pair.pair] = successor
    return heirs


def _moved(
    changes: Iterable[_Change],
    before: Mapping[SlotKey, int],
    after: Mapping[SlotKey, int],
    pairs_before: Iterable[SlotPair],
    pairs_after: Iterable[SlotPair],
) -> tuple[MovedMember, ...]:
    """Return the places whose connections may sit in a slot that no longer judges them.

    A place's connections sit in its own slot, in the pair slots made of it or, where only the other end redirected, in the
    other end's. So an end that begins or ceases to redirect moves connections out of slots that stay.
    """
    old_pairs, new_pairs = _pairs_by_end(pairs_before), _pairs_by_end(pairs_after)
    old_ids = frozenset(before.values())
    moved: set[MovedMember] = set()
    for change in changes:
        direction = change.key.direction
        stays: int | None = None
        old_slot = change.before.slot if isinstance(change.before, Redirect) else None
        new_slot = change.after.slot if isinstance(change.after, Redirect) else None
        if new_slot is not None:
            stays = after.get(new_slot)
        if old_slot is not None:
            if before.get(old_slot) == stays and stays is not None:
                continue
            keys = [old_slot, *(pair.pair for pair in old_pairs.get((direction, old_slot), ()))]
            moved.update(MovedMember.of(change.key, before[key]) for key in keys if key in before)
        elif new_slot is not None and change.before is not None:
            for pair in new_pairs.get((direction, new_slot), ()):
                other = pair.ingress if direction is Direction.EGRESS else pair.egress
                number = after.get(other)
                if number is not None and number in old_ids:
                    moved.add(MovedMember.of(change.key, number))
    return tuple(sorted(moved))


def _pairs_by_end(pairs: Iterable[SlotPair]) -> dict[tuple[Direction, SlotKey], list[SlotPair]]:
    by_end: dict[tuple[Direction, SlotKey], list[SlotPair]] = {}
    for pair in pairs:
        by_end.setdefault((Direction.EGRESS, pair.egress), []).append(pair)
        by_end.setdefault((Direction.INGRESS, pair.ingress), []).append(pair)
    return by_end
