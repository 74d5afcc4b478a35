"""The maps: what each is, and open pinned ones.

Owns: the list of maps with type, size and layout (``lib/maps.h`` says who writes and reads them), the sizes that a node's
configuration may change, and reading and writing entries as bytes. Must not know what entries mean (``encode.py``).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from types import TracebackType

from bpf_redirect import abi, bpf
from bpf_redirect.errors import KernelError, MapFull

RING_BYTES_MIN = 4096
BATCH_ENTRIES = 4096
"""Per call; the largest map is read in a few dozen calls, and 4096 entries of conntrack are 400 kB."""
_FULL_CODES = (errno.E2BIG, errno.ENOSPC)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSizes:
    """Entries per map that a configuration may change (``maps:`` in node.yaml). Memory is taken for LRU maps at once."""

    ipcache: int = 65536
    policy: int = 131072
    endpoints: int = 1024
    pairs: int = 16384
    cgroups: int = 1024
    conntrack: int = 131072
    fragments: int = 8192
    connects: int = 16384
    origins: int = 16384
    names: int = 131072
    l7_verdicts: int = 16384
    """64 bytes each: every (subject, peer, slot, verdict) of requests that were made in the last hours."""
    offload: int = 4096
    """Peers that are dropped at one time. An LRU map: the longest unheard-of makes room."""
    events_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) < 1:
                raise ValueError(f"maps.{item.name} must be positive")
        if self.events_bytes < RING_BYTES_MIN or self.events_bytes & (self.events_bytes - 1):
            raise ValueError(f"maps.events_bytes must be a power of two of at least {RING_BYTES_MIN}")


@dataclass(frozen=True, slots=True)
class MapSpec:
    """One map as it is created."""

    name: str
    type: bpf.MapType
    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int = 0

    def fits(self, info: bpf.MapInfo) -> bool:
        """Whether an existing map is just this one."""
        return (info.type, info.key_bytes, info.value_bytes, info.max_entries, info.flags) == (
            self.type,
            self.key_bytes,
            self.value_bytes,
            self.max_entries,
            self.flags,
        )


def specs(sizes: MapSizes) -> tuple[MapSpec, ...]:
    """Return every map, in the order of ``lib/maps.h``."""
    size = ctypes.sizeof
    kind = bpf.MapType
    trie = bpf.MapFlag.NO_PREALLOC
    mapped = bpf.MapFlag.MMAPABLE
    return (
        MapSpec("tg_config", kind.ARRAY, 4, size(abi.Config), 1, mapped),
        MapSpec("tg_ipcache", kind.LPM_TRIE, size(abi.IpcacheKey), size(abi.IpcacheEntry), sizes.ipcache, trie),
        MapSpec("tg_policy", kind.LPM_TRIE, size(abi.PolicyKey), size(abi.PolicyEntry), sizes.policy, trie),
        MapSpec("tg_slots", kind.ARRAY, 4, size(abi.Slot), abi.SLOTS_MAX, mapped),
        MapSpec("tg_pairs", kind.HASH, size(abi.PairKey), 4, sizes.pairs, bpf.MapFlag.NO_PREALLOC),
        MapSpec("tg_endpoints", kind.HASH, 4, size(abi.Endpoint), sizes.endpoints, bpf.MapFlag.NO_PREALLOC),
        MapSpec("tg_cgroups", kind.HASH, 8, 4, sizes.cgroups, bpf.MapFlag.NO_PREALLOC),
        MapSpec("tg_conntrack", kind.LRU_HASH, size(abi.ConntrackKey), size(abi.Conntrack), sizes.conntrack),
        MapSpec("tg_fragments", kind.LRU_HASH, size(abi.FragmentKey), size(abi.Fragment), sizes.fragments),
        MapSpec("tg_counters", kind.PERCPU_ARRAY, 4, size(abi.Counter), abi.REASONS_MAX * abi.HOOKS_MAX),
        MapSpec("tg_budget", kind.PERCPU_ARRAY, 4, size(abi.EventBudget), 1),
        MapSpec("tg_events", kind.RINGBUF, 0, 0, sizes.events_bytes),
        MapSpec("tg_connects", kind.LRU_HASH, 8, size(abi.Connect), sizes.connects),
        MapSpec("tg_origins", kind.LRU_HASH, size(abi.OriginKey), size(abi.Connect), sizes.origins),
        MapSpec("tg_names", kind.HASH, size(abi.NamesKey), size(abi.Names), sizes.names, bpf.MapFlag.NO_PREALLOC),
        MapSpec("tg_listeners", kind.SOCKHASH, 4, 4, abi.SLOTS_MAX * 2),
        MapSpec("tg_offload", kind.LRU_HASH, size(abi.OffloadKey), size(abi.Offload), sizes.offload),
        MapSpec("tg_l7_verdicts", kind.ARRAY, 4, size(abi.L7Verdict), sizes.l7_verdicts, mapped),
    )


def possible_cpus() -> int:
    """Return how many values a per-CPU entry has."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        last = file.read().strip().split(",")[-1].split("-")[-1]
    return int(last) + 1


@dataclass(slots=True)
class Map:
    """An open map. Keys and values are bytes of exactly the map's sizes."""

    name: str
    fd: int
    info: bpf.MapInfo

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value under ``key``."""
        try:
            return bpf.map_lookup(self.fd, key, self._value_bytes())
        except OSError as error:
            raise KernelError(f"look up in {self.name}", error.errno or 0) from error

    def update(self, key: bytes, value: bytes) -> None:
        """Write one entry; raises MapFull."""
        assert len(key) == self.info.key_bytes, self.name
        assert len(value) == self._value_bytes(), self.name
        try:
            bpf.map_update(self.fd, key, value)
        except OSError as error:
            raise self._refused(error) from error

    def update_all(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Write entries in order, many per call; raises MapFull, after which a first part of them is written."""
        for start in range(0, len(entries), BATCH_ENTRIES):
            try:
                bpf.map_update_batch(self.fd, entries[start : start + BATCH_ENTRIES])
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOTSUP, 524):  # no batches for this type on this kernel
                    for key, value in entries[start : start + BATCH_ENTRIES]:
                        self.update(key, value)
                else:
                    raise self._refused(error) from error

    def delete(self, key: bytes) -> bool:
        """Delete one entry; return whether it was there."""
        try:
            return bpf.map_delete(self.fd, key)
        except OSError as error:
            raise KernelError(f"delete from {self.name}", error.errno or 0) from error

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the entries as they stand."""
        try:
            yield from bpf.map_lookup_batch(self.fd, self.info.key_bytes, self._value_bytes(), BATCH_ENTRIES)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, 524):
                raise KernelError(f"read {self.name}", error.errno or 0) from error
        for key in list(bpf.map_keys(self.fd, self.info.key_bytes)):
            value = self.lookup(key)
            if value is not None:
                yield key, value

    def _value_bytes(self) -> int:
        if self.info.type == bpf.MapType.PERCPU_ARRAY:
            return (self.info.value_bytes + 7) // 8 * 8 * possible_cpus()
        return self.info.value_bytes

    def _refused(self, error: OSError) -> KernelError:
        if error.errno in _FULL_CODES:
            return MapFull(self.name, self.info.max_entries, error.errno or errno.E2BIG)
        return KernelError(f"write to {self.name}", error.errno or 0)


@dataclass(slots=True)
class Maps:
    """All maps of one pin directory, open. A context manager; ``close`` is idempotent."""

    by_name: dict[str, Map] = field(default_factory=dict)

    @classmethod
    def open(cls, directory: str) -> Maps:
        """Open every map pinned in ``directory``; raises PinMissing when one is not there."""
        maps = cls()
        try:
            for spec in specs(MapSizes()):
                fd = bpf.get(os.path.join(directory, spec.name))
                maps.by_name[spec.name] = Map(spec.name, fd, bpf.map_info(fd))
        except KernelError:
            maps.close()
            raise
        return maps

    def __getitem__(self, name: str) -> Map:
        return self.by_name[name]

    def close(self) -> None:
        """Close the descriptors; pins stay."""
        while self.by_name:
            os.close(self.by_name.popitem()[1].fd)

    def __enter__(self) -> Maps:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
