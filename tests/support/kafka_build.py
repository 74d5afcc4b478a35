"""kio's messages from plain values, in any version: what a version lacks is left out, what isn't said is zero, empty or null."""

from __future__ import annotations

import dataclasses
import typing
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from types import NoneType
from typing import Any

from kio.schema.errors import ErrorCode
from kio.schema.index import api_key_map, schema_name_map

from tests.support.kafka_wire import message

NAMES = dict(api_key_map)
NUMBERS = {name: number for number, name in NAMES.items()}
_ZEROS: dict[str, Any] = {
    "bool": False,
    "string": "",
    "bytes": b"",
    "records": None,
    "uuid": None,
    "float64": 0.0,
    "timedelta_i32": timedelta(),
    "timedelta_i64": timedelta(),
    "datetime_i64": datetime(2020, 1, 1, tzinfo=UTC),
    "error_code": ErrorCode.none,
}


def versions(name: str) -> list[int]:
    """The versions of an API that kio knows."""
    return sorted(schema_name_map[name])


def build(name: str, version: int, values: Mapping[str, Any], direction: str = "request") -> Any:
    """A message. ``values``: by kio's names of fields, nested; names that the version lacks are ignored."""
    return _build(message(name, version, direction), values)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _build(kind: Any, values: Mapping[str, Any]) -> Any:
    made = {}
    for field in dataclasses.fields(kind):
        hint = _hints(kind)[field.name]
        arguments = typing.get_args(hint)
        nullable = NoneType in arguments
        if nullable:
            hint = next(argument for argument in arguments if argument is not NoneType)
        if field.name in values:
            made[field.name] = _value(hint, field, values[field.name])
        elif _has_default(field):
            continue
        elif typing.get_origin(hint) is tuple:
            made[field.name] = None if nullable else ()
        elif "kafka_type" in field.metadata:
            made[field.name] = None if nullable else _ZEROS.get(field.metadata["kafka_type"], 0)
        else:
            made[field.name] = None if nullable else _build(hint, {})
    return kind(**made)


def _has_default(field: Any) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _value(hint: Any, field: Any, value: Any) -> Any:
    if value is None:
        return None
    if typing.get_origin(hint) is tuple:
        (element, *_) = typing.get_args(hint)
        return tuple(_build(element, item) if dataclasses.is_dataclass(element) else item for item in value)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value)
    return uuid.UUID(value) if field.metadata.get("kafka_type") == "uuid" and isinstance(value, str) else value
