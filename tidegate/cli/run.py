"""``tidegate run``."""

from __future__ import annotations

import typer

from tidegate.cli.errors import CommandError
from tidegate.cli.exits import Exit
from tidegate.cli.options import ConfigOption, node_config


def run(config: ConfigOption = None) -> None:
    """Enforce policy on this node until stopped (SIGTERM or Ctrl-C).

    Attaches to the interfaces of the endpoints, starts Envoy, and follows edits of the policies and the endpoints file. When it
    stops, the BPF programs stay: what is allowed at L3/L4 goes on, what needs the proxy is closed. `tidegate cleanup` removes
    them.

    Example:  tidegate run --config /etc/tidegate/node.yaml
    """
    import os

    settings = node_config(config)
    if os.geteuid() != 0:
        raise CommandError("enforcing policy needs root", "run it with sudo, or as a systemd service", Exit.MACHINE)
    from tidegate.supervisor import run as run_node

    raise typer.Exit(run_node(settings))
