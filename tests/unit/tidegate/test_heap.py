"""The garbage collector sees everything when it is quiet, and only then."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from tidegate.heap import IDLE_S, Heap


class Knot:
    """A cycle."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_was_alive_at_a_change_is_hidden_until_it_is_quiet_and_then_freed() -> None:
    heap = Heap()
    knot = Knot()
    seen = weakref.ref(knot)
    heap.changed(100.0)
    del knot
    gc.collect()
    assert seen() is not None
    assert not heap.rest(100.0 + IDLE_S - 1)
    assert heap.rest(100.0 + IDLE_S)
    assert seen() is None


def test_each_change_puts_the_look_off_and_one_look_is_enough() -> None:
    heap = Heap()
    assert heap.due_s() is None
    heap.changed(100.0)
    heap.changed(120.0)
    assert heap.due_s() == 120.0 + IDLE_S
    assert heap.rest(120.0 + IDLE_S)
    assert heap.due_s() is None
    assert not heap.rest(1000.0)
