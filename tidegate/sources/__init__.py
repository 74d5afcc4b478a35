"""Where the world comes from: watched files."""

from tidegate.sources.directory import DirectorySource
from tidegate.sources.endpoints import (
    EndpointEntry,
    EndpointsSource,
    EndpointsState,
    ParsedEndpoints,
    parse_endpoints,
    with_backends,
    with_namespaces,
)
from tidegate.sources.ledger import DirectoryState, DocumentStatus
from tidegate.sources.secrets import SecretsSource, SecretsState

__all__ = [
    "DirectorySource",
    "DirectoryState",
    "DocumentStatus",
    "EndpointEntry",
    "EndpointsSource",
    "EndpointsState",
    "ParsedEndpoints",
    "SecretsSource",
    "SecretsState",
    "parse_endpoints",
    "with_backends",
    "with_namespaces",
]
