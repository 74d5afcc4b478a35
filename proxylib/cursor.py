"""A bounded reader over one message.

Owns: the position in a byte string. Every over-read, whatever asked for it, is one ProtocolError. Must not know any protocol.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

from proxylib.errors import ProtocolError

_U16 = Struct("!H")


class Cursor:
    """Reads ``data`` from ``position`` up to ``end`` (exclusive), big-endian."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, position: int = 0, end: int | None = None) -> None:
        self.data = data
        self.position = position
        self.end = len(data) if end is None else end
        if not 0 <= self.position <= self.end <= len(data):
            raise ProtocolError("ends too early")

    @property
    def remaining(self) -> int:
        """Bytes between the position and the end."""
        return self.end - self.position

    def skip(self, size_bytes: int) -> None:
        """Pass over ``size_bytes``."""
        position = self.position + size_bytes
        if size_bytes < 0 or position > self.end:
            raise ProtocolError("ends too early")
        self.position = position

    def take(self, size_bytes: int) -> bytes:
        """Return the next ``size_bytes``."""
        start = self.position
        self.skip(size_bytes)
        return self.data[start : self.position]

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        """Return the fields of ``layout`` at the position."""
        start = self.position
        self.skip(layout.size)
        return layout.unpack_from(self.data, start)

    def u16(self) -> int:
        """Return an unsigned 16-bit number."""
        start = self.position
        self.skip(2)
        number: int = _U16.unpack_from(self.data, start)[0]
        return number
