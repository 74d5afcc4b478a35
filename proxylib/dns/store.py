"""The proxy's files: rules in, answers out and in again.

Owns: when a file changed, writing so that no reader sees half a file, and one cache file per endpoint, so that saving is spread
over time and never holds up answers for long. Must not know what is in them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from proxylib.dns.cache import EndpointKey

CACHE_FILE_BYTES_MAX = 64 << 20
RULES_FILE_BYTES_MAX = 256 << 20
_SUFFIX = ".json"


def boot_id() -> str:
    """Return what tells this boot, and so this monotonic clock, from others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``; readers see the old file or the new one."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text)
    os.replace(scratch, path)


class RulesFile:
    """The rules as the agent writes them, by replacing the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None

    def changed(self) -> str | None:
        """Return the file's text if it is another one than last time; None if not, or if there is none. Raises OSError."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        if stamp == self._stamp:
            return None
        if status.st_size > RULES_FILE_BYTES_MAX:
            raise OSError(f"{self._path} is larger than {RULES_FILE_BYTES_MAX} bytes")
        text = self._path.read_text()
        self._stamp = stamp
        return text


class CacheFiles:
    """One file per endpoint, named by a digest of its key."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

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
