"""Attaching pinned programs: to interfaces, cgroups and the network namespace.

An interface gets a TCX link (kernel 6.6), pinned: it outlives every process, stands beside other programs on the same hook
and has its program replaced atomically. On older kernels: a clsact filter of our own priority, which the interface itself
keeps. cgroups and the namespace get pinned links.

Owns: the naming of link pins (bpffs allows no dot in a name). Must not know what the programs do.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from bpf_redirect import bpf
from bpf_redirect.errors import HostError, KernelError, PinMissing
from bpf_redirect.pins import PinRoot

FILTER_PRIORITY = 2
"""Of clsact filters; 1 is what other tools take first."""
FILTER_HANDLE = 0x7467
_ARPHRD_ETHER = 1
_SIOCGIFHWADDR = 0x8927
_PARENT = {"in": 0xFFFFFFF2, "out": 0xFFFFFFF3}
_CLSACT_HANDLE = 0xFFFF0000


class Side(StrEnum):
    """Which way packets go at an interface's hook."""

    INGRESS = "in"
    EGRESS = "out"


class Method(StrEnum):
    """How a program is attached to an interface."""

    TCX = "tcx"
    CLSACT = "clsact"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One program on one side of one interface."""

    interface: str
    ifindex: int
    side: Side
    program: str
    method: Method


def ifindex_of(interface: str) -> int:
    """Return the interface's number; raises HostError."""
    try:
        return socket.if_nametoindex(interface)
    except OSError as error:
        raise HostError(f"there is no interface {interface}", "is the endpoint's interface the host side of its veth?") from error


def require_ethernet(interface: str) -> None:
    """Raise HostError for a device whose packets don't begin with an Ethernet header: our programs would misread them."""
    ifindex_of(interface)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFHWADDR, struct.pack("16s24x", interface.encode()))
    (kind,) = struct.unpack_from("=H", answer, 16)
    if kind != _ARPHRD_ETHER:
        hint = "leave it out of `uplinks`, and set net.ipv4.tcp_early_demux=0 if pods are reached by it"
        raise HostError(f"{interface} is not an Ethernet device (ARPHRD {kind})", hint)


def link_name(interface: str, side: Side) -> str:
    """Return the name of the pin of an interface's link."""
    return f"{side}-{interface.replace('.', '+')}"


def interface_of(name: str) -> tuple[Side, str] | None:
    """Read a pin's name; None when it is not an interface's."""
    side, _, interface = name.partition("-")
    if side not in tuple(Side):
        return None
    return Side(side), interface.replace("+", ".")


def _attach_link(root: PinRoot, name: str, program_fd: int, target: int, kind: bpf.AttachType, ifindex: int | None) -> None:
    """Make the pinned link, or give the one that is there this program."""
    path = root.link(name)
    try:
        link_fd = bpf.get(path)
    except PinMissing:
        link_fd = -1
    if link_fd >= 0:
        try:
            if ifindex is None or bpf.link_ifindex(link_fd) == ifindex:
                bpf.link_update(link_fd, program_fd)
                return
        except KernelError as error:
            if error.code not in (errno.ENOLINK, errno.EINVAL, errno.ENOENT):
                raise
        finally:
            os.close(link_fd)
        os.unlink(path)  # of an interface that is gone
    link_fd = bpf.link_create(program_fd, target, kind)
    try:
        bpf.pin(link_fd, path)
    finally:
        os.close(link_fd)


def _attach_filter(ifindex: int, side: Side, program_fd: int, program: str) -> None:
    with IPRoute() as netlink:
        with contextlib.suppress(NetlinkError):
            netlink.tc("add", "clsact", ifindex)
        try:
            netlink.tc(
                "replace-filter",
                "bpf",
                ifindex,
                handle=FILTER_HANDLE,
                parent=_PARENT[side],
                prio=FILTER_PRIORITY,
                fd=program_fd,
                name=program,
                direct_action=True,
                classid=1,
            )
        except NetlinkError as error:
            raise KernelError(f"attach {program} by clsact", error.code) from error


def attach_interface(root: PinRoot, interface: str, side: Side, program: str, *, method: Method | None = None) -> Attachment:
    """Attach a pinned program, or replace the one that is attached. ``method`` None: TCX if the kernel has it."""
    ifindex = ifindex_of(interface)
    program_fd = bpf.get(root.program(program))
    try:
        if method is not Method.CLSACT:
            kind = bpf.AttachType.TCX_INGRESS if side is Side.INGRESS else bpf.AttachType.TCX_EGRESS
            try:
                _attach_link(root, link_name(interface, side), program_fd, ifindex, kind, ifindex)
                return Attachment(interface, ifindex, side, program, Method.TCX)
            except KernelError as error:
                if method is Method.TCX or error.code != errno.EINVAL:
                    raise
        _attach_filter(ifindex, side, program_fd, program)
        return Attachment(interface, ifindex, side, program, Method.CLSACT)
    finally:
        os.close(program_fd)


def detach_interface(root: PinRoot, interface: str, side: Side) -> None:
    """Remove our program; nothing happens if it is not there (or the interface is gone)."""
    with contextlib.suppress(FileNotFoundError):
        _remove_link(root.link(link_name(interface, side)))
    try:
        ifindex = socket.if_nametoindex(interface)
    except OSError:
        return
    with IPRoute() as netlink:
        with contextlib.suppress(NetlinkError):
            netlink.tc("del-filter", "bpf", ifindex, handle=FILTER_HANDLE, parent=_PARENT[side], prio=FILTER_PRIORITY)
        if not any(_filters(netlink, ifindex, parent) for parent in _PARENT.values()):
            with contextlib.suppress(NetlinkError):
                netlink.tc("del", "clsact", ifindex)


def _filters(netlink: IPRoute, ifindex: int, parent: int) -> list[Any]:
    try:
        return list(netlink.get_filters(index=ifindex, parent=parent))
    except NetlinkError:
        return []


def _remove_link(path: str) -> None:
    """Unpin, and detach at once even if somebody else holds the link."""
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    link_fd = bpf.get(path)
    try:
        with contextlib.suppress(KernelError):  # its target is gone: nothing to detach from
            bpf.link_detach(link_fd)
    finally:
        os.close(link_fd)
    os.unlink(path)


def attach_by_link(root: PinRoot, name: str, program: str, target_path: str, kind: bpf.AttachType) -> None:
    """Attach a pinned program to a cgroup directory or a network namespace file, or replace the one that is there."""
    program_fd = bpf.get(root.program(program))
    try:
        try:
            target = os.open(target_path, os.O_RDONLY)
        except OSError as error:
            raise HostError(f"open {target_path}: {os.strerror(error.errno or 0)}") from error
        try:
            _attach_link(root, name, program_fd, target, kind, None)
        finally:
            os.close(target)
    finally:
        os.close(program_fd)


def detach_by_link(root: PinRoot, name: str) -> None:
    """Remove a link made by ``attach_by_link``."""
    with contextlib.suppress(FileNotFoundError):
        _remove_link(root.link(name))


def replace_by_link(root: PinRoot, name: str, program: str) -> None:
    """Give a pinned link another program; a link whose target is gone is removed."""
    program_fd = bpf.get(root.program(program))
    link_fd = bpf.get(root.link(name))
    try:
        bpf.link_update(link_fd, program_fd)
    except KernelError as error:
        if error.code != errno.ENOLINK:
            raise
        os.unlink(root.link(name))
    finally:
        os.close(link_fd)
        os.close(program_fd)


def remove_filters(interface: str) -> None:
    """Remove the clsact filters that we left on an interface of an older kernel."""
    with contextlib.suppress(OSError), IPRoute() as netlink:
        ifindex = socket.if_nametoindex(interface)
        for side, parent in _PARENT.items():
            if any(_is_ours(item) for item in _filters(netlink, ifindex, parent)):
                detach_interface(PinRoot("/nonexistent"), interface, Side(side))


def _is_ours(item: Any) -> bool:
    options = item.get_attr("TCA_OPTIONS")
    name = options.get_attr("TCA_BPF_NAME") if options is not None else None
    return item["handle"] == FILTER_HANDLE and str(name or "").startswith("tg_")


def attached_links(root: PinRoot) -> tuple[str, ...]:
    """Return the names of all pinned links."""
    with contextlib.suppress(FileNotFoundError):
        return tuple(sorted(os.listdir(root.links)))
    return ()
