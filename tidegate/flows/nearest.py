"""The nearest miss of a recorded denial: which rule came nearest to allowing it, and why it didn't, for flow records.

Owns: asking the evaluator within a budget, and saying no more than the record may say. A recorded request is known by less
than what was judged: its headers are not recorded, its query string may be redacted. So it is never said that a header was
absent, and nothing that is redacted is repeated. Must not know how anything is decided: l7filters.explain does.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from l7filters.decision import Decision
from l7filters.decision import Flow as JudgedFlow
from l7filters.explain import NearMiss, explain
from l7filters.parties import UnknownPartyError
from l7filters.predicates import NO_SECRETS, SecretTexts
from l7filters.world import World
from tidegate.flows.attribution import NearestMiss, no_nearest_miss
from tidegate.flows.record import REDACTED, Redaction

MISSES_CACHED_MAX = 1024
"""Nearest misses that are remembered; clients repeat themselves."""
MISSES_PER_SECOND_MAX = 50
"""Explanations per second. One costs up to some milliseconds with thousands of rules; a flood of denials then has records
without a nearest miss, and an agent that still answers."""

NOT_LOOKED_FOR = "not looked for: too many different denials at once (`tidegate explain --flow` finds it)"
"""Stands in a record whose nearest miss there was no time for."""
NOT_KNOWN = "not known: judged by a policy that this agent has not seen, or no longer remembers"
"""Stands in a record of a denial that no world of the last seconds explains: it was judged before this agent started."""


def nearest_miss_of(world: World | None, secrets: SecretTexts = NO_SECRETS, redaction: Redaction | None = None) -> NearestMiss:
    """Return what finds the nearest misses in ``world``; None: there is no world yet, and nothing is found."""
    return no_nearest_miss if world is None else MissFinder(world, secrets, redaction or Redaction())


class MissFinder:
    """Finds the nearest miss of denials in one world, for flow records. Remembers, and never takes more than its share."""

    def __init__(
        self, world: World, secrets: SecretTexts, redaction: Redaction, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._world = world
        self._secrets = secrets
        self._redaction = redaction
        self._clock = clock
        self._known: OrderedDict[JudgedFlow, str] = OrderedDict()
        self._tokens = float(MISSES_PER_SECOND_MAX)
        self._refilled_s = clock()

    def __call__(self, flow: JudgedFlow) -> str:
        """Return what came nearest to allowing ``flow``, in words (NOT_LOOKED_FOR where there was no time); empty if this world
        doesn't deny it.
        """
        known = self._known.get(flow)
        if known is not None:
            self._known.move_to_end(flow)
            return known
        if not self._may_look():
            return NOT_LOOKED_FOR
        try:
            found = explain(self._world, flow, self._secrets)
        except UnknownPartyError:
            return ""
        text = miss_words(found.nearest_misses, self._redaction, headers_known=flow.http is None)
        text = text or default_deny_words(found.decision)
        self._known[flow] = text
        if len(self._known) > MISSES_CACHED_MAX:
            self._known.popitem(last=False)
        return text

    def _may_look(self) -> bool:
        now_s = self._clock()
        earned = (now_s - self._refilled_s) * MISSES_PER_SECOND_MAX
        self._tokens = min(float(MISSES_PER_SECOND_MAX), self._tokens + earned)
        self._refilled_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def default_deny_words(decision: Decision) -> str:
    """Return which policies deny by default where no rule of any comes near; empty if ``decision`` is no such denial."""
    for side in decision.denied_by or (side for side in decision.sides if side.audited):
        policies = side.default_deny or side.selected_by
        if policies:
            return f"{policies[0]} selects {side.subject.name} for {side.direction} and has no rule that comes near"
    return ""


_HEADER = re.compile(r"(header \S+) .*?, (must .*)", re.DOTALL)
_QUERY = re.compile(r"(query parameter \S+ is) .*(, must)", re.DOTALL)
_PATH = re.compile(r"(path is [^?]*)\?.*(, must)", re.DOTALL)


def miss_words(misses: Iterable[NearMiss], redaction: Redaction, *, headers_known: bool) -> str:
    """Return the nearest of ``misses`` as a flow record may tell it; empty if there is none.

    With ``headers_known`` False what was said of headers is a guess: rules that fail for something known come first in what
    they say, and of the header it says only what the rule asks for.
    """
    nearest: tuple[tuple[int, int], str] | None = None
    for miss in misses:
        sure = [text for text in miss.failures if headers_known or not text.startswith("header ")]
        failures = sure or [_HEADER.sub(r"\1 \2", text) for text in miss.failures]
        if redaction.query:
            failures = [_PATH.sub(rf"\1?{REDACTED}\2", _QUERY.sub(rf"\1 {REDACTED}\2", text)) for text in failures]
        rank = (-miss.nearness, len(sure))
        if nearest is None or rank < nearest[0]:
            nearest = (rank, f"{miss.origin} would allow it, but {' and '.join(failures)}")
    return nearest[1] if nearest is not None else ""
