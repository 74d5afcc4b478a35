"""The connections that the kernel knows, as values.

Owns: reading and deleting entries of ``tg_conntrack``, oriented as the connection is: originator first.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from bpf_redirect import abi
from bpf_redirect.encode import address_struct, decode_struct, struct_address
from bpf_redirect.maps import Map


@dataclass(frozen=True, slots=True, kw_only=True)
class ConntrackEntry:
    """One connection. ``slot`` is that on whose listener it was opened (kind REDIRECT), else 0.

    ``policy_port`` is what the policy was asked about: the destination port, or the ICMP message type. ``name_identity``: of the
    name by which the source reached the destination; 0 when the address alone was enough.
    """

    source: IPv4Address | IPv6Address
    source_port: int
    destination: IPv4Address | IPv6Address
    destination_port: int
    protocol: int
    realm: abi.Realm
    kind: abi.ConntrackKind
    flags: abi.ConntrackFlag
    tcp_seen: abi.TcpSeen
    slot: int
    source_identity: int
    destination_identity: int
    policy_port: int
    name_identity: int
    epoch: int
    created_ns: int
    last_seen_ns: int
    packets: int
    bytes: int


def _key_order(address: IPv4Address | IPv6Address, port: int) -> tuple[tuple[int, ...], int]:
    words = memoryview(bytes(address_struct(address))).cast("I").tolist()
    return tuple(words), socket.htons(port)


def encode_key(entry: ConntrackEntry) -> bytes:
    """Return the key under which the kernel keeps ``entry``: both ends, sorted as the kernel sorts them."""
    ends = [(entry.source, entry.source_port), (entry.destination, entry.destination_port)]
    low, high = sorted(ends, key=lambda end: _key_order(*end))
    return bytes(
        abi.ConntrackKey(
            low=address_struct(low[0]),
            high=address_struct(high[0]),
            low_port_be=socket.htons(low[1]),
            high_port_be=socket.htons(high[1]),
            protocol=entry.protocol,
            realm=entry.realm,
        )
    )


def decode_entry(raw_key: bytes, raw_value: bytes) -> ConntrackEntry:
    """Decode one entry."""
    key = decode_struct(abi.ConntrackKey, raw_key)
    value = decode_struct(abi.Conntrack, raw_value)
    ends = [
        (struct_address(key.low), socket.ntohs(key.low_port_be)),
        (struct_address(key.high), socket.ntohs(key.high_port_be)),
    ]
    flags = abi.ConntrackFlag(value.flags)
    source, destination = reversed(ends) if abi.ConntrackFlag.FROM_HIGH in flags else ends
    return ConntrackEntry(
        source=source[0],
        source_port=source[1],
        destination=destination[0],
        destination_port=destination[1],
        protocol=key.protocol,
        realm=abi.Realm(key.realm),
        kind=abi.ConntrackKind(value.kind),
        flags=flags,
        tcp_seen=abi.TcpSeen(value.tcp_seen),
        slot=value.slot,
        source_identity=value.source_identity,
        destination_identity=value.destination_identity,
        policy_port=socket.ntohs(value.policy_port_be),
        name_identity=value.name_identity,
        epoch=value.epoch,
        created_ns=value.created_ns,
        last_seen_ns=value.last_seen_ns,
        packets=value.packets,
        bytes=value.bytes,
    )


def read_entries(conntrack: Map) -> Iterator[ConntrackEntry]:
    """Iterate over all entries, live and expired, as they stand."""
    for key, value in conntrack.items():
        yield decode_entry(key, value)


def delete_entry(conntrack: Map, entry: ConntrackEntry) -> bool:
    """Forget a connection; return whether it was known."""
    return conntrack.delete(encode_key(entry))


@dataclass(frozen=True, slots=True)
class WorkloadConnection:
    """A connection of a host workload that dials a proxy port on loopback instead of what its process dialled."""

    identity: int
    client: IPv4Address | IPv6Address
    client_port: int
    proxy_port: int
    destination: IPv4Address | IPv6Address
    destination_port: int


def read_workload_connections(origins: Map) -> Iterator[WorkloadConnection]:
    """Iterate over those that were made, oldest forgotten first; some may have ended."""
    for raw_key, raw_value in origins.items():
        key, value = decode_struct(abi.OriginKey, raw_key), decode_struct(abi.Connect, raw_value)
        yield WorkloadConnection(
            identity=value.identity,
            client=struct_address(key.client),
            client_port=socket.ntohs(key.client_port_be),
            proxy_port=socket.ntohs(key.proxy_port_be),
            destination=struct_address(value.destination),
            destination_port=socket.ntohs(value.destination_port_be),
        )


def delete_workload_connection(origins: Map, connection: WorkloadConnection) -> bool:
    """Forget one; return whether it was known."""
    return origins.delete(
        bytes(
            abi.OriginKey(
                client=address_struct(connection.client),
                client_port_be=socket.htons(connection.client_port),
                proxy_port_be=socket.htons(connection.proxy_port),
            )
        )
    )
