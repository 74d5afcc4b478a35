"""Who has accepted what: every connected client counts, and a wait ends as soon as nothing is left to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from xds_server.acks import AckBoard, AckReport, Nack, StreamId
from xds_server.delta import REMOVED, Accepted, Answered, Declared, Forgotten, Pardoned, Refused
from xds_server.snapshot import ResourceKey, TypeUrl

A = ResourceKey(TypeUrl.LISTENER, "a")
B = ResourceKey(TypeUrl.ROUTE, "b")
ONE, TWO = StreamId(1), StreamId(2)
LONG_S = 5.0


def board_of(*streams: StreamId) -> AckBoard:
    board = AckBoard()
    for stream in streams:
        board.open(stream)
    return board


def waited(
    board: AckBoard, wanted: Mapping[ResourceKey, str], *steps: Callable[[], None], timeout_s: float = LONG_S
) -> AckReport:
    """Start to wait, take the steps, and give the report; fails if all steps don't end the wait."""

    async def run() -> AckReport:
        waiting = asyncio.create_task(board.wait_for(wanted, timeout_s))
        for step in steps:
            await asyncio.sleep(0)
            assert not waiting.done()
            step()
        async with asyncio.timeout(LONG_S):
            return await waiting

    return asyncio.run(run())


def test_a_wait_ends_when_every_connected_client_has_accepted() -> None:
    board = board_of(ONE, TWO)
    report = waited(
        board,
        {A: "v1"},
        lambda: board.apply(ONE, [Accepted(A, "v1")]),
        lambda: board.apply(TWO, [Accepted(A, "v0")]),
        lambda: board.apply(TWO, [Declared(A, "v1")]),
    )
    assert report == AckReport(acked=frozenset({A}))
    assert report.complete


def test_a_client_that_connects_during_a_wait_is_waited_for_too() -> None:
    board = board_of(ONE)
    report = waited(
        board,
        {A: "v1", B: "v1"},
        lambda: board.apply(ONE, [Accepted(A, "v1")]),
        lambda: board.open(TWO),
        lambda: board.apply(ONE, [Accepted(B, "v1")]),
        lambda: board.apply(TWO, [Accepted(A, "v1"), Accepted(B, "v1")]),
    )
    assert report.complete


def test_a_client_that_goes_is_not_waited_for() -> None:
    board = board_of(ONE, TWO)
    report = waited(board, {A: "v1"}, lambda: board.apply(ONE, [Accepted(A, "v1")]), lambda: board.close(TWO))
    assert report.complete


def test_a_refusal_goes_with_the_client_that_made_it() -> None:
    board = board_of(ONE, TWO)
    report = waited(
        board,
        {A: "v1", B: "v1"},
        lambda: board.apply(TWO, [Refused(A, "v1", "no")]),
        lambda: board.close(TWO),
        lambda: board.apply(ONE, [Accepted(B, "v1")]),
        lambda: board.apply(ONE, [Accepted(A, "v1")]),
    )
    assert report.complete


def test_a_refusal_ends_the_wait_with_its_reason_and_only_for_that_version() -> None:
    board = board_of(ONE, TWO)
    report = waited(
        board,
        {A: "v2", B: "v1"},
        lambda: board.apply(ONE, [Accepted(B, "v1"), Answered(TypeUrl.ROUTE, True)]),
        lambda: board.apply(TWO, [Accepted(B, "v1")]),
        lambda: board.apply(ONE, [Refused(A, "v1", "old news")]),
        lambda: board.apply(TWO, [Refused(A, "v2", "no such filter")]),
    )
    assert report == AckReport(acked=frozenset({B}), nacked={A: "no such filter"})
    assert not report.complete


def test_with_nobody_connected_everything_is_pending_when_the_time_is_up() -> None:
    assert waited(AckBoard(), {A: "v1", B: REMOVED}, timeout_s=0.01) == AckReport(pending=frozenset({A, B}))


def test_waiting_for_nothing_is_over_at_once() -> None:
    assert waited(AckBoard(), {}).complete


def test_a_version_that_a_later_snapshot_replaces_is_superseded() -> None:
    board = board_of(ONE)
    report = waited(
        board,
        {A: "v1", B: "v1"},
        lambda: board.retarget({A: "v2"}),
        lambda: board.apply(ONE, [Accepted(B, "v1")]),
    )
    assert report == AckReport(acked=frozenset({B}), superseded=frozenset({A}))


def test_a_version_that_is_wanted_again_is_waited_for_again() -> None:
    board = board_of(ONE)
    report = waited(
        board,
        {A: "v1", B: "v1"},
        lambda: board.retarget({A: "v2"}),
        lambda: board.retarget({A: "v1"}),
        lambda: board.apply(ONE, [Accepted(B, "v1")]),
        lambda: board.apply(ONE, [Accepted(A, "v1")]),
    )
    assert report.complete


def test_a_removal_is_accepted_when_nobody_holds_the_resource() -> None:
    board = board_of(ONE)
    board.apply(ONE, [Accepted(A, "v1"), Accepted(B, "v1")])
    report = waited(
        board,
        {A: REMOVED, B: REMOVED},
        lambda: board.apply(ONE, [Accepted(A, REMOVED)]),
        lambda: board.apply(ONE, [Forgotten(B)]),
    )
    assert report.complete


def test_refusals_stand_until_accepted_pardoned_or_forgotten_and_outlive_the_last_client() -> None:
    board = board_of(ONE)
    keys = [ResourceKey(TypeUrl.CLUSTER, str(number)) for number in range(5)]
    board.apply(ONE, [Refused(key, "v1", "no") for key in keys])
    board.apply(ONE, [Accepted(keys[0], "v2"), Pardoned(keys[1]), Forgotten(keys[2]), Declared(keys[3], "v0")])
    standing = {keys[3]: Nack("v1", "no"), keys[4]: Nack("v1", "no")}
    assert board.nacks() == standing
    board.close(ONE)
    assert board.nacks() == standing
    board.open(TWO)
    assert board.nacks() == {}


def test_a_wait_that_is_cancelled_leaves_nothing_behind() -> None:
    board = board_of(ONE)

    async def run() -> None:
        waiting = asyncio.create_task(board.wait_for({A: "v1"}, LONG_S))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()

    asyncio.run(run())
    assert board._waiters == set()
