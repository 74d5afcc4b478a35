"""Processes that outlive their starter."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tidegate.processes.process import DetachedProcess, ProcessError, ProcessRecord, processes_with, read_record


def start(tmp_path: Path, code: str, fingerprint: str = "f") -> DetachedProcess:
    return DetachedProcess.start(
        [sys.executable, "-c", code],
        record_path=tmp_path / "record.json",
        fingerprint=fingerprint,
        log_path=tmp_path / "log",
    )


def test_a_process_is_found_again_by_its_record_and_only_with_the_same_settings(tmp_path: Path) -> None:
    async def scenario() -> None:
        process = start(tmp_path, "import time; time.sleep(60)")
        try:
            assert DetachedProcess.adopt(tmp_path / "record.json", "other") is None
            adopted = DetachedProcess.adopt(tmp_path / "record.json", "f")
            assert adopted is not None
            assert adopted.pid == process.pid
            assert os.getsid(process.pid) == process.pid
        finally:
            await process.stop(5)
        assert DetachedProcess.adopt(tmp_path / "record.json", "f") is None

    asyncio.run(scenario())


def test_a_reused_pid_is_not_taken_for_the_process(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(f'{{"pid": {os.getpid()}, "start_time_ticks": 1, "fingerprint": "f"}}')
    record = read_record(tmp_path / "record.json")
    assert record == ProcessRecord(os.getpid(), 1, "f")
    assert not record.is_alive()
    assert DetachedProcess.adopt(tmp_path / "record.json", "f") is None


def test_wait_returns_the_status_and_output_goes_to_the_log(tmp_path: Path) -> None:
    process = start(tmp_path, "print('said'); raise SystemExit(3)")
    status = asyncio.run(process.wait())
    assert status is not None
    assert os.waitstatus_to_exitcode(status) == 3
    assert (tmp_path / "log").read_text() == "said\n"


def test_stop_kills_what_ignores_sigterm(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('armed', flush=True); time.sleep(60)"

    async def scenario() -> None:
        process = start(tmp_path, code)
        async with asyncio.timeout(10):
            while "armed" not in (tmp_path / "log").read_text():
                await asyncio.sleep(0.01)
        await process.stop(0.2)
        assert not process.alive

    asyncio.run(scenario())


def test_what_cannot_be_executed_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="/nowhere/envoy"):
        DetachedProcess.start(["/nowhere/envoy"], record_path=tmp_path / "r", fingerprint="", log_path=tmp_path / "log")


def test_a_process_whose_record_is_lost_is_found_by_its_command_line(tmp_path: Path) -> None:
    word = str(tmp_path / "bootstrap.json")

    async def scenario() -> None:
        argv = [sys.executable, "-c", "import time; time.sleep(60)", "--config-path", word]
        process = DetachedProcess.start(argv, record_path=tmp_path / "record.json", fingerprint="f", log_path=tmp_path / "log")
        try:
            async with asyncio.timeout(10):  # a busy kernel shows the command line a moment after exec
                while processes_with(word) != (process.pid,):
                    await asyncio.sleep(0.01)
            assert processes_with(word[:-1]) == ()
        finally:
            await process.stop(5)
        assert processes_with(word) == ()

    asyncio.run(scenario())
