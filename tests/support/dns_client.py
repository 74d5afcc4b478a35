"""Asks and connects at once, on a schedule: ``python -I dns_client.py SERVER FAMILY RATE SECONDS PORT NAME``.

``{}`` in NAME stands for 1 to 250 in turn. Question N is due at start + N / RATE, whatever became of those before. Each answer is
followed at once by a connection to its first address; nothing is tried twice. Prints JSON: ``asked``, ``answered``,
``connected``, ``failures`` (what: how often), ``addresses`` (how many different ones), ``dns_us`` and ``connect_us``
(percentiles), ``late_us`` (by how much this program was late, at most), ``seconds``.

Standard library only, so that it starts fast and runs anywhere.
"""

from __future__ import annotations

import collections
import json
import os
import select
import socket
import struct
import sys
import time

TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 1.0
"""A dropped SYN is sent again after a second: what connects only then was denied at first."""
_TYPES = {4: 1, 6: 28}


def main() -> None:
    server, family, rate, seconds, port, name = sys.argv[1:]
    print(json.dumps(run(server, int(family), float(rate), float(seconds), int(port), name)))


def run(server: str, family: int, rate: float, seconds: float, port: int, name: str) -> dict[str, object]:
    """Ask ``server``, one question after the other."""
    kind = socket.AF_INET6 if ":" in server else socket.AF_INET
    failures: collections.Counter[str] = collections.Counter()
    dns_us: list[float] = []
    connect_us: list[float] = []
    addresses: set[str] = set()
    late_us = 0.0
    start = time.perf_counter()
    count = int(rate * seconds)
    for number in range(count):
        due = start + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        late_us = max(late_us, (time.perf_counter() - due) * 1e6)
        asked = time.perf_counter()
        # A socket of its own for each question, as stub resolvers do it.
        with socket.socket(kind, socket.SOCK_DGRAM) as asking:
            asking.connect((server, 53))
            found = ask(asking, name.replace("{}", str(number % 250 + 1)), family)
        if isinstance(found, str):
            failures[found] += 1
            continue
        answered = time.perf_counter()
        dns_us.append((answered - asked) * 1e6)
        address = found[0]
        addresses.add(address)
        try:
            with socket.create_connection((address, port), CONNECT_TIMEOUT_SECONDS):
                connect_us.append((time.perf_counter() - answered) * 1e6)
        except OSError as error:
            failures[f"connect: {type(error).__name__}"] += 1
    return {
        "asked": count,
        "answered": len(dns_us),
        "connected": len(connect_us),
        "failures": dict(failures),
        "addresses": len(addresses),
        "dns_us": percentiles(dns_us),
        "connect_us": percentiles(connect_us),
        "late_us": late_us,
        "seconds": time.perf_counter() - start,
    }


def ask(asking: socket.socket, name: str, family: int) -> list[str] | str:
    """Return the addresses that ``name`` has, or why there are none."""
    identifier = os.urandom(2)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    asking.send(identifier + b"\x01\0\0\1\0\0\0\0\0\0" + labels + struct.pack("!BHH", 0, _TYPES[family], 1))
    if not select.select([asking], [], [], TIMEOUT_SECONDS)[0]:
        return "timeout"
    try:
        data = asking.recv(4096)
    except OSError as error:
        return f"receive: {type(error).__name__}"
    if data[:2] != identifier:
        return "another answer"
    if data[3] & 0xF:
        return f"rcode {data[3] & 0xF}"
    return read_addresses(data, 12 + len(labels) + 5, int.from_bytes(data[6:8], "big"), _TYPES[family]) or "no address"


def read_addresses(data: bytes, at: int, count: int, wanted: int) -> list[str]:
    """Read the answer section; names are stepped over."""
    found = []
    for _ in range(count):
        while data[at] and data[at] < 0xC0:
            at += 1 + data[at]
        at += 2 if data[at] else 1
        kind, _, _, size = struct.unpack_from("!HHIH", data, at)
        at += 10
        if kind == wanted:
            found.append(socket.inet_ntop(socket.AF_INET if size == 4 else socket.AF_INET6, data[at : at + size]))
        at += size
    return found


def percentiles(values: list[float]) -> dict[str, float]:
    """Median, 99 % and the worst."""
    ordered = sorted(values)
    if not ordered:
        return {}
    return {
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
        "max": ordered[-1],
    }


if __name__ == "__main__":
    main()
