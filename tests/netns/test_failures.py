"""What breaks, breaks closed, says so, and comes back; what is no concern of the broken part goes on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.netns import ip_batch
from tests.support.node import eventually
from tests.support.pod import Failed
from tests.support.stage import (
    DEATHSTAR,
    DENIED_SECONDS,
    HTTP,
    HTTP_OTHER,
    TCP,
    XWING,
    Stage,
    cnp,
    from_endpoints,
    http,
    ports,
    reach,
)

pytestmark = [pytest.mark.root, pytest.mark.envoy]

GET_ONLY = cnp(
    "rule1",
    DEATHSTAR,
    ingress=[
        {"fromEndpoints": from_endpoints(XWING), "toPorts": http({"method": "GET"})},
        {"fromEndpoints": from_endpoints(XWING), "toPorts": ports(TCP)},
    ],
)
PROXY_PORTS = set(range(19000, 19000 + 2048))


@pytest.fixture(scope="module")
def own_stage() -> Iterator[Stage]:
    """A stage whose processes these tests kill."""
    with Stage(prefix="tgfail") as stage:
        yield stage


def statuses(stage: Stage) -> dict[str, str]:
    """Policy key -> state."""
    return {policy["key"]: policy["state"] for policy in stage.node.status()["policies"]}


def http_outcome(stage: Stage, method: str = "GET", family: int = 4) -> int | str:
    """The status of a request from the xwing, or how it failed."""
    try:
        return int(stage.xwing.http(stage.deathstar.url(HTTP, family=family), method, timeout=DENIED_SECONDS).status)
    except Failed as failed:
        return failed.kind


def test_envoy_killed_closes_http_and_leaves_l4_and_comes_back(own_stage: Stage, family: int) -> None:
    stage = own_stage
    stage.enforce(GET_ONLY)
    assert http_outcome(stage, family=family) == 200
    connection = stage.xwing.connect(stage.deathstar.url(TCP, family=family), "tcp")
    before = stage.deathstar.server_counts(HTTP)["requests"]
    old = stage.node.envoy_pid()
    os.kill(old, signal.SIGKILL)
    # A refused method is no HTTP 200 at any moment, and never reaches the server, whatever state Envoy is in.
    outcomes: list[int | str] = []

    def back() -> bool:
        outcomes.append(http_outcome(stage, "DELETE", family))
        return outcomes[-1] == 403

    eventually(back, 20, "403 again after Envoy's death")
    assert 200 not in outcomes
    assert stage.deathstar.server_counts(HTTP)["requests"] == before
    assert connection.exchange(b"still here") == b"still here"
    connection.close()
    eventually(lambda: http_outcome(stage, family=family) == 200, 10)
    stage.node.wait_ready()
    assert stage.node.envoy_pid() != old


def test_agent_killed_leaves_every_verdict_in_force(own_stage: Stage) -> None:
    stage = own_stage
    stage.enforce(GET_ONLY)
    connection = stage.xwing.connect(stage.deathstar.url(HTTP))
    assert connection.request().status == 200
    assert stage.node.stop(signal.SIGKILL) == -signal.SIGKILL
    eventually(lambda: stage.node.cli("status").returncode != 0, 10, "the agent's death")
    for family in (4, 6):
        assert (http_outcome(stage, "GET", family), http_outcome(stage, "DELETE", family)) == (200, 403)
        assert reach(stage.xwing, stage.deathstar, [TCP, HTTP_OTHER], family) == {TCP: True, HTTP_OTHER: False}
        assert reach(stage.tiefighter, stage.deathstar, [HTTP, TCP], family) == {HTTP: False, TCP: False}
    assert connection.request().status == 200
    assert connection.request(method="DELETE").status == 403
    # A new run takes over the programs, the maps and Envoy: the open connection does not notice.
    stage.node.start()
    stage.node.wait_ready()
    assert connection.request().status == 200
    stage.forget()
    stage.enforce(cnp("rule1", DEATHSTAR, ingress=[{"toPorts": http({"method": "DELETE"})}]))
    assert connection.request().status == 403
    assert connection.request(method="DELETE").status == 200
    connection.close()


def test_clean_stop_keeps_l4_and_closes_http(own_stage: Stage) -> None:
    stage = own_stage
    stage.enforce(GET_ONLY)
    assert stage.node.stop() == 0
    assert reach(stage.xwing, stage.deathstar, [TCP, HTTP_OTHER], 4) == {TCP: True, HTTP_OTHER: False}
    assert reach(stage.tiefighter, stage.deathstar, [TCP], 6) == {TCP: False}
    assert http_outcome(stage) in ("timeout", "refused", "reset")
    stage.node.start()
    stage.node.wait_ready()
    assert (http_outcome(stage), http_outcome(stage, "DELETE")) == (200, 403)


def test_pods_can_not_dial_the_proxy(stage: Stage, family: int) -> None:
    stage.enforce(GET_ONLY)
    assert http_outcome(stage, family=family) == 200
    listening = stage.node.host_lines("ss", "-Hltn")
    proxy_ports = sorted({int(line.split()[3].rpartition(":")[2]) for line in listening} & PROXY_PORTS)
    assert proxy_ports, listening
    for port in proxy_ports:
        for address in (stage.host.address(family), "169.254.1.1" if family == 4 else stage.host.ipv6):
            assert stage.tiefighter.tcp(address, port, timeout=DENIED_SECONDS) in ("timeout", "refused")
            assert stage.falcon.tcp(address, port, timeout=DENIED_SECONDS) in ("timeout", "refused")


def test_closing_a_connection_that_is_gone_spares_the_listener_it_came_by(stage: Stage, family: int) -> None:
    stage.enforce(GET_ONLY)
    # A connection that has just ended: the kernel would find the listener under its addresses.
    assert http_outcome(stage, family=family) == 200
    (port,) = {int(line.split()[3].rpartition(":")[2]) for line in stage.node.host_lines("ss", "-Hltn")} & PROXY_PORTS
    loopback = "127.0.0.1" if family == 4 else "::1"
    for local, local_port in ((loopback, port), (stage.deathstar.address(family), HTTP)):
        code = (
            "from ipaddress import ip_address as address; from bpf_redirect.sockets import destroy;"
            f"print(destroy(address('{local}'), {local_port}, address('{stage.xwing.address(family)}'), 12345))"
        )
        assert stage.host.run([sys.executable, "-c", code]).stdout == "False\n"
    assert http_outcome(stage, family=family) == 200


def test_bad_document_harms_no_good_one_and_says_where_it_is_wrong(stage: Stage) -> None:
    stage.enforce(GET_ONLY)
    stage.forget()
    node = stage.node
    node.write_policy("bad", GET_ONLY.text.replace("rule1", "bad").replace("toPorts", "toPort"))

    def errors() -> list[Any]:
        found: list[Any] = node.status()["document_errors"]
        return found

    try:
        eventually(lambda: bool(errors()), what="the error in the status")
        assert {Path(error["source"].partition("[")[0]).name for error in errors()} == {"bad.yaml"}
        assert any("toPort" in error["path"] + error["message"] and "toPorts" in error["hint"] for error in errors())
        result = node.cli("status", "--wait", "1")
        assert result.returncode != 0
        assert "bad.yaml" in result.stdout + result.stderr
        assert (http_outcome(stage), http_outcome(stage, "DELETE")) == (200, 403)
        node.write_policy("rule1", GET_ONLY.text.replace("GET", "DELETE"))
        eventually(lambda: http_outcome(stage, "DELETE") == 200, what="a good edit beside a bad document")
    finally:
        node.remove_policy("bad")
    node.wait_ready()


def test_broken_edit_keeps_the_last_good_version_in_force(stage: Stage) -> None:
    stage.enforce(GET_ONLY)
    stage.forget()
    stage.node.write_policy("rule1", GET_ONLY.text + "\n  broken: [")
    eventually(lambda: bool(stage.node.status()["document_errors"]), what="the error in the status")
    assert stage.node.status()["document_errors"][0]["kept"] is True
    assert (http_outcome(stage), http_outcome(stage, "DELETE")) == (200, 403)
    stage.node.write_policy("rule1", GET_ONLY.text)
    stage.node.wait_ready()


def test_regular_expression_that_re2_refuses_is_refused_before_any_push(stage: Stage) -> None:
    stage.enforce(GET_ONLY)
    stage.forget()
    pushes = stage.node.status()["xds"]["pushes"]
    stage.node.write_policy("regex", cnp("regex", DEATHSTAR, ingress=[{"toPorts": http({"path": "/(?=x)"})}]).text)
    try:
        eventually(lambda: bool(stage.node.status()["document_errors"]), what="the error in the status")
        assert "path" in stage.node.status()["document_errors"][0]["path"]
        assert stage.node.status()["xds"]["pushes"] == pushes
        assert http_outcome(stage) == 200
    finally:
        stage.node.remove_policy("regex")
    stage.node.wait_ready()


def test_endpoint_without_a_realised_policy_is_closed(own_stage: Stage, family: int) -> None:
    stage = own_stage
    late_labels = {"class": "late", "family": str(family)}
    rules = [{"toPorts": http({"path": f"/late{family}"})}, {"toPorts": ports(TCP)}]
    stage.enforce(cnp(f"late{family}", late_labels, ingress=rules))
    late = stage.cluster.pod("late", late_labels)
    for port, serve in ((HTTP, late.serve_http), (TCP, late.serve_tcp)):
        serve(port)

    def state() -> str | None:
        return {endpoint["key"]: endpoint["state"] for endpoint in stage.node.status()["endpoints"]}.get("default/late")

    # Envoy stands still, so the new endpoint's rule set can't be acknowledged.
    envoy = stage.node.envoy_pid()
    os.kill(envoy, signal.SIGSTOP)
    try:
        stage.node.write_endpoints()
        eventually(lambda: state() is not None, what="the endpoint is known")
        assert state() != "ready"
        # Not even its L4 rule opens anything before its policy has reached the kernel.
        assert reach(stage.xwing, late, [HTTP, TCP], family) == {HTTP: False, TCP: False}
        assert reach(late, stage.deathstar, [TCP], family) == {TCP: False}
        # Then L3/L4 comes into force without Envoy; what needs Envoy stays closed.
        eventually(lambda: state() == "ready", 20, "L3/L4 policy without Envoy")
        assert reach(stage.xwing, late, [HTTP, TCP], family) == {HTTP: False, TCP: True}
        assert statuses(stage)[f"cnp/default/late{family}"] == "pending"
    finally:
        os.kill(envoy, signal.SIGCONT)
    stage.node.wait_ready()
    assert reach(stage.xwing, late, [HTTP, TCP], family) == {HTTP: True, TCP: True}
    assert stage.xwing.http(late.url(HTTP, f"/late{family}", family)).status == 200
    stage.cluster.remove_pod("late")
    stage.node.write_endpoints()
    stage.node.wait_ready()
    assert state() is None


def test_endpoint_whose_interface_is_missing_waits_and_is_attached_when_it_comes(own_stage: Stage) -> None:
    stage = own_stage
    stage.enforce()
    late = {"name": "late", "namespace": "default", "labels": {"class": "late"}, "interface": "lxc-late", "ipv4": "10.0.15.9"}
    stage.node.write_endpoints(stage.cluster.endpoints_yaml(extra=[late]))

    def state() -> str | None:
        return {endpoint["key"]: endpoint["state"] for endpoint in stage.node.status()["endpoints"]}.get("default/late")

    try:
        eventually(lambda: state() == "waiting", what="the endpoint waits for its interface")
        assert stage.node.cli("status", "--wait", "1").returncode != 0
        ip_batch(stage.cluster.node_netns, "link add lxc-late type veth peer name in-late")
        eventually(lambda: state() == "ready", 10, "the endpoint is attached")
    finally:
        ip_batch(stage.cluster.node_netns, "link delete lxc-late")
        stage.node.write_endpoints()
        stage.node.wait_ready()


def test_every_drop_is_counted_under_a_named_reason(stage: Stage) -> None:
    stage.enforce(GET_ONLY)

    def dropped() -> int:
        return sum(drop["packets"] for drop in stage.node.status()["drops"] if "polic" in drop["reason"].lower())

    before = dropped()
    assert reach(stage.tiefighter, stage.deathstar, [HTTP, TCP], 4) == {HTTP: False, TCP: False}
    eventually(lambda: dropped() >= before + 2, what="two more drops by policy")
