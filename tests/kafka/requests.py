"""The requests of the comparison: one of each API that a client sends, naming what is allowed beside what is not.

Field names are kio's. ``ids``: topic -> id, of the broker that is asked; brokers give ids of their own.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from tests.support.kafka_wire import records

Values = Mapping[str, Any]
Ids = Mapping[str, uuid.UUID]
BOTH = ("orders", "payments")
ABSENT = "absent"
GROUPS = ("billing", "spies")


def _topics(ids: Ids, partitions: str, each: Values, key: str = "name", names: tuple[str, ...] = BOTH) -> list[dict[str, Any]]:
    return [{key: topic, "topic_id": ids.get(topic), partitions: [each]} for topic in names]


def _fetch(ids: Ids) -> Values:
    partition = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1 << 20, "current_leader_epoch": -1}
    return {
        "max_wait": timedelta(milliseconds=1),
        "max_bytes": 1 << 20,
        "replica_id": -1,
        "session_epoch": -1,
        "topics": _topics(ids, "partitions", partition, "topic"),
    }


def _produce(ids: Ids) -> Values:
    partition = {"index": 0, "records": records()}
    return {"acks": -1, "timeout": timedelta(seconds=5), "topic_data": _topics(ids, "partition_data", partition)}


def _list_offsets(ids: Ids) -> Values:
    partition = {"partition_index": 0, "timestamp": -1, "current_leader_epoch": -1}
    return {"replica_id": -1, "topics": _topics(ids, "partitions", partition)}


def _join(group: str) -> Callable[[Ids], Values]:
    return lambda _: {
        "group_id": group,
        "session_timeout": timedelta(seconds=6),
        "rebalance_timeout": timedelta(seconds=6),
        "member_id": "nobody",
        "protocol_type": "consumer",
        "protocols": [{"name": "range", "metadata": b"\0\0"}],
    }


def _member(group: str) -> Callable[[Ids], Values]:
    return lambda _: {
        "group_id": group,
        "generation_id": 1,
        "member_id": "nobody",
        "members": [{"member_id": "nobody"}],
        "protocol_type": "consumer",
        "protocol_name": "range",
    }


def _commit(group: str) -> Callable[[Ids], Values]:
    partition = {"partition_index": 0, "committed_offset": 1}
    return lambda ids: {
        "group_id": group,
        "generation_id_or_member_epoch": -1,
        "generation_id": -1,
        "topics": _topics(ids, "partitions", partition),
    }


def _offsets(group: str, *, every: bool = False) -> Callable[[Ids], Values]:
    def values(ids: Ids) -> Values:
        topics = None if every else [{"name": topic, "topic_id": ids.get(topic), "partition_indexes": [0]} for topic in BOTH]
        return {"group_id": group, "topics": topics, "groups": [{"group_id": group, "topics": topics}]}

    return values


def _coordinator(kind: int, *keys: str) -> Callable[[Ids], Values]:
    return lambda _: {"key": keys[0], "key_type": kind, "coordinator_keys": keys}


def _transaction(group: str = "billing") -> Callable[[Ids], Values]:
    return lambda ids: {
        "transactional_id": "tx",
        "producer_id": 1,
        "producer_epoch": 0,
        "group_id": group,
        "topics": _topics(ids, "partitions", {"partition_index": 0, "committed_offset": 1}),
    }


def _add_partitions(_: Ids) -> Values:
    topics = [{"name": topic, "partitions": [0]} for topic in BOTH]
    return {
        "v3_and_below_transactional_id": "tx",
        "v3_and_below_producer_id": 1,
        "v3_and_below_producer_epoch": 0,
        "v3_and_below_topics": topics,
        "transactional_id": "tx",
        "producer_id": 1,
        "producer_epoch": 0,
        "topics": topics,
    }


def _resources(kind: int, *names: str) -> Callable[[Ids], Values]:
    return lambda _: {
        "resources": [{"resource_type": kind, "resource_name": name, "configuration_keys": ["retention.ms"]} for name in names],
        "validate_only": True,
    }


REQUESTS: tuple[tuple[str, str, Callable[[Ids], Values]], ...] = (
    ("metadata", "all topics", lambda _: {"topics": None}),
    ("metadata", "no topic", lambda _: {"topics": ()}),
    ("metadata", "by name", lambda _: {"topics": [{"name": topic} for topic in (*BOTH, ABSENT)]}),
    ("produce", "two topics", _produce),
    ("produce", "a denied topic", lambda ids: {**_produce(ids), "topic_data": _produce(ids)["topic_data"][1:]}),
    ("produce", "in a transaction", lambda ids: {**_produce(ids), "transactional_id": "tx"}),
    ("fetch", "two topics", _fetch),
    ("fetch", "a denied topic", lambda ids: {**_fetch(ids), "topics": _fetch(ids)["topics"][1:]}),
    ("list_offsets", "two topics", _list_offsets),
    (
        "offset_for_leader_epoch",
        "two topics",
        lambda _: {
            "replica_id": -2,
            "topics": [{"topic": topic, "partitions": [{"partition": 0, "current_leader_epoch": -1}]} for topic in BOTH],
        },
    ),
    ("find_coordinator", "groups", _coordinator(0, *GROUPS)),
    ("find_coordinator", "another group", _coordinator(0, "spies")),
    ("find_coordinator", "a transaction", _coordinator(1, "tx")),
    *(("join_group", group, _join(group)) for group in GROUPS),
    *(("sync_group", group, _member(group)) for group in GROUPS),
    *(("heartbeat", group, _member(group)) for group in GROUPS),
    *(("leave_group", group, _member(group)) for group in GROUPS),
    *(("offset_commit", group, _commit(group)) for group in GROUPS),
    *(("offset_fetch", group, _offsets(group)) for group in GROUPS),
    *(("offset_fetch", f"all of {group}", _offsets(group, every=True)) for group in GROUPS),
    ("init_producer_id", "a transaction", lambda _: {"transactional_id": "tx", "transaction_timeout": timedelta(seconds=10)}),
    ("init_producer_id", "idempotence", lambda _: {"transactional_id": None, "producer_id": -1, "producer_epoch": -1}),
    ("add_partitions_to_txn", "two topics", _add_partitions),
    *(("add_offsets_to_txn", group, _transaction(group)) for group in GROUPS),
    *(("txn_offset_commit", group, _transaction(group)) for group in GROUPS),
    ("end_txn", "commit", _transaction()),
    ("describe_groups", "two groups", lambda _: {"groups": GROUPS}),
    ("list_groups", "all", lambda _: {}),
    (
        "create_topics",
        "two topics",
        lambda _: {
            "topics": [{"name": name, "num_partitions": 1, "replication_factor": 1} for name in ("new-1", "old-1")],
            "timeout": timedelta(seconds=5),
            "validate_only": True,
        },
    ),
    (
        "delete_topics",
        "two absent topics",
        lambda _: {
            "topics": [{"name": "new-9"}, {"name": "old-9"}],
            "topic_names": ("new-9", "old-9"),
            "timeout": timedelta(seconds=5),
        },
    ),
    (
        "delete_records",
        "two topics",
        lambda ids: {"topics": _topics(ids, "partitions", {"partition_index": 0, "offset": 0}), "timeout": timedelta(seconds=5)},
    ),
    (
        "create_partitions",
        "two topics",
        lambda _: {
            "topics": [{"name": topic, "count": 2, "assignments": None} for topic in BOTH],
            "validate_only": True,
            "timeout": timedelta(seconds=5),
        },
    ),
    ("describe_configs", "topics", _resources(2, *BOTH)),
    ("describe_configs", "a broker", _resources(4, "1")),
    ("alter_configs", "topics", _resources(2, *BOTH)),
    ("incremental_alter_configs", "topics", _resources(2, *BOTH)),
    ("describe_cluster", "it", lambda _: {"endpoint_type": 1}),
    (
        "describe_topic_partitions",
        "two topics",
        lambda _: {"topics": [{"name": topic} for topic in BOTH], "response_partition_limit": 10},
    ),
    ("describe_topic_partitions", "all topics", lambda _: {"topics": (), "response_partition_limit": 10}),
    ("describe_producers", "two topics", lambda _: {"topics": [{"name": topic, "partition_indexes": [0]} for topic in BOTH]}),
    (
        "describe_acls",
        "all",
        lambda _: {"resource_type_filter": 1, "pattern_type_filter": 1, "operation": 1, "permission_type": 1},
    ),
    ("describe_log_dirs", "all", lambda _: {"topics": None}),
    ("delete_groups", "two groups", lambda _: {"groups_names": GROUPS}),
    (
        "offset_delete",
        "a group",
        lambda _: {"group_id": "spies", "topics": [{"name": topic, "partitions": [{"partition_index": 0}]} for topic in BOTH]},
    ),
    ("list_transactions", "all", lambda _: {}),
    ("describe_transactions", "one", lambda _: {"transactional_ids": ("tx",)}),
    ("describe_client_quotas", "all", lambda _: {}),
    (
        "describe_quorum",
        "it",
        lambda _: {"topics": [{"topic_name": "__cluster_metadata", "partitions": [{"partition_index": 0}]}]},
    ),
    (
        "consumer_group_heartbeat",
        "a denied topic",
        lambda _: {
            "group_id": "modern",
            "member_id": str(uuid.UUID(int=7)),
            "member_epoch": 0,
            "rebalance_timeout": timedelta(seconds=10),
            "subscribed_topic_names": ("payments",),
            "topic_partitions": (),
        },
    ),
    ("consumer_group_describe", "two groups", lambda _: {"group_ids": GROUPS}),
)
"""(API, what of it, the values of its fields)."""
