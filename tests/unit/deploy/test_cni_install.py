"""The CNI plugin's place in the chain of a node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tidegate import cni_install

SETTINGS = {"waitSeconds": 3}
OURS = {"type": "tidegate-cni", "waitSeconds": 3}
FLANNEL = {"name": "cbr0", "cniVersion": "1.0.0", "plugins": [{"type": "flannel"}, {"type": "portmap"}]}


def write(path: Path, tree: Any) -> Path:
    path.write_text(json.dumps(tree))
    return path


def plugins(path: Path) -> list[Any]:
    return list(json.loads(path.read_text())["plugins"])


def test_the_plugin_is_last_in_the_list_that_the_runtime_uses(tmp_path: Path) -> None:
    used = write(tmp_path / "10-flannel.conflist", FLANNEL)
    other = write(tmp_path / "20-other.conflist", FLANNEL)
    assert cni_install.install(tmp_path, SETTINGS)
    assert plugins(used) == [*FLANNEL["plugins"], OURS]
    assert json.loads(other.read_text()) == FLANNEL
    assert cni_install.install(tmp_path, SETTINGS) == "", "nothing to do the second time"


def test_new_settings_replace_the_old_ones_and_a_rewritten_file_gets_it_again(tmp_path: Path) -> None:
    used = write(tmp_path / "10-flannel.conflist", FLANNEL)
    cni_install.install(tmp_path, SETTINGS)
    cni_install.install(tmp_path, {"waitSeconds": 9})
    assert plugins(used) == [*FLANNEL["plugins"], {"type": "tidegate-cni", "waitSeconds": 9}]
    write(used, FLANNEL)
    assert cni_install.install(tmp_path, SETTINGS)
    assert plugins(used)[-1] == OURS


def test_a_single_plugin_becomes_a_list_that_comes_first_by_name(tmp_path: Path) -> None:
    single = write(tmp_path / "10-bridge.conf", {"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0"})
    cni_install.install(tmp_path, SETTINGS)
    used = cni_install.used_configuration(tmp_path)
    assert used is not None
    assert used != single
    tree = json.loads(used.read_text())
    assert (tree["name"], tree["cniVersion"]) == ("net", "1.0.0")
    assert [one["type"] for one in tree["plugins"]] == ["bridge", "tidegate-cni"]


def test_without_any_configuration_there_is_nothing_to_do_yet(tmp_path: Path) -> None:
    assert cni_install.install(tmp_path, SETTINGS) == ""


def test_removal_leaves_the_chain_as_it_was(tmp_path: Path) -> None:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    source = tmp_path / "plugin"
    source.write_bytes(b"elf")
    used = write(tmp_path / "10-flannel.conflist", FLANNEL)
    assert cni_install.copy_binary(source, binaries)
    assert not cni_install.copy_binary(source, binaries)
    cni_install.install(tmp_path, SETTINGS)
    assert len(cni_install.remove(binaries, tmp_path)) == 2
    assert json.loads(used.read_text()) == FLANNEL
    assert list(binaries.iterdir()) == []
    assert cni_install.remove(binaries, tmp_path) == []
