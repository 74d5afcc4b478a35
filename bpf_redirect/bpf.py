"""The bpf(2) system call, one function per command that is used here.

Owns: the layout of ``union bpf_attr`` and the translation of errno. Must not know our maps or programs: it deals in
file descriptors and bytes. Descriptors are plain ints that the caller closes. See bpf(2) and linux/bpf.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from bpf_redirect.errors import KernelError, PinMissing, VerifierError

_SYSCALL_NUMBER = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
_ATTR_BYTES = 152
_LOG_BYTES_MAX = 16 << 20
_EAGAIN_RETRIES_MAX = 5
"""BPF_PROG_LOAD returns EAGAIN when a signal interrupts the verifier."""


class Command(IntEnum):
    """``enum bpf_cmd``."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_ATTACH = 8
    PROG_DETACH = 9
    PROG_TEST_RUN = 10
    OBJ_GET_INFO_BY_FD = 15
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_DETACH = 34


class MapType(IntEnum):
    """``enum bpf_map_type``, as far as used."""

    HASH = 1
    ARRAY = 2
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    SOCKHASH = 18
    RINGBUF = 27


class ProgramType(IntEnum):
    """``enum bpf_prog_type``, as far as used."""

    SCHED_CLS = 3
    CGROUP_SKB = 8
    SOCK_OPS = 13
    CGROUP_SOCK_ADDR = 18
    CGROUP_SOCKOPT = 25
    SK_LOOKUP = 30


class AttachType(IntEnum):
    """``enum bpf_attach_type``, as far as used."""

    CGROUP_INET_INGRESS = 0
    CGROUP_INET_EGRESS = 1
    CGROUP_SOCK_OPS = 3
    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_UDP4_SENDMSG = 14
    CGROUP_UDP6_SENDMSG = 15
    CGROUP_GETSOCKOPT = 21
    CGROUP_INET4_GETPEERNAME = 29
    CGROUP_INET6_GETPEERNAME = 30
    SK_LOOKUP = 36
    TCX_INGRESS = 46
    TCX_EGRESS = 47


class MapFlag(IntEnum):
    """``BPF_F_*`` of map creation."""

    NONE = 0
    NO_PREALLOC = 1
    MMAPABLE = 1 << 10


_libc = ctypes.CDLL(None, use_errno=True)


def _call(command: Command, attr: bytes) -> int:
    """Make the call; raise OSError, untranslated."""
    buffer = ctypes.create_string_buffer(attr, _ATTR_BYTES)
    result = _libc.syscall(_SYSCALL_NUMBER[platform.machine()], int(command), buffer, _ATTR_BYTES)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def _checked(command: Command, attr: bytes, doing: str) -> int:
    try:
        return _call(command, attr)
    except OSError as error:
        raise KernelError(doing, error.errno or 0) from error


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


# ---- objects --------------------------------------------------------------------------------------------------------


def pin(fd: int, path: str) -> None:
    """Pin the object in bpffs. FileExistsError's errno comes as KernelError."""
    name = ctypes.create_string_buffer(path.encode())
    _checked(Command.OBJ_PIN, struct.pack("=QII", _address(name), fd, 0), f"pin {path}")


def get(path: str) -> int:
    """Open a pinned map or program; raises PinMissing."""
    name = ctypes.create_string_buffer(path.encode())
    try:
        return _call(Command.OBJ_GET, struct.pack("=QII", _address(name), 0, 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise PinMissing(path) from error
        raise KernelError(f"open {path}", error.errno or 0) from error


def pin_replacing(fd: int, path: str) -> None:
    """Pin so that ``path`` at no time is missing: pin beside it, then rename."""
    beside = os.path.join(os.path.dirname(path), "new-" + os.path.basename(path))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    pin(fd, beside)
    os.rename(beside, path)


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map (``struct bpf_map_info``)."""

    type: int
    id: int
    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int
    name: str


def _info(fd: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    _checked(Command.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, size, _address(buffer)), "ask for an object's info")
    return buffer.raw


def map_info(fd: int) -> MapInfo:
    """Describe a map."""
    raw = _info(fd, 40)
    kind, number, key_bytes, value_bytes, max_entries, flags = struct.unpack_from("=6I", raw)
    return MapInfo(kind, number, key_bytes, value_bytes, max_entries, flags, raw[24:40].split(b"\0")[0].decode())


def program_id(fd: int) -> int:
    """Return the number by which the kernel knows a program."""
    return int(struct.unpack_from("=I", _info(fd, 8), 4)[0])


# ---- maps -----------------------------------------------------------------------------------------------------------


def map_create(name: str, kind: MapType, key_bytes: int, value_bytes: int, max_entries: int, flags: int) -> int:
    """Create a map."""
    attr = struct.pack("=7I16s", kind, key_bytes, value_bytes, max_entries, flags, 0, 0, name.encode()[:15])
    return _checked(Command.MAP_CREATE, attr, f"create map {name} of {max_entries} entries")


def map_lookup(fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """Return the value under ``key``. ``value_bytes`` of a per-CPU map covers all possible CPUs."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value = ctypes.create_string_buffer(value_bytes)
    try:
        _call(Command.MAP_LOOKUP_ELEM, struct.pack("=IIQQQ", fd, 0, _address(key_buffer), _address(value), 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.raw


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Write one entry; raises OSError."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value_buffer = ctypes.create_string_buffer(value, len(value))
    _call(Command.MAP_UPDATE_ELEM, struct.pack("=IIQQQ", fd, 0, _address(key_buffer), _address(value_buffer), 0))


def map_delete(fd: int, key: bytes) -> bool:
    """Delete one entry; return whether it was there."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    try:
        _call(Command.MAP_DELETE_ELEM, struct.pack("=IIQQQ", fd, 0, _address(key_buffer), 0, 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def map_keys(fd: int, key_bytes: int) -> Iterator[bytes]:
    """Iterate over the keys as they stand; entries that come and go meanwhile may be missed or seen twice."""
    current = ctypes.create_string_buffer(key_bytes)
    following = ctypes.create_string_buffer(key_bytes)
    start = 0
    while True:
        try:
            _call(Command.MAP_GET_NEXT_KEY, struct.pack("=IIQQQ", fd, 0, start, _address(following), 0))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        yield following.raw
        current.raw = following.raw
        start = _address(current)


def map_lookup_batch(fd: int, key_bytes: int, value_bytes: int, chunk: int) -> Iterator[tuple[bytes, bytes]]:
    """Iterate over the entries, ``chunk`` per call. For hash and array maps; a too small chunk is doubled."""
    token = ctypes.create_string_buffer(max(key_bytes, 8))
    started = False
    while True:
        keys = ctypes.create_string_buffer(key_bytes * chunk)
        values = ctypes.create_string_buffer(value_bytes * chunk)
        following = ctypes.create_string_buffer(len(token))
        resume = _address(token) if started else 0
        attr = struct.pack("=QQQQIIQQ", resume, _address(following), _address(keys), _address(values), chunk, fd, 0, 0)
        count, done = _batch(Command.MAP_LOOKUP_BATCH, attr)
        if count is None:
            chunk *= 2
            continue
        for index in range(count):
            yield (
                keys.raw[index * key_bytes : (index + 1) * key_bytes],
                values.raw[index * value_bytes : (index + 1) * value_bytes],
            )
        if done:
            return
        token, started = following, True


def _batch(command: Command, attr: bytes) -> tuple[int | None, bool]:
    """Return (entries handled, whether the end was reached); (None, False) when the chunk was too small."""
    buffer = ctypes.create_string_buffer(attr, _ATTR_BYTES)
    result = _libc.syscall(_SYSCALL_NUMBER[platform.machine()], int(command), buffer, _ATTR_BYTES)
    code = ctypes.get_errno() if result < 0 else 0
    count = int(struct.unpack_from("=I", buffer.raw, 32)[0])
    match code:
        case 0:
            return count, False
        case errno.ENOENT:
            return count, True
        case errno.ENOSPC if command is Command.MAP_LOOKUP_BATCH:
            return None, False
        case _:
            raise OSError(code, os.strerror(code))


def map_update_batch(fd: int, entries: Sequence[tuple[bytes, bytes]]) -> int:
    """Write entries in order; return how many were written. Raises OSError when the first of them is refused."""
    if not entries:
        return 0
    keys = ctypes.create_string_buffer(b"".join(key for key, _ in entries), len(entries) * len(entries[0][0]))
    values = ctypes.create_string_buffer(b"".join(value for _, value in entries), len(entries) * len(entries[0][1]))
    attr = struct.pack("=QQQQIIQQ", 0, 0, _address(keys), _address(values), len(entries), fd, 0, 0)
    buffer = ctypes.create_string_buffer(attr, _ATTR_BYTES)
    result = _libc.syscall(_SYSCALL_NUMBER[platform.machine()], int(Command.MAP_UPDATE_BATCH), buffer, _ATTR_BYTES)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return len(entries)


# ---- programs -------------------------------------------------------------------------------------------------------


def program_load(
    name: str, kind: ProgramType, attach_type: int, instructions: bytes, *, license_name: str = "GPL", want_log: bool = False
) -> int:
    """Load a program; raises VerifierError, whose log is taken by a second try."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_buffer = ctypes.create_string_buffer(license_name.encode())

    def attempt(log: ctypes.Array[ctypes.c_char] | None) -> int:
        attr = struct.pack(
            "=IIQQIIQII16sII",
            kind,
            len(instructions) // 8,
            _address(code),
            _address(license_buffer),
            1 if log is not None else 0,
            len(log) if log is not None else 0,
            _address(log) if log is not None else 0,
            0,
            0,
            name.encode()[:15],
            0,
            attach_type,
        )
        for retry in range(_EAGAIN_RETRIES_MAX):
            try:
                return _call(Command.PROG_LOAD, attr)
            except OSError as error:
                if error.errno != errno.EAGAIN or retry == _EAGAIN_RETRIES_MAX - 1:
                    raise
        raise AssertionError("unreachable")

    try:
        return attempt(None)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise KernelError(f"load program {name}", errno.EPERM) from error
        log = ctypes.create_string_buffer(_LOG_BYTES_MAX if want_log else 1 << 20)
        with contextlib.suppress(OSError):
            return attempt(log)
        raise VerifierError(name, error.errno or 0, log.value.decode(errors="replace")) from error


@dataclass(frozen=True, slots=True)
class RunResult:
    """What BPF_PROG_TEST_RUN returned."""

    returned: int
    data: bytes
    context: bytes
    duration_ns: int


def program_run(fd: int, data: bytes, context: bytes = b"", *, repeat: int = 1) -> RunResult:
    """Run a program on a packet (BPF_PROG_TEST_RUN)."""
    data_in = ctypes.create_string_buffer(data, max(len(data), 1))
    data_out = ctypes.create_string_buffer(len(data) + 512)
    context_in = ctypes.create_string_buffer(context, max(len(context), 1))
    context_out = ctypes.create_string_buffer(max(len(context), 1))
    attr = struct.pack(
        "=IIIIQQIIIIQQ",
        fd,
        0,
        len(data),
        len(data_out),
        _address(data_in),
        _address(data_out),
        repeat,
        0,
        len(context),
        len(context),
        _address(context_in) if context else 0,
        _address(context_out) if context else 0,
    )
    buffer = ctypes.create_string_buffer(attr, _ATTR_BYTES)
    result = _libc.syscall(_SYSCALL_NUMBER[platform.machine()], int(Command.PROG_TEST_RUN), buffer, _ATTR_BYTES)
    if result < 0:
        raise KernelError("run a program", ctypes.get_errno())
    _, returned, _, out_bytes = struct.unpack_from("=4I", buffer.raw)
    duration_ns = struct.unpack_from("=I", buffer.raw, 36)[0]
    return RunResult(int(returned), data_out.raw[:out_bytes], context_out.raw[: len(context)], int(duration_ns))


# ---- links ----------------------------------------------------------------------------------------------------------


def link_create(program_fd: int, target: int, attach_type: AttachType) -> int:
    """Attach a program by a link. ``target`` is an interface number for TCX, else a descriptor (cgroup, namespace)."""
    return _checked(
        Command.LINK_CREATE,
        struct.pack("=IIII", program_fd, target, attach_type, 0),
        f"attach {attach_type.name.lower()} to {target}",
    )


def link_update(link_fd: int, program_fd: int) -> None:
    """Replace the program of a link atomically."""
    _checked(Command.LINK_UPDATE, struct.pack("=IIII", link_fd, program_fd, 0, 0), "replace the program of a link")


def link_ifindex(link_fd: int) -> int:
    """Return the interface number of a TCX link; 0 when its interface is gone."""
    return int(struct.unpack_from("=I", _info(link_fd, 64), 16)[0])


def link_detach(link_fd: int) -> None:
    """Detach at once, whoever else holds the link."""
    _checked(Command.LINK_DETACH, struct.pack("=I", link_fd), "detach a link")
