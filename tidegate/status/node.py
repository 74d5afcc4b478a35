"""Status: what is realised on this node, as one immutable value.

Owns: the status values, their JSON and the question "is all of it realised?". The agent builds a NodeStatus, the admin API
sends it, the CLI and scripts read it. JSON names are the field names; they only ever grow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class EndpointState(StrEnum):
    """How far the policy of a local endpoint is."""

    WAITING = "waiting"
    """Known, but its interface or cgroup isn't there yet."""
    REGENERATING = "regenerating"
    """Attached, its policy on the way to Envoy and the maps; closed until then if it never had one."""
    READY = "ready"
    FAILED = "failed"
    """Can't be attached or realised; closed. ``message`` says why."""


class PolicyState(StrEnum):
    """How far a policy is."""

    PENDING = "pending"
    REALISED = "realised"
    FAILED = "failed"
    """Part of it can't be realised; what that part touches is closed, or stays as it last was. ``message`` says why."""


class ProcessState(StrEnum):
    """How a process of this node is."""

    STARTING = "starting"
    READY = "ready"
    DOWN = "down"
    EXTERNAL = "external"
    """Not started by this agent, and not heard of yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """One local endpoint."""

    key: str
    state: EndpointState
    identity: int = 0
    attachment: str = ""
    """The interface's name or the cgroup's path."""
    addresses: tuple[str, ...] = ()
    revision: int = 0
    """The policy revision in force."""
    policies: int = 0
    """How many policies select it."""
    message: str = ""
    workload: str = ""
    """``namespace/workload`` (flow.workload_name)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmanaged:
    """Something on this node whose traffic no policy reaches. ``name``: an endpoint's key, or an interface."""

    name: str
    kind: str
    """``endpoint``: known, not attached. ``pod``: of an API server, no endpoint. ``interface``: leads to another network
    namespace, and no endpoint claims it."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStatus:
    """One policy document's policies, by key."""

    key: str
    state: PolicyState
    revision: int = 0
    """The revision that realised it as it stands; 0: none yet."""
    mode: str = "enforce"
    source: str = ""
    endpoints: int = 0
    """How many local endpoints it selects."""
    message: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentError:
    """A document that could not be read; its last good version, if any, stays in force."""

    source: str
    index: int
    """Which document of the file, from 0."""
    path: str
    message: str
    hint: str = ""
    kept: bool = False
    """Whether an earlier version of it is in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyStatus:
    """The proxy."""

    state: ProcessState = ProcessState.STARTING
    version: str = ""
    pid: int = 0
    restarts: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsStatus:
    """The DNS proxy. Counts are since it started."""

    state: ProcessState = ProcessState.STARTING
    pid: int = 0
    restarts: int = 0
    """How often another process was found since the agent started."""
    revision: int = 0
    """Of the rules in force."""
    slots: tuple[int, ...] = ()
    """Those whose listeners are there."""
    wanted: int = 0
    """How many slots there should be; 0: no policy has DNS rules, and nobody needs the proxy."""
    message: str = ""
    counters: Mapping[str, int] = field(default_factory=dict)
    gauges: Mapping[str, int] = field(default_factory=dict)
    names_map: Mapping[str, int] = field(default_factory=dict)
    """What it wrote for the kernel: ``entries``, ``capacity``, ``full``, ..."""
    outcomes: tuple[tuple[str, int, str, int], ...] = ()
    """(verdict, rcode, query type, questions)."""
    latency_bounds_ns: tuple[int, ...] = ()
    latency_counts: tuple[int, ...] = ()
    latency_sum_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BpfStatus:
    """Programs and maps. ``attached``: hook -> how many places it is attached to."""

    healthy: bool = False
    attached: Mapping[str, int] = field(default_factory=dict)
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountsStatus:
    """Exact counts of requests. ``unavailable``: why there are none. ``overflow``: requests without a record, by verdict."""

    unavailable: str = ""
    records: int = 0
    capacity: int = 0
    overflow: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class XdsStatus:
    """The configuration stream to Envoy; counts are since the agent started."""

    connected: bool = False
    pushes: int = 0
    acks: int = 0
    nacks: int = 0
    resources: int = 0
    bytes: int = 0
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """Resource name -> why Envoy refused it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DropCount:
    """Packets dropped for one reason since the programs were loaded."""

    reason: str
    packets: int
    bytes: int = 0
    direction: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapFill:
    """How full a BPF map is."""

    name: str
    entries: int
    capacity: int

    @property
    def ratio(self) -> float:
        """0..1."""
        return self.entries / self.capacity if self.capacity else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowsStatus:
    """The flow ring."""

    seen: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    followers: int = 0
    message: str = ""
    """Why records can't be kept on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """All of it at one moment."""

    node: str
    version: str
    revision: int
    """The world's; what is realised at this revision is up to date."""
    started_at: str = ""
    """RFC 3339."""
    endpoints: tuple[EndpointStatus, ...] = ()
    policies: tuple[PolicyStatus, ...] = ()
    unmanaged: tuple[Unmanaged, ...] = ()
    document_errors: tuple[DocumentError, ...] = ()
    envoy: EnvoyStatus = EnvoyStatus()
    dns: DnsStatus = DnsStatus()
    bpf: BpfStatus = BpfStatus()
    xds: XdsStatus = XdsStatus()
    drops: tuple[DropCount, ...] = ()
    maps: tuple[MapFill, ...] = ()
    flows: FlowsStatus = FlowsStatus()
    counts: CountsStatus = CountsStatus()

    @property
    def all_realised(self) -> bool:
        """Whether nothing is outstanding or wrong."""
        return next(self.obstacles(), None) is None

    def obstacles(self) -> Iterator[str]:
        """Yield what stands between this state and "all realised", one line each."""
        if not self.bpf.healthy:
            yield f"BPF: {self.bpf.message or 'not loaded yet'}"
        if self.envoy.state is not ProcessState.READY:
            yield f"Envoy: {self.envoy.state}" + (f": {self.envoy.message}" if self.envoy.message else "")
        if self.dns.wanted and (self.dns.state is not ProcessState.READY or self.dns.message):
            yield f"DNS proxy: {self.dns.state}" + (f": {self.dns.message}" if self.dns.message else "")
        for error in self.document_errors:
            yield f"document {error.source}[{error.index}]: {error.path + ': ' if error.path else ''}{error.message}"
        for policy in self.policies:
            if policy.state is not PolicyState.REALISED:
                yield f"policy {policy.key}: {policy.state}" + (f": {policy.message}" if policy.message else "")
        for endpoint in self.endpoints:
            if endpoint.state is not EndpointState.READY:
                yield f"endpoint {endpoint.key}: {endpoint.state}" + (f": {endpoint.message}" if endpoint.message else "")


class ChangeSignal:
    """Tells readers that the status may have changed. The agent bumps it; any number of tasks wait for it."""

    def __init__(self) -> None:
        self._serial = 0
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def serial(self) -> int:
        """Grows with every bump; read it before the status, then wait for what follows it."""
        return self._serial

    def bump(self) -> None:
        """Wake everybody."""
        self._serial += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def wait_after(self, serial: int) -> None:
        """Return as soon as ``self.serial`` is beyond ``serial``."""
        while self._serial <= serial:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
