"""Domain names on the wire.

Owns: reading names (RFC 1035 3.1 and 4.1.4) and their two forms. Must not know records or rules.

Canonical form: uncompressed wire bytes in lower case. It compares byte by byte, and no label can be taken for two (a label may
hold a dot). Length bytes are below ``A``, so lower-casing all the bytes touches letters only. The original case stays where it
came from: messages are forwarded as they are.

Reading terminates: a compression pointer must aim before the run of labels that it ends, so targets strictly decrease; and each
place of a message is decoded once (``known``), so a message costs time in proportion to its size, however its pointers tangle.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NewType

from proxylib.errors import ProtocolError

WireName = NewType("WireName", bytes)
"""Canonical form of a name: uncompressed wire bytes, lower case."""

NAME_BYTES_MAX = 255
LABEL_BYTES_MAX = 63
FIRST_NAME_OFFSET = 12
"""Nothing before the end of the header can be a name."""
TEXTS_MAX = 65536
"""Names whose text is remembered, which saves most of the cost of a repeated question."""

ROOT = WireName(b"\0")
_POINTER = 0xC0
_PLAIN = b"-_0123456789abcdefghijklmnopqrstuvwxyz"


def read_name(message: bytes, offset: int, known: dict[int, WireName]) -> tuple[WireName, int]:
    """Return the name at ``offset`` and where its bytes end. ``known`` belongs to this message and is added to."""
    labels: list[bytes] = []
    places: list[tuple[int, int]] = []
    position = run_start = offset
    size, after = 0, -1
    tail: bytes = ROOT
    try:
        while (length := message[position]) != 0:
            if length <= LABEL_BYTES_MAX:
                stop = position + 1 + length
                label = message[position:stop]
                size += len(label)
                if stop > len(message) or size >= NAME_BYTES_MAX:
                    raise ProtocolError("name is too long")
                labels.append(label)
                places.append((position, size - len(label)))
                position = stop
            elif length >= _POINTER:
                target = (length ^ _POINTER) << 8 | message[position + 1]
                if not FIRST_NAME_OFFSET <= target < run_start:
                    raise ProtocolError("name pointer does not aim backwards")
                after = position + 2 if after < 0 else after
                position = run_start = target
                places.append((target, size))
            else:
                raise ProtocolError("name has a label of an unknown kind")
            if after >= 0 and (found := known.get(position)) is not None:
                tail = found
                break
    except IndexError as error:
        raise ProtocolError("name ends too early") from error
    name = WireName(b"".join(labels).lower() + tail)
    if len(name) > NAME_BYTES_MAX:
        raise ProtocolError("name is too long")
    for place, at in places:
        known[place] = WireName(name[at:])
    return name, after if after >= 0 else position + 1


def skip_plain_name(message: bytes, offset: int) -> int:
    """Return where the uncompressed name at ``offset`` ends: in a question nothing precedes it that it could point to."""
    position = offset
    try:
        while (length := message[position]) != 0:
            if length > LABEL_BYTES_MAX:
                raise ProtocolError("question's name is compressed")
            position += 1 + length
    except IndexError as error:
        raise ProtocolError("name ends too early") from error
    if position + 1 - offset > NAME_BYTES_MAX:
        raise ProtocolError("name is too long")
    return position + 1


@lru_cache(maxsize=TEXTS_MAX)
def to_text(name: WireName) -> str:
    """Return ``name`` as text: lower case, no trailing dot, "." for the root; other bytes than [-_0-9a-z] as ``\\DDD``.

    So a dot in the text is always a border between labels, and a name with odd bytes never looks like one without.
    """
    labels = []
    position = 0
    while (length := name[position]) != 0:
        label = name[position + 1 : position + 1 + length]
        if label.translate(None, _PLAIN):
            labels.append("".join(chr(byte) if byte in _PLAIN else f"\\{byte:03d}" for byte in label))
        else:
            labels.append(label.decode("ascii"))
        position += 1 + length
    return ".".join(labels) or "."
