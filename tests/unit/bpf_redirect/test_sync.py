"""The plan turns one state into another, and no packet meets a verdict that neither state gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from bpf_redirect.sync import BumpEpoch, Operation, Put, Remove, Table, plan
from l7filters.identity import IdentityNumber
from l7filters.ir import EntryKey
from l7filters.mapstate import EndpointValue, IpcacheValue, MapState, MapVerdict, PolicyValue, SlotValue
from l7filters.model import Direction

FIELDS = {
    Table.IPCACHE: "ipcache",
    Table.POLICY: "policy",
    Table.SLOTS: "slots",
    Table.PAIRS: "pairs",
    Table.ENDPOINTS: "endpoints",
    Table.CGROUPS: "cgroups",
}
# A small world, so that entries cover one another: 3 peers (0 is ANY), 2 protocols, ports of 3 bits at the top.
PEERS = [0, 301, 302]
PROTOCOLS = [6, 17]
PORTS = [number << 13 for number in range(8)]


def identity(number: int) -> IdentityNumber:
    return IdentityNumber(number)


@st.composite
def entry_keys(draw: st.DrawFn) -> EntryKey:
    protocol = draw(st.none() | st.sampled_from(PROTOCOLS))
    bits = 0 if protocol is None else draw(st.integers(0, 3))
    port = draw(st.sampled_from(PORTS)) & ~((1 << (16 - bits)) - 1)
    return EntryKey(identity(300), identity(draw(st.sampled_from(PEERS))), Direction.INGRESS, protocol, port, bits)


policy_values = st.builds(
    lambda verdict, slot: PolicyValue(verdict, slot if verdict is MapVerdict.REDIRECT else 0),
    st.sampled_from(MapVerdict),
    st.integers(1, 3),
)
policies = st.dictionaries(entry_keys(), policy_values, max_size=12)
prefixes = st.builds(
    lambda number, bits: ip_network((int(ip_address("10.0.0.0")) + (number << 21), 8 + bits), strict=False),
    st.integers(0, 7),
    st.integers(0, 3),
)
states = st.builds(
    MapState,
    ipcache=st.dictionaries(prefixes, st.builds(IpcacheValue, st.sampled_from([identity(301), identity(302)])), max_size=8),
    policy=policies,
    slots=st.dictionaries(st.integers(1, 5), st.integers(19001, 19005), max_size=4),
    pairs=st.dictionaries(st.tuples(st.integers(1, 3), st.integers(1, 3)), st.integers(1, 5), max_size=3),
    endpoints=st.dictionaries(
        st.integers(2, 5), st.builds(EndpointValue, st.just(identity(300)), st.just((ip_address("10.0.0.1"),))), max_size=3
    ),
    cgroups=st.dictionaries(st.integers(100, 103), st.just(identity(303)), max_size=2),
)


def apply_one(state: MapState, operation: Operation) -> MapState:
    match operation:
        case Put():
            name = FIELDS[operation.table]
            return replace(state, **{name: {**getattr(state, name), operation.key: operation.value}})
        case Remove():
            name = FIELDS[operation.table]
            return replace(state, **{name: {key: value for key, value in getattr(state, name).items() if key != operation.key}})
        case BumpEpoch():
            return state


def longest(policy: Mapping[EntryKey, PolicyValue], peer: int, protocol: int, port: int) -> PolicyValue | None:
    """What the trie finds for one peer."""
    best: tuple[int, PolicyValue] | None = None
    for key, value in policy.items():
        if key.peer != peer or (key.protocol is not None and key.protocol != protocol):
            continue
        if (key.port ^ port) >> (16 - key.port_bits):
            continue
        bits = -1 if key.protocol is None else key.port_bits
        if best is None or bits > best[0]:
            best = (bits, value)
    return best[1] if best is not None else None


def verdict(policy: Mapping[EntryKey, PolicyValue], peer: int, protocol: int, port: int) -> PolicyValue:
    """The kernel's lookup, as lib/policy.h has it."""
    found = longest(policy, peer, protocol, port)
    if found is None:
        found = longest(policy, 0, protocol, port)
    return found or PolicyValue(MapVerdict.DENY)


def who(ipcache: Mapping[object, IpcacheValue], address: int) -> IpcacheValue | None:
    covering = [(key.prefixlen, value) for key, value in ipcache.items() if ip_address(address) in key]  # type: ignore[attr-defined]
    return max(covering, key=lambda item: item[0])[1] if covering else None


@given(states, states)
def test_carrying_out_the_plan_gives_the_wanted_state(current: MapState, wanted: MapState) -> None:
    state = current
    for operation in plan(current, wanted):
        state = apply_one(state, operation)
    assert state == wanted


@given(states)
def test_nothing_is_planned_between_equal_states(state: MapState) -> None:
    assert plan(state, state) == ()


@given(policies, policies)
def test_every_packet_gets_its_old_or_its_new_verdict_at_every_step(
    old: Mapping[EntryKey, PolicyValue], new: Mapping[EntryKey, PolicyValue]
) -> None:
    packets = [(peer, protocol, port) for peer in (301, 302, 303) for protocol in (*PROTOCOLS, 1) for port in PORTS]
    allowed = {packet: {verdict(old, *packet), verdict(new, *packet)} for packet in packets}
    state = MapState(policy=old)
    for operation in plan(state, MapState(policy=new)):
        state = apply_one(state, operation)
        for packet in packets:
            assert verdict(state.policy, *packet) in allowed[packet], (packet, operation)


@given(states, states)
def test_every_address_has_its_old_or_its_new_identity_at_every_step(current: MapState, wanted: MapState) -> None:
    addresses = [int(ip_address("10.0.0.0")) + (number << 21) for number in range(8)]
    state = MapState(ipcache=current.ipcache)
    for operation in plan(state, MapState(ipcache=wanted.ipcache)):
        state = apply_one(state, operation)
        for address in addresses:
            known = (who(current.ipcache, address), who(wanted.ipcache, address))  # type: ignore[arg-type]
            assert who(state.ipcache, address) in known  # type: ignore[arg-type]


@given(policies, policies)
def test_an_entry_never_points_to_a_slot_that_is_not_there(
    old: Mapping[EntryKey, PolicyValue], new: Mapping[EntryKey, PolicyValue]
) -> None:
    current, wanted = (
        MapState(policy=policy, slots={value.slot: SlotValue(19000 + value.slot) for value in policy.values() if value.slot})
        for policy in (old, new)
    )
    state = current
    for operation in plan(current, wanted):
        state = apply_one(state, operation)
        assert all(value.slot in state.slots for value in state.policy.values() if value.slot), operation


@given(states, states)
def test_endpoints_close_first_open_last_and_the_epoch_ends_it(current: MapState, wanted: MapState) -> None:
    operations = plan(current, wanted)
    if not operations:
        return
    assert isinstance(operations[-1], BumpEpoch)
    rest = operations[:-1]
    assert not any(isinstance(operation, BumpEpoch) for operation in rest)
    openings = (Table.ENDPOINTS, Table.CGROUPS)
    closing = [isinstance(operation, Remove) and operation.table in openings for operation in rest]
    opening = [isinstance(operation, Put) and operation.table in openings for operation in rest]
    assert closing == sorted(closing, reverse=True)
    assert opening == sorted(opening)
