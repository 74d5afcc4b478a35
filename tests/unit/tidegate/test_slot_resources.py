"""What is published of slots: changes only, and a shared resource for as long as one slot holds it."""

from __future__ import annotations

from l7filters.envoy.resource import EnvoyResource, TypeUrl
from l7filters.ir import DirectionRules, RuleSet, Slot, SlotKey
from l7filters.model import L7Protocol
from tidegate.slot_resources import ROUTE_LINGER_S, SlotResources


def slot(name: str) -> Slot:
    return Slot(SlotKey(L7Protocol.HTTP, ingress=(name,)), egress=None, ingress=DirectionRules(RuleSet(), None))


def resource(name: str, body: bytes = b"1", kind: TypeUrl = TypeUrl.ROUTE) -> EnvoyResource:
    return EnvoyResource(type_url=kind, name=name, body=body)


def changes(table: SlotResources) -> tuple[dict[str, bytes], set[str]]:
    """Names put and dropped since the last time, which are then taken for published."""
    found = table.changes()
    table.published()
    return {key.name: each.body for key, each in found.put.items()}, {key.name for key in found.dropped}


def test_only_what_changed_is_offered_and_again_until_it_is_published() -> None:
    table = SlotResources()
    table.put(1, slot("a"), [resource("r1")])
    table.put(2, slot("b"), [resource("r2")])
    assert table.changes().put.keys() == table.changes().put.keys() != set()
    assert changes(table) == ({"r1": b"1", "r2": b"1"}, set())
    table.put(2, slot("b"), [resource("r2", b"2")])
    assert changes(table) == ({"r2": b"2"}, set())
    assert changes(table) == ({}, set())


def test_what_two_slots_share_stays_until_both_let_go() -> None:
    table = SlotResources()
    table.put(1, slot("a"), [resource("r1"), resource("shared")])
    table.put(2, slot("b"), [resource("r2"), resource("shared")])
    changes(table)
    table.close(1)
    assert changes(table) == ({}, {"r1"})
    table.close(2)
    assert changes(table) == ({}, {"r2", "shared"})


def test_retired_slot_keeps_its_routes_for_a_while_but_not_its_listener() -> None:
    table = SlotResources()
    table.put(1, slot("a"), [resource("listener", kind=TypeUrl.LISTENER), resource("route")])
    changes(table)
    table.retire(frozenset(), 10.0)
    assert changes(table)[1] == {"listener"}
    assert table.take_gone(10.0 + ROUTE_LINGER_S) == {1}
    assert changes(table) == ({}, {"route"})


def test_resource_that_goes_and_comes_back_before_publishing_is_put() -> None:
    table = SlotResources()
    table.put(1, slot("a"), [resource("shared")])
    changes(table)
    table.close(1)
    table.put(2, slot("b"), [resource("shared", b"2")])
    assert changes(table) == ({"shared": b"2"}, set())
