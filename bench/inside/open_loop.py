"""An open-loop HTTP/1.1 client: requests are due at fixed times, and each is timed from when it was due.

A closed-loop client (wrk) sends the next request when the last answer came, so a server that stalls is asked less and the
stall is counted once ("coordinated omission"). Here the schedule waits for nobody: request N is due at start + N / rate; if no
connection is idle it queues, and its latency includes the queueing.

``python open_loop.py HOST PORT PATH RATE CONNECTIONS SECONDS`` prints one JSON object. One thread, ``select`` (its timeout has
microseconds, epoll's has milliseconds), timer slack 1 ns. ``late_us`` is how late the client itself sent: its own error.
"""

from __future__ import annotations

import ctypes
import gc
import json
import select
import socket
import sys
import time
from collections import deque

PR_SET_TIMERSLACK = 29
RECEIVE_BYTES = 1 << 18
DRAIN_SECONDS = 3.0
"""How long answers may still come after the last request was due; what is missing then is an error."""
CONNECT_SECONDS = 5.0
CONNECTIONS_MAX = 512
"""``select`` knows descriptors below 1,024."""


class Connection:
    """One keep-alive connection; at most one request is on it."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.received = 0
        self.head = b""
        self.awaited: int | None = None
        self.due_ns = 0

    def fileno(self) -> int:
        """For ``select``."""
        return self.socket.fileno()

    def receive(self) -> bool | None:
        """Read; True: the answer is whole, False: it is not yet, None: it is a failure."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return None
        if not data:
            return None
        self.received += len(data)
        if self.awaited is None:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return False
            length = content_length(self.head[:end])
            if length is None:
                return None
            self.awaited = end + 4 + length
        if self.received < self.awaited:
            return False
        whole = self.received == self.awaited
        self.received, self.head, self.awaited = 0, b"", None
        return True if whole else None


def content_length(head: bytes) -> int | None:
    """Return the body's length of a 200 answer; None for any other answer."""
    if not head.startswith(b"HTTP/1.1 200"):
        return None
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return None


def percentile(ordered: list[int], share: float) -> int:
    """Return the value below which ``share`` (0..1) of an ordered, non-empty list lies (nearest rank)."""
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1_000_000) * len(ordered) // 1_000_000) - 1))]


def summary(latencies_ns: list[int], late_ns: list[int], asked: int, errors: int, elapsed_ns: int) -> dict[str, object]:
    """Return what is printed."""
    ordered, late = sorted(latencies_ns), sorted(late_ns)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
    return {
        "requests": len(ordered),
        "asked": asked,
        "errors": errors,
        "seconds": elapsed_ns / 1e9,
        "latency_us": {name: percentile(ordered, share) / 1000 for name, share in shares.items()} if ordered else {},
        "late_us": {name: percentile(late, share) / 1000 for name, share in shares.items()} if late else {},
    }


def run(host: str, port: int, path: str, rate: float, connections: int, seconds: float) -> dict[str, object]:
    """Ask on schedule and return the summary."""
    assert 0 < connections <= CONNECTIONS_MAX
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
    everyone = [Connection(host, port) for _ in range(connections)]
    idle = deque(everyone)
    busy: set[Connection] = set()
    due: deque[int] = deque()
    asked_max, interval_ns = int(rate * seconds), 1e9 / rate
    latencies: list[int] = []
    late: list[int] = []
    scheduled = errors = 0
    gc.collect()
    gc.disable()
    start = time.monotonic_ns() + 50_000_000
    end = start + int((seconds + DRAIN_SECONDS) * 1e9)
    while scheduled < asked_max or due or busy:
        now = time.monotonic_ns()
        if now > end or not (idle or busy):
            break
        while scheduled < asked_max and start + int(scheduled * interval_ns) <= now:
            due.append(start + int(scheduled * interval_ns))
            scheduled += 1
        while due and idle:
            connection = idle.popleft()
            connection.due_ns = due.popleft()
            # Only the client's own delay: a wait for an idle connection is the other side's.
            if not due and len(idle) > 0:
                late.append(time.monotonic_ns() - connection.due_ns)
            try:
                connection.socket.send(request)
            except OSError:
                errors += 1
                connection.socket.close()
                continue
            busy.add(connection)
        wait_ns = start + int(scheduled * interval_ns) - time.monotonic_ns() if scheduled < asked_max else 100_000_000
        for connection in select.select(busy, (), (), max(0.0, wait_ns / 1e9))[0]:
            whole = connection.receive()
            if whole is False:
                continue
            busy.discard(connection)
            if whole is None:
                errors += 1
                connection.socket.close()
            else:
                latencies.append(time.monotonic_ns() - connection.due_ns)
                idle.append(connection)
    elapsed = time.monotonic_ns() - start
    for connection in everyone:
        connection.socket.close()
    return summary(latencies, late, asked_max, asked_max - len(latencies), elapsed) | {"broken_connections": errors}


def main() -> None:
    """Read the arguments, run, print."""
    host, port, path, rate, connections, seconds = sys.argv[1:7]
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    print(json.dumps(run(host, int(port), path, float(rate), int(connections), float(seconds))))


if __name__ == "__main__":
    main()
