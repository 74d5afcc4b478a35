"""``tidegate run``."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.errors import CommandError
from tidegate.cli.exits import Exit
from tidegate.cli.options import ConfigOption, node_config

if TYPE_CHECKING:
    from tidegate.config.node import NodeConfig

KubernetesOption = Annotated[
    bool,
    typer.Option("--kubernetes", help="Follow the API server instead of files.", show_default=False),
]


class Part(StrEnum):
    """One process of a node."""

    AGENT = "agent"
    ENVOY = "envoy"
    DNSPROXY = "dnsproxy"


PartOption = Annotated[
    Part | None,
    typer.Option("--only", help="Run one process alone, for something else to restart (a container).", show_default=False),
]


def run(config: ConfigOption = None, kubernetes: KubernetesOption = False, only: PartOption = None) -> None:
    """Enforce policy on this node until stopped (SIGTERM or Ctrl-C).

    Attaches to the interfaces of the endpoints, starts Envoy, and follows edits of the policies and the endpoints file, or with
    --kubernetes (or `source: kubernetes` in node.yaml) the pods and policies of the API server. When it stops, the BPF programs
    stay: what is allowed at L3/L4 goes on, what needs the proxy is closed. `tidegate cleanup` removes them.

    Example:  tidegate run --config /etc/tidegate/node.yaml
    """
    import os

    if kubernetes:
        from tidegate.config.node import SOURCE_VARIABLE, SourceKind

        os.environ[SOURCE_VARIABLE] = SourceKind.KUBERNETES

    settings = node_config(config)
    if os.geteuid() != 0:
        raise CommandError("enforcing policy needs root", "run it with sudo, or as a systemd service", Exit.MACHINE)
    if only is not None:
        raise typer.Exit(_run_part(only, settings))
    from tidegate.status.diagnosis import is_agent_running
    from tidegate.supervisor import run as run_node

    if is_agent_running(settings):
        hint = "stop it first; a second node on this machine needs a `state` directory of its own"
        raise CommandError(f"an agent is running with the state directory {settings.state}", hint, Exit.REFUSED)

    raise typer.Exit(run_node(settings))


def _run_part(part: Part, settings: NodeConfig) -> int:
    """Run one process in the foreground; return its exit code, if it comes back at all."""
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    match part:
        case Part.AGENT:
            from tidegate.agent import run_agent

            return run_agent(settings, with_envoy=True)
        case Part.ENVOY:
            from tidegate.processes.envoy import EnvoyLauncher

            EnvoyLauncher(settings).exec()
        case Part.DNSPROXY:
            from tidegate.processes.dns import DnsLauncher

            DnsLauncher(settings).exec()
    return Exit.MACHINE
