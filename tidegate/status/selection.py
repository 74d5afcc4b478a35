"""Which policies select which endpoints, counted for a status.

Owns: the counts, of one world, by an index: asking every policy of every endpoint takes a second at a thousand of each, and a
status is asked for while policies change. Pure; remembers its answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from l7filters.identity import IdentityNumber
from l7filters.labels import LabelSelector
from l7filters.model import Policy
from l7filters.population import LabelIndex
from l7filters.world import World


class Selection:
    """The counts of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._keys = [endpoint.key for endpoint in world.endpoints]
        self._index = LabelIndex.of({IdentityNumber(at): endpoint.labels for at, endpoint in enumerate(world.endpoints)})
        self._local = frozenset(IdentityNumber(at) for at, endpoint in enumerate(world.endpoints) if endpoint.is_local)
        self._selected: dict[LabelSelector, frozenset[IdentityNumber]] = {}
        counts: Counter[str] = Counter()
        for policy in world.policies:
            if not policy.selects_nodes:
                counts.update(self._keys[at] for at in self._select(policy.subject))
        self.policies_of = counts
        """Endpoint key -> how many policies select it."""

    def endpoints_of(self, specs: Iterable[Policy]) -> int:
        """Return how many local endpoints one of the specs selects."""
        found: frozenset[IdentityNumber] = frozenset()
        for spec in specs:
            if not spec.selects_nodes:
                found |= self._select(spec.subject)
        return len(found & self._local)

    def _select(self, subject: LabelSelector) -> frozenset[IdentityNumber]:
        known = self._selected.get(subject)
        if known is None:
            known = self._selected[subject] = self._index.select(subject)
        return known
