"""Realisation: making Envoy and the kernel agree with a world, in an order in which nothing is ever open by accident.

Owns: that order, and what is outstanding. Must not know where worlds come from. It is the only writer of the xDS snapshot
and of the policy maps. One call of ``realise`` or ``settle`` at a time, by the agent's loop.

The order of one realisation:

1. compile; number the slots; **save the numbering**, so that a restart finds the numbers that kernel and Envoy use;
2. publish to Envoy, and to the DNS proxy what is its own, the new content beside whatever slots are still in use; wait until
   Envoy has accepted (or refused) it and the sockets of new slots listen;
3. write the maps. A slot that is not ready is left out, so its flows are dropped with reason ``slot_not_ready``;
4. close the connections that sit in a slot which is no longer theirs, or were let in under a server name that no rule gives any
   more: their verdicts would be stale. Also after a start, and after a realisation that failed half way: what moved is unknown;
5. take the listeners of slots without members from Envoy, which drains what is left on them, and some time later their routes;
   only then are their ids given to others.

What Envoy refuses keeps its last good content and is reported; it holds up nothing else. What it has not answered in time is
looked at again by ``settle``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from l7filters.compile import Memo, recompile
from l7filters.envoy.resource import EnvoyResource, SlotError, Translation
from l7filters.identity import IdentityNumber, IdentityTable
from l7filters.ir import CompiledPolicy, PolicyProblem, Slot, SlotKey
from l7filters.lookup import EntryTable
from l7filters.mapstate import DeriveMemo, MapState, rederive
from l7filters.model import L7Protocol
from l7filters.slots import SlotAssignment, SlotTable, assign
from l7filters.world import World
from tidegate.flows.attribution import WorldIndex
from tidegate.slot_resources import SlotResources, to_xds
from tidegate.stale import Address, End, ProxiedConnection, stale_connections, takes_server_names_away
from xds_server.acks import AckReport, Nack
from xds_server.snapshot import Resource, ResourceKey, Snapshot

_log = structlog.get_logger()

ACK_TIMEOUT_S = 5.0
"""Envoy answers in milliseconds. One that doesn't is busy or gone: the maps are written without its slots, ``settle`` retries."""
LISTEN_TIMEOUT_S = 2.0
LISTEN_POLL_S = 0.005
SETTLE_INTERVAL_S = 0.2
MOVED_GRACE_S = 0.5
"""How long a connection that must leave its slot may finish what it is doing; half of what is promised (1 s)."""


class Kernel(Protocol):
    """What is needed of the datapath; ``bpf_redirect.datapath.Datapath`` has it."""

    def held(self) -> MapState:
        """What the maps hold."""

    def write(self, wanted: MapState) -> None:
        """Make the maps hold ``wanted``, in safe order."""

    def listening_ports(self) -> frozenset[int]:
        """The proxy ports that listen on every loopback address Envoy was given."""

    def dns_ports(self) -> frozenset[int]:
        """The proxy ports on which the DNS proxy takes questions, by UDP and TCP."""

    def proxied_connections(self) -> Iterable[ProxiedConnection]:
        """The connections that were given to slots."""

    def close_connections(self, connections: Iterable[ProxiedConnection]) -> int:
        """Reset them at the proxy's socket; return how many there were."""


class Envoy(Protocol):
    """What is needed of the discovery server; ``xds_server.service.XdsServer`` has it."""

    @property
    def connected(self) -> bool: ...

    def publish(self, snapshot: Snapshot) -> None: ...

    async def wait_acked(self, resources: Mapping[ResourceKey, str], timeout_s: float) -> AckReport: ...

    def nacks(self) -> dict[ResourceKey, Nack]: ...


class Translator(Protocol):
    """Slots to Envoy resources, with the settings and secrets of the moment."""

    def common(self) -> tuple[EnvoyResource, ...]:
        """What every slot refers to; the same object while it is the same. Its names never change."""

    def slot(self, slot: Slot, slot_id: int) -> Translation:
        """One slot's resources."""


class Numbering(Protocol):
    """Where the numbering is kept."""

    def save(self, identities: IdentityTable, slots: SlotTable) -> None:
        """Write it; after this returns it survives a crash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the machine has of the world at the moment. Endpoints without an entry are not attached."""

    interface_indices: Mapping[str, int] = field(default_factory=dict)
    """Endpoint key -> index of its interface."""
    cgroup_ids: Mapping[str, int] = field(default_factory=dict)
    """Endpoint key -> id of its cgroup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Realisation:
    """What is in force and what is not."""

    world: World
    compiled: CompiledPolicy
    table: SlotTable
    problems: tuple[PolicyProblem, ...] = ()
    slot_errors: tuple[SlotError, ...] = ()
    refused: Mapping[SlotKey, str] = field(default_factory=dict)
    """Slots whose content Envoy refused, with its reason."""
    unready: frozenset[SlotKey] = frozenset()
    """Slots that Envoy has not taken yet: closed."""
    surroundings: Surroundings = Surroundings()


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsInputs:
    """What the DNS proxy's rules follow from."""

    compiled: CompiledPolicy
    table: SlotTable
    surroundings: Surroundings


class DnsProxy(Protocol):
    """What is needed of the DNS proxy's side: it judges the slots that speak DNS, and grants names."""

    def publish(self, rules: DnsInputs, before: DnsInputs | None) -> None:
        """Give it the rules; blocks on the disk. ``before``: what the kernel still goes by, to be kept beside them."""


class NoDnsProxy:
    """Stands in where there is none: slots that speak DNS never become ready, so what leads there is closed."""

    def publish(self, rules: DnsInputs, before: DnsInputs | None) -> None:
        """Do nothing."""


class Realiser:
    """Carries out realisations, one after the other."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        envoy: Envoy,
        numbering: Numbering,
        identities: IdentityTable,
        slots: SlotTable,
        port_min: int,
        dns: DnsProxy | None = None,
    ) -> None:
        self._kernel = kernel
        self._envoy = envoy
        self._dns = dns or NoDnsProxy()
        self._dns_inputs: DnsInputs | None = None
        self._numbering = numbering
        self._identities = identities
        self._table = slots
        self._port_min = port_min
        self._memo = Memo()
        self._derive_memo = DeriveMemo()
        self._compiled: CompiledPolicy | None = None
        self._translator: Translator | None = None
        self._errors: dict[SlotKey, tuple[SlotError, ...]] = {}
        self._resources = SlotResources()
        self._common: tuple[tuple[EnvoyResource, ...], Mapping[ResourceKey, Resource]] = ((), {})
        self._snapshot = Snapshot()
        self._map_inputs: tuple[World, Surroundings] | None = None
        self._closing: list[tuple[float, tuple[ProxiedConnection, ...]]] = []
        self._stale_unseen = True
        self._narrowed: frozenset[int] = frozenset()
        self._problems: tuple[PolicyProblem, ...] = ()

    async def realise(self, world: World, surroundings: Surroundings, translator: Translator) -> Realisation:
        """Bring ``world`` into force and return what came of it. Kernel errors (map full, no rights) are raised."""
        if self._compiled is None:
            await self._take_over()
        compiled, memo = await asyncio.to_thread(recompile, world, self._identities, self._memo)
        assignment = assign(self._table, self._compiled, compiled)
        if compiled.identities != self._identities or assignment.table != self._table:
            await asyncio.to_thread(self._numbering.save, compiled.identities, assignment.table)
        # Until they were looked for, stale connections are due: a failure from here on must not forget them.
        self._stale_unseen |= bool(assignment.moved or assignment.readdressed) or _lost_addresses(self._compiled, compiled)
        self._memo, self._compiled = memo, compiled
        self._identities, self._table = compiled.identities, assignment.table
        self._problems = (*compiled.problems, *assignment.problems())
        self._translate(compiled, translator)
        changed = self._publish(translator)
        dns = DnsInputs(compiled=compiled, table=assignment.table, surroundings=surroundings)
        await asyncio.to_thread(self._dns.publish, dns, self._dns_inputs)
        if changed:
            await self._envoy.wait_acked(changed, ACK_TIMEOUT_S)
        await self._await_listeners()
        self._map_inputs = (world, surroundings)
        await self._write_maps()
        self._dns_inputs = dns
        await asyncio.to_thread(self._dns.publish, dns, None)
        if self._stale_unseen:
            await self._mark_stale()
        self._retire(assignment)
        return self._realisation()

    async def settle(self) -> Realisation | None:
        """Do what is due: slots that became ready, connections whose grace is over, retirees. None: nothing changed."""
        if self._compiled is None or self._map_inputs is None:
            return None
        await self._close_due()
        gone = self._resources.take_gone(time.monotonic())
        if gone:
            self._table = self._table.release(gone)
            await asyncio.to_thread(self._numbering.save, self._identities, self._table)
            assert self._translator is not None
            self._publish(self._translator)
        if self._resources.unready_ids() and await self._find_ready():
            await self._write_maps()
            return self._realisation()
        return self._realisation() if gone else None

    def next_due_s(self) -> float | None:
        """When ``settle`` has something to do (``time.monotonic``); None: nothing is outstanding."""
        due = [due_s for due_s, _ in self._closing]
        retirement = self._resources.next_due_s()
        if retirement is not None:
            due.append(retirement)
        if self._resources.unready_ids():
            due.append(time.monotonic() + SETTLE_INTERVAL_S)
        return min(due, default=None)

    async def _take_over(self) -> None:
        """Keep off the numbers that the kernel has from an earlier agent and that the saved numbering does not know.

        The files may be lost or set aside while the pins are there. Were a number used again while maps are rewritten entry by
        entry, or while Envoy has connections in a slot, one label set would be judged by what was written for another.
        """
        held = await asyncio.to_thread(self._kernel.held)
        self._identities = self._identities.beyond(held.highest_identity())
        self._table = self._table.rest(held.slot_ids())
        self._resources.retire_unknown(self._table.resting, time.monotonic())

    # ---- Envoy's side -----------------------------------------------------------------------------------------------

    def _translate(self, compiled: CompiledPolicy, translator: Translator) -> None:
        """Translate what changed: slots with new content, or all of them when settings or secrets did."""
        slots = {slot.key: slot for slot in compiled.slots if slot.key in self._table.ids}
        anew = slots if translator is not self._translator else self._resources.wants_translation(slots, self._table.ids)
        self._translator = translator
        self._errors = {key: errors for key, errors in self._errors.items() if key in slots and key not in anew}
        for key, slot in anew.items():
            slot_id = self._table.ids[key]
            before = self._resources.live.get(slot_id)
            if before is not None and takes_server_names_away(before.slot, slot):
                self._narrowed |= {slot_id}
                self._stale_unseen = True
            if key.protocol is L7Protocol.DNS:
                self._resources.put(slot_id, slot, ())
                continue
            translation = translator.slot(slot, slot_id)
            if translation.errors:
                self._errors[key] = translation.errors
            if any(error.closed for error in translation.errors):
                self._resources.close(slot_id)
            else:
                self._resources.put(slot_id, slot, translation.resources)

    def _publish(self, translator: Translator) -> dict[ResourceKey, str]:
        """Publish what there is now and return the versions that differ from before (removed ones aside)."""
        common = translator.common()
        if common is not self._common[0]:
            self._common = (common, {resource.key: resource for resource in map(to_xds, common)})
        changes, shared = self._resources.changes(), self._common[1]
        snapshot = self._snapshot.edited((*shared.values(), *changes.put.values()), changes.dropped - shared.keys())
        self._resources.published()
        if snapshot is self._snapshot:
            return {}
        changed = [key for key in snapshot.changed_keys(self._snapshot) if key in snapshot]
        self._snapshot = snapshot
        self._envoy.publish(snapshot)
        return snapshot.versions(changed)

    async def _await_listeners(self) -> None:
        """Wait until the sockets of accepted new slots listen."""
        deadline_s = time.monotonic() + LISTEN_TIMEOUT_S
        while self._resources.unready_ids():
            outstanding = await self._find_ready()
            if not (self._accepted() or self._unready_dns()) or time.monotonic() >= deadline_s:
                return
            if not outstanding:
                await asyncio.sleep(LISTEN_POLL_S)

    async def _find_ready(self) -> bool:
        """Mark the slots ready that Envoy accepted and listens for; tell whether there was one."""
        ready: list[int] = []
        for outstanding, ports_of in (
            (self._accepted(), self._kernel.listening_ports),
            (self._unready_dns(), self._kernel.dns_ports),
        ):
            if outstanding:
                ports = await asyncio.to_thread(ports_of)
                ready += [slot_id for slot_id in outstanding if self._port_min + slot_id in ports]
        self._resources.mark_ready(ready)
        return bool(ready)

    def _accepted(self) -> list[int]:
        """Envoy's slots that are not ready, though Envoy refuses nothing of them and is connected."""
        if not self._envoy.connected:
            return []
        nacks = self._envoy.nacks()
        return [
            slot_id
            for slot_id in self._resources.unready_ids()
            if not self._is_dns(slot_id) and nacks.keys().isdisjoint(self._resources.live[slot_id].keys())
        ]

    def _unready_dns(self) -> list[int]:
        """The DNS proxy's slots that are not ready."""
        return [slot_id for slot_id in self._resources.unready_ids() if self._is_dns(slot_id)]

    def _is_dns(self, slot_id: int) -> bool:
        return self._resources.live[slot_id].slot.key.protocol is L7Protocol.DNS

    # ---- the kernel's side ------------------------------------------------------------------------------------------

    async def _write_maps(self) -> None:
        assert self._compiled is not None
        assert self._map_inputs is not None
        _, surroundings = self._map_inputs
        state, self._derive_memo = rederive(
            self._compiled,
            self._table,
            surroundings.interface_indices,
            surroundings.cgroup_ids,
            self._resources.ready_ids(),
            self._port_min,
            self._derive_memo,
        )
        await asyncio.to_thread(self._kernel.write, state)

    async def _mark_stale(self) -> None:
        """Find the connections that are in the wrong slot now; they are closed when their grace is over."""
        assert self._compiled is not None
        connections = await asyncio.to_thread(lambda: tuple(self._kernel.proxied_connections()))
        assert self._map_inputs is not None
        index = WorldIndex(self._map_inputs[0], self._compiled)

        def end_of(address: Address) -> End:
            return End(IdentityNumber(index.identity_of(address)), index.is_local(address))

        stale = stale_connections(connections, EntryTable.of(self._compiled), self._table.ids, end_of, self._narrowed)
        self._stale_unseen, self._narrowed = False, frozenset()
        if stale:
            self._closing.append((time.monotonic() + MOVED_GRACE_S, stale))
            _log.info("connections_moved", connections=len(stale))

    async def _close_due(self) -> None:
        now_s = time.monotonic()
        due = [stale for due_s, stale in self._closing if due_s <= now_s]
        self._closing = [(due_s, stale) for due_s, stale in self._closing if due_s > now_s]
        for stale in due:
            closed = await asyncio.to_thread(self._kernel.close_connections, stale)
            _log.info("connections_closed", connections=closed)

    def _retire(self, assignment: SlotAssignment) -> None:
        in_use = frozenset(assignment.table.ids.values())
        if self._resources.live.keys() - in_use:
            self._resources.retire(in_use, time.monotonic())
            assert self._translator is not None
            self._publish(self._translator)

    # ---- what came of it --------------------------------------------------------------------------------------------

    def _realisation(self) -> Realisation:
        assert self._compiled is not None
        assert self._map_inputs is not None
        world, surroundings = self._map_inputs
        return Realisation(
            world=world,
            compiled=self._compiled,
            table=self._table,
            problems=self._problems,
            slot_errors=tuple(error for errors in self._errors.values() for error in errors),
            refused=self.refused(),
            unready=self._unready_keys(),
            surroundings=surroundings,
        )

    def refused(self) -> dict[SlotKey, str]:
        """The slots of which Envoy refuses something, with its reason."""
        nacks = self._envoy.nacks()
        if not nacks:
            return {}
        keys = {slot_id: key for key, slot_id in self._table.ids.items()}
        found: dict[SlotKey, str] = {}
        for slot_id, live in self._resources.live.items():
            for resource in live.keys() & nacks.keys():
                if slot_id in keys:  # not: about to be retired
                    found[keys[slot_id]] = nacks[resource].reason
        return found

    def _unready_keys(self) -> frozenset[SlotKey]:
        ready = self._resources.ready_ids()
        return frozenset(key for key, slot_id in self._table.ids.items() if slot_id not in ready)


def _lost_addresses(before: CompiledPolicy | None, after: CompiledPolicy) -> bool:
    """Tell whether an address of an endpoint is no longer anybody's: whoever gets it next must find no connection open."""
    if before is None or before.ipcache is after.ipcache:
        return False
    present = {entry.prefix for entry in after.ipcache if entry.endpoint is not None}
    return any(entry.endpoint is not None and entry.prefix not in present for entry in before.ipcache)
