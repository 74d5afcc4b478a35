"""Which world judged a record that comes late."""

from __future__ import annotations

from l7filters.world import Node, World
from tidegate.flows.attribution import WorldIndex, no_nearest_miss
from tidegate.flows.past_worlds import REMEMBERED_NS, WORLDS_MAX, PastWorld, PastWorlds


def past(revision: int, since_ns: int) -> PastWorld:
    return PastWorld(since_ns, WorldIndex(World(revision=revision, node=Node(name="node-a")), None), no_nearest_miss)


def history(*times_ns: int) -> PastWorlds:
    worlds = PastWorlds()
    for revision, time_ns in enumerate(times_ns):
        worlds.add(past(revision, time_ns))
    return worlds


def revisions(worlds: PastWorlds, time_ns: int) -> list[int]:
    return [world.index.revision for world in worlds.at(time_ns)]


def test_the_world_in_force_comes_first_then_its_successor_then_what_was_before() -> None:
    worlds = history(100, 200, 300, 400)
    assert revisions(worlds, 250) == [1, 2, 0, 3]
    assert revisions(worlds, 400) == [3, 2, 1, 0]
    assert revisions(worlds, 10_000) == [3, 2, 1, 0]
    assert revisions(worlds, 0) == [0, 1, 2, 3]
    assert revisions(PastWorlds(), 0) == []


def test_old_worlds_are_forgotten_but_never_the_one_in_force() -> None:
    assert revisions(history(0, 1, 2, REMEMBERED_NS + 3), REMEMBERED_NS + 3) == [3, 2]
    assert len(revisions(history(*range(100)), 50)) == WORLDS_MAX
    assert revisions(history(0), 10 * REMEMBERED_NS) == [0]
