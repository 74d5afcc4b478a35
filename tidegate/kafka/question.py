"""Questions about Kafka requests, as a person writes them.

Owns: ``ROLE-OR-API [TOPIC...] [group=NAME] [client=NAME] [version=N]``, e.g. ``produce orders`` or ``fetch orders client=shop``.
Must not know how anything is decided.
"""

from __future__ import annotations

from l7filters.kafka import API_BY_NAME, KafkaRequest, main_request
from l7filters.model import KafkaRole
from tidegate.config.settings import close_match

HINT = "e.g. --kafka 'produce orders', 'consume orders group=shop', 'createtopics orders version=7'"
_SETTINGS = ("group", "client", "version")


def read_kafka_request(text: str) -> KafkaRequest:
    """Return the request that ``text`` describes. Raises ValueError with what is wrong.

    A role stands for its main request: Produce; Fetch, or with a group OffsetCommit, which names group and topic. Without a
    version it is the newest.
    """
    words = text.replace(",", " ").split()
    if not words:
        raise ValueError("which role or API?")
    name, *rest = words
    topics: list[str] = []
    settings: dict[str, str] = {}
    for word in rest:
        key, sign, value = word.partition("=")
        if not sign:
            topics.append(word)
        elif key not in _SETTINGS:
            raise ValueError(f"{key!r} is nothing that a Kafka request has: {', '.join(_SETTINGS)}, or a topic without '='")
        else:
            settings[key] = value
    groups = (settings["group"],) if "group" in settings else ()
    client = settings.get("client", "")
    if name.lower() in tuple(KafkaRole) and "version" not in settings:
        return main_request(KafkaRole(name.lower()), topics, groups, client)
    api = API_BY_NAME.get(name.lower())
    if api is None:
        near = close_match(name.lower(), [*API_BY_NAME, *KafkaRole])
        raise ValueError(f"{name!r} is no role and no Kafka API" + (f"; {near}" if near else ""))
    version = settings.get("version", str(api.version_max))
    if not version.isascii() or not version.isdigit():
        raise ValueError(f"{version!r} is no version")
    return KafkaRequest(api=api.number, version=int(version), client_id=client, topics=tuple(topics), groups=groups)
