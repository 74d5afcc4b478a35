"""When a file is read: changed, at rest, not gone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tidegate.sources import files
from tidegate.sources.files import GONE_NS, SETTLE_NS, SETTLE_NS_MAX, FileReader, FileText

NOW = time.time_ns()


def write(path: Path, text: str, mtime_ns: int = NOW - 1_000_000_000) -> Path:
    path.write_text(text)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def test_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    reader, path = FileReader(), write(tmp_path / "a", "one")
    assert reader.look([path], NOW) == files.Look((FileText(path, "one"),))
    assert reader.look([path], NOW) == files.Look()
    write(path, "two")
    assert reader.look([path], NOW).changes == (FileText(path, "two"),)


def test_file_that_was_only_touched_is_no_change(tmp_path: Path) -> None:
    reader, path = FileReader(), write(tmp_path / "a", "one")
    reader.look([path], NOW)
    write(path, "one", NOW - 500_000_000)
    assert reader.look([path], NOW) == files.Look()


def test_change_that_keeps_size_and_mtime_is_seen(tmp_path: Path) -> None:
    reader, path = FileReader(), write(tmp_path / "a", "one", NOW - 1_000_000_000)
    reader.look([path], NOW)
    write(path, "two", NOW - 1_000_000_000)
    assert reader.look([path], NOW).changes == (FileText(path, "two"),)


def test_young_file_is_left_until_it_has_settled(tmp_path: Path) -> None:
    reader, path = FileReader(), write(tmp_path / "a", "half", NOW)
    assert reader.look([path], NOW + SETTLE_NS // 2) == files.Look((), SETTLE_NS - SETTLE_NS // 2)
    write(path, "half and half", NOW + SETTLE_NS // 2)
    assert reader.look([path], NOW + SETTLE_NS).changes == ()
    assert reader.look([path], NOW + 2 * SETTLE_NS) == files.Look((FileText(path, "half and half"),))


def test_old_content_stays_while_the_new_is_being_written(tmp_path: Path) -> None:
    reader, path = FileReader(), write(tmp_path / "a", "one")
    reader.look([path], NOW)
    write(path, "tw", NOW)
    assert reader.look([path], NOW + 1).changes == ()


def test_writer_that_never_rests_is_read_in_the_end(tmp_path: Path) -> None:
    reader, path = FileReader(), tmp_path / "a"
    now = NOW
    while now <= NOW + SETTLE_NS_MAX:
        write(path, f"{now}", now)
        assert reader.look([path], now + 1).changes == ()
        now += SETTLE_NS_MAX // 8
    write(path, "last", now)
    assert reader.look([path], now + 1).changes == (FileText(path, "last"),)


def test_file_of_the_future_is_read_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "one", NOW + 10**12)
    assert FileReader().look([path], NOW).changes == (FileText(path, "one"),)


def test_missing_file_is_gone_only_after_a_while(tmp_path: Path) -> None:
    reader, path = FileReader(), write(tmp_path / "a", "one")
    reader.look([path], NOW)
    path.unlink()
    assert reader.look([], NOW) == files.Look((), GONE_NS)
    assert reader.look([], NOW + GONE_NS - 1) == files.Look((), 1)
    found = reader.look([], NOW + GONE_NS)
    assert found == files.Look((FileText(path),))
    assert found.changes[0].removed
    assert reader.look([], NOW + GONE_NS) == files.Look()


def test_file_that_is_removed_and_written_again_never_goes(tmp_path: Path) -> None:
    reader, path = FileReader(), write(tmp_path / "a", "one")
    reader.look([path], NOW)
    path.unlink()
    assert reader.look([], NOW).changes == ()
    write(path, "two")
    assert reader.look([path], NOW + 1).changes == (FileText(path, "two"),)
    assert reader.look([path], NOW + 2 * GONE_NS).changes == ()


def test_dangling_link_counts_as_missing(tmp_path: Path) -> None:
    reader, path = FileReader(), tmp_path / "a"
    path.symlink_to(tmp_path / "nowhere")
    assert reader.look([path], NOW) == files.Look()


def test_fifo_is_refused_without_being_opened(tmp_path: Path) -> None:
    path = tmp_path / "a"
    os.mkfifo(path)
    (change,) = FileReader().look([path], NOW).changes
    assert change.problem == "is not a regular file"


def test_directory_with_a_files_name_is_a_problem_told_once(tmp_path: Path) -> None:
    reader, path = FileReader(), tmp_path / "a.yaml"
    path.mkdir()
    assert [change.problem for change in reader.look([path], NOW).changes] == ["is not a regular file"]
    assert reader.look([path], NOW).changes == ()
    path.rmdir()
    write(path, "one")
    assert reader.look([path], NOW).changes == (FileText(path, "one"),)


def test_file_that_was_unreadable_and_is_as_before_is_told_again(tmp_path: Path) -> None:
    reader, path, aside = FileReader(), write(tmp_path / "a", "one"), tmp_path / "aside"
    reader.look([path], NOW)
    path.rename(aside)
    path.mkdir()
    assert len(reader.look([path], NOW).changes) == 1
    path.rmdir()
    aside.rename(path)
    assert reader.look([path], NOW).changes == (FileText(path, "one"),)


def test_bytes_that_are_no_text_are_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"ab\xff")
    os.utime(path, ns=(0, 0))
    (change,) = FileReader().look([path], NOW).changes
    assert change.problem == "is not UTF-8 text: byte 2 is 0xff"
    assert not change.removed


def test_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\xef\xbb\xbfab")
    os.utime(path, ns=(0, 0))
    assert FileReader().look([path], NOW).changes == (FileText(path, "ab"),)


def test_file_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILE_BYTES_MAX", 3)
    (change,) = FileReader().look([write(tmp_path / "a", "four")], NOW).changes
    assert change.problem == "is larger than 3 bytes"
