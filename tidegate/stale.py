"""Which proxied connections are judged by the wrong slot.

Owns: that question, as a pure function. After a policy change a connection may sit in a slot that is no longer the one its
two ends lead to; it must be closed, or it would be judged by rules that are not its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from l7filters.identity import IdentityNumber
from l7filters.ir import SlotKey
from l7filters.lookup import EntryTable, Flow, Passed
from l7filters.model import Protocol

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class ProxiedConnection:
    """A client's connection that the kernel gave to a slot."""

    source: Address
    source_port: int
    destination: Address
    destination_port: int
    slot_id: int


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
) -> tuple[ProxiedConnection, ...]:
    """Return the connections that today's policy would deny, pass directly, or give to another slot."""
    return tuple(connection for connection in connections if _slot_today(connection, table, ids, end_of) != connection.slot_id)


def _slot_today(
    connection: ProxiedConnection, table: EntryTable, ids: Mapping[SlotKey, int], end_of: Callable[[Address], End]
) -> int | None:
    source, destination = end_of(connection.source), end_of(connection.destination)
    outcome = table.judge(
        Flow(
            source=source.identity,
            destination=destination.identity,
            protocol=Protocol.TCP,
            port=connection.destination_port,
            source_local=source.local,
            destination_local=destination.local,
        )
    )
    if isinstance(outcome, Passed) and outcome.slot is not None:
        return ids.get(outcome.slot)
    return None
