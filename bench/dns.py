"""``python -m bench.dns``: what asking through Tidegate costs, beside asking the same server directly.

Two arms in one run, round by round: ``direct`` (no Tidegate) and ``tidegate`` (the real ``tidegate run``, a policy with DNS rules
and ``toFQDNs`` on the client). The server is knot with one worker, in a namespace outside the cluster; the clients are dnsperf
and ``tests/support/dns_client.py``. Workloads:

    low       30 questions/s, each followed at once by a connection to its answer: 250 names, each with an address of its own
    open      1,000 questions/s by dnsperf on a schedule; latency percentiles of every single question
    full      dnsperf as fast as it goes, 8 sockets, at most 200 questions in flight

Prints a table; exit code 1 if a first connection was denied, a question was lost, or an answer was no NOERROR.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench import processor
from bench.__main__ import OUTPUT, BenchError, check_machine, load_average, only_one, say
from bench.arms import PREFIX, ConfinedNode, own_cgroup_for
from tests.support import knot
from tests.support.netns import Cluster, Pod, ip_batch, namespace_pids
from tests.support.node import eventually

SERVER, SITE = "203.0.113.53", "203.0.113.7"
NAMES_COUNT = 250
PORT = 8080
CLIENT_PROGRAM = Path(__file__).resolve().parents[1] / "tests" / "support" / "dns_client.py"
ARMS = ("direct", "tidegate")
WORKLOADS = {"low": "30 q/s, each with a connect", "open": "1,000 q/s", "full": "as fast as it goes"}
OPEN_RATE = 1000
RUN_SLACK_SECONDS = 30
_LINE = re.compile(r"^> (\S+) \S+ \S+ ([\d.]+)$", re.MULTILINE)
_QPS = re.compile(r"Queries per second:\s+([\d.]+)")
_CODES = re.compile(r"Response codes:\s+(.*)")
_CODE = re.compile(r"([A-Z]+) (\d+) \(")
_COUNTS = re.compile(r"Queries (sent|completed|lost):\s+(\d+)")


@dataclass
class Arm:
    """One way between the pod and the server."""

    name: str
    cluster: Cluster
    client: Pod
    proxy_pid: int | None = None
    node: ConfinedNode | None = None
    first: tuple[str, ...] = ()
    """Words before those of a client's command."""


@dataclass
class Found:
    """What one run gave. ``cpu_us``: of the proxy's process for each question."""

    rate: float
    p50_us: float = 0.0
    p99_us: float = 0.0
    connect_p99_us: float = 0.0
    cpu_us: float = 0.0
    problems: dict[str, int] = field(default_factory=dict)


def policy() -> str:
    """Return the policy of the arm with Tidegate."""
    names = [{"matchPattern": "*.good.test"}]
    dns = {"ports": [{"port": "53", "protocol": "ANY"}], "rules": {"dns": names}}
    egress = [
        {"toEntities": ["world"], "toPorts": [dns]},
        {"toFQDNs": names, "toPorts": [{"ports": [{"port": str(PORT), "protocol": "TCP"}]}]},
    ]
    metadata = {"name": "bench", "namespace": "default"}
    spec = {"endpointSelector": {"matchLabels": {"app": "client"}}, "egress": egress}
    return yaml.safe_dump({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": spec})


@contextmanager
def build(name: str) -> Iterator[Arm]:
    """Build an arm; at the end nothing of it is left."""
    with ExitStack() as stack:
        cgroup = stack.enter_context(own_cgroup_for(f"dns-{name}"))
        cluster = stack.enter_context(Cluster(prefix=PREFIX))
        client, server = cluster.pod("client", {"app": "client"}), cluster.world("server", SERVER, "2001:db8:113::53")
        site = cluster.world("site", SITE, "2001:db8:113::7")
        ip_batch(site.netns, "route add local 198.51.101.0/24 dev lo")
        ip_batch(f"{cluster.tag}-router", f"route add 198.51.101.0/24 via {SITE} dev out-site")
        zones = cluster.directory / "knot"
        zones.mkdir()
        records = "\n".join(f"host{number} A 198.51.101.{number}" for number in range(1, NAMES_COUNT + 1))
        words = knot.command(zones, (SERVER,), 53, {"good.test": records})
        server.popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        site.serve_tcp(PORT)
        (cluster.directory / "names.txt").write_text("".join(f"host{n}.good.test A\n" for n in range(1, NAMES_COUNT + 1)))
        arm = Arm(name, cluster, client)
        if name == "tidegate":
            config: dict[str, Any] = {"envoy": {"concurrency": 1}}
            arm.node = stack.enter_context(_Confined(cluster, cgroup, {"bench": policy()}, config))
            (arm.proxy_pid,) = arm.node.processes("tidegate.dnsproxy")
        eventually(lambda: "198.51.101.1" in client.run(["dig", "+short", "+time=1", f"@{SERVER}", "host1.good.test"]).stdout, 20)
        yield arm


class _Confined(ConfinedNode):
    """A Tidegate that takes the arm's cgroup for the whole machine, without this process being in it."""

    def __init__(self, cluster: Cluster, cgroup: Path, policies: dict[str, str], config: dict[str, Any]) -> None:
        super().__init__(cluster, policies, config)
        self._cgroup = cgroup

    def command(self, *arguments: str) -> list[str]:
        """Run it where the arm's cgroup stands in the place of the root."""
        words = super(ConfinedNode, self).command(*arguments)
        if arguments[0] != "run":
            return words
        mount = f'echo $$ > {self._cgroup}/cgroup.procs && mount --bind {self._cgroup} {self._cgroup.parent} && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", mount, "sh", *words]


# ---- running ------------------------------------------------------------------------------------------------------


def run(arm: Arm, workload: str, seconds: int) -> Found:
    """One run."""
    before = _cpu(arm)
    if workload == "low":
        found, questions = _low(arm, seconds)
    else:
        found, questions = _dnsperf(arm, seconds, OPEN_RATE if workload == "open" else None)
    found.cpu_us = (_cpu(arm) - before) / max(1, questions) * 1e6
    return found


def go_first(arm: Arm) -> None:
    """Let server, proxy and clients run before everything else: what others do on the machine is then not measured."""
    arm.first = ("chrt", "--fifo", "9")
    servers = namespace_pids(arm.cluster.worlds["server"].netns)
    for pid in (*servers, *([arm.proxy_pid] if arm.proxy_pid else [])):
        subprocess.run(["chrt", "--fifo", "--all-tasks", "--pid", "10", str(pid)], check=True)


def _cpu(arm: Arm) -> float:
    return processor.read({"proxy": arm.proxy_pid}).envoys["proxy"] if arm.proxy_pid else 0.0


def _low(arm: Arm, seconds: int) -> tuple[Found, int]:
    words = [sys.executable, "-I", str(CLIENT_PROGRAM), SERVER, "4", "30", str(seconds), str(PORT), "host{}.good.test"]
    said = json.loads(arm.client.run([*arm.first, *words], seconds + RUN_SLACK_SECONDS).stdout)
    problems = dict(said["failures"])
    found = Found(
        rate=said["answered"] / said["seconds"],
        p50_us=said["dns_us"]["p50"],
        p99_us=said["dns_us"]["p99"],
        connect_p99_us=said["connect_us"]["p99"],
        problems=problems,
    )
    return found, said["asked"]


def _dnsperf(arm: Arm, seconds: int, rate: int | None) -> tuple[Found, int]:
    words = ["dnsperf", "-s", SERVER, "-d", str(arm.cluster.directory / "names.txt"), "-l", str(seconds)]
    words += ["-v", "-c", "4", "-q", "200", "-Q", str(rate)] if rate else ["-c", "8", "-q", "200"]
    return read_dnsperf(arm.client.run([*arm.first, *words], seconds + RUN_SLACK_SECONDS).stdout)


def read_dnsperf(printed: str) -> tuple[Found, int]:
    """Return what dnsperf found and how many questions were answered. Raises BenchError."""
    qps, counts, codes = _QPS.search(printed), dict(_COUNTS.findall(printed)), _CODES.search(printed)
    if qps is None or codes is None:
        raise BenchError(f"dnsperf said:\n{printed[-2000:]}")
    found = Found(rate=float(qps[1]))
    if int(counts["lost"]):
        found.problems["lost"] = int(counts["lost"])
    for code, count in _CODE.findall(codes[1]):
        if code != "NOERROR":
            found.problems[code] = int(count)
    latencies = sorted(float(latency) * 1e6 for _, latency in _LINE.findall(printed))
    if latencies:
        found.p50_us, found.p99_us = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
    return found, int(counts["completed"])


# ---- telling ------------------------------------------------------------------------------------------------------


def median(runs: list[Found], name: str) -> float:
    """Median over rounds."""
    return statistics.median(getattr(each, name) for each in runs)


def report(runs: dict[tuple[str, str], list[Found]]) -> str:
    """Return the table. Added latency is the difference within a round, then the median of those."""
    lines = [f"{'workload':10} {'arm':9} {'q/s':>9} {'p50 us':>8} {'p99 us':>8} {'connect p99':>11} {'proxy us/q':>10}  problems"]
    for workload in WORKLOADS:
        for arm in ARMS:
            found = runs[workload, arm]
            problems = {what: count for each in found for what, count in each.problems.items()}
            numbers = [median(found, name) for name in ("rate", "p50_us", "p99_us", "connect_p99_us", "cpu_us")]
            columns = " ".join(f"{value:{width},.0f}" for value, width in zip(numbers, (9, 8, 8, 11), strict=False))
            lines.append(f"{workload:10} {arm:9} {columns} {numbers[4]:10.1f}  {problems or '-'}")
        pairs = list(zip(runs[workload, "tidegate"], runs[workload, "direct"], strict=True))
        if workload == "full":
            ratio = statistics.median(ours.rate / theirs.rate for ours, theirs in pairs)
            lines.append(f"{'':10} ratio     {ratio:9.2f} of direct's questions/s")
        else:
            added = [statistics.median(getattr(o, name) - getattr(t, name) for o, t in pairs) for name in ("p50_us", "p99_us")]
            lines.append(f"{'':10} added     {'':9} {added[0]:8,.0f} {added[1]:8,.0f}")
    return "\n".join(lines)


def main(words: list[str]) -> int:
    """Return the exit code: 0 all is well, 1 something was denied or lost, 2 it can't be run here."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.dns", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 rounds of 2 s")
    parser.add_argument("--realtime", action="store_true", help="client, server and proxy go before all else (SCHED_FIFO)")
    parser.add_argument("--seconds", type=int, help="length of each run (5; quick: 2)")
    parser.add_argument("--rounds", type=int, help="how often each run is repeated (5; quick: 2)")
    arguments = parser.parse_args(words)
    seconds, rounds = arguments.seconds or (2 if arguments.quick else 5), arguments.rounds or (2 if arguments.quick else 5)
    runs: dict[tuple[str, str], list[Found]] = {(workload, arm): [] for workload in WORKLOADS for arm in ARMS}
    try:
        check_machine()
        with ExitStack() as stack:
            stack.enter_context(only_one())
            load = load_average()
            arms = {name: stack.enter_context(build(name)) for name in ARMS}
            if arguments.realtime:
                for arm in arms.values():
                    go_first(arm)
            for number in range(rounds):
                for workload in WORKLOADS:
                    for name in ARMS if number % 2 == 0 else reversed(ARMS):
                        found = run(arms[name], workload, seconds)
                        runs[workload, name].append(found)
                        say(f"[{number + 1}/{rounds}] {workload:5} {name:9} {found.rate:10,.0f} q/s  p99 {found.p99_us:8,.0f} us")
            proxy = arms["tidegate"].proxy_pid
            resident = processor.resident_bytes(proxy) if proxy else 0
    except BenchError as error:
        say(f"bench: {error}")
        return 2
    how = ", client, server and proxy before all else" if arguments.realtime else ""
    head = f"DNS, {rounds} rounds of {seconds} s{how}; load at start {load}; proxy {resident / 1e6:.0f} MB resident"
    text = f"{head}\n{report(runs)}"
    print(text)
    output = OUTPUT / "partial" if arguments.quick else OUTPUT
    output.mkdir(parents=True, exist_ok=True)
    (output / "dns.txt").write_text(text + "\n")
    return 1 if any(found.problems for each in runs.values() for found in each) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
