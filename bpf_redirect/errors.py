"""What can go wrong at the kernel's edge.

::

    DatapathError
    ├── KernelError          the kernel refused a call: errno, what was tried, a hint
    │   ├── MapFull          a map has no room: which, its limit, how to raise it
    │   └── PinMissing       a program or map is not pinned: nothing was loaded here
    ├── LoadError            the loader process failed
    │   ├── CompileError     bcc could not compile the programs: its messages
    │   └── VerifierError    the kernel's verifier refused a program: one line, and the whole log on request
    └── HostError            an interface, route or cgroup is not as it must be
"""

from __future__ import annotations

import errno
import os

_HINTS = {
    errno.EPERM: "are CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or root) missing?",
    errno.ENOMEM: "is the memory limit of this unit or container too small for the maps?",
    errno.EINVAL: "is the kernel too old? `tidegate doctor` lists what is missing",
}


_SIZE_SETTINGS = {
    "tg_ipcache": "maps.ipcacheEntries",
    "tg_policy": "maps.policyEntries",
    "tg_endpoints": "maps.endpointEntries",
    "tg_conntrack": "maps.conntrackEntries",
    "tg_names": "maps.nameEntries",
}
"""What in node.yaml sizes a map."""


class DatapathError(Exception):
    """The root of this package's errors. ``hint`` says what can be done about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.message = message
        self.hint = hint


class KernelError(DatapathError):
    """The kernel refused a call."""

    def __init__(self, doing: str, code: int, hint: str = "") -> None:
        super().__init__(f"{doing}: {os.strerror(code)}", hint or _HINTS.get(code, ""))
        self.code = code


class MapFull(KernelError):
    """A map has no room for another entry."""

    def __init__(self, name: str, limit: int, code: int = errno.E2BIG) -> None:
        setting = _SIZE_SETTINGS.get(name)
        hint = f"raise {setting} in node.yaml and start again" if setting else "this limit is fixed; use fewer"
        super().__init__(f"map {name} holds its {limit} entries", code, hint)
        self.name = name
        self.limit = limit


class PinMissing(KernelError):
    """A pin that should be there is not."""

    def __init__(self, path: str) -> None:
        super().__init__(f"open {path}", errno.ENOENT, "the programs are not loaded")
        self.path = path


class LoadError(DatapathError):
    """The programs could not be loaded."""


class CompileError(LoadError):
    """bcc could not compile the programs. ``log`` holds what clang said."""

    def __init__(self, log: str) -> None:
        first = next((line for line in log.splitlines() if "error:" in line), "no message")
        super().__init__(f"the BPF programs do not compile: {first}", "are python3-bpfcc and linux-libc-dev installed?")
        self.log = log


class VerifierError(LoadError):
    """The kernel refused a program. ``log`` holds the verifier's words, which can be long."""

    def __init__(self, program: str, code: int, log: str) -> None:
        lines = [line for line in log.splitlines() if line and not line.startswith(("processed ", "verification time"))]
        super().__init__(f"program {program}: {os.strerror(code)}: {lines[-1] if lines else 'no log'}", _HINTS.get(code, ""))
        self.program = program
        self.code = code
        self.log = log


class HostError(DatapathError):
    """Something of the host (interface, route, cgroup, sysctl) is not as it must be."""
