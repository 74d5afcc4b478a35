"""Copies of good files, so that the last good version of a document outlives the agent.

Owns: the directory of copies (STATE/documents). A copy is the whole text of a file as it last was without any error; files that
hold Secrets are never copied. Must not know what a document is. Without it, a document that went bad while nobody watched would
be withdrawn by a restart, and a withdrawn policy opens what it closed.
"""

from __future__ import annotations

import os
from pathlib import Path


class KeptTexts:
    """Copies by file name. Blocks on the disk; failures are returned in words, never raised: a copy is a precaution."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, name: str) -> str | None:
        """Return the copy of file ``name``; None if there is none that can be read."""
        try:
            return (self._directory / name).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def save(self, name: str, text: str) -> str:
        """Keep ``text`` as the copy of ``name``, replacing the old one in one step. Returns a problem, or ""."""
        if self.load(name) == text:
            return ""
        aside = self._directory / f".{name}.new"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            aside.write_text(text, "utf-8")
            aside.replace(self._directory / name)
        except OSError as error:
            return f"can't be saved for a restart: {error.strerror}"
        return ""

    def forget(self, name: str) -> str:
        """Remove the copy of ``name``. Returns a problem, or ""."""
        try:
            (self._directory / name).unlink(missing_ok=True)
        except OSError as error:
            return f"its saved copy can't be removed: {error.strerror}"
        return ""

    def names(self) -> list[str]:
        """Return the names of all copies."""
        try:
            return sorted(name for name in os.listdir(self._directory) if not name.startswith("."))
        except OSError:
            return []
