"""Where things are pinned in bpffs.

::

    <root>/                  default /sys/fs/bpf/tidegate
      v<ABI>/maps/tg_*       maps; survive everything but ``cleanup``
      v<ABI>/programs/tg_*   programs of the last load
      links/<name>           attachments; of no version, so that an upgrade replaces their program atomically

Owns: these paths, and mounting bpffs. Must not know what is pinned.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from dataclasses import dataclass

from bpf_redirect.abi import ABI_VERSION
from bpf_redirect.errors import KernelError

BPFFS = "/sys/fs/bpf"
DEFAULT_ROOT = f"{BPFFS}/tidegate"
_BPFFS_MAGIC = 0xCAFE4A11


@dataclass(frozen=True, slots=True)
class PinRoot:
    """One tree of pins."""

    path: str = DEFAULT_ROOT

    @property
    def maps(self) -> str:
        """Directory of this version's maps."""
        return os.path.join(self.path, f"v{ABI_VERSION}", "maps")

    @property
    def programs(self) -> str:
        """Directory of this version's programs."""
        return os.path.join(self.path, f"v{ABI_VERSION}", "programs")

    @property
    def links(self) -> str:
        """Directory of the attachments."""
        return os.path.join(self.path, "links")

    def program(self, name: str) -> str:
        """Path of a program."""
        return os.path.join(self.programs, name)

    def link(self, name: str) -> str:
        """Path of an attachment."""
        return os.path.join(self.links, name)

    def make(self) -> None:
        """Mount bpffs if it is not there, and make the directories."""
        mount_bpffs(self.path)
        for directory in (self.maps, self.programs, self.links):
            os.makedirs(directory, mode=0o700, exist_ok=True)

    def remove(self) -> None:
        """Unpin everything. What nothing else holds is freed by the kernel; attachments end."""
        if os.path.isdir(self.path):
            shutil.rmtree(self.path)


def is_bpffs(path: str) -> bool:
    """Whether the nearest existing directory of ``path`` is in a bpffs."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    buffer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None, use_errno=True).statfs(path.encode(), buffer) != 0:
        return False
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF == _BPFFS_MAGIC


def mount_bpffs(path: str) -> None:
    """Make sure that ``path`` is in a bpffs, mounting it on /sys/fs/bpf if ``path`` is there; raises KernelError."""
    if is_bpffs(path):
        return
    if not path.startswith(BPFFS):
        raise KernelError(f"use {path} for pins", 22, f"it is not in a bpffs; use a path below {BPFFS}")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", BPFFS.encode(), b"bpf", 0, b"mode=0700") != 0:
        raise KernelError(f"mount bpffs on {BPFFS}", ctypes.get_errno(), "mount -t bpf bpf /sys/fs/bpf on the host")
