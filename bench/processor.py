"""Processor time: of processes and of the whole machine, read from /proc before and after a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE, _IOWAIT, _SOFTIRQ, _STEAL = 3, 4, 6, 7
_FIELDS = 8
"""user nice system idle iowait irq softirq steal; guest time is part of user time (proc(5))."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds since some beginning."""

    envoys: Mapping[str, float]
    """By what they are, as the arm names them."""
    agents: float
    """Tidegate's own processes."""
    busy: float
    """Everything that ran, on all processors."""
    softirq: float
    steal: float
    """What the hypervisor took: a machine where this grows can't be measured on."""

    def since(self, before: Usage) -> Usage:
        """Return what was used between two readings."""
        return Usage(
            envoys={name: seconds - before.envoys[name] for name, seconds in self.envoys.items()},
            agents=self.agents - before.agents,
            busy=self.busy - before.busy,
            softirq=self.softirq - before.softirq,
            steal=self.steal - before.steal,
        )


def parse_process(stat: str) -> float:
    """Return utime + stime of a /proc/PID/stat line, in seconds."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def parse_machine(stat: str) -> tuple[float, float, float]:
    """Return busy, softirq and steal seconds of the text of /proc/stat."""
    ticks = [int(word) for word in stat.splitlines()[0].split()[1 : _FIELDS + 1]]
    busy = sum(ticks) - ticks[_IDLE] - ticks[_IOWAIT] - ticks[_STEAL]
    return busy / _TICKS, ticks[_SOFTIRQ] / _TICKS, ticks[_STEAL] / _TICKS


def read(envoys: Mapping[str, int], agents: Sequence[int] = ()) -> Usage:
    """Read now, by pid. A process that is gone is an error: it must live as long as its arm."""
    busy, softirq, steal = parse_machine(Path("/proc/stat").read_text())
    return Usage({name: _process(pid) for name, pid in envoys.items()}, sum(map(_process, agents)), busy, softirq, steal)


def _process(pid: int) -> float:
    return parse_process(Path(f"/proc/{pid}/stat").read_text())


def resident_bytes(pid: int) -> int:
    """Return what a process holds of memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
