"""The manifests: taken by a real API server; its role and the capabilities of each container are enough for the work."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import yaml

from deploy.kubernetes import manifests
from tests.support.kube import Kube, KubeNode, wait_for
from tests.support.kube_stage import KubeStage
from tests.support.node import eventually, tidegate
from tests.support.pod import REPOSITORY, Failed
from tests.support.stage import DEATHSTAR, HTTP, cnp, from_endpoints, http, reach, tidegate_policy

pytestmark = [pytest.mark.root, pytest.mark.envoy]
PLAIN = REPOSITORY / "deploy/kubernetes/plain"
PARTS = {
    "agent": manifests.AGENT_CAPABILITIES,
    "envoy": manifests.ENVOY_CAPABILITIES,
    "dnsproxy": manifests.DNSPROXY_CAPABILITIES,
}


class PartsNode(KubeNode):
    """A node whose processes are started one by one, each with the capabilities that its container's manifest names."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parts: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for part in PARTS:
            self.start_part(part)
        self._child = self.parts["agent"]

    def start_part(self, part: str) -> None:
        """Start one of them (again)."""
        bounds = ",".join(["-all", *(f"+{name.lower()}" for name in PARTS[part])])
        words = ["setpriv", "--bounding-set", bounds, "--inh-caps", "-all", "--no-new-privs"]
        command = [*words, *tidegate(), "run", "--only", part, "--config", str(self.config_file)]
        with self.log_file.open("ab") as log:
            self.parts[part] = self.cluster.popen_in(
                self.cluster.node_netns, command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if part == "agent":
            self._child = self.parts["agent"]

    def kill_part(self, part: str) -> None:
        """End one of them without a word."""
        self.parts[part].kill()
        self.parts[part].wait()

    def close(self, check: bool = True) -> None:
        for part in ("dnsproxy", "envoy"):
            self.parts[part].send_signal(signal.SIGTERM)
            self.parts[part].wait(20)
        super().close(check)


class RestrictedStage(KubeStage):
    """Its agents ask with the role of the manifests, and run in parts."""

    @property
    def user(self) -> str:
        return "system:serviceaccount:tidegate-system:tidegate-agent"


@pytest.fixture(scope="module")
def parts() -> Iterator[PartsStage]:
    with PartsStage(prefix="tgparts") as stage:
        yield stage


class PartsStage:
    """A cluster with one node, whose agent has no more rights than the manifests give it."""

    def __init__(self, prefix: str) -> None:
        self.stage = RestrictedStage(prefix)
        self.kube: Kube = self.stage.kube

    def __enter__(self) -> Self:
        stage = self.stage
        with contextlib.ExitStack() as stack:
            stack.enter_context(stage.cluster)
            stack.enter_context(stage.other)
            stage.control.add_user(stage.user, "system:serviceaccounts")
            stack.enter_context(stage.control)
            stage.kube.install_crds(REPOSITORY / "tests/kubernetes/crds", REPOSITORY / "deploy/crds")
            for document in yaml.safe_load_all((PLAIN / "tidegate.yaml").read_text()):
                stage.kube.apply(document)
            stage._build()
            stage.kube.add_node("node-a", stage.cluster)
            self.node = PartsNode(stage.cluster, "node-a", stage.control.kubeconfig(stage.user))
            stack.enter_context(self.node)
            self._open = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        print(self.node.log_tail())
        self._open.__exit__(kind, error, trace)


def guard(parts: PartsStage, name: str = "guard") -> None:
    rules = http({"method": "GET"})
    rule = {"fromEndpoints": from_endpoints({"org": "empire"}), "toPorts": rules}
    parts.kube.apply(tidegate_policy(name, DEATHSTAR, ingress=[rule]).text)
    parts.node.wait_ready()


def test_the_api_server_takes_every_object_of_the_plain_manifests(parts: PartsStage) -> None:
    kinds = [document["kind"] for document in yaml.safe_load_all((PLAIN / "tidegate.yaml").read_text())]
    assert kinds.count("DaemonSet") == 4
    for name in ("tidegate-agent", "tidegate-envoy", "tidegate-dnsproxy", "tidegate-cni"):
        assert parts.kube.get("DaemonSet", name, "tidegate-system")["metadata"]["name"] == name
    for document in yaml.safe_load_all((PLAIN / "uninstall.yaml").read_text()):
        parts.kube.apply(document, dryRun="All")


def test_each_process_works_with_the_capabilities_of_its_container(parts: PartsStage) -> None:
    guard(parts)
    stage = parts.stage
    assert stage.tiefighter.http(stage.deathstar.url(HTTP)).status == 200
    assert stage.tiefighter.http(stage.deathstar.url(HTTP), "PUT").status == 403
    assert reach(stage.xwing, stage.deathstar, [HTTP], 4) == {HTTP: False}
    for part, process in parts.node.parts.items():
        effective = next(
            int(line.split()[1], 16)
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if line.startswith("CapBnd")
        )
        assert effective.bit_count() == len(PARTS[part]), part


def test_the_role_of_the_manifests_is_enough_for_status_and_events(parts: PartsStage) -> None:
    guard(parts)
    wait_for(lambda: (parts.kube.condition("TidegatePolicy", "guard", "Realised") or {}).get("status") == "True", 30.0)
    parts.kube.apply(cnp("bad", DEATHSTAR, ingress=[{"nonsense": 1}]).text)
    wait_for(lambda: any(one["involvedObject"]["name"] == "bad" for one in parts.kube.list("Event")), 30.0, "an Event")
    parts.kube.delete("CiliumNetworkPolicy", "bad")
    parts.node.wait_ready()


def test_a_secret_is_read_only_where_the_role_is_bound(parts: PartsStage) -> None:
    header = {"name": "x-token", "secret": {"name": "token"}, "mismatch": "FAIL"}
    rules = http({"method": "GET", "headerMatches": [header]})
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token"}, "stringData": {"value": "sesame"}}
    parts.kube.apply(secret)
    parts.kube.apply(tidegate_policy("guard", DEATHSTAR, ingress=[{"toPorts": rules}]).text)
    stage = parts.stage
    wait_for(lambda: any("secret" in line and "403" in line for line in parts.node.status()["obstacles"]), 30.0, "it is told")
    url = stage.deathstar.url(HTTP)
    assert stage.tiefighter.http(url, headers={"x-token": "sesame"}).status == 403
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "tidegate-agent-secrets"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "tidegate-agent-secrets"},
        "subjects": [{"kind": "ServiceAccount", "name": "tidegate-agent", "namespace": "tidegate-system"}],
    }
    parts.kube.apply(binding)
    eventually(lambda: stage.tiefighter.http(url, headers={"x-token": "sesame"}).status == 200, 60.0, "the Secret is read")
    assert stage.tiefighter.http(url, headers={"x-token": "wrong"}).status == 403


def test_an_agent_that_is_replaced_loses_no_request(parts: PartsStage) -> None:
    guard(parts)
    stage = parts.stage
    load = stage.tiefighter.load(stage.deathstar.url(HTTP))
    parts.node.kill_part("agent")
    parts.node.start_part("agent")
    parts.node.wait_ready()
    counts = load.stop()
    assert set(counts.statuses) == {200}
    assert counts.failures == {}


def test_envoy_is_replaced_alone_and_configured_again(parts: PartsStage) -> None:
    guard(parts)
    parts.node.kill_part("envoy")
    parts.node.start_part("envoy")
    stage = parts.stage
    eventually(lambda: _status(stage) == 200, 30.0, "requests pass again")


def _status(stage: KubeStage) -> int:
    try:
        return stage.tiefighter.http(stage.deathstar.url(HTTP), timeout=2.0).status
    except Failed:
        return 0
