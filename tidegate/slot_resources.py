"""What Envoy holds for each slot, and when it may let go of it.

Owns: the resources in the snapshot by slot, which slots Envoy has taken (ready), which content it refused, and the retirement
of slots without members. Pure bookkeeping with ``now_s`` arguments: ``realise.py`` publishes and waits.

A slot's life: wanted -> published -> accepted and listening (ready) -> without members: its listener is withdrawn, Envoy
drains what is left -> ROUTE_LINGER_S later the rest goes -> its id is free.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from l7filters.envoy.names import slot_name
from l7filters.envoy.resource import EnvoyResource
from l7filters.ir import Slot, SlotKey
from xds_server.snapshot import Resource, ResourceKey, TypeUrl

ROUTE_LINGER_S = 3.0
"""How long a withdrawn listener's routes stay: longer than Envoy's drain time, so draining requests are still judged."""
VERSION_BYTES = 8


def to_xds(resource: EnvoyResource) -> Resource:
    """Return the translated resource as the discovery server takes it."""
    return Resource(
        type_url=TypeUrl(str(resource.type_url)),
        name=resource.name,
        version=hashlib.blake2b(resource.body, digest_size=VERSION_BYTES).hexdigest(),
        body=resource.body,
        references=frozenset(ResourceKey(TypeUrl(str(each.type_url)), each.name) for each in resource.references),
    )


@dataclass(frozen=True, slots=True)
class LiveSlot:
    """A slot as published. ``slot`` is what it was translated from; ``ready``: Envoy took it once and listens."""

    slot_id: int
    slot: Slot
    resources: tuple[Resource, ...]
    ready: bool = False

    def keys(self) -> frozenset[ResourceKey]:
        """The names of its resources."""
        return frozenset(resource.key for resource in self.resources)


@dataclass(slots=True)
class Changes:
    """What is not published yet: resources that are new or have new content, and the names of those that nobody holds now."""

    put: dict[ResourceKey, Resource] = field(default_factory=dict)
    dropped: set[ResourceKey] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Retiree:
    slot_id: int
    resources: tuple[Resource, ...]
    gone_at_s: float


class SlotResources:
    """The bookkeeping. One per agent."""

    def __init__(self) -> None:
        self.live: dict[int, LiveSlot] = {}
        self._retirees: dict[int, _Retiree] = {}
        self._holders: Counter[ResourceKey] = Counter()
        self._changes = Changes()

    def wants_translation(self, slots: Mapping[SlotKey, Slot], ids: Mapping[SlotKey, int]) -> dict[SlotKey, Slot]:
        """Return the slots whose content is not the one published."""
        wanted: dict[SlotKey, Slot] = {}
        for key, slot in slots.items():
            live = self.live.get(ids[key])
            if live is None or (live.slot is not slot and live.slot != slot):
                wanted[key] = slot
        return wanted

    def put(self, slot_id: int, slot: Slot, resources: Iterable[EnvoyResource]) -> None:
        """Publish this content for the slot from now on; whether it is ready stays as it was."""
        assert slot_id not in self._retirees, "a resting id was given out"
        before = self.live.get(slot_id)
        made = LiveSlot(slot_id, slot, tuple(map(to_xds, resources)), before is not None and before.ready)
        self.live[slot_id] = made
        self._hold(made.resources)
        self._release(before.resources if before is not None else ())

    def close(self, slot_id: int) -> None:
        """Forget a slot that has no content Envoy could be given: nothing is published and it isn't ready."""
        closed = self.live.pop(slot_id, None)
        self._release(closed.resources if closed is not None else ())

    def mark_ready(self, slot_ids: Iterable[int]) -> None:
        """These slots were accepted and listen."""
        for slot_id in slot_ids:
            live = self.live[slot_id]
            self.live[slot_id] = LiveSlot(slot_id, live.slot, live.resources, ready=True)

    def ready_ids(self) -> frozenset[int]:
        """The slots that may be named in the maps."""
        return frozenset(slot_id for slot_id, live in self.live.items() if live.ready)

    def unready_ids(self) -> frozenset[int]:
        """The slots that are published and not ready."""
        return frozenset(slot_id for slot_id, live in self.live.items() if not live.ready)

    def retire(self, ids_in_use: frozenset[int], now_s: float) -> None:
        """Withdraw the listeners of the slots that are not in use."""
        for slot_id in self.live.keys() - ids_in_use:
            live = self.live.pop(slot_id)
            kept = tuple(resource for resource in live.resources if resource.type_url is not TypeUrl.LISTENER)
            self._retirees[slot_id] = _Retiree(slot_id, kept, now_s + ROUTE_LINGER_S)
            self._hold(kept)
            self._release(live.resources)

    def retire_unknown(self, slot_ids: Iterable[int], now_s: float) -> None:
        """These slots are an earlier agent's, and what they held is not known: their ids are free when they have drained."""
        for slot_id in slot_ids:
            self._retirees[slot_id] = _Retiree(slot_id, (), now_s + ROUTE_LINGER_S)

    def take_gone(self, now_s: float) -> frozenset[int]:
        """Drop the retirees whose time is up and return their ids, to be released."""
        gone = frozenset(slot_id for slot_id, retiree in self._retirees.items() if retiree.gone_at_s <= now_s)
        for slot_id in gone:
            self._release(self._retirees.pop(slot_id).resources)
        return gone

    def next_due_s(self) -> float | None:
        """When ``take_gone`` has something to do next."""
        return min((retiree.gone_at_s for retiree in self._retirees.values()), default=None)

    def changes(self) -> Changes:
        """What should be published; the same again until ``published``."""
        return self._changes

    def published(self) -> None:
        """The changes are in the snapshot."""
        self._changes = Changes()

    def _hold(self, resources: Iterable[Resource]) -> None:
        """A secret or cluster may be held by several slots."""
        for resource in resources:
            self._holders[resource.key] += 1
            self._changes.put[resource.key] = resource
            self._changes.dropped.discard(resource.key)

    def _release(self, resources: Iterable[Resource]) -> None:
        for resource in resources:
            self._holders[resource.key] -= 1
            if not self._holders[resource.key]:
                del self._holders[resource.key]
                self._changes.put.pop(resource.key, None)
                self._changes.dropped.add(resource.key)

    @staticmethod
    def listener_key(slot_id: int) -> ResourceKey:
        """The name of a slot's listener."""
        return ResourceKey(TypeUrl.LISTENER, slot_name(slot_id))
