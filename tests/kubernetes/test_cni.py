"""No packet before policy: the chained CNI plugin, called as a runtime calls it; pods that send from their first instruction."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from tests.support import cni
from tests.support.control_plane import inside
from tests.support.kube_stage import KubeStage
from tests.support.netns import Pod
from tests.support.node import eventually
from tests.support.stage import DEATHSTAR, HTTP, cnp, from_endpoints, ports, reach

pytestmark = [pytest.mark.root, pytest.mark.envoy]
DROID = {"class": "droid"}
FORBIDDEN = 7009
"""A UDP port that no policy opens to droids."""
STARTS_COUNT = 25
PACKETS_COUNT = 50


class Ear:
    """Hears every datagram that reaches a port of the deathstar."""

    def __init__(self, stage: KubeStage) -> None:
        with inside(stage.deathstar.netns):
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("0.0.0.0", FORBIDDEN))
        self.socket.setblocking(False)

    def heard(self) -> int:
        """How many there were since the last call."""
        count = 0
        while True:
            try:
                self.socket.recv(64)
            except BlockingIOError:
                return count
            count += 1


@pytest.fixture
def ear(stage: KubeStage) -> Iterator[Ear]:
    listener = Ear(stage)
    yield listener
    listener.socket.close()


def guard(stage: KubeStage) -> None:
    """Droids may reach the deathstar's HTTP port and nothing else."""
    to = {"toEndpoints": from_endpoints(DEATHSTAR), "toPorts": ports(HTTP)}
    stage.enforce(cnp("droids", DROID, egress=[to]))


def shout(pod: Pod, target: Pod, packets_count: int = PACKETS_COUNT) -> None:
    """Send datagrams as fast as a first instruction can."""
    code = f"for i in $(seq {packets_count}); do echo x > /dev/udp/{target.ipv4}/{FORBIDDEN}; done"
    pod.run(["bash", "-c", code])


def remove(stage: KubeStage, pod: Pod) -> None:
    assert cni.call("DEL", pod, stage.node).code == 0
    stage.remove_pod(pod)


def test_without_the_plugin_a_pod_that_starts_is_heard(stage: KubeStage, ear: Ear) -> None:
    """What the other tests would see if the plugin did nothing."""
    guard(stage)
    pod = stage.cluster.pod("early", DROID)
    stage.kube.create_pod(pod, "node-a")
    shout(pod, stage.deathstar)
    stage.remove_pod(pod)
    assert ear.heard() > 0


def test_no_packet_of_many_starting_pods_gets_out_before_their_policy(stage: KubeStage, ear: Ear) -> None:
    guard(stage)
    for number in range(STARTS_COUNT):
        pod = stage.cluster.pod(f"droid{number}", DROID)
        stage.kube.create_pod(pod, "node-a")
        result = cni.call("ADD", pod, stage.node)
        assert result.code == 0
        assert result.output == cni.previous_result(pod, f"/run/netns/{pod.netns}")
        shout(pod, stage.deathstar)
        stage.kube.report_running(pod)
        shout(pod, stage.deathstar)
        if number % 5 == 0:
            assert reach(pod, stage.deathstar, [HTTP], 4) == {HTTP: True}
        remove(stage, pod)
    assert ear.heard() == 0


def test_add_returns_when_the_policy_is_in_force_and_says_so(stage: KubeStage) -> None:
    guard(stage)
    pod = stage.cluster.pod("droid", DROID)
    stage.kube.create_pod(pod, "node-a")
    assert cni.call("ADD", pod, stage.node).code == 0
    assert reach(pod, stage.deathstar, [HTTP], 4) == {HTTP: True}
    lines = (stage.node.directory / "state" / "cni.log").read_text().splitlines()
    said = json.loads(lines[-1])
    assert said["pod"] == "default/droid"
    assert said["did"] == "open: its policy is in force"
    remove(stage, pod)


def test_with_the_agent_away_a_pod_starts_closed_within_the_bound_and_opens_when_it_is_back(stage: KubeStage, ear: Ear) -> None:
    guard(stage)
    agent = next(pid for pid in stage.node.processes("tidegate.agent"))
    pod = stage.cluster.pod("droid", DROID)
    stage.kube.create_pod(pod, "node-a")
    os.kill(agent, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert cni.call("ADD", pod, stage.node, {"waitSeconds": 1}).code == 0
        assert 1.0 <= time.monotonic() - begun < 4.0
        stage.kube.report_running(pod)
        shout(pod, stage.deathstar)
        assert reach(pod, stage.deathstar, [HTTP], 4) == {HTTP: False}
    finally:
        os.kill(agent, signal.SIGCONT)
    eventually(lambda: reach(pod, stage.deathstar, [HTTP], 4)[HTTP], 20.0, "the pod opens")
    assert ear.heard() == 0
    remove(stage, pod)


def test_where_nothing_can_close_the_pod_add_fails_or_leaves_it_unmanaged_as_configured(stage: KubeStage) -> None:
    pod = stage.cluster.pod("droid", DROID)
    nowhere = {"stateDirectory": str(stage.node.directory / "none"), "pinRoot": "/sys/fs/bpf/none", "waitSeconds": 0.2}
    refused = cni.call("ADD", pod, stage.node, nowhere)
    assert refused.code == 1
    assert refused.output["code"] == 11
    assert "nothing can close lxc-droid" in refused.output["msg"]
    assert cni.call("ADD", pod, stage.node, {**nowhere, "withoutAgent": "open"}).code == 0
    stage.cluster.remove_pod("droid")


def test_del_leaves_nothing_behind(stage: KubeStage) -> None:
    before = sorted(path.name for path in (stage.node.pin_root / "links").iterdir())
    pod = stage.cluster.pod("droid", DROID)
    stage.kube.create_pod(pod, "node-a")
    assert cni.call("ADD", pod, stage.node).code == 0
    remove(stage, pod)
    stage.wait_ready()
    eventually(lambda: sorted(path.name for path in (stage.node.pin_root / "links").iterdir()) == before, 10.0, "links")
    assert list((stage.node.directory / "state" / "cni").iterdir()) == []


def test_version_names_what_it_speaks(stage: KubeStage) -> None:
    output = cni.call("VERSION", stage.deathstar, stage.node).output
    assert output["supportedVersions"] == ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
