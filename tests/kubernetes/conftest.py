"""One API server and one two-node cluster for all tests of a run; a test that breaks things builds its own."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import pytest

from tests.support.kube_stage import KubeStage


@pytest.fixture(scope="session")
def shared_stage() -> Iterator[KubeStage]:
    with KubeStage(prefix="tgkube") as stage:
        yield stage


@pytest.fixture
def stage(shared_stage: KubeStage) -> Iterator[KubeStage]:
    """The shared stage, without any policy."""
    shared_stage.clear()
    yield shared_stage
    shared_stage.clear()


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    """Both address families, one after the other."""
    return int(request.param)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Show the logs of every node that a failed test used."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and isinstance(item, pytest.Function):
        for stage in (value for value in item.funcargs.values() if isinstance(value, KubeStage)):
            for node in stage.nodes.values():
                report.sections.append((f"log of tidegate run ({node.name})", node.log_tail()))
