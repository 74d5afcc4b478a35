"""The token bucket of verdict events, by BPF_PROG_TEST_RUN: a storm of what is allowed can't silence what is denied."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from bpf_redirect import abi, bpf
from bpf_redirect.abi import DropReason, PassReason
from bpf_redirect.events import VerdictEvent
from tests.bpf import packets as p
from tests.bpf.arena import Arena

pytestmark = pytest.mark.root

PORT = 8080
RATE = 100
"""Tokens a second; the first packet finds a second's worth. TG_ALLOWED_COST is ten times TG_DENIED_COST."""
STORM = 300
STORM_SECONDS_MAX = 5.0
REFILL_SECONDS = 0.05


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    """Two pods and a small bucket."""
    with Arena("event", events_per_second=RATE, events_burst=RATE) as made:
        made.pod("a")
        made.pod("b")
        made.world(uplink=False)
        yield made


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """The bucket is each CPU's own."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def send(arena: Arena, destination: str, source_port: int) -> None:
    """One SYN out of pod a."""
    program = bpf.get(f"{arena.datapath.settings.pin_root}/v{abi.ABI_VERSION}/programs/tg_from_endp")
    try:
        packet = p.ip(arena.cluster.pods["a"].ipv4, destination, p.TCP, p.tcp(source_port, PORT))
        bpf.program_run(program, packet, p.skb_context(ifindex=arena.ifindexes["a"]))
    finally:
        os.close(program)


def told(arena: Arena, reason: PassReason | DropReason) -> int:
    """How many events of a reason about our SYNs came since the last call."""
    with arena.datapath.events() as reader:
        events: list[VerdictEvent] = list(reader.read(10 * STORM))
    return sum(event.reason is reason and event.destination_port == PORT for event in events)


@pytest.mark.usefixtures("one_cpu")
def test_a_storm_of_allowed_flows_leaves_the_denied_their_events(arena: Arena) -> None:
    arena.reset()
    arena.open_all("a", "b")
    arena.apply()
    begin = time.monotonic()
    for number in range(STORM):
        send(arena, arena.cluster.pods["b"].ipv4, 10000 + number)
    seconds = time.monotonic() - begin
    assert seconds < STORM_SECONDS_MAX, "too slow to be a storm"
    afforded = RATE * (1 + seconds) / 10
    assert afforded * 0.8 <= told(arena, PassReason.FORWARDED) <= afforded + 1
    arena.closed.add("a")
    arena.apply()
    # Too short for the bucket to earn what an allowed one costs, long enough for a denied one.
    until = time.monotonic() + REFILL_SECONDS
    while time.monotonic() < until:
        send(arena, arena.cluster.pods["b"].ipv4, 20000)
    assert told(arena, DropReason.NOT_READY) >= 1
