"""Loading and attaching: what survives, what is replaced, and what errors say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from bpf_redirect import abi, attach, bpf, loader, probe
from bpf_redirect.attach import Method, Side
from bpf_redirect.datapath import Datapath, DatapathSettings
from bpf_redirect.errors import CompileError, HostError, KernelError, MapFull, PinMissing, VerifierError
from bpf_redirect.maps import Maps, MapSizes, specs
from bpf_redirect.pins import PinRoot
from l7filters.identity import IdentityNumber
from l7filters.mapstate import IpcacheValue, MapState
from tests.bpf.arena import SECONDS_MAX, Arena

pytestmark = pytest.mark.root

SMALL = MapSizes(ipcache=8, policy=8, conntrack=128, events_bytes=4096)


@pytest.fixture
def root() -> Iterator[PinRoot]:
    root = PinRoot(f"/sys/fs/bpf/tgtest-{os.getpid()}-loading")
    yield root
    root.remove()


def test_this_kernel_has_everything_that_is_required() -> None:
    assert [capability for capability in probe.probe() if capability.required and not capability.present] == []


def test_second_load_keeps_maps_and_their_content_and_replaces_programs(root: PinRoot) -> None:
    first = loader.load(root, SMALL)
    assert set(first.maps_created) == {spec.name for spec in specs(SMALL)}
    assert set(os.listdir(root.programs)) == {program.name for program in loader.PROGRAMS}
    with Maps.open(root.maps) as maps:
        maps["tg_cgroups"].update(bytes(8), b"\x05\0\0\0")
    program = bpf.get(root.program("tg_from_endp"))
    before = bpf.program_id(program)
    os.close(program)
    second = loader.load(root, SMALL)
    assert (second.maps_created, second.maps_replaced) == ((), ())
    with Maps.open(root.maps) as maps:
        assert maps["tg_cgroups"].lookup(bytes(8)) == b"\x05\0\0\0"
    program = bpf.get(root.program("tg_from_endp"))
    assert bpf.program_id(program) != before
    os.close(program)


def test_map_of_another_size_is_replaced_and_named(root: PinRoot) -> None:
    loader.load(root, SMALL)
    report = loader.load(root, replace(SMALL, policy=16, conntrack=256))
    assert report.maps_replaced == ("tg_policy", "tg_conntrack")
    with Maps.open(root.maps) as maps:
        assert maps["tg_policy"].info.max_entries == 16


def test_full_map_is_an_error_that_names_it_its_limit_and_the_setting(root: PinRoot) -> None:
    loader.load(root, SMALL)
    with Maps.open(root.maps) as maps:
        for number in range(8):
            maps["tg_ipcache"].update(*_ipcache_entry(number))
        with pytest.raises(MapFull, match=r"tg_ipcache holds its 8 entries.*maps\.ipcacheEntries") as full:
            maps["tg_ipcache"].update(*_ipcache_entry(8))
        assert (full.value.name, full.value.limit) == ("tg_ipcache", 8)
        with pytest.raises(MapFull):
            maps["tg_ipcache"].update_all([_ipcache_entry(number) for number in range(20)])


def _ipcache_entry(number: int) -> tuple[bytes, bytes]:
    return (128).to_bytes(4, sys.byteorder) + bytes(15) + bytes([number]), bytes(12)


def test_every_map_reads_back_what_was_written(root: PinRoot) -> None:
    loader.load(root, SMALL)
    with Maps.open(root.maps) as maps:
        entries = {_ipcache_entry(number)[0]: number.to_bytes(12, "little") for number in range(8)}
        maps["tg_ipcache"].update_all(list(entries.items()))
        assert dict(maps["tg_ipcache"].items()) == entries
        assert maps["tg_ipcache"].delete(next(iter(entries)))
        assert not maps["tg_ipcache"].delete(next(iter(entries)))
        assert len(dict(maps["tg_ipcache"].items())) == 7
        assert len(dict(maps["tg_slots"].items())) == 2048


def test_maps_that_were_never_loaded_are_missing() -> None:
    with pytest.raises(PinMissing, match="the programs are not loaded"):
        Maps.open(f"/sys/fs/bpf/tgtest-nothing/v{abi.ABI_VERSION}/maps")


def test_code_that_does_not_compile_is_an_error_with_its_line(
    root: PinRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = _copy_of_the_sources(tmp_path)
    (broken / "datapath.c").write_text('#include "include/abi.h"\nint tg_from_endp(struct __sk_buff *skb) { return nonsense; }\n')
    monkeypatch.setattr(loader, "SOURCE_DIRECTORY", str(broken))
    with pytest.raises(CompileError, match=r"main\.c:2:\d+: error: use of undeclared identifier 'nonsense'"):
        loader.load(root, SMALL)
    assert os.listdir(root.programs) == []


def test_refused_program_is_an_error_with_the_verifiers_words_and_changes_nothing(
    root: PinRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader.load(root, SMALL)
    program = bpf.get(root.program("tg_from_endp"))
    before = bpf.program_id(program)
    os.close(program)
    broken = _copy_of_the_sources(tmp_path)
    source = broken / "datapath.c"
    source.write_text(source.read_text().replace("return tg_at_cgroup_skb(skb, false);", "return *(int *)(long)skb->len;"))
    monkeypatch.setattr(loader, "SOURCE_DIRECTORY", str(broken))
    with pytest.raises(VerifierError, match=r"tg_cg_ingress: .*invalid mem access") as refused:
        loader.load(root, SMALL)
    assert refused.value.program == "tg_cg_ingress"
    assert len(refused.value.log.splitlines()) > 1, "the whole log is there for who asks"
    program = bpf.get(root.program("tg_from_endp"))
    assert bpf.program_id(program) == before
    os.close(program)


def _copy_of_the_sources(directory: Path) -> Path:
    copy = directory / "sources"
    shutil.copytree(loader.SOURCE_DIRECTORY, copy, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return copy


def test_loader_process_reports_errors_as_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bpf_redirect.loader", "--pin-root", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    answer = json.loads(result.stdout)
    assert (result.returncode, answer["ok"], answer["kind"]) == (1, False, "KernelError")
    assert "not in a bpffs" in answer["hint"]


def test_facade_turns_the_loaders_answer_into_its_error(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="not in a bpffs"):
        Datapath(DatapathSettings(pin_root=str(tmp_path), state_directory=tmp_path)).load()


def test_agent_never_imports_bcc() -> None:
    code = "import sys, bpf_redirect.datapath; print('bcc' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=SECONDS_MAX * 4)
    assert result.stdout.strip() == "False"


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Arena("load", maps=SMALL) as arena:
        arena.cluster.pod("a")
        yield arena


def _has_links() -> bool:
    """Whether tc programs are held by links here (TCX, kernel 6.6); by clsact filters if not."""
    return any(capability.name == "TCX" and capability.present for capability in probe.probe())


def _attached(pins: PinRoot, interface: str) -> set[str]:
    """The sides of an interface that have a program of ours."""
    if _has_links():
        return {name.partition("-")[0] for name in attach.attached_links(pins) if name.endswith(f"-{interface}")}
    sides = {"in": "ingress", "out": "egress"}
    show = ["tc", "filter", "show", "dev", interface]
    return {
        side
        for side, hook in sides.items()
        if "handle 0x7467" in subprocess.run([*show, hook], capture_output=True, text=True).stdout
    }


def test_older_kernels_get_clsact_filters_that_can_be_replaced_and_removed(arena: Arena) -> None:
    pins = PinRoot(arena.datapath.settings.pin_root)
    for _ in range(2):
        made = attach.attach_interface(pins, "lxc-a", Side.INGRESS, "tg_from_endp", method=Method.CLSACT)
        assert made.method is Method.CLSACT
        attach.attach_interface(pins, "lxc-a", Side.EGRESS, "tg_to_endp", method=Method.CLSACT)
    shown = subprocess.run(["tc", "filter", "show", "dev", "lxc-a", "ingress"], capture_output=True, text=True, check=True)
    filters = shown.stdout
    assert filters.count("handle 0x7467") == 1
    attach.remove_filters("lxc-a")
    qdiscs = subprocess.run(["tc", "qdisc", "show", "dev", "lxc-a"], capture_output=True, text=True, check=True).stdout
    assert "clsact" not in qdiscs


def test_programs_are_replaced_in_place_and_attached_anew_to_an_interface_that_came_back(arena: Arena) -> None:
    first = arena.datapath.attach_endpoint("lxc-a")
    assert arena.datapath.attach_endpoint("lxc-a") == first
    pins = PinRoot(arena.datapath.settings.pin_root)
    assert _attached(pins, "lxc-a") == {"in", "out"}
    arena.cluster.remove_pod("a")
    arena.cluster.pod("a")
    second = arena.datapath.attach_endpoint("lxc-a")
    assert second != first
    assert _attached(pins, "lxc-a") == {"in", "out"}
    if _has_links():
        link = bpf.get(pins.link("in-lxc-a"))
        assert bpf.link_ifindex(link) == second
        os.close(link)
    arena.datapath.detach_endpoint("lxc-a")
    arena.datapath.detach_endpoint("lxc-a")
    assert _attached(pins, "lxc-a") == set()


def test_interface_that_is_not_there_is_a_host_error(arena: Arena) -> None:
    with pytest.raises(HostError, match="there is no interface lxc-nobody"):
        arena.datapath.attach_endpoint("lxc-nobody")


def test_cgroup_that_is_not_there_or_not_below_the_root_is_a_host_error(arena: Arena) -> None:
    for name in ("tgtest-nothing", "../../etc"):
        with pytest.raises(HostError):
            arena.datapath.attach_cgroup(name)


def test_apply_that_meets_a_full_map_can_be_repeated_with_less(arena: Arena) -> None:
    def state(count: int) -> MapState:
        value = IpcacheValue(IdentityNumber(300))
        return MapState(ipcache={ip_network(f"10.0.0.{number}"): value for number in range(count)})

    with pytest.raises(MapFull):
        arena.datapath.apply(state(9))
    arena.datapath.apply(state(5))
    assert arena.datapath.read() == state(5)


def test_sysctls_are_saved_once_and_restored(arena: Arena) -> None:
    knob = Path("/proc/sys/net/ipv4/conf/all/rp_filter")
    other = Path("/proc/sys/net/ipv4/conf/lo/rp_filter")
    knob.write_text("1")
    other.write_text("0")
    for _ in range(2):
        arena.datapath.open()
        assert (knob.read_text().strip(), other.read_text().strip()) == ("0", "1"), "strict stays strict for the others"
    arena.datapath.cleanup()
    assert (knob.read_text().strip(), other.read_text().strip()) == ("1", "0")
