"""What was measured, as plain values: runs, medians with their spread, ratios within a round. Does no IO."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.processor import Usage
from bench.workloads import Kind, Outcome, Workload

PROXIED_ENVOY_SECONDS_MIN = 0.02
"""An Envoy of an arm that used less in a whole run was not in the way of the requests: the arm isn't what it says."""


@dataclass(frozen=True, slots=True)
class Run:
    """One load run on one arm. ``outcome`` None: it failed, ``problem`` says how."""

    round: int
    workload: str
    arm: str
    outcome: Outcome | None
    usage: Usage | None
    problem: str = ""

    def rate(self) -> float | None:
        """Requests each second."""
        return None if self.outcome is None else self.outcome.rate

    def gigabits(self) -> float | None:
        """Gbit/s of payload."""
        return None if self.outcome is None else self.outcome.bytes * 8 / self.outcome.seconds / 1e9

    def latency(self, name: str) -> float | None:
        """A percentile in microseconds."""
        if self.outcome is None or self.outcome.latency_us is None:
            return None
        return self.outcome.latency_us[name]

    def envoy_us(self) -> float | None:
        """Processor time of all Envoys of the arm for each request, in microseconds; also seconds for a million requests."""
        if self.outcome is None or self.usage is None or self.outcome.requests == 0 or not self.usage.envoys:
            return None
        return sum(self.usage.envoys.values()) / self.outcome.requests * 1e6

    def agent_us(self) -> float | None:
        """Processor time of Tidegate's own processes for each request, in microseconds."""
        if self.outcome is None or self.usage is None or self.outcome.requests == 0 or not self.usage.agents:
            return None
        return self.usage.agents / self.outcome.requests * 1e6

    def machine_us(self) -> float | None:
        """Processor time of the whole machine (client, server, kernel, proxies, neighbours) for each request."""
        if self.outcome is None or self.usage is None or self.outcome.requests == 0:
            return None
        return self.usage.busy / self.outcome.requests * 1e6

    def machine_us_per_mb(self) -> float | None:
        """The same for each megabyte (10^6 bytes) of payload."""
        if self.outcome is None or self.usage is None or self.outcome.bytes == 0:
            return None
        return self.usage.busy / self.outcome.bytes * 1e12

    def primary(self, kind: Kind) -> float | None:
        """What the workload is about."""
        match kind:
            case Kind.THROUGHPUT:
                return self.rate()
            case Kind.BANDWIDTH:
                return self.gigabits()
            case Kind.LATENCY:
                return self.latency("p99")


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the least and the greatest, over rounds."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Return the spread of what is there; None if nothing is."""
        found = [value for value in values if value is not None]
        if not found:
            return None
        return cls(statistics.median(found), min(found), max(found), len(found))


Figure = Callable[[Run], float | None]


@dataclass
class Results:
    """All of one benchmark: ``about`` is the machine, the versions, the settings and the arms."""

    about: dict[str, Any]
    workloads: tuple[Workload, ...]
    arms: tuple[str, ...]
    runs: list[Run] = field(default_factory=list)
    bpf: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, workload: str, arm: str) -> list[Run]:
        """Return the runs of one cell of the table, by round."""
        return [run for run in self.runs if run.workload == workload and run.arm == arm]

    def spread(self, workload: str, arm: str, figure: Figure) -> Spread | None:
        """Return median, least and greatest of a figure."""
        return Spread.of(figure(run) for run in self.of(workload, arm))

    def ratio(self, workload: str, above: str, below: str, figure: Figure) -> Spread | None:
        """Return the spread of ``above / below``, each of one round: what changes with time changes both."""
        pairs = by_round(self.of(workload, above), self.of(workload, below))
        return Spread.of(quotient(figure(one), figure(other)) for one, other in pairs)

    def added_ratio(self, workload: str, above: str, below: str, base: str, figure: Figure) -> Spread | None:
        """Return the spread of ``(above - base) / (below - base)``: of what is added to ``base``."""
        ratios = []
        for one, other in by_round(self.of(workload, above), self.of(workload, below)):
            for least in (run for run in self.of(workload, base) if run.round == one.round):
                ratios.append(quotient(difference(figure(one), figure(least)), difference(figure(other), figure(least))))
        return Spread.of(ratios)

    def problems(self) -> list[str]:
        """Return a line for each run that failed, had errors, or bypassed its proxy."""
        return [f"round {run.round} {run.workload} {run.arm}: {what}" for run in self.runs for what in complaints(run)]

    def document(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        described = {each.name: {"text": each.text, "unit": str(each.kind)} for each in self.workloads}
        runs = [asdict(run) for run in self.runs]
        return {**self.about, "workloads": described, "runs": runs, "bpf": self.bpf, "problems": self.problems()}


def complaints(run: Run) -> list[str]:
    """Return what is wrong with a run."""
    if run.outcome is None:
        return [run.problem or "failed"]
    found = [f"{run.outcome.errors} errors"] if run.outcome.errors else []
    if run.usage is not None:
        idle = [name for name, seconds in run.usage.envoys.items() if seconds < PROXIED_ENVOY_SECONDS_MIN]
        found += [f"the Envoy in {name} did nothing" for name in idle]
    return found


def by_round(above: Sequence[Run], below: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Pair runs of the same round."""
    return [(one, other) for one in above for other in below if one.round == other.round]


def quotient(above: float | None, below: float | None) -> float | None:
    """Divide, if that means something."""
    return None if above is None or below is None or below <= 0 else above / below


def difference(one: float | None, other: float | None) -> float | None:
    """Subtract, if both are there."""
    return None if one is None or other is None else one - other
