"""The table of verdict counts in a real map: what a writer leaves is read, retired and freed; the map is the proxy's to share."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from bpf_redirect import abi, bpf
from bpf_redirect.l7_verdicts import VerdictTable
from bpf_redirect.maps import Map, MapSizes, specs
from tests.support.verdict_memory import RECORD_BYTES

pytestmark = pytest.mark.root

SPEC = next(spec for spec in specs(MapSizes(l7_verdicts=16)) if spec.name == "tg_l7_verdicts")


@pytest.fixture
def table_map() -> Iterator[Map]:
    fd = bpf.map_create(SPEC.name, SPEC.type, SPEC.key_bytes, SPEC.value_bytes, SPEC.max_entries, SPEC.flags)
    yield Map(SPEC.name, fd, bpf.map_info(fd))
    os.close(fd)


def write(table: Map, index: int, requests: int) -> None:
    key = struct.pack("=IIHBBB3x", 256, 257, 3, abi.L7Kind.DENIED, abi.FlowDirection.EGRESS, abi.L7State.LIVE)
    table.update(struct.pack("=I", index), (key + struct.pack("=QQQ", requests, 7, 9)).ljust(RECORD_BYTES, b"\0"))


def test_a_record_in_the_map_is_read_in_memory_and_freed_there_is_free_in_the_map(table_map: Map) -> None:
    write(table_map, abi.L7_RESERVED, 5)
    with VerdictTable(table_map) as table:
        (record,) = table.records()
        assert (record.subject, record.peer, record.slot, record.kind) == (256, 257, 3, abi.L7Kind.DENIED)
        assert (record.direction, record.requests, record.bytes, record.last_seen_ns) == (abi.FlowDirection.EGRESS, 5, 7, 9)
        table.retire(record)
        assert [record.retiring for record in table.records()] == [True]
        assert table_map.lookup(struct.pack("=I", abi.L7_RESERVED))[12] == abi.L7State.RETIRING  # type: ignore[index]
        table.free(record)
        assert list(table.records()) == []
    assert table_map.lookup(struct.pack("=I", abi.L7_RESERVED)) == bytes(RECORD_BYTES)


def test_reserved_records_are_no_counts(table_map: Map) -> None:
    overflow = struct.pack("=IIHBBB3xQQQ", 0, 0, 0, abi.L7Kind.ERROR, 0, abi.L7State.OVERFLOW, 11, 0, 0)
    table_map.update(struct.pack("=I", abi.L7Kind.ERROR), overflow.ljust(RECORD_BYTES, b"\0"))
    with VerdictTable(table_map) as table:
        assert list(table.records()) == []
        assert table.overflow()[abi.L7Kind.ERROR] == 11
        assert table.writer() is None
        assert table.capacity == SPEC.max_entries - abi.L7_RESERVED
