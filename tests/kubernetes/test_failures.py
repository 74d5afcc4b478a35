"""The API server is away, forgets, or refuses: what was in force stays in force."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.kube import wait_for
from tests.support.kube_stage import KubeStage
from tests.support.stage import DEATHSTAR, FALCON, HTTP, TIEFIGHTER, cnp, from_endpoints, http, ports, reach

pytestmark = [pytest.mark.root, pytest.mark.envoy]


@pytest.fixture(scope="module")
def own_stage() -> Iterator[KubeStage]:
    # A short history, so that a version becomes too old within a test.
    with KubeStage(prefix="tgkubefail", flags=("--etcd-compaction-interval=0",)) as stage:
        yield stage


@pytest.fixture
def broken(own_stage: KubeStage) -> Iterator[KubeStage]:
    """A stage whose parts a test may break."""
    own_stage.clear()
    yield own_stage
    own_stage.clear()


def only_tiefighters(stage: KubeStage) -> None:
    peers = from_endpoints(TIEFIGHTER)
    stage.enforce(cnp("guard", DEATHSTAR, ingress=[{"fromEndpoints": peers, "toPorts": http({"method": "GET"})}]))


def assert_guarded(stage: KubeStage) -> None:
    url = stage.deathstar.url(HTTP)
    assert stage.tiefighter.http(url).status == 200
    assert stage.tiefighter.http(url, "PUT").status == 403
    assert reach(stage.xwing, stage.deathstar, [HTTP], 4) == {HTTP: False}


def problems(stage: KubeStage) -> list[str]:
    return [error["message"] for error in stage.node.status()["document_errors"] if error["source"] == "kubernetes"]


def test_while_the_api_server_is_away_the_last_state_stays_and_status_says_so(broken: KubeStage) -> None:
    only_tiefighters(broken)
    broken.control.stop()
    try:
        wait_for(lambda: problems(broken), 20.0, "a problem is told")
        assert_guarded(broken)
    finally:
        broken.control.start()
    broken.kube.apply(cnp("guard", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(FALCON), "toPorts": ports(HTTP)}]).text)
    wait_for(lambda: not problems(broken), 60.0, "the server is followed again")
    broken.wait_ready()
    assert reach(broken.falcon, broken.deathstar, [HTTP], 4) == {HTTP: True}
    assert reach(broken.tiefighter, broken.deathstar, [HTTP], 4) == {HTTP: False}


def test_an_agent_that_restarts_while_the_api_server_is_away_goes_by_the_saved_state(broken: KubeStage) -> None:
    only_tiefighters(broken)
    saved = broken.node.directory / "state" / "kubernetes" / "cnp.json"
    wait_for(lambda: saved.exists() and "guard" in saved.read_text(), 10.0, "the policy is saved")
    broken.control.stop()
    try:
        broken.node.stop()
        # Everything that the kernel knew is gone, as after a reboot.
        assert broken.node.cli("cleanup").returncode == 0
        broken.node.start()
        wait_for(lambda: _is_realised(broken, "cnp/default/guard"), 60.0, "the saved policy is in force")
        assert_guarded(broken)
    finally:
        broken.control.start()
        broken.wait_ready()
    assert_guarded(broken)


def _is_realised(stage: KubeStage, key: str) -> bool:
    try:
        policies = {policy["key"]: policy["state"] for policy in stage.node.status()["policies"]}
    except Exception:
        return False
    return policies.get(key) == "realised"


def test_a_bad_version_written_while_no_agent_ran_leaves_the_last_good_one_in_force(broken: KubeStage) -> None:
    only_tiefighters(broken)
    saved = broken.node.directory / "state" / "kubernetes" / "cnp.json"
    wait_for(lambda: saved.exists() and "guard" in saved.read_text(), 10.0, "the policy is saved")
    broken.node.stop(signal.SIGTERM)
    broken.kube.apply(cnp("guard", DEATHSTAR, ingress=[{"fromEndpoint": from_endpoints(TIEFIGHTER)}]).text)
    broken.node.start()
    wait_for(lambda: any("fromEndpoint" in error for error in _errors(broken)), 60.0, "the error is told")
    wait_for(lambda: _is_realised(broken, "cnp/default/guard"), 60.0, "the last good version is in force")
    assert_guarded(broken)


def _errors(stage: KubeStage) -> list[str]:
    try:
        return [error["path"] for error in stage.node.status()["document_errors"]]
    except Exception:
        return []


def test_what_was_deleted_while_the_api_server_could_not_be_watched_is_gone_afterwards(broken: KubeStage) -> None:
    """After a long absence the held version is compacted away: the agent lists anew (410), and finds what is missing."""
    only_tiefighters(broken)
    node = broken.node
    agent = next(pid for pid in node.processes("tidegate.agent"))
    broken.control.stop()
    os.kill(agent, signal.SIGSTOP)
    try:
        broken.control.start()
        broken.kube.delete("CiliumNetworkPolicy", "guard")
        broken.control.compact()
        # A new server has no history in its cache either: what the agent asks to resume from is too old.
        broken.control.stop()
        broken.control.start()
    finally:
        os.kill(agent, signal.SIGCONT)
    wait_for(lambda: not any(policy["key"] == "cnp/default/guard" for policy in node.status()["policies"]), 60.0, "it is gone")
    broken.wait_ready()
    assert reach(broken.xwing, broken.deathstar, [HTTP], 4) == {HTTP: True}
