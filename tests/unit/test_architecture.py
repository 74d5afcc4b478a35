"""ARCHITECTURE.md says what is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from bpf_redirect.abi import DropReason, PassReason
from bpf_redirect.maps import MapSizes, specs

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text()


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_drop_and_pass_reason_is_in_the_table_under_its_number() -> None:
    listed = {int(number): name for number, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", section("Reasons"), re.MULTILINE)}
    assert listed == {reason.value: reason.name.lower() for reason in (*PassReason, *DropReason)}


def test_every_map_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `(tg_\w+)` \|", section("Maps"), re.MULTILINE)) == {spec.name for spec in specs(MapSizes())}


def test_every_runtime_dependency_is_explained() -> None:
    wanted = {
        line.split("#")[0].split("=")[0].split(">")[0].strip()
        for line in (ROOT / "requirements" / "runtime.in").read_text().splitlines()
        if line.split("#")[0].strip()
    }
    explained = re.findall(
        r"[\w.-]+", " ".join(line.split("|")[1] for line in section("Dependencies").splitlines() if "|" in line)
    )
    assert wanted <= set(explained)


def test_every_module_of_the_core_and_the_program_stands_in_the_house() -> None:
    house = section("The house")
    tracked = subprocess.run(["git", "ls-files", "l7filters", "tidegate"], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = {
        Path(line).stem
        for line in tracked.stdout.splitlines()
        if line.endswith(".py") and line.count("/") == 1 and not line.endswith("__init__.py")
    }
    named = set(re.findall(r"\w+", house))
    # Small helpers of one neighbour need no place of their own on the map.
    assert modules - named <= {"config", "settings", "jsonvalue", "offline", "diagnosis", "explanation"}
