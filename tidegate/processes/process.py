"""Processes that may outlive the one that started them.

Owns: starting a child detached from our own fate, finding it again after we were killed, waiting for it and ending it.
A pid alone names nothing (pids are reused), so the record of a process holds its start time as well, and waiting goes by
pidfd, which works for children and for adopted processes alike. Must not know Envoy or the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_STAT_START_TIME_INDEX = 19
"""Position of starttime among the fields of /proc/PID/stat that follow the command name (proc(5), field 22)."""


class ProcessError(Exception):
    """A process could not be started; the message says which and why."""


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """What is written beside a running process, enough to know it again. ``fingerprint``: of the settings it runs with."""

    pid: int
    start_time_ticks: int
    fingerprint: str

    def is_alive(self) -> bool:
        """Tell whether this very process (not another with its pid) still runs."""
        return _start_time_ticks(self.pid) == self.start_time_ticks


def read_record(path: Path) -> ProcessRecord | None:
    """Return the record at ``path``; None when there is none that can be read."""
    try:
        fields = json.loads(path.read_text())
        return ProcessRecord(int(fields["pid"]), int(fields["start_time_ticks"]), str(fields["fingerprint"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _start_time_ticks(pid: int) -> int | None:
    """Return when ``pid`` started, in clock ticks since boot; None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[_STAT_START_TIME_INDEX])


def runs(pid: int) -> bool:
    """Tell whether there is such a process, zombies aside."""
    return _start_time_ticks(pid) is not None


def processes_with(argument: str) -> tuple[int, ...]:
    """Return the processes that have ``argument`` on their command line, as a whole word."""
    word = os.fsencode(argument)
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # gone since
            continue
        if word in words:
            found.append(int(path.parent.name))
    return tuple(found)


class DetachedProcess:
    """One process in its own session, known by its record file."""

    def __init__(self, record: ProcessRecord, record_path: Path) -> None:
        self._record = record
        self._record_path = record_path

    @property
    def pid(self) -> int:
        """The process id."""
        return self._record.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._record.is_alive()

    @classmethod
    def adopt(cls, record_path: Path, fingerprint: str) -> DetachedProcess | None:
        """Return the process recorded at ``record_path`` if it runs with these settings; None otherwise."""
        record = read_record(record_path)
        if record is None or record.fingerprint != fingerprint or not record.is_alive():
            return None
        return cls(record, record_path)

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        record_path: Path,
        fingerprint: str,
        log_path: Path,
        environment: Mapping[str, str] | None = None,
    ) -> DetachedProcess:
        """Start ``argv`` in its own session with its output appended to ``log_path``.

        Raises ProcessError when it can't be executed.
        """
        try:
            # The log stays open only in the child: a supervisor that dies must not take the child's output with it.
            log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ProcessError(f"can't write {log_path}: {error.strerror}") from error
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            pid = os.posix_spawn(
                argv[0],
                list(argv),
                dict(os.environ if environment is None else environment),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
            )
        except OSError as error:
            raise ProcessError(f"can't start {argv[0]}: {error.strerror}") from error
        finally:
            os.close(log)
            os.close(null)
        record = ProcessRecord(pid, _start_time_ticks(pid) or 0, fingerprint)
        record_path.write_text(
            json.dumps({"pid": record.pid, "start_time_ticks": record.start_time_ticks, "fingerprint": fingerprint})
        )
        return cls(record, record_path)

    async def wait(self) -> int | None:
        """Wait until it has ended; return its wait status when it was our child, None when it was adopted."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return self._reap()
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            if self.alive:
                await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return self._reap()

    def _reap(self) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            self._record_path.unlink()
        try:
            _, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return None
        return status

    async def stop(self, timeout_s: float) -> None:
        """End it: SIGTERM, and after ``timeout_s`` SIGKILL."""
        for sig in (signal.SIGTERM, signal.SIGKILL):
            if not self.alive:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wait(), timeout_s)
        self._reap()
