"""DNS over TCP (RFC 1035 4.2.2, RFC 7766): messages behind a length of two bytes.

Owns: cutting a stream into messages, and judging each as the stream-parser contract has it. Must not know sockets.
"""

from __future__ import annotations

from collections.abc import Callable

from proxylib.dns.message import HEADER_BYTES
from proxylib.errors import ProtocolError
from proxylib.ops import Drop, Inject, More, Op, Pass

LENGTH_BYTES = 2

Judge = Callable[[bytes], bytes | None]
"""Takes a message; None lets it pass, bytes are the answer to give instead (empty: none)."""


def frame(message: bytes) -> bytes:
    """Return ``message`` behind its length."""
    return len(message).to_bytes(LENGTH_BYTES, "big") + message


class Framer:
    """Cuts one direction of a connection into messages; keeps at most one unfinished message."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = b""

    @property
    def size_bytes_missing(self) -> int:
        """How many bytes the next message lacks at least; never 0."""
        if len(self._kept) < LENGTH_BYTES:
            return LENGTH_BYTES - len(self._kept)
        return LENGTH_BYTES + int.from_bytes(self._kept[:LENGTH_BYTES], "big") - len(self._kept)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that ``data`` completes. Raises ProtocolError for a length that can't hold a header.

        Messages that were whole before the bad length are lost with it: the connection is over either way.
        """
        data = self._kept + data
        messages = []
        position = 0
        while len(data) - position >= LENGTH_BYTES:
            size = int.from_bytes(data[position : position + LENGTH_BYTES], "big")
            if size < HEADER_BYTES:
                raise ProtocolError("message shorter than a header")
            stop = position + LENGTH_BYTES + size
            if stop > len(data):
                break
            messages.append(data[position + LENGTH_BYTES : stop])
            position = stop
        self._kept = data[position:]
        return messages


class QueryStream:
    """The client's direction of a DNS connection: a StreamParser that asks ``judge`` about each query."""

    __slots__ = ("_framer", "_judge")

    def __init__(self, judge: Judge) -> None:
        self._framer = Framer()
        self._judge = judge

    def feed(self, data: bytes) -> list[Op]:
        """Return Pass for each query that may go on, Drop and Inject for one that gets an answer instead, then More."""
        ops: list[Op] = []
        for message in self._framer.feed(data):
            answer = self._judge(message)
            framed = frame(message)
            if answer is None:
                ops.append(Pass(framed))
                continue
            ops.append(Drop(framed))
            if answer:
                ops.append(Inject(frame(answer)))
        ops.append(More(self._framer.size_bytes_missing))
        return ops
