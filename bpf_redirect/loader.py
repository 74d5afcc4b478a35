"""Compile and load the programs: a short-lived process of its own, ``python -m bpf_redirect.loader``.

bcc costs a hundred megabytes and a second, so it lives here and the agent never imports it. bcc is used as a compiler
only: the maps are made (or reused) and pinned first, their descriptors go to the compiler as numbers (``lib/maps.h``), and
the instructions that come back are loaded by ``bpf.py``. So a map's content survives a reload, programs are replaced by
one rename each, and the verifier's words reach the user.

A map whose layout or size is not what is wanted any more is replaced by an empty one; the report names it. The result goes
to stdout as one JSON object: ``{"ok": true, ...LoadReport}`` or ``{"ok": false, "kind": ..., "message": ..., "log": ...}``.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import glob
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from bpf_redirect import bpf
from bpf_redirect.errors import CompileError, DatapathError, KernelError, PinMissing, VerifierError
from bpf_redirect.maps import MapSizes, MapSpec, specs
from bpf_redirect.pins import DEFAULT_ROOT, PinRoot

SOURCE_DIRECTORY = os.path.dirname(os.path.abspath(__file__))


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """One program: its function in datapath.c is its name (at most 15 characters)."""

    name: str
    type: bpf.ProgramType
    attach_type: int = 0


PROGRAMS = (
    ProgramSpec("tg_from_endp", bpf.ProgramType.SCHED_CLS),
    ProgramSpec("tg_to_endp", bpf.ProgramType.SCHED_CLS),
    ProgramSpec("tg_from_net", bpf.ProgramType.SCHED_CLS),
    ProgramSpec("tg_from_hair", bpf.ProgramType.SCHED_CLS),
    ProgramSpec("tg_sk_lookup", bpf.ProgramType.SK_LOOKUP, bpf.AttachType.SK_LOOKUP),
    ProgramSpec("tg_connect4", bpf.ProgramType.CGROUP_SOCK_ADDR, bpf.AttachType.CGROUP_INET4_CONNECT),
    ProgramSpec("tg_connect6", bpf.ProgramType.CGROUP_SOCK_ADDR, bpf.AttachType.CGROUP_INET6_CONNECT),
    ProgramSpec("tg_sendmsg4", bpf.ProgramType.CGROUP_SOCK_ADDR, bpf.AttachType.CGROUP_UDP4_SENDMSG),
    ProgramSpec("tg_sendmsg6", bpf.ProgramType.CGROUP_SOCK_ADDR, bpf.AttachType.CGROUP_UDP6_SENDMSG),
    ProgramSpec("tg_getpeer4", bpf.ProgramType.CGROUP_SOCK_ADDR, bpf.AttachType.CGROUP_INET4_GETPEERNAME),
    ProgramSpec("tg_getpeer6", bpf.ProgramType.CGROUP_SOCK_ADDR, bpf.AttachType.CGROUP_INET6_GETPEERNAME),
    ProgramSpec("tg_cg_egress", bpf.ProgramType.CGROUP_SKB, bpf.AttachType.CGROUP_INET_EGRESS),
    ProgramSpec("tg_cg_ingress", bpf.ProgramType.CGROUP_SKB, bpf.AttachType.CGROUP_INET_INGRESS),
    ProgramSpec("tg_sock_ops", bpf.ProgramType.SOCK_OPS, bpf.AttachType.CGROUP_SOCK_OPS),
    ProgramSpec("tg_getsockopt", bpf.ProgramType.CGROUP_SOCKOPT, bpf.AttachType.CGROUP_GETSOCKOPT),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What a load did."""

    programs: tuple[str, ...]
    maps_created: tuple[str, ...]
    maps_reused: tuple[str, ...]
    maps_replaced: tuple[str, ...]
    compile_ms: int
    load_ms: int


@dataclass(frozen=True, slots=True)
class _OpenMap:
    fd: int
    outcome: str


def _open_map(spec: MapSpec, path: str) -> _OpenMap:
    """Reuse the pinned map if it is the wanted one, else make it and pin it."""
    try:
        fd = bpf.get(path)
    except PinMissing:
        fd = bpf.map_create(spec.name, spec.type, spec.key_bytes, spec.value_bytes, spec.max_entries, spec.flags)
        bpf.pin(fd, path)
        return _OpenMap(fd, "created")
    if spec.fits(bpf.map_info(fd)):
        return _OpenMap(fd, "reused")
    os.close(fd)
    fd = bpf.map_create(spec.name, spec.type, spec.key_bytes, spec.value_bytes, spec.max_entries, spec.flags)
    bpf.pin_replacing(fd, path)
    return _OpenMap(fd, "replaced")


@contextlib.contextmanager
def _stderr_captured() -> Iterator[list[str]]:
    """Catch what clang writes to descriptor 2; filled in on leaving."""
    captured: list[str] = []
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield captured
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            captured.append(file.read().decode(errors="replace"))


def compile_programs(map_fds: Mapping[str, int], names: tuple[str, ...]) -> dict[str, bytes]:
    """Return the instructions of each program; raises CompileError."""
    os.environ["BCC_KERNEL_SOURCE"] = os.path.join(SOURCE_DIRECTORY, "kernel_stubs")
    try:
        from bcc import BPF, lib
    except ImportError as error:
        raise CompileError(f"error: {error}") from error
    includes = [SOURCE_DIRECTORY, "/usr/include", *sorted(glob.glob(f"/usr/include/{platform.machine()}-linux-gnu"))]
    flags = ["-Werror=implicit-function-declaration", *(f"-I{path}" for path in includes)]
    flags += [f"-DTG_MAP_FD_{name}={fd}" for name, fd in map_fds.items()]
    with _stderr_captured() as messages:
        try:
            module = BPF(src_file=os.path.join(SOURCE_DIRECTORY, "datapath.c").encode(), cflags=flags)
        except Exception as error:  # noqa: BLE001 - bcc raises nothing more precise
            failure: Exception | None = error
        else:
            failure = None
    if failure is not None:
        raise CompileError(messages[0] or f"error: {failure}") from failure
    programs: dict[str, bytes] = {}
    for name in names:
        start = lib.bpf_function_start(module.module, name.encode())
        if not start:
            raise CompileError(f"error: no function {name} in datapath.c")
        programs[name] = ctypes.string_at(start, lib.bpf_function_size(module.module, name.encode()))
    return programs


def load(root: PinRoot, sizes: MapSizes, *, want_log: bool = False) -> LoadReport:
    """Load and pin everything. On an error the programs that were pinned before stay as they are."""
    root.make()
    outcomes: dict[str, list[str]] = {"created": [], "reused": [], "replaced": []}
    map_fds: dict[str, int] = {}
    for spec in specs(sizes):
        opened = _open_map(spec, os.path.join(root.maps, spec.name))
        map_fds[spec.name] = opened.fd
        outcomes[opened.outcome].append(spec.name)
    started = time.monotonic()
    code = compile_programs(map_fds, tuple(program.name for program in PROGRAMS))
    compiled = time.monotonic()
    program_fds = {
        program.name: bpf.program_load(program.name, program.type, program.attach_type, code[program.name], want_log=want_log)
        for program in PROGRAMS
    }
    loaded = time.monotonic()
    for name, fd in program_fds.items():
        bpf.pin_replacing(fd, root.program(name))
    for fd in (*program_fds.values(), *map_fds.values()):
        os.close(fd)
    return LoadReport(
        programs=tuple(program_fds),
        maps_created=tuple(outcomes["created"]),
        maps_reused=tuple(outcomes["reused"]),
        maps_replaced=tuple(outcomes["replaced"]),
        compile_ms=int((compiled - started) * 1000),
        load_ms=int((loaded - compiled) * 1000),
    )


def _failure(error: DatapathError) -> dict[str, object]:
    answer: dict[str, object] = {"ok": False, "kind": type(error).__name__, "message": error.message, "hint": error.hint}
    match error:
        case VerifierError():
            answer |= {"program": error.program, "code": error.code, "log": error.log}
        case CompileError():
            answer |= {"log": error.log}
        case KernelError():
            answer |= {"code": error.code}
    return answer


def main(arguments: list[str] | None = None) -> int:
    """Run as a process; exit code 0 when everything is loaded."""
    parser = argparse.ArgumentParser(prog="python -m bpf_redirect.loader", description="Compile, load and pin the BPF programs.")
    parser.add_argument("--pin-root", default=DEFAULT_ROOT, help="directory in a bpffs (default: %(default)s)")
    parser.add_argument("--settings", default="{}", help="JSON object of map sizes, e.g. {'conntrack': 65536}")
    parser.add_argument("--verifier-log", action="store_true", help="keep the verifier's whole log of a refused program")
    options = parser.parse_args(arguments)
    try:
        report = load(PinRoot(options.pin_root), MapSizes(**json.loads(options.settings)), want_log=options.verifier_log)
    except DatapathError as error:
        print(json.dumps(_failure(error)))
        return 1
    print(json.dumps({"ok": True, **asdict(report)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
