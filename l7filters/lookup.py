"""Reading compiled entries exactly as the kernel does.

Owns: the lookups (an address's identity; a peer's own entries, then ANY's, longest prefix first) and the judgement of a flow
from both its ends. It is the specification of ``bpf_redirect/lib/policy.h`` in Python; tests hold both against each other.
Must not know rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import assert_never

from l7filters.identity import IdentityNumber, Reserved
from l7filters.ir import Allow, CompiledPolicy, Deny, EntryKey, EntryVerdict, IpcacheEntry, PolicyEntry, Redirect, SlotKey
from l7filters.model import Direction
from l7filters.ports import PORT_BITS, PortPrefix, ancestors

ANY_PEER = IdentityNumber(int(Reserved.ANY))
IPV6_BITS = 128
V4_MAPPED_BITS = 96
V4_MAPPED_BASE = 0xFFFF << 32

Place = tuple[IdentityNumber, IdentityNumber, Direction]
"""(subject, peer, direction): what one trie is for."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A new connection, or the first packet of one, by identities. For ICMP ``port`` is the type; without ports it is 0.

    ``source_local`` and ``destination_local``: whether this node enforces that end. ``names``: identities of the names by which
    DNS gave the source the destination's address; only one outside the cluster has any (``mapstate.IpcacheValue.outside``).
    """

    source: IdentityNumber
    destination: IdentityNumber
    protocol: int
    port: int
    source_local: bool = True
    destination_local: bool = True
    names: tuple[IdentityNumber, ...] = ()


@dataclass(frozen=True, slots=True)
class Dropped:
    """``no_pair``: both ends redirect and no slot judges both; else ``by`` is the verdict that denies."""

    by: Deny
    direction: Direction
    no_pair: bool = False


@dataclass(frozen=True, slots=True)
class Passed:
    """Straight through the stack (``slot`` None) or to a slot."""

    slot: SlotKey | None = None


@dataclass(frozen=True, slots=True, eq=False)
class EntryTable:
    """All entries of one compiled policy, indexed for lookups."""

    tries: Mapping[Place, Mapping[PortPrefix, EntryVerdict]]
    pairs: Mapping[tuple[SlotKey, SlotKey], SlotKey]

    @classmethod
    def of(cls, compiled: CompiledPolicy) -> EntryTable:
        """Index ``compiled``."""
        return cls(index_entries(compiled.entries), {(pair.egress, pair.ingress): pair.pair for pair in compiled.pairs})

    def verdict(
        self, subject: IdentityNumber, peer: IdentityNumber, direction: Direction, prefix: PortPrefix
    ) -> EntryVerdict | None:
        """Return the verdict for all of ``prefix``; None: no entry covers it, which is default deny."""
        for place in ((subject, peer, direction), (subject, ANY_PEER, direction)):
            nodes = self.tries.get(place)
            if nodes is not None:
                for ancestor in ancestors(prefix):
                    found = nodes.get(ancestor)
                    if found is not None:
                        return found
        return None

    def egress(self, flow: Flow) -> tuple[EntryVerdict, IdentityNumber | None]:
        """Return what the source's egress policy says, and the name that decided it, if the address alone would not have.

        Asked about the address and about each name; the names' entries repeat what holds for any peer. Of the answers, whichever
        comes first counts: an explicit deny, an allow (one that no audit would deny first), a redirect (by name first), a deny.
        """
        prefix = PortPrefix(flow.protocol, flow.port, PORT_BITS)
        best = self.verdict(flow.source, flow.destination, Direction.EGRESS, prefix) or Deny()
        weight, decided = _weight(best, by_name=False), None
        for name in flow.names:
            nodes = self.tries.get((flow.source, name, Direction.EGRESS), {})
            found = next((nodes[each] for each in ancestors(prefix) if each in nodes), None)
            if found is not None and _weight(found, by_name=True) > weight:
                best, weight, decided = found, _weight(found, by_name=True), name
        return best, decided

    def judge(self, flow: Flow) -> Dropped | Passed:
        """Return what becomes of ``flow``: deny if either end denies, else redirect if either redirects, else allow."""
        prefix = PortPrefix(flow.protocol, flow.port, PORT_BITS)
        ends: list[tuple[Direction, EntryVerdict]] = []
        if flow.source_local:
            ends.append((Direction.EGRESS, self.egress(flow)[0]))
        if flow.destination_local:
            received = self.verdict(flow.destination, flow.source, Direction.INGRESS, prefix)
            ends.append((Direction.INGRESS, received or Deny()))
        for direction, verdict in ends:
            if isinstance(verdict, Deny):
                return Dropped(verdict, direction)
        slots = [verdict.slot for _, verdict in ends if isinstance(verdict, Redirect)]
        if len(slots) < 2:
            return Passed(slots[0] if slots else None)
        pair = self.pairs.get((slots[0], slots[1]))
        return Passed(pair) if pair is not None else Dropped(Deny(), Direction.EGRESS, no_pair=True)


@dataclass(frozen=True, slots=True, eq=False)
class AddressTable:
    """The ipcache of one compiled policy, indexed for lookups. IPv4 is its v4-mapped IPv6, as in the kernel's keys."""

    by_length: Mapping[int, Mapping[int, IpcacheEntry]]
    """Prefix length of 128, longest first -> the prefix as a number -> entry."""

    @classmethod
    def of(cls, compiled: CompiledPolicy) -> AddressTable:
        """Index ``compiled``."""
        by_length: dict[int, dict[int, IpcacheEntry]] = {}
        for entry in compiled.ipcache:
            length = entry.prefix.prefixlen + (V4_MAPPED_BITS if entry.prefix.version == 4 else 0)
            by_length.setdefault(length, {})[_as_ipv6(entry.prefix.network_address)] = entry
        return cls({length: by_length[length] for length in sorted(by_length, reverse=True)})

    def find(self, address: IPv4Address | IPv6Address) -> IpcacheEntry:
        """Return the entry of the longest prefix that holds ``address``; the world's if no other does."""
        number = _as_ipv6(address)
        for length, entries in self.by_length.items():
            found = entries.get(number >> (IPV6_BITS - length) << (IPV6_BITS - length))
            if found is not None:
                return found
        raise AssertionError("::/0 is in every ipcache")


def index_entries(entries: Iterable[PolicyEntry]) -> dict[Place, dict[PortPrefix, EntryVerdict]]:
    """Return the entries by place, then by prefix."""
    tries: dict[Place, dict[PortPrefix, EntryVerdict]] = {}
    for entry in entries:
        key = entry.key
        tries.setdefault((key.subject, key.peer, key.direction), {})[key_prefix(key)] = entry.verdict
    return tries


def key_prefix(key: EntryKey) -> PortPrefix:
    """Return the prefix part of ``key``."""
    return PortPrefix(key.protocol, key.port, key.port_bits)


def _weight(verdict: EntryVerdict, *, by_name: bool) -> int:
    match verdict:
        case Deny(explicit=explicit):
            return 5 if explicit else 0
        case Allow(would_deny=would_deny):
            return 3 if would_deny else 4
        case Redirect():
            return 2 if by_name else 1
        case _:
            assert_never(verdict)


def _as_ipv6(address: IPv4Address | IPv6Address) -> int:
    return int(address) | V4_MAPPED_BASE if address.version == 4 else int(address)


def would_deny(verdict: EntryVerdict) -> bool:
    """Tell whether a policy in audit mode would have denied what ``verdict`` passes."""
    return isinstance(verdict, Allow | Redirect) and verdict.would_deny
