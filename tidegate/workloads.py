"""The cgroups of pods in the node's own network.

Owns: how a kubelet names them. With the systemd driver
``kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice`` (dashes of the UID as underscores), with cgroupfs
``kubepods/burstable/podUID``; guaranteed pods lack the middle level. Below the kubelet's ``--cgroup-root``. Must not know
policies.
"""

from __future__ import annotations

from collections.abc import Iterator

from bpf_redirect.cgroups import mount_point

_QUALITIES = {"Guaranteed": "", "Burstable": "burstable", "BestEffort": "besteffort"}
_PARENTS = ("", "kubelet.slice/", "kubelet/", "system.slice/")
"""Where ``kubepods`` is found below the root; kind has a level of its own."""


class CgroupLook:
    """Finds the cgroup of a pod."""

    def __init__(self, root: str) -> None:
        self._root = root.strip("/")

    def find(self, uid: str, quality: str) -> str | None:
        """Return the path of the pod's cgroup from the root of the hierarchy; None if there is none."""
        for path in self._candidates(uid, quality):
            if (mount_point() / path).is_dir():
                return path
        return None

    def _candidates(self, uid: str, quality: str) -> Iterator[str]:
        if not uid or "/" in uid or quality not in _QUALITIES:
            return
        middle = _QUALITIES[quality]
        root = f"{self._root}/" if self._root else ""
        for parent in _PARENTS:
            prefix = "kubelet-kubepods" if parent == "kubelet.slice/" else "kubepods"
            name = f"{prefix}-{middle}" if middle else prefix
            level = f"{name}.slice/" if middle else ""
            yield f"{root}{parent}{prefix}.slice/{level}{name}-pod{uid.replace('-', '_')}.slice"
            yield f"{root}{parent}kubepods/{f'{middle}/' if middle else ''}pod{uid}"
