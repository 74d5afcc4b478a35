"""The module that Envoy loads: which build of it, and under which path Envoy is told of it.

Owns: finding the file, and the copy that a running Envoy was given. Must not know what the module does.

A listener that named a new build would be another listener, and the connections of the old one would be drained. So Envoy is
told of a path in the state directory that stays, and what is there is replaced only while no Envoy of ours runs: an upgrade of
Tidegate takes effect in Envoy when Envoy itself is started again. The name says the ABI of the maps: a build for other maps has
another path. Without a supervisor (a container of its own) Envoy is told of the file itself.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import proxylib
from bpf_redirect.abi import ABI_VERSION
from tidegate.config.node import NodeConfig

BUILDS = Path(proxylib.__file__).parent / "native" / "lib"
PATTERN = "libtidegate-*.so"


def build(config: NodeConfig) -> Path | None:
    """Return the file to use: node.yaml's, or the newest build; None where there is none or node.yaml wants none."""
    if not config.envoy.use_native_module:
        return None
    if config.envoy.native_module is not None:
        return config.envoy.native_module if config.envoy.native_module.is_file() else None
    builds = sorted(BUILDS.glob(PATTERN), key=lambda path: (path.stat().st_mtime_ns, path.name))
    return builds[-1] if builds else None


def supervised_path(config: NodeConfig) -> Path:
    """Return where the copy is that an Envoy of ours loads."""
    return config.envoy_directory / f"libtidegate-abi{ABI_VERSION}.so"


def provide(config: NodeConfig, *, envoy_runs: bool) -> None:
    """Put the copy in its place; one that a running Envoy may have loaded stays as it is."""
    path = supervised_path(config)
    if envoy_runs and path.exists():
        return
    source = build(config)
    if source is None:
        if not envoy_runs:
            path.unlink(missing_ok=True)
        return
    beside = path.with_suffix(".new")
    shutil.copyfile(source, beside)
    beside.chmod(0o644)
    os.replace(beside, path)


def path_for_envoy(config: NodeConfig, *, supervised: bool) -> Path | None:
    """Return what Envoy is told; None: it goes without, and what needs the module is unavailable."""
    if not supervised:
        return build(config)
    path = supervised_path(config)
    return path if config.envoy.use_native_module and path.exists() else None
