"""The admin API: what the agent tells people and scripts, over HTTP on a Unix socket.

Owns: the routes, their parameters and the sockets. Must not know how the agent works: it sees an AgentView. The socket
{state}/admin.sock is readable by its owner only (0600), and that is all the authentication there is; the optional TCP
address serves /metrics and /healthz, which name no rule and no address. docs/cli.md lists the routes.

    GET /v1/status[?wait=SECONDS]     NodeStatus; with wait, as soon as all is realised, at the latest after SECONDS
    GET /v1/flows[?follow=1&last=N&verdict=..&namespace=..&name=..&protocol=..&since_ns=N]    NDJSON
    GET /v1/endpoints, /v1/policies, /v1/world
    POST /v1/explain                  a question (explanation.py) against the live world
    GET /healthz, /metrics
"""

from __future__ import annotations

from typing import Protocol

from l7filters.ir import CompiledPolicy
from l7filters.world import World
from tidegate.config import NodeConfig
from tidegate.flows import FlowRing
from tidegate.status import ChangeSignal, NodeStatus

WAIT_SECONDS_MAX = 3600.0
"""A long poll ends after this; who wants longer asks again."""
SHUTDOWN_SECONDS = 0.5
"""How long open requests (followers) get when the agent stops; then they are cut."""
REQUEST_BYTES_MAX = 64 << 10
"""The largest request is a question to explain with all its headers."""


class AgentView(Protocol):
    """What the admin API sees of the agent. All of it is called on the agent's own loop and must not block."""

    @property
    def config(self) -> NodeConfig:
        """The configuration the agent runs with."""

    @property
    def changes(self) -> ChangeSignal:
        """Bumped whenever ``status().all_realised`` may have changed."""

    @property
    def flows(self) -> FlowRing:
        """The flow ring."""

    def status(self) -> NodeStatus:
        """The status of this moment, with counters read now or a moment ago."""

    def world(self) -> World:
        """The world in force."""

    def compiled(self) -> CompiledPolicy | None:
        """What it compiled to; None before the first time."""
