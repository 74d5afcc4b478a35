"""Protobuf messages of the delta discovery service <-> the values of ``delta``. Must not know streams or state."""

from __future__ import annotations

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from xds_server.delta import Request, Response
from xds_server.snapshot import TypeUrl

_TYPE_URLS = {str(type_url): type_url for type_url in TypeUrl}


def decode_request(message: DeltaDiscoveryRequest) -> Request | None:
    """The request, or None if it is about a type that is not served: such a client waits, which is its own affair."""
    type_url = _TYPE_URLS.get(message.type_url)
    if type_url is None:
        return None
    return Request(
        type_url=type_url,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=message.error_detail.message or "refused without a reason" if message.HasField("error_detail") else None,
    )


def encode_response(response: Response) -> bytes:
    """The serialised DeltaDiscoveryResponse."""
    message = DeltaDiscoveryResponse(type_url=str(response.type_url), nonce=response.nonce, removed_resources=response.removed)
    for resource in response.resources:
        item = message.resources.add(name=resource.name, version=resource.version)
        item.resource.type_url = str(resource.type_url)
        item.resource.value = resource.body
    encoded: bytes = message.SerializeToString()
    return encoded
