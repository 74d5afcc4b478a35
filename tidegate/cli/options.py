"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.errors import UsageError

if TYPE_CHECKING:
    from tidegate.admin.client import NodeClient
    from tidegate.config.node import NodeConfig

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The node's node.yaml.", envvar="TIDEGATE_CONFIG", metavar="FILE", show_default=False),
]


def node_config(option: Path | None) -> NodeConfig:
    """Return the configuration that the command line or the environment names. Raises ConfigError or UsageError."""
    from tidegate.config.node import ENVIRONMENT_VARIABLE, load_config

    path = option or os.environ.get(ENVIRONMENT_VARIABLE)
    if not path:
        raise UsageError("which node?", f"give --config node.yaml, or set {ENVIRONMENT_VARIABLE}")
    return load_config(Path(path))


def node_client(option: Path | None) -> NodeClient:
    """Return a client of the node that the configuration is about. Raises ConfigError."""
    from tidegate.admin.client import NodeClient

    return NodeClient(node_config(option).admin_socket)
