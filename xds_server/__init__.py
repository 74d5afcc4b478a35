"""Delta discovery (ADS) and access logs for the node's Envoys, over one Unix socket."""

from xds_server.access_log import AccessRecord, HttpVersion, RecordKind, RecordQueue, SocketAddress
from xds_server.acks import AckReport, Nack
from xds_server.counters import Counters, TypeCounters
from xds_server.delta import REMOVED
from xds_server.service import Connection, SocketUnusable, XdsServer
from xds_server.snapshot import (
    BadReference,
    InconsistentSnapshot,
    Resource,
    ResourceKey,
    ResourceTooLarge,
    Snapshot,
    SnapshotTooLarge,
    TypeUrl,
    XdsError,
)

__all__ = [
    "REMOVED",
    "AccessRecord",
    "AckReport",
    "BadReference",
    "Connection",
    "Counters",
    "HttpVersion",
    "InconsistentSnapshot",
    "Nack",
    "RecordKind",
    "RecordQueue",
    "Resource",
    "ResourceKey",
    "ResourceTooLarge",
    "Snapshot",
    "SnapshotTooLarge",
    "SocketAddress",
    "SocketUnusable",
    "TypeCounters",
    "TypeUrl",
    "XdsError",
    "XdsServer",
]
