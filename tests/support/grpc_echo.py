"""A gRPC service that accepts every method and says what it received; and calls to it, with the real grpcio on both sides.

A method whose name starts with ``Stream`` answers with three messages, any other with one. Messages are JSON in raw bytes, so
that no generated code is needed.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

STREAM_MESSAGE_COUNT = 3


class _EveryMethod(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # not subscriptable at run time
    def __init__(self, name: str) -> None:
        self.name = name

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method
        metadata = [[key, value] for key, value in handler_call_details.invocation_metadata if isinstance(value, str)]

        def describe(data: bytes, context: Any, index: int) -> bytes:
            answer = {"server": self.name, "method": method, "metadata": metadata, "peer": context.peer(), "index": index}
            return json.dumps({**answer, "data": data.decode("latin-1")}).encode()

        async def unary(data: bytes, context: Any) -> bytes:
            return describe(data, context, 0)

        async def stream(data: bytes, context: Any) -> AsyncIterator[bytes]:
            for index in range(STREAM_MESSAGE_COUNT):
                yield describe(data, context, index)

        if method.rpartition("/")[2].startswith("Stream"):
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


async def serve(name: str, port: int) -> grpc.aio.Server:
    """Listen on every address of both families."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_EveryMethod(name),))
    server.add_insecure_port(f"[::]:{port}")
    await server.start()
    return server


def open_channel(target: str) -> grpc.aio.Channel:
    """A channel that neither retries nor goes through an HTTP proxy of the environment."""
    options = [("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0), ("grpc.initial_reconnect_backoff_ms", 100)]
    return grpc.aio.insecure_channel(target, options=options)


async def call(
    channel: grpc.aio.Channel, method: str, data: bytes, metadata: list[tuple[str, str]], timeout: float, *, stream: bool
) -> dict[str, Any]:
    """One call: ``{"code", "details", "messages", "initial_metadata", "trailing_metadata"}``."""
    messages: list[bytes] = []
    pending: Any
    if stream:
        pending = channel.unary_stream(method, _identity, _identity)(data, timeout=timeout, metadata=metadata)
    else:
        pending = channel.unary_unary(method, _identity, _identity)(data, timeout=timeout, metadata=metadata)
    try:
        if stream:
            messages.extend([message async for message in pending])
        else:
            messages.append(await pending)
    except grpc.aio.AioRpcError:
        # The code and the details are asked for below, as on success.
        pass
    return {
        "code": (await pending.code()).value[0],
        "details": await pending.details() or "",
        "messages": [json.loads(message) for message in messages],
        "initial_metadata": _texts(await pending.initial_metadata()),
        "trailing_metadata": _texts(await pending.trailing_metadata()),
    }


def _identity(data: bytes) -> bytes:
    return data


def _texts(metadata: Any) -> list[list[str]]:
    return [[key, value] for key, value in (metadata or ()) if isinstance(value, str)]
