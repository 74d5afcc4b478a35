"""The order of a realisation, watched by fakes that know when each half may rely on the other."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

import pytest

from l7filters.envoy.resource import EnvoyResource, SlotError, Translation
from l7filters.envoy.settings import EnvoySettings
from l7filters.envoy.translate import shared_resources, translate_slot
from l7filters.identity import IdentityTable, LabelSet
from l7filters.ir import Slot
from l7filters.mapstate import MapState, MapVerdict, SlotValue
from l7filters.model import Policy
from l7filters.slots import SlotTable
from l7filters.world import World
from tests.support.worlds import NODE, To, allow, endpoint, http, pods, policy, world
from tidegate.realise import Realisation, Realiser, Surroundings
from tidegate.stale import ProxiedConnection
from xds_server.acks import AckReport, Nack
from xds_server.snapshot import ResourceKey, Snapshot, TypeUrl

PORT_MIN = 19000
SETTINGS = EnvoySettings()


class FakeEnvoy:
    """Takes what is published at once, but for the resources it is told to refuse."""

    def __init__(self) -> None:
        self.connected = True
        self.snapshot = Snapshot()
        self.published = 0
        self.refuses: set[str] = set()

    def publish(self, snapshot: Snapshot) -> None:
        self.published += 1
        self.snapshot = snapshot

    async def wait_acked(self, resources: Mapping[ResourceKey, str], timeout_s: float) -> AckReport:
        acked = frozenset(key for key in resources if key.name not in self.refuses)
        return AckReport(acked=acked, nacked={}, superseded=frozenset(), pending=frozenset(resources) - acked)

    def nacks(self) -> dict[ResourceKey, Nack]:
        return {key: Nack(resource.version, "no") for key, resource in self.snapshot.items() if key.name in self.refuses}

    def listeners(self) -> set[str]:
        return {key.name for key in self.snapshot if key.type_url is TypeUrl.LISTENER and key.name not in self.refuses}


class FakeKernel:
    """Insists, at every write, that no ready slot lacks a listener."""

    def __init__(self, envoy: FakeEnvoy) -> None:
        self._envoy = envoy
        self.left = MapState()
        self.written: list[MapState] = []
        self.connections: list[ProxiedConnection] = []
        self.closed: list[ProxiedConnection] = []

    @property
    def state(self) -> MapState:
        return self.written[-1]

    def held(self) -> MapState:
        return self.left

    def write(self, wanted: MapState) -> None:
        assert {f"slot-{slot_id}" for slot_id in wanted.slots} <= self._envoy.listeners()
        if self.written:
            # What the maps lose in this write must still have been served by Envoy until now.
            assert {f"slot-{slot_id}" for slot_id in self.state.slots} <= self._envoy.listeners()
        self.written.append(wanted)

    def listening_ports(self) -> frozenset[int]:
        return frozenset(PORT_MIN + int(name.removeprefix("slot-")) for name in self._envoy.listeners())

    def dns_ports(self) -> frozenset[int]:
        return frozenset()

    def proxied_connections(self) -> Iterable[ProxiedConnection]:
        return tuple(self.connections)

    def close_connections(self, connections: Iterable[ProxiedConnection]) -> int:
        closed = list(connections)
        self.closed += closed
        return len(closed)


class FakeNumbering:
    def __init__(self) -> None:
        self.saved: list[tuple[IdentityTable, SlotTable]] = []

    def save(self, identities: IdentityTable, slots: SlotTable) -> None:
        self.saved.append((identities, slots))


class Translator:
    def __init__(self, broken: str = "") -> None:
        self._broken = broken
        self.translated = 0

    def common(self) -> tuple[EnvoyResource, ...]:
        return shared_resources(SETTINGS)

    def slot(self, slot: Slot, slot_id: int) -> Translation:
        self.translated += 1
        if self._broken and any(self._broken in name for name in slot.key.ingress or ()):
            return Translation(resources=(), errors=(SlotError(slot=slot.key, message="broken"),))
        return translate_slot(slot, slot_id, SETTINGS)


class Bench:
    """A realiser among fakes."""

    def __init__(self, broken: str = "") -> None:
        self.envoy = FakeEnvoy()
        self.kernel = FakeKernel(self.envoy)
        self.numbering = FakeNumbering()
        self.translator = Translator(broken)
        self.realiser = Realiser(
            kernel=self.kernel,
            envoy=self.envoy,
            numbering=self.numbering,
            identities=IdentityTable(),
            slots=SlotTable(),
            port_min=PORT_MIN,
        )

    async def realise(self, given: World) -> Realisation:
        interfaces = {each.key: index for index, each in enumerate(given.endpoints, 10) if each.interface}
        return await self.realiser.realise(given, Surroundings(interface_indices=interfaces), self.translator)


def run(job: Coroutine[Any, Any, None]) -> None:
    asyncio.run(job)


A = endpoint("a", ip="10.0.0.1")
B = endpoint("b", ip="10.0.0.2")
GET_ONLY = policy("get", "app=b", ingress=[allow(pods("app=a"), To("80", http=(http("GET"),)))])
POST_ONLY = policy("get", "app=b", ingress=[allow(pods("app=a"), To("80", http=(http("POST"),)))])
PLAIN = policy("get", "app=b", ingress=[allow(pods("app=a"), "80")])
OTHER = policy("other", "app=a", ingress=[allow(pods("app=b"), To("81", http=(http("GET"),)))])
CONNECTION = ProxiedConnection(A.addresses[0], 40000, B.addresses[0], 80, 1)


def test_maps_name_a_slot_only_once_envoy_listens_for_it() -> None:
    async def scenario() -> None:
        bench = Bench()
        done = await bench.realise(world(GET_ONLY, endpoints=[A, B]))
        assert bench.kernel.state.slots == {1: SlotValue(PORT_MIN + 1)}
        assert [value.slot for value in bench.kernel.state.policy.values() if value.verdict is MapVerdict.REDIRECT] == [1]
        assert done.unready == frozenset()
        assert bench.numbering.saved[-1] == (done.compiled.identities, done.table)

    run(scenario())


def test_a_new_pod_with_known_labels_publishes_nothing() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.realise(world(GET_ONLY, endpoints=[A, B]))
        published, translated = bench.envoy.published, bench.translator.translated
        other = endpoint("c", "app=a", ip="10.0.0.3")
        await bench.realise(world(GET_ONLY, endpoints=[A, B, other], revision=2))
        assert (bench.envoy.published, bench.translator.translated) == (published, translated)
        assert len(bench.kernel.state.endpoints) == 3

    run(scenario())


def test_an_edit_keeps_the_slot_and_changes_one_route() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.realise(world(GET_ONLY, endpoints=[A, B]))
        before = bench.envoy.snapshot
        bench.kernel.connections = [CONNECTION]
        await bench.realise(world(POST_ONLY, endpoints=[A, B], revision=2))
        assert bench.envoy.snapshot.changed_keys(before) == {ResourceKey(TypeUrl.ROUTE, "slot-1")}
        assert bench.realiser.next_due_s() is None

    run(scenario())


def test_connections_of_a_slot_that_is_gone_are_closed_and_its_id_is_freed_last() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.realise(world(GET_ONLY, endpoints=[A, B]))
        bench.kernel.connections = [CONNECTION]
        done = await bench.realise(world(PLAIN, endpoints=[A, B], revision=2))
        assert bench.kernel.state.slots == {}
        assert bench.envoy.listeners() == set()
        assert ResourceKey(TypeUrl.ROUTE, "slot-1") in bench.envoy.snapshot
        assert done.table.resting == {1}
        deadline = asyncio.get_running_loop().time() + 10
        while (due_s := bench.realiser.next_due_s()) is not None and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(max(0.0, due_s - asyncio.get_running_loop().time()))
            settled = await bench.realiser.settle()
        assert bench.kernel.closed == [CONNECTION]
        assert ResourceKey(TypeUrl.ROUTE, "slot-1") not in bench.envoy.snapshot
        assert settled is not None
        assert settled.table.resting == frozenset()

    run(scenario())


def test_a_refused_slot_stays_closed_and_holds_up_no_other() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.envoy.refuses = {"slot-1"}
        done = await bench.realise(world(GET_ONLY, OTHER, endpoints=[A, B]))
        assert len(done.table.ids) == 2
        assert [done.table.ids[key] for key in done.unready] == [1]
        assert [done.table.ids[key] for key in done.refused] == [1]
        assert bench.kernel.state.slots == {2: SlotValue(PORT_MIN + 2)}

    run(scenario())


def test_a_slot_that_cannot_be_translated_stays_closed_and_says_why() -> None:
    async def scenario() -> None:
        bench = Bench(broken="cnp/default/get:")
        done = await bench.realise(world(GET_ONLY, OTHER, endpoints=[A, B]))
        assert [error.message for error in done.slot_errors] == ["broken"]
        assert len(bench.kernel.state.slots) == 1

    run(scenario())


def test_slots_that_envoy_takes_late_are_opened_by_settle() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.envoy.connected = False
        await bench.realise(world(GET_ONLY, endpoints=[A, B]))
        assert bench.kernel.state.slots == {}
        bench.envoy.connected = True
        settled = await bench.realiser.settle()
        assert settled is not None
        assert settled.unready == frozenset()
        assert bench.kernel.state.slots == {1: SlotValue(PORT_MIN + 1)}

    run(scenario())


async def until_nothing_is_due(realiser: Realiser) -> None:
    """Let time pass and ``settle`` do what is due."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 10
    while (due_s := realiser.next_due_s()) is not None and loop.time() < deadline:
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        await realiser.settle()


def test_connections_that_an_earlier_agent_left_in_a_wrong_slot_are_closed() -> None:
    async def scenario() -> None:
        bench = Bench()
        right = CONNECTION
        wrong = ProxiedConnection(A.addresses[0], 40001, B.addresses[0], 80, 7)
        bench.kernel.connections = [right, wrong]
        await bench.realise(world(GET_ONLY, endpoints=[A, B]))
        await until_nothing_is_due(bench.realiser)
        assert bench.kernel.closed == [wrong]

    run(scenario())


def test_stale_connections_are_closed_although_the_realisation_failed_at_first() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.realise(world(GET_ONLY, endpoints=[A, B]))
        await until_nothing_is_due(bench.realiser)
        bench.kernel.connections = [CONNECTION]
        write, bench.kernel.write = bench.kernel.write, refuse_to_write  # type: ignore[method-assign]
        with pytest.raises(OSError, match="map full"):
            await bench.realise(world(PLAIN, endpoints=[A, B], revision=2))
        bench.kernel.write = write  # type: ignore[method-assign]
        await bench.realise(world(PLAIN, endpoints=[A, B], revision=3))
        await until_nothing_is_due(bench.realiser)
        assert bench.kernel.closed == [CONNECTION]

    run(scenario())


def refuse_to_write(wanted: MapState) -> None:
    raise OSError("map full")


def test_pods_that_swap_labels_leave_no_connection_in_the_others_slot() -> None:
    async def scenario() -> None:
        bench = Bench()
        rules = policy(
            "get",
            "app=b",
            ingress=[
                allow(pods("app=a"), To("80", http=(http("GET"),))),
                allow(pods("app=c"), To("80", http=(http("POST"),))),
            ],
        )
        other = endpoint("c", ip="10.0.0.3")
        before = await bench.realise(world(rules, endpoints=[A, B, other]))
        (slot_of_a,) = [number for key, number in before.table.ids.items() if "ingress[0]" in str(key.ingress)]
        bench.kernel.connections = [ProxiedConnection(A.addresses[0], 40000, B.addresses[0], 80, slot_of_a)]
        swapped = [endpoint("a", "app=c", ip="10.0.0.1"), B, endpoint("c", "app=a", ip="10.0.0.3")]
        await bench.realise(world(rules, endpoints=swapped, revision=2))
        await until_nothing_is_due(bench.realiser)
        assert bench.kernel.closed == bench.kernel.connections

    run(scenario())


def test_connections_of_an_endpoint_that_is_gone_are_closed_before_its_address_is_anothers() -> None:
    async def scenario() -> None:
        bench = Bench()
        other = endpoint("c", "app=a", ip="10.0.0.3")
        await bench.realise(world(GET_ONLY, endpoints=[A, B, other]))
        await until_nothing_is_due(bench.realiser)
        bench.kernel.connections = [CONNECTION]
        await bench.realise(world(GET_ONLY, endpoints=[B, other], revision=2))
        await until_nothing_is_due(bench.realiser)
        assert bench.kernel.closed == [CONNECTION]

    run(scenario())


def tls_policy(*server_names: str) -> Policy:
    return policy("tls", "app=b", ingress=[allow(pods("app=a"), To("80", names=server_names))])


@pytest.mark.parametrize(("names", "closed"), [(("one.example",), 1), (("one.example", "two.example", "three.example"), 0)])
def test_a_server_name_that_is_taken_away_takes_its_connections_along(names: tuple[str, ...], closed: int) -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.realise(world(tls_policy("one.example", "two.example"), endpoints=[A, B]))
        await until_nothing_is_due(bench.realiser)
        bench.kernel.connections = [CONNECTION]
        await bench.realise(world(tls_policy(*names), endpoints=[A, B], revision=2))
        await until_nothing_is_due(bench.realiser)
        assert len(bench.kernel.closed) == closed

    run(scenario())


def test_numbers_that_the_kernel_has_from_a_lost_numbering_are_not_used_again() -> None:
    async def scenario() -> None:
        earlier = Bench()
        await earlier.realise(world(GET_ONLY, endpoints=[A, B]))
        left = earlier.kernel.state
        later = Bench()
        later.kernel.left = left
        done = await later.realise(world(OTHER, endpoints=[B, A]))
        assert set(done.compiled.identities.numbers.values()).isdisjoint({key.subject for key in left.policy})
        assert set(later.kernel.state.slots).isdisjoint(left.slots)
        assert later.numbering.saved[-1] == (done.compiled.identities, done.table)
        assert done.table.resting == set(left.slots)
        await until_nothing_is_due(later.realiser)
        assert later.numbering.saved[-1][1].resting == frozenset()

    run(scenario())


def test_a_host_workloads_connection_is_judged_by_its_identity_not_by_the_hosts_address() -> None:
    async def scenario() -> None:
        bench = Bench()
        worker = endpoint("worker", cgroup="system.slice/worker.service")
        egress = policy("out", "app=worker", egress=[allow(pods("app=b"), To("80", http=(http("GET"),)))])
        first = await bench.realise(world(egress, endpoints=[worker, B]))
        number = first.compiled.identities.numbers[LabelSet.of(worker.labels)]
        here = NODE.addresses[0]
        kept = ProxiedConnection(here, 40000, B.addresses[0], 80, 1, workload=number)
        bench.kernel.connections = [kept]
        await bench.realise(world(egress, OTHER, endpoints=[worker, A, B], revision=2))
        assert bench.realiser.next_due_s() is None, "nothing of it moved"
        await bench.realise(world(OTHER, endpoints=[worker, A, B], revision=3))
        deadline = asyncio.get_running_loop().time() + 10
        while not bench.kernel.closed and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
            await bench.realiser.settle()
        assert bench.kernel.closed == [kept]

    run(scenario())
