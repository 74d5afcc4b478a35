"""A table of verdict counts in plain memory, and a writer for it that does what Envoy's module does, one step at a time."""

from __future__ import annotations

import os
import struct
from types import TracebackType
from typing import Self

from bpf_redirect import abi, bpf
from bpf_redirect.l7_verdicts import VerdictTable
from bpf_redirect.maps import Map

RECORD_BYTES = 64


class VerdictMemory:
    """A context manager; ``table`` is what the agent would open."""

    def __init__(self, capacity: int = 8) -> None:
        entries = capacity + abi.L7_RESERVED
        self._fd = os.memfd_create("verdicts")
        os.ftruncate(self._fd, entries * RECORD_BYTES)
        info = bpf.MapInfo(int(bpf.MapType.ARRAY), 1, 4, RECORD_BYTES, entries, int(bpf.MapFlag.MMAPABLE), "tg_l7_verdicts")
        self._map = Map("tg_l7_verdicts", self._fd, info)
        self.table = VerdictTable(self._map)
        self._put(0, struct.pack("=IIHBBB3xQQQ", 0, 0, 0, 0, 0, abi.L7State.WRITER, 1, 0, 5))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.table.close()
        os.close(self._fd)

    def reopen(self) -> VerdictTable:
        """What another agent would open."""
        return VerdictTable(self._map)

    def _get(self, index: int) -> bytes:
        return os.pread(self._fd, RECORD_BYTES, index * RECORD_BYTES)

    def _put(self, index: int, record: bytes) -> None:
        os.pwrite(self._fd, record, index * RECORD_BYTES)

    def add(self, index: int, requests: int, octets: int, now_ns: int) -> None:
        """Add to a record that was found before: what a writer on its way does."""
        held = bytearray(self._get(index))
        before = struct.unpack_from("=QQ", held, 16)
        struct.pack_into("=QQQ", held, 16, before[0] + requests, before[1] + octets, now_ns)
        self._put(index, bytes(held))

    def count(
        self,
        subject: int,
        peer: int,
        slot: int = 1,
        kind: abi.L7Kind = abi.L7Kind.ALLOWED,
        direction: abi.FlowDirection | None = abi.FlowDirection.INGRESS,
        *,
        requests: int = 1,
        octets: int = 10,
        now_ns: int = 0,
    ) -> int:
        """Find or take the record of a key, add to it, and return its index."""
        key = struct.pack("=IIHBBB3x", subject, peer, slot, kind, direction or 0, abi.L7State.LIVE)
        indices = range(abi.L7_RESERVED, self._map.info.max_entries)
        for index in indices:
            if self._get(index)[:16] in (key, bytes(16)):
                self._put(index, key + self._get(index)[16:])
                self.add(index, requests, octets, now_ns)
                return index
        raise AssertionError("the table is full")
