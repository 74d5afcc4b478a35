"""The stream machine, rule by rule. ``FakeEnvoy`` polices the protocol in every one of these."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.support.fake_envoy import FakeEnvoy, resource
from xds_server.delta import (
    INTRODUCTION_NS,
    REMOVED,
    RESPONSE_BYTES_MAX,
    Accepted,
    Answered,
    Declared,
    DeltaStream,
    Forgotten,
    Pardoned,
    Refused,
    Request,
)
from xds_server.quarantine import REASON_CHARS_MAX, RETRY_NS_MAX, RETRY_NS_MIN, Quarantine
from xds_server.snapshot import Resource, ResourceKey, Snapshot, TypeUrl
from xds_server.subscription import NAMES_MAX, ProtocolViolation

CLUSTER, LISTENER, ROUTE, SECRET = TypeUrl.CLUSTER, TypeUrl.LISTENER, TypeUrl.ROUTE, TypeUrl.SECRET


def cluster(name: str, content: int | str = 1) -> Resource:
    return resource(CLUSTER, name, content)


def slot(name: str, content: int | str = 1, *, route_content: int | str = 1, to: str | None = None) -> list[Resource]:
    """A listener and the route it asks for, which may refer to a cluster."""
    references = [ResourceKey(CLUSTER, to)] if to is not None else []
    return [
        resource(LISTENER, name, content, [ResourceKey(ROUTE, name)]),
        resource(ROUTE, name, route_content, references),
    ]


def bad(item: Resource) -> bool:
    return item.version.startswith("vbad")


def settled(resources: Iterable[Resource]) -> FakeEnvoy:
    """A client that runs all of ``resources``."""
    envoy = FakeEnvoy(bad)
    envoy.connect()
    envoy.publish(resources)
    envoy.settle()
    return envoy


def test_a_client_gets_what_it_asks_for_and_routes_only_by_name() -> None:
    envoy = settled([cluster("a"), *slot("s"), resource(ROUTE, "unasked", 1)])
    assert envoy.sent_since(0) == [
        ("CLUSTER", ("a",), ()),
        ("LISTENER", ("s",), ()),
        ("ROUTE", ("s",), ()),
    ]
    assert Accepted(ResourceKey(ROUTE, "s"), "v1") in envoy.facts


def test_an_edit_is_one_response_with_one_resource() -> None:
    world = [cluster("a"), *slot("s"), *slot("t")]
    envoy = settled(world)
    envoy.publish([cluster("a"), *slot("s", route_content=2), *slot("t")])
    envoy.settle()
    assert envoy.sent_since(3) == [("ROUTE", ("s",), ())]


def test_an_equal_snapshot_says_nothing() -> None:
    world = [cluster("a"), *slot("s")]
    envoy = settled(world)
    count = len(envoy.responses)
    for _ in range(200):
        envoy.publish(list(world))
    envoy.sleep(RETRY_NS_MAX)
    assert envoy.sent_since(count) == []


def test_a_route_that_nobody_asked_for_costs_nothing() -> None:
    envoy = settled(slot("s"))
    count = len(envoy.responses)
    envoy.publish([*slot("s"), resource(ROUTE, "other", 1)])
    envoy.publish([*slot("s"), resource(ROUTE, "other", 2)])
    assert envoy.sent_since(count) == []


def test_before_the_first_snapshot_nothing_is_said_and_nothing_is_removed() -> None:
    envoy = settled([cluster("a"), *slot("s")])
    kept = envoy.snapshot
    assert kept is not None
    envoy.snapshot = None
    envoy.reconnect(new_server=True)
    envoy.settle()
    envoy.sleep(RETRY_NS_MAX)
    count = len(envoy.responses)
    assert count == 3
    envoy.publish(kept.values())
    envoy.settle()
    assert envoy.sent_since(count) == []


def test_an_empty_world_is_greeted_so_that_the_client_does_not_wait() -> None:
    envoy = settled([])
    assert envoy.sent_since(0) == [("CLUSTER", (), ()), ("LISTENER", (), ())]
    envoy.publish([])
    assert len(envoy.responses) == 2


def test_a_slow_client_gets_the_latest_state_when_it_answers_not_a_backlog() -> None:
    envoy = settled([cluster("a", 0)])
    for content in range(1, 50):
        envoy.publish([cluster("a", content)])
    assert len(envoy.to_client) == 1
    count = len(envoy.responses)
    envoy.settle()
    assert [item.version for response in envoy.responses[count:] for item in response.resources] == ["v49"]
    assert envoy.runs(CLUSTER) == {"a": "v49"}


def test_a_reconnect_with_everything_current_is_silent() -> None:
    envoy = settled([cluster("a"), *slot("s"), *slot("t")])
    count = len(envoy.responses)
    for new_server in (False, True):
        envoy.reconnect(new_server=new_server)
        envoy.settle()
    assert envoy.sent_since(count) == []
    assert Declared(ResourceKey(ROUTE, "t"), "v1") in envoy.facts


def test_a_reconnect_sends_only_what_changed_and_removes_what_went() -> None:
    envoy = settled([cluster("a"), cluster("b"), *slot("s")])
    envoy.machine = DeltaStream()
    envoy.publish([cluster("a", 2), *slot("s")])
    count = len(envoy.responses)
    envoy.reconnect(new_server=True)
    envoy.settle()
    envoy.sleep(INTRODUCTION_NS)
    assert envoy.sent_since(count) == [("CLUSTER", ("a",), ()), ("CLUSTER", (), ("b",))]


def test_a_name_that_does_not_exist_is_answered_as_removed_and_comes_when_it_exists() -> None:
    envoy = settled([])
    envoy.subscribe(SECRET, "s")
    envoy.settle()
    envoy.publish([resource(SECRET, "s", 1)])
    envoy.settle()
    assert envoy.sent_since(2) == [("SECRET", (), ("s",)), ("SECRET", ("s",), ())]


def test_a_repeated_subscription_is_answered_again() -> None:
    envoy = settled([resource(SECRET, "s", 1)])
    envoy.subscribe(SECRET, "s")
    envoy.settle()
    envoy.subscribe(SECRET, "s")
    envoy.settle()
    assert envoy.sent_since(2) == [("SECRET", ("s",), ())] * 2


def test_after_an_unsubscription_changes_of_the_name_are_not_sent() -> None:
    envoy = settled([resource(SECRET, "s", 1)])
    envoy.subscribe(SECRET, "s")
    envoy.settle()
    envoy.unsubscribe(SECRET, "s")
    envoy.settle()
    count = len(envoy.responses)
    envoy.publish([resource(SECRET, "s", 2)])
    assert envoy.sent_since(count) == []
    assert envoy.facts[-1] == Forgotten(ResourceKey(SECRET, "s"))


def test_unsubscribing_a_name_under_a_wildcard_is_answered_since_the_client_can_not_know() -> None:
    envoy = settled([cluster("a")])
    envoy.subscribe(CLUSTER, "a", "b")
    envoy.settle()
    count = len(envoy.responses)
    envoy.unsubscribe(CLUSTER, "a", "b")
    envoy.settle()
    assert envoy.sent_since(count) == [("CLUSTER", ("a",), ()), ("CLUSTER", (), ("b",))]
    assert envoy.runs(CLUSTER) == {"a": "v1"}


def test_additions_go_out_in_the_order_of_types_and_removals_in_reverse_after_the_ack() -> None:
    envoy = settled([cluster("old"), *slot("s", to="old")])
    envoy.sleep(INTRODUCTION_NS)
    count = len(envoy.responses)
    envoy.publish([cluster("new"), *slot("s", 2, route_content=2, to="new")])
    assert envoy.sent_since(count) == [("CLUSTER", ("new",), ()), ("LISTENER", ("s",), ()), ("ROUTE", ("s",), ())]
    envoy.settle()
    assert envoy.sent_since(count + 3) == [("CLUSTER", (), ("old",))]


def test_a_removal_waits_while_the_last_good_version_of_something_refused_refers_to_it() -> None:
    envoy = settled([cluster("old"), *slot("s", to="old")])
    envoy.sleep(INTRODUCTION_NS)
    envoy.publish([cluster("new"), *slot("s", route_content="bad", to="new")])
    envoy.settle()
    assert envoy.runs(CLUSTER) == {"old": "v1", "new": "v1"}
    envoy.publish([cluster("new"), *slot("s", route_content=2, to="new")])
    envoy.settle()
    assert envoy.runs(CLUSTER) == {"new": "v1"}


def test_a_resource_waits_for_the_cluster_it_refers_to_while_that_can_not_be_sent_yet() -> None:
    envoy = settled([cluster("a"), *slot("s")])
    envoy.publish([cluster("a", 2), *slot("s")])
    # The client is slow to answer for clusters; the new one has to wait for that, and so has who needs it, and nobody else.
    envoy.publish([cluster("a", 2), cluster("b"), *slot("s", route_content=2, to="b"), *slot("t")])
    assert envoy.sent_since(3) == [("CLUSTER", ("a",), ()), ("LISTENER", ("t",), ())]
    envoy.settle()
    assert envoy.runs(ROUTE) == {"s": "v2", "t": "v1"}


def test_just_after_a_reconnect_nothing_is_removed_that_may_still_be_referred_to() -> None:
    envoy = settled([cluster("a"), *slot("s", to="a")])
    envoy.machine = DeltaStream()
    envoy.publish([])
    count = len(envoy.responses)
    envoy.reconnect(new_server=True)
    envoy.deliver_to_server(CLUSTER)
    assert envoy.sent_since(count) == []
    assert envoy.machine.wake_at_ns == envoy.now_ns + INTRODUCTION_NS
    envoy.settle()
    envoy.sleep(INTRODUCTION_NS)
    envoy.settle()
    assert envoy.runs(CLUSTER) == envoy.runs(LISTENER) == envoy.runs(ROUTE) == {}


def test_a_refusal_that_names_resources_quarantines_those_and_confirms_the_others_at_once() -> None:
    envoy = settled([*slot("s"), *slot("s1", "bad"), *slot("t"), *slot("u", "bad-2")])
    assert envoy.sent_since(1)[:2] == [("LISTENER", ("s", "s1", "t", "u"), ()), ("LISTENER", ("s", "t"), ())]
    refused = [fact for fact in envoy.facts if isinstance(fact, Refused)]
    assert refused == [
        Refused(ResourceKey(LISTENER, "s1"), "vbad", "s1x: no"),
        Refused(ResourceKey(LISTENER, "u"), "vbad-2", "ux: no"),
    ]
    assert Answered(LISTENER, accepted=False) in envoy.facts
    assert envoy.runs(LISTENER) == {"s": "v1", "t": "v1"}


def test_a_refusal_without_names_is_halved_until_the_bad_ones_are_alone() -> None:
    names = [f"s{number:02}" for number in range(32)]
    envoy = settled([item for name in names for item in slot(name)])
    count = len(envoy.responses)
    envoy.publish([item for name in names for item in slot(name, route_content="bad" if name in ("s05", "s20") else 2)])
    envoy.settle()
    assert envoy.runs(ROUTE) == {name: "v1" if name in ("s05", "s20") else "v2" for name in names}
    assert set(envoy.machine.legacy().quarantined) == {ResourceKey(ROUTE, "s05"), ResourceKey(ROUTE, "s20")}
    assert len(envoy.responses) - count <= 1 + 2 * 2 * 5, "logarithmic, not one by one"


def test_a_refused_version_comes_back_alone_after_a_wait_that_doubles_up_to_a_cap() -> None:
    envoy = settled([cluster("a"), cluster("b", "bad")])
    sends: list[int] = []
    for _ in range(12):
        wake_at_ns = envoy.machine.wake_at_ns
        assert wake_at_ns is not None
        count = len(envoy.responses)
        envoy.sleep(wake_at_ns - envoy.now_ns - 1)
        assert envoy.sent_since(count) == []
        envoy.sleep(1)
        assert envoy.sent_since(count) == [("CLUSTER", ("b",), ())]
        sends.append(envoy.now_ns)
        envoy.settle()
    waits = [later - earlier for earlier, later in zip([0, *sends], sends, strict=False)]
    assert waits == [min(RETRY_NS_MIN * 2**attempt, RETRY_NS_MAX) for attempt in range(12)]


def test_a_new_version_of_a_refused_resource_goes_out_at_once() -> None:
    envoy = settled([cluster("b", "bad")])
    envoy.publish([cluster("b", 2)])
    envoy.settle()
    assert envoy.runs(CLUSTER) == {"b": "v2"}
    assert envoy.machine.legacy().quarantined == {}
    assert envoy.machine.wake_at_ns is None


def test_taking_back_a_refused_edit_is_confirmed_by_the_client() -> None:
    envoy = settled([cluster("b", 1)])
    envoy.publish([cluster("b", "bad")])
    envoy.settle()
    count = len(envoy.responses)
    envoy.publish([cluster("b", 1)])
    envoy.settle()
    # The client holds it already, as far as one can know; only its ACK makes that sure.
    assert envoy.sent_since(count) == [("CLUSTER", ("b",), ())]
    assert envoy.facts[-1] == Accepted(ResourceKey(CLUSTER, "b"), "v1")


def test_a_reconnect_is_no_way_around_the_back_off() -> None:
    envoy = settled([cluster("a"), cluster("b", "bad"), *slot("s")])
    count = len(envoy.responses)
    envoy.reconnect()
    envoy.settle()
    assert envoy.sent_since(count) == []
    assert envoy.machine.wake_at_ns is not None


def test_what_was_applied_out_of_a_refused_response_is_taken_back_even_across_a_reconnect() -> None:
    envoy = settled([cluster("a", 1), cluster("b", 1)])
    envoy.publish([cluster("a", 2), cluster("b", "bad"), cluster("new", 1)])
    envoy.deliver_to_client()
    assert envoy.runs(CLUSTER) == {"a": "v2", "b": "v1", "new": "v1"}
    # The refusal is lost with the stream; the client will declare "a" at v1 and say nothing of "new".
    envoy.reconnect()
    envoy.publish([cluster("a", 1), cluster("b", 1)])
    envoy.heal()
    assert envoy.runs(CLUSTER) == {"a": "v1", "b": "v1"}


def test_suspects_that_were_still_waiting_when_the_stream_broke_are_taken_back_too() -> None:
    names = ("s0", "s1", "s2", "s3")
    before = [item for name in names for item in slot(name)]
    envoy = settled(before)
    envoy.publish([item for name in names for item in slot(name, route_content="bad" if name == "s1" else 2)])
    envoy.deliver_to_client()
    envoy.deliver_to_server(ROUTE)
    # The first half is on its way again, the second waits; of that the client has applied "s2" without saying so.
    assert envoy.sent_since(len(envoy.responses) - 1) == [("ROUTE", ("s0", "s1"), ())]
    assert envoy.runs(ROUTE)["s2"] == "v2"
    envoy.reconnect()
    envoy.publish(before)
    envoy.heal()
    assert envoy.runs(ROUTE) == dict.fromkeys(names, "v1")


def test_a_subscription_is_not_answered_by_what_was_sent_before_it_came() -> None:
    machine = DeltaStream()
    machine.publish(Snapshot([resource(SECRET, "a", 1)]), 0)
    (first,) = machine.request(Request(type_url=SECRET, subscribe=("a",)), 0).responses
    assert machine.request(Request(type_url=SECRET, unsubscribe=("a",)), 0).responses == ()
    assert machine.request(Request(type_url=SECRET, subscribe=("a",)), 0).responses == ()
    (again,) = machine.request(Request(type_url=SECRET, nonce=first.nonce), 0).responses
    assert [item.name for item in again.resources] == ["a"]
    assert machine.request(Request(type_url=SECRET, nonce=again.nonce), 0).responses == ()


def test_a_brought_along_version_that_becomes_current_again_holds_nothing_back_any_more() -> None:
    envoy = settled([cluster("a"), *slot("s")])
    brought_along = envoy.snapshot
    assert brought_along is not None
    envoy.machine = DeltaStream()
    # The route must wait for a cluster that must wait for an answer; before it is sent, its edit is taken back.
    envoy.publish([cluster("a", 2), *slot("s", route_content=2)])
    envoy.reconnect(new_server=True)
    for type_url in (CLUSTER, LISTENER):
        envoy.deliver_to_server(type_url)
    envoy.publish([cluster("a", 2), cluster("b"), *slot("s", route_content=2, to="b")])
    envoy.deliver_to_server(ROUTE)
    envoy.publish([cluster("a", 2), *slot("s")])
    envoy.settle()
    envoy.sleep(INTRODUCTION_NS)
    envoy.publish(slot("s"))
    envoy.settle()
    assert envoy.runs(CLUSTER) == {}


def test_a_removal_waits_for_the_answer_to_what_refers_to_it_and_is_on_its_way() -> None:
    envoy = settled([cluster("a"), *slot("s"), *slot("t")])
    envoy.sleep(INTRODUCTION_NS)
    # The route that refers to the cluster is sent, and at once nobody wants either any more.
    envoy.publish([cluster("a"), *slot("s", route_content=2, to="a"), *slot("t")])
    count = len(envoy.responses)
    envoy.publish([*slot("s"), *slot("t")])
    assert envoy.sent_since(count) == []
    envoy.settle()
    assert envoy.sent_since(count) == [("ROUTE", ("s",), ()), ("CLUSTER", (), ("a",))]


def test_what_a_client_brings_to_the_same_server_is_known_with_its_references() -> None:
    envoy = settled([cluster("a"), cluster("b"), *slot("s", to="a")])
    # The client takes one more edit whose ACK is lost with the stream.
    envoy.publish([cluster("a"), cluster("b"), *slot("s", route_content=2, to="b")])
    envoy.deliver_to_client()
    assert envoy.runs(ROUTE) == {"s": "v2"}
    envoy.reconnect()
    envoy.publish([cluster("c"), *slot("s", route_content="bad", to="c")])
    envoy.heal()
    # Its last good route refers to "b" alone: that stays, and "a", which an unknown route might need, can go.
    assert envoy.runs(ROUTE) == {"s": "v2"}
    assert envoy.runs(CLUSTER) == {"b": "v1", "c": "v1"}


def test_a_resource_waits_for_a_cluster_whose_removal_is_on_its_way() -> None:
    envoy = settled([cluster("a"), *slot("s")])
    envoy.sleep(INTRODUCTION_NS)
    envoy.publish(slot("s"))
    count = len(envoy.responses)
    envoy.publish([cluster("a"), *slot("s", route_content=2, to="a")])
    assert envoy.sent_since(count) == []
    envoy.settle()
    assert envoy.sent_since(count) == [("CLUSTER", ("a",), ()), ("ROUTE", ("s",), ())]


def test_inherited_refusals_that_concern_nobody_any_more_are_pardoned() -> None:
    envoy = settled([*slot("s", route_content="bad")])
    key = ResourceKey(ROUTE, "s")
    assert set(envoy.machine.legacy().quarantined) == {key}
    machine = DeltaStream(envoy.machine.legacy())
    assert machine.publish(Snapshot(slot("s", route_content="bad")), envoy.now_ns).facts == ()
    assert machine.publish(Snapshot(slot("s", route_content=2)), envoy.now_ns).facts == (Pardoned(key),)
    assert machine.legacy().quarantined == {}


def test_an_answer_to_an_unknown_nonce_is_no_answer() -> None:
    envoy = settled([])
    envoy.publish([cluster("a")])
    for nonce in ("0", "77", "nonsense"):
        output = envoy.machine.request(Request(type_url=CLUSTER, nonce=nonce, error="stale"), envoy.now_ns)
        assert output.facts == ()
        assert output.responses == ()
    envoy.settle()
    assert envoy.runs(CLUSTER) == {"a": "v1"}


def test_an_answer_and_a_new_subscription_can_come_in_one_message() -> None:
    machine = DeltaStream()
    machine.publish(Snapshot([resource(SECRET, "a", 1), resource(SECRET, "b", 1)]), 0)
    (first,) = machine.request(Request(type_url=SECRET, subscribe=("a",)), 0).responses
    output = machine.request(Request(type_url=SECRET, subscribe=("b", "a"), nonce=first.nonce), 0)
    assert output.facts == (Answered(SECRET, accepted=True), Accepted(ResourceKey(SECRET, "a"), "v1"))
    assert [item.name for item in output.responses[0].resources] == ["a", "b"]


def test_a_client_can_leave_the_wildcard_and_keep_a_name() -> None:
    machine = DeltaStream()
    machine.publish(Snapshot([cluster("a"), cluster("b")]), 0)
    (first,) = machine.request(Request(type_url=CLUSTER, subscribe=("*", "a")), 0).responses
    machine.request(Request(type_url=CLUSTER, nonce=first.nonce), 0)
    output = machine.request(Request(type_url=CLUSTER, unsubscribe=("*",)), 0)
    assert Forgotten(ResourceKey(CLUSTER, "b")) in output.facts
    changed = machine.publish(Snapshot([cluster("a", 2), cluster("b", 2)]), 0)
    assert [item.name for response in changed.responses for item in response.resources] == ["a"]


def test_large_changes_are_cut_into_responses_that_follow_each_other() -> None:
    body = bytes(RESPONSE_BYTES_MAX // 2)
    large = [Resource(type_url=CLUSTER, name=str(number), version="v1", body=body) for number in range(5)]
    envoy = settled(large)
    assert [added for _, added, _ in envoy.sent_since(0) if added] == [("0", "1"), ("2", "3"), ("4",)]
    assert len(envoy.runs(CLUSTER)) == 5


def test_more_names_than_can_be_is_a_violation() -> None:
    machine = DeltaStream()
    with pytest.raises(ProtocolViolation):
        machine.request(Request(type_url=SECRET, subscribe=tuple(str(number) for number in range(NAMES_MAX + 1))), 0)


def test_the_removal_of_a_waited_for_resource_is_a_fact() -> None:
    envoy = settled([cluster("a")])
    envoy.sleep(INTRODUCTION_NS)
    envoy.publish([])
    envoy.settle()
    assert Accepted(ResourceKey(CLUSTER, "a"), REMOVED) in envoy.facts


def test_reasons_are_cut() -> None:
    entry = Quarantine().refuse(ResourceKey(CLUSTER, "a"), "v1", "x" * 10_000, 0)
    assert len(entry.reason) == REASON_CHARS_MAX
