"""Small protobuf values that every resource is made of.

Owns: durations, Anys, the reference to the agent as the source of configuration. Must not know policies.
"""

from __future__ import annotations

from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

_NANOS = 1_000_000_000


def duration(seconds: float) -> Duration:
    """Return a duration."""
    nanos = round(seconds * _NANOS)
    return Duration(seconds=nanos // _NANOS, nanos=nanos % _NANOS)


def packed(message: Message) -> Any:
    """Return ``message`` in an Any whose bytes depend on its content alone."""
    wrapped = Any()
    wrapped.Pack(message, deterministic=True)
    return wrapped


def from_agent(initial_fetch_timeout_seconds: float | None = None) -> ConfigSource:
    """Return "ask the agent, over the one aggregated stream"."""
    source = ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)
    if initial_fetch_timeout_seconds is not None:
        source.initial_fetch_timeout.CopyFrom(duration(initial_fetch_timeout_seconds))
    return source
