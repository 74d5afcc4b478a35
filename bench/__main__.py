"""``python -m bench``: build every arm, go through the workloads round by round, write what was seen. See docs/benchmark.md."""

from __future__ import annotations

import argparse
import datetime
import fcntl
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from bench import bpf_time, plots, processor, proxies, report, server
from bench.arms import DESCRIPTIONS, Arm, ArmError, build
from bench.results import Results, Run
from bench.workloads import WORKLOADS, LoadError, Outcome, Workload, execute
from tests.support.netns import NetnsError
from tidegate.config.node import load_config
from tidegate.processes.envoy import envoy_binary
from tidegate.processes.process import ProcessError

OUTPUT = Path(__file__).parent / "results"
LOCK = Path("/run/tidegate-bench.lock")
PROGRAMS = ("ip", "nsenter", "unshare", "mount", "sysctl", "nft", "nginx", "wrk", "h2load", "bpftool")
PROBE_SECONDS = 15.0
QUICK_LEFT_OUT = ("envoy-lean",)
ASKED_FOR = ("counts-none", "counts-only", "records-all")
"""Arms that answer one question, what counting and recording cost, and run when they are asked for by name."""
BPF_WORKLOADS = ("h1-64B-c16", "h1-64kB-c16", "close-64B-c16", "tcp-stream", "tcp-ping")
SECONDS_MAX, ROUNDS_MAX = 60, 50


class BenchError(RuntimeError):
    """The benchmark can't be run, or an arm is not what it should be."""


# ---- arguments ----------------------------------------------------------------------------------------------------


def parse_arguments(words: list[str]) -> argparse.Namespace:
    """Read the command line."""

    def chosen(known: dict[str, Any]) -> Any:
        def read(text: str) -> list[str]:
            names = text.split(",")
            for name in names:
                if name not in known:
                    raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
            return [name for name in known if name in names]

        return read

    def between(low: int, high: int) -> Any:
        def read(text: str) -> int:
            value = int(text)
            if not low <= value <= high:
                raise argparse.ArgumentTypeError(f"{value} is not within {low}..{high}")
            return value

        return read

    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures Tidegate against no proxy, one Envoy, TPROXY and two sidecars, in one run on this machine.",
        epilog="arms:\n" + "\n".join(f"  {each.name:12} {each.text}" for each in DESCRIPTIONS.values())
        + "\nworkloads:\n" + "\n".join(f"  {each.name:14} {each.text}" for each in WORKLOADS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="fewer workloads, 3 rounds of 1 s: under 3 minutes, more noise")
    parser.add_argument("--arms", type=chosen(DESCRIPTIONS), help="comma-separated")
    parser.add_argument("--workloads", type=chosen(WORKLOADS), help="comma-separated")
    parser.add_argument("--seconds", type=between(1, SECONDS_MAX), help="length of each run (2; quick: 1)")
    parser.add_argument("--rounds", type=between(1, ROUNDS_MAX), help="how often each run is repeated (5; quick: 3)")
    parser.add_argument(
        "--output", type=Path, help=f"directory of the results ({OUTPUT.name}; anything less than all: {OUTPUT.name}/partial)"
    )
    found = parser.parse_args(words)
    partial = found.quick or found.arms or found.workloads
    found.seconds = found.seconds or (1 if found.quick else 2)
    found.rounds = found.rounds or (3 if found.quick else 5)
    found.arms = found.arms or [
        name for name in DESCRIPTIONS if name not in ASKED_FOR and not (found.quick and name in QUICK_LEFT_OUT)
    ]
    found.workloads = found.workloads or [each.name for each in WORKLOADS.values() if each.quick or not found.quick]
    found.output = found.output or (OUTPUT / "partial" if partial else OUTPUT)
    return found


def check_machine() -> None:
    """Refuse, saying why, where it can't work."""
    if os.geteuid() != 0:
        raise BenchError("network namespaces and BPF programs need root: run as root, or `make bench` with sudo installed")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise BenchError(f"not installed: {', '.join(missing)}; `make bench` installs what is missing")


@contextmanager
def only_one() -> Iterator[None]:
    """Hold the lock: two benchmarks at once would measure each other."""
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BenchError("another benchmark is running on this machine") from error
        yield


# ---- running ------------------------------------------------------------------------------------------------------


def fits(workload: Workload, arm: str) -> bool:
    """Whether the arm can carry the workload."""
    return arm in ("direct", "l4") or not workload.raw_tcp


def ask(arm: Arm, workload: Workload, seconds: int) -> Outcome:
    """Run the workload's load program in the client's pod."""
    command = [*arm.cluster.command_in(arm.client.netns), *workload.command(arm.host, seconds)]
    with arm.entered():
        return execute(command, seconds, workload.read)


def run(arm: Arm, workload: Workload, seconds: int, number: int) -> Run:
    """One run, with what it cost. A load that fails is a result too."""
    try:
        before = processor.read(arm.envoys, arm.agents)
        outcome = ask(arm, workload, seconds)
        return Run(number, workload.name, arm.name, outcome, processor.read(arm.envoys, arm.agents).since(before))
    except (LoadError, OSError) as error:
        return Run(number, workload.name, arm.name, None, None, str(error))


def rounds(arms: dict[str, Arm], results: Results, count: int, seconds: int) -> None:
    """All arms, one after the other, for each workload, again and again; who begins changes."""
    names = list(arms)
    for number in range(count):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for workload in results.workloads:
            for name in turned:
                if fits(workload, name):
                    results.runs.append(run(arms[name], workload, seconds, number + 1))
                    say(progress(results.runs[-1], workload, count))


def progress(done: Run, workload: Workload, count: int) -> str:
    """Return a line about a run."""
    value = done.primary(workload.kind)
    unit = "us at p99" if str(workload.kind) == "us" else str(workload.kind)
    figure = done.problem.splitlines()[0] if value is None and done.problem else f"{value or 0:12,.1f} {unit}"
    return f"[{done.round}/{count}] {done.workload:14} {done.arm:12} {figure}"


def account_programs(arms: dict[str, Arm], results: Results, seconds: int) -> None:
    """Runs of their own in which the kernel counts the time of BPF programs: all that ran, whoever's, for each arm asked.

    ``direct`` is asked too: it shows that the programs of others don't run for its packets.
    """
    pins = [arm.programs for arm in arms.values() if arm.programs is not None]
    asked = [arm for arm in arms.values() if pins and (arm.programs is not None or arm.name == "direct")]
    with bpf_time.counted():
        for arm in asked:
            for workload in results.workloads:
                if workload.name not in BPF_WORKLOADS or not fits(workload, arm.name):
                    continue
                before = bpf_time.read(pins)
                try:
                    outcome = ask(arm, workload, seconds)
                except LoadError as error:
                    say(f"no BPF time of {workload.name}, {arm.name}: {error}")
                    continue
                grown = bpf_time.since(bpf_time.read(pins), before)
                units = outcome.requests or outcome.bytes / 1e6
                results.bpf.setdefault(arm.name, {})[workload.name] = {
                    name: {
                        "per_request": each.count / units,
                        "ns_per_run": each.nanoseconds / each.count,
                        "us_per_request": each.nanoseconds / units / 1000,
                    }
                    for name, each in grown.items()
                }


# ---- are the arms what they say? ----------------------------------------------------------------------------------


def check_arm(arm: Arm) -> None:
    """Every arm answers; those with a proxy refuse what the rule refuses; only Tidegate's have programs. Raises BenchError."""
    deadline = time.monotonic() + PROBE_SECONDS
    expected = {server.SMALL: b"200", server.LARGE: b"200", server.DENIED: b"403" if arm.judges_http else b"404"}
    for path, status in expected.items():
        while (said := probe(arm, path)) != status:
            if time.monotonic() > deadline:
                raise BenchError(f"arm {arm.name}: GET {path} should give {status.decode()}, gave {said.decode() or 'nothing'}")
            time.sleep(0.1)
    if arm.programs is not None and not any((arm.programs / "links").iterdir()):
        raise BenchError(f"arm {arm.name}: no program is attached")


def probe(arm: Arm, path: str) -> bytes:
    """Return the status of one request from the client's pod; empty when there is no answer."""
    script = (
        "import socket,sys\n"
        "with socket.create_connection((sys.argv[1], int(sys.argv[2])), 3) as s:\n"
        " s.sendall(b'GET %s HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' % sys.argv[3].encode())\n"
        " print(s.recv(64).split()[1].decode())\n"
    )
    command = [*arm.cluster.command_in(arm.client.netns), sys.executable, "-I", "-c", script]
    words = [arm.host, str(server.HTTP1), path]
    result = subprocess.run([*command, *words], capture_output=True, timeout=PROBE_SECONDS, check=False)
    return result.stdout.strip()


# ---- about --------------------------------------------------------------------------------------------------------


def about(arguments: argparse.Namespace, words: list[str], binary: Path) -> dict[str, Any]:
    """Return what a reader has to know of the machine and the run."""
    cpu = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", cpu, re.MULTILINE)
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python -m bench", *words]),
        "machine": {
            "processors": len(os.sched_getaffinity(0)),
            "model": model[1] if model else platform.machine(),
            "kernel": platform.release(),
            "load_start": load_average(),
        },
        "versions": {
            "envoy": first(r"version: \w+/([\d.]+)", [str(binary), "--version"]),
            "nginx": first(r"nginx/([\d.]+)", ["nginx", "-v"]),
            "wrk": first(r"wrk \S*?([\d.]+\S*)", ["wrk", "-v"]),
            "h2load": first(r"nghttp2/([\d.]+)", ["h2load", "--version"]),
            "nft": first(r"v([\d.]+)", ["nft", "--version"]),
        },
        "settings": {
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
            "envoy_concurrency": proxies.CONCURRENCY,
            "rule": f"method {proxies.ALLOWED_METHOD}, path {proxies.ALLOWED_PATH}",
        },
        "arms": {name: {"text": DESCRIPTIONS[name].text} for name in arguments.arms},
    }


def first(pattern: str, command: list[str]) -> str:
    """Return what the pattern's group finds in what a command prints."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    found = re.search(pattern, result.stdout + result.stderr)
    return found[1] if found else "unknown"


def load_average() -> str:
    """Return the load of the last minute."""
    return Path("/proc/loadavg").read_text().split()[0]


def say(line: str) -> None:
    """Tell whoever watches."""
    print(line, file=sys.stderr, flush=True)


def write(results: Results, directory: Path) -> None:
    """Write table, JSON and plots; a reader never sees a half of one."""
    directory.mkdir(parents=True, exist_ok=True)
    files = {"table.txt": report.text(results), "results.json": json.dumps(results.document(), indent=1) + "\n"}
    for name, content in (files | plots.all_of(results)).items():
        draft = directory / f".{name}"
        draft.write_text(content)
        draft.replace(directory / name)


# ---- the whole ----------------------------------------------------------------------------------------------------


def bench(arguments: argparse.Namespace, words: list[str]) -> Results:
    """Build, check, run, account."""
    with ExitStack() as stack:
        stack.enter_context(only_one())
        binary = bundled_envoy()
        results = Results(
            about(arguments, words, binary), tuple(WORKLOADS[name] for name in arguments.workloads), tuple(arguments.arms)
        )
        started = processor.read({})
        arms: dict[str, Arm] = {}
        for name in arguments.arms:
            say(f"building {name}: {DESCRIPTIONS[name].text}")
            arms[name] = stack.enter_context(build(DESCRIPTIONS[name], binary))
        for arm in arms.values():
            check_arm(arm)
        for arm in arms.values():  # warm: pages, pools, caches
            with suppress(LoadError):
                ask(arm, WORKLOADS["h1-64B-c16"], 1)
        rounds(arms, results, arguments.rounds, arguments.seconds)
        account_programs(arms, results, arguments.seconds)
        for arm in arms.values():
            results.about["arms"][arm.name]["envoys"] = {name: processor.resident_bytes(pid) for name, pid in arm.envoys.items()}
        used = processor.read({}).since(started)
        machine = results.about["machine"]
        machine["load_end"] = load_average()
        machine["steal_percent"] = 100 * used.steal / max(0.01, used.busy + used.steal)
        return results


def bundled_envoy() -> Path:
    """Return the binary that Tidegate itself would start."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "node.yaml"
        path.write_text("node: {name: bench}\npolicies: ./p\nendpoints: ./e.yaml\n")
        return envoy_binary(load_config(path))


def interrupted(number: int, _frame: FrameType | None) -> None:
    """Unwind as for Ctrl-C, once; what follows is cleaning up, which nothing should cut short."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def main(words: list[str]) -> int:
    """Return the exit code: 0 all is well, 1 some run had problems, 2 it can't be run here."""
    arguments = parse_arguments(words)
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, interrupted)
    try:
        check_machine()
        results = bench(arguments, words)
    except (BenchError, ArmError, NetnsError, proxies.ProxyError, ProcessError) as error:
        say(f"bench: {error}")
        return 2
    except KeyboardInterrupt:
        say("bench: interrupted; everything is cleaned up")
        return 130
    write(results, arguments.output)
    print(report.text(results))
    say(f"written to {arguments.output}")
    return 1 if results.problems() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
