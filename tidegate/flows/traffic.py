"""Who talks to whom: the edges of the service map, counted from flow records over the last minutes.

Owns: the window and its buckets, and the limit on edges. Must not know who draws it. One loop; time comes from a monotonic clock
that can be replaced. A connection given to the proxy counts by its requests, not once more by itself.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tidegate.flows.record import Flow, Verdict, protocol_name
from tidegate.status.node import EndpointState, NodeStatus

BUCKET_SECONDS = 2.0
BUCKETS = 60
"""Two minutes: what somebody means by "now", and long enough to see a request that happens every minute."""
RATE_BUCKETS = 5
"""Rates are of the last ten seconds."""
EDGES_MAX = 4000
"""200 services that talk to twenty others. New edges beyond it wait until an old one has been silent for the window."""
SERVICES_MAX = 6
"""Ports and protocols that are named at one edge."""
COLUMNS = (Verdict.FORWARDED, Verdict.DENIED, Verdict.DROPPED, Verdict.AUDITED, Verdict.ERROR)
_INDEX = {verdict: index for index, verdict in enumerate(COLUMNS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What one workload said to another. ``counts`` are by ``COLUMNS``, over the window; rates are per second."""

    source: str
    destination: str
    counts: tuple[int, ...]
    rate: float
    refused_rate: float
    """Of what was denied or dropped."""
    services: tuple[str, ...]
    """Such as ``http:80``."""


@dataclass(slots=True)
class _Tally:
    buckets: deque[tuple[int, list[int]]] = field(default_factory=lambda: deque(maxlen=BUCKETS))
    services: dict[str, None] = field(default_factory=dict)


class Traffic:
    """The edges of the last ``BUCKETS`` buckets."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, edges_max: int = EDGES_MAX) -> None:
        self._clock = clock
        self._edges_max = edges_max
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._swept_at = 0
        self.left_out = 0
        """Records of edges that there was no room for."""

    def take(self, flow: Flow) -> None:
        """Count one record."""
        column = _INDEX.get(flow.verdict)
        if column is None:
            return
        ends = (flow.destination, flow.source) if flow.is_reply else (flow.source, flow.destination)
        key = (ends[0].workload, ends[1].workload)
        now = int(self._clock() / BUCKET_SECONDS)
        tally = self._tallies.get(key)
        if tally is None:
            if len(self._tallies) >= self._edges_max:
                self._sweep(now)
            if len(self._tallies) >= self._edges_max:
                self.left_out += 1
                return
            tally = self._tallies.setdefault(key, _Tally())
        if not tally.buckets or tally.buckets[-1][0] != now:
            tally.buckets.append((now, [0] * len(COLUMNS)))
        tally.buckets[-1][1][column] += 1
        service = f"{protocol_name(flow)}:{ends[1].port}" if ends[1].port else protocol_name(flow)
        if service not in tally.services and len(tally.services) < SERVICES_MAX:
            tally.services[service] = None

    def edges(self) -> Iterator[Edge]:
        """Yield the edges of the window."""
        now = int(self._clock() / BUCKET_SECONDS)
        self._sweep(now)
        for (source, destination), tally in self._tallies.items():
            counts, fresh = [0] * len(COLUMNS), [0] * len(COLUMNS)
            for number, bucket in tally.buckets:
                if number <= now - BUCKETS:
                    continue
                for index, count in enumerate(bucket):
                    counts[index] += count
                    if number > now - RATE_BUCKETS:
                        fresh[index] += count
            # The bucket that is being filled counts as the part of it that has passed; on average that is half.
            seconds = BUCKET_SECONDS * (RATE_BUCKETS - 0.5)
            refused = fresh[_INDEX[Verdict.DENIED]] + fresh[_INDEX[Verdict.DROPPED]]
            yield Edge(
                source=source,
                destination=destination,
                counts=tuple(counts),
                rate=round(sum(fresh) / seconds, 2),
                refused_rate=round(refused / seconds, 2),
                services=tuple(tally.services),
            )

    def _sweep(self, now: int) -> None:
        """Forget edges that were silent for the window; at most once a bucket."""
        if self._swept_at == now:
            return
        self._swept_at = now
        for key in [key for key, tally in self._tallies.items() if tally.buckets[-1][0] <= now - BUCKETS]:
            del self._tallies[key]


def map_json(traffic: Traffic, status: NodeStatus) -> dict[str, Any]:
    """Return the service map: edges, and every workload at one of them or local, with how its endpoints are."""
    edges = sorted(traffic.edges(), key=lambda edge: (edge.source, edge.destination))
    local: dict[str, dict[str, int]] = {}
    for endpoint in status.endpoints:
        states = local.setdefault(endpoint.workload or endpoint.key, {})
        states[endpoint.state.value] = states.get(endpoint.state.value, 0) + 1
    names = dict.fromkeys((*sorted(local), *(name for edge in edges for name in (edge.source, edge.destination))))
    return {
        "window_seconds": BUCKET_SECONDS * BUCKETS,
        "columns": [verdict.value for verdict in COLUMNS],
        "left_out": traffic.left_out,
        "workloads": [{"id": name, "endpoints": local.get(name), "ready": _is_ready(local.get(name))} for name in names],
        "edges": [
            {
                "source": edge.source,
                "destination": edge.destination,
                "counts": edge.counts,
                "rate": edge.rate,
                "refused_rate": edge.refused_rate,
                "services": edge.services,
            }
            for edge in edges
        ],
    }


def _is_ready(states: dict[str, int] | None) -> bool:
    return states is None or states.keys() <= {EndpointState.READY.value}
