"""Verdict events from the ring buffer, and the per-CPU counters.

Owns: reading ``tg_events`` through shared memory (no system call per record; see kernel/bpf/ringbuf.c) and decoding. The
reader is the only consumer of the ring. Must not know what is done with an event.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType

from bpf_redirect import abi
from bpf_redirect.encode import decode_struct, decode_u32, struct_address
from bpf_redirect.errors import KernelError
from bpf_redirect.maps import Map

_BUSY = 1 << 31
_DISCARD = 1 << 30
_HEADER_BYTES = 8
EVENTS_PER_READ_MAX = 4096
"""So that one reading can't hold up the caller's other work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictEvent:
    """One verdict. ``destination_port`` is the message type for ICMP. ``slot`` is 0 unless redirected."""

    time_ns: int
    verdict: abi.Verdict
    reason: abi.Reason
    hook: abi.Hook
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    source_identity: int
    destination_identity: int
    source_port: int
    destination_port: int
    protocol: int
    tcp_flags: int
    ifindex: int
    slot: int
    length_bytes: int
    epoch: int
    would_deny: bool
    is_reply: bool
    is_rejudged: bool
    name_identity: int = 0
    """Of the name that DNS gave the source for the destination, where that decided; 0: the address alone did."""


def decode_event(raw: bytes) -> VerdictEvent:
    """Decode one ``tg_event``; raises ValueError for numbers that this version does not know."""
    event = decode_struct(abi.Event, raw)
    return VerdictEvent(
        time_ns=event.time_ns,
        verdict=abi.Verdict(event.verdict),
        reason=abi.reason_of(event.reason),
        hook=abi.Hook(event.hook),
        source=struct_address(event.source),
        destination=struct_address(event.destination),
        source_identity=event.source_identity,
        destination_identity=event.destination_identity,
        source_port=event.source_port,
        destination_port=event.destination_port,
        protocol=event.protocol,
        tcp_flags=event.tcp_flags,
        ifindex=event.ifindex,
        slot=event.slot,
        length_bytes=event.length_bytes,
        epoch=event.epoch,
        would_deny=bool(event.flags & abi.EventFlag.WOULD_DENY),
        is_reply=bool(event.flags & abi.EventFlag.REPLY),
        is_rejudged=bool(event.flags & abi.EventFlag.REJUDGED),
        name_identity=event.name_identity,
    )


class EventReader:
    """The consumer of the ring. ``fileno()`` becomes readable when there are events; then call ``read``."""

    def __init__(self, ring: Map) -> None:
        self._fd = ring.fd
        self._size = ring.info.max_entries
        try:
            self._consumer = mmap.mmap(ring.fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            self._producer = mmap.mmap(
                ring.fd, mmap.PAGESIZE + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=mmap.PAGESIZE
            )
        except OSError as error:
            raise KernelError("map the event ring", error.errno or 0) from error

    def fileno(self) -> int:
        """Descriptor for select, epoll or ``loop.add_reader``."""
        return self._fd

    def read(self, count_max: int = EVENTS_PER_READ_MAX) -> Iterator[VerdictEvent]:
        """Consume and yield what is there, up to ``count_max`` events."""
        (position,) = struct.unpack_from("=Q", self._consumer)
        for _ in range(count_max):
            (end,) = struct.unpack_from("=Q", self._producer)
            if position >= end:
                return
            offset = mmap.PAGESIZE + (position & (self._size - 1))
            (length,) = struct.unpack_from("=I", self._producer, offset)
            if length & _BUSY:
                return
            size = length & ~(_BUSY | _DISCARD)
            raw = None if length & _DISCARD else self._producer[offset + _HEADER_BYTES : offset + _HEADER_BYTES + size]
            position += (size + _HEADER_BYTES + 7) & ~7
            struct.pack_into("=Q", self._consumer, 0, position)
            if raw is not None:
                yield decode_event(raw)

    def close(self) -> None:
        """Unmap; the ring's descriptor belongs to the map."""
        self._consumer.close()
        self._producer.close()

    def __enter__(self) -> EventReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class CounterValue:
    """Packets and bytes that left a hook for one reason."""

    packets: int
    bytes: int


def read_counters(counters: Map) -> Mapping[tuple[abi.Reason, abi.Hook], CounterValue]:
    """Sum the counters over all CPUs; only those that ever counted."""
    totals: dict[tuple[abi.Reason, abi.Hook], CounterValue] = {}
    each = ctypes.sizeof(abi.Counter)
    for key, value in counters.items():
        if not any(value):
            continue
        pairs = [struct.unpack_from("=QQ", value, offset) for offset in range(0, len(value), each)]
        index = decode_u32(key)
        name = (abi.reason_of(index // abi.HOOKS_MAX), abi.Hook(index % abi.HOOKS_MAX))
        totals[name] = CounterValue(sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs))
    return totals


@dataclass(frozen=True, slots=True)
class EventTotals:
    """How many events were sent, and how many were not (no token left, or the ring full)."""

    sent: int
    lost: int


def read_event_totals(budget: Map) -> EventTotals:
    """Sum the event budget over all CPUs."""
    raw = budget.lookup(bytes(4)) or b""
    each = ctypes.sizeof(abi.EventBudget)
    budgets = [decode_struct(abi.EventBudget, raw[offset : offset + each]) for offset in range(0, len(raw), each)]
    return EventTotals(sum(item.sent for item in budgets), sum(item.lost for item in budgets))
