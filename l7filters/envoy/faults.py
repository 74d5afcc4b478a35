"""Faults of single rules, gathered while a slot is translated.

Owns: their collection, so that each is told once however often its rule is met (enforced, shadow, CONNECT).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from l7filters.envoy.resource import RuleProblem


@dataclass(frozen=True, slots=True)
class RuleFault:
    """A rule that can't be translated as written, and the origin that names it."""

    origin: str
    message: str
    hint: str


@dataclass(slots=True)
class Faults:
    """The faults of one slot; made for one translation and read after it."""

    found: dict[tuple[str, str], RuleFault] = field(default_factory=dict)

    def note(self, origin: str, problem: RuleProblem) -> None:
        """Remember ``problem`` of the rule ``origin``."""
        self.found.setdefault((origin, str(problem)), RuleFault(origin, str(problem), problem.hint))
