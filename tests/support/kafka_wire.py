"""Kafka requests by hand, with kio as the codec: what no client would send, and answers as they stand on the wire."""

from __future__ import annotations

import ctypes
import importlib
import io
import os
import socket
import struct
import threading
import warnings
from dataclasses import dataclass, fields, is_dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kio.schema.index import api_key_map, schema_name_map
from kio.serial import entity_reader, entity_writer
from kio.static.constants import EntityType
from kio.static.primitive import i16, i32

CLIENT_ID = "wire"
_CLONE_NEWNET = 0x40000000
_NUMBERS = {name: number for number, name in api_key_map.items()}


@cache
def message(name: str, version: int, direction: str) -> Any:
    """kio's class of a message, e.g. ``message("fetch", 16, "request")``."""
    path = schema_name_map[name][version][EntityType[direction]]
    module, _, class_name = path.partition(":")
    return getattr(importlib.import_module(module), class_name)


def part(name: str, version: int, class_name: str, direction: str = "request") -> Any:
    """The class of a struct within a message."""
    return getattr(importlib.import_module(message(name, version, direction).__module__), class_name)


def encode(body: Any, correlation: int, client_id: str | None = CLIENT_ID) -> bytes:
    """A request's frame, with its length."""
    kind = type(body)
    header = kind.__header_schema__(
        request_api_key=i16(kind.__api_key__),
        request_api_version=i16(kind.__version__),
        correlation_id=i32(correlation),
        client_id=client_id,
    )
    buffer = io.BytesIO()
    entity_writer(type(header))(buffer, header)
    entity_writer(kind)(buffer, body)
    return struct.pack(">i", buffer.tell()) + buffer.getvalue()


def encode_response(body: Any, correlation: int) -> bytes:
    """A response's frame, with its length."""
    kind = type(body)
    header = kind.__header_schema__(correlation_id=i32(correlation))
    buffer = io.BytesIO()
    entity_writer(type(header))(buffer, header)
    entity_writer(kind)(buffer, body)
    return struct.pack(">i", buffer.tell()) + buffer.getvalue()


def records(count: int = 1, size: int = 10) -> bytes:
    """A batch of records as a producer writes it (magic 2)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library's own
        from kafka.record.memory_records import MemoryRecordsBuilder
    builder = MemoryRecordsBuilder(2, 0, 1 << 24)
    for _ in range(count):
        builder.append(timestamp=1, key=None, value=b"x" * size, headers=[])
    builder.close()
    return bytes(builder.buffer())


def produce(topics: tuple[str, ...], version: int = 9, acks: int = -1, transactional_id: str | None = None) -> Any:
    """A Produce request of one record to the first partition of each topic."""
    name = "produce"
    topic_data = tuple(
        part(name, version, "TopicProduceData")(
            name=topic, partition_data=(part(name, version, "PartitionProduceData")(index=i32(0), records=records()),)
        )
        for topic in topics
    )
    request = message(name, version, "request")
    return request(transactional_id=transactional_id, acks=i16(acks), timeout=timedelta(seconds=5), topic_data=topic_data)


def produce_errors(answer: Any) -> dict[str, str]:
    """Topic -> error of a Produce response."""
    return {one.name: one.partition_responses[0].error_code.name for one in answer.responses}


def decode(name: str, version: int, frame: bytes) -> tuple[int, Any]:
    """The correlation id and the body of a response's frame, without its length. All of it must be consumed."""
    kind = message(name, version, "response")
    header, size = entity_reader(kind.__header_schema__)(frame, 0)
    body, more = entity_reader(kind)(frame, size)
    assert size + more == len(frame), f"{name} v{version}: {len(frame) - size - more} bytes behind the message"
    return header.correlation_id, body


def plain(value: Any) -> Any:
    """A message as dicts and lists, to be compared and printed."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


@dataclass
class Wire:
    """One connection to a broker, made in a network namespace."""

    connection: socket.socket
    sent: int = 0

    @classmethod
    def open(cls, netns: str, address: str, port: int) -> Self:
        """Connect from the namespace of that name; the socket stays in it."""
        made: list[socket.socket | OSError] = []

        def connect() -> None:
            handle = os.open(Path("/run/netns") / netns, os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                made.append(socket.create_connection((address, port), 10))
            except OSError as error:
                made.append(error)
            finally:
                os.close(handle)

        thread = threading.Thread(target=connect)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return cls(made[0])

    def send(self, body: Any, client_id: str | None = CLIENT_ID) -> int:
        """Send a request and return its correlation id."""
        self.sent += 1
        self.connection.sendall(encode(body, self.sent, client_id))
        return self.sent

    def receive(self, name: str, version: int) -> tuple[int, Any]:
        """Receive the next response, which must be of this kind."""
        return decode(name, version, self.frame())

    def frame(self) -> bytes:
        """Receive a frame, without its length. Raises EOFError when the other end closed."""
        (length,) = struct.unpack(">i", self._exactly(4))
        return self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            received = self.connection.recv(count - len(data))
            if not received:
                raise EOFError(f"closed after {len(data)} of {count} bytes")
            data += received
        return data

    def ask(self, body: Any, client_id: str | None = CLIENT_ID) -> Any:
        """Send a request and return the body of its response."""
        number = self.send(body, client_id)
        kind = type(body)
        correlation, answer = self.receive(api_key_map[kind.__api_key__], kind.__version__)
        assert correlation == number
        return answer

    def close(self) -> None:
        """Close it."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
