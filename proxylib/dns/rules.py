"""Which names a list of selectors covers.

Owns: the meaning of matchName, matchPattern and except, and the compiled form for thousands of them. Must not know subjects,
slots or files. Names are text as ``to_text`` gives it.

The meaning is Cilium's (its pkg/fqdn/matchpattern), where C is one of ``[-a-z0-9_]``:

1. ``*``, ``**``, ... alone: every name made of C, and the root.
2. ``**.`` at the start (or with more stars): one or more whole labels.
3. Any other run of stars: zero or more C, so never across a dot.
4. Everything else stands for itself. Case and a trailing dot don't count. The whole name must match.

A name with a byte outside C (its text holds a backslash) is covered by no pattern.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import re2

_CHARACTER = "[-a-z0-9_]"
_STARS_ALONE = re.compile(r"\*+\Z")
_LABELS_PREFIX = re.compile(r"\*{2,}\.")
_STARS = re.compile(r"\*+")
PATTERN_SET_BYTES_MAX = 64 << 20
"""Memory for one list's patterns. RE2 throws its states away when they reach it; a list that can't run in it matches nothing."""


class PatternError(ValueError):
    """A pattern, or a list of them, can't be compiled."""


@dataclass(frozen=True, slots=True)
class NameSelector:
    """Names by ``match_name`` or ``match_pattern`` (exactly one), without those that an ``excepts`` pattern covers."""

    match_name: str | None = None
    match_pattern: str | None = None
    excepts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.match_name is None) == (self.match_pattern is None):
            raise PatternError("needs exactly one of matchName and matchPattern")


def normalised(text: str) -> str:
    """Return a name or pattern in lower case, without the trailing dot ("." stays)."""
    text = text.strip().lower()
    return text[:-1] if text.endswith(".") and len(text) > 1 else text


def pattern_expression(pattern: str) -> str:
    """Return the RE2 expression for ``pattern``, to be matched against the whole of a name's text; the root's is then empty.

    (The dot that Cilium ends names with is left out on both sides; were the root a dot here, ``*.*`` would match it.)
    """
    pattern = normalised(pattern)
    if pattern == ".":
        return ""
    if _STARS_ALONE.match(pattern):
        return rf"(?:{_CHARACTER}+(?:\.{_CHARACTER}+)*)?"
    labels = _LABELS_PREFIX.match(pattern)
    rest = pattern[labels.end() :] if labels else pattern
    body = f"{_CHARACTER}*".join(re2.escape(part) for part in _STARS.split(rest))
    return rf"(?:{_CHARACTER}+\.)+{body}" if labels else body


class NameMatcher:
    """A list of selectors, compiled: exact names in a table, all patterns in one automaton."""

    def __init__(self, selectors: Sequence[NameSelector]) -> None:
        self._exact: dict[str, list[int]] = {}
        self._pattern_indexes: list[int] = []
        self._excepts: dict[int, re2._Regexp] = {}
        self._patterns: re2.Set | None = None
        options = re2.Options()
        options.max_mem = PATTERN_SET_BYTES_MAX
        patterns = re2.Set.FullMatchSet(options)
        try:
            for index, selector in enumerate(selectors):
                if selector.match_name is not None:
                    self._exact.setdefault(normalised(selector.match_name), []).append(index)
                elif selector.match_pattern is not None:
                    patterns.Add(pattern_expression(selector.match_pattern))
                    self._pattern_indexes.append(index)
                if selector.excepts:
                    self._excepts[index] = re2.compile("|".join(f"(?:{pattern_expression(each)})" for each in selector.excepts))
            if self._pattern_indexes:
                patterns.Compile()
                self._patterns = patterns
        except re2.error as error:
            raise PatternError(f"patterns can't be compiled: {error}") from error

    def matches(self, name: str) -> tuple[int, ...]:
        """Return the indexes of the selectors that cover ``name``, in order."""
        found = list(self._exact.get(name, ()))
        if self._patterns is not None:
            found += (self._pattern_indexes[each] for each in self._patterns.Match(_pattern_text(name)) or ())
        if self._excepts:
            found = [index for index in found if not self._is_excepted(index, name)]
        return tuple(sorted(found))

    def _is_excepted(self, index: int, name: str) -> bool:
        excepts = self._excepts.get(index)
        return excepts is not None and excepts.fullmatch(_pattern_text(name)) is not None


def _pattern_text(name: str) -> str:
    return "" if name == "." else name
