"""Records on disk: rotation, full and slow disks, files that others left."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.tidegate.fakes import NOON_NS, packet
from tidegate.config.node import FlowFileSection
from tidegate.flows.file import FlowFileWriter, existing_paths, read_files, read_line
from tidegate.flows.record import Flow

DEADLINE_SECONDS = 10.0


def numbered(number: int) -> Flow:
    return packet(time_ns=NOON_NS + number, uuid=str(number))


def numbers(path: Path) -> list[int]:
    return [int(flow.uuid) for flow in read_files(path)]


def eventually(predicate: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not predicate():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def write(settings: FlowFileSection, count: int, first: int = 0) -> None:
    writer = FlowFileWriter(settings)
    for number in range(first, first + count):
        writer.put(numbered(number))
    writer.close()
    assert writer.lost == 0


def test_records_come_back_in_order_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "flows.jsonl"
    write(FlowFileSection(path=path), 100)
    write(FlowFileSection(path=path), 10, 100)
    assert list(read_files(path)) == [numbered(number) for number in range(110)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_rotation_keeps_the_newest_in_so_many_files_of_so_many_bytes(tmp_path: Path) -> None:
    path = tmp_path / "flows.jsonl"
    settings = FlowFileSection(path=path, bytes_max=1 << 16, files=3)
    for first in range(0, 1000, 50):
        write(settings, 50, first)
    kept = existing_paths(path)
    assert [each.name for each in kept] == ["flows.jsonl.2", "flows.jsonl.1", "flows.jsonl"]
    assert all(each.stat().st_size <= 1 << 16 for each in kept)
    found = numbers(path)
    assert found == list(range(found[0], 1000))
    assert len(found) > 100


def test_one_file_begins_anew_when_it_is_full(tmp_path: Path) -> None:
    path = tmp_path / "flows.jsonl"
    for first in range(0, 300, 50):
        write(FlowFileSection(path=path, bytes_max=1 << 16, files=1), 50, first)
    assert existing_paths(path) == [path]
    assert numbers(path)[-1] == 299


def test_line_that_was_cut_short_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "flows.jsonl"
    write(FlowFileSection(path=path), 3)
    os.truncate(path, path.stat().st_size - 10)
    write(FlowFileSection(path=path), 2, 3)
    assert numbers(path) == [0, 1, 3, 4]


def test_disk_that_hangs_holds_up_nobody_and_what_is_lost_is_counted(tmp_path: Path) -> None:
    release, held = threading.Event(), threading.Event()

    def slow(descriptor: int, data: bytes) -> int:
        held.set()
        release.wait(DEADLINE_SECONDS)
        return os.write(descriptor, data)

    path = tmp_path / "flows.jsonl"
    writer = FlowFileWriter(FlowFileSection(path=path), queue_max=10, write=slow)
    writer.put(numbered(0))
    assert held.wait(DEADLINE_SECONDS)
    started = time.monotonic()
    for number in range(1, 101):
        writer.put(numbered(number))
    assert time.monotonic() - started < 1
    assert writer.lost == 90
    release.set()
    writer.close()
    assert numbers(path) == list(range(11))


def test_disk_that_refuses_loses_whole_records_and_is_taken_up_again(tmp_path: Path) -> None:
    full = True

    def write_some(descriptor: int, data: bytes) -> int:
        if not full:
            return os.write(descriptor, data)
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(descriptor, data[: len(data) // 2])  # a disk fills within a line

    path = tmp_path / "flows.jsonl"
    writer = FlowFileWriter(FlowFileSection(path=path), write=write_some, retry_seconds=0.01)
    writer.put(numbered(0))
    eventually(lambda: writer.lost == 1)
    assert writer.problem == f"{path}: No space left on device"
    full = False
    writer.put(numbered(1))
    eventually(lambda: writer.problem == "")
    writer.close()
    assert numbers(path) == [1]
    assert writer.lost == 1


@pytest.mark.root
def test_really_full_disk_is_told_and_loses_records(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], check=True)
    try:
        path = mount / "flows.jsonl"
        writer = FlowFileWriter(FlowFileSection(path=path), retry_seconds=0.01)
        for number in range(2000):
            writer.put(numbered(number))
        eventually(lambda: writer.lost > 0)
        assert "No space left on device" in writer.problem
        writer.close()
        found = numbers(path) if path.exists() else []
        assert len(found) + writer.lost == 2000
        assert all(json.loads(line) for line in path.read_text().splitlines())
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_lines_of_other_programs_are_passed_over() -> None:
    assert read_line(b"{}") is None
    assert read_line(b"not json") is None
    assert read_line(b"[" * 100_000) is None
    assert read_line(json.dumps({"flow": packet().to_json(), "node_name": "x"}).encode()) == packet()
    assert read_line(json.dumps(packet().to_json()).encode()) == packet()


def test_file_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"flows\.jsonl"):
        list(read_files(tmp_path / "flows.jsonl"))
