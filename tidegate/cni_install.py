"""``python -m tidegate.cni_install``: the CNI plugin's binary and its place in the chain of a node.

Owns: the files of the host that this takes. The plugin stands last in the configuration that the runtime uses: the first, by
name, of the directory. Another CNI may write its file anew at any time, so it is looked at again every ``LOOK_S``. Nothing is
taken away when this process ends (it may be an update, and pods must not start unguarded meanwhile), only by ``--remove``. Needs
no root but the right to write there; imports nothing of Tidegate.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PLUGIN = "tidegate-cni"
LOOK_S = 5.0
SUFFIXES = (".conf", ".conflist", ".json")
"""What container runtimes read (libcni)."""


def with_plugin(configuration: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a network configuration with our plugin last; None if it is so already.

    A configuration of a single plugin (.conf) becomes a list.
    """
    ours = {"type": PLUGIN, **settings}
    if "plugins" in configuration:
        plugins = list(configuration["plugins"])
        if plugins and plugins[-1] == ours:
            return None
        return {**configuration, "plugins": [*(one for one in plugins if one.get("type") != PLUGIN), ours]}
    kept = {key: configuration[key] for key in ("cniVersion", "name") if key in configuration}
    return {**kept, "plugins": [dict(configuration), ours]}


def without_plugin(configuration: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a network configuration without our plugin; None if it has none."""
    plugins = list(configuration.get("plugins", ()))
    kept = [one for one in plugins if one.get("type") != PLUGIN]
    return None if kept == plugins else {**configuration, "plugins": kept}


def used_configuration(directory: Path) -> Path | None:
    """Return the file that the runtime uses; None if there is none yet."""
    files = sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES and path.is_file())
    return files[0] if files else None


def install(directory: Path, settings: Mapping[str, Any]) -> str:
    """Put the plugin into the chain; return what was done, "" if nothing had to be. Raises OSError or ValueError."""
    path = used_configuration(directory)
    if path is None:
        return ""
    changed = with_plugin(_read(path), settings)
    if changed is None:
        return ""
    if path.suffix == ".conflist":
        replace_file(path, _text(changed))
        return f"{path.name}: {PLUGIN} is last in the chain"
    # The runtime reads a list only from a .conflist; ours comes first by name, and the other file stays as it was.
    listed = path.with_name(f"{path.stem}.conflist")
    listed = listed if listed.name < path.name else path.with_name(f"00-{path.stem}.conflist")
    replace_file(listed, _text(changed))
    return f"{listed.name}: the plugin of {path.name}, and {PLUGIN} behind it"


def remove(binaries: Path, directory: Path) -> list[str]:
    """Take the plugin out of every chain, and its binary away; return what was done."""
    done = []
    for path in sorted(directory.glob("*.conflist")):
        changed = without_plugin(_read(path))
        if changed is not None:
            replace_file(path, _text(changed))
            done.append(f"{path.name}: {PLUGIN} is out of the chain")
    binary = binaries / PLUGIN
    if binary.exists():
        binary.unlink()
        done.append(f"{binary} is removed")
    return done


def copy_binary(source: Path, binaries: Path) -> bool:
    """Put the binary in place in one step; return whether it was not there as it is."""
    target = binaries / PLUGIN
    if target.exists() and target.read_bytes() == source.read_bytes():
        return False
    beside = target.with_name(f".{PLUGIN}.new")
    shutil.copyfile(source, beside)
    beside.chmod(0o755)
    os.replace(beside, target)
    return True


def replace_file(path: Path, text: str) -> None:
    """Write a file in one step: the runtime reads it at any moment."""
    beside = path.with_name(f".{path.name}.tidegate")  # neither suffix nor name that a runtime reads
    beside.write_text(text)
    beside.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
    os.replace(beside, path)


def _read(path: Path) -> dict[str, Any]:
    tree = json.loads(path.read_text())
    if not isinstance(tree, dict):
        raise ValueError(f"{path} is not a CNI configuration")  # noqa: TRY004
    return tree


def _text(configuration: Mapping[str, Any]) -> str:
    return json.dumps(configuration, indent=2) + "\n"


def main() -> int:
    """Keep the plugin installed until told to stop, or remove it."""
    parser = argparse.ArgumentParser(prog="tidegate.cni_install", description=__doc__)
    parser.add_argument("--plugin", type=Path, default=Path("/usr/local/libexec/tidegate-cni"))
    parser.add_argument("--binaries", type=Path, required=True)
    parser.add_argument("--configurations", type=Path, required=True)
    parser.add_argument("--settings", type=Path)
    parser.add_argument("--remove", action="store_true")
    options = parser.parse_args()
    if options.remove:
        for line in remove(options.binaries, options.configurations):
            print(line)
        return 0
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    said = ""
    while True:
        try:
            settings = json.loads(options.settings.read_text()) if options.settings else {}
            # The binary first: a chain that names a missing plugin starts no pod.
            done = f"{PLUGIN} is copied" if copy_binary(options.plugin, options.binaries) else ""
            done = install(options.configurations, settings) or done
        except (OSError, ValueError) as error:
            done = f"can't be installed: {error}"
        if done and done != said:
            print(done, file=sys.stderr, flush=True)
        said = done
        if stop.wait(LOOK_S):
            return 0


if __name__ == "__main__":
    sys.exit(main())
