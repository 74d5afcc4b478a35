"""Which interface of this node leads to which pod: asked of the kernel, not of a container runtime or a CNI plugin.

Owns: the netlink look. The host side of a veth names its peer by network namespace id and index (IFLA_LINK_NETNSID, IFLA_LINK);
the addresses in that namespace can be asked for from here (IFA_TARGET_NETNSID). So whoever made the veth, and whether it ends in
a route, a bridge or an OVS, the pod's address leads to it. Needs CAP_NET_ADMIN and Linux 5.0. Must not know pods or policies.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

_SOL_NETLINK = 270
_NETLINK_GET_STRICT_CHK = 12
_NLM_F_REQUEST_DUMP = 0x1 | 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_GETLINK, _RTM_GETADDR = 18, 22
_IFLA_IFNAME, _IFLA_LINK, _IFLA_LINK_NETNSID = 3, 5, 37
_IFA_ADDRESS, _IFA_TARGET_NETNSID = 1, 10
_READ_BYTES = 1 << 18
VETHS_MAX = 8192
"""Of one node; far beyond the pods that a kubelet takes."""
_LINK_HEADER, _ADDRESS_HEADER = struct.Struct("=BBHiII"), struct.Struct("=BBBBI")
_MESSAGE_HEADER = struct.Struct("=IHHII")


@dataclass(frozen=True, slots=True)
class Veth:
    """An interface whose other end is in another network namespace."""

    name: str
    index: int
    peer_index: int
    namespace_id: int
    """The kernel's number for the other namespace, as seen from this one."""


class VethLook:
    """Looks for the interfaces that lead to addresses. Remembers veths that it has asked about; not thread-safe."""

    def __init__(self) -> None:
        self._known: dict[Veth, frozenset[Address]] = {}

    def interfaces_of(self, addresses: Iterable[Address]) -> Mapping[Address, str]:
        """Return the interface that leads to each of ``addresses``, for those that one leads to. Raises OSError."""
        wanted = frozenset(addresses)
        with _Netlink() as netlink:
            present = list(netlink.veths())[:VETHS_MAX]
            known = {veth: self._known[veth] for veth in present if veth in self._known}
            found = {veth: known.get(veth, frozenset()) & wanted for veth in present}
            missing = wanted - frozenset().union(*found.values())
            # A namespace may have got its address after it was asked about.
            for veth in present if missing else ():
                if known.get(veth) and not known[veth].isdisjoint(wanted):
                    continue
                known[veth] = netlink.addresses_behind(veth)
                found[veth] = known[veth] & wanted
            self._known = known
        return {address: veth.name for veth, some in found.items() for address in some}


class _Netlink:
    """A netlink socket for dumps."""

    def __enter__(self) -> _Netlink:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        self._socket.settimeout(5.0)
        self._sequence = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def veths(self) -> Iterator[Veth]:
        """Yield every interface with a peer in another namespace."""
        for body in self._dump(_RTM_GETLINK, _LINK_HEADER.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0)):
            _, _, _, index, _, _ = _LINK_HEADER.unpack_from(body)
            attributes = dict(_attributes(body[_LINK_HEADER.size :]))
            if _IFLA_LINK in attributes and _IFLA_LINK_NETNSID in attributes:
                (peer,) = struct.unpack("=i", attributes[_IFLA_LINK])
                (namespace,) = struct.unpack("=i", attributes[_IFLA_LINK_NETNSID])
                if namespace >= 0:
                    name = attributes[_IFLA_IFNAME].rstrip(b"\0").decode(errors="replace")
                    yield Veth(name, index, peer, namespace)

    def addresses_behind(self, veth: Veth) -> frozenset[Address]:
        """Return the addresses of the veth's other end; none if it is gone."""
        found: set[Address] = set()
        target = struct.pack("=HHi", 8, _IFA_TARGET_NETNSID, veth.namespace_id)
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _ADDRESS_HEADER.pack(family, 0, 0, 0, veth.peer_index) + target
            try:
                for body in self._dump(_RTM_GETADDR, request):
                    (_, _, _, _, index) = _ADDRESS_HEADER.unpack_from(body)
                    raw = dict(_attributes(body[_ADDRESS_HEADER.size :])).get(_IFA_ADDRESS)
                    if raw is not None and index == veth.peer_index:
                        found.add(IPv4Address(raw) if family == socket.AF_INET else IPv6Address(raw))
            except OSError:  # the namespace or the device went meanwhile
                continue
        return frozenset(found)

    def _dump(self, kind: int, request: bytes) -> list[bytes]:
        """Return the bodies of all answers. Raises OSError."""
        self._sequence += 1
        header = _MESSAGE_HEADER.pack(_MESSAGE_HEADER.size + len(request), kind, _NLM_F_REQUEST_DUMP, self._sequence, 0)
        self._socket.send(header + request)
        bodies: list[bytes] = []
        while True:
            data = self._socket.recv(_READ_BYTES)
            at = 0
            while at + _MESSAGE_HEADER.size <= len(data):
                size, message, _, sequence, _ = _MESSAGE_HEADER.unpack_from(data, at)
                body = data[at + _MESSAGE_HEADER.size : at + size]
                at += (size + 3) & ~3
                if sequence != self._sequence:
                    continue
                if message in (_NLMSG_DONE, _NLMSG_ERROR):
                    (code,) = struct.unpack_from("=i", body) if len(body) >= 4 else (0,)
                    if code < 0:
                        raise OSError(-code, "netlink dump")
                    return bodies
                bodies.append(body)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3
