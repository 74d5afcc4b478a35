"""Verdicts are counted inside Envoy, each one, by client, server and policy; and nothing that dies takes counts along."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.node import eventually
from tests.support.stage import DEATHSTAR, FALCON, HTTP, TIEFIGHTER, XWING, Stage, cnp, from_endpoints, http, tidegate_policy

pytestmark = [pytest.mark.root, pytest.mark.envoy]

EVERYBODY = from_endpoints(XWING, TIEFIGHTER, FALCON)
GET_ONLY = cnp("get-only", DEATHSTAR, ingress=[{"fromEndpoints": EVERYBODY, "toPorts": http({"method": "GET"})}])
NAMES = {f"class={name},org={org}": name for name, org in
         (("xwing", "alliance"), ("falcon", "alliance"), ("tiefighter", "empire"), ("deathstar", "empire"))}  # fmt: skip

Counted = Counter[tuple[str, str, str]]
"""(client, server, verdict) -> requests."""


@pytest.fixture(scope="module")
def own_stage() -> Iterator[Stage]:
    """A stage whose processes these tests kill, with two workers whatever the machine has."""
    with Stage(prefix="tgcount", config={"envoy": {"concurrency": 2, "baseId": os.getpid() % 30000 * 10 + 7}}) as stage:
        yield stage


def rows(stage: Stage, what: str = "counts") -> list[dict[str, Any]]:
    answer = stage.node.counts()
    assert answer["unavailable"] == ""
    assert not any(answer["overflow"].values())
    found: list[dict[str, Any]] = answer[what]
    return found


def counted(stage: Stage, what: str = "counts") -> Counted:
    """What has been counted since the maps were made."""
    found: Counted = Counter()
    for row in rows(stage, what):
        client, server = row["source"]["workload"], row["destination"]["workload"]
        found[NAMES.get(client, client), NAMES.get(server, server), row["verdict"]] += row["requests"]
    return found


def wait_for(stage: Stage, before: Counted, expected: dict[tuple[str, str, str], int]) -> None:
    """Wait until just ``expected`` has been counted since ``before``. Envoy counts a request a moment after it has answered."""
    seen: list[Counted] = []

    def all_there() -> bool:
        seen.append(counted(stage) - before)
        return sum(seen[-1].values()) >= sum(expected.values())

    try:
        eventually(all_there, 10)
    except AssertionError:
        raise AssertionError(f"counted {dict(seen[-1])}, expected {expected}") from None
    assert dict(seen[-1]) == expected


def test_every_request_is_counted_by_client_server_verdict_and_policy(stage: Stage, family: int) -> None:
    stage.enforce(GET_ONLY)
    before = counted(stage)
    url = stage.deathstar.url(HTTP, family=family)
    for pod, requests in ((stage.xwing, 5), (stage.tiefighter, 3), (stage.falcon, 4)):
        connection = pod.connect(url)
        for _ in range(requests):
            assert connection.request().status == 200
        assert connection.request(method="PUT").status == 403
        connection.close()
    wait_for(
        stage,
        before,
        {
            ("xwing", "deathstar", "allowed"): 5,
            ("tiefighter", "deathstar", "allowed"): 3,
            ("falcon", "deathstar", "allowed"): 4,
            **{(client, "deathstar", "denied"): 1 for client in ("xwing", "tiefighter", "falcon")},
        },
    )
    assert {(row["direction"], row["protocol"], *row["policies"]) for row in rows(stage) if row["slot"] == slot_of(stage)} == {
        ("ingress", "http", "cnp/default/get-only")
    }


def slot_of(stage: Stage, policy: str = "cnp/default/get-only") -> int:
    """The slot that ``policy`` speaks in."""
    return next(row["slot"] for row in rows(stage) if policy in row["policies"])


def test_x_forwarded_for_is_neither_counted_nor_recorded_as_anothers_request(stage: Stage) -> None:
    stage.enforce(GET_ONLY)
    before = counted(stage)
    forged = {"x-forwarded-for": stage.tiefighter.ipv4}
    assert stage.xwing.http(stage.deathstar.url(HTTP), headers=forged).status == 200
    wait_for(stage, before, {("xwing", "deathstar", "allowed"): 1})
    path = "/forged"
    assert stage.xwing.http(stage.deathstar.url(HTTP, path), "PUT", headers=forged).status == 403
    seen = lambda: stage.node.flows("--path", path, "--verdict", "denied")  # noqa: E731
    eventually(lambda: bool(seen()), what="the denial's record")
    assert [flow["source"]["pod_name"] for flow in seen()] == ["xwing"]


def test_audited_and_failed_requests_have_verdicts_of_their_own(stage: Stage) -> None:
    rule = {"fromEndpoints": EVERYBODY, "toPorts": http({"method": {"exact": "GET"}})}
    stage.enforce(tidegate_policy("audited", DEATHSTAR, mode="audit", ingress=[rule]))
    before = counted(stage)
    url = stage.deathstar.url(HTTP)
    assert (stage.xwing.http(url).status, stage.xwing.http(url, "PUT").status) == (200, 200)
    wait_for(stage, before, {("xwing", "deathstar", "allowed"): 1, ("xwing", "deathstar", "audited"): 1})
    # Nothing listens there: allowed, and the proxy has nobody to ask.
    nobody = HTTP + 7
    stage.enforce(cnp("nobody", DEATHSTAR, ingress=[{"fromEndpoints": EVERYBODY, "toPorts": http({}, port=nobody)}]))
    before = counted(stage)
    assert stage.xwing.http(stage.deathstar.url(nobody)).status == 503
    wait_for(stage, before, {("xwing", "deathstar", "error"): 1})


def test_a_pair_is_counted_once_and_a_denial_by_the_side_that_denied(stage: Stage) -> None:
    egress = cnp("egress", XWING, egress=[{"toEndpoints": from_endpoints(DEATHSTAR), "toPorts": http({"method": "(GET|PUT)"})}])
    stage.enforce(GET_ONLY, egress)
    before = counted(stage)
    url = stage.deathstar.url(HTTP)
    assert stage.xwing.http(url).status == 200
    assert stage.xwing.http(url, "PUT").status == 403
    assert stage.xwing.http(url, "DELETE").status == 403
    wait_for(stage, before, {("xwing", "deathstar", "allowed"): 1, ("xwing", "deathstar", "denied"): 2})
    sides = Counter((row["direction"], row["verdict"]) for row in rows(stage) if "cnp/default/egress" in row["policies"])
    assert sides == {("both", "allowed"): 1, ("ingress", "denied"): 1, ("egress", "denied"): 1}


def test_counts_are_exact_under_load_though_the_agent_is_killed_meanwhile(own_stage: Stage) -> None:
    stage = own_stage
    stage.enforce(GET_ONLY)
    before = counted(stage)
    url = stage.deathstar.url(HTTP)
    loads = {
        "xwing": stage.xwing.load(url, connections=2),
        "tiefighter": stage.tiefighter.load(url, connections=2, protocol="h2"),
        "falcon": stage.falcon.load(url, connections=2, method="PUT"),
    }
    eventually(lambda: all(sum(load.counts().statuses.values()) > 100 for load in loads.values()), 30, "some load")
    assert stage.node.stop(signal.SIGKILL) == -signal.SIGKILL
    at_the_kill = {name: sum(load.counts().statuses.values()) for name, load in loads.items()}
    eventually(
        lambda: all(sum(load.counts().statuses.values()) > at_the_kill[name] + 100 for name, load in loads.items()),
        30,
        "load without an agent",
    )
    ended = {name: load.stop() for name, load in loads.items()}
    stage.node.start()
    stage.node.wait_ready()
    assert all(not one.failures for one in ended.values())
    assert set(ended["falcon"].statuses) == {403}
    expected = {(name, "deathstar", "denied" if name == "falcon" else "allowed"): sum(one.statuses.values())
                for name, one in ended.items()}  # fmt: skip
    wait_for(stage, before, expected)


def test_counts_go_on_where_they_were_when_envoy_is_killed(own_stage: Stage) -> None:
    stage = own_stage
    stage.enforce(GET_ONLY)
    url = stage.deathstar.url(HTTP)
    before = counted(stage)
    for _ in range(20):
        assert stage.xwing.http(url).status == 200
    wait_for(stage, before, {("xwing", "deathstar", "allowed"): 20})
    old = stage.node.envoy_pid()
    os.kill(old, signal.SIGKILL)
    eventually(lambda: bool(stage.node.processes("--base-id")) and stage.node.envoy_pid() != old, 20, "another Envoy")
    stage.node.wait_ready()
    for _ in range(10):
        assert stage.xwing.http(url, "PUT").status == 403
    wait_for(stage, before, {("xwing", "deathstar", "allowed"): 20, ("xwing", "deathstar", "denied"): 10})


def test_bpftool_reads_the_counts(own_stage: Stage) -> None:
    stage = own_stage
    stage.enforce(GET_ONLY)
    before = counted(stage)
    assert stage.xwing.http(stage.deathstar.url(HTTP)).status == 200
    wait_for(stage, before, {("xwing", "deathstar", "allowed"): 1})
    row = next(row for row in rows(stage) if row["verdict"] == "allowed" and NAMES[row["source"]["workload"]] == "xwing")
    pinned = next(stage.node.pin_root.glob("v*/maps/tg_l7_verdicts"))
    dump = subprocess.run(["bpftool", "-j", "map", "dump", "pinned", pinned], check=True, capture_output=True, text=True)
    requests = [
        int.from_bytes(value[16:24], "little")
        for value in ([int(octet, 16) for octet in entry["value"]] for entry in json.loads(dump.stdout))
        if int.from_bytes(value[:4], "little") == row["destination_identity"]
        and int.from_bytes(value[4:8], "little") == row["source_identity"]
        and value[10] == 1
    ]
    assert sum(requests) == row["requests"]


def test_maps_shows_fills_and_decoded_entries(own_stage: Stage) -> None:
    stage = own_stage
    stage.enforce(GET_ONLY)
    before = counted(stage)
    assert stage.xwing.http(stage.deathstar.url(HTTP)).status == 200
    wait_for(stage, before, {("xwing", "deathstar", "allowed"): 1})
    row = next(row for row in rows(stage) if row["verdict"] == "allowed" and NAMES[row["source"]["workload"]] == "xwing")
    fills = {each["name"]: each for each in json.loads(stage.node.cli("maps", "-o", "json").stdout)}
    assert fills["tg_l7_verdicts"]["entries"] == stage.node.counts()["records"]
    assert fills["tg_slots"]["entries"] == 1
    assert fills["tg_events"]["entries"] is None
    shown = json.loads(stage.node.cli("maps", "l7_verdicts", "-o", "json").stdout)
    wanted = (row["destination_identity"], row["source_identity"], "allowed", row["slot"])
    found = [each for each in shown if (each["subject"], each["peer"], each["verdict"], each["slot"]) == wanted]
    assert [each["requests"] for each in found] == [row["requests"]]
    for name in fills:
        assert stage.node.cli("maps", name, "--limit", "3").returncode == 0, name
    assert stage.node.cli("maps", "nonsense").returncode == 2
