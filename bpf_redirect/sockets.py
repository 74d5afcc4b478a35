"""The proxy's sockets, by sock_diag(7): which ports are listened on, and closing connections.

Owns: the netlink messages of inet_diag. Everything is in the network namespace of the calling thread.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from bpf_redirect.encode import Address, unpacked_address
from bpf_redirect.errors import KernelError

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_SOCK_DESTROY = 21
_NLM_F_REQUEST = 1
_NLM_F_ACK = 4
_NLM_F_DUMP = 0x300
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_INET_DIAG_MARK = 15
_TCP_LISTEN = 10
_TCP_TIME_WAIT = 6
_UNCONNECTED = 7
_NO_COOKIE = 0xFFFFFFFF
_LIVE_STATES = 0xFFF & ~(1 << _TCP_LISTEN) & ~(1 << _TCP_TIME_WAIT) & ~(1 << 7)
_HEADER_BYTES = 16
_MESSAGE_BYTES = 72
_COOKIE_OFFSET = 44
"""Of inet_diag_msg: four bytes, two ports, two addresses, an interface, then the cookie."""
_RECEIVE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """One TCP socket of this host. ``mark`` is 0 where the kernel doesn't tell (it needs CAP_NET_ADMIN)."""

    local: Address
    local_port: int
    remote: Address
    remote_port: int
    state: int
    mark: int


def _request(family: int, states: int, extensions: int = 0, socket_id: bytes = bytes(48)) -> bytes:
    return struct.pack("=BBBBI", family, socket.IPPROTO_TCP, extensions, 0, states) + socket_id


def _exchange(kind: int, flags: int, body: bytes) -> Iterator[bytes]:
    """Send one request, yield the bodies of the answers; raises OSError for an error answer."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
        netlink.bind((0, 0))
        netlink.send(struct.pack("=IHHII", _HEADER_BYTES + len(body), kind, flags | _NLM_F_REQUEST, 1, 0) + body)
        while True:
            data = netlink.recv(_RECEIVE_BYTES)
            offset = 0
            while offset + _HEADER_BYTES <= len(data):
                length, answer = struct.unpack_from("=IH", data, offset)
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", data, offset + _HEADER_BYTES)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return
                yield data[offset + _HEADER_BYTES : offset + length]
                offset += (length + 3) & ~3


def _address(family: int, raw: bytes) -> Address:
    return IPv4Address(raw[:4]) if family == socket.AF_INET else unpacked_address(raw)


def _decode(body: bytes) -> TcpSocket:
    family, state = struct.unpack_from("=BB", body)
    local_port, remote_port = struct.unpack_from("!HH", body, 4)
    mark = 0
    offset = _MESSAGE_BYTES
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if kind == _INET_DIAG_MARK:
            (mark,) = struct.unpack_from("=I", body, offset + 4)
        offset += max(4, (length + 3) & ~3)
    return TcpSocket(_address(family, body[8:24]), local_port, _address(family, body[24:40]), remote_port, state, mark)


def _dump(states: int) -> Iterator[TcpSocket]:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            for body in _exchange(_SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP, _request(family, states, 1 << (_INET_DIAG_MARK - 1) & 0xFF)):
                yield _decode(body)
        except OSError as error:
            raise KernelError("list TCP sockets", error.errno or 0) from error


def listening() -> frozenset[tuple[Address, int]]:
    """Return (address, port) of every TCP listener."""
    return frozenset((item.local, item.local_port) for item in _dump(1 << _TCP_LISTEN))


def bound_udp() -> frozenset[tuple[Address, int]]:
    """Return (address, port) of every UDP socket that takes datagrams from anyone. By /proc: udp_diag is often left out."""
    found: set[tuple[Address, int]] = set()
    for name in ("udp", "udp6"):
        try:
            with open(f"/proc/thread-self/net/{name}", encoding="ascii") as file:
                lines = file.read().splitlines()[1:]
        except FileNotFoundError:
            continue  # a host without IPv6
        for line in lines:
            _, local, _, state, *_ = line.split()
            if int(state, 16) == _UNCONNECTED:
                address, _, port = local.partition(":")
                found.add((_proc_address(address), int(port, 16)))
    return frozenset(found)


def _proc_address(text: str) -> Address:
    """Return the address that /proc/net writes as words of the host's byte order."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    return IPv4Address(raw) if len(raw) == 4 else unpacked_address(raw)


def connections() -> Iterator[TcpSocket]:
    """Iterate over TCP sockets that are neither listening nor gone."""
    yield from _dump(_LIVE_STATES)


def destroy(local: IPv4Address | IPv6Address, local_port: int, remote: IPv4Address | IPv6Address, remote_port: int) -> bool:
    """Close one connection with a RST to the peer; return whether there was one. Needs CONFIG_INET_DIAG_DESTROY.

    The kernel looks the addresses up as it does for a packet: where the connection is gone it finds the listener, and would
    close that. So the socket is found first, and destroyed by its cookie.
    """
    family = socket.AF_INET if local.version == 4 else socket.AF_INET6
    addresses = (
        struct.pack("!HH", local_port, remote_port) + local.packed.ljust(16, b"\0") + remote.packed.ljust(16, b"\0") + bytes(4)
    )
    try:
        found = next(
            _exchange(_SOCK_DIAG_BY_FAMILY, 0, _request(family, 0, 0, addresses + struct.pack("=II", _NO_COOKIE, _NO_COOKIE)))
        )
        if not _LIVE_STATES >> found[1] & 1:
            return False
        cookie = found[_COOKIE_OFFSET : _COOKIE_OFFSET + 8]
        for _ in _exchange(_SOCK_DESTROY, _NLM_F_ACK, _request(family, _LIVE_STATES, 0, addresses + cookie)):
            pass
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return False
        raise KernelError("close a connection", error.errno or 0, "SOCK_DESTROY needs CONFIG_INET_DIAG_DESTROY") from error
    return True
