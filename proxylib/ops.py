"""The contract of a stream parser: bytes in, operations out.

Owns: the vocabulary between a parser, which judges what a connection says, and whoever moves the bytes. A parser holds what it
needs of a connection's past, does no IO, never blocks and never raises for what the peer sent but ProtocolError, after which the
connection must be closed.

What a caller may rely on:

1. However the input is cut into pieces, the operations are the same but for More.
2. The data of Pass and Drop, in order, is the input: nothing is invented, lost or moved.
3. What a parser keeps between two calls is bounded by one frame of its protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Direction(StrEnum):
    """As the connection sees it: from who opened it, or back."""

    ORIGINAL = "original"
    REPLY = "reply"


@dataclass(frozen=True, slots=True)
class Pass:
    """Send one whole frame on, as it is."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Drop:
    """One whole frame that must not be sent on."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Inject:
    """Send a frame of the parser's own back to whoever sent the frame before."""

    data: bytes


@dataclass(frozen=True, slots=True)
class More:
    """Nothing can be said before at least this many more bytes are here."""

    size_bytes_min: int


Op = Pass | Drop | Inject | More


class StreamParser(Protocol):
    """One direction of one connection."""

    def feed(self, data: bytes) -> list[Op]:
        """Return what to do with the frames that ``data`` completes. Raises ProtocolError."""
        ...
