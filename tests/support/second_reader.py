"""Envoy's messages by an implementation that shares no code with the one that writes them.

Importing it is slow and warns of its own dependencies, so it is imported at first use and its warnings stay its own.
"""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.runtime.v3.rtds_pb2 import Runtime
from google.protobuf.message import Message

from l7filters.envoy import EnvoyResource, TypeUrl

_OURS: dict[TypeUrl, type[Message]] = {
    TypeUrl.CLUSTER: Cluster,
    TypeUrl.EXTENSION: TypedExtensionConfig,
    TypeUrl.LISTENER: Listener,
    TypeUrl.ROUTE: RouteConfiguration,
    TypeUrl.RUNTIME: Runtime,
    TypeUrl.SECRET: Secret,
}


def decode(resource: EnvoyResource) -> Message:
    """Return the message of a resource, by the implementation that wrote it."""
    return _OURS[resource.type_url].FromString(resource.body)


@cache
def _other_type(type_url: TypeUrl) -> Any:
    package, _, name = str(type_url).rpartition("/")[2].rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(importlib.import_module(f"envoy_data_plane.{package}"), name)


def decode_otherwise(resource: EnvoyResource) -> Any:
    """Return the message of a resource, by the other implementation."""
    return _other_type(resource.type_url).parse(resource.body)
