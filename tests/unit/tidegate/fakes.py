"""An agent that does nothing but show what a test gave it, and builders of the values it shows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from l7filters.envoy.secrets import SecretValue
from l7filters.ir import CompiledPolicy, SlotKey
from l7filters.model import Direction, PolicyKey, Protocol, RuleOrigin, SecretRef
from l7filters.world import Node, World
from tidegate.config.node import NodeConfig, NodeSection
from tidegate.counts.totals import L7Counts
from tidegate.flows.record import Flow, FlowEnd, HttpPart, Verdict
from tidegate.flows.ring import FlowRing
from tidegate.flows.traffic import Traffic
from tidegate.metrics import Meters
from tidegate.sandboxes import Sandbox
from tidegate.status.node import (
    BpfStatus,
    ChangeSignal,
    EndpointState,
    EndpointStatus,
    EnvoyStatus,
    NodeStatus,
    PolicyState,
    PolicyStatus,
    ProcessState,
    XdsStatus,
)

RULE = RuleOrigin(PolicyKey("cnp/default/rule1"), "spec.ingress[0].toPorts[0].rules.http[0]")
XWING = FlowEnd(
    address=ip_address("10.0.0.2"), port=51234, identity=256, namespace="default", name="xwing", labels=("k8s:org=alliance",)
)
DEATHSTAR = FlowEnd(
    address=ip_address("10.0.0.3"), port=80, identity=257, namespace="default", name="deathstar", labels=("k8s:org=empire",)
)
NOON_NS = 1_767_268_800_000_000_000
"""2026-01-01T12:00:00Z."""


def denied_request(**changes: Any) -> Flow:
    """A PUT that no rule allows."""
    flow = Flow(
        time_ns=NOON_NS + 123_456_789,
        uuid="00000000-0000-4000-8000-000000000001",
        node="node-a",
        verdict=Verdict.DENIED,
        direction=Direction.INGRESS,
        source=XWING,
        destination=DEATHSTAR,
        protocol=Protocol.TCP,
        reason="POLICY_DENIED",
        nearest_miss=f"{RULE}: method PUT is not POST",
        revision=7,
        slot=3,
        l7=HttpPart(method="PUT", path="/v1/exhaust-port", host="deathstar.default", protocol="HTTP/1.1", code=403),
        latency_ns=120_000,
    )
    return replace(flow, **changes)


def packet(**changes: Any) -> Flow:
    """A SYN that was forwarded."""
    flow = Flow(
        time_ns=NOON_NS,
        uuid="00000000-0000-4000-8000-000000000002",
        node="node-a",
        verdict=Verdict.FORWARDED,
        direction=Direction.EGRESS,
        source=XWING,
        destination=DEATHSTAR,
        protocol=Protocol.TCP,
        tcp_flags=2,
        revision=7,
    )
    return replace(flow, **changes)


def realised_status(**changes: Any) -> NodeStatus:
    """A node on which all is well."""
    status = NodeStatus(
        node="node-a",
        version="0.1.0",
        revision=7,
        started_at="2026-01-01T12:00:00Z",
        endpoints=(
            EndpointStatus(
                key="default/deathstar",
                state=EndpointState.READY,
                identity=257,
                attachment="lxc-deathstar",
                addresses=("10.0.0.3", "fd00::3"),
                revision=7,
                policies=1,
            ),
        ),
        policies=(
            PolicyStatus(key="cnp/default/rule1", state=PolicyState.REALISED, revision=7, source="rule1.yaml[0]", endpoints=1),
        ),
        envoy=EnvoyStatus(state=ProcessState.READY, version="1.40.0", pid=4711),
        bpf=BpfStatus(healthy=True, attached={"from_endpoint": 1, "to_endpoint": 1}),
        xds=XdsStatus(connected=True, pushes=3, acks=3, resources=5),
    )
    return replace(status, **changes)


def config_in(directory: Path) -> NodeConfig:
    """A configuration with everything below ``directory``."""
    return NodeConfig(
        path=directory / "node.yaml",
        node=NodeSection(name="node-a"),
        policies=directory / "policies",
        endpoints=directory / "endpoints.yaml",
        state=directory / "state",
    )


@dataclass
class FakeAgent:
    """Implements AgentView over plain fields; ``set_status`` is what the agent does when something was realised."""

    config: NodeConfig
    shown: NodeStatus = field(default_factory=realised_status)
    changes: ChangeSignal = field(default_factory=ChangeSignal)
    flows: FlowRing = field(default_factory=lambda: FlowRing(100))
    shown_world: World = field(default_factory=lambda: World(revision=7, node=Node(name="node-a")))
    shown_compiled: CompiledPolicy | None = None
    shown_secrets: dict[SecretRef, SecretValue] = field(default_factory=dict)
    meters: Meters = field(default_factory=Meters)
    traffic: Traffic = field(default_factory=Traffic)
    shown_slots: dict[SlotKey, tuple[int, bool]] = field(default_factory=dict)
    refreshes: int = 0
    sandboxes: list[Sandbox] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.flows.tap(self.traffic.take)

    async def refresh(self) -> None:
        self.refreshes += 1

    async def open_sandbox(self, sandbox: Sandbox, wait_seconds: float) -> str:
        self.sandboxes.append(sandbox)
        return "closed"

    async def forget_sandbox(self, sandbox: Sandbox) -> None:
        self.sandboxes.remove(sandbox)

    def l7_counts(self) -> L7Counts:
        return L7Counts(unavailable="a fake counts nothing")

    def status(self) -> NodeStatus:
        return self.shown

    def world(self) -> World:
        return self.shown_world

    def compiled(self) -> CompiledPolicy | None:
        return self.shown_compiled

    def slot_states(self) -> dict[SlotKey, tuple[int, bool]]:
        return self.shown_slots

    def secrets(self) -> dict[SecretRef, SecretValue]:
        return self.shown_secrets

    def set_status(self, status: NodeStatus) -> None:
        self.shown = status
        self.changes.bump()
