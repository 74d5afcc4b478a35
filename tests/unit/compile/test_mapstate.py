"""What the maps hold for a compiled policy."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from l7filters.compile import Memo, recompile
from l7filters.identity import IdentityNumber, IdentityTable, Reserved
from l7filters.ir import CompiledPolicy, EntryKey
from l7filters.mapstate import (
    DeriveMemo,
    EndpointValue,
    IpcacheValue,
    MapState,
    MapVerdict,
    PolicyValue,
    SlotValue,
    derive,
    rederive,
)
from l7filters.model import Direction, Policy
from l7filters.slots import SlotTable, assign
from tests.support.worlds import NO_IDENTITIES, To, allow, endpoint, http, number_of, pods, policy, world

WEB = endpoint("web", ip=("10.0.0.1", "fd00::1"))
CLIENT = endpoint("client", ip="10.0.0.2")
JOB = endpoint("job", cgroup="system.slice/job.service")
FAR = endpoint("far", ip="10.0.9.9", remote=True)
PODS = (WEB, CLIENT, JOB, FAR)
GET_A = To("80", http=(http("GET", "/a"),))
POLICIES = (
    policy("in", "app=web", ingress=[allow(pods("app=client"), GET_A)]),
    policy("out", "app=client", egress=[allow(None, GET_A)]),
)
IFINDEX = {"default/web": 11, "default/client": 12}
BASE = 19000


def compiled_and_numbered(*policies: Policy) -> tuple[CompiledPolicy, SlotTable]:
    compiled, _ = recompile(world(*policies, endpoints=PODS), NO_IDENTITIES, Memo())
    return compiled, assign(SlotTable(), None, compiled).table


def derived(ready: set[int] | None = None, ifindex: dict[str, int] = IFINDEX) -> tuple[CompiledPolicy, SlotTable, MapState]:
    compiled, table = compiled_and_numbered(*POLICIES)
    slots = set(table.ids.values()) if ready is None else ready
    return compiled, table, derive(compiled, table, ifindex, {"default/job": 4711}, slots, BASE)


def own_entry(compiled: CompiledPolicy) -> EntryKey:
    return EntryKey(number_of(compiled, WEB), number_of(compiled, CLIENT), Direction.INGRESS, 6, 80, 16)


def test_ipcache_holds_every_address_with_its_interface() -> None:
    compiled, _, state = derived()
    web = number_of(compiled, WEB)
    assert state.ipcache[ip_network("10.0.0.1/32")] == IpcacheValue(web, 11)
    assert state.ipcache[ip_network("fd00::1/128")] == IpcacheValue(web, 11)
    assert state.ipcache[ip_network("10.0.9.9/32")] == IpcacheValue(number_of(compiled, FAR), 0)
    assert state.ipcache[ip_network("::ffff:0:0/96")] == IpcacheValue(IdentityNumber(Reserved.WORLD_IPV4), outside=True)
    assert state.ipcache[ip_network("::/0")] == IpcacheValue(IdentityNumber(Reserved.WORLD_IPV6), outside=True)
    assert state.ipcache[ip_network("192.168.0.1/32")] == IpcacheValue(IdentityNumber(Reserved.HOST))


def test_endpoints_and_cgroups_are_those_that_are_there() -> None:
    compiled, _, state = derived(ifindex={"default/web": 11})
    addresses = (ip_address("10.0.0.1"), ip_address("fd00::1"))
    assert state.endpoints == {11: EndpointValue(number_of(compiled, WEB), addresses)}
    assert state.cgroups == {4711: number_of(compiled, JOB)}


def test_ready_slots_listen_and_pairs_are_by_number() -> None:
    compiled, table, state = derived()
    (pair,) = compiled.pairs
    assert state.slots == {number: SlotValue(BASE + number) for number in table.ids.values()}
    assert state.pairs == {(table.ids[pair.egress], table.ids[pair.ingress]): table.ids[pair.pair]}
    assert state.policy[own_entry(compiled)] == PolicyValue(MapVerdict.REDIRECT, table.ids[pair.ingress])


def test_slot_that_is_not_ready_has_no_port_so_that_the_kernel_drops_what_is_sent_to_it() -> None:
    compiled, table, state = derived(ready=set())
    assert state.policy[own_entry(compiled)].verdict is MapVerdict.REDIRECT
    assert state.slots == {}
    pair = table.ids[compiled.pairs[0].pair]
    ready = set(table.ids.values()) - {pair}
    assert set(derive(compiled, table, IFINDEX, {}, {*ready, 2000}, BASE).slots) == ready


def test_refused_slot_is_denied() -> None:
    compiled, _ = compiled_and_numbered(*POLICIES)
    state = derive(compiled, SlotTable(), IFINDEX, {}, set(range(2048)), BASE)
    assert state.policy[own_entry(compiled)] == PolicyValue(MapVerdict.DENY, explicit=True)


def test_audit_is_carried_to_the_map() -> None:
    compiled, table = compiled_and_numbered(policy("a", "app=web", ingress=[], audit=True))
    state = derive(compiled, table, IFINDEX, {}, set(), BASE)
    key = EntryKey(number_of(compiled, WEB), IdentityNumber(0), Direction.INGRESS, None, 0, 0)
    assert state.policy[key] == PolicyValue(MapVerdict.ALLOW, would_deny=True)


@pytest.mark.parametrize("reuse_compile", [True, False])
def test_rederive_equals_derive(reuse_compile: bool) -> None:
    edited = policy("in", "app=web", ingress=[allow(pods("app=client"), "81"), allow(pods("app=far"), GET_A)])
    steps = [POLICIES, POLICIES, (edited, POLICIES[1]), (edited,), (), POLICIES]
    compiling, deriving = Memo(), DeriveMemo()
    table, identities = SlotTable(), IdentityTable()
    previous: CompiledPolicy | None = None
    for number, policies in enumerate(steps):
        compiled, memo = recompile(world(*policies, endpoints=PODS), identities, compiling)
        compiling = memo if reuse_compile else Memo()
        table = assign(table, previous, compiled).table
        ready = {one for one in table.ids.values() if (one + number) % 3}
        state, deriving = rederive(compiled, table, IFINDEX, {}, ready, BASE, deriving)
        assert state == derive(compiled, table, IFINDEX, {}, ready, BASE)
        previous, identities = compiled, compiled.identities


def test_pod_with_known_labels_leaves_the_policy_map_the_same_object() -> None:
    first, memo = recompile(world(*POLICIES, endpoints=PODS), NO_IDENTITIES, Memo())
    table = assign(SlotTable(), None, first).table
    ready = set(table.ids.values())
    before, deriving = rederive(first, table, IFINDEX, {}, ready, BASE, DeriveMemo())
    more = (*PODS, endpoint("web-2", "app=web", ip="10.0.0.7"))
    second, _ = recompile(world(*POLICIES, endpoints=more), first.identities, memo)
    again = assign(table, first, second)
    assert (again.table, again.moved) == (table, ())
    after, _ = rederive(second, again.table, IFINDEX, {}, ready, BASE, deriving)
    assert after.policy is before.policy
