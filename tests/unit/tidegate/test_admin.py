"""The admin API and its client, over a real socket."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from l7filters.world import Endpoint, Node, World
from tests.support.worlds import To, allow, cidr, deny, endpoint, entity, http, pods, policy, world
from tests.unit.tidegate.fakes import NOON_NS, denied_request, packet, realised_status
from tests.unit.tidegate.served import DEADLINE_SECONDS, Served, served
from tidegate.admin.api import bind_tcp
from tidegate.admin.client import NodeClient, NodeRefused, NodeUnreachable
from tidegate.config.node import AdminSection
from tidegate.flows.ring import SUBSCRIBERS_MAX
from tidegate.status.node import EndpointState, EndpointStatus

PENDING = realised_status(endpoints=(EndpointStatus(key="default/late", state=EndpointState.WAITING),))


def eventually(predicate: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not predicate():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_socket_is_for_its_owner_only(node: Served) -> None:
    assert stat.S_IMODE(node.agent.config.admin_socket.stat().st_mode) == 0o600


def test_socket_is_gone_after_the_agent(short_path: Path) -> None:
    with served(short_path) as node:
        path = node.agent.config.admin_socket
        assert path.exists()
    assert not path.exists()


def test_stale_socket_of_a_killed_agent_is_replaced(short_path: Path) -> None:
    (short_path / "state").mkdir()
    (short_path / "state" / "admin.sock").write_text("")
    with served(short_path) as node:
        assert node.client.is_running()


def test_status_carries_what_follows_from_it(node: Served) -> None:
    found = node.client.status()
    assert (found["node"], found["all_realised"], found["obstacles"]) == ("node-a", True, [])
    node.do(lambda: node.agent.set_status(PENDING))
    assert node.client.status()["obstacles"] == ["endpoint default/late: waiting"]


def test_waiting_for_status_ends_with_the_change_that_realises_all(node: Served) -> None:
    node.do(lambda: node.agent.set_status(PENDING))
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(node.client.status(wait_seconds=DEADLINE_SECONDS)))
    waiting.start()
    eventually(lambda: bool(node.do(lambda: node.agent.changes._waiters)))
    node.do(lambda: node.agent.set_status(replace(PENDING, revision=8)))  # a change that realises nothing
    assert found == []
    started = time.monotonic()
    node.do(lambda: node.agent.set_status(realised_status()))
    waiting.join(DEADLINE_SECONDS)
    assert found[0]["all_realised"] is True
    assert time.monotonic() - started < DEADLINE_SECONDS / 2


def test_waiting_for_status_ends_at_its_deadline(node: Served) -> None:
    node.do(lambda: node.agent.set_status(PENDING))
    started = time.monotonic()
    assert node.client.status(wait_seconds=0.2)["all_realised"] is False
    assert 0.2 <= time.monotonic() - started < DEADLINE_SECONDS


def test_waiting_for_an_agent_that_comes_later(short_path: Path) -> None:
    found: list[Any] = []
    client = NodeClient(short_path / "state" / "admin.sock")
    waiting = threading.Thread(target=lambda: found.append(client.status(wait_seconds=DEADLINE_SECONDS)))
    waiting.start()
    with served(short_path):
        waiting.join(DEADLINE_SECONDS)
    assert found[0]["all_realised"] is True


def test_no_agent_is_unreachable_and_says_how_to_start_one(short_path: Path) -> None:
    client = NodeClient(short_path / "admin.sock")
    with pytest.raises(NodeUnreachable, match="no agent answers") as caught:
        client.status()
    assert "tidegate run" in caught.value.hint
    assert not client.is_running()
    (short_path / "admin.sock").write_text("")
    with pytest.raises(NodeUnreachable, match="no agent answers"):
        client.status()


def test_flows_are_filtered_and_cut_to_the_last(node: Served) -> None:
    for number in range(4):
        node.do(lambda number=number: node.agent.flows.publish(packet(time_ns=NOON_NS + number)))
    node.do(lambda: node.agent.flows.publish(denied_request(time_ns=NOON_NS + 9)))
    times = [line["time"][-3:] for line in node.client.stream("/v1/flows", {"verdict": "forwarded", "last": "2"})]
    assert times == ["02Z", "03Z"]
    (line,) = node.client.stream("/v1/flows", {"verdict": "denied"})
    assert line == {
        "flow": denied_request(time_ns=NOON_NS + 9).to_json(),
        "node_name": "node-a",
        "time": "2026-01-01T12:00:00.000000009Z",
    }


def test_following_shows_the_past_then_what_comes_and_leaves_when_its_reader_does(node: Served) -> None:
    ring = node.agent.flows
    node.do(lambda: ring.publish(packet(time_ns=NOON_NS + 1)))
    lines = node.client.stream("/v1/flows", {"follow": "1", "last": "5"})
    assert next(lines)["time"].endswith("01Z")
    assert node.do(lambda: ring.follower_count) == 1
    for number in (2, 3):
        node.do(lambda number=number: ring.publish(packet(time_ns=NOON_NS + number)))
        assert next(lines)["time"].endswith(f"0{number}Z")
    lines.close()
    eventually(lambda: node.do(lambda: ring.follower_count) == 0)


def test_follower_that_does_not_read_is_told_what_it_lost_and_holds_up_nobody(node: Served) -> None:
    ring = node.agent.flows
    lines = node.client.stream("/v1/flows", {"follow": "1", "last": "0"})
    reading = threading.Event()
    read: list[dict[str, Any]] = []

    def read_late() -> None:
        for line in lines:
            read.append(line)
            reading.wait(DEADLINE_SECONDS)
            if "lost_events" in line:
                break
        lines.close()

    reader = threading.Thread(target=read_late)
    reader.start()
    eventually(lambda: node.do(lambda: ring.follower_count) == 1)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not node.do(lambda: ring.lost["subscriber"]):  # type: ignore[index]
        assert time.monotonic() < deadline
        node.do(lambda: [ring.publish(denied_request()) for _ in range(500)])
    reading.set()
    reader.join(DEADLINE_SECONDS)
    assert int(read[-1]["lost_events"]["num_events_lost"]) > 0


def test_agent_that_stops_ends_its_followers(short_path: Path) -> None:
    with served(short_path) as node:
        lines = node.client.stream("/v1/flows", {"follow": "1"})
        following = threading.Thread(target=lambda: list(lines))
        following.start()
        eventually(lambda: node.do(lambda: node.agent.flows.follower_count) == 1)
    following.join(DEADLINE_SECONDS)
    assert not following.is_alive()


def test_too_many_followers_are_refused(node: Served) -> None:
    streams = []
    for _ in range(SUBSCRIBERS_MAX):
        node.do(lambda: node.agent.flows.publish(packet()))
        streams.append(node.client.stream("/v1/flows", {"follow": "1"}))
        next(streams[-1])
    with pytest.raises(NodeRefused, match="follow already"):
        next(node.client.stream("/v1/flows", {"follow": "1"}))
    for stream in streams:
        stream.close()


@pytest.mark.parametrize(
    ("path", "query", "message"),
    [
        ("/v1/flows", {"verdict": "forbidden"}, "'forbidden' is no verdict; write one of forwarded, redirected, denied"),
        ("/v1/flows", {"last": "many"}, "last is a number from 0 to 2.14748e+09, not 'many'"),
        ("/v1/status", {"wait": "nan"}, "wait is a number from 0 to 3600, not 'nan'"),
        ("/v1/status", {"wait": "-1"}, "wait is a number"),
        ("/v1/nothing", {}, "404: Not Found"),
    ],
)
def test_refusal_says_why(node: Served, path: str, query: dict[str, str], message: str) -> None:
    with pytest.raises(NodeRefused) as caught:
        node.client.get(path, query)
    assert message in str(caught.value)


def test_endpoints_policies_and_world_are_shown(node: Served) -> None:
    endpoint = Endpoint(name="deathstar", namespace="default", labels={"org": "empire"}, interface="lxc-deathstar")
    node.do(lambda: setattr(node.agent, "shown_world", World(revision=7, node=Node(name="node-a"), endpoints=(endpoint,))))
    (found,) = node.client.get("/v1/endpoints")["endpoints"]
    assert (found["name"], found["labels"], found["status"]["state"]) == ("deathstar", {"org": "empire"}, "ready")
    assert node.client.get("/v1/policies")["policies"][0]["key"] == "cnp/default/rule1"
    assert node.client.get("/v1/world")["endpoints"][0]["interface"] == "lxc-deathstar"


def test_world_with_every_kind_of_peer_has_a_json_form(node: Served) -> None:
    item = allow(cidr("10.0.0.0/8", "10.1.0.0/16"), To("80,443", http=(http("GET", "/.*"),), names=("*.example",)))
    policies = (policy("p", "app=a,!b", ingress=[item, deny(entity("world"))], egress=[allow(pods("app=c"), "53/udp")]),)
    shown = world(*policies, endpoints=(endpoint("a", ip=("10.0.0.1", "fd00::1")),))
    node.do(lambda: setattr(node.agent, "shown_world", shown))
    found = node.client.get("/v1/world")
    assert found["policies"][0]["key"] == "cnp/default/p"
    assert found["policies"][0]["rules"][0]["peers"] == [{"cidr": "10.0.0.0/8", "excepts": ["10.1.0.0/16"]}]


def test_status_is_of_what_is_on_disk_now(node: Served) -> None:
    node.client.status()
    assert node.do(lambda: node.agent.refreshes) == 1


def test_asking_for_more_than_there_is_gives_all(node: Served) -> None:
    node.do(lambda: node.agent.flows.publish(packet()))
    assert len(list(node.client.stream("/v1/flows", {"last": "1000000"}))) == 1


def test_health_says_nothing_of_policy(node: Served) -> None:
    node.do(lambda: node.agent.set_status(PENDING))
    assert node.client.get("/healthz") == {"status": "ok"}


def test_metrics_address_serves_metrics_and_nothing_else(short_path: Path) -> None:
    import asyncio

    import aiohttp

    from tests.unit.tidegate.fakes import FakeAgent, config_in
    from tidegate.admin.api import AdminServer

    probe = bind_tcp("127.0.0.1", 0)
    port = probe.getsockname()[1]
    probe.close()
    config = replace(config_in(short_path), admin=AdminSection(metrics_host="127.0.0.1", metrics_port=port))

    async def scenario() -> None:
        async with AdminServer(FakeAgent(config)), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.get("/metrics") as answer:
                assert answer.status == 200
                assert "tidegate_all_realised 1.0" in await answer.text()
            for path in ("/v1/status", "/v1/flows", "/v1/world"):
                async with session.get(path) as answer:
                    assert answer.status == 404

    asyncio.run(scenario())
