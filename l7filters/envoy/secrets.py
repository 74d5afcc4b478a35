"""Secret values that don't print.

Owns: the type of a secret's bytes, and the mapping the translation reads them from. Must not know where they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping

from l7filters.model import SecretRef


class SecretValue:
    """Bytes that ``repr``, ``str``, formatting, pickling and tracebacks never show. Equality is by value."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes | str) -> None:
        self._data = data.encode() if isinstance(data, str) else bytes(data)

    def reveal(self) -> bytes:
        """Return the bytes. Call it only where they go into a message for Envoy or into a comparison."""
        return self._data

    def reveal_header_value(self) -> str | None:
        """Return the value as a header can carry it, without a trailing newline; None if no header can."""
        data = self._data.removesuffix(b"\n").removesuffix(b"\r")
        if any(byte < 0x20 or byte == 0x7F for byte in data):
            return None
        try:
            return data.decode()
        except UnicodeDecodeError:
            return None

    def __repr__(self) -> str:
        return "SecretValue([redacted])"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretValue) and self._data == other._data

    def __hash__(self) -> int:
        return hash(self._data)

    def __reduce__(self) -> str:
        raise TypeError("a secret can't be pickled")


Secrets = Mapping[SecretRef, SecretValue]
