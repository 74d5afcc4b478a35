"""Fixtures of the program's own tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.tidegate.served import Served, served


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory with a path short enough for sockets in it; pytest's own can be too long."""
    with tempfile.TemporaryDirectory(prefix="tg-") as name:
        yield Path(name)


@pytest.fixture
def node(short_path: Path) -> Iterator[Served]:
    """A node with nothing but its admin API."""
    with served(short_path) as found:
        yield found
