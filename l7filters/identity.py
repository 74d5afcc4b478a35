"""Identities: the numbers by which the kernel knows label sets.

Owns: reserved numbers, the identity value, and the allocator's pure core. Numbers are node-local (the client's address,
not a tag, crosses the network), stable across edits and agent restarts, and never reused within a table's life.
Must not know policies or BPF.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network
from typing import NewType

from proxylib.dns.rules import NameSelector

IdentityNumber = NewType("IdentityNumber", int)
Network = IPv4Network | IPv6Network

FIRST_DYNAMIC = 256
"""Numbers below are reserved; Cilium's reserved numbers keep their meaning."""
IDENTITY_MAX = (1 << 24) - 1
"""24 bits, as in Cilium, so that a number still fits a mark should one ever be needed."""


class Reserved(IntEnum):
    """Numbers with a fixed meaning (the same as Cilium's, where it has one). ABI: bpf_redirect/include/abi.h."""

    ANY = 0
    """Only in policy keys: whatever peer has no entries of its own."""
    HOST = 1
    WORLD = 2
    UNMANAGED = 3
    HEALTH = 4
    INIT = 5
    REMOTE_NODE = 6
    KUBE_APISERVER = 7
    INGRESS = 8
    WORLD_IPV4 = 9
    WORLD_IPV6 = 10


@dataclass(frozen=True, slots=True)
class LabelSet:
    """What an identity stands for: labels of endpoints, the policy prefixes that cover an address outside, or DNS names.

    ``labels`` are sorted (canonical key, value) pairs. ``cidrs`` is empty for endpoints; for an address range outside
    the cluster it holds every prefix mentioned by some policy that contains the range, but for 0.0.0.0/0 and ::/0.
    ``fqdn``: addresses that DNS gave an endpoint for such names. It has no address in the ipcache: that depends on who asked
    (``tg_names``).
    """

    labels: tuple[tuple[str, str], ...] = ()
    cidrs: frozenset[Network] = frozenset()
    fqdn: NameSelector | None = None

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> LabelSet:
        """Return the label set of an endpoint with ``labels``."""
        return cls(labels=tuple(sorted(labels.items())))

    def as_dict(self) -> dict[str, str]:
        """Return the labels as a fresh dict."""
        return dict(self.labels)


@dataclass(frozen=True, slots=True)
class Identity:
    """A number and what it stands for."""

    number: IdentityNumber
    label_set: LabelSet

    @property
    def is_cidr(self) -> bool:
        """Whether this is a range of addresses outside the cluster."""
        return bool(self.label_set.cidrs)


@dataclass(frozen=True, slots=True)
class IdentityTable:
    """The numbering, as a value. ``allocate`` returns a new table and never renumbers."""

    numbers: Mapping[LabelSet, IdentityNumber] = field(default_factory=dict)
    next_number: int = FIRST_DYNAMIC

    def beyond(self, number: int) -> IdentityTable:
        """Return a table that gives out only numbers above ``number``: it and those below may mean something to somebody."""
        return IdentityTable(self.numbers, max(self.next_number, number + 1))

    def allocate(self, wanted: Iterable[LabelSet]) -> IdentityTable:
        """Return a table that numbers exactly ``wanted``: known sets keep their number, gone ones lose it for good.

        Raises OverflowError when 2**24 numbers were used up (a state directory that lived through 16 million label sets;
        remove its identities file to start again).
        """
        numbers: dict[LabelSet, IdentityNumber] = {}
        next_number = self.next_number
        for label_set in wanted:
            if label_set in numbers:
                continue
            known = self.numbers.get(label_set)
            if known is None:
                if next_number > IDENTITY_MAX:
                    raise OverflowError("identity numbers are used up; remove identities.json from the state directory")
                known = IdentityNumber(next_number)
                next_number += 1
            numbers[label_set] = known
        return IdentityTable(numbers=numbers, next_number=next_number)
