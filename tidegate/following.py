"""Following a source, and being told the truth of this moment.

Owns: handing each new state of a source to whoever wants it, and looking right now when asked (``refresh``), as
``tidegate status --wait`` does just after a file was written. When to look otherwise is sources/watching.py's business.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from tidegate.sources.watching import Source as FileSource
from tidegate.sources.watching import states_of

State = TypeVar("State")

_NS = 1_000_000_000
REFRESH_SECONDS_MAX = 3.0
"""A file that never comes to rest is read as it is before this (files.py), so a refresh ends."""


class Source(Protocol):
    """What the agent follows: files, or an API server."""

    async def run(self) -> None:
        """Follow until cancelled."""

    async def refresh(self) -> None:
        """Return when what the source says at the call has been told. Raises TimeoutError."""


class _OneLookAtATime(Generic[State]):
    """A source that may be asked from several threads. ``latest``: what the last look found, whoever made it."""

    def __init__(self, source: FileSource[State]) -> None:
        self._source = source
        self._lock = threading.Lock()
        self.latest: State | None = None

    def look(self) -> State:
        with self._lock:
            state = self._source.look()
            self.latest = state
            return state

    @property
    def again_ns(self) -> int | None:
        return self._source.again_ns


class Follower(Generic[State]):
    """Follows one source and tells of each new state. Use on one event loop."""

    def __init__(
        self, source: FileSource[State], directory: Path, tell: Callable[[State], None], *, recursive: bool = False
    ) -> None:
        self._source = _OneLookAtATime(source)
        self._directory = directory
        self._tell = tell
        self._recursive = recursive
        self._told: State | None = None

    async def run(self) -> None:
        """Follow until cancelled."""
        async with aclosing(states_of(self._source, self._directory, recursive=self._recursive)) as states:
            async for _ in states:
                self._hear()

    async def refresh(self) -> None:
        """Return once the state told is that of the files as they were at the call. Raises TimeoutError."""
        async with asyncio.timeout(REFRESH_SECONDS_MAX):
            while True:
                await asyncio.to_thread(self._source.look)
                again_ns = self._source.again_ns
                if again_ns is None:
                    return self._hear()
                await asyncio.sleep(again_ns / _NS)

    def _hear(self) -> None:
        """Tell the latest state. Not the caller's: two looks may be heard of in another order than they were made."""
        state = self._source.latest
        if state is not None and state is not self._told:
            self._told = state
            self._tell(state)
