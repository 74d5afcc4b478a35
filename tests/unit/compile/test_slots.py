"""Slot numbers from one compiled policy to the next."""

from __future__ import annotations

from dataclasses import replace

import pytest

from l7filters.compile import Memo, compile, recompile
from l7filters.identity import IdentityTable
from l7filters.ir import CompiledPolicy, Slot, SlotKey
from l7filters.model import Direction, L7Protocol, Policy, TlsContext
from l7filters.slots import SLOT_MAX, MovedMember, SlotAssignment, SlotTable, assign
from l7filters.world import World
from tests.support.worlds import Item, To, allow, cidr, deny, endpoint, http, number_of, pods, policy, world

WEB, CLIENT, OTHER = endpoint("web"), endpoint("client"), endpoint("other")
PODS = (WEB, CLIENT, OTHER)
GET_A = To("80", http=(http("GET", "/a"),))
GET_B = To("80", http=(http("GET", "/b"),))
FROM_CLIENT, FROM_OTHER = pods("app=client"), pods("app=other")


class Agent:
    """Compiles one world after the other and numbers the slots, as the agent does."""

    def __init__(self) -> None:
        self.compiled: CompiledPolicy | None = None
        self.identities = IdentityTable()
        self.memo = Memo()
        self.table = SlotTable()

    def to(self, *policies: Policy) -> SlotAssignment:
        compiled, self.memo = recompile(world(*policies, endpoints=PODS), self.identities, self.memo)
        assignment = assign(self.table, self.compiled, compiled)
        self.compiled, self.identities, self.table = compiled, compiled.identities, assignment.table
        return assignment

    def moved(self, assignment: SlotAssignment) -> list[tuple[str, str, str, int]]:
        """Return the moved members as (subject, peer, direction, slot), by name."""
        assert self.compiled is not None
        names = {int(number_of(self.compiled, one)): one.name for one in PODS} | {0: "any"}
        return [(names[m.subject], names[m.peer], str(m.direction), m.slot) for m in assignment.moved]


def receives(name: str, *items: Item) -> Policy:
    return policy(name, "app=web", ingress=items)


def test_known_key_keeps_its_id_and_an_edit_of_its_rules_moves_nothing() -> None:
    agent = Agent()
    first = agent.to(receives("p", allow(FROM_CLIENT, GET_A)))
    second = agent.to(receives("p", allow(FROM_CLIENT, GET_B)))
    assert (second.table, second.moved, second.changed) == (first.table, (), {})


def test_new_key_inherits_when_every_member_moves_together() -> None:
    agent = Agent()
    first = agent.to(receives("p", allow(FROM_CLIENT, GET_A), allow(FROM_OTHER, GET_B)))
    policies = (
        receives("p", allow(FROM_CLIENT, GET_A), allow(FROM_OTHER, GET_B)),
        receives("q", allow(FROM_CLIENT, GET_B)),
    )
    second = agent.to(*policies)
    assert sorted(second.table.ids.values()) == sorted(first.table.ids.values())
    assert second.moved == ()
    (number,) = second.changed
    assert second.changed[number].ingress == (
        "cnp/default/p:spec.ingress[0].toPorts[0]",
        "cnp/default/q:spec.ingress[0].toPorts[0]",
    )
    assert second.table.resting == frozenset()


def test_members_that_part_get_a_new_id_and_are_reported() -> None:
    agent = Agent()
    shared = receives("p", allow((*FROM_CLIENT, *FROM_OTHER), GET_A))
    first = agent.to(shared)
    second = agent.to(shared, receives("q", allow(FROM_CLIENT, GET_B)))
    assert set(first.table.ids.items()) < set(second.table.ids.items()), "the old slot stays for those who stay"
    assert agent.moved(second) == [("web", "client", "ingress", 1)]


def test_members_that_part_from_a_slot_that_goes_all_move() -> None:
    agent = Agent()
    agent.to(receives("p", allow((*FROM_CLIENT, *FROM_OTHER), GET_A)))
    second = agent.to(receives("q", allow(FROM_CLIENT, GET_A)), receives("r", allow(FROM_OTHER, GET_A)))
    assert agent.moved(second) == [("web", "client", "ingress", 1), ("web", "other", "ingress", 1)]
    assert second.table.resting == {1}
    assert sorted(second.table.ids.values()) == [2, 3]


def test_slot_is_not_inherited_by_a_key_that_has_an_id() -> None:
    agent = Agent()
    first = agent.to(receives("p", allow(FROM_CLIENT, GET_A)), receives("q", allow(FROM_OTHER, GET_A)))
    second = agent.to(receives("q", allow((*FROM_CLIENT, *FROM_OTHER), GET_A)))
    (kept,) = second.table.ids.values()
    assert first.table.ids[next(iter(second.table.ids))] == kept
    assert [member[1] for member in agent.moved(second)] == ["client"]


@pytest.mark.parametrize(
    "after",
    [
        [receives("p", allow(FROM_CLIENT, "80"))],
        [receives("p", allow(FROM_CLIENT, "81"))],
        [receives("p", allow(FROM_CLIENT, GET_A)), receives("q", deny(FROM_CLIENT))],
        [],
    ],
    ids=["plain allow", "not allowed", "denied", "no policy"],
)
def test_member_that_ceases_to_redirect_is_moved(after: list[Policy]) -> None:
    agent = Agent()
    agent.to(receives("p", allow(FROM_CLIENT, GET_A)))
    second = agent.to(*after)
    assert ("web", "client", "ingress", 1) in agent.moved(second)
    assert second.table == SlotTable({}, frozenset({1}), 2)


def test_peer_that_loses_its_own_entries_but_keeps_the_slot_does_not_move() -> None:
    agent = Agent()
    agent.to(receives("p", allow(None, GET_A)), receives("q", allow(FROM_CLIENT, "81")))
    second = agent.to(receives("p", allow(None, GET_A)))
    assert second.moved == ()


def test_peer_that_leaves_anyones_slot_is_moved_alone() -> None:
    agent = Agent()
    agent.to(receives("p", allow(None, GET_A)))
    second = agent.to(receives("p", allow(None, GET_A)), receives("q", allow(FROM_CLIENT, GET_B)))
    assert agent.moved(second) == [("web", "client", "ingress", 1)]


SENDS = policy("s", "app=client", egress=[allow(None, GET_A)])


def test_pair_inherits_when_an_end_does() -> None:
    agent = Agent()
    first = agent.to(SENDS, receives("p", allow(FROM_CLIENT, GET_A)))
    second = agent.to(SENDS, receives("p", allow(FROM_CLIENT, GET_A)), receives("q", allow(FROM_CLIENT, GET_B)))
    assert sorted(second.table.ids.values()) == sorted(first.table.ids.values()) == [1, 2, 3]
    assert second.moved == ()
    assert len(second.changed) == 2


def test_end_that_begins_to_redirect_moves_flows_out_of_the_other_ends_slot() -> None:
    agent = Agent()
    first = agent.to(SENDS)
    (sending,) = first.table.ids.values()
    second = agent.to(SENDS, receives("p", allow(None, GET_A)))
    assert agent.moved(second) == [("web", "any", "ingress", sending)]


def test_end_that_ceases_to_redirect_moves_flows_out_of_the_pair() -> None:
    agent = Agent()
    first = agent.to(SENDS, receives("p", allow(None, GET_A)))
    pair = next(number for key, number in first.table.ids.items() if key.egress and key.ingress)
    second = agent.to(SENDS)
    assert ("web", "any", "ingress", pair) in agent.moved(second)


def test_restart_keeps_known_ids_and_moves_nothing() -> None:
    agent = Agent()
    first = agent.to(receives("p", allow(FROM_CLIENT, GET_A)), receives("q", allow(FROM_OTHER, GET_B)))
    compiled = compile(world(receives("q", allow(FROM_OTHER, GET_B)), endpoints=PODS), agent.identities)
    again = assign(first.table, None, compiled)
    (key,) = again.table.ids
    assert again.table.ids[key] == first.table.ids[key]
    assert again.moved == ()
    assert len(again.table.resting) == 1


def slots_only(*names: str) -> CompiledPolicy:
    """Return a compiled policy that holds nothing but slots."""
    from l7filters.ir import DirectionRules, RuleSet

    slots = tuple(Slot(SlotKey(L7Protocol.HTTP, ingress=(name,)), None, DirectionRules(RuleSet())) for name in sorted(names))
    return CompiledPolicy(1, IdentityTable(), (), (), slots, (), ())


def test_ids_rest_until_released_and_are_handed_out_in_turn() -> None:
    table = assign(SlotTable(), None, slots_only("a:x", "b:x")).table
    table = assign(table, None, slots_only("b:x")).table
    table = assign(table, None, slots_only("b:x", "c:x")).table
    assert (sorted(table.ids.values()), table.resting, table.next_id) == ([2, 3], frozenset({1}), 4)
    near_end = SlotTable({}, frozenset(), SLOT_MAX)
    assert sorted(assign(near_end, None, slots_only("a:x", "b:x")).table.ids.values()) == [1, SLOT_MAX]
    assert table.release([1]).resting == frozenset()


def test_full_table_refuses_and_says_so() -> None:
    full = SlotTable(resting=frozenset(range(2, SLOT_MAX + 1)))
    found = assign(full, None, slots_only("cnp/default/a:spec.x", "cnp/default/b:spec.y"))
    assert list(found.table.ids.values()) == [1]
    assert found.refused == (SlotKey(L7Protocol.HTTP, ingress=("cnp/default/b:spec.y",)),)
    (problem,) = found.problems()
    assert (problem.policy, problem.path) == ("cnp/default/b", "spec.y")
    assert "no slot is free" in problem.message
    later = assign(found.table.release([7]), None, slots_only("cnp/default/a:spec.x", "cnp/default/b:spec.y"))
    assert sorted(later.table.ids.values()) == [1, 7]


def test_moved_member_tells_where() -> None:
    agent = Agent()
    agent.to(receives("p", allow(FROM_CLIENT, GET_A)))
    (member,) = agent.to(receives("p", allow(FROM_CLIENT, "80"))).moved
    assert agent.compiled is not None
    assert member == MovedMember(
        number_of(agent.compiled, WEB), number_of(agent.compiled, CLIENT), Direction.INGRESS, 6, 80, 16, 1
    )


TLS_A, TLS_B = TlsContext("default", "a"), TlsContext("default", "b")


def test_changed_tls_context_takes_a_new_id_because_a_chain_cannot_change_in_place() -> None:
    agent = Agent()
    first = agent.to(receives("p", allow(FROM_CLIENT, replace(GET_A, terminating=TLS_A))))
    second = agent.to(receives("p", allow(FROM_CLIENT, replace(GET_A, terminating=TLS_B))))
    assert first.table.ids.keys() == second.table.ids.keys()
    assert (list(first.table.ids.values()), list(second.table.ids.values())) == ([1], [2])
    assert second.table.resting == {1}
    assert agent.moved(second) == [("web", "client", "ingress", 1)]


def test_slot_of_another_protocol_does_not_inherit() -> None:
    agent = Agent()
    agent.to(receives("p", allow(FROM_CLIENT, To("443", names=("a.example",)))))
    second = agent.to(receives("p", allow(FROM_CLIENT, To("443", http=(http(),)))))
    assert (list(second.table.ids.values()), second.changed) == ([2], {})
    assert agent.moved(second) == [("web", "client", "ingress", 1)]


def readdressed(before: World, after: World) -> list[str]:
    """Return the prefixes that mean another identity after the change."""
    first = compile(before, IdentityTable())
    second = compile(after, first.identities)
    return [str(prefix) for prefix in assign(SlotTable(), first, second).readdressed]


def test_relabelled_pod_is_readdressed_though_no_entry_changed() -> None:
    before = (endpoint("web", ip="10.0.0.1"), endpoint("client", ip="10.0.0.2"), endpoint("spare", ip="10.0.0.3"))
    after = (endpoint("web", "app=client", ip="10.0.0.1"), endpoint("client", ip="10.0.0.2"), endpoint("spare", ip="10.0.0.3"))
    assert readdressed(world(endpoints=before), world(endpoints=after)) == ["10.0.0.1/32"]


def test_pods_that_come_and_go_are_not_readdressed() -> None:
    before = (endpoint("web", ip="10.0.0.1"), endpoint("client", ip="10.0.0.2"))
    after = (endpoint("web", ip="10.0.0.1"), endpoint("other", ip="10.0.0.3"))
    assert readdressed(world(endpoints=before), world(endpoints=after)) == []


def test_prefixes_that_policies_begin_or_cease_to_mention_are_readdressed() -> None:
    def mentioning(text: str) -> World:
        return world(policy("p", "app=web", egress=[allow(cidr(text))]), endpoints=PODS)

    assert readdressed(mentioning("10.0.0.0/8"), mentioning("10.1.0.0/16")) == ["10.0.0.0/8", "10.1.0.0/16"]
