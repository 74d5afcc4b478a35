"""The admin API of a fake agent, served from a thread with a loop of its own, for clients that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from tests.unit.tidegate.fakes import FakeAgent, config_in
from tidegate.admin.api import AdminServer
from tidegate.admin.client import NodeClient
from tidegate.config.node import AdminSection

T = TypeVar("T")
DEADLINE_SECONDS = 10.0


@dataclass
class Served:
    """A running admin API. Everything about ``agent`` must happen on its loop: use ``do``."""

    agent: FakeAgent
    loop: asyncio.AbstractEventLoop

    @property
    def client(self) -> NodeClient:
        return NodeClient(self.agent.config.admin_socket)

    def do(self, action: Callable[[], T]) -> T:
        """Run ``action`` on the agent's loop and return what it returns."""

        async def act() -> T:
            return action()

        return asyncio.run_coroutine_threadsafe(act(), self.loop).result(DEADLINE_SECONDS)


@contextmanager
def served(directory: Path, section: AdminSection | None = None) -> Iterator[Served]:
    """Serve a fake agent whose files are below ``directory``, and write the node.yaml that leads to it."""
    agent = FakeAgent(replace(config_in(directory), admin=section or AdminSection()))
    agent.config.path.write_text("node: {name: node-a}\npolicies: ./policies\nendpoints: ./endpoints.yaml\nstate: ./state\n")
    started: threading.Event = threading.Event()
    found: list[Served] = []
    stop: list[asyncio.Event] = []

    async def serve() -> None:
        stop.append(asyncio.Event())
        async with AdminServer(agent):
            found.append(Served(agent, asyncio.get_running_loop()))
            started.set()
            await stop[0].wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(DEADLINE_SECONDS)
        yield found[0]
    finally:
        if found:
            found[0].loop.call_soon_threadsafe(stop[0].set)
        thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()
