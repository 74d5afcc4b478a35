"""Being woken when a directory changes.

Owns: the inotify watch (watchfiles' native watcher), its re-establishment and its end, and the loop that turns a source's
looks into states. Wakes only say "look again": what
changed is found by scanning, so a lost or doubled event costs a scan, never an update. Must not know what is in the files.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol, TypeVar

from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

RESCAN_SECONDS = 5.0
"""However quiet it is, everything is looked at this often: the bound on what a missed event can cost."""
POLL_SECONDS = 1.0
"""The same where no watch can be had (no inotify watches left, a network file system, the directory is missing)."""
STEP_MS = 20
"""A burst of events ends when nothing happened for this long."""
DEBOUNCE_MS = 200
"""A burst wakes at the latest after this long, however long it goes on."""

_NS = 1_000_000_000
State = TypeVar("State")
State_co = TypeVar("State_co", covariant=True)


class Source(Protocol[State_co]):
    """What can be looked at."""

    def look(self) -> State_co:
        """Look once; the same object as before if nothing changed. Blocks on the disk."""

    @property
    def again_ns(self) -> int | None:
        """When the last look wants another one; None: it left nothing for later."""


async def states_of(source: Source[State], directory: Path, *, recursive: bool = False) -> AsyncGenerator[State, None]:
    """Yield the state of ``source``, whose files are in ``directory``, and again after every change; never ends.

    A slow consumer misses intermediate states, never the latest.
    """
    watch = ChangeWatch(directory, recursive=recursive)
    shown: State | None = None
    try:
        while True:
            watch.renew()
            state = await asyncio.to_thread(source.look)
            again_ns = source.again_ns
            # A first state without files that were just being written would withdraw their policies for a moment.
            if state is not shown and (shown is not None or again_ns is None):
                shown = state
                yield state
            await watch.wait(RESCAN_SECONDS if again_ns is None else again_ns / _NS)
    finally:
        watch.close()


class ChangeWatch:
    """Watches one directory. ``renew``, scan, ``wait``, and again: an event after ``renew`` is never lost.

    The native watcher polls its own flag in a thread; ``close`` sets the flag, so that thread ends within ``STEP_MS``.
    """

    def __init__(self, directory: Path, *, recursive: bool = False) -> None:
        self._directory = directory
        self._recursive = recursive
        self._notify: RustNotify | None = None
        self._watched: tuple[int, int] | None = None
        self._stop = threading.Event()

    @property
    def is_watching(self) -> bool:
        """Whether events arrive; if not, ``wait`` polls."""
        return self._notify is not None

    def renew(self) -> None:
        """Watch the directory that the path means now, which a swapped link or a remount may have changed."""
        try:
            found = os.stat(self._directory)
            now: tuple[int, int] | None = (found.st_dev, found.st_ino)
        except OSError:
            now = None
        if now == self._watched and (now is None or self._notify is not None):
            return
        self._drop()
        if now is None:
            return
        try:
            # watch_paths, debug, force_polling, poll_delay_ms, recursive, ignore_permission_denied
            self._notify = RustNotify([str(self._directory)], False, False, 0, self._recursive, True)
            self._watched = now
        except (OSError, WatchfilesRustInternalError):
            # No inotify watches left, or the directory went between stat and here: wait() polls until it works.
            self._notify = None

    async def wait(self, seconds_max: float) -> None:
        """Return at the next change, or after ``seconds_max``."""
        notify = self._notify
        if notify is None:
            await asyncio.sleep(min(seconds_max, POLL_SECONDS))
            return
        timeout_ms = max(1, round(seconds_max * 1000))
        try:
            # Shielded: the thread ends by the flag, and must have ended before its watcher is closed.
            task = asyncio.ensure_future(asyncio.to_thread(notify.watch, DEBOUNCE_MS, STEP_MS, timeout_ms, self._stop))
            await asyncio.shield(task)
        except asyncio.CancelledError:
            self._stop.set()
            await asyncio.wait([task])
            raise
        except (OSError, RuntimeError, WatchfilesRustInternalError):
            self._drop()
            await asyncio.sleep(min(seconds_max, POLL_SECONDS))

    def close(self) -> None:
        """End the watch."""
        self._stop.set()
        self._drop()

    def _drop(self) -> None:
        if self._notify is not None:
            self._notify.close()
        self._notify = None
        self._watched = None
