"""What the evaluator says of a flow that happened: ``tidegate explain --flow``.

Owns: the report on a record, and whether it agrees with what was recorded. Pure. A record says which verdict was
given, by the policy of its moment; the report says which one policy gives now, or a candidate policy would.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, assert_never

from l7filters.decision import Decision, Outcome
from l7filters.decision import Verdict as Judgement
from l7filters.explain import Explanation, explain
from l7filters.parties import UnknownPartyError
from l7filters.predicates import NO_SECRETS, SecretTexts
from l7filters.world import World
from tidegate.explanation import QuestionError
from tidegate.flows.judged import judged_flow
from tidegate.flows.nearest import NOT_KNOWN, NOT_LOOKED_FOR, default_deny_words, miss_words
from tidegate.flows.record import Flow, HttpPart, Redaction, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordReport:
    """A record beside what the evaluator says of it. ``agrees`` None: policy had no say in it."""

    flow: Flow
    explanation: Explanation
    agrees: bool | None
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON: that of ``explain``, with the record."""
        record = {"agrees": self.agrees, "notes": list(self.notes), "flow": self.flow.to_json()}
        return {**self.explanation.as_json(), "record": record}

    def as_text(self) -> str:
        """Return the report as lines."""
        flow = self.flow
        decided = str(flow.rule) if flow.rule else flow.nearest_miss or flow.reason
        head = [f"recorded: {flow.verdict.value}" + (f", {decided}" if decided else ""), *self.notes, ""]
        return "\n".join((*head, self.explanation.as_text()))


def explain_record(
    world: World, flow: Flow, secrets: SecretTexts = NO_SECRETS, redaction: Redaction | None = None
) -> RecordReport:
    """Return what policy says of ``flow`` in ``world``. Raises QuestionError if an end of it can't be judged."""
    try:
        # Without secrets where headers are not known: their values could not be compared with anything.
        explanation = explain(world, judged_flow(flow), secrets)
    except UnknownPartyError as error:
        raise QuestionError(str(error), "the record lacks an address") from error
    return RecordReport(
        flow=flow,
        explanation=explanation,
        agrees=_agrees(flow, explanation, redaction or Redaction()),
        notes=tuple(_notes(world, flow)),
    )


def _agrees(flow: Flow, explanation: Explanation, redaction: Redaction) -> bool | None:
    decision = explanation.decision
    match flow.verdict:
        case Verdict.DENIED:
            return decision.verdict is Judgement.DENIED and _same_words(flow, explanation, redaction)
        case Verdict.AUDITED:
            return decision.audited and (flow.rule is not None or _same_words(flow, explanation, redaction))
        case Verdict.FORWARDED | Verdict.ERROR:
            return decision.verdict is Judgement.ALLOWED or _may_depend_on_headers(flow, decision)
        case Verdict.REDIRECTED:
            return decision.outcome is Outcome.REDIRECT
        case Verdict.DROPPED:
            return None
        case _:
            assert_never(flow.verdict)


def _same_words(flow: Flow, explanation: Explanation, redaction: Redaction) -> bool:
    if flow.rule is not None:
        return flow.rule in explanation.decision.deciding
    words = miss_words(explanation.nearest_misses, redaction, headers_known=not isinstance(flow.l7, HttpPart))
    return flow.nearest_miss in (words or default_deny_words(explanation.decision), NOT_LOOKED_FOR, NOT_KNOWN)


def _may_depend_on_headers(flow: Flow, decision: Decision) -> bool:
    """A request that was allowed for a header is denied without it, and the record doesn't have it."""
    return isinstance(flow.l7, HttpPart) and decision.outcome is Outcome.REDIRECT


def _notes(world: World, flow: Flow) -> Iterable[str]:
    if flow.revision != world.revision:
        yield f"note: recorded at revision {flow.revision}; judged at revision {world.revision}"
    if isinstance(flow.l7, HttpPart):
        yield "note: records hold no request headers and, unless configured, no query string; rules on them look unmet"
