"""Transparent sockets: made, bound and read as the redirect needs them.

Owns: socket options, original destinations, replies in a server's name. Must not know DNS.

Replies leave by a raw socket with the server's address and port in their headers, not by a socket bound to them: binding would
clash with a resolver that runs on this very host (node-local DNS) and could take its packets; and one raw socket serves every
server there is. The raw sockets are bound to an address that no packet has, so nothing is ever delivered to them.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

from proxylib.dns.cache import address_text, parse_address
from proxylib.dns.message import Address

IP_TRANSPARENT = 19
IP_RECVORIGDSTADDR = 20
IPV6_RECVORIGDSTADDR = 74
IPV6_TRANSPARENT = 75
IP_PKTINFO = 8
IP_BIND_ADDRESS_NO_PORT = 24
SO_RCVBUFFORCE = 33

LISTEN_BACKLOG = 512
RECEIVE_BUFFER_BYTES = 4 << 20
"""A burst of some thousand queries waits here while answers are worked on."""
ANCILLARY_BYTES = 64
_RAW_ADDRESSES = {socket.AF_INET: "127.255.255.254", socket.AF_INET6: "100::1"}
_DESTINATION_V4 = struct.Struct("!2xH4s")
_DESTINATION_V6 = struct.Struct("!2xH4x16s")
_UDP_HEADER = struct.Struct("!HHHH")

Ancillary = list[tuple[int, int, bytes]]


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _transparent(family: int, kind: int) -> socket.socket:
    made = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    return made


def udp_listener(address: str, port: int, mark: int) -> socket.socket:
    """Return a bound socket whose packets come with their original destination."""
    made = _transparent(_family(address), socket.SOCK_DGRAM)
    try:
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, IP_RECVORIGDSTADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        made.bind((address, port))
    except BaseException:
        made.close()
        raise
    return made


def tcp_listener(address: str, port: int, mark: int) -> socket.socket:
    """Return a listening socket; what it accepts has the original destination as its own address."""
    made = _transparent(_family(address), socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        made.bind((address, port))
        made.listen(LISTEN_BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


def upstream(kind: socket.SocketKind, source: str, server: tuple[str, int], mark: int) -> socket.socket:
    """Return a socket from ``source`` (a pod's; the kernel picks a port) that is connected, or connecting, to ``server``."""
    made = _transparent(_family(source), kind)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)  # ports are unique per connection, not per pod
        made.bind((source, 0))
        made.connect(server)
    except BlockingIOError:
        return made  # TCP: the epoll loop says when
    except BaseException:
        made.close()
        raise
    return made


def original_destination(ancillary: Ancillary) -> tuple[str, int]:
    """Return where a datagram was addressed to; raises ValueError if the kernel did not say."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_RECVORIGDSTADDR:
            port, address = _DESTINATION_V4.unpack_from(data)
            return address_text(Address(address)), port
        if level == socket.IPPROTO_IPV6 and kind == IPV6_RECVORIGDSTADDR:
            port, address = _DESTINATION_V6.unpack_from(data)
            return address_text(Address(address)), port
    raise ValueError("datagram without its original destination")


class ReplySocket:
    """Sends UDP datagrams of one address family from any address and port."""

    def __init__(self, family: socket.AddressFamily, mark: int) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(family, kind, socket.IPPROTO_UDP)
        if family == socket.AF_INET6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        else:
            self._socket.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        self._socket.bind((_RAW_ADDRESSES[family], 0))

    def send(self, data: bytes, sender: Sender, client: tuple[str, int]) -> None:
        """Send ``data`` from ``sender`` to ``client``; raises OSError."""
        size = len(data) + _UDP_HEADER.size
        # One's complement sums are residues modulo 65535, which Python takes of the whole datagram at once (RFC 1071).
        total = sender.sum + client[1] + 2 * size + int.from_bytes(data if size % 2 == 0 else data + b"\0", "big")
        header = _UDP_HEADER.pack(sender.port, client[1], size, 65535 - total % 65535)
        self._socket.sendmsg((header, data), sender.ancillary, 0, (client[0], 0))

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class Sender:
    """A server towards one client's address: what every reply has in common."""

    __slots__ = ("ancillary", "port", "sum")

    def __init__(self, server: tuple[str, int], client: str) -> None:
        address = parse_address(server[0])
        self.port = server[1]
        self.sum = socket.IPPROTO_UDP + self.port + int.from_bytes(address + parse_address(client), "big") % 65535
        self.ancillary: Iterable[tuple[int, int, bytes]]
        if len(address) == 4:
            self.ancillary = ((socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4x", 0, address)),)
        else:
            self.ancillary = ((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16sI", address, 0)),)
