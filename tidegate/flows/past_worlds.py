"""The worlds of the last seconds: a record that arrives late is attributed by the world that judged it.

Owns: which world was in force when. Records come from Envoy up to a second after their verdict, and policy may have changed
meanwhile: what today allows can't say why it was denied. Pure; time comes in as an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from tidegate.flows.attribution import NearestMiss, WorldIndex

WORLDS_MAX = 8
"""Worlds that are remembered, the one in force among them; each holds an index of every endpoint."""
REMEMBERED_NS = 10_000_000_000
"""How long the one before is of use: longer than any report is on its way."""


@dataclass(frozen=True, slots=True)
class PastWorld:
    """A world, in force from ``since_ns`` until the next one's."""

    since_ns: int
    index: WorldIndex
    nearest: NearestMiss


class PastWorlds:
    """The last ``WORLDS_MAX`` of them."""

    def __init__(self) -> None:
        self._worlds: deque[PastWorld] = deque(maxlen=WORLDS_MAX)

    def add(self, world: PastWorld) -> None:
        """``world`` is in force now."""
        self._worlds.append(world)
        while len(self._worlds) > 1 and self._worlds[1].since_ns < world.since_ns - REMEMBERED_NS:
            self._worlds.popleft()

    def at(self, time_ns: int) -> Iterator[PastWorld]:
        """Yield the world in force at ``time_ns`` first; nothing before there is any.

        Then the one after it (which may have judged while it came into force), those before it, latest first, and the rest.
        """
        worlds = list(self._worlds)
        current = next((index for index in reversed(range(len(worlds))) if worlds[index].since_ns <= time_ns), 0)
        order = [current, current + 1, *range(current - 1, -1, -1), *range(current + 2, len(worlds))]
        for index in order:
            if index < len(worlds):
                yield worlds[index]
