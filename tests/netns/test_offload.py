"""A peer whose requests are denied too often is dropped in the kernel, by Envoy's module alone: it costs Envoy nothing more."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from bpf_redirect import bpf
from bpf_redirect.maps import Map
from bpf_redirect.offload import OffloadedPeer, read_offloaded
from tests.support.node import eventually
from tests.support.pod import Failed
from tests.support.stage import DEATHSTAR, DENIED_SECONDS, FALCON, HTTP, TIEFIGHTER, XWING, Document, Stage, from_endpoints, http
from tests.support.stage import tidegate_policy as policy

pytestmark = [pytest.mark.root, pytest.mark.envoy]

DENIES_PER_SECOND = 20
SECONDS = 6
TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def own_stage() -> Iterator[Stage]:
    with Stage(prefix="tgoff", config={"envoy": {"concurrency": 2, "baseId": os.getpid() % 30000 * 10 + 8}}) as stage:
        yield stage


def get_only(**more: object) -> Document:
    peers = from_endpoints(XWING, TIEFIGHTER, FALCON)
    rule = {"fromEndpoints": peers, "toPorts": http({"method": {"exact": "GET"}})}
    return policy("get-only", DEATHSTAR, ingress=[rule], **more)


def offloaded(stage: Stage) -> dict[str, OffloadedPeer]:
    """Who is dropped, straight from the kernel: there may be no agent to ask."""
    pinned = next(stage.node.pin_root.glob("v*/maps/tg_offload"))
    fd = bpf.get(str(pinned))
    try:
        return {str(peer.source): peer for peer in read_offloaded(Map("tg_offload", fd, bpf.map_info(fd)))}
    finally:
        os.close(fd)


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_SECONDS


def denied_by_envoy(stage: Stage) -> int:
    return sum(row["requests"] for row in stage.node.counts()["counts"] if row["verdict"] == "denied")


@pytest.mark.parametrize("who", ["xwing", "falcon"])
def test_a_flood_of_denied_requests_ends_at_the_hook_and_others_are_served(own_stage: Stage, who: str, family: int) -> None:
    stage = own_stage
    stage.enforce(get_only(offload={"deniesPerSecond": DENIES_PER_SECOND, "seconds": SECONDS}))
    flooding = getattr(stage, who)
    address = flooding.address(family)
    url = stage.deathstar.url(HTTP, family=family)
    assert flooding.http(url).status == 200
    assert address not in offloaded(stage)
    load = flooding.load(url, connections=4, method="PUT")
    eventually(lambda: address in offloaded(stage), 20, "the flood to be dropped")
    eventually(lambda: offloaded(stage)[address].packets > 4, 20, "packets to be dropped")
    envoy = stage.node.envoy_pid()
    denied, used, dropped = denied_by_envoy(stage), cpu_seconds(envoy), offloaded(stage)[address].packets
    # What the clients' kernels send again meets the same end; none of it is a request that Envoy sees.
    eventually(lambda: offloaded(stage)[address].packets > dropped + 4, SECONDS, "more packets to be dropped")
    assert denied_by_envoy(stage) == denied
    assert cpu_seconds(envoy) - used < 0.1
    with pytest.raises(Failed):
        flooding.http(url, timeout=DENIED_SECONDS)
    assert stage.tiefighter.http(url).status == 200
    assert stage.tiefighter.http(url, "PUT").status == 403, "one denial is none too many"
    reasons = {drop["reason"]: drop["packets"] for drop in stage.node.status()["drops"]}
    assert reasons["offloaded"] > 0
    told = [flow for flow in stage.node.flows("--verdict", "dropped", "--last", "200") if "OFFLOADED" in str(flow)]
    assert told, "a drop has its record"
    load.stop()
    eventually(lambda: _status(flooding, url) == 200, SECONDS + 5, "the end of its time")


def _status(pod: object, url: str) -> int | str:
    try:
        return int(pod.http(url, timeout=DENIED_SECONDS).status)  # type: ignore[attr-defined]
    except Failed as failed:
        return failed.kind


def test_offload_needs_no_agent_and_ends_when_the_policy_says_so(own_stage: Stage) -> None:
    stage = own_stage
    stage.enforce(get_only(offload={"deniesPerSecond": DENIES_PER_SECOND, "seconds": 3600}))
    url, address = stage.deathstar.url(HTTP), stage.xwing.ipv4
    assert stage.node.stop(signal.SIGKILL) == -signal.SIGKILL
    load = stage.xwing.load(url, connections=2, method="PUT")
    eventually(lambda: address in offloaded(stage) and offloaded(stage)[address].packets > 2, 20, "the flood to be dropped")
    assert stage.tiefighter.http(url).status == 200
    stage.node.start()
    stage.node.wait_ready()
    assert _status(stage.xwing, url) == "timeout", "an agent that starts forgives nobody"
    stage.forget()
    stage.enforce(get_only())
    load.stop()
    assert _status(stage.xwing, url) == 200


def test_below_the_limit_nobody_is_dropped(own_stage: Stage) -> None:
    stage = own_stage
    stage.enforce(get_only(offload={"deniesPerSecond": 50, "seconds": SECONDS}))
    url = stage.deathstar.url(HTTP)
    connection = stage.tiefighter.connect(url)
    for _ in range(50):
        assert connection.request(method="PUT").status == 403
    connection.close()
    assert stage.tiefighter.ipv4 not in offloaded(stage)
