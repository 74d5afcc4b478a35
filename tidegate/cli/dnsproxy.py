"""``tidegate dnsproxy``."""

from __future__ import annotations

from tidegate.cli.errors import CommandError
from tidegate.cli.exits import Exit
from tidegate.cli.options import ConfigOption, node_config


def dnsproxy(config: ConfigOption = None) -> None:
    """Run this node's DNS proxy until stopped. `tidegate run` does it by itself; this is for a container or unit of its own.

    It answers pods by the rules that the agent leaves in the state directory, and goes on without the agent. One per node.

    Example:  tidegate dnsproxy --config /etc/tidegate/node.yaml
    """
    import os

    settings = node_config(config)
    if os.geteuid() != 0:
        raise CommandError("transparent sockets need root", "run it with sudo, or as a systemd service", Exit.MACHINE)
    from tidegate.processes.dns import DnsLauncher

    launcher = DnsLauncher(settings)
    try:
        launcher.write_settings()
    except OSError as error:
        raise CommandError(f"{settings.dns_directory} can't be written: {error}", "is `state` right?", Exit.MACHINE) from error
    # A new program in this very process: what the command line needed is none of the proxy's weight.
    words = launcher.argv()
    os.execv(words[0], words)
