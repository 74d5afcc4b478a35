"""The Kafka filter without Envoy: the native crate's example ``kafka_replay`` as a function.

Built with ``cargo build --release --examples`` when it is missing or older than its sources.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

CRATE = Path(__file__).resolve().parents[2] / "proxylib" / "native"
CLIENT, BROKER, CONFIG = 0, 1, 2


@dataclass(frozen=True)
class Step:
    """What became of one piece of input. ``closing``: 0 no, 1 after what was sent, 2 at once."""

    to_broker: bytes
    to_client: bytes
    closing: int
    reports: tuple[dict[str, Any], ...]


@cache
def binary() -> Path:
    """The program, built if need be."""
    environment = os.environ | {"PATH": f"/usr/bin:{os.environ['PATH']}"}
    command = ["/usr/bin/cargo", "build", "--quiet", "--release", "--offline", "--locked", "--examples"]
    subprocess.run(command, cwd=CRATE, env=environment, check=True)
    return CRATE / "target" / "release" / "examples" / "kafka_replay"


def replay(config: dict[str, Any], events: Iterable[tuple[int, bytes]]) -> list[Step]:
    """Play one connection. ``events``: (CLIENT, bytes) sent by the client, (BROKER, bytes), or (CONFIG, JSON) put in force."""
    told = json.dumps(config).encode()
    stream = bytearray(struct.pack(">I", len(told)) + told)
    for direction, data in events:
        stream += struct.pack(">BI", direction, len(data)) + data
    answer = subprocess.run([binary()], input=bytes(stream), capture_output=True, check=True).stdout
    steps: list[Step] = []
    at = 0

    def chunk() -> bytes:
        nonlocal at
        (length,) = struct.unpack_from(">I", answer, at)
        at += 4 + length
        return answer[at - length : at]

    while at < len(answer):
        to_broker, to_client = chunk(), chunk()
        closing = answer[at]
        at += 1
        lines = chunk().decode()
        steps.append(Step(to_broker, to_client, closing, tuple(json.loads(line) for line in lines.splitlines())))
    return steps
