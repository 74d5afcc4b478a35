"""Writes what is generated from ``protocol.txt`` and ``authorization``: Rust's tables and Python's list of APIs.

``python -m proxylib.kafka.generate`` rewrites both files; a test compares them with what this returns.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from proxylib.kafka.authorization import AUTHORIZATIONS, Roles, Scope
from proxylib.kafka.description import Api, Field, Versions, read

RUST = Path("proxylib/native/src/kafka/schema.rs")
PYTHON = Path("proxylib/kafka/apis.py")
_INDENT = "    "


def rust(apis: tuple[Api, ...]) -> str:
    """Return the content of ``schema.rs``; its types are in ``description.rs`` beside it."""
    return "\n".join(_rust(apis)) + "\n"


def python(apis: tuple[Api, ...]) -> str:
    """Return the content of ``apis.py``."""
    rows = [f'    Api({api.number}, "{api.name}", {api.versions.low}, {api.versions.high}),' for api in apis]
    return "\n".join([*_PYTHON_HEAD.splitlines(), *rows, ")", ""])


_PYTHON_HEAD = '''"""The API keys of Apache Kafka 4. Written by proxylib/kafka/generate.py; do not edit."""

from __future__ import annotations

from typing import NamedTuple


class Api(NamedTuple):
    """One API key and the first and last of its versions."""

    number: int
    name: str
    version_min: int
    version_max: int


APIS = ('''


def _rust(apis: tuple[Api, ...]) -> Iterator[str]:
    yield "//! The messages of Apache Kafka 4 and how each is authorised. Written by proxylib/kafka/generate.py; do not edit."
    yield ""
    yield "use super::description::{array, one, Api, Kind::*, Role, Roles, Scope, Versions};"
    for api in apis:
        row = AUTHORIZATIONS[api.number]
        yield ""
        yield "#[rustfmt::skip]"
        yield f"static {_constant(api)}: Api = Api {{"
        yield f'{_INDENT}number: {api.number}, name: "{api.name}",'
        yield f"{_INDENT}versions: {_range(api.versions)}, flexible: {_range(api.flexible)}, judged: {str(row.judged).lower()},"
        yield f"{_INDENT}roles: {_flags(row.roles)}, scope: {_flags(row.scope)}, error: {row.error.value},"
        for direction, fields in (("request", api.request), ("response", api.response)):
            yield f"{_INDENT}{direction}: &["
            yield from _fields(fields, 2)
            yield f"{_INDENT}],"
        yield "};"
    yield ""
    yield "/// By API key; keys that Kafka 4 does not have are `None`."
    yield "#[rustfmt::skip]"
    known = {api.number: api for api in apis}
    count = max(known) + 1
    yield f"pub static APIS: [Option<&Api>; {count}] = ["
    for number in range(count):
        yield f"{_INDENT}Some(&{_constant(known[number])})," if number in known else f"{_INDENT}None,"
    yield "];"


def _constant(api: Api) -> str:
    return f"API_{api.number}"


def _range(versions: Versions) -> str:
    return f"Versions({versions.low}, {versions.high})"


def _flags(flags: Roles | Scope) -> str:
    kind = type(flags)
    names = [f"{kind.__name__}::{member.name}" for member in kind if member in flags]
    if not names:
        return f"{kind.__name__}::NONE"
    return names[0] + "".join(f".and({name})" for name in names[1:])


def _fields(fields: tuple[Field, ...], depth: int) -> Iterator[str]:
    for field in fields:
        kind = "Struct" if field.kind == "struct" else field.kind.capitalize()
        call = f'{"array" if field.is_array else "one"}("{field.name}", {kind}, {field.versions.low}, {field.versions.high})'
        if field.nullable.low <= field.nullable.high:
            call += f".nullable({field.nullable.low}, {field.nullable.high})"
        if field.tag is not None:
            call += f".tag({field.tag})"
        call += _default(field)
        if field.role is not None:
            call += f".role(Role::{''.join(word.capitalize() for word in field.role.value.split('_'))})"
        if not field.fields:
            yield f"{_INDENT * depth}{call},"
            continue
        yield f"{_INDENT * depth}{call}.of(&["
        yield from _fields(field.fields, depth + 1)
        yield f"{_INDENT * depth}]),"


def _default(field: Field) -> str:
    match field.default:
        case None | "false" | "0":
            return ""
        case "null":
            return ".null()"
        case "true":
            return ".default(1)"
        case number:
            return f".default({int(number)})"


def main() -> None:
    """Rewrite the generated files of the tree that the working directory is the root of."""
    apis = read()
    RUST.write_text(rust(apis), encoding="utf-8")
    PYTHON.write_text(python(apis), encoding="utf-8")


if __name__ == "__main__":
    main()
