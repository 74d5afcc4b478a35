"""Which proxied connections are judged by the wrong slot.

Owns: that question, as a pure function. After a policy change a connection may sit in a slot that is no longer the one its
two ends lead to; it must be closed, or it would be judged by rules that are not its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from l7filters.identity import IdentityNumber
from l7filters.ir import RuleSet, Slot, SlotKey
from l7filters.lookup import EntryTable, Flow, Passed
from l7filters.model import L7Protocol, Protocol

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class ProxiedConnection:
    """A client's connection that the kernel gave to a slot.

    ``workload``: the identity of the host workload that made it; its address is this host's and says nothing. ``name``: the
    identity of the name by which it was opened; it holds for as long as the connection, whatever DNS says meanwhile.
    """

    source: Address
    source_port: int
    destination: Address
    destination_port: int
    slot_id: int
    workload: IdentityNumber | None = None
    name: IdentityNumber | None = None


@dataclass(frozen=True, slots=True)
class End:
    """Whose an address is, and whether this node enforces it."""

    identity: IdentityNumber
    local: bool


def stale_connections(
    connections: Iterable[ProxiedConnection],
    table: EntryTable,
    ids: Mapping[SlotKey, int],
    end_of: Callable[[Address], End],
    narrowed: frozenset[int] = frozenset(),
) -> tuple[ProxiedConnection, ...]:
    """Return the connections that today's policy would deny, pass directly, or give to another slot.

    ``narrowed``: slots that judge a connection once, when it opens, and would refuse some today. All of theirs are stale: nobody
    knows which of them were let in under what is no longer allowed.
    """
    return tuple(
        connection
        for connection in connections
        if connection.slot_id in narrowed or _slot_today(connection, table, ids, end_of) != connection.slot_id
    )


def takes_server_names_away(before: Slot, after: Slot) -> bool:
    """Tell whether a TLS slot's new content may refuse a connection that its old content let in."""
    if after.key.protocol is not L7Protocol.TLS:
        return False
    return any(
        now is not None and _names_lost(was.enforced if was is not None else RuleSet(), now.enforced)
        for was, now in ((before.egress, after.egress), (before.ingress, after.ingress))
    )


def _names_lost(before: RuleSet, after: RuleSet) -> bool:
    if after.any_server_name:
        return False
    lost = not set(before.server_names) <= set(after.server_names) or not set(before.by_name) <= set(after.by_name)
    return before.any_server_name or lost


def _slot_today(
    connection: ProxiedConnection, table: EntryTable, ids: Mapping[SlotKey, int], end_of: Callable[[Address], End]
) -> int | None:
    destination = end_of(connection.destination)
    source = end_of(connection.source) if connection.workload is None else End(connection.workload, local=True)
    outcome = table.judge(
        Flow(
            source=source.identity,
            destination=destination.identity,
            protocol=Protocol.TCP,
            port=connection.destination_port,
            source_local=source.local,
            destination_local=destination.local,
            names=() if connection.name is None else (connection.name,),
        )
    )
    if isinstance(outcome, Passed) and outcome.slot is not None:
        return ids.get(outcome.slot)
    return None
