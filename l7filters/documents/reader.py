"""A typed reader over an untrusted document: every look-up knows its path, every problem is recorded, none raises.

Owns: ``DocumentError``, the report that collects them, and the two cursors (``Node`` at a value, ``Fields`` at a mapping).
Must not know any policy kind. A parser asks ``Fields`` for each field it understands; what nobody asked for is reported
as unknown when the mapping is left, with the closest name that was asked for as hint. So a schema is the code that reads
it, and a field can't be understood but undeclared, nor declared but ignored.

After an error the cursors return harmless placeholders ("", 0, an empty list), so that one pass finds all errors of a
document; the caller drops the value if the report holds any error.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

PathStep = str | int
Path = tuple[PathStep, ...]

ERRORS_MAX = 64
"""Of one document; the rest adds nothing for its author."""
SHOWN_CHARS_MAX = 60
"""How much of a refused value a message repeats."""

_PLAIN_STEP = re.compile(r"[A-Za-z0-9_-]+\Z")
_E = TypeVar("_E", bound=StrEnum)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class DocumentError:
    """One thing wrong with one document: where, what, and how to put it right. Empty path: the document as a whole."""

    path: str
    message: str
    hint: str = ""
    source: str = ""
    index: int = 0
    line: int | None = None

    def __str__(self) -> str:
        where = f"{self.source}[{self.index}]" if self.source else f"document {self.index}"
        line = f" line {self.line}" if self.line is not None else ""
        path = f" {self.path}:" if self.path else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{line}:{path} {self.message}{hint}"


def render_path(path: Path) -> str:
    """Return ``path`` as people write it: ``spec.ingress[0].toPorts``; odd keys are quoted in brackets."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_STEP.match(step):
            text += f".{step}" if text else step
        else:
            text += f'["{_shorten(step)}"]'
    return text


def closest(name: str, known: Iterable[str]) -> str:
    """Return the hint for a misspelt ``name``: the nearest of ``known``, else all of them if few, else nothing."""
    names = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    if near:
        return f'did you mean "{lowered[near[0]]}"?'
    return f"known here: {', '.join(names)}" if 0 < len(names) <= 16 else ""


def describe(value: object) -> str:
    """Name the type of ``value`` as its author sees it."""
    match value:
        case None:
            return "null"
        case bool():
            return f"a boolean ({str(value).lower()})"
        case int() | float():
            return f"a number ({value})"
        case str():
            return f'a string ("{_shorten(value)}")'
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return type(value).__name__


def _shorten(text: str) -> str:
    flat = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return flat if len(flat) <= SHOWN_CHARS_MAX else flat[:SHOWN_CHARS_MAX] + "..."


@dataclass(slots=True)
class Report:
    """The errors of one document so far, with their paths as steps."""

    found: list[tuple[Path, str, str]] = field(default_factory=list)

    def add(self, path: Path, message: str, hint: str = "") -> None:
        """Record one error; beyond ``ERRORS_MAX`` they are dropped."""
        if len(self.found) < ERRORS_MAX:
            self.found.append((path, message, hint))


@dataclass(frozen=True, slots=True)
class Node:
    """A value in the document, its path, and the report that errors go to."""

    value: object
    path: Path
    report: Report

    def error(self, message: str, hint: str = "") -> None:
        """Record an error at this value."""
        self.report.add(self.path, message, hint)

    def __str__(self) -> str:
        return render_path(self.path)

    def _expected(self, what: str) -> None:
        hint = ""
        if self.value is None:
            hint = "remove the field, or give it a value"
        elif what == "a string" and isinstance(self.value, (bool, int, float)):
            hint = "put the value in quotes"
        self.error(f"must be {what}, not {describe(self.value)}", hint)

    def string(self, *, empty: bool = False, chars_max: int = 4096) -> str:
        """Return the string here, without control characters; "" after an error."""
        if not isinstance(self.value, str):
            self._expected("a string")
            return ""
        if not self.value and not empty:
            self.error("must not be empty")
        elif len(self.value) > chars_max:
            self.error(f"is longer than {chars_max} characters")
        elif not self.value.isprintable():
            self.error("must not hold control or unassigned characters")
        else:
            return self.value
        return ""

    def integer(self, minimum: int, maximum: int) -> int:
        """Return the integer here; ``minimum`` after an error."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            self._expected("an integer")
        elif not minimum <= self.value <= maximum:
            self.error(f"must be between {minimum} and {maximum}, not {self.value}")
        else:
            return self.value
        return minimum

    def boolean(self) -> bool:
        """Return the boolean here; False after an error."""
        if not isinstance(self.value, bool):
            self._expected("true or false")
            return False
        return self.value

    def choice(self, kind: type[_E]) -> _E | None:
        """Return the member of ``kind`` that is spelt here; None after an error."""
        text = self.string()
        if not text:
            return None
        known = [member.value for member in kind]
        if text not in known:
            self.error(f'unknown value "{_shorten(text)}"', closest(text, known))
            return None
        return kind(text)

    def items(self, items_max: int) -> list[Node]:
        """Return the items of the list here; none after an error."""
        if not isinstance(self.value, list):
            self._expected("a list")
            return []
        if len(self.value) > items_max:
            self.error(f"has {len(self.value)} items; the limit is {items_max}")
            return []
        return [Node(item, (*self.path, index), self.report) for index, item in enumerate(self.value)]

    def pairs(self, pairs_max: int) -> list[tuple[str, Node]]:
        """Return the entries of a mapping whose keys are data, not field names; none after an error."""
        if not isinstance(self.value, dict):
            self._expected("a mapping")
            return []
        if len(self.value) > pairs_max:
            self.error(f"has {len(self.value)} entries; the limit is {pairs_max}")
            return []
        return [(str(key), Node(value, (*self.path, str(key)), self.report)) for key, value in self.value.items()]

    @contextmanager
    def fields(self) -> Iterator[Fields]:
        """Read the mapping here field by field; on leaving, what was not asked for is reported as unknown."""
        if isinstance(self.value, dict):
            fields = Fields(self, self.value)
            yield fields
            fields.close()
            return
        self._expected("a mapping")
        yield Fields(self, {}, broken=True)


@dataclass(slots=True)
class Fields:
    """The fields of one mapping. ``broken``: there is no mapping (already reported), so nothing is missing either."""

    node: Node
    values: Mapping[str, object]
    broken: bool = False
    asked: set[str] = field(default_factory=set)

    def get(self, name: str) -> Node | None:
        """Return the value of field ``name``, None if it is absent."""
        self.asked.add(name)
        if name not in self.values:
            return None
        return Node(self.values[name], (*self.node.path, name), self.node.report)

    def require(self, name: str, hint: str = "") -> Node | None:
        """Like ``get``; an absent field is an error."""
        node = self.get(name)
        if node is None and not self.broken:
            self.node.report.add((*self.node.path, name), "is required", hint)
        return node

    def ignore(self, *names: str) -> None:
        """Accept fields that have no meaning for policy (status, managedFields), unread and of any type."""
        self.asked.update(names)

    def refuse(self, name: str, message: str, hint: str = "") -> None:
        """Declare a field that is understood but can't be enforced: its presence is an error, not an unknown name."""
        node = self.get(name)
        if node is not None:
            node.error(message, hint)

    def read(self, name: str, read: Callable[[Node], _T], default: _T) -> _T:
        """Return ``read`` of the field, or ``default`` if it is absent."""
        node = self.get(name)
        return default if node is None else read(node)

    def string(self, name: str, default: str = "", *, empty: bool = False, chars_max: int = 4096) -> str:
        """Return the string field ``name`` or ``default``."""
        node = self.get(name)
        return default if node is None else node.string(empty=empty, chars_max=chars_max)

    def items(self, name: str, items_max: int) -> list[Node] | None:
        """Return the items of the list field ``name``; None if it is absent."""
        node = self.get(name)
        return None if node is None else node.items(items_max)

    def present(self, names: Iterable[str]) -> list[str]:
        """Return which of ``names`` the mapping has; asks for all of them."""
        wanted = list(names)
        self.asked.update(wanted)
        return [name for name in wanted if name in self.values]

    def error(self, message: str, hint: str = "") -> None:
        """Record an error at the mapping itself."""
        self.node.error(message, hint)

    def close(self) -> None:
        """Report every key that nobody asked for."""
        for name in self.values:
            if name not in self.asked:
                self.node.report.add((*self.node.path, name), "unknown field", closest(name, self.asked))
