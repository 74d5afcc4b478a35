"""The workloads: what is asked of an arm, by which program, and how to read what it prints.

Every run has a timeout; one that passes it is killed and counts as failed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench import server

GRACE_SECONDS = 15.0
"""Beyond its length a run may take this long to start, to drain and to end."""
H2_STREAMS = 10
OPEN_LOOP = Path(__file__).parent / "inside" / "open_loop.py"

_WRK_DONE = re.compile(r"^\s*(\d+) requests in ([0-9.]+)(us|ms|s|m),", re.MULTILINE)
_WRK_BAD = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_WRK_SOCKET = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_H2_RATE = re.compile(r"^finished in ([0-9.]+)(us|ms|s|m), ", re.MULTILINE)
_H2_REQUESTS = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
_H2_STATUS = re.compile(r"status codes: (\d+) 2xx")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


class LoadError(RuntimeError):
    """A load program failed, or said what can't be read."""


class Kind(StrEnum):
    """What a workload's figure is."""

    THROUGHPUT = "requests/s"
    BANDWIDTH = "Gbit/s"
    LATENCY = "us"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a load program saw. ``latency_us``: percentiles, only where they mean something (open loop, ping-pong)."""

    requests: int
    seconds: float
    errors: int = 0
    bytes: int = 0
    latency_us: Mapping[str, float] | None = None
    client_late_us: Mapping[str, float] | None = None

    @property
    def rate(self) -> float:
        """Requests each second."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Workload:
    """``command(host, seconds)`` gives the words to run in the client's pod; ``read`` what they print."""

    name: str
    text: str
    kind: Kind
    command: Callable[[str, int], list[str]]
    read: Callable[[str], Outcome]
    raw_tcp: bool = False
    """Not HTTP: only for arms without a proxy."""
    quick: bool = False


# ---- reading ------------------------------------------------------------------------------------------------------


def read_wrk(printed: str) -> Outcome:
    """Read what wrk prints. Answers other than 2xx and 3xx are errors and no requests."""
    done = _WRK_DONE.search(printed)
    if done is None:
        raise LoadError(f"wrk said:\n{printed}")
    bad = sum(int(number) for number in _WRK_BAD.findall(printed))
    socket = sum(int(number) for found in _WRK_SOCKET.findall(printed) for number in found)
    return Outcome(requests=int(done[1]) - bad, seconds=float(done[2]) * _UNITS[done[3]], errors=bad + socket)


def read_wrk_closing(printed: str) -> Outcome:
    """Read what wrk prints when each answer closes its connection: the close, which wrk counts as a read error, is none."""
    outcome = read_wrk(printed)
    reads = sum(int(found[1]) for found in _WRK_SOCKET.findall(printed))
    return Outcome(requests=outcome.requests, seconds=outcome.seconds, errors=outcome.errors - reads)


def read_h2load(printed: str) -> Outcome:
    """Read what h2load prints."""
    rate, requests, status = _H2_RATE.search(printed), _H2_REQUESTS.search(printed), _H2_STATUS.search(printed)
    if rate is None or requests is None or status is None:
        raise LoadError(f"h2load said:\n{printed}")
    good = int(status[1])
    errors = int(requests[1]) - good + int(requests[3]) + int(requests[4])
    return Outcome(requests=good, seconds=float(rate[1]) * _UNITS[rate[2]], errors=max(0, errors))


def read_json(printed: str) -> Outcome:
    """Read what our own programs print."""
    try:
        said = json.loads(printed)
    except ValueError as error:
        raise LoadError(f"not JSON: {printed[:2000]}") from error
    return Outcome(
        requests=said.get("requests", 0),
        seconds=said["seconds"],
        errors=said.get("errors", 0),
        bytes=said.get("bytes", 0),
        latency_us=said.get("latency_us") or None,
        client_late_us=said.get("late_us") or None,
    )


# ---- the table ----------------------------------------------------------------------------------------------------


def _wrk(path: str, connections: int, *words: str) -> Callable[[str, int], list[str]]:
    def command(host: str, seconds: int) -> list[str]:
        url = f"http://{host}:{server.HTTP1}{path}"
        return ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s", *words, url]

    return command


def _keep_alive(path: str, size: str, connections: int, *, quick: bool = False) -> Workload:
    text = f"HTTP/1.1 keep-alive, {size} body, {connections} connection{'s' if connections > 1 else ''}"
    return Workload(f"h1-{size}-c{connections}", text, Kind.THROUGHPUT, _wrk(path, connections), read_wrk, quick=quick)


def _h2load(host: str, seconds: int) -> list[str]:
    url = f"http://{host}:{server.HTTP2}{server.SMALL}"
    return ["h2load", "-t1", "-c16", f"-m{H2_STREAMS}", "-D", str(seconds), "--connection-inactivity-timeout", "5", url]


def _open_loop(rate: int, connections: int) -> Callable[[str, int], list[str]]:
    def command(host: str, seconds: int) -> list[str]:
        words = (host, server.HTTP1, server.SMALL, rate, connections, seconds)
        return [sys.executable, "-I", str(OPEN_LOOP), *map(str, words)]

    return command


def _tcp(what: str) -> Callable[[str, int], list[str]]:
    def command(host: str, seconds: int) -> list[str]:
        return [sys.executable, "-I", str(server.TCP_PROGRAM), what, host, str(server.TCP), str(seconds)]

    return command


def _open(rate: int, *, quick: bool = False) -> Workload:
    text = f"HTTP/1.1, {rate} requests/s on a fixed schedule over 16 connections; timed from when due"
    return Workload(f"open-{rate}", text, Kind.LATENCY, _open_loop(rate, 16), read_json, quick=quick)


WORKLOADS = {
    each.name: each
    for each in (
        _keep_alive(server.SMALL, "64B", 1),
        _keep_alive(server.SMALL, "64B", 16, quick=True),
        _keep_alive(server.SMALL, "64B", 64),
        _keep_alive(server.LARGE, "64kB", 1),
        _keep_alive(server.LARGE, "64kB", 16, quick=True),
        _keep_alive(server.LARGE, "64kB", 64),
        Workload("h2-64B-c16", f"HTTP/2, 64 B, 16 connections of {H2_STREAMS} streams", Kind.THROUGHPUT, _h2load, read_h2load),
        Workload(
            "close-64B-c16",
            "HTTP/1.1, 64 B, a new connection for each request, 16 at once",
            Kind.THROUGHPUT,
            _wrk(server.SMALL, 16, "-H", "Connection: close"),
            read_wrk_closing,
            quick=True,
        ),
        _open(1000),
        _open(4000, quick=True),
        Workload("tcp-stream", "one TCP stream", Kind.BANDWIDTH, _tcp("stream"), read_json, raw_tcp=True, quick=True),
        Workload("tcp-ping", "64 B there and back on one TCP connection", Kind.LATENCY, _tcp("ping"), read_json, True, True),
    )
}


def execute(command: list[str], seconds: int, read: Callable[[str], Outcome]) -> Outcome:
    """Run a load program and read it. Raises LoadError."""
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds + GRACE_SECONDS,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"{command[3:5]}: still running {GRACE_SECONDS:.0f} s after its end") from error
    if result.returncode != 0:
        raise LoadError(f"{' '.join(command[3:])}: exit {result.returncode}\n{result.stdout}{result.stderr}")
    return read(result.stdout)
