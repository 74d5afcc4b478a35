"""What this machine has at the moment: interfaces, addresses, default routes, cgroups.

Owns: reading them, and noticing that they changed. Must not know policies or BPF. Notices carry no content: whoever is woken
reads everything anew, so no notice can be misunderstood and a lost one (a full netlink buffer) costs nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from pyroute2 import IPRoute

from bpf_redirect.cgroups import cgroup_id, directory_of
from bpf_redirect.errors import HostError

Address = IPv4Address | IPv6Address

_RTMGRP_LINK = 0x1
_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV4_ROUTE = 0x40
_RTMGRP_IPV6_IFADDR = 0x100
_RTMGRP_IPV6_ROUTE = 0x400
_READ_BYTES = 1 << 16
_RT_TABLE_MAIN = 254


def interface_indices(names: Iterable[str]) -> dict[str, int]:
    """Return the index of each of ``names`` that exists now."""
    existing = {name: index for index, name in socket.if_nameindex()}
    return {name: existing[name] for name in names if name in existing}


def node_addresses() -> tuple[Address, ...]:
    """Return every address of this host but the loopback ones, sorted."""
    with IPRoute() as route:
        messages = list(route.get_addr())
    found: set[Address] = set()
    for message in messages:
        text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        address = ip_address(text)
        if not address.is_loopback:
            found.add(address)
    return tuple(sorted(found, key=lambda address: (address.version, int(address))))


def default_route_interfaces() -> tuple[str, ...]:
    """Return the interfaces of the default routes of both families, sorted."""
    names = dict(socket.if_nameindex())
    found: set[str] = set()
    with IPRoute() as route:
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in route.get_routes(family=family, dst_len=0, table=_RT_TABLE_MAIN):
                index = message.get_attr("RTA_OIF")
                if message["dst_len"] == 0 and index in names:
                    found.add(names[index])
    return tuple(sorted(found))


def foreign_veths() -> dict[str, int]:
    """Return the veths of this namespace whose other end is in another one: the doors of containers and pods."""
    with IPRoute() as route:
        messages = list(route.get_links(kind="veth"))
    return {
        str(message.get_attr("IFLA_IFNAME")): int(message["index"])
        for message in messages
        if message.get_attr("IFLA_LINK_NETNSID") is not None
    }


def cgroup_ids(paths: Iterable[str]) -> dict[str, int]:
    """Return the id (inode number) of each cgroup that exists now."""
    found: dict[str, int] = {}
    for path in paths:
        try:
            found[path] = cgroup_id(directory_of(path))
        except (HostError, OSError):  # not there (any more)
            continue
    return found


class ChangeNotice:
    """A netlink socket that becomes readable when a link, an address or a route changes. Use on one event loop."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setblocking(False)
        groups = _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR | _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_ROUTE
        self._socket.bind((0, groups))

    def close(self) -> None:
        """Stop noticing."""
        self._socket.close()

    async def wait(self) -> None:
        """Return once something changed since the last call."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._socket.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._socket.fileno())
        self._drain()

    def _drain(self) -> None:
        while True:
            try:
                self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: notices were lost, which is a notice too
                continue
