"""What this kernel can do of what the programs need, found out by trying, not by its version.

Owns: the list of what is needed (with the consequence of lacking it and a fix) and how each is tried. It changes nothing: what
it makes is gone when it returns. For ``tidegate doctor``, and for tests to skip for the right reason.

A helper is tried by loading a program that calls it with no arguments: the verifier complains either of the arguments (it is
there) or of an unknown function.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from bpf_redirect import bpf, cgroups, sockets
from bpf_redirect.errors import DatapathError, KernelError, VerifierError
from bpf_redirect.pins import BPFFS, is_bpffs

_NO_INTERFACE = 0x7FFFFFFF
_EXIT = struct.pack("=BBhi", 0x95, 0, 0, 0)
_RETURN_1 = struct.pack("=BBhi", 0xB7, 0, 0, 1) + _EXIT


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that was tried. ``required`` False: something works less well without it, as ``consequence`` says."""

    name: str
    present: bool
    required: bool
    detail: str = ""
    consequence: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class _Need:
    name: str
    test: Callable[[], str]
    """Returns a detail; raises DatapathError or OSError when it is not there."""
    required: bool
    consequence: str
    fix: str


def _call(helper: int) -> bytes:
    return struct.pack("=BBhi", 0x85, 0, 0, helper) + _EXIT


def _try_program(kind: bpf.ProgramType, attach_type: int = 0) -> str:
    os.close(bpf.program_load("tg_probe", kind, attach_type, _RETURN_1))
    return ""


def _try_helper(kind: bpf.ProgramType, helper: int, attach_type: int = 0) -> str:
    try:
        os.close(bpf.program_load("tg_probe", kind, attach_type, _call(helper)))
    except VerifierError as error:
        if "unknown func" in error.log or "invalid func" in error.log or not error.log:
            raise
    return ""


def _try_map(kind: bpf.MapType, key_bytes: int, value_bytes: int, entries: int, flags: int = 0) -> str:
    os.close(bpf.map_create("tg_probe", kind, key_bytes, value_bytes, entries, flags))
    return ""


def _try_tcx() -> str:
    """An interface that can't be there: the kernel looks for it only if it knows the attach type."""
    program = bpf.program_load("tg_probe", bpf.ProgramType.SCHED_CLS, 0, _RETURN_1)
    try:
        os.close(bpf.link_create(program, _NO_INTERFACE, bpf.AttachType.TCX_INGRESS))
    except KernelError as error:
        if error.code != errno.ENODEV:
            raise
    finally:
        os.close(program)
    return ""


def _try_bpffs() -> str:
    if not is_bpffs(BPFFS):
        raise OSError(errno.ENOENT, f"{BPFFS} is not a bpffs")
    return BPFFS


def _try_btf() -> str:
    os.stat("/sys/kernel/btf/vmlinux")
    return "/sys/kernel/btf/vmlinux"


def _try_sock_destroy() -> str:
    """A connection that can't be there."""
    nobody = IPv4Address("0.0.0.0")
    sockets.destroy(nobody, 1, nobody, 1)
    return ""


def _try_transparent() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_IP, 19, 1)
    return ""


def _needs() -> tuple[_Need, ...]:
    tc, address, ops = bpf.ProgramType.SCHED_CLS, bpf.ProgramType.CGROUP_SOCK_ADDR, bpf.ProgramType.SOCK_OPS
    connect4 = bpf.AttachType.CGROUP_INET4_CONNECT
    rights = "run as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN"
    newer = "boot a newer kernel"
    redirects = "no connection can be given to the proxy"
    workloads = "endpoints with `cgroup` can't be enforced"
    return (
        _Need("bpf(2)", lambda: _try_program(tc), True, "no program can be loaded", rights),
        _Need("bpffs", _try_bpffs, False, "mounted when the programs are loaded", "mount -t bpf bpf /sys/fs/bpf"),
        _Need("BTF", _try_btf, False, "bpftool shows maps as bytes", "a kernel with CONFIG_DEBUG_INFO_BTF"),
        _Need("LPM trie", lambda: _try_map(bpf.MapType.LPM_TRIE, 8, 4, 1, 1), True, "no policy map", newer),
        _Need("LRU hash", lambda: _try_map(bpf.MapType.LRU_HASH, 8, 8, 16), True, "no connection tracking", newer),
        _Need("ring buffer", lambda: _try_map(bpf.MapType.RINGBUF, 0, 0, 4096), True, "no events", newer),
        _Need("socket hash", lambda: _try_map(bpf.MapType.SOCKHASH, 4, 4, 1), True, "the programs don't load", newer),
        _Need("bpf_skc_lookup_tcp", lambda: _try_helper(tc, 99), True, redirects, newer),
        _Need("bpf_sk_assign", lambda: _try_helper(tc, 124), True, redirects, newer),
        _Need("transparent sockets", _try_transparent, True, redirects, "CAP_NET_ADMIN for the proxy"),
        _Need("TCX", _try_tcx, False, "clsact filters are used, which other tools may remove", "boot kernel 6.6 or later"),
        _Need(
            "sk_lookup",
            lambda: _try_program(bpf.ProgramType.SK_LOOKUP, bpf.AttachType.SK_LOOKUP),
            True,
            "a client's port in TIME_WAIT at the proxy can't be used again for a minute",
            newer,
        ),
        _Need("sock_ops", lambda: _try_helper(ops, 122), True, "the programs don't load", newer),
        _Need("cgroup v2", lambda: str(cgroups.mount_point()), False, workloads, "mount -t cgroup2 none /sys/fs/cgroup/unified"),
        _Need("bpf_bind at connect", lambda: _try_helper(address, 64, connect4), False, workloads, newer),
        _Need("ancestor cgroup ids", lambda: _try_helper(address, 123, connect4), False, workloads, newer),
        _Need(
            "cgroup getsockopt",
            lambda: _try_program(bpf.ProgramType.CGROUP_SOCKOPT, bpf.AttachType.CGROUP_GETSOCKOPT),
            False,
            workloads,
            "a kernel with CONFIG_CGROUP_BPF",
        ),
        _Need(
            "SOCK_DESTROY",
            _try_sock_destroy,
            False,
            "connections that a policy change moves or denies at the proxy are not closed, only starved",
            "a kernel with CONFIG_INET_DIAG_DESTROY",
        ),
    )


def probe() -> Iterator[Capability]:
    """Try everything; yield what was found in an order in which a fix makes sense after those before it."""
    for need in _needs():
        try:
            detail = need.test()
        except (DatapathError, OSError) as error:
            yield Capability(need.name, False, need.required, str(error), need.consequence, need.fix)
        else:
            yield Capability(need.name, True, need.required, detail)
