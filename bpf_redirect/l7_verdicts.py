"""The table of verdict counts, ``tg_l7_verdicts``, as its one reader and cleaner sees it.

Owns: the agent's half of the protocol that ``include/abi.h`` states. The map is memory that the proxy's workers add to while it
is read here, so each number is right by itself, and a moment older or newer than the next. Identities and slots are numbers
here; ``tidegate/counts/totals.py`` says whose. One object belongs to one thread.

Freeing a record takes two steps. ``retire`` makes it another's than its writers': whoever has not begun to add looks for a new
one. What is on its way (a few instructions) still arrives, so its counts are read again, and only ``RETIRE_GRACE_NS`` later does
``free`` take it. A writer that stands still between two instructions for longer than that would lose one addition.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType

from bpf_redirect import abi
from bpf_redirect.maps import Map

RETIRE_GRACE_NS = 10_000_000_000
_RECORD = struct.Struct("=IIHBBB3xQQQ24x")
_WORDS = _RECORD.size // 8
_WHO, _WHAT, _REQUESTS, _BYTES, _LAST_SEEN = range(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictRecord:
    """One record. ``direction``: whose policy it was; None: both were judged, and ``subject`` is the client."""

    index: int
    subject: int
    peer: int
    slot: int
    kind: abi.L7Kind
    direction: abi.FlowDirection | None
    retiring: bool
    requests: int
    bytes: int
    last_seen_ns: int
    """Of the monotonic clock."""


@dataclass(frozen=True, slots=True)
class WriterSign:
    """That the proxy's module has the map open: how often it did so since the map was made, and when last (monotonic)."""

    times: int
    last_ns: int


class VerdictTable:
    """The table, mapped into memory. A context manager."""

    def __init__(self, table: Map) -> None:
        assert _RECORD.size == table.info.value_bytes
        self.capacity = table.info.max_entries - abi.L7_RESERVED
        self._memory = mmap.mmap(table.fd, table.info.max_entries * _RECORD.size)
        self._words = memoryview(self._memory).cast("Q")

    def close(self) -> None:
        """Give the memory back; the map stays."""
        self._words.release()
        self._memory.close()

    def __enter__(self) -> VerdictTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # ---- reading ----------------------------------------------------------------------------------------------------

    def records(self) -> Iterator[VerdictRecord]:
        """Iterate over the records in use. Two may have the same key: their counts belong together."""
        held = bytes(self._memory)
        for index, what in enumerate(memoryview(held).cast("Q")[_WHAT::_WORDS].tolist()):
            if what and index >= abi.L7_RESERVED:
                record = _record(held, index)
                if record is not None:
                    yield record

    def overflow(self) -> Mapping[abi.L7Kind, int]:
        """Return how many requests found no room for a record of their own."""
        return {kind: self._word(kind, _REQUESTS) for kind in abi.L7Kind}

    def writer(self) -> WriterSign | None:
        """Return the proxy's sign of life; None when nobody ever wrote."""
        times = self._word(0, _REQUESTS)
        return WriterSign(times, self._word(0, _LAST_SEEN)) if times else None

    def _word(self, index: int, word: int) -> int:
        return self._words[index * _WORDS + word]

    # ---- freeing ----------------------------------------------------------------------------------------------------

    def retire(self, record: VerdictRecord) -> None:
        """Have writers look for another record. Its counts may still grow for a moment."""
        assert record.index >= abi.L7_RESERVED
        direction = record.direction or 0
        what = struct.pack("=HBBB3x", record.slot, record.kind, direction, abi.L7State.RETIRING)
        self._words[record.index * _WORDS + _WHAT] = struct.unpack("=Q", what)[0]

    def free(self, record: VerdictRecord) -> None:
        """Make a retired record free, ``RETIRE_GRACE_NS`` after it was retired. What it counts is gone."""
        assert record.index >= abi.L7_RESERVED
        at = record.index * _WORDS
        assert struct.pack("=Q", self._words[at + _WHAT])[4] == abi.L7State.RETIRING, "retire comes first"
        # The last word is what writers wait for: whoever takes the first meanwhile finds the second taken, and goes on.
        for word in (_REQUESTS, _BYTES, _LAST_SEEN, _WHO, _WHAT):
            self._words[at + word] = 0


def _record(held: bytes, index: int) -> VerdictRecord | None:
    subject, peer, slot, kind, direction, state, requests, octets, last_seen_ns = _RECORD.unpack_from(held, index * _RECORD.size)
    if not subject or state not in (abi.L7State.LIVE, abi.L7State.RETIRING):
        return None
    return VerdictRecord(
        index=index,
        subject=subject,
        peer=peer,
        slot=slot,
        kind=abi.L7Kind(kind),
        direction=abi.FlowDirection(direction) if direction else None,
        retiring=state == abi.L7State.RETIRING,
        requests=requests,
        bytes=octets,
        last_seen_ns=last_seen_ns,
    )
