"""A watched directory of YAML or JSON documents: the policies of a node without a cluster.

Owns: which files of the directory count, and turning their changes into states. What is in force is ledger.py's business,
when a file is read files.py's, when to look watching.py's. Files directly in the directory count, if they end in .yaml,
.yml or .json and don't begin with a dot (editors' swap files, the ``..data`` of a mounted ConfigMap); links are followed.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

from l7filters.documents import DocumentError, ParsedFile, parse_documents
from tidegate.sources.files import FileReader, FileText
from tidegate.sources.kept import KeptTexts
from tidegate.sources.ledger import DirectoryState, FileLedger, merge, record, record_unreadable
from tidegate.sources.watching import states_of

SUFFIXES = (".yaml", ".yml", ".json")
FILES_MAX = 100_000
"""Of one directory; each costs a stat per look."""


class DirectorySource:
    """Reads one directory. ``watch`` yields its full state, first at once and then after every change of it.

    Parsing is per file and only of files that changed: a change in a directory of 10,000 documents costs 10,000 stats
    and the parsing of one file. A slow consumer misses intermediate states, never the latest.
    """

    def __init__(self, directory: Path, clock: Callable[[], int] = time.time_ns, kept: Path | None = None) -> None:
        """``kept``: where copies of good files outlive this process; None: nowhere."""
        self._directory = directory
        self._kept = None if kept is None else KeptTexts(kept)
        self._swept = False
        self._clock = clock
        self._reader = FileReader()
        self._paths: dict[str, Path] = {}
        self._ledgers: dict[str, FileLedger] = {}
        self._state = DirectoryState()
        self._again_ns: int | None = None

    @property
    def state(self) -> DirectoryState:
        """The state as of the last look."""
        return self._state

    @property
    def again_ns(self) -> int | None:
        """When the last look wants another one; None: it left no file for later."""
        return self._again_ns

    def look(self) -> DirectoryState:
        """Look at the directory once and return its state; the same object if nothing changed. Blocks on the disk."""
        paths, error = self._list()
        if error is None:
            found = self._reader.look(paths, self._clock())
            self._again_ns = found.again_ns
            for change in found.changes:
                self._take(change)
            if not self._swept and self._again_ns is None:
                self._sweep()
        else:
            self._again_ns = None
        self._state = merge(self._ledgers, self._state, error)
        return self._state

    def watch(self) -> AsyncGenerator[DirectoryState, None]:
        """Yield the state, and again after every change. Never ends; close the iterator to stop."""
        return states_of(self, self._directory)

    def _list(self) -> tuple[list[Path], DocumentError | None]:
        try:
            with os.scandir(self._directory) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(SUFFIXES) and not entry.name.startswith(".")]
        except OSError as problem:
            hint = "all documents stay in force as they last were; create the directory or mend its permissions"
            return [], DocumentError("", f"the directory can't be read: {problem.strerror}", hint, str(self._directory))
        if len(names) > FILES_MAX:
            message = f"the directory holds {len(names)} files; the limit is {FILES_MAX}"
            return [], DocumentError("", message, "put more documents into one file", str(self._directory))
        # Making and ordering Paths was half of what a look at a thousand files cost.
        self._paths = {name: self._paths.get(name) or self._directory / name for name in sorted(names)}
        return list(self._paths.values()), None

    def _take(self, change: FileText) -> None:
        name = change.path.name
        if change.removed:
            self._ledgers.pop(name, None)
            if self._kept is not None:
                self._kept.forget(name)
            return
        old = self._ledgers.get(name)
        if change.text is None:
            old = self._from_copy(name) if old is None else old
            self._ledgers[name] = record_unreadable(old, name, change.problem, change.hint)
            return
        if not change.text.strip():
            # A full disk and an interrupted writer leave files like this; nobody withdraws a policy so.
            old = self._from_copy(name) if old is None else old
            if old.in_force:
                hint = "to withdraw its documents, delete the file; until then they stay in force"
                self._ledgers[name] = record_unreadable(old, name, "the file is empty", hint)
                return
        parsed = parse_documents(change.text, name)
        if old is None:
            old = self._from_copy(name) if parsed.errors else FileLedger()
        ledger = record(old, parsed)
        problem = self._keep(parsed, change.text)
        if problem:
            error = DocumentError("", problem, "until it can be, a restart may lose its last good version", name)
            ledger = replace(ledger, errors=(*ledger.errors, error))
        self._ledgers[name] = ledger

    def _from_copy(self, name: str) -> FileLedger:
        """Return the ledger of a file seen for the first time: what was good of it before this process began."""
        text = None if self._kept is None else self._kept.load(name)
        return FileLedger() if text is None else record(FileLedger(), parse_documents(text, name))

    def _keep(self, parsed: ParsedFile, text: str) -> str:
        """Copy a file that has no errors; one that holds Secrets has no copy. Returns a problem, or ""."""
        if self._kept is None:
            return ""
        if parsed.secrets:
            return self._kept.forget(parsed.source)
        return "" if parsed.errors else self._kept.save(parsed.source, text)

    def _sweep(self) -> None:
        """Drop the copies of files that were removed while nobody watched."""
        self._swept = True
        if self._kept is not None:
            for name in self._kept.names():
                if name not in self._ledgers:
                    self._kept.forget(name)
