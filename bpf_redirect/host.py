"""What the host's network needs besides programs: a rule, two routes, a pair of veths and a few sysctls.

Owns: making these and undoing them. Old sysctl values are saved in the state directory before they are changed, so that
``restore_sysctls`` works after a crash too. Everything is in the network namespace of the calling thread.

 - ``ip rule``: packets marked for the proxy look up a table that says "everything is local" (v4 and v6). Only where there is
   a slot: any rule but the kernel's own makes every route lookup of the host slower.
 - the hairpin: a veth pair; redirects on the way to a pod are sent to its second end, where a socket can be assigned.
 - ``rp_filter`` off where packets come from where the route back doesn't point (the hairpin), forwarding on.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from bpf_redirect.abi import MARK_MASK, MARK_TO_PROXY
from bpf_redirect.errors import HostError, KernelError

ROUTE_TABLE = 2004
RULE_PRIORITY = 9
HAIRPIN = "tg-hairpin0"
HAIRPIN_PEER = "tg-hairpin1"
SYSCTLS_VARIABLE = "TIDEGATE_SYSCTLS"
"""In the environment: where /proc/sys/net of the host is mounted, for containers, whose own can't be written."""
_SAVED_NAME = "sysctls.json"
_FAMILIES = {socket.AF_INET: "0.0.0.0/0", socket.AF_INET6: "::/0"}
_RTN_LOCAL = 2
_RT_SCOPE_HOST = 254


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNames:
    """Names and numbers that a node can change when they collide with its own."""

    route_table: int = ROUTE_TABLE
    rule_priority: int = RULE_PRIORITY
    hairpin: str = HAIRPIN
    hairpin_peer: str = HAIRPIN_PEER


def has_ipv6() -> bool:
    """Whether this host speaks IPv6: its loopback has ::1."""
    return get_sysctl("ipv6/conf/lo/disable_ipv6") == "0"


def _families() -> dict[socket.AddressFamily, str]:
    return {family: everything for family, everything in _FAMILIES.items() if family == socket.AF_INET or has_ipv6()}


def _tolerate(error: NetlinkError, *codes: int) -> None:
    if error.code not in codes:
        raise KernelError("change the host's routing", error.code) from error


def make_routes(names: HostNames) -> None:
    """Add the rules and routes that are not there yet."""
    with IPRoute() as netlink:
        loopback = netlink.link_lookup(ifname="lo")[0]
        netlink.link("set", index=loopback, state="up")
        for family, everything in _families().items():
            try:
                netlink.route(
                    "replace",
                    family=family,
                    dst=everything,
                    oif=loopback,
                    table=names.route_table,
                    type=_RTN_LOCAL,
                    scope=_RT_SCOPE_HOST if family == socket.AF_INET else 0,
                )
                netlink.rule(
                    "add",
                    family=family,
                    fwmark=MARK_TO_PROXY,
                    fwmask=MARK_MASK,
                    table=names.route_table,
                    priority=names.rule_priority,
                )
            except NetlinkError as error:
                _tolerate(error, errno.EEXIST)


def remove_routes(names: HostNames) -> None:
    """Remove our rules and routes."""
    with IPRoute() as netlink:
        for family in _families():
            try:
                netlink.rule(
                    "del",
                    family=family,
                    fwmark=MARK_TO_PROXY,
                    fwmask=MARK_MASK,
                    table=names.route_table,
                    priority=names.rule_priority,
                )
            except NetlinkError as error:
                _tolerate(error, errno.ENOENT, errno.EAFNOSUPPORT)
            try:
                netlink.flush_routes(family=family, table=names.route_table)
            except NetlinkError as error:
                _tolerate(error, errno.ENOENT, errno.ESRCH)


def make_hairpin(names: HostNames) -> int:
    """Create the pair if need be, bring it up; return the number of the end to redirect to."""
    with IPRoute() as netlink:
        if not netlink.link_lookup(ifname=names.hairpin_peer):
            try:
                netlink.link("add", ifname=names.hairpin, kind="veth", peer={"ifname": names.hairpin_peer})
            except NetlinkError as error:
                raise KernelError(f"create the veth pair {names.hairpin}", error.code) from error
        for name in (names.hairpin, names.hairpin_peer):
            set_sysctl(f"ipv6/conf/{name}/addr_gen_mode", "1")
            set_sysctl(f"ipv4/conf/{name}/rp_filter", "0")
            set_sysctl(f"ipv4/conf/{name}/accept_local", "1")  # this host's servers answer the proxy by this way
            index = netlink.link_lookup(ifname=name)[0]
            netlink.link("set", index=index, mtu=65535, state="up")
        return int(netlink.link_lookup(ifname=names.hairpin_peer)[0])


def remove_hairpin(names: HostNames) -> None:
    """Delete the pair."""
    with IPRoute() as netlink:
        for index in netlink.link_lookup(ifname=names.hairpin):
            with contextlib.suppress(NetlinkError):
                netlink.link("del", index=index)


# ---- sysctls --------------------------------------------------------------------------------------------------------


def _sysctl_root() -> Path:
    return Path(os.environ.get(SYSCTLS_VARIABLE) or "/proc/sys/net")


def get_sysctl(name: str) -> str | None:
    """Return a value below ``net``; None when this kernel has no such knob."""
    try:
        return (_sysctl_root() / name).read_text().strip()
    except OSError:
        return None


def set_sysctl(name: str, value: str) -> None:
    """Set a value below ``net`` if the knob exists; raises HostError when the kernel refuses."""
    path = _sysctl_root() / name
    if not path.exists():
        return
    try:
        path.write_text(value)
    except OSError as error:
        raise HostError(
            f"set {name} to {value}: {os.strerror(error.errno or 0)}", "is /proc/sys read-only in this container?"
        ) from error


def _interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def wanted_sysctls(names: HostNames) -> dict[str, str]:
    """Return what has to change now: forwarding on, reverse-path filtering not decided for all interfaces at once.

    The kernel takes the stricter of ``all`` and the interface's own rp_filter. A strict ``all`` therefore becomes 0, and
    every other interface gets what it had by it. Turning on IPv6 forwarding makes an interface with accept_ra=1 ignore
    router advertisements, and lose its default route; 2 keeps them.
    """
    wanted: dict[str, str] = {}
    if get_sysctl("ipv4/ip_forward") == "0":
        wanted["ipv4/ip_forward"] = "1"
    strict = get_sysctl("ipv4/conf/all/rp_filter")
    if strict == "1":
        for name in _interfaces():
            if name not in (names.hairpin, names.hairpin_peer) and get_sysctl(f"ipv4/conf/{name}/rp_filter") == "0":
                wanted[f"ipv4/conf/{name}/rp_filter"] = strict
        wanted["ipv4/conf/all/rp_filter"] = "0"
    if get_sysctl("ipv6/conf/all/forwarding") == "0":
        for name in _interfaces():
            if get_sysctl(f"ipv6/conf/{name}/accept_ra") == "1":
                wanted[f"ipv6/conf/{name}/accept_ra"] = "2"
        wanted["ipv6/conf/all/forwarding"] = "1"
    return wanted


def change_sysctls(wanted: Mapping[str, str], state_directory: Path) -> None:
    """Save the old values (once), then set the new ones."""
    saved = _saved_sysctls(state_directory)
    new = {name: value for name, value in wanted.items() if name not in saved}
    if new:
        saved |= {name: get_sysctl(name) or "" for name in new}
        state_directory.mkdir(parents=True, exist_ok=True)
        beside = state_directory / (_SAVED_NAME + ".new")
        beside.write_text(json.dumps(saved, indent=1, sort_keys=True))
        beside.rename(state_directory / _SAVED_NAME)
    for name, value in wanted.items():
        set_sysctl(name, value)


def _saved_sysctls(state_directory: Path) -> dict[str, str]:
    try:
        loaded = json.loads((state_directory / _SAVED_NAME).read_text())
    except FileNotFoundError:
        return {}
    return {str(name): str(value) for name, value in loaded.items()}


def restore_sysctls(state_directory: Path) -> None:
    """Set everything back to the saved values and forget them. ``all`` comes first: it overwrites the others' values."""
    saved = _saved_sysctls(state_directory)
    for name in sorted(saved, key=lambda name: "/all/" not in name):
        if saved[name]:
            set_sysctl(name, saved[name])
    (state_directory / _SAVED_NAME).unlink(missing_ok=True)


def quiet_veth(interface: str, state_directory: Path) -> None:
    """Turn off reverse-path filtering on a pod's veth: the proxy sends from addresses of other pods."""
    name = f"ipv4/conf/{interface}/rp_filter"
    if get_sysctl(name) not in (None, "0"):
        change_sysctls({name: "0"}, state_directory)
