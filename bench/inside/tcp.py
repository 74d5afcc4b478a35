"""A TCP server that swallows (port PORT) and echoes (port PORT + 1), and the clients for both.

``python tcp.py serve HOST PORT`` | ``stream HOST PORT SECONDS`` | ``ping HOST PORT SECONDS``; the clients print one JSON object.
"""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import sys
import threading
import time

MESSAGE_BYTES = 64
CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = 5.0


def serve(host: str, port: int) -> None:
    """Serve both ports until killed."""
    threads = [threading.Thread(target=accept, args=(host, number, each)) for number, each in ((port, swallow), (port + 1, echo))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def accept(host: str, port: int, handle: object) -> None:
    """Give each connection a thread."""
    assert callable(handle)
    with socket.create_server((host, port), backlog=64) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=handle, args=(connection,), daemon=True).start()


def swallow(connection: socket.socket) -> None:
    """Read to the end, then say how many bytes came."""
    buffer, total = bytearray(CHUNK_BYTES), 0
    with connection:
        while count := connection.recv_into(buffer):
            total += count
        connection.sendall(total.to_bytes(8, "big"))


def echo(connection: socket.socket) -> None:
    """Send back what comes."""
    with connection, contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(MESSAGE_BYTES):
            connection.sendall(data)


def stream(host: str, port: int, seconds: float) -> dict[str, object]:
    """Send as fast as the way allows; only what the receiver says it got counts."""
    chunk = memoryview(bytes(CHUNK_BYTES))
    with socket.create_connection((host, port), timeout=TIMEOUT_SECONDS) as connection:
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            connection.sendall(chunk)
        connection.shutdown(socket.SHUT_WR)
        got = b""
        while len(got) < 8:
            got += connection.recv(8 - len(got)) or _fail()
        elapsed = time.monotonic() - start
    return {"bytes": int.from_bytes(got, "big"), "seconds": elapsed}


def ping(host: str, port: int, seconds: float) -> dict[str, object]:
    """One small message at a time, there and back."""
    message, latencies = bytes(MESSAGE_BYTES), []
    gc.disable()
    with socket.create_connection((host, port + 1), timeout=TIMEOUT_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            before = time.monotonic_ns()
            connection.sendall(message)
            count = 0
            while count < MESSAGE_BYTES:
                count += len(connection.recv(MESSAGE_BYTES - count) or _fail())
            latencies.append(time.monotonic_ns() - before)
    ordered = sorted(latencies)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
    found = {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1000 for name, share in shares.items()}
    return {"requests": len(ordered), "seconds": seconds, "latency_us": found}


def _fail() -> bytes:
    raise ConnectionError("the server closed the connection")


def main() -> None:
    """Do what the first argument says."""
    match sys.argv[1:]:
        case ["serve", host, port]:
            serve(host, int(port))
        case ["stream", host, port, seconds]:
            print(json.dumps(stream(host, int(port), float(seconds))))
        case ["ping", host, port, seconds]:
            print(json.dumps(ping(host, int(port), float(seconds))))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
