"""cgroup v2: where it is mounted, and the numbers by which the kernel knows a cgroup.

Owns: finding the hierarchy and reading ids. Must not know policy.
"""

from __future__ import annotations

import os
from pathlib import Path

from bpf_redirect.errors import HostError

_HINT = "mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1"


def mount_point(mounts: Path = Path("/proc/mounts")) -> Path:
    """Return where cgroup v2 is mounted; raises HostError if it is not."""
    for line in mounts.read_text().splitlines():
        _, directory, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            return Path(directory.encode().decode("unicode_escape"))
    raise HostError("cgroup v2 is not mounted", _HINT)


def directory_of(name: str) -> Path:
    """Return the directory of a cgroup named from the root of the hierarchy, e.g. ``system.slice/x.service``."""
    root = mount_point()
    directory = root / name.strip("/")
    if root not in (directory, *directory.parents) or ".." in directory.parts:
        raise HostError(f"{name} is not below the root of cgroup v2")
    if not directory.is_dir():
        raise HostError(f"there is no cgroup {directory}", "is the unit running?")
    return directory


def cgroup_id(directory: Path) -> int:
    """Return the kernel's number of a cgroup: the inode of its directory."""
    return os.stat(directory).st_ino
