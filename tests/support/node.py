"""A node that runs the real ``tidegate run`` against a cluster of network namespaces.

It is driven as a user would: files on disk and the ``tidegate`` command. At the end it is stopped and cleaned up by
``tidegate cleanup``, and what that leaves behind is an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.support.denials import DenialCheck
from tests.support.netns import BPF_FILE_SYSTEM, Cluster, namespace_pids
from tidegate.admin.client import NodeClient, NodeError

READY_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 20.0
POLL_SECONDS = 0.02
LOG_TAIL_BYTES = 24000
TABLE = "2004"


class Node:
    """One running Tidegate. Use it as a context manager, within its cluster's."""

    def __init__(
        self, cluster: Cluster, policies: Mapping[str, str] | None = None, config: Mapping[str, Any] | None = None
    ) -> None:
        self.cluster = cluster
        self.pin_root = BPF_FILE_SYSTEM / cluster.tag
        self._config = dict(config or {})
        self._first_policies = dict(policies or {})
        self._child: subprocess.Popen[bytes] | None = None
        self._denials: DenialCheck | None = None

    @property
    def directory(self) -> Path:
        """Where its files are; within the cluster's own, which exists once the cluster has been entered."""
        assert self.cluster.directory.is_absolute(), "the cluster is not there"
        return self.cluster.directory / "tidegate"

    @property
    def policy_directory(self) -> Path:
        """The watched directory."""
        return self.directory / "policies"

    @property
    def config_file(self) -> Path:
        """node.yaml."""
        return self.directory / "node.yaml"

    @property
    def log_file(self) -> Path:
        """What ``tidegate run`` prints."""
        return self.directory / "run.log"

    # ---- life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.write_files()
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.print_log()
            self.close(check=False)
            raise
        return self

    def write_files(self) -> None:
        """Write all that ``tidegate run`` reads."""
        self.policy_directory.mkdir(parents=True)
        for name, text in self._first_policies.items():
            self.write_policy(name, text)
        self.write_endpoints()
        sources = {"node": {"name": "node-a"}, "policies": "./policies", "endpoints": "./endpoints.yaml"}
        self.config_file.write_text(yaml.safe_dump({**sources, **self.common_config(), **self._config}))

    def common_config(self) -> dict[str, Any]:
        """What a node.yaml says that is nothing to do with where policies come from."""
        return {
            "state": "./state",
            "bpf": {"pinRoot": str(self.pin_root)},
            # Envoy's shared memory is the machine's, not the namespace's: two nodes need two base ids.
            "envoy": {"baseId": os.getpid() % 30000 * 10 + int(self.cluster.tag.rpartition("-")[2]) % 10},
        }

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.print_log()
        self.close(check=kind is None)

    def run_arguments(self) -> list[str]:
        """What ``tidegate`` is started with."""
        return ["run", "--config", str(self.config_file)]

    def start(self) -> None:
        """Start ``tidegate run``; it may not be ready when this returns."""
        with self.log_file.open("ab") as log:
            self._child = self.cluster.popen_in(
                self.cluster.node_netns,
                [*tidegate(), *self.run_arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self, signal_number: signal.Signals = signal.SIGTERM) -> int:
        """End ``tidegate run`` and return its exit code; programs and pins stay."""
        assert self._child is not None
        child, self._child = self._child, None
        child.send_signal(signal_number)
        try:
            return child.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise

    def close(self, check: bool = True) -> None:
        """Stop, clean up, and (with ``check``) insist that nothing is left."""
        try:
            if self._child is not None and check:
                self.check_denials()
            if self._child is not None:
                code = self.stop()
                assert code == 0 or not check, f"tidegate run ended with {code}"
            result = self.cli("cleanup")
            assert result.returncode == 0 or not check, f"tidegate cleanup: {result.returncode}\n{result.stdout}{result.stderr}"
            if check:
                self.assert_nothing_left()
        finally:
            for pid in self.processes("tidegate", "envoy"):
                os.kill(pid, signal.SIGKILL)
            shutil.rmtree(self.pin_root, ignore_errors=True)
            shutil.rmtree(self.directory, ignore_errors=True)

    def assert_nothing_left(self) -> None:
        """No pin, rule, route, link, tc program or process of Tidegate's remains."""
        left = [str(path) for path in self.pin_root.rglob("*")] if self.pin_root.exists() else []
        for family in ("-4", "-6"):
            left += [line for line in self.host_lines("ip", family, "rule", "show") if f"lookup {TABLE}" in line]
            left += self.host_lines("ip", family, "route", "show", "table", TABLE)
        ours = {"lo", "uplink0", *(pod.interface for pod in self.cluster.pods.values())}
        links = json.loads("\n".join(self.host_lines("ip", "-j", "link", "show")))
        left += [f"link {link['ifname']}" for link in links if link["ifname"] not in ours]
        left += [line for line in self.host_lines("tc", "qdisc", "show") if "clsact" in line]
        left += [f"process {pid}" for pid in self.processes("tidegate", "envoy")]
        assert left == [], "tidegate cleanup left behind: " + ", ".join(left)

    # ---- files ----------------------------------------------------------------------------------------------------

    def write_policy(self, name: str, text: str) -> None:
        """Put ``NAME.yaml`` into the policy directory, whole at once."""
        replace_file(self.policy_directory / f"{name}.yaml", text)

    def remove_policy(self, name: str) -> None:
        """Delete ``NAME.yaml``."""
        (self.policy_directory / f"{name}.yaml").unlink()

    def write_endpoints(self, text: str | None = None) -> None:
        """Write endpoints.yaml as the cluster stands, or the given text."""
        replace_file(self.directory / "endpoints.yaml", self.cluster.endpoints_yaml() if text is None else text)

    def set_policies(self, policies: Mapping[str, str]) -> None:
        """Make the policy directory hold exactly these and wait until they are realised.

        No pause between writing and asking: a status speaks of what is on disk at the moment it is asked.
        """
        for path in self.policy_directory.glob("*.yaml"):
            if path.stem not in policies:
                path.unlink()
        for name, text in policies.items():
            self.write_policy(name, text)
        self.wait_ready()
        status = self.status()
        assert {policy_file(policy["source"]) for policy in status["policies"]} <= policies.keys()

    # ---- the command ----------------------------------------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        """The words of ``tidegate ARGUMENTS --config node.yaml``."""
        return [*tidegate(), *arguments, "--config", str(self.config_file)]

    def cli(self, *arguments: str, timeout_seconds: float = READY_TIMEOUT_SECONDS + 10) -> subprocess.CompletedProcess[str]:
        """Run ``tidegate ARGUMENTS --config node.yaml`` in the node's namespace."""
        command = [*self.cluster.command_in(self.cluster.node_netns), *self.command(*arguments)]
        environment = os.environ | {"COLUMNS": "200"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_seconds, check=False)

    def wait_ready(self, timeout_seconds: float = READY_TIMEOUT_SECONDS) -> None:
        """Wait until all that is on disk is realised; fails at once when ``tidegate run`` ends."""
        assert self._child is not None
        deadline = time.monotonic() + timeout_seconds
        obstacles: list[str] = ["no agent answers"]
        while time.monotonic() < deadline:
            code = self._child.poll()
            assert code is None, f"tidegate run has ended with {code}"
            with contextlib.suppress(NodeError):
                status = self.status(wait_seconds=1)
                obstacles = status["obstacles"]
                if status["all_realised"]:
                    return
        raise AssertionError(f"not ready within {timeout_seconds} s:\n" + "\n".join(obstacles))

    def status(self, wait_seconds: float = 0) -> Any:
        """What ``tidegate status -o json`` prints, asked without the cost of starting the command."""
        return NodeClient(self.directory / "state" / "admin.sock").status(wait_seconds)

    def counts(self) -> Any:
        """What the agent answers at /v1/counts: the exact counts of requests."""
        return NodeClient(self.directory / "state" / "admin.sock").get("/v1/counts")

    def flows(self, *arguments: str) -> list[Any]:
        """``tidegate flows -o json``: one object a line."""
        return [json.loads(line) for line in self.cli("flows", "-o", "json", *arguments).stdout.splitlines()]

    def check_denials(self) -> None:
        """Insist that every denial since the last look says why, and that the evaluator says the same."""
        if self._denials is None:
            self._denials = DenialCheck(self.directory / "state" / "admin.sock")
        self._denials.look()

    def envoy_pid(self) -> int:
        """The process of the node's Envoy."""
        (pid,) = (pid for pid in self.processes("--base-id") if "envoy" in process_command(pid).partition(" ")[0])
        return pid

    # ---- looking inside -------------------------------------------------------------------------------------------

    def processes(self, *words: str) -> list[int]:
        """The processes of the node's namespace whose command contains one of ``words``; the pod helper is not one."""
        found = []
        for pid in namespace_pids(self.cluster.node_netns):
            command = process_command(pid)
            if any(word in command for word in words) and "pod_agent" not in command:
                found.append(pid)
        return found

    def host_lines(self, *command: str) -> list[str]:
        """What a command prints in the node's namespace, as lines; a table that does not exist has none."""
        result = self.cluster.host.run(command)
        return [line for line in result.stdout.splitlines() if line.strip()]

    def log_tail(self) -> str:
        """The last of what ``tidegate run`` and Envoy printed."""
        parts = []
        for path in (self.log_file, self.directory / "state" / "envoy" / "envoy.log"):
            if path.exists():
                parts.append(f"---- {path}\n{path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors='replace')}")
        return "\n".join(parts)

    def print_log(self) -> None:
        """Show the log; pytest keeps it for failures."""
        print(self.log_tail(), file=sys.stderr)


def policy_file(source: str) -> str:
    """The name, as ``write_policy`` takes it, of the file that a policy's ``source`` names."""
    return Path(source.partition("[")[0]).stem


def tidegate() -> list[str]:
    """The words that start the installed ``tidegate``."""
    return [str(Path(sys.executable).parent / "tidegate")]


def replace_file(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new text, never a part."""
    draft = path.parent.parent / f".{path.name}.draft"
    draft.write_text(text)
    draft.replace(path)


def process_command(pid: int) -> str:
    """The command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def eventually(predicate: Callable[[], bool], timeout_seconds: float = 5.0, what: str = "") -> float:
    """Poll until ``predicate`` holds; return how long it took. Fails the test at the deadline."""
    start = time.monotonic()
    while not predicate():
        elapsed = time.monotonic() - start
        assert elapsed < timeout_seconds, f"not within {timeout_seconds} s: {what or predicate}"
        time.sleep(POLL_SECONDS)
    return time.monotonic() - start
