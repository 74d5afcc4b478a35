"""The last state heard of the API server, on disk: what an agent goes by that starts while the server is away.

Owns: STATE/kubernetes/WORD.json, one file a kind: the objects as they were last good and in force, reduced to what counts.
Secrets are never written. Blocks on the disk; a problem is returned in words, never raised: the copy is a precaution.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from tidegate.sources.kubernetes.server import Tree

FORMAT = 1
FILE_BYTES_MAX = 512 << 20
"""What is larger was not written by us: 100,000 pods take 40 MiB."""


class SavedObjects:
    """Objects by kind and key."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, word: str) -> dict[str, Tree] | None:
        """Return the objects of a kind; None if none were ever saved, or the file can't be read."""
        path = self._path(word)
        try:
            if path.stat().st_size > FILE_BYTES_MAX:
                return None
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("objects"), dict):
            return None
        return {str(key): tree for key, tree in content["objects"].items() if isinstance(tree, dict)}

    def save(self, word: str, objects: Mapping[str, Tree]) -> str:
        """Replace the objects of a kind, in one step. Returns a problem, or ""."""
        path = self._path(word)
        aside = path.with_suffix(".new")
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with aside.open("w", encoding="utf-8") as file:
                json.dump({"format": FORMAT, "objects": objects}, file, separators=(",", ":"))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError as error:
            return f"{path} can't be saved: {error.strerror}"
        return ""

    def _path(self, word: str) -> Path:
        return self._directory / f"{word}.json"
