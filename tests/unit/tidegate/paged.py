"""A fake agent with its page at a loopback port, for tests of the page."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.unit.tidegate.served import Served, served
from tidegate.admin.page import page_url
from tidegate.config.node import AdminSection


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def paged(directory: Path, token: str | None = None) -> Iterator[tuple[Served, str]]:
    """Serve a fake agent with its page; yields both it and the page's URL."""
    token_file = None
    if token is not None:
        token_file = directory / "token"
        token_file.write_text(f"{token}\n")
    section = AdminSection(page_host="127.0.0.1", page_port=free_port(), token_file=token_file)
    with served(directory, section) as node:
        yield node, page_url(node.agent.config)
