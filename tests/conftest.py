"""Settings that hold for every test.

Under CI (``CI`` or ``TIDEGATE_CI`` set) a test that needs root or Envoy must run: its skip is turned into a failure, so that
a machine which cannot run it never looks like a pass.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

MUST_RUN_MARKERS = ("root", "envoy")

# One core's worth of examples in a normal run; `make fuzz` sets many more. Deadlines would make a busy machine a failure.
settings.register_profile(
    "tidegate",
    max_examples=int(os.environ.get("TIDEGATE_HYPOTHESIS_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="TIDEGATE_HYPOTHESIS_EXAMPLES" not in os.environ,
)
settings.load_profile("tidegate")


TEST_SECONDS_MAX = 300
"""A phase of a test that takes longer hangs; it fails there and then, with a traceback, instead of stopping the run."""


def pytest_configure() -> None:
    """Whatever started us, Ctrl-C means Ctrl-C to the programs under test: a background job's shell has it ignored."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)


@contextmanager
def _time_limit(item: pytest.Item) -> Iterator[None]:
    def too_long(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{item.nodeid} took more than {TEST_SECONDS_MAX} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(TEST_SECONDS_MAX)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Bound what fixtures take."""
    with _time_limit(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Bound what the test takes."""
    with _time_limit(item):
        return (yield)


def is_ci() -> bool:
    """Whether this run must not skip what needs root."""
    return any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in ("CI", "TIDEGATE_CI"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs root when it can't run; ``pytest_runtest_makereport`` judges that skip."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Under CI, report the skip of a test that must run as a failure."""
    outcome = yield
    report = outcome.get_result()
    must_run = [name for name in MUST_RUN_MARKERS if item.get_closest_marker(name)]
    if report.skipped and must_run and is_ci() and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} is marked {' and '.join(must_run)} and must run under CI, but was skipped: {reason}"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, None]:
    """Under CI, report the skip of a whole module as a failure: its markers can't be asked any more."""
    outcome = yield
    report = outcome.get_result()
    if report.outcome == "skipped" and is_ci():
        report.outcome = "failed"
        report.longrepr = (
            f"{collector.nodeid} was skipped as a whole, which hides tests that must run under CI: {report.longrepr}"
        )
