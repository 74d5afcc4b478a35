"""What a user may set, once: the chart's values.yaml, and the constants of the plain manifests.

Owns: names, defaults and reasons. In an object a value stands as a token (``use``), which text.py replaces by the default or by
what Helm is to put there; so both come from one object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Value:
    """One setting. ``path`` in values.yaml; ``whole``: a mapping or list that is put in as it is."""

    path: str
    default: Any
    words: str
    whole: bool = False


VALUES = (
    Value("image.repository", "tidegate", "Where the image is; build it from deploy/kubernetes/Containerfile."),
    Value("image.tag", "0.1.0", "Its tag."),
    Value("image.pullPolicy", "IfNotPresent", ""),
    Value(
        "nodeConfig",
        {"admin": {"metrics": "0.0.0.0:9469"}, "kubernetes": {}},
        "node.yaml (docs/configuration.md) without node.name, which is the Node's.",
        True,
    ),
    Value("cni.enabled", True, "Install the chained CNI plugin: no packet of a pod before its policy."),
    Value("cni.configDirectory", "/etc/cni/net.d", "Where the runtime reads CNI configuration."),
    Value("cni.binaryDirectory", "/opt/cni/bin", "Where it finds plugins."),
    Value("cni.waitSeconds", 5, "How long a pod's start waits for its policy at most."),
    Value("cni.withoutAgent", "refuse", "Where nothing can close a pod: refuse (try again), or open (it starts unmanaged)."),
    Value("agent.resources", {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}}, "", True),
    Value("envoy.resources", {"requests": {"cpu": "200m", "memory": "128Mi"}, "limits": {"memory": "2Gi"}}, "", True),
    Value("dnsproxy.resources", {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}, "", True),
    Value("tolerations", [{"operator": "Exists"}], "Every node: one without an agent enforces nothing.", True),
    Value("nodeSelector", {"kubernetes.io/os": "linux"}, "", True),
    Value("priorityClassName", "system-node-critical", "Evicted last: without it new pods stay closed."),
)
_BY_PATH = {value.path: value for value in VALUES}
MARK = "\u27ea", "\u27eb"


def use(path: str) -> str:
    """Return the token of a value, to be put into an object (alone, or within a string)."""
    assert path in _BY_PATH, path
    return f"{MARK[0]}{path}{MARK[1]}"


def value(path: str) -> Value:
    """Return a setting."""
    return _BY_PATH[path]


def tree() -> dict[str, Any]:
    """Return values.yaml as a tree."""
    root: dict[str, Any] = {}
    for one in VALUES:
        *above, last = one.path.split(".")
        at = root
        for step in above:
            at = at.setdefault(step, {})
        at[last] = one.default
    return root
