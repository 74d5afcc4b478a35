"""Values to JSON and back, by their types.

Owns: one rule for every frozen dataclass that leaves the process. A dataclass becomes an object with its field names, an
enum its value, a collection a list, addresses and paths text. Reading ignores fields that it doesn't know, so that an older
command can talk to a newer agent.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_TEXTUAL = (IPv4Address, IPv6Address, IPv4Network, IPv6Network, Path)


def encode(value: object) -> Any:
    """Return ``value`` as what the json module takes. Raises TypeError for a type that has no rule."""
    match value:
        case None | bool() | int() | float() | str() if not isinstance(value, Enum):
            return value
        case Enum():
            return value.value
        case Mapping():
            return {str(encode(key)): encode(item) for key, item in value.items()}
        case tuple() | list():
            return [encode(item) for item in value]
        case frozenset() | set():
            return sorted((encode(item) for item in value), key=str)
        case _ if isinstance(value, _TEXTUAL):
            return str(value)
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form")


def decode(kind: type[T], data: object) -> T:
    """Return the dataclass ``kind`` that ``encode`` wrote as ``data``. Raises ValueError where it doesn't fit."""
    return typing.cast(T, _decode(kind, data, kind.__name__))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode(kind: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return tuple(_decode(arguments[0], item, where) for item in _expect(list, data, where))
    if origin is not None and issubclass(origin, Mapping):
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in _expect(dict, data, where).items()}
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        return _decode(next(argument for argument in arguments if argument is not type(None)), data, where)
    if is_dataclass(kind):
        return _decode_dataclass(kind, _expect(dict, data, where), where)
    if issubclass(kind, Enum):
        return kind(data)
    if kind is float and isinstance(data, int):
        return float(data)
    return _expect(kind, data, where)


def _decode_dataclass(kind: Any, data: dict[str, Any], where: str) -> Any:
    hints = _hints(kind)
    try:
        return kind(**{name: _decode(hints[name], data[name], f"{where}.{name}") for name in hints if name in data})
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def _expect(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, kind):
        raise ValueError(f"{where}: expected {kind.__name__}, found {type(data).__name__}")  # noqa: TRY004 (bad data, no bug)
    return data
