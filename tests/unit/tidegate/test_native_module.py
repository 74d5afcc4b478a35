"""Which build of the native module Envoy is told of, and when what is at that path may change."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tidegate.config.node import NodeConfig, parse_config
from tidegate.processes import native_module


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "lib"
    directory.mkdir()
    monkeypatch.setattr(native_module, "BUILDS", directory)
    return directory


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    text = "node: {name: a}\npolicies: ./p\nendpoints: ./e.yaml\nstate: ./state\n"
    found = parse_config(text.encode(), tmp_path / "node.yaml")
    found.envoy_directory.mkdir(parents=True)
    return found


def add(builds: Path, name: str, content: str, age_s: int = 0) -> Path:
    path = builds / name
    path.write_text(content)
    os.utime(path, (1_000_000 - age_s, 1_000_000 - age_s))
    return path


def test_the_newest_build_is_used_unless_node_yaml_names_one_or_none(builds: Path, config: NodeConfig, tmp_path: Path) -> None:
    assert native_module.build(config) is None
    newest = add(builds, "libtidegate-aa.so", "new")
    add(builds, "libtidegate-bb.so", "old", age_s=60)
    assert native_module.build(config) == newest
    assert native_module.build(replace(config, envoy=replace(config.envoy, use_native_module=False))) is None
    named = tmp_path / "mine.so"
    with_named = replace(config, envoy=replace(config.envoy, native_module=named))
    assert native_module.build(with_named) is None, "a file that isn't there"
    named.write_text("mine")
    assert native_module.build(with_named) == named


def test_a_running_envoy_keeps_its_path_and_its_file(builds: Path, config: NodeConfig) -> None:
    add(builds, "libtidegate-aa.so", "one", age_s=60)
    native_module.provide(config, envoy_runs=False)
    first = native_module.path_for_envoy(config, supervised=True)
    assert first is not None
    assert first.read_text() == "one"
    add(builds, "libtidegate-bb.so", "two")
    native_module.provide(config, envoy_runs=True)
    assert native_module.path_for_envoy(config, supervised=True) == first
    assert first.read_text() == "one"
    native_module.provide(config, envoy_runs=False)
    assert first.read_text() == "two", "the next start of Envoy takes the new build"


def test_an_adopted_envoy_that_never_had_the_module_is_given_it(builds: Path, config: NodeConfig) -> None:
    native_module.provide(config, envoy_runs=False)
    assert native_module.path_for_envoy(config, supervised=True) is None
    add(builds, "libtidegate-aa.so", "one")
    native_module.provide(config, envoy_runs=True)
    assert native_module.path_for_envoy(config, supervised=True) == native_module.supervised_path(config)


def test_a_build_that_is_gone_is_not_told_of_after_the_next_start(builds: Path, config: NodeConfig) -> None:
    path = add(builds, "libtidegate-aa.so", "one")
    native_module.provide(config, envoy_runs=False)
    path.unlink()
    native_module.provide(config, envoy_runs=False)
    assert native_module.path_for_envoy(config, supervised=True) is None


def test_without_a_supervisor_envoy_is_told_of_the_build_itself(builds: Path, config: NodeConfig) -> None:
    path = add(builds, "libtidegate-aa.so", "one")
    assert native_module.path_for_envoy(config, supervised=False) == path
