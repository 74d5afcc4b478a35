"""Writes ``protocol.txt`` anew from a release of Apache Kafka, when a new one is out.

``python -m proxylib.kafka.derive kafka-clients-4.4.0.jar > proxylib/kafka/protocol.txt``

Owns: how Kafka's own message definitions (JSON with comments, carried by every kafka-clients jar) become our description:
which field is a topic, a group, an error code. Source: the definitions' ``entityType``, and the names below where Kafka
gives none. ``make test-kafka`` runs this on the jar of the broker it tests with and compares.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from proxylib.kafka.description import PRIMITIVES, Role

_PREFIX = "common/message/"
_COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

_ENTITIES = {"topicName": Role.TOPIC, "groupId": Role.GROUP, "transactionalId": Role.TRANSACTIONAL_ID}
Definition = dict[str, Any]
"""One of the JSON objects of Kafka's definitions: a message, or a field of one."""

_NAMES = {
    ("error_code", "int16"): Role.ERROR,
    ("partition_error_code", "int16"): Role.ERROR,
    ("error_message", "string"): Role.ERROR_MESSAGE,
    ("throttle_time_ms", "int32"): Role.THROTTLE,
    ("topic_id", "uuid"): Role.TOPIC_ID,
    ("topic_ids", "[uuid]"): Role.TOPIC_ID,
    ("group_id", "string"): Role.GROUP,
    ("resource_type", "int8"): Role.RESOURCE_TYPE,
    ("resource_type_filter", "int8"): Role.RESOURCE_TYPE,
    ("resource_name", "string"): Role.RESOURCE_NAME,
    ("resource_name_filter", "string"): Role.RESOURCE_NAME,
    ("key_type", "int8"): Role.COORDINATOR_TYPE,
    ("coordinator_keys", "[string]"): Role.COORDINATOR_KEY,
}
"""What the definitions don't say; (name, type) -> role."""
_PLACES = {
    ("FindCoordinator", "key", "string"): Role.COORDINATOR_KEY,
    ("Metadata", "name", "string"): Role.TOPIC,
    ("DeleteTopics", "name", "string"): Role.TOPIC,
    ("DescribeLogDirs", "topic", "string"): Role.TOPIC,
    ("DescribeTransactions", "topic", "string"): Role.TOPIC,
}
"""Likewise where only the message tells; (API, name, type) -> role."""


def describe(definitions: Mapping[str, Definition]) -> Iterator[str]:
    """Yield the lines of our description. ``definitions``: message name -> Kafka's definition."""
    requests = {d["apiKey"]: d for d in definitions.values() if d["type"] == "request" and d["validVersions"] != "none"}
    for number, request in sorted(requests.items()):
        name = request["name"].removesuffix("Request")
        listeners = " ".join(sorted(request["listeners"]))
        yield ""
        yield f"api {number} {name} {request['validVersions']} flexible {request['flexibleVersions']} at {listeners}"
        for direction in ("request", "response"):
            message = definitions[name + direction.capitalize()]
            assert message["validVersions"] == request["validVersions"], name
            assert message["flexibleVersions"] == request["flexibleVersions"], name
            yield f" {direction}"
            structs = {struct["name"]: struct["fields"] for struct in message.get("commonStructs", ())}
            low, high = _range(request["validVersions"])
            yield from _fields(name, message["fields"], structs, (low, high), 2)


def _range(text: str) -> tuple[int, int]:
    """Read Kafka's ``3``, ``3-5``, ``3+`` or ``none``."""
    if text == "none":
        return 1, 0
    if text.endswith("+"):
        return int(text[:-1]), 32767
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def _within(text: str, outer: tuple[int, int]) -> tuple[int, int]:
    low, high = _range(text)
    return max(low, outer[0]), min(high, outer[1])


def _shown(found: tuple[int, int], outer: tuple[int, int]) -> str:
    low, high = found
    if high == outer[1]:
        return f"{low}+"
    return f"{low}-{high}"


def _fields(
    api: str, fields: list[Definition], structs: Mapping[str, list[Definition]], outer: tuple[int, int], depth: int
) -> Iterator[str]:
    for field in fields:
        versions = _within(field["versions"], outer)
        if versions[0] > versions[1]:
            continue
        kind: str = field["type"]
        array = kind.startswith("[]")
        element = kind[2:] if array else kind
        inner: list[Definition] = []
        if element in PRIMITIVES:
            shown = f"[{element}]" if array else element
        else:
            shown = "[]" if array else "{}"
            inner = field.get("fields") or structs[element]
        nullable = _within(field.get("nullableVersions", "none"), versions)
        name = _WORD.sub("_", field["name"]).lower()
        role = _ENTITIES.get(field.get("entityType", "")) or _PLACES.get((api, name, shown)) or _NAMES.get((name, shown))
        line = f"{' ' * depth}{name} {shown}"
        if nullable[0] <= nullable[1]:
            line += "?" if nullable == versions else f"?{_shown(nullable, versions)}"
        line += f" {_shown(versions, outer)}"
        if "tag" in field:
            assert _within(field["taggedVersions"], outer) == versions, (api, name)
            line += f" tag {field['tag']}"
        default = str(field.get("default", "")).lower()
        if default:
            line += f" = {int(default, 0) if default[0] in '-0123456789' and '.' not in default else default}"
        if role is not None:
            line += f" @{role.value}"
        yield line
        yield from _fields(api, inner, structs, versions, depth + 1)


def definitions_of(jar: str) -> dict[str, Definition]:
    """Read the definitions that a kafka-clients jar carries."""
    found: dict[str, Definition] = {}
    with zipfile.ZipFile(jar) as archive:
        for name in archive.namelist():
            if name.startswith(_PREFIX) and name.endswith(".json"):
                definition = json.loads(_COMMENT.sub("", archive.read(name).decode()))
                found[definition["name"]] = definition
    return found


if __name__ == "__main__":
    print("\n".join(describe(definitions_of(sys.argv[1]))))
