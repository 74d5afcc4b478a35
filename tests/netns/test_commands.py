"""The command line against a running node: what it says is what happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import eventually
from tests.support.stage import DEATHSTAR, HTTP, TCP, Stage, cnp, from_endpoints, http, reach

pytestmark = [pytest.mark.root, pytest.mark.envoy]

LANDING = cnp(
    "rule1",
    DEATHSTAR,
    ingress=[{"fromEndpoints": from_endpoints({"org": "empire"}), "toPorts": http({"method": "GET", "path": "/v1/.*"})}],
)
EXIT_NO, EXIT_UNREACHABLE, EXIT_REFUSED = 1, 4, 6


def records(stage: Stage, *arguments: str) -> list[dict[str, Any]]:
    """The newest flow records, newest last."""
    return stage.node.flows("--last", "50", *arguments)


def newest(stage: Stage, *arguments: str) -> dict[str, Any]:
    """The newest flow record."""
    found = records(stage, *arguments)
    assert found
    return found[-1]


def test_denied_request_is_recorded_with_both_ends_and_the_nearest_rule(stage: Stage, family: int) -> None:
    stage.enforce(LANDING)
    path = f"/v1/exhaust-port-{family}"
    assert stage.tiefighter.http(stage.deathstar.url(HTTP, path, family), "PUT").status == 403

    def recorded() -> bool:
        return any(path in each.get("l7", {}).get("http", {}).get("url", "") for each in records(stage, "--verdict", "denied"))

    eventually(recorded, what="the record of a denied request")
    record = newest(stage, "--verdict", "denied", "--protocol", "http")
    assert (record["source"]["pod_name"], record["destination"]["pod_name"]) == ("tiefighter", "deathstar")
    assert record["IP"]["source"] == stage.tiefighter.address(family)
    assert (record["verdict"], record["l7"]["http"]["method"], record["l7"]["http"]["code"]) == ("DROPPED", "PUT", 403)
    assert "cnp/default/rule1" in record["tidegate"]["nearest_miss"]


def test_dropped_connection_is_recorded_with_both_ends(stage: Stage, family: int) -> None:
    stage.enforce(LANDING)
    assert reach(stage.xwing, stage.deathstar, [TCP], family) == {TCP: False}

    def of_this() -> list[dict[str, Any]]:
        found = records(stage, "--verdict", "denied", "--protocol", "tcp")
        return [each for each in found if each["IP"]["source"] == stage.xwing.address(family)]

    eventually(lambda: bool(of_this()), what="the record of a dropped connection")
    record = of_this()[-1]
    assert (record["source"]["pod_name"], record["destination"]["pod_name"]) == ("xwing", "deathstar")
    assert record["l4"]["TCP"]["destination_port"] == TCP
    assert record["drop_reason_desc"] == "POLICY_DENIED"


def test_follower_sees_every_allowed_request(stage: Stage) -> None:
    stage.enforce(LANDING)
    with printed(stage).open("wb") as output:
        follower = stage.host.popen(stage.node.command("flows", "-f", "-o", "json", "--protocol", "http"), stdout=output)
    try:
        eventually(lambda: stage.node.status()["flows"]["followers"] > 0, what="the follower is there")
        url = stage.deathstar.url(HTTP)
        # Sampling reaches Envoy a moment after somebody begins to follow.
        eventually(lambda: stage.tiefighter.http(url, path="/v1/warm").status == 200 and "/v1/warm" in text(stage))
        for index in range(20):
            assert stage.tiefighter.http(url, path=f"/v1/followed-{index}").status == 200
        eventually(lambda: all(f"/v1/followed-{index}" in text(stage) for index in range(20)), what="20 records")
    finally:
        follower.terminate()
        follower.wait()
    (record,) = [each for each in map(json.loads, text(stage).splitlines()) if "/v1/followed-7" in each["Summary"]]
    assert record["tidegate"]["policy"] == "cnp/default/rule1"
    assert record["tidegate"]["rule"] == "spec.ingress[0].toPorts[0].rules.http[0]"


def printed(stage: Stage) -> Path:
    """Where the follower prints."""
    return stage.node.directory / "followed.ndjson"


def text(stage: Stage) -> str:
    """What the follower has printed so far, in whole lines."""
    return printed(stage).read_text().rpartition("\n")[0]


@pytest.mark.parametrize(
    "client,said,code",
    [("tiefighter", "GET /v1/status", 0), ("tiefighter", "PUT /v1/status", EXIT_NO), ("xwing", "GET /v1/status", EXIT_NO)],
)
def test_explanation_agrees_with_what_is_enforced(stage: Stage, client: str, said: str, code: int) -> None:
    stage.enforce(LANDING)
    result = stage.node.cli("explain", "--from", f"default/{client}", "--to", f"default/deathstar:{HTTP}", "--http", said)
    assert result.returncode == code, result.stderr
    assert "rule1" in result.stdout
    method, _, path = said.partition(" ")
    reached = reach(getattr(stage, client), stage.deathstar, [HTTP], 4)[HTTP]
    allowed = reached and getattr(stage, client).http(stage.deathstar.url(HTTP), method, path=path).status == 200
    assert allowed == (code == 0)


def test_status_speaks_of_what_is_on_disk_at_that_moment(stage: Stage) -> None:
    stage.enforce(LANDING)
    assert stage.node.cli("status").returncode == 0
    stage.forget()
    stage.node.write_policy("broken", "kind: Nonsense")
    result = stage.node.cli("status")
    assert result.returncode == EXIT_NO
    assert "broken.yaml" in result.stdout
    stage.node.remove_policy("broken")
    assert stage.node.cli("status", "--wait", "5").returncode == 0


def test_second_run_on_the_same_node_is_refused_and_harms_nothing(stage: Stage) -> None:
    stage.enforce(LANDING)
    result = stage.node.cli("run")
    assert result.returncode == EXIT_REFUSED, result.stderr
    assert stage.tiefighter.http(stage.deathstar.url(HTTP), path="/v1/x").status == 200
    assert stage.node.cli("status").returncode == 0


def test_cleanup_is_refused_while_the_node_runs(stage: Stage) -> None:
    stage.enforce(LANDING)
    result = stage.node.cli("cleanup")
    assert result.returncode == EXIT_REFUSED
    assert reach(stage.xwing, stage.deathstar, [HTTP], 4) == {HTTP: False}
