"""A watched directory of secrets, in either of two forms that may be mixed.

Owns: Secret documents (``*.yaml`` directly in the directory, as directory.py reads them) and key files
(``NAMESPACE/NAME/KEY``, as a mounted Secret looks). Values never appear in errors or logs. Must not know who uses them.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from l7filters.documents import DocumentError, Secret, SecretStore
from tidegate.sources.directory import DirectorySource
from tidegate.sources.files import FileReader, FileText
from tidegate.sources.watching import states_of

KEY_FILES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class SecretsState:
    """All secrets that can be read now, or could be read last."""

    revision: int = 0
    secrets: SecretStore = field(default_factory=SecretStore)
    errors: tuple[DocumentError, ...] = ()


class SecretsSource:
    """Reads one directory. ``watch`` yields its state, first at once and then after every change of it."""

    def __init__(self, directory: Path, clock: Callable[[], int] = time.time_ns) -> None:
        self._directory = directory
        self._clock = clock
        self._documents = DirectorySource(directory, clock)
        self._reader = FileReader()
        self._values: dict[Path, bytes] = {}
        self._problems: dict[Path, DocumentError] = {}
        self._state = SecretsState()
        self._again_ns: int | None = None

    @property
    def again_ns(self) -> int | None:
        """When the last look wants another one; None: it left no file for later."""
        return self._again_ns

    def look(self) -> SecretsState:
        """Look at the directory once and return its state; the same object if nothing changed. Blocks on the disk."""
        documents = self._documents.look()
        paths, errors = self._list()
        found = self._reader.look(paths, self._clock())
        for change in found.changes:
            self._take(change)
        waits = [wait for wait in (found.again_ns, self._documents.again_ns) if wait is not None]
        self._again_ns = min(waits, default=None)
        secrets, clashes = self._joined(documents.secrets)
        state = SecretsState(self._state.revision, secrets, (*documents.errors, *errors, *self._problems.values(), *clashes))
        if state != self._state or self._state.revision == 0:
            self._state = replace(state, revision=self._state.revision + 1)
        return self._state

    def watch(self) -> AsyncGenerator[SecretsState, None]:
        """Yield the state, and again after every change. Never ends; close the iterator to stop."""
        return states_of(self, self._directory, recursive=True)

    def _list(self) -> tuple[list[Path], list[DocumentError]]:
        """Return the key files: three levels down, nothing that begins with a dot."""
        level = [self._directory]
        for depth in range(3):
            below: list[Path] = []
            for directory in level:
                try:
                    with os.scandir(directory) as entries:
                        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
                except OSError:
                    # Not a directory (a Secret document), or gone meanwhile; the top is reported by the documents' source.
                    continue
                below += [directory / name for name in names]
            level = below if depth == 2 else [path for path in below if path.is_dir()]
        if len(level) > KEY_FILES_MAX:
            message = f"the directory holds {len(level)} key files; the limit is {KEY_FILES_MAX}"
            return sorted(self._reader.known), [DocumentError("", message, "", str(self._directory))]
        return level, []

    def _take(self, change: FileText) -> None:
        self._problems.pop(change.path, None)
        if change.data is not None:
            self._values[change.path] = change.data
        elif change.removed:
            self._values.pop(change.path, None)
        else:
            place = str(change.path.relative_to(self._directory))
            self._problems[change.path] = DocumentError("", change.problem, change.hint, place)

    def _joined(self, documents: SecretStore) -> tuple[SecretStore, list[DocumentError]]:
        files: dict[tuple[str, str], dict[str, bytes]] = {}
        for path, value in self._values.items():
            namespace, name, key = path.relative_to(self._directory).parts
            files.setdefault((namespace, name), {})[key] = value
        clashes = [
            DocumentError(
                "",
                f"a Secret document has this name already, {namespace}/{name}, and stays in force",
                "keep one",
                f"{namespace}/{name}",
            )
            for namespace, name in sorted(files)
            if documents.get(namespace, name) is not None
        ]
        from_files = [Secret(namespace, name, data) for (namespace, name), data in files.items()]
        # Of two with one name the later one counts.
        return SecretStore([*from_files, *documents]), clashes
