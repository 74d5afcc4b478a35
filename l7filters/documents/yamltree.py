"""YAML text (or JSON, which is YAML) into plain trees: dict, list, str, int, float, bool, None.

Owns: which YAML is accepted. Built on the event stream of PyYAML's libyaml parser, not on its composer or constructors:
the composer recurses in C and can be made to overflow the stack, and the constructors turn ``12:30`` into 750 and
``010`` into 8. Here:

1. ``true/false/yes/no/on/off`` are booleans (YAML 1.1, as kubectl reads them); a reader that wants a string says "quote it".
2. Decimal integers and floats are numbers; with leading zeros, ``0x``, ``0o`` or sexagesimal they stay strings. Dates do too.
3. Keys are strings, given once per mapping. ``<<`` merges, the mapping's own keys first.
4. Aliases share the anchored value and count as if written out, so a "billion laughs" runs into ``NODES_MAX``.
5. Tags other than the plain scalar ones are refused.

A syntax error ends the file: the documents before it are still good. All limits are constants below.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Protocol, cast

import yaml

from l7filters.documents.reader import Path

TEXT_CHARS_MAX = 64 << 20
"""Of one file: about 100,000 policies."""
NODES_MAX = 200_000
"""Of one document, aliases written out; the largest object that etcd takes (1.5 MiB) has fewer."""
DEPTH_MAX = 64
"""Of one document; the deepest policy field stands at about 14."""
DOCUMENTS_MAX = 100_000
"""Of one file."""

_PREFIX = "tag:yaml.org,2002:"
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})\Z")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})?\.[0-9]{1,30}([eE][-+]?[0-9]{1,3})?\Z|[-+]?[0-9]{1,18}[eE][-+]?[0-9]{1,3}\Z")


class _Mark(Protocol):
    line: int


class Event(Protocol):
    """What all of PyYAML's events have of these; which ones an event has depends on its class."""

    start_mark: _Mark
    anchor: str | None
    tag: str | None
    value: str
    style: str | None
    """None or "" for a plain scalar, by parser."""


@dataclass(frozen=True, slots=True)
class TreeProblem:
    """Why a document, or the rest of the file from it on, can't be read. ``line`` counts from 1."""

    message: str
    line: int | None
    hint: str = ""
    ends_file: bool = False


@dataclass(frozen=True, slots=True)
class TreeDocument:
    """One document: its position in the file, and its tree or its problem."""

    index: int
    line: int
    tree: object
    problem: TreeProblem | None = None


class _Refused(Exception):
    def __init__(self, message: str, event: Event, hint: str = "", *, ends_file: bool = False) -> None:
        super().__init__(message)
        self.problem = TreeProblem(f"YAML: {message}", event.start_mark.line + 1, hint, ends_file)


@dataclass(slots=True)
class _Anchor:
    """A value under an anchor; ``nodes`` and ``depth`` are its size written out. Open while it is still being read."""

    value: object = None
    nodes: int = 1
    depth: int = 0
    open: bool = True


@dataclass(slots=True)
class _Composer:
    """Builds one document from its events. ``lines``, if wanted, gets the line of each path."""

    events: Iterator[Event]
    lines: dict[Path, int] | None = None
    nodes: int = 0
    anchors: dict[str, _Anchor] = field(default_factory=dict)

    def value(self, event: Event, depth: int, path: Path) -> tuple[object, int]:
        """Return the value that starts with ``event`` and the depth of its subtree."""
        if self.lines is not None:
            self.lines[path] = event.start_mark.line + 1
        self._count(1, event)
        if depth > DEPTH_MAX:
            raise _Refused(f"is nested deeper than {DEPTH_MAX} levels", event, ends_file=True)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        anchor = _Anchor()
        if event.anchor is not None:
            self.anchors[event.anchor] = anchor
        before = self.nodes
        value: object
        below = 0
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value, below = self._sequence(event, depth, path)
        else:
            value, below = self._mapping(event, depth, path)
        anchor.value, anchor.nodes, anchor.depth, anchor.open = value, self.nodes - before + 1, below, False
        return value, below

    def _count(self, nodes: int, event: Event) -> None:
        self.nodes += nodes
        if self.nodes > NODES_MAX:
            raise _Refused(f"has more than {NODES_MAX} values (aliases written out)", event)

    def _alias(self, event: Event, depth: int) -> tuple[object, int]:
        anchor = self.anchors.get(event.anchor or "")
        if anchor is None:
            raise _Refused(f'alias "{event.anchor}" names no anchor above it', event)
        if anchor.open:
            raise _Refused(f'alias "{event.anchor}" stands inside its own anchor', event)
        if depth + anchor.depth > DEPTH_MAX:
            raise _Refused(f"is nested deeper than {DEPTH_MAX} levels (aliases written out)", event)
        self._count(anchor.nodes - 1, event)
        return anchor.value, anchor.depth

    def _sequence(self, start: Event, depth: int, path: Path) -> tuple[list[object], int]:
        _check_tag(start, "seq")
        items: list[object] = []
        deepest = 0
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            item, below = self.value(event, depth + 1, (*path, len(items)))
            items.append(item)
            deepest = max(deepest, below + 1)
        return items, deepest

    def _mapping(self, start: Event, depth: int, path: Path) -> tuple[dict[str, object], int]:
        _check_tag(start, "map")
        entries: dict[str, object] = {}
        merged: list[dict[str, object]] = []
        deepest = 0
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event, depth)
            value, below = self.value(next(self.events), depth + 1, (*path, key))
            deepest = max(deepest, below + 1)
            if key == "<<" and isinstance(event, yaml.ScalarEvent) and not event.style:
                merged.extend(_merge_sources(value, event))
            elif key in entries:
                raise _Refused(f'key "{key[:60]}" is given twice in one mapping', event, "keep one of the two")
            else:
                entries[key] = value
        for source in merged:
            for key, value in source.items():
                entries.setdefault(key, value)
        return entries, deepest

    def _key(self, event: Event, depth: int) -> str:
        self._count(1, event)
        if isinstance(event, yaml.AliasEvent):
            key = self._alias(event, depth)[0]
        elif isinstance(event, yaml.ScalarEvent):
            key = _scalar(event)
        else:
            raise _Refused("a key must be a string, not a list or a mapping", event)
        if not isinstance(key, str):
            raise _Refused(f"a key must be a string, not {event.value!r}", event, "put the key in quotes")
        if isinstance(event, yaml.ScalarEvent) and event.anchor is not None:
            self.anchors[event.anchor] = _Anchor(value=key, open=False)
        return key


def _merge_sources(value: object, event: Event) -> list[dict[str, object]]:
    sources = value if isinstance(value, list) else [value]
    mappings = [source for source in sources if isinstance(source, dict)]
    if len(mappings) != len(sources):
        raise _Refused('"<<" must merge a mapping or a list of mappings', event)
    return mappings


def _check_tag(event: Event, plain: str) -> None:
    if event.tag not in (None, "!", _PREFIX + plain):
        raise _Refused(f'tag "{str(event.tag)[:60]}" is not allowed', event, "remove the tag")


def _scalar(event: Event) -> object:
    text = event.value
    tag = event.tag
    if tag is None or tag == "!":
        return _resolve(text) if tag is None and not event.style else text
    if tag == _PREFIX + "str":
        return text
    if tag in (_PREFIX + "int", _PREFIX + "bool", _PREFIX + "float", _PREFIX + "null"):
        value = _resolve(text)
        wanted = {"int": int, "bool": bool, "float": float, "null": type(None)}[tag.removeprefix(_PREFIX)]
        if type(value) is wanted:
            return value
        raise _Refused(f'"{text[:60]}" is not what its tag says', event)
    raise _Refused(f'tag "{tag[:60]}" is not allowed', event, "remove the tag")


def _resolve(text: str) -> object:
    """Give a plain scalar its type; the first character rules most strings out without a regular expression."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if text[0] in "+-.0123456789":
        if _INT.match(text):
            return int(text)
        if _FLOAT.match(text):
            return float(text)
    return text


def _too_big(text: str) -> TreeProblem | None:
    if len(text) > TEXT_CHARS_MAX:
        return TreeProblem(f"is larger than {TEXT_CHARS_MAX} characters", None, "split the file", ends_file=True)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        return TreeProblem("holds half of a surrogate pair, which is no character", line, ends_file=True)
    return None


def read_documents(text: str) -> Iterator[TreeDocument]:
    """Yield the documents of ``text`` that are not empty; the last one may be a problem that ends the file."""
    problem = _too_big(text)
    if problem is not None:
        yield TreeDocument(0, 1, None, problem)
        return
    yield from _walk(text, None)


def lines_of(text: str, indexes: Collection[int]) -> dict[int, dict[Path, int]]:
    """Return, for each document in ``indexes``, the line of every path; a second pass, made only when there are errors."""
    if _too_big(text) is not None:
        return {}
    wanted: dict[int, dict[Path, int]] = {index: {} for index in indexes}
    for _ in _walk(text, wanted):
        pass
    return wanted


def _walk(text: str, lines: dict[int, dict[Path, int]] | None) -> Iterator[TreeDocument]:
    index = -1
    line = 1
    try:
        events = cast(Iterator[Event], iter(yaml.parse(text, Loader=yaml.CSafeLoader)))
        for event in events:
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            index += 1
            root = next(events)
            line = root.start_mark.line + 1
            yield from _document(events, root, index, None if lines is None else lines.get(index))
    except _Refused as refused:
        yield TreeDocument(max(index, 0), line, None, refused.problem)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(part for part in (error.context, error.problem) if part)
        problem = TreeProblem(f"YAML: {message}", mark.line + 1 if mark else None, ends_file=True)
        yield TreeDocument(max(index, 0), line, None, problem)
    except yaml.YAMLError as error:
        problem = TreeProblem(f"YAML: {str(error).splitlines()[0]}", None, ends_file=True)
        yield TreeDocument(max(index, 0), line, None, problem)


def _document(events: Iterator[Event], root: Event, index: int, lines: dict[Path, int] | None) -> Iterator[TreeDocument]:
    """Yield the document that starts with ``root``, unless it is empty; a refused one is skipped to its end."""
    if index >= DOCUMENTS_MAX:
        raise _Refused(f"the file has more than {DOCUMENTS_MAX} documents", root, "split the file", ends_file=True)
    line = root.start_mark.line + 1
    try:
        tree, _ = _Composer(events, lines).value(root, 0, ())
    except _Refused as refused:
        if refused.problem.ends_file:
            raise
        yield TreeDocument(index, line, None, refused.problem)
        # Past its end the next document starts afresh. Not done for one that is too deep: libyaml's time grows with
        # the square of the depth.
        for event in events:
            if isinstance(event, yaml.DocumentEndEvent):
                return
        return
    if tree is not None:
        yield TreeDocument(index, line, tree)
