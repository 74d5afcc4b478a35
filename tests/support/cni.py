"""The CNI plugin, called as a container runtime calls it: after the plugin that made the pod's interface."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.kube import KubeNode
from tests.support.netns import NETNS_DIRECTORY, Pod
from tests.support.pod import REPOSITORY

PLUGIN = REPOSITORY / "deploy/cni/bin/tidegate-cni"


@dataclass(frozen=True)
class CniResult:
    """What the plugin did: its exit code, and what it printed."""

    code: int
    output: Any


def call(command: str, pod: Pod, node: KubeNode, settings: Mapping[str, Any] | None = None, previous: Any = None) -> CniResult:
    """Call the plugin in the node's namespace."""
    sandbox = str(NETNS_DIRECTORY / pod.netns)
    configuration = {
        "cniVersion": "1.0.0",
        "name": "test",
        "type": "tidegate-cni",
        "stateDirectory": str(node.directory / "state"),
        "pinRoot": str(node.pin_root),
        **(settings or {}),
        "prevResult": previous_result(pod, sandbox) if previous is None else previous,
    }
    arguments = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={pod.namespace};K8S_POD_NAME={pod.name};K8S_POD_UID=uid-{pod.name}"
    environment = {
        "PATH": os.environ["PATH"],
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": f"container-{pod.name}",
        "CNI_NETNS": sandbox,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(PLUGIN.parent),
        "CNI_ARGS": arguments,
    }
    done = subprocess.run(
        [*pod.cluster.command_in(pod.cluster.node_netns), str(PLUGIN)],
        input=json.dumps(configuration),
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return CniResult(done.returncode, json.loads(done.stdout) if done.stdout.strip() else None)


def previous_result(pod: Pod, sandbox: str) -> dict[str, Any]:
    """What the plugin before it returned."""
    return {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": pod.interface}, {"name": "eth0", "sandbox": sandbox}],
        "ips": [{"address": f"{pod.ipv4}/32", "interface": 1}, {"address": f"{pod.ipv6}/128", "interface": 1}],
    }
