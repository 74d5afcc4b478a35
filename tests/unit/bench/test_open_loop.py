"""The open-loop client does not forgive a server that stalls."""

from __future__ import annotations

import socket
import threading
import time

from bench.inside.open_loop import run

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
STALL_SECONDS = 0.3


def stalling_server(listener: socket.socket, stall_at: int) -> None:
    """Answer one connection's requests at once, but for one before which everything waits."""
    connection, _ = listener.accept()
    count = 0
    with connection:
        while data := connection.recv(65536):
            for _ in range(data.count(b"\r\n\r\n")):
                if count == stall_at:
                    time.sleep(STALL_SECONDS)
                count += 1
                connection.sendall(ANSWER)


def test_a_stall_counts_for_every_request_that_was_due_meanwhile() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=stalling_server, args=(listener, 20), daemon=True)
        server.start()
        found = run("127.0.0.1", listener.getsockname()[1], "/", rate=200, connections=1, seconds=0.5)
        server.join(5)
    latency = found["latency_us"]
    assert isinstance(latency, dict)
    assert (found["requests"], found["errors"]) == (100, 0)
    # 60 of the 100 requests were due within the stall; a closed loop would have seen one slow request.
    assert latency["p50"] > 0.05 * STALL_SECONDS * 1e6
    assert latency["p99"] > 0.9 * STALL_SECONDS * 1e6


def test_a_server_that_hangs_up_is_an_error_for_each_request_not_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.close()

        server = threading.Thread(target=hang_up, daemon=True)
        server.start()
        found = run("127.0.0.1", listener.getsockname()[1], "/", rate=100, connections=1, seconds=0.2)
        server.join(5)
    assert (found["requests"], found["errors"]) == (0, 20)
