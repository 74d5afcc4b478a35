"""The flow ring, its followers and filters."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.tidegate.fakes import NOON_NS, denied_request, packet
from tidegate.flows.filter import FlowFilter
from tidegate.flows.record import Flow, Verdict
from tidegate.flows.ring import SUBSCRIBERS_MAX, FlowRing, LossSource, TooManySubscribers

ANY = FlowFilter()


def numbered(number: int) -> Flow:
    return packet(time_ns=NOON_NS + number)


def test_ring_keeps_the_newest() -> None:
    ring = FlowRing(3)
    for number in range(5):
        ring.publish(numbered(number))
    assert [flow.time_ns - NOON_NS for flow in ring.recent(ANY)] == [2, 3, 4]
    assert ring.seen == {Verdict.FORWARDED: 5}


def test_last_counts_after_the_filter() -> None:
    ring = FlowRing(10)
    for flow in (denied_request(time_ns=NOON_NS), numbered(1), denied_request(time_ns=NOON_NS + 2), numbered(3)):
        ring.publish(flow)
    denied = FlowFilter(verdicts=frozenset({Verdict.DENIED}))
    assert [flow.time_ns - NOON_NS for flow in ring.recent(denied, 1)] == [2]
    assert [flow.time_ns - NOON_NS for flow in ring.recent(denied, 5)] == [0, 2]
    assert ring.recent(ANY, 0) == ()


def test_subscriber_gets_what_it_wants_in_order() -> None:
    async def scenario() -> None:
        ring = FlowRing(2)
        with ring.subscribe(FlowFilter(verdicts=frozenset({Verdict.FORWARDED}))) as subscription:
            for flow in (numbered(1), denied_request(), numbered(2), numbered(3)):
                ring.publish(flow)
            flows, lost = await subscription.batch()
            assert [flow.time_ns - NOON_NS for flow in flows] == [1, 2, 3]
            assert lost == 0

    asyncio.run(scenario())


def test_slow_subscriber_loses_its_oldest_and_hurts_nobody() -> None:
    async def scenario() -> None:
        ring = FlowRing(100, queue_max=3)
        with ring.subscribe(ANY) as slow, ring.subscribe(ANY) as quick:
            quickly: list[Flow] = []
            for number in range(10):
                ring.publish(numbered(number))
                flows, lost = await quick.batch()
                assert lost == 0
                quickly += flows
            flows, lost = await slow.batch()
            assert [flow.time_ns - NOON_NS for flow in flows] == [7, 8, 9]
            assert lost == 7
            assert len(quickly) == 10
            ring.publish(numbered(10))
            assert await slow.batch() == ((numbered(10),), 0)
        assert ring.lost == {
            LossSource.BPF: 0,
            LossSource.ACCESS_LOG: 0,
            LossSource.SUBSCRIBER: 7,
            LossSource.FILE: 0,
            LossSource.DNS: 0,
        }

    asyncio.run(scenario())


def test_subscriber_waits_until_there_is_something() -> None:
    async def scenario() -> None:
        ring = FlowRing(2)
        with ring.subscribe(ANY) as subscription:
            waiting = asyncio.create_task(subscription.batch())
            await asyncio.sleep(0)
            assert not waiting.done()
            ring.publish(numbered(1))
            assert await waiting == ((numbered(1),), 0)

    asyncio.run(scenario())


def test_followers_are_counted_and_told() -> None:
    async def scenario() -> None:
        counts: list[int] = []
        ring = FlowRing(2, on_followers=counts.append)
        with ring.subscribe(ANY):
            with ring.subscribe(ANY):
                assert ring.follower_count == 2
            ring.publish(numbered(1))
        assert counts == [1, 2, 1, 0]

    asyncio.run(scenario())


def test_follower_beyond_the_limit_is_refused() -> None:
    async def scenario() -> None:
        ring = FlowRing(2)
        for _ in range(SUBSCRIBERS_MAX):
            ring.subscribe(ANY)
        with pytest.raises(TooManySubscribers):
            ring.subscribe(ANY)

    asyncio.run(scenario())


def test_losses_elsewhere_are_added_up() -> None:
    ring = FlowRing(2)
    ring.report_lost(LossSource.BPF, 3)
    ring.report_lost(LossSource.BPF, 4)
    assert ring.lost[LossSource.BPF] == 7


def test_record_is_found_by_its_id_while_it_is_kept() -> None:
    ring = FlowRing(2)
    for number in range(3):
        ring.publish(packet(uuid=str(number)))
    assert ring.find("0") is None
    assert ring.find("2") == packet(uuid="2")


def test_taps_get_every_record_and_their_losses_are_counted() -> None:
    ring, taken = FlowRing(1), list[Flow]()
    ring.tap(taken.append)
    ring.count_losses(LossSource.FILE, lambda: 5)
    for number in range(3):
        ring.publish(numbered(number))
    assert taken == [numbered(number) for number in range(3)]
    assert ring.lost[LossSource.FILE] == 5
