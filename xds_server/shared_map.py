"""A mapping that never changes and shares what it can with the one it was made from.

Owns: the shards. A map is a fixed number of small dicts; an edit copies only the shards it touches, and a difference skips the
shards that both sides share. So for N entries an edit of k of them costs O(k * N / SHARDS) with a tiny factor, whatever N is
in practice, and comparing two neighbours costs the same. Must not know what it holds.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

SHARDS = 256
"""A power of two: about four entries in a shard at 1,000 entries, forty at 10,000."""

_EMPTY: tuple[dict[object, object], ...] = ({},) * SHARDS


class SharedMap(Mapping[K, V], Generic[K, V]):
    """An immutable mapping; ``edited`` gives a new one. Iteration order is not defined."""

    __slots__ = ("_count", "_shards")

    def __init__(self) -> None:
        self._shards: tuple[dict[K, V], ...] = _EMPTY  # type: ignore[assignment]  # the empty shards are never written to
        self._count = 0

    def __getitem__(self, key: K) -> V:
        return self._shards[hash(key) & (SHARDS - 1)][key]

    def __iter__(self) -> Iterator[K]:
        for shard in self._shards:
            yield from shard

    def __len__(self) -> int:
        return self._count

    def edited(self, put: Mapping[K, V], drop: Iterable[K] = ()) -> SharedMap[K, V]:
        """This map with ``put`` in it and without ``drop``; a key in both ends up present. Absent keys in ``drop`` are fine."""
        shards = list(self._shards)
        count = self._count
        copied: set[int] = set()

        def writable(key: K) -> dict[K, V]:
            index = hash(key) & (SHARDS - 1)
            if index not in copied:
                copied.add(index)
                shards[index] = dict(shards[index])
            return shards[index]

        for key in drop:
            if key in shards[hash(key) & (SHARDS - 1)]:
                del writable(key)[key]
                count -= 1
        for key, value in put.items():
            shard = writable(key)
            count += key not in shard
            shard[key] = value
        made: SharedMap[K, V] = SharedMap()
        made._shards = tuple(shards)
        made._count = count
        return made

    def changed_keys(self, other: SharedMap[K, V]) -> frozenset[K]:
        """The keys whose values differ between the two, or that only one of them has."""
        keys: set[K] = set()
        for mine, theirs in zip(self._shards, other._shards, strict=True):
            if mine is theirs:
                continue
            for key, value in mine.items():
                if key not in theirs or theirs[key] != value:
                    keys.add(key)
            keys.update(key for key in theirs if key not in mine)
        return frozenset(keys)
