"""Packets as bytes, to be made wrong on purpose: every field can be set, nothing is checked."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

ETH_IPV4, ETH_ARP, ETH_IPV6, ETH_VLAN, ETH_QINQ = 0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8
MAC_POD, MAC_NODE = b"\x02\x00\x00\x00\x00\x01", b"\x02\x00\x00\x00\x00\x02"
TCP, UDP, ICMP, ICMPV6, SCTP, GRE = 6, 17, 1, 58, 132, 47
HOP_BY_HOP, ROUTING, FRAGMENT, AH, DEST_OPTS = 0, 43, 44, 51, 60
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
MORE_FRAGMENTS = 0x2000


def frame(payload: bytes, ethertype: int) -> bytes:
    """An Ethernet frame from the pod to the node."""
    return MAC_NODE + MAC_POD + struct.pack("!H", ethertype) + payload


def ipv4(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    *,
    options: bytes = b"",
    version: int = 4,
    words: int | None = None,
    total: int | None = None,
    fragment: int = 0,
    number: int = 1,
    ttl: int = 64,
) -> bytes:
    """A frame with an IPv4 packet. ``words`` and ``total`` lie about lengths if given."""
    header_bytes = 20 + len(options)
    header = struct.pack(
        "!BBHHHBBH4s4s",
        version << 4 | (header_bytes // 4 if words is None else words),
        0,
        header_bytes + len(payload) if total is None else total,
        number,
        fragment,
        ttl,
        protocol,
        0,
        ip_address(source).packed,
        ip_address(destination).packed,
    )
    return frame(header + options + payload, ETH_IPV4)


def ipv6(
    source: str,
    destination: str,
    next_header: int,
    payload: bytes,
    *,
    version: int = 6,
    length: int | None = None,
    hops: int = 64,
) -> bytes:
    """A frame with an IPv6 packet."""
    header = struct.pack("!IHBB", version << 28, len(payload) if length is None else length, next_header, hops)
    return frame(header + ip_address(source).packed + ip_address(destination).packed + payload, ETH_IPV6)


def ip(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """A plain frame of the addresses' family."""
    make = ipv4 if ip_address(source).version == 4 else ipv6
    return make(source, destination, protocol, payload)


def tcp(
    source: int,
    destination: int,
    flags: int = SYN,
    *,
    words: int = 5,
    sequence: int = 1000,
    acknowledged: int = 2000,
    payload: bytes = b"",
) -> bytes:
    """A TCP segment without options (whatever ``words`` says)."""
    return struct.pack("!HHIIBBHHH", source, destination, sequence, acknowledged, words << 4, flags, 512, 0, 0) + payload


def udp(source: int, destination: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """A UDP datagram."""
    return struct.pack("!HHHH", source, destination, 8 + len(payload) if length is None else length, 0) + payload


def sctp(source: int, destination: int) -> bytes:
    """An SCTP common header."""
    return struct.pack("!HHII", source, destination, 1, 0)


def icmp(kind: int, code: int = 0, *, number: int = 77, payload: bytes = b"") -> bytes:
    """An ICMP or ICMPv6 message; ``number`` is the identifier of an echo."""
    return struct.pack("!BBHHH", kind, code, 0, number, 1) + payload


def extension(next_header: int, body: bytes = bytes(6)) -> bytes:
    """An IPv6 extension header; with ``body`` it must be a multiple of 8 bytes."""
    assert (2 + len(body)) % 8 == 0
    return struct.pack("!BB", next_header, (2 + len(body)) // 8 - 1) + body


def routing(next_header: int, kind: int, left: int) -> bytes:
    """An IPv6 routing header."""
    return extension(next_header, struct.pack("!BBI", kind, left, 0))


def fragment_header(next_header: int, offset: int, more: bool, number: int = 9) -> bytes:
    """An IPv6 fragment header; ``offset`` in units of 8 bytes."""
    return struct.pack("!BBHI", next_header, 0, offset << 3 | more, number)


def authentication(next_header: int) -> bytes:
    """An IPv6 authentication header of 24 bytes."""
    return struct.pack("!BB", next_header, 4) + bytes(22)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071); 0 over data that carries a right one."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo(source: str, destination: str, protocol: int, length: int) -> bytes:
    """The pseudo header of either family."""
    packed = ip_address(source).packed + ip_address(destination).packed
    if len(packed) == 8:
        return packed + struct.pack("!BBH", 0, protocol, length)
    return packed + struct.pack("!IHBB", length, 0, 0, protocol)


def skb_context(*, ifindex: int, ingress_ifindex: int = 0, mark: int = 0) -> bytes:
    """``struct __sk_buff`` as BPF_PROG_TEST_RUN takes it."""
    context = bytearray(192)
    struct.pack_into("=I", context, 8, mark)
    struct.pack_into("=II", context, 36, ingress_ifindex, ifindex)
    return bytes(context)


def context_mark(context: bytes) -> int:
    """The mark that a program left."""
    return int(struct.unpack_from("=I", context, 8)[0])


def l4_of(data: bytes) -> tuple[str, str, int, bytes]:
    """(source, destination, protocol, L4 bytes) of a plain frame."""
    if struct.unpack_from("!H", data, 12)[0] == ETH_IPV4:
        assert checksum(data[14:34]) == 0, "IPv4 header checksum"
        total = struct.unpack_from("!H", data, 16)[0]
        assert len(data) == 14 + total
        return socket.inet_ntoa(data[26:30]), socket.inet_ntoa(data[30:34]), data[23], data[34:]
    assert len(data) == 54 + struct.unpack_from("!H", data, 18)[0]
    return (
        socket.inet_ntop(socket.AF_INET6, data[22:38]),
        socket.inet_ntop(socket.AF_INET6, data[38:54]),
        data[20],
        data[54:],
    )
