"""Keeping a copy of one collection of the API server: list, then watch from there, for ever.

Owns: which requests are made when, resumption by resourceVersion, and the back-off. Must not know what the objects mean. The copy
never shrinks because the server is away: a new list is told as the changes between the old copy and the new one, in one step, so
there is no moment at which objects are missing that exist. Follows the API concepts "Efficient detection of changes" and "Watch
bookmarks" of the Kubernetes documentation.

1. List in pages. A page token that expired (410) starts the list anew.
2. Watch from the list's version, with bookmarks; every event moves the version on.
3. The server ends a watch after some minutes, or the connection breaks: watch again from the version held.
4. 410 Gone: that version is too old. List anew; everything stays in force meanwhile.
5. Errors: back off, doubling from ``BACKOFF_S_MIN`` to ``BACKOFF_S_MAX``, each time a random share of the interval, so that the
   agents of a cluster don't come back all at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tidegate.sources.kubernetes.server import ApiAbsent, ApiError, ApiGone, ApiRefused, Tree

PAGE_ITEMS = 500
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
BACKOFF_S_MIN = 0.25
BACKOFF_S_MAX = 30.0
"""A server that was away for an hour is found again within this."""
REFUSED_S = 30.0
"""Between tries of what was refused: a role may be granted, but nothing urges."""
ABSENT_S = 15.0
"""Between looks for a kind that the server does not know: its CRD may be installed at any time."""
WATCH_SECONDS_MIN, WATCH_SECONDS_MAX = 300, 600
"""How long a watch lasts, drawn anew each time; as client-go."""
WATCH_STEADY_S = 5.0
"""A watch that lasted this long has earned a fresh start: the next delay is the least again."""
PAGES_MAX = 10_000
"""Of one list: five million objects."""


class Server(Protocol):
    """What is needed of the API server; ``server.ApiServer`` has it."""

    async def get(self, path: str, query: Mapping[str, str] | None = None, accept: str = "") -> Tree: ...

    def watch(self, path: str, query: Mapping[str, str], seconds_max: int) -> AsyncGenerator[Tree, None]: ...


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened, in order: objects by key as they are now, and the keys of those that are gone.

    ``listed``: these are all differences between what was told before and the whole collection.
    """

    present: Mapping[str, Tree] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    listed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How the copy stands. ``synced``: it was whole at least once. ``problem``: why it isn't followed at the moment."""

    synced: bool = False
    absent: bool = False
    """The server does not know the kind; the copy is empty for that reason."""
    problem: str = ""


def key_of(tree: Tree) -> str:
    """Return ``namespace/name``, or ``name``."""
    metadata = tree.get("metadata")
    if not isinstance(metadata, dict):
        return ""
    namespace, name = metadata.get("namespace") or "", metadata.get("name") or ""
    return f"{namespace}/{name}" if namespace else str(name)


def version_of(tree: Tree) -> str:
    """Return the resourceVersion, "" without one."""
    metadata = tree.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    return version if isinstance(version, str) else ""


def _both(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """Join two selections."""
    return {key: ",".join(each[key] for each in (one, other) if key in each) for key in {**one, **other}}


def _is_older(version: str, other: str) -> bool:
    """Whether ``version`` was before ``other``. Versions of one collection are numbers that grow (KEP-5504)."""
    return not version or (version.isdigit() and other.isdigit() and int(version) < int(other))


class Backoff:
    """How long to wait before the next try."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._delay_s = BACKOFF_S_MIN

    def next_s(self, retry_after_s: float | None = None) -> float:
        """Return the next delay: between half of the interval and all of it; what the server asks for is the least."""
        delay_s = self._delay_s * (0.5 + 0.5 * self._draw())
        self._delay_s = min(self._delay_s * 2, BACKOFF_S_MAX)
        return max(delay_s, min(retry_after_s or 0.0, BACKOFF_S_MAX))

    def reset(self) -> None:
        """All is well: begin anew."""
        self._delay_s = BACKOFF_S_MIN


@dataclass(slots=True)
class Reflector:
    """Follows one collection and tells of every change. ``run`` ends only by cancellation.

    ``path`` and ``query`` (a selector) name the collection. ``optional``: the server may not know the kind, which is an empty
    collection; only when it says so twice, ``ABSENT_S`` apart, is what was there taken for gone.
    """

    server: Server
    path: str
    tell: Callable[[Changes], None]
    query: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False
    fallback: str = ""
    """A path to use while the server does not know ``path``: an older version of the kind."""
    changed: Callable[[], None] = lambda: None
    """Called when ``health`` changed."""
    health: Health = Health()
    lists_count: int = 0
    watches_count: int = 0
    backoff: Backoff = field(default_factory=Backoff)
    _known: dict[str, str] = field(default_factory=dict)
    """Key -> version of every object that was told."""
    _moved: asyncio.Event = field(default_factory=asyncio.Event)
    _version: str = ""
    _path: str = ""
    _absent_count: int = 0

    def assume(self, keys: Iterable[str]) -> None:
        """Take these objects for told, from a saved copy: the first list tells which of them are gone."""
        self._known = dict.fromkeys(keys, "")

    async def catch_up(self, query: Mapping[str, str] | None = None) -> None:
        """Return when all was told that the collection, or the part that ``query`` selects, holds at the call. Raises ApiError.

        Asks for names and versions alone. Does not return while the server can't be watched: the caller has a time limit.
        """
        if self.health.absent or not self.health.synced:
            return
        found, version = await self._pages(_both(self.query, query or {}), METADATA_ONLY)
        wanted = {key: version_of(tree) for key, tree in found.items()}
        while not self._has(wanted, None if query else version):
            self._moved.clear()
            await self._moved.wait()

    def _has(self, wanted: Mapping[str, str], version: str | None) -> bool:
        """Whether these were told, and (with the version of the whole list) that no other is left."""
        if any(key not in self._known or _is_older(self._known[key], each) for key, each in wanted.items()):
            return False
        return version is None or all(key in wanted or _is_older(version, each) for key, each in self._known.items())

    async def run(self) -> None:
        """Follow until cancelled."""
        self._path = self.path
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except ApiGone:
                self._version = ""
                await asyncio.sleep(self.backoff.next_s())
            except ApiAbsent as error:
                await asyncio.sleep(self._absent(error))
            except ApiError as error:
                self._set_health(Health(synced=self.health.synced, absent=self.health.absent, problem=str(error)))
                refused_s = REFUSED_S if isinstance(error, ApiRefused) else 0.0
                await asyncio.sleep(max(self.backoff.next_s(error.retry_after_s), refused_s))

    def _absent(self, error: ApiAbsent) -> float:
        """Take note that the server does not know the path; return when to look again."""
        self._version = ""
        if self.fallback and self._path != self.fallback:
            self._path = self.fallback
            return 0.0
        self._path = self.path
        if not self.optional:
            self._set_health(Health(synced=self.health.synced, problem=str(error)))
            return self.backoff.next_s()
        self._absent_count += 1
        if not self._known or self._absent_count >= 2:
            gone, self._known = frozenset(self._known), {}
            self.tell(Changes(gone=gone, listed=True))
            self._set_health(Health(synced=True, absent=True))
        return ABSENT_S

    async def _list(self) -> None:
        self.lists_count += 1
        found, version = await self._pages(self.query)
        gone = frozenset(self._known.keys() - found.keys())
        self._known = {key: version_of(tree) for key, tree in found.items()}
        self._absent_count = 0
        self.tell(Changes(found, gone, listed=True))
        self._version = version
        self._moved.set()
        self._set_health(Health(synced=True))

    async def _pages(self, query: Mapping[str, str], accept: str = "") -> tuple[dict[str, Tree], str]:
        """Return all objects of the collection and the list's version."""
        asked = {**query, "limit": str(PAGE_ITEMS)}
        found: dict[str, Tree] = {}
        metadata: Tree = {}
        for _ in range(PAGES_MAX):
            page = await self.server.get(self._path, asked, accept)
            found |= {key_of(item): item for item in page.get("items") or []}
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                break
            asked["continue"] = metadata["continue"]
        return found, str(metadata.get("resourceVersion") or "0")

    async def _watch(self) -> None:
        """Watch once. Raises ApiError; returns when the server has ended the watch."""
        self.watches_count += 1
        seconds = random.randint(WATCH_SECONDS_MIN, WATCH_SECONDS_MAX)
        query = {**self.query, "resourceVersion": self._version, "allowWatchBookmarks": "true"}
        started_s = asyncio.get_running_loop().time()
        async for event in self.server.watch(self._path, query, seconds):
            self._set_health(Health(synced=True))
            self._take(event)
        if asyncio.get_running_loop().time() - started_s < WATCH_STEADY_S:
            # A server that ends watches at once is not asked again at once.
            await asyncio.sleep(self.backoff.next_s())
        else:
            self.backoff.reset()

    def _take(self, event: Tree) -> None:
        tree, kind = event["object"], event.get("type")
        version = version_of(tree)
        if version:
            self._version = version
        key = key_of(tree)
        if kind in ("ADDED", "MODIFIED"):
            self._known[key] = version
            self.tell(Changes({key: tree}))
        elif kind == "DELETED":
            self._known.pop(key, None)
            self.tell(Changes(gone=frozenset((key,))))
        self._moved.set()

    def _set_health(self, health: Health) -> None:
        if health != self.health:
            self.health = health
            self.changed()
