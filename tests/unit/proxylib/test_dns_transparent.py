"""Pod, node and world as network namespaces: the server sees the pod's own address, the pod an answer from its server.

Policy routing brings the pod's packets to the node's local stack, as the mark does that BPF sets; see dns_transparent.py.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxylib.dns.policy import Roster, Subject, dump_roster, dump_rules
from tests.unit.proxylib.dns_bed import DEADLINE_SECONDS, ROLE, RULES
from tests.unit.proxylib.dns_transparent import DNS_PORT

pytestmark = [pytest.mark.root]

ROOT = Path(__file__).resolve().parents[3]
PREFIX = f"tgdns-{os.getpid()}"
POD_V4, POD_V6 = "10.77.1.2", "fd77:1::2"
SERVERS = ("10.77.9.9", "10.77.9.10", "fd77:9::9")

WIRING = f"""
ip link add pod0 netns {PREFIX}-node type veth peer name eth0 netns {PREFIX}-pod
ip link add world0 netns {PREFIX}-node type veth peer name eth0 netns {PREFIX}-world
ip -n {PREFIX}-pod addr add {POD_V4}/24 dev eth0
ip -n {PREFIX}-pod addr add {POD_V6}/64 dev eth0 nodad
ip -n {PREFIX}-node addr add 10.77.1.1/24 dev pod0
ip -n {PREFIX}-node addr add fd77:1::1/64 dev pod0 nodad
ip -n {PREFIX}-node addr add 10.77.9.1/24 dev world0
ip -n {PREFIX}-node addr add fd77:9::1/64 dev world0 nodad
ip -n {PREFIX}-world addr add 10.77.9.9/24 dev eth0
ip -n {PREFIX}-world addr add 10.77.9.10/24 dev eth0
ip -n {PREFIX}-world addr add fd77:9::9/64 dev eth0 nodad
ip -n {PREFIX}-pod link set eth0 up
ip -n {PREFIX}-world link set eth0 up
ip -n {PREFIX}-node link set pod0 up
ip -n {PREFIX}-node link set world0 up
ip -n {PREFIX}-node link set lo up
ip -n {PREFIX}-pod route add default via 10.77.1.1
ip -n {PREFIX}-pod route add default via fd77:1::1
ip -n {PREFIX}-world route add default via 10.77.9.1
ip -n {PREFIX}-world route add default via fd77:9::1
ip -n {PREFIX}-node rule add iif pod0 lookup 2004
ip -n {PREFIX}-node rule add iif world0 lookup 2004
ip -n {PREFIX}-node -6 rule add iif pod0 lookup 2004
ip -n {PREFIX}-node -6 rule add iif world0 lookup 2004
ip -n {PREFIX}-node route add local default dev lo table 2004
ip -n {PREFIX}-node -6 route add local default dev lo table 2004
"""


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    rules = tmp_path_factory.mktemp("dns") / "rules.json"
    rules.write_text(dump_rules(RULES))
    roster = Roster(subjects=(Subject("default/pod", (POD_V4, POD_V6), ROLE),))
    rules.with_name("subjects.json").write_text(dump_roster(roster))
    with contextlib.ExitStack() as stack:
        for name in ("pod", "node", "world"):
            subprocess.run(["ip", "netns", "add", f"{PREFIX}-{name}"], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "del", f"{PREFIX}-{name}"], check=True)
        for line in WIRING.strip().splitlines():
            subprocess.run(line.split(), check=True)
        for setting in ("all", "default", "pod0", "world0"):
            inside("node", "sysctl", "-qw", f"net.ipv4.conf.{setting}.rp_filter=0")
        run(stack, "world", "server", *SERVERS)
        run(stack, "node", "proxy", str(rules))
        deadline = time.monotonic() + DEADLINE_SECONDS
        while dig(SERVERS[0], "a.test", "A") == "":
            assert time.monotonic() < deadline, "the proxy does not answer"
        yield


def inside(name: str, *command: str) -> str:
    return subprocess.run(
        ["ip", "netns", "exec", f"{PREFIX}-{name}", *command], capture_output=True, text=True, check=False, timeout=60
    ).stdout


def run(stack: contextlib.ExitStack, name: str, *arguments: str) -> None:
    command = ["ip", "netns", "exec", f"{PREFIX}-{name}", sys.executable, "-m", "tests.unit.proxylib.dns_transparent", *arguments]
    process = subprocess.Popen(command, cwd=ROOT)
    stack.callback(process.wait)
    stack.callback(process.kill)


def dig(server: str, name: str, kind: str, *options: str) -> str:
    """Ask from the pod, with a socket that takes answers from ``server`` only."""
    words = ["dig", "+short", "+time=2", "+tries=1", *options, "-p", str(DNS_PORT), f"@{server}", name, kind]
    return "".join(line for line in inside("pod", *words).splitlines() if not line.startswith(";"))


@pytest.mark.parametrize("options", [(), ("+tcp",)], ids=["udp", "tcp"])
@pytest.mark.parametrize("server", SERVERS)
def test_server_sees_the_pod_and_the_pod_its_server(wired: None, server: str, options: tuple[str, ...]) -> None:
    kind, pod = ("AAAA", POD_V6) if ":" in server else ("A", POD_V4)
    assert dig(server, "a.test", kind, *options) == pod


@pytest.mark.parametrize("options", [(), ("+tcp",)], ids=["udp", "tcp"])
@pytest.mark.parametrize("server", SERVERS)
def test_refusals_come_from_the_server_that_was_asked(wired: None, server: str, options: tuple[str, ...]) -> None:
    words = ("dig", "+time=2", "+tries=1", *options, "-p", str(DNS_PORT), f"@{server}", "secret.test", "A")
    assert "status: REFUSED" in inside("pod", *words)
