"""What of an answer a client acts by: names, and the errors beside them. Offsets, ids, hosts and texts differ between brokers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

NAMES = frozenset(
    {
        "name",
        "topic",
        "topic_name",
        "group_id",
        "key",
        "transactional_id",
        "resource_name",
        "partition_index",
        "partition",
        "index",
    }
)
IGNORED = frozenset({"brokers", "members", "configs", "synonyms", "api_keys", "nodes", "log_dir"})


def essence(value: Any, topics: Mapping[uuid.UUID, str]) -> Any:
    """Return the names and errors in ``value``, nested as they are there; lists sorted, what holds neither left out."""
    if is_dataclass(value) and not isinstance(value, type):
        found: dict[str, Any] = {}
        for field in fields(value):
            item = getattr(value, field.name)
            if field.name == "topic_id" and isinstance(item, uuid.UUID):
                found["topic"] = topics.get(item, "an unknown id")
            elif isinstance(item, Enum):
                found[field.name] = item.name
            elif field.name in NAMES:
                found[field.name] = item
            elif field.name not in IGNORED:
                inner = essence(item, topics)
                if inner:
                    found[field.name] = inner
        return found
    if isinstance(value, tuple):
        items = [essence(item, topics) for item in value]
        return sorted((item for item in items if item), key=repr)
    return None
