"""The proxy's files: rules in, answers out and in again.

Owns: when a file changed, writing so that no reader sees half a file, one cache file per endpoint, so that saving is spread over
time and never holds up answers for long, and the journal of what those files lack. Must not know what is in them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from proxylib.dns.cache import EndpointKey

CACHE_FILE_BYTES_MAX = 64 << 20
RULES_FILE_BYTES_MAX = 256 << 20
JOURNAL_BYTES_MAX = 1 << 20
"""A journal this long is followed by a round of saving: reading back 10,000 lines takes a tenth of a second."""
_SUFFIX = ".json"


def boot_id() -> str:
    """Return what tells this boot, and so this monotonic clock, from others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``; readers see the old file or the new one."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text)
    os.replace(scratch, path)


class WatchedFile:
    """A file that the agent writes by replacing it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = None

    def changed(self) -> str | None:
        """Return the file's text if it is another one than last time; None if not, or if there is none. Raises OSError."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        if stamp == self._stamp:
            return None
        if status.st_size > RULES_FILE_BYTES_MAX:
            raise OSError(f"{self.path} is larger than {RULES_FILE_BYTES_MAX} bytes")
        text = self.path.read_text()
        self._stamp = stamp
        return text


class CacheFiles:
    """One file per endpoint, named by a digest of its key."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.make_directory()

    def make_directory(self) -> None:
        """Make the directory if it is not there. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def read(self) -> Iterator[tuple[Path, str]]:
        """Yield each file's text. A file that can't be read is passed over: what it held is asked again."""
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            try:
                if path.stat().st_size <= CACHE_FILE_BYTES_MAX:
                    yield path, path.read_text()
            except (OSError, UnicodeDecodeError):
                continue

    def write(self, key: EndpointKey, text: str) -> None:
        """Save an endpoint's answers. Raises OSError."""
        write_atomically(self._path(key), text)

    def remove(self, key: EndpointKey) -> None:
        """Remove the file of an endpoint that is gone. Raises OSError."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: EndpointKey) -> Path:
        return self._directory / (hashlib.sha256(key.encode()).hexdigest()[:32] + _SUFFIX)


class Journal:
    """What was learned since the cache files were written, a line each: in the page cache before an answer is released, so that a
    killed proxy forgets nothing. Two files: while a round of saving goes on, ``old`` holds what is being saved.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._old, self._new = directory / "journal.old", directory / "journal.new"
        self._file: int | None = None
        self.size_bytes = 0

    def read(self) -> Iterator[str]:
        """Yield the lines in the order they were written; the last may be cut short."""
        for path in (self._old, self._new):
            with contextlib.suppress(OSError):
                yield from path.read_text(errors="replace").splitlines()

    def append(self, line: str) -> None:
        """Note one line. Raises OSError."""
        if self._file is None:
            self._file = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size_bytes += os.write(self._file, line.encode() + b"\n")

    def begin_round(self) -> None:
        """All that is known is about to be saved: what comes from now on is for the next round. Raises OSError."""
        if self._old.exists():
            # The round before was cut short: its lines stay until this one is over.
            with self._old.open("ab") as old:
                old.write(b"\n" + (self._new.read_bytes() if self._new.exists() else b""))
            self._new.unlink(missing_ok=True)
        elif self._new.exists():
            os.replace(self._new, self._old)
        self.close()

    def end_round(self) -> None:
        """What was known at ``begin_round`` is saved. Raises OSError."""
        self._old.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; the next line opens it anew."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self.size_bytes = 0
