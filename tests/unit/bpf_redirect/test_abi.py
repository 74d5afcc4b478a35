"""The C header and its Python mirror agree, by what the C compiler says of the header."""

from __future__ import annotations

import ctypes
import inspect
import re
import subprocess
from enum import IntEnum
from pathlib import Path

import pytest

from bpf_redirect import abi

HEADER = Path(abi.__file__).with_name("include") / "abi.h"

STRUCTS = {
    "tg_address": abi.Address,
    "tg_config": abi.Config,
    "tg_ipcache_key": abi.IpcacheKey,
    "tg_ipcache_value": abi.IpcacheEntry,
    "tg_policy_key": abi.PolicyKey,
    "tg_policy_value": abi.PolicyEntry,
    "tg_names_key": abi.NamesKey,
    "tg_grant": abi.Grant,
    "tg_names": abi.Names,
    "tg_slot": abi.Slot,
    "tg_pair_key": abi.PairKey,
    "tg_endpoint": abi.Endpoint,
    "tg_ct_key": abi.ConntrackKey,
    "tg_ct": abi.Conntrack,
    "tg_fragment_key": abi.FragmentKey,
    "tg_fragment": abi.Fragment,
    "tg_counter": abi.Counter,
    "tg_event_budget": abi.EventBudget,
    "tg_event": abi.Event,
    "tg_connect": abi.Connect,
    "tg_origin_key": abi.OriginKey,
    "tg_listener_key": abi.ListenerKey,
    "tg_offload_key": abi.OffloadKey,
    "tg_offload": abi.Offload,
    "tg_l7_verdict": abi.L7Verdict,
}
C_ONLY_STRUCTS = {"tg_sockaddr_in", "tg_sockaddr_in6"}
"""They never lie in a map."""

ENUMS: dict[str, tuple[str, type[IntEnum]]] = {
    "tg_verdict": ("TG_", abi.Verdict),
    "tg_direction": ("TG_", abi.FlowDirection),
    "tg_hook": ("TG_HOOK_", abi.Hook),
    "tg_ct_kind": ("TG_CT_", abi.ConntrackKind),
    "tg_realm": ("TG_REALM_", abi.Realm),
    "tg_l7_kind": ("TG_L7_", abi.L7Kind),
    "tg_l7_state": ("TG_L7_", abi.L7State),
}

NUMBERS = {
    "TG_ABI_VERSION": abi.ABI_VERSION,
    "TG_ENDPOINT_ADDRESSES_MAX": abi.ENDPOINT_ADDRESSES_MAX,
    "TG_SLOTS_MAX": abi.SLOTS_MAX,
    "TG_IPV6_EXTENSIONS_MAX": abi.IPV6_EXTENSIONS_MAX,
    "TG_CGROUP_LEVELS_MAX": abi.CGROUP_LEVELS_MAX,
    "TG_REASONS_MAX": abi.REASONS_MAX,
    "TG_HOOKS_MAX": abi.HOOKS_MAX,
    "TG_NAMES_PER_ADDRESS_MAX": abi.NAMES_PER_ADDRESS_MAX,
    "TG_L7_RESERVED": abi.L7_RESERVED,
    "TG_L7_PROBES_MAX": abi.L7_PROBES_MAX,
    "TG_MARK_MASK": abi.MARK_MASK,
    "TG_MARK_TO_PROXY": abi.MARK_TO_PROXY,
    "TG_MARK_REPLY": abi.MARK_REPLY,
    "TG_MARK_FROM_PROXY": abi.MARK_FROM_PROXY,
    "TG_IPCACHE_PREFIX_MAX": abi.IPCACHE_PREFIX_MAX,
    "TG_POLICY_PREFIX_ANY": abi.POLICY_PREFIX_ANY,
    "TG_POLICY_PREFIX_PROTOCOL": abi.POLICY_PREFIX_PROTOCOL,
    "TG_POLICY_PREFIX_MAX": abi.POLICY_PREFIX_MAX,
    "TG_DROP_FIRST": abi.DROP_FIRST,
    **{f"TG_CONFIG_{flag.name}": flag.value for flag in abi.ConfigFlag},
    **{f"TG_POLICY_{flag.name}": flag.value for flag in abi.PolicyFlag},
    **{f"TG_IPCACHE_{flag.name}": flag.value for flag in abi.IpcacheFlag},
    **{f"TG_SLOT_{flag.name}": flag.value for flag in abi.SlotFlag},
    **{f"TG_CT_{flag.name}": flag.value for flag in abi.ConntrackFlag},
    **{f"TG_SEEN_{flag.name}": flag.value for flag in abi.TcpSeen},
    **{f"TG_EVENT_{flag.name}": flag.value for flag in abi.EventFlag},
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Every size, offset and number, printed by a program that includes the header."""
    directory = tmp_path_factory.mktemp("abi")
    lines = ['#include "abi.h"', "#include <stddef.h>", "#include <stdio.h>", "int main(void) {"]

    def ask(name: str, expression: str) -> None:
        lines.append(f'printf("%s %lld\\n", "{name}", (long long)({expression}));')

    for name, struct in STRUCTS.items():
        ask(name, f"sizeof(struct {name})")
        for field in struct._fields_:
            ask(f"{name}.{field[0]}", f"offsetof(struct {name}, {field[0]})")
            ask(f"{name}.{field[0]}:size", f"sizeof(((struct {name} *)0)->{field[0]})")
    for number in (*NUMBERS, *header_enum("tg_reason")):
        ask(number, number)
    for enum_name in ENUMS:
        for member in header_enum(enum_name):
            ask(member, member)
    lines.append("return 0; }")
    source = directory / "ask.c"
    source.write_text("\n".join(lines))
    subprocess.run(["cc", f"-I{HEADER.parent}", "-o", directory / "ask", source], check=True)
    output = subprocess.run([directory / "ask"], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split() for line in output.splitlines())}


def header_enum(name: str) -> list[str]:
    """The members of an enum as the header lists them."""
    found = re.search(rf"enum {name} {{(.*?)}};", HEADER.read_text(), re.DOTALL)
    assert found is not None, name
    body = re.sub(r"/\*.*?\*/", "", found.group(1), flags=re.DOTALL)
    return re.findall(r"\b(TG_[A-Z0-9_]+)\s*=", body)


def test_every_struct_of_the_header_is_mirrored() -> None:
    in_header = set(re.findall(r"^struct (\w+) {", HEADER.read_text(), re.MULTILINE))
    assert in_header == set(STRUCTS) | C_ONLY_STRUCTS
    mirrored = {value for _, value in inspect.getmembers(abi, inspect.isclass) if issubclass(value, ctypes.Structure)}
    assert mirrored == set(STRUCTS.values())


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_has_the_compiled_layout(compiled: dict[str, int], name: str) -> None:
    struct = STRUCTS[name]
    assert ctypes.sizeof(struct) == compiled[name]
    mirrored = {field[0]: (getattr(struct, field[0]).offset, getattr(struct, field[0]).size) for field in struct._fields_}
    assert mirrored == {field: (compiled[f"{name}.{field}"], compiled[f"{name}.{field}:size"]) for field in mirrored}
    covered = sum(size for _, size in mirrored.values())
    assert covered == compiled[name], "no hidden padding: every byte has a name"


@pytest.mark.parametrize("name", NUMBERS)
def test_number_has_the_compiled_value(compiled: dict[str, int], name: str) -> None:
    assert NUMBERS[name] == compiled[name]


@pytest.mark.parametrize("name", ENUMS)
def test_enum_has_the_compiled_members(compiled: dict[str, int], name: str) -> None:
    prefix, mirror = ENUMS[name]
    assert {member.removeprefix(prefix): compiled[member] for member in header_enum(name)} == {
        member.name: member.value for member in mirror
    }


def test_reasons_are_the_compiled_ones_and_each_number_has_one_name(compiled: dict[str, int]) -> None:
    names = [name for name in header_enum("tg_reason") if name != "TG_DROP_FIRST"]
    in_header = {name.removeprefix("TG_"): compiled[name] for name in names}
    assert len(set(in_header.values())) == len(in_header)
    mirrored: dict[str, int] = {reason.name: reason.value for reason in (*abi.PassReason, *abi.DropReason)}
    assert mirrored == in_header
    assert all(reason < abi.DROP_FIRST for reason in abi.PassReason)
    assert all(abi.DROP_FIRST <= reason < abi.REASONS_MAX for reason in abi.DropReason)


def test_reason_of_an_unknown_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="63"):
        abi.reason_of(63)
