"""What many flow records come to: who talks most, what is denied and why, how long it takes.

Owns: the counting and its JSON. Pure. Must not know how it is shown. Records are a sample of what was allowed, so the counts are
of records; exact ones are in the metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate.flows.filter import policy_of
from tidegate.flows.record import Flow, Verdict, protocol_name, rfc3339

TOP_DEFAULT = 10
KINDS_MAX = 50_000
"""Different talkers, policies or reasons that are told apart; what is new beyond that is counted as ``other``."""
LATENCIES_MAX = 100_000
"""Latencies kept per protocol for the quantiles: the last ones, a megabyte."""
QUANTILES = (0.5, 0.9, 0.99)
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Talk:
    """Who talks to whom over what."""

    source: str
    destination: str
    port: int
    protocol: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long the answered messages of a protocol took, in nanoseconds, by ``QUANTILES`` and at most."""

    protocol: str
    count: int
    quantiles_ns: tuple[int, ...]
    max_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSummary:
    """Counts of records, most first."""

    records: int
    first_ns: int
    last_ns: int
    verdicts: tuple[tuple[Verdict, int], ...]
    talkers: tuple[tuple[Talk, Verdict, int], ...]
    policies: tuple[tuple[str, str, Verdict, int], ...]
    """Policy, rule (or ``nearest miss``), verdict, count."""
    reasons: tuple[tuple[str, int], ...]
    latencies: tuple[Latency, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the summary as what the json module takes."""
        return {
            "records": self.records,
            "first": rfc3339(self.first_ns) if self.records else None,
            "last": rfc3339(self.last_ns) if self.records else None,
            "verdicts": {verdict.value: count for verdict, count in self.verdicts},
            "talkers": [
                {
                    "source": talk.source,
                    "destination": talk.destination,
                    "port": talk.port,
                    "protocol": talk.protocol,
                    "verdict": verdict.value,
                    "records": count,
                }
                for talk, verdict, count in self.talkers
            ],
            "policies": [
                {"policy": policy, "rule": rule, "verdict": verdict.value, "records": count}
                for policy, rule, verdict, count in self.policies
            ],
            "reasons": [{"reason": reason, "records": count} for reason, count in self.reasons],
            "latencies": [
                {
                    "protocol": each.protocol,
                    "records": each.count,
                    **{f"p{share * 100:g}_ns": value for share, value in zip(QUANTILES, each.quantiles_ns, strict=True)},
                    "max_ns": each.max_ns,
                }
                for each in self.latencies
            ],
        }


def summarise(flows: Iterable[Flow], top: int = TOP_DEFAULT) -> FlowSummary:
    """Count ``flows``, in any order; of each kind only the ``top`` are kept."""
    records, first_ns, last_ns = 0, 0, 0
    verdicts: Counter[Verdict] = Counter()
    talkers: Counter[tuple[Talk, Verdict]] = Counter()
    policies: Counter[tuple[str, str, Verdict]] = Counter()
    reasons: Counter[str] = Counter()
    latencies: dict[str, list[int]] = {}
    for flow in flows:
        records += 1
        first_ns = min(first_ns or flow.time_ns, flow.time_ns)
        last_ns = max(last_ns, flow.time_ns)
        verdicts[flow.verdict] += 1
        talk = Talk(flow.source.workload, flow.destination.workload, flow.destination.port, protocol_name(flow))
        _count(talkers, (talk, flow.verdict), (Talk(OTHER, OTHER, 0, talk.protocol), flow.verdict))
        policy = policy_of(flow)
        if policy is not None:
            rule = flow.rule.path if flow.rule else "nearest miss"
            _count(policies, (str(policy), rule, flow.verdict), (OTHER, "", flow.verdict))
        if flow.reason:
            _count(reasons, flow.reason, OTHER)
        if flow.latency_ns and flow.verdict in (Verdict.FORWARDED, Verdict.AUDITED):
            taken = latencies.setdefault(talk.protocol, [])
            taken.append(flow.latency_ns)
            if len(taken) >= 2 * LATENCIES_MAX:
                del taken[:LATENCIES_MAX]
    return FlowSummary(
        records=records,
        first_ns=first_ns,
        last_ns=last_ns,
        verdicts=tuple(verdicts.most_common()),
        talkers=tuple((talk, verdict, count) for (talk, verdict), count in talkers.most_common(top)),
        policies=tuple((policy, rule, verdict, count) for (policy, rule, verdict), count in policies.most_common(top)),
        reasons=tuple(reasons.most_common(top)),
        latencies=tuple(_latency(protocol, taken[-LATENCIES_MAX:]) for protocol, taken in sorted(latencies.items())),
    )


def _count(counter: Counter[Any], key: Any, other: Any) -> None:
    counter[key if key in counter or len(counter) < KINDS_MAX else other] += 1


def _latency(protocol: str, taken_ns: Sequence[int]) -> Latency:
    ordered = sorted(taken_ns)
    quantiles = tuple(ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in QUANTILES)
    return Latency(protocol=protocol, count=len(ordered), quantiles_ns=quantiles, max_ns=ordered[-1])
