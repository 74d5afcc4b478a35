"""The DNS proxy as a process of the node: ``python -m tidegate.dnsproxy STATE/dns/settings.json``.

Owns: putting the proxy (proxylib) and the kernel's map together, from a settings file that ``processes.dns`` writes. It is kept
slim, so that it is back within a fraction of a second: neither node.yaml nor policy, gRPC or netlink is read or imported here.

Lifecycle: started by the supervisor (or as a container of its own), detached, like Envoy: whoever else dies, names that are
allowed go on resolving. What it holds is on disk and in the kernel's map, so it may be killed at any time.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxylib.dns.proxy import serve
from proxylib.dns.settings import Settings
from tidegate.dns.names import NamesPublisher

LOCK_WAIT_S = 5.0
"""A proxy that is about to be replaced saves and ends within a moment; one that holds on longer is another's."""
GC_YOUNG_MAX = 50_000
"""Objects between two collections: nothing here makes cycles in earnest, and a full collection of a large cache takes long."""
EXIT_USAGE, EXIT_INVALID, EXIT_MACHINE, EXIT_REFUSED = 2, 3, 5, 6
"""As in cli/exits.py, which this process does not import."""
_PATHS = ("rules_path", "subjects_path", "cache_directory", "report_path", "control_path")


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """What the process is started with."""

    proxy: Settings
    names_pin: str
    lock_path: Path

    def to_json(self) -> str:
        """Return the settings file's text."""
        proxy: dict[str, Any] = {name: getattr(self.proxy, name) for name in Settings.__slots__}
        for name in _PATHS:
            proxy[name] = None if proxy[name] is None else str(proxy[name])
        document = {"proxy": proxy, "names_pin": self.names_pin, "lock_path": str(self.lock_path)}
        return json.dumps(document, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ProcessSettings:
        """Return what ``to_json`` wrote. Raises ValueError, KeyError or TypeError."""
        document = json.loads(text)
        proxy: dict[str, Any] = dict(document["proxy"])
        for name in _PATHS:
            proxy[name] = None if proxy[name] is None else Path(proxy[name])
        proxy["listen_addresses"] = tuple(proxy["listen_addresses"])
        if proxy["direct_server"] is not None:
            proxy["direct_server"] = tuple(proxy["direct_server"])
        return cls(Settings(**proxy), str(document["names_pin"]), Path(document["lock_path"]))


def run(settings: ProcessSettings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    lock = os.open(settings.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _locked(lock):
        return _give_up(f"another DNS proxy holds {settings.lock_path}", EXIT_REFUSED)
    gc.set_threshold(GC_YOUNG_MAX, 20, 100)
    try:
        serve(settings.proxy, NamesPublisher(settings.names_pin))
    except OSError as error:
        return _give_up(f"{error}; is it run as root?", EXIT_MACHINE)
    finally:
        os.close(lock)
    return 0


def _locked(lock: int) -> bool:
    deadline_s = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(0.02)
        else:
            return True


def _give_up(message: str, code: int) -> int:
    print(f"tidegate dnsproxy: {message}", file=sys.stderr, flush=True)
    return code


def main() -> int:
    """Read the settings file and run."""
    if len(sys.argv) != 2:
        return _give_up("usage: python -m tidegate.dnsproxy SETTINGS_JSON", EXIT_USAGE)
    try:
        settings = ProcessSettings.from_json(Path(sys.argv[1]).read_text())
    except (OSError, ValueError, KeyError, TypeError) as error:
        return _give_up(f"{sys.argv[1]} can't be used: {error!r}", EXIT_INVALID)
    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
