"""Run time of BPF programs, as the kernel counts it.

The kernel counts only while somebody asks, by a file descriptor (BPF_ENABLE_STATS, the same switch as the sysctl
kernel.bpf_stats_enabled): when it is closed, or its holder dies, counting stops by itself and the sysctl is as it was.
Counting costs two clock readings a program run, so it is on in runs of its own, never in those that are compared.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SYSCALL_NUMBER = {"x86_64": 321, "aarch64": 280}
_BPF_ENABLE_STATS = 32
_ATTR_BYTES = 16
BPFTOOL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RunTime:
    """How often a program ran and how long in all."""

    count: int
    nanoseconds: int


@contextmanager
def counted() -> Iterator[None]:
    """Let the kernel count."""
    libc = ctypes.CDLL(None, use_errno=True)
    attr = ctypes.create_string_buffer(_ATTR_BYTES)  # type BPF_STATS_RUN_TIME is 0
    descriptor = libc.syscall(_SYSCALL_NUMBER[platform.machine()], _BPF_ENABLE_STATS, attr, _ATTR_BYTES)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "BPF_ENABLE_STATS")
    try:
        yield
    finally:
        os.close(descriptor)


def read(pins: Sequence[Path]) -> dict[str, RunTime]:
    """Return the run times of the programs pinned beneath some directories, by program name."""
    printed = subprocess.run(
        ["bpftool", "-j", "-f", "prog", "show"], capture_output=True, text=True, timeout=BPFTOOL_SECONDS, check=True
    ).stdout
    return parse(printed, tuple(f"{path}/" for path in pins))


def parse(printed: str, beneath: tuple[str, ...]) -> dict[str, RunTime]:
    """Return the run times of the programs that bpftool says are pinned beneath some paths."""
    found: dict[str, RunTime] = {}
    for program in json.loads(printed):
        if not any(str(path).startswith(beneath) for path in program.get("pinned", ())):
            continue
        name = str(program.get("name", program["id"]))
        so_far = found.get(name, RunTime(0, 0))
        count, nanoseconds = int(program.get("run_cnt", 0)), int(program.get("run_time_ns", 0))
        found[name] = RunTime(so_far.count + count, so_far.nanoseconds + nanoseconds)
    return found


def since(after: Mapping[str, RunTime], before: Mapping[str, RunTime]) -> dict[str, RunTime]:
    """Return what ran between two readings, without programs that did not run."""
    nothing = RunTime(0, 0)
    pairs = ((name, run, before.get(name, nothing)) for name, run in after.items())
    grown = ((name, RunTime(run.count - old.count, run.nanoseconds - old.nanoseconds)) for name, run, old in pairs)
    return {name: run for name, run in grown if run.count > 0}
