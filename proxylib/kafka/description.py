"""Kafka's messages as data: the reader of ``protocol.txt``.

Owns: the form of the description, the only place where this project writes down what Kafka's messages look like. Must not
know bytes, policy or Envoy. ``derive`` writes the text from a release of Kafka, ``generate`` makes Rust's tables of it.

::

    api NUMBER NAME VERSIONS flexible VERSIONS at LISTENER...
     request
      FIELD TYPE VERSIONS [tag NUMBER] [= DEFAULT] [@ROLE]
       FIELD ...                                               of a struct, one space deeper
     response
      ...

``TYPE`` is a primitive, ``[primitive]``, ``{}`` (a struct) or ``[]`` (an array of structs); ``?`` behind it: may be null,
in the versions that follow if any do. ``VERSIONS`` is ``3``, ``3-5``, ``3+`` (to the last of the message) or ``none``.
Flexible versions have compact lengths and tagged fields (KIP-482).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files

PRIMITIVES = frozenset(
    {"bool", "int8", "int16", "uint16", "int32", "int64", "float64", "uuid", "string", "bytes", "records"},
)
_FIELD = re.compile(
    r"(?P<name>\w+) (?P<type>\w+|\[\w*\]|\{\})(?P<null>\?(?P<null_versions>[\d+-]*))? (?P<versions>[\d+-]+)"
    r"( tag (?P<tag>\d+))?( = (?P<default>\S+))?( @(?P<role>\w+))?\Z",
)
_API = re.compile(r"api (?P<number>\d+) (?P<name>\w+) (?P<versions>[\d-]+) flexible (?P<flexible>\S+) at (?P<at>[a-z ]+)\Z")
VERSION_MAX = 32767
"""An int16 on the wire; stands for "to the last" where a range is open."""


class Role(StrEnum):
    """What a field means to an authorizer."""

    TOPIC = "topic"
    TOPIC_ID = "topic_id"
    GROUP = "group"
    TRANSACTIONAL_ID = "transactional_id"
    RESOURCE_TYPE = "resource_type"
    RESOURCE_NAME = "resource_name"
    COORDINATOR_TYPE = "coordinator_type"
    COORDINATOR_KEY = "coordinator_key"
    ERROR = "error"
    ERROR_MESSAGE = "error_message"
    THROTTLE = "throttle"


@dataclass(frozen=True, slots=True)
class Versions:
    """An inclusive range; empty when ``low > high``."""

    low: int
    high: int

    def __contains__(self, version: int) -> bool:
        return self.low <= version <= self.high

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.low, self.high + 1))


NEVER = Versions(0, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field. ``kind``: a primitive, or "struct" with ``fields``. ``tag``: None outside the tagged section."""

    name: str
    kind: str
    is_array: bool
    versions: Versions
    nullable: Versions
    tag: int | None
    default: str | None
    role: Role | None
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One API key: its messages in all versions of Apache Kafka 4."""

    number: int
    name: str
    versions: Versions
    flexible: Versions
    listeners: frozenset[str]
    request: tuple[Field, ...]
    response: tuple[Field, ...]


class DescriptionError(Exception):
    """``protocol.txt`` is not in the form above: our fault. Says the line."""


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    depth: int
    text: str

    def error(self, what: str) -> DescriptionError:
        return DescriptionError(f"protocol.txt:{self.number}: {what}: {self.text}")


def read() -> tuple[Api, ...]:
    """Read the description that is checked in."""
    return parse(files("proxylib.kafka").joinpath("protocol.txt").read_text(encoding="utf-8"))


def parse(text: str) -> tuple[Api, ...]:
    """Parse the form that the module's docstring tells; raise :class:`DescriptionError`."""
    lines = [
        _Line(number, len(line) - len(line.lstrip(" ")), line.strip())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.startswith("#")
    ]
    apis: list[Api] = []
    at = 0
    while at < len(lines):
        api, at = _api(lines, at)
        apis.append(api)
    return tuple(apis)


def _api(lines: list[_Line], at: int) -> tuple[Api, int]:
    head = lines[at]
    found = _API.match(head.text)
    if found is None or head.depth != 0:
        raise head.error("not the first line of an API")
    versions = _versions(found["versions"], VERSION_MAX)
    messages = []
    at += 1
    for direction in ("request", "response"):
        if at == len(lines) or lines[at] != _Line(lines[at].number, 1, direction):
            raise head.error(f"no {direction}")
        fields, at = _fields(lines, at + 1, 2, versions)
        messages.append(fields)
    request, response = messages
    api = Api(
        number=int(found["number"]),
        name=found["name"],
        versions=versions,
        flexible=_versions(found["flexible"], VERSION_MAX),
        listeners=frozenset(found["at"].split()),
        request=request,
        response=response,
    )
    return api, at


def _fields(lines: list[_Line], at: int, depth: int, outer: Versions) -> tuple[tuple[Field, ...], int]:
    fields: list[Field] = []
    while at < len(lines) and lines[at].depth >= depth:
        line = lines[at]
        found = _FIELD.match(line.text)
        if found is None or line.depth != depth:
            raise line.error("not a field at this depth")
        versions = _versions(found["versions"], outer.high)
        is_array = found["type"].startswith("[")
        kind = found["type"].strip("[]{}") or "struct"
        if kind != "struct" and kind not in PRIMITIVES:
            raise line.error("unknown type")
        inner, at = _fields(lines, at + 1, depth + 1, versions)
        if bool(inner) != (kind == "struct"):
            raise line.error("a struct has fields, and nothing else has")
        nullable = NEVER
        if found["null"]:
            nullable = _versions(found["null_versions"], versions.high) if found["null_versions"] else versions
        field = Field(
            name=found["name"],
            kind=kind,
            is_array=is_array,
            versions=versions,
            nullable=nullable,
            tag=None if found["tag"] is None else int(found["tag"]),
            default=found["default"],
            role=None if found["role"] is None else Role(found["role"]),
            fields=inner,
        )
        fields.append(field)
    return tuple(fields), at


def _versions(text: str, last: int) -> Versions:
    if text == "none":
        return NEVER
    if text.endswith("+"):
        return Versions(int(text[:-1]), last)
    low, _, high = text.partition("-")
    return Versions(int(low), int(high or low))
