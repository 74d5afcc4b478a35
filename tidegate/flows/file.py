"""Flow records on disk: a file of JSON lines that is rotated, written by a thread of its own, and read back.

Owns: the queue, the thread, rotation, and reading files in order. Must not know who publishes or asks. The agent's loop never
waits for a disk: a record that finds the queue full, or that the disk refuses, is lost and counted.

``flows.jsonl`` is being written; ``flows.jsonl.1`` is the one before it, and so on up to ``files`` in all. A line is the object
that ``tidegate flows -o json`` prints. A line that was cut short (a crash, a full disk) is passed over by readers.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import structlog

from tidegate.config.node import FlowFileSection
from tidegate.flows.reader import NotAFlow, read_flow
from tidegate.flows.record import Flow

_log = structlog.get_logger()

QUEUE_RECORDS_MAX = 8192
"""Records that wait for the disk: some seconds at 1,000 flows/s, about 10 MB."""
BATCH_BYTES_MAX = 1 << 16
"""Of one write. What a disk refuses is lost by the batch."""
RETRY_SECONDS = 1.0
"""How long a disk that refused is left alone; what comes meanwhile waits in the queue or is lost."""
LINE_BYTES_MAX = 1 << 20
"""A record is some KB; a line beyond this is no record."""


class FlowFileWriter:
    """Writes records until closed. ``put`` may be called from one thread, ``lost`` read from any."""

    def __init__(
        self,
        settings: FlowFileSection,
        *,
        queue_max: int = QUEUE_RECORDS_MAX,
        write: Callable[[int, bytes], int] = os.write,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        assert settings.files >= 1
        self._settings = settings
        self._queue: deque[Flow] = deque()
        self._queue_max = queue_max
        self._write = write
        self._retry_seconds = retry_seconds
        self._wake = threading.Event()
        self._stopping = False
        self._lost_in_queue = 0
        self._lost_on_disk = 0
        self._descriptor = -1
        self._size_bytes = 0
        self._refused = ""
        self._thread = threading.Thread(target=self._run, name="flow-file", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Records that did not get to the disk so far."""
        return self._lost_in_queue + self._lost_on_disk

    @property
    def problem(self) -> str:
        """Why nothing can be written at the moment; empty while all is well."""
        return self._refused

    def put(self, flow: Flow) -> None:
        """Have ``flow`` written soon; never waits."""
        if len(self._queue) >= self._queue_max:
            self._lost_in_queue += 1
            return
        self._queue.append(flow)
        self._wake.set()

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Write what is queued and end. A disk that hangs is not waited for."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout_seconds)

    # ---- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not (self._stopping and not self._queue):
            self._wake.wait()
            self._wake.clear()
            while self._queue:
                count, data = self._next_batch()
                if not self._write_batch(data):
                    self._lost_on_disk += count
                    if self._stopping:
                        self._lost_on_disk += len(self._queue)
                        self._queue.clear()
                    else:
                        time.sleep(self._retry_seconds)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _next_batch(self) -> tuple[int, bytes]:
        """Take records from the queue; return how many, and their lines."""
        count, data = 0, bytearray()
        while self._queue and len(data) < BATCH_BYTES_MAX // 2:
            data += json.dumps(self._queue.popleft().to_json(), separators=(",", ":")).encode() + b"\n"
            count += 1
        return count, bytes(data)

    def _write_batch(self, data: bytes) -> bool:
        try:
            if self._descriptor < 0:
                self._open()
            if self._size_bytes and self._size_bytes + len(data) > self._settings.bytes_max:
                self._rotate()
            self._write_all(data)
        except OSError as error:
            self._tell(f"{self._settings.path}: {error.strerror or error}")
            return False
        self._tell("")
        return True

    def _open(self) -> None:
        path = self._settings.path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size_bytes = os.fstat(self._descriptor).st_size
        if self._size_bytes and os.pread(self._descriptor, 1, self._size_bytes - 1) != b"\n":
            self._write_all(b"\n")  # the last writer was killed within a line

    def _rotate(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1
        paths = rotated_paths(self._settings.path, self._settings.files)
        for newer, older in reversed(list(pairwise(paths))):
            if newer.exists():
                newer.replace(older)
        if len(paths) == 1:
            paths[0].unlink(missing_ok=True)
        self._open()

    def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._write(self._descriptor, rest) :]  # type: ignore[arg-type]  # os.write takes any buffer
        except OSError:
            # What was written of a batch that failed goes again, so that no line is cut short.
            os.ftruncate(self._descriptor, self._size_bytes)
            raise
        self._size_bytes += len(data)

    def _tell(self, problem: str) -> None:
        if problem and not self._refused:
            _log.error("flow_file_refused", reason=problem)
        elif self._refused and not problem:
            _log.info("flow_file_recovered", path=str(self._settings.path))
        self._refused = problem


def rotated_paths(path: Path, files: int) -> list[Path]:
    """Return the files of a rotation, newest first."""
    return [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, files))]


def existing_paths(path: Path) -> list[Path]:
    """Return the files of a rotation that are there, oldest first: ``path.N`` .. ``path.1``, ``path``."""
    found = [path] if path.exists() else []
    number = 1
    while (older := path.with_name(f"{path.name}.{number}")).exists():
        found.append(older)
        number += 1
    return found[::-1]


def read_files(path: Path) -> Iterator[Flow]:
    """Yield the records of a file and of those that it was rotated to, oldest first. Broken lines are passed over.

    Raises OSError.
    """
    paths = existing_paths(path)
    if not paths:
        paths = [path]  # so that the error names what was asked for
    for each in paths:
        with each.open("rb") as lines:
            while line := lines.readline(LINE_BYTES_MAX):
                flow = read_line(line)
                if flow is not None:
                    yield flow


def read_line(line: bytes) -> Flow | None:
    """Return the record of a line, plain or wrapped as ``-o jsonpb`` does it; None if it is none."""
    try:
        found = json.loads(line)
        return read_flow(found["flow"] if isinstance(found, dict) and "flow" in found else found)
    except (NotAFlow, ValueError, RecursionError):
        return None
