"""``compile`` and ``evaluate`` were written apart and share no code: in any world they must say the same of any flow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from l7filters.decision import Flow, Outcome, Problem, Side, Union
from l7filters.evaluate import evaluate
from l7filters.identity import Reserved
from l7filters.ir import Redirect, RuleSet
from l7filters.lookup import Dropped, would_deny
from l7filters.lookup import Flow as Packet
from l7filters.model import Direction, Protocol
from l7filters.world import Address, Endpoint, World
from tests.support.random_worlds import FLOWS, NAMES, OUTSIDE, REMOTE_NODES, worlds
from tests.support.worlds import View, kind

FLOWS_PER_WORLD = 40

Other = Endpoint | Address


def sides(
    seen: World, subject: Endpoint, other: Other, way: Direction, what: tuple[Protocol, int], names: tuple[str, ...]
) -> list[Side]:
    """Ask the evaluator about ``subject``'s side of one flow."""
    peer = other.key if isinstance(other, Endpoint) else other
    source, destination = (subject.key, peer) if way is Direction.EGRESS else (peer, subject.key)
    return [
        side for side in evaluate(seen, Flow(source, destination, what[0], what[1], names=names)).sides if side.direction is way
    ]


def content(rules: RuleSet) -> tuple[object, ...]:
    """Return what matters of a compiled rule set."""
    names = None if rules.any_server_name else frozenset(rules.server_names)
    by_name = frozenset(rules.by_name)
    return frozenset(map(str, rules.allow)), frozenset(map(str, rules.deny)), bool(rules.allow_all), names, by_name


def union_content(union: Union) -> tuple[object, ...]:
    """Return the same of an evaluated union."""
    names = None if union.server_names is None else frozenset(name.lower() for name in union.server_names)
    return (
        frozenset(map(str, union.allow)),
        frozenset(map(str, union.deny)),
        bool(union.allow_all) or union.is_open,
        names,
        frozenset(union.by_name),
    )


WORD = {Outcome.DENY: "deny", Outcome.ALLOW: "allow", Outcome.REDIRECT: "redirect"}


@given(worlds(plain=False), st.data())
def test_compiled_entries_say_what_the_evaluator_says(seen: World, data: st.DataObject) -> None:
    view = View.of(seen)
    others: list[Other] = [*seen.endpoints, *OUTSIDE, *(node.addresses[0] for node in REMOTE_NODES)]
    local = [one for one in seen.endpoints if one.is_local]
    questions = st.tuples(
        st.sampled_from(local),
        st.sampled_from(others),
        st.sampled_from(list(Direction)),
        st.sampled_from(FLOWS),
        st.lists(st.sampled_from(NAMES), max_size=2, unique=True).map(tuple),
    )
    for subject, other, way, what, names in data.draw(st.lists(questions, min_size=FLOWS_PER_WORLD, max_size=FLOWS_PER_WORLD)):
        peer = other.name if isinstance(other, Endpoint) else str(other)
        if way is Direction.INGRESS and view.number(peer) == int(Reserved.HOST):
            continue  # What the host sends to its own endpoints is passed before any entry is looked at.
        (side,) = sides(seen, subject, other, way, what, names)
        port = f"{what[1]}/{what[0].name}"
        if names and way is Direction.EGRESS and other in OUTSIDE:
            verdict = view.reached(subject.name, peer, port, *names)
        else:
            verdict = view.verdict(subject.name, peer, way, port)
        where = (subject.name, peer, way, what, names)
        redirected = isinstance(verdict, Redirect)
        word = "redirect" if redirected else kind(verdict).rstrip("!")
        assert word == WORD[side.outcome], where
        if word == "deny":
            continue
        assert would_deny(verdict) == (side.shadow.outcome is Outcome.DENY), where
        if redirected:
            rules = view.rules(verdict)
            assert side.ruling.union is not None, where
            assert content(rules.enforced) == union_content(side.ruling.union), where
            if side.shadow.union is not None:
                assert content(rules.shadow or rules.enforced) == union_content(side.shadow.union), where
            assert view.slot(verdict).key.protocol is (side.shadow.union or side.ruling.union).protocol, where


@given(worlds(plain=False))
def test_flows_between_local_ends_are_judged_as_the_evaluator_judges_them(seen: World) -> None:
    view = View.of(seen)
    local = [one for one in seen.endpoints if one.is_local]
    for sender in local:
        for receiver in local:
            for protocol, port in FLOWS:
                decision = evaluate(seen, Flow(sender.key, receiver.key, protocol, port))
                found = view.entries.judge(Packet(view.number(sender.name), view.number(receiver.name), protocol, port))
                where = (sender.name, receiver.name, protocol, port)
                if isinstance(found, Dropped):
                    assert decision.outcome is Outcome.DENY, where
                    assert found.no_pair == (decision.problem is Problem.ENDS_DIFFER), where
                else:
                    assert decision.outcome is (Outcome.ALLOW if found.slot is None else Outcome.REDIRECT), where
