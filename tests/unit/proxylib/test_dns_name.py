"""Names on the wire: every malformed form is an error, every well-formed one has one canonical form."""

from __future__ import annotations

import time

import pytest

from proxylib.dns.name import FIRST_NAME_OFFSET, WireName, read_name, to_text
from proxylib.errors import ProtocolError

HEADER = bytes(FIRST_NAME_OFFSET)
LABEL_63 = b"\x3f" + b"a" * 63


def at_12(wire: bytes) -> tuple[str, int]:
    name, end = read_name(HEADER + wire, FIRST_NAME_OFFSET, {})
    return to_text(name), end - FIRST_NAME_OFFSET


@pytest.mark.parametrize(
    "wire, text, size",
    [
        (b"\0", ".", 1),
        (b"\x03www\x07Example\x03COM\0", "www.example.com", 17),
        (b"\x04a.b_\0", r"a\046b_", 6),
        (b"\x02\\\x00\0", r"\092\000", 4),
        (LABEL_63 * 3 + b"\x3d" + b"b" * 61 + b"\0", ".".join(["a" * 63] * 3 + ["b" * 61]), 255),
    ],
)
def test_plain_names(wire: bytes, text: str, size: int) -> None:
    assert at_12(wire + b"rest") == (text, size)


@pytest.mark.parametrize(
    "wire, problem",
    [
        (b"", "ends too early"),
        (b"\x03ww", "too long|too early"),
        (b"\x03www", "ends too early"),
        (b"\x40" + b"a" * 64 + b"\0", "unknown kind"),
        (b"\x80\x0c", "unknown kind"),
        (b"\xc0", "ends too early"),
        (b"\xc0\x0c", "backwards"),
        (b"\x01a\xc0\x0c", "backwards"),
        (b"\xc0\x00", "backwards"),
        (b"\xff\xff", "backwards"),
        (LABEL_63 * 3 + b"\x3e" + b"b" * 62 + b"\0", "too long"),
    ],
)
def test_malformed_names(wire: bytes, problem: str) -> None:
    with pytest.raises(ProtocolError, match=problem):
        at_12(wire)


def test_pointer_to_a_suffix_takes_the_suffix() -> None:
    message = HEADER + b"\x03www\x07example\x03com\0" + b"\x04mail\xc0\x10"
    known: dict[int, WireName] = {}
    read_name(message, 12, known)
    assert read_name(message, 29, known) == (b"\x04mail\x07example\x03com\0", 36)
    assert read_name(message, 29, {}) == (b"\x04mail\x07example\x03com\0", 36), "without memory the same"


def test_name_that_grows_too_long_through_pointers_is_refused() -> None:
    message = HEADER + LABEL_63 * 3 + b"\0"
    tail = len(message)
    message += b"\x3e" + b"c" * 62 + b"\xc0\x0c"
    with pytest.raises(ProtocolError, match="too long"):
        read_name(message, tail, {})


def test_chain_of_pointers_costs_each_place_once() -> None:
    """64 KiB of pointers, each to the one before: quadratic work would take minutes."""
    message = bytearray(HEADER + b"\x01a\0")
    offsets = [FIRST_NAME_OFFSET]
    while len(message) < 0x3FF0:
        offsets.append(len(message))
        message += (0xC000 | offsets[-2]).to_bytes(2, "big")
    known: dict[int, WireName] = {}
    started = time.process_time()
    for offset in offsets * 4:
        assert read_name(bytes(message), offset, known)[0] == b"\x01a\0"
    assert time.process_time() - started < 5
