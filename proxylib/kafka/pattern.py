"""Regular expressions on Kafka's names as programs that the native filter runs.

Owns: the part of RE2's syntax that such rules may use, and its compilation to a program over bytes (Thompson's construction),
which ``pattern.rs`` runs in time linear in the name. Names are UTF-8. The filter has no RE2: what is compiled here must mean what
RE2 means by it (a property test compares them), and what isn't certain to is refused. Must not know rules.

A program is a list of ``["byte", low, high, ...]`` (pass over one byte in one of the ranges, go on at the next),
``["split", a, b]`` (go on at both) and ``["match"]``. A match is of the whole name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

PROGRAM_MAX: Final = 4096
"""Instructions: the limit of ``pattern.rs``."""
REPEAT_MAX: Final = 1000
"""RE2's own limit of ``{n,m}``."""
NESTING_MAX: Final = 100
"""Groups in one another; RE2 allows 1000."""

Step = tuple[str | int, ...]
Ranges = tuple[tuple[int, int], ...]

_DIGITS: Final[Ranges] = ((48, 57),)
_SPACE: Final[Ranges] = ((9, 10), (12, 13), (32, 32))
_WORD: Final[Ranges] = ((48, 57), (65, 90), (95, 95), (97, 122))
_PERL: Final = {"d": _DIGITS, "s": _SPACE, "w": _WORD}
_ESCAPES: Final = {"n": 10, "t": 9, "r": 13, "f": 12, "v": 11, "a": 7}
_POSIX: Final[dict[str, Ranges]] = {
    "alnum": ((48, 57), (65, 90), (97, 122)),
    "alpha": ((65, 90), (97, 122)),
    "digit": _DIGITS,
    "lower": ((97, 122),),
    "upper": ((65, 90),),
    "word": _WORD,
    "xdigit": ((48, 57), (65, 70), (97, 102)),
    "space": ((9, 13), (32, 32)),
    "punct": ((33, 47), (58, 64), (91, 96), (123, 126)),
}
_ASCII_LAST: Final = 127
_BEYOND_ASCII: Final = (
    (((0xC2, 0xDF),), ((0x80, 0xBF),)),
    (((0xE0, 0xE0),), ((0xA0, 0xBF),), ((0x80, 0xBF),)),
    (((0xE1, 0xEF),), ((0x80, 0xBF),), ((0x80, 0xBF),)),
    (((0xF0, 0xF0),), ((0x90, 0xBF),), ((0x80, 0xBF),), ((0x80, 0xBF),)),
    (((0xF1, 0xF3),), ((0x80, 0xBF),), ((0x80, 0xBF),), ((0x80, 0xBF),)),
    (((0xF4, 0xF4),), ((0x80, 0x8F),), ((0x80, 0xBF),), ((0x80, 0xBF),)),
)
"""The UTF-8 forms of every character but ASCII."""


class PatternError(ValueError):
    """The expression uses what is not supported here. The message says what."""


@dataclass(frozen=True, slots=True)
class _Bytes:
    ranges: Ranges


@dataclass(frozen=True, slots=True)
class _Sequence:
    parts: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    parts: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    part: _Node
    least: int
    most: int | None


_Node = _Bytes | _Sequence | _Choice | _Repeat
_NOTHING: Final = _Sequence(())
_BEYOND: Final = _Choice(tuple(_Sequence(tuple(_Bytes(ranges) for ranges in form)) for form in _BEYOND_ASCII))


def compile_pattern(text: str) -> list[Step]:
    """Return the program of a regular expression. Raises PatternError; ``text`` is one that RE2 takes."""
    parser = _Parser(text)
    node = parser.choice(0)
    if parser.at != len(text):
        raise PatternError(f"unexpected {text[parser.at]!r}")
    steps: list[Step] = []
    _emit(node, steps)
    steps.append(("match",))
    return steps


def _emit(node: _Node, steps: list[Step]) -> None:
    if len(steps) >= PROGRAM_MAX:
        raise PatternError(f"it is longer than {PROGRAM_MAX} steps")
    match node:
        case _Bytes(ranges):
            steps.append(("byte", *(bound for one in ranges for bound in one)))
        case _Sequence(parts):
            for part in parts:
                _emit(part, steps)
        case _Choice(parts):
            _emit_choice(parts, steps)
        case _Repeat(part, least, most):
            for _ in range(least):
                _emit(part, steps)
            if most is None:
                at = _reserve(steps)
                _emit(part, steps)
                steps.append(("split", at, at))
                steps[at] = ("split", at + 1, len(steps))
            else:
                exits = []
                for _ in range(most - least):
                    exits.append(_reserve(steps))
                    _emit(part, steps)
                for at in exits:
                    steps[at] = ("split", at + 1, len(steps))


def _emit_choice(parts: tuple[_Node, ...], steps: list[Step]) -> None:
    exits = []
    for part in parts[:-1]:
        at = _reserve(steps)
        _emit(part, steps)
        exits.append(_reserve(steps))
        steps[at] = ("split", at + 1, len(steps))
    _emit(parts[-1], steps)
    for at in exits:
        steps[at] = ("split", len(steps), len(steps))


def _reserve(steps: list[Step]) -> int:
    if len(steps) >= PROGRAM_MAX:
        raise PatternError(f"it is longer than {PROGRAM_MAX} steps")
    steps.append(())
    return len(steps) - 1


class _Parser:
    """Reads one expression; ``at`` is where. Flags hold to the end of the group that sets them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.ignore_case = False
        self.dot_all = False

    def choice(self, depth: int) -> _Node:
        if depth > NESTING_MAX:
            raise PatternError(f"groups are nested more than {NESTING_MAX} deep")
        flags = self.ignore_case, self.dot_all
        parts = [self._sequence(depth)]
        while self._take("|"):
            parts.append(self._sequence(depth))
        self.ignore_case, self.dot_all = flags
        return parts[0] if len(parts) == 1 else _Choice(tuple(parts))

    def _sequence(self, depth: int) -> _Node:
        parts: list[_Node] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            begins, start = self.at == 0, self.at
            atom = self._atom(depth, begins)
            if self.text[start : start + 1] not in "^$" or self.text[start] == "\\":
                atom = self._repeated(atom)
            parts.append(atom)
        return _Sequence(tuple(parts))

    def _take(self, text: str) -> bool:
        if self.text.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def _atom(self, depth: int, begins: bool) -> _Node:
        character = self.text[self.at]
        self.at += 1
        match character:
            case "(":
                return self._group(depth)
            case "[":
                return self._class()
            case ".":
                return self._set(((0, 255),) if self.dot_all else ((0, 9), (11, 255)), beyond=True)
            case "\\":
                return self._escape(begins)
            case "^" if begins:
                return _NOTHING
            case "$" if self.at == len(self.text):
                return _NOTHING
            case "^" | "$":
                raise PatternError(f"{character} elsewhere than at the ends; a match is always of the whole name")
            case "*" | "+" | "?":
                raise PatternError(f"nothing that {character} could repeat")
            case _:
                return self._literal(character)

    def _literal(self, character: str) -> _Node:
        if ord(character) > _ASCII_LAST:
            if self.ignore_case:
                raise PatternError("(?i) beside characters beyond ASCII")
            return _Sequence(tuple(_Bytes(((byte, byte),)) for byte in character.encode()))
        return self._set(((ord(character), ord(character)),), beyond=False)

    def _set(self, ranges: Iterable[tuple[int, int]], *, beyond: bool) -> _Node:
        found = list(ranges)
        if self.ignore_case:
            folded = [(low, high) for one in found for low, high in _other_case(one)]
            if any(low <= ord(letter) <= high for low, high in found + folded for letter in "kKsS"):
                beyond_letters = _Choice(tuple(_utf8(letter) for letter in "\u017f\u212a" if _folds(letter, found)))
                return _Choice((_ascii(found + folded), *beyond_letters.parts, *((_BEYOND,) if beyond else ())))
            found += folded
        return _Choice((_ascii(found), _BEYOND)) if beyond else _ascii(found)

    def _group(self, depth: int) -> _Node:
        flags = self.ignore_case, self.dot_all
        if self._take("?"):
            if self._take("P<") or self._take("<"):
                self.at = self.text.index(">", self.at) + 1
            elif self._flags():
                return _NOTHING  # (?i): to the end of this group
        node = self.choice(depth + 1)
        self.ignore_case, self.dot_all = flags
        if not self._take(")"):
            raise PatternError("a group that is not closed")
        return node

    def _flags(self) -> bool:
        """Read ``i:`` or ``i)``; tell whether the group ended with its flags."""
        value = True
        while self.at < len(self.text):
            character = self.text[self.at]
            self.at += 1
            match character:
                case ":":
                    return False
                case ")":
                    return True
                case "-":
                    value = False
                case "i":
                    self.ignore_case = value
                case "s":
                    self.dot_all = value
                case "U":
                    pass  # greed is of no consequence where the whole name must match
                case _:
                    raise PatternError(f"the flag {character}")
        raise PatternError("a group that is not closed")

    def _escape(self, begins: bool) -> _Node:
        character = self.text[self.at]
        self.at += 1
        if character == "A" and begins:
            return _NOTHING
        if character == "z" and self.at == len(self.text):
            return _NOTHING
        if character.lower() in _PERL:
            ranges = _PERL[character.lower()]
            negated = character.isupper()
            return self._set(_inverted(ranges) if negated else ranges, beyond=negated)
        return self._literal(chr(self._escaped(character)))

    def _escaped(self, character: str) -> int:
        if character in _ESCAPES:
            return _ESCAPES[character]
        if character == "x":
            digits = self.text[self.at : self.at + 2]
            if len(digits) == 2 and all(digit in "0123456789abcdefABCDEF" for digit in digits):
                self.at += 2
                return int(digits, 16)
            raise PatternError("\\x without two hexadecimal digits")
        if ord(character) > _ASCII_LAST or character.isalnum():
            raise PatternError(f"\\{character}")
        return ord(character)

    def _class(self) -> _Node:
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        beyond = False
        first = True
        while first or not self.text.startswith("]", self.at):
            first = False
            if self.at >= len(self.text):
                raise PatternError("a class that is not closed")
            if self._take("[:"):
                name, _, _ = self.text[self.at :].partition(":]")
                self.at += len(name) + 2
                ranges += self._posix(name)
                beyond |= name.startswith("^")
                continue
            if self.text.startswith("\\", self.at) and self.text[self.at + 1].lower() in _PERL:
                letter = self.text[self.at + 1]
                self.at += 2
                found = _PERL[letter.lower()]
                ranges += _inverted(found) if letter.isupper() else found
                beyond |= letter.isupper()
                continue
            low = self._class_character()
            high = low
            if self.text.startswith("-", self.at) and not self.text.startswith("-]", self.at):
                self.at += 1
                high = self._class_character()
            ranges.append((low, high))
        self.at += 1
        if not negated:
            return self._set(ranges, beyond=beyond)
        if self.ignore_case:
            ranges += [other for one in ranges for other in _other_case(one)]
            if any(low <= ord(letter) <= high for low, high in ranges for letter in "ks"):
                raise PatternError("(?i) beside a negated class with k or s, which have other cases beyond ASCII")
        return _ascii(_inverted(ranges)) if beyond else _Choice((_ascii(_inverted(ranges)), _BEYOND))

    def _posix(self, name: str) -> Iterable[tuple[int, int]]:
        known = _POSIX.get(name.removeprefix("^"))
        if known is None:
            raise PatternError(f"the class [:{name}:]")
        return _inverted(known) if name.startswith("^") else known

    def _class_character(self) -> int:
        character = self.text[self.at]
        self.at += 1
        if character == "\\":
            character = self.text[self.at]
            self.at += 1
            return self._escaped(character)
        if ord(character) > _ASCII_LAST:
            raise PatternError("a character beyond ASCII in a class")
        return ord(character)

    def _repeated(self, atom: _Node) -> _Node:
        while self.at < len(self.text):
            bounds = self._bounds()
            if bounds is None:
                return atom
            self._take("?")
            least, most = bounds
            if max(least, most or 0) > REPEAT_MAX:
                raise PatternError(f"a repetition of more than {REPEAT_MAX}")
            atom = _Repeat(atom, least, most)
        return atom

    def _bounds(self) -> tuple[int, int | None] | None:
        if self._take("*"):
            return 0, None
        if self._take("+"):
            return 1, None
        if self._take("?"):
            return 0, 1
        if not self.text.startswith("{", self.at):
            return None
        inside, closed, _ = self.text[self.at + 1 :].partition("}")
        low, comma, high = inside.partition(",")
        if not closed or not low.isdigit() or (high and not high.isdigit()):
            return None
        self.at += len(inside) + 2
        if not comma:
            return int(low), int(low)
        return int(low), int(high) if high else None


def _ascii(ranges: Iterable[tuple[int, int]]) -> _Bytes:
    return _Bytes(tuple((low, min(high, _ASCII_LAST)) for low, high in sorted(set(ranges)) if low <= min(high, _ASCII_LAST)))


def _inverted(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ASCII characters in none of ``ranges``."""
    found, start = [], 0
    for low, high in sorted(ranges):
        if low > start:
            found.append((start, low - 1))
        start = max(start, high + 1)
    return [*found, (start, _ASCII_LAST)] if start <= _ASCII_LAST else found


def _other_case(one: tuple[int, int]) -> Iterable[tuple[int, int]]:
    swap: Callable[[int], int] = lambda code: ord(chr(code).swapcase())  # noqa: E731
    return [(swap(code), swap(code)) for code in range(one[0], min(one[1], _ASCII_LAST) + 1) if chr(code).isalpha()]


def _folds(letter: str, ranges: Iterable[tuple[int, int]]) -> bool:
    """Tell whether RE2 takes ``letter`` (long s, Kelvin sign) for another case of something in ``ranges``."""
    plain = {"\u017f": "sS", "\u212a": "kK"}[letter]
    return any(low <= ord(each) <= high for low, high in ranges for each in plain)


def _utf8(character: str) -> _Node:
    return _Sequence(tuple(_Bytes(((byte, byte),)) for byte in character.encode()))
