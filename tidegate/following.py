"""Following files: a source's looks, when they happen, and being asked for one right now.

Owns: the loop around one source. A look is made when the directory changes, when the source wants another one soon (a file was
being written), every few seconds in case a notice was lost, and when somebody asks for the truth of this moment (``refresh``),
as ``tidegate status --wait`` does right after a file was written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from tidegate.sources.watching import RESCAN_SECONDS, ChangeWatch, Source

State = TypeVar("State")

_NS = 1_000_000_000
REFRESH_SECONDS_MAX = 3.0
"""A file that never comes to rest is read as it is before this (files.py), so a refresh ends."""


class Follower(Generic[State]):
    """Follows one source and tells of each new state. Use on one event loop."""

    def __init__(self, source: Source[State], directory: Path, tell: Callable[[State], None], *, recursive: bool = False) -> None:
        self._recursive = recursive
        self._source = source
        self._directory = directory
        self._tell = tell
        self._looking = asyncio.Lock()
        self._told: State | None = None

    async def run(self) -> None:
        """Follow until cancelled."""
        watch = ChangeWatch(self._directory, recursive=self._recursive)
        try:
            while True:
                watch.renew()
                await self._look()
                again_ns = self._source.again_ns
                await watch.wait(RESCAN_SECONDS if again_ns is None else again_ns / _NS)
        finally:
            watch.close()

    async def refresh(self) -> None:
        """Return once the state told is that of the files as they were at the call."""
        async with asyncio.timeout(REFRESH_SECONDS_MAX):
            while True:
                await self._look()
                again_ns = self._source.again_ns
                if again_ns is None:
                    return
                await asyncio.sleep(again_ns / _NS)

    async def _look(self) -> None:
        async with self._looking:
            state = await asyncio.to_thread(self._source.look)
            # A first state without files that were just being written would withdraw their policies for a moment.
            if state is not self._told and (self._told is not None or self._source.again_ns is None):
                self._told = state
                self._tell(state)
