"""Reading files that others write: each at rest, none half-written, unchanged ones not at all.

Owns: when a file counts as changed, as settled and as gone. Must not know what is in it.

1. A file is read when its stamp (device, inode, size, mtime, ctime) differs from that of the last reading.
2. A file whose mtime is younger than ``SETTLE_NS`` is left for a moment: its writer may not be done, and a file cut off in the
   middle can be valid YAML that says something else. So is one whose stamp changes while it is read.
3. A writer that never rests doesn't starve its readers: after ``SETTLE_NS_MAX`` the file is read as it is.
4. A file that is missing is gone after ``GONE_NS``: editors and scripts replace files by removing and writing them.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

FILE_BYTES_MAX = 64 << 20
"""A larger file is refused unread."""
SETTLE_NS = 25_000_000
"""Longer than the kernel's timestamp granularity (4..10 ms), so that a later write always shows in mtime."""
SETTLE_NS_MAX = 2_000_000_000
GONE_NS = 100_000_000

Stamp = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class FileText:
    """What a changed file holds: its text, or the problem with it. ``removed``: it is gone for good.

    ``data`` is set whenever the file could be read, so that a reader of bytes can do without the text.
    """

    path: Path
    text: str | None = None
    problem: str = ""
    hint: str = ""
    data: bytes | None = field(default=None, repr=False, compare=False)

    @property
    def removed(self) -> bool:
        """Whether the file no longer exists."""
        return self.text is None and not self.problem


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the files found. ``again_ns``: look again after this long, even if nothing wakes; None: no need."""

    changes: tuple[FileText, ...] = ()
    again_ns: int | None = None


@dataclass(slots=True)
class _Known:
    stamp: Stamp | None = None
    content: bytes = b""
    problem: str = ""
    unsettled_since_ns: int | None = None
    missing_since_ns: int | None = None


@dataclass(slots=True)
class FileReader:
    """Remembers the stamps of the files it was asked about and reads those that changed and rest."""

    known: dict[Path, _Known] = field(default_factory=dict)

    def look(self, paths: Iterable[Path], now_ns: int) -> Look:
        """Return the changes since the last look at ``paths``, the files that should exist; ``now_ns`` is wall-clock time."""
        changes: list[FileText] = []
        waits: list[int] = []
        seen: set[Path] = set()
        for path in paths:
            seen.add(path)
            self._look_at(path, now_ns, changes, waits)
        for path in [path for path in self.known if path not in seen]:
            self._miss(path, now_ns, changes, waits)
        return Look(tuple(changes), min(waits, default=None))

    def _look_at(self, path: Path, now_ns: int, changes: list[FileText], waits: list[int]) -> None:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            self._miss(path, now_ns, changes, waits)
            return
        except OSError as error:
            self._fail(path, f"can't be read: {error.strerror}", "check its permissions", changes)
            return
        known = self.known.setdefault(path, _Known())
        known.missing_since_ns = None
        if not stat.S_ISREG(found.st_mode):
            self._fail(path, "is not a regular file", "remove it or give it another ending", changes)
            return
        if _stamp(found) == known.stamp:
            return
        if found.st_size > FILE_BYTES_MAX:
            self._fail(path, f"is larger than {FILE_BYTES_MAX} bytes", "split it", changes)
            return
        if known.unsettled_since_ns is None:
            known.unsettled_since_ns = now_ns
        is_late = now_ns - known.unsettled_since_ns > SETTLE_NS_MAX
        age_ns = now_ns - found.st_mtime_ns
        if 0 <= age_ns < SETTLE_NS and not is_late:
            waits.append(SETTLE_NS - age_ns)
            return
        self._read(path, known, is_late, changes, waits)

    def _read(self, path: Path, known: _Known, is_late: bool, changes: list[FileText], waits: list[int]) -> None:
        try:
            with open(path, "rb") as file:
                before = _stamp(os.fstat(file.fileno()))
                data = file.read(FILE_BYTES_MAX + 1)
                after = _stamp(os.fstat(file.fileno()))
        except FileNotFoundError:
            waits.append(SETTLE_NS)
            return
        except OSError as error:
            self._fail(path, f"can't be read: {error.strerror}", "check its permissions", changes)
            return
        if before != after and not is_late:
            waits.append(SETTLE_NS)
            return
        known.stamp, known.unsettled_since_ns = after, None
        content = hashlib.sha256(data).digest()
        if content == known.content and not known.problem:
            return
        known.content, known.problem = content, ""
        changes.append(_decoded(path, data))

    def _fail(self, path: Path, problem: str, hint: str, changes: list[FileText]) -> None:
        """Report a file that can't be read, once; its stamp is forgotten, so every look tries it again."""
        known = self.known.setdefault(path, _Known())
        known.stamp = None
        known.missing_since_ns = None
        if known.problem != problem:
            known.problem = problem
            changes.append(FileText(path, problem=problem, hint=hint))

    def _miss(self, path: Path, now_ns: int, changes: list[FileText], waits: list[int]) -> None:
        known = self.known.get(path)
        if known is None:
            return
        if known.missing_since_ns is None or known.missing_since_ns > now_ns:
            known.missing_since_ns = now_ns
        missing_ns = now_ns - known.missing_since_ns
        if missing_ns < GONE_NS:
            waits.append(GONE_NS - missing_ns)
            return
        del self.known[path]
        changes.append(FileText(path))


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _decoded(path: Path, data: bytes) -> FileText:
    try:
        return FileText(path, data.decode("utf-8-sig"), data=data)
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}"
        return FileText(path, problem=problem, hint="save it as UTF-8", data=data)
