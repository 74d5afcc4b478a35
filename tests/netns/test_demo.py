"""The demo is right, cleans up, and may be interrupted at any moment."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.support.netns import BPF_FILE_SYSTEM, NETNS_DIRECTORY
from tests.support.node import eventually
from tests.support.pod import REPOSITORY

pytestmark = [pytest.mark.root, pytest.mark.envoy, pytest.mark.slow]
DEMO_SECONDS_MAX = 120


def start() -> subprocess.Popen[str]:
    """Start the demo."""
    return subprocess.Popen(
        [sys.executable, "-m", "deploy.demo"],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left(demo: subprocess.Popen[str]) -> list[Path]:
    """What a demo has made and not removed."""
    places = (NETNS_DIRECTORY, Path(tempfile.gettempdir()), BPF_FILE_SYSTEM)
    return [path for place in places if place.is_dir() for path in place.iterdir() if path.name.startswith(f"tgdemo-{demo.pid}-")]


def test_demo_gets_every_verdict_right_and_leaves_nothing() -> None:
    with start() as demo:
        output, _ = demo.communicate(timeout=DEMO_SECONDS_MAX)
    assert demo.returncode == 0, output
    assert "Every verdict is right" in output
    assert "✗" not in output
    assert left(demo) == []


@pytest.mark.parametrize(
    "seconds,number",
    [(0.5, signal.SIGINT), (3.0, signal.SIGINT), (9.0, signal.SIGINT), (6.0, signal.SIGTERM)],
    ids=["while-building", "while-loading", "while-running", "by-sigterm"],
)
def test_interrupted_demo_leaves_nothing(seconds: float, number: signal.Signals) -> None:
    with start() as demo:
        eventually(lambda: left(demo) != [] or demo.poll() is not None, 20, "the demo builds")
        time.sleep(seconds)
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=60)
    assert demo.returncode in (0, 130), output
    assert left(demo) == []
