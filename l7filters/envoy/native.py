"""Tidegate's own module in Envoy's configuration: where the file is, and how a part of it is asked for.

Owns: the shape of dynamic-module configurations. Must not know what the parts do, nor touch the file. The messages are carried
as TypedStruct, for the library of messages lacks them: Envoy reads ``value`` as the JSON form of the message that ``type_url``
names, and refuses it where a field does not fit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from google.protobuf.any_pb2 import Any
from xds.type.v3.typed_struct_pb2 import TypedStruct

from l7filters.envoy.message import packed

_TYPES = "type.googleapis.com/"
STRING_VALUE = _TYPES + "google.protobuf.StringValue"


def typed_struct(message: str, value: Mapping[str, object]) -> Any:
    """Return the message of that full name with the fields of ``value``, as JSON has them."""
    struct = TypedStruct(type_url=_TYPES + message)
    struct.value.update(value)
    return packed(struct)


def dynamic_module(path: str) -> dict[str, object]:
    """Return ``DynamicModuleConfig``. The library is never closed: its threads' caches must outlive a listener."""
    return {"module": {"local": {"filename": path}}, "do_not_close": True}


def part_config(value: Mapping[str, object]) -> dict[str, object]:
    """Return what a part of the module is told: JSON text, which reaches it byte by byte as it is here."""
    return part_text(json.dumps(value, sort_keys=True, separators=(",", ":")))


def part_text(text: str) -> dict[str, object]:
    """Return what a part of the module is told, as it is."""
    return {"@type": STRING_VALUE, "value": text}
