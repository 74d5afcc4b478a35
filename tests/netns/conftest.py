"""One stage for all scenario tests of a run; a test that breaks things builds its own."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import pytest

from tests.support.node import Node
from tests.support.stage import Stage


@pytest.fixture(scope="session")
def shared_stage() -> Iterator[Stage]:
    with Stage(prefix="tgstage") as stage:
        yield stage


@pytest.fixture
def stage(shared_stage: Stage) -> Stage:
    """The shared stage. A test starts with ``stage.enforce(...)``, which replaces whatever was in force."""
    return shared_stage


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    """Both address families, one after the other."""
    return int(request.param)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """After each scenario: whatever was denied in it says why."""
    result = yield
    for node in _nodes(item):
        node.check_denials()
    return result


def _nodes(item: pytest.Item) -> list[Node]:
    if not isinstance(item, pytest.Function):
        return []
    values = [value.node if isinstance(value, Stage) else value for value in item.funcargs.values()]
    return list({id(value): value for value in values if isinstance(value, Node)}.values())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Show the log of every node that a failed test used."""
    outcome = yield
    report = outcome.get_result()
    if not report.failed:
        return
    for node in _nodes(item):
        report.sections.append((f"log of tidegate run ({node.cluster.tag})", node.log_tail()))
