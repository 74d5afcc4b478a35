"""The stage of the DNS scenarios: two pods, two DNS servers and a site with many addresses outside the cluster.

::

    client      app=client; its policy is the tests'
    other       app=other
    resolver    app=dns: the odd server as a pod of this node, as cluster DNS is; another one is on the node itself
    nameserver  203.0.113.53: knot with zones good.test, site.test, elsewhere.test
    odd         203.0.113.54: tests/support/dns_server.py: whatever it is asked for, its name says what it does
    site        198.51.0.0/16, 2001:db8:51::/64: every address of these; HTTP 80 and 8080, TLS 443, TCP 7000
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import knot
from tests.support.certificates import Authority
from tests.support.netns import Cluster, Pod, ip_batch
from tests.support.node import Node, eventually
from tests.support.stage import Document

KNOT = {4: "203.0.113.53", 6: "2001:db8:113::53"}
ODD = {4: "203.0.113.54", 6: "2001:db8:113::54"}
HTTP, HTTP_OTHER, TLS, RAW = 80, 8080, 443, 7000
TYPES = {4: "A", 6: "AAAA"}
SITE_NAMES = ("www.site.test", "secret.site.test")
ZONES = {
    "good.test": "\n".join(
        (
            "www A 198.51.100.10\nwww AAAA 2001:db8:51::10",
            "alias CNAME www",
            "svc HTTPS 1 . alpn=h2 ipv4hint=198.51.100.11 ipv6hint=2001:db8:51::11",
            *(f"host{number} A 198.51.101.{number}" for number in range(1, 251)),
        )
    ),
    "site.test": "www A 198.51.100.14\nwww AAAA 2001:db8:51::14\nsecret A 198.51.100.14\nsecret AAAA 2001:db8:51::14",
    "signed.good.test": "www A 198.51.100.13",
    "elsewhere.test": "www A 198.51.100.16\nwww AAAA 2001:db8:51::16",
}


@dataclass(frozen=True)
class Answer:
    """What dig was told. ``values``: the records' data, in order."""

    status: str
    flags: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    text: str = ""


class DnsStage:
    """The cluster, its servers and the node that enforces."""

    def __init__(self, prefix: str, config: Mapping[str, Any] | None = None) -> None:
        self.cluster = Cluster(prefix=prefix)
        self.node = Node(self.cluster, config=config)

    def __enter__(self) -> Self:
        self.cluster.__enter__()
        try:
            self._build()
            self.node.__enter__()
        except BaseException:
            self.cluster.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.node.__exit__(kind, error, trace)
        finally:
            self.cluster.close()

    def _build(self) -> None:
        cluster = self.cluster
        self.client = cluster.pod("client", {"app": "client"})
        self.other = cluster.pod("other", {"app": "other"})
        self.resolver = cluster.pod("resolver", {"app": "dns"})
        self.nameserver = cluster.world("nameserver", KNOT[4], KNOT[6])
        self.odd = cluster.world("odd", ODD[4], ODD[6])
        self.site = cluster.world("site", "203.0.113.7", "2001:db8:113::7")
        ip_batch(self.site.netns, "route add local 198.51.0.0/16 dev lo", "route add local 2001:db8:51::/64 dev lo")
        router = f"{cluster.tag}-router"
        ip_batch(
            router,
            "route add 198.51.0.0/16 via 203.0.113.7 dev out-site",
            "route add 2001:db8:51::/64 via 2001:db8:113::7 dev out-site",
        )
        zones = cluster.directory / "knot"
        zones.mkdir()
        self.nameserver.popen(
            knot.command(zones, (KNOT[4], KNOT[6]), 53, ZONES, signed=("signed.good.test",)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for pod in (self.odd, self.resolver, cluster.host):
            pod.popen([sys.executable, "-m", "tests.support.dns_server", pod.ipv4, pod.ipv6])
        self.authority = Authority(cluster.directory / "ca")
        issued = self.authority.issue(*SITE_NAMES)
        for port in (HTTP, HTTP_OTHER):
            self.site.serve_http(port)
        self.site.serve_http(TLS, issued.certificate, issued.key)
        self.site.serve_tcp(RAW)
        for server in (KNOT[4], ODD[4]):
            eventually(lambda server=server: dig(self.site, server, "www.good.test").status == "NOERROR", 20, "a server")  # type: ignore[misc]
        for pod in (self.resolver, cluster.host):
            eventually(lambda pod=pod: dig(pod, pod.ipv4, "www.good.test").status == "NOERROR", 20, "a server")  # type: ignore[misc]

    def enforce(self, *documents: Document) -> None:
        """Put exactly these policies in force and wait until they are."""
        self.node.set_policies({document.name: document.text for document in documents})

    @property
    def proxy_pid(self) -> int:
        """The process of the DNS proxy."""
        (pid,) = self.node.processes("tidegate.dnsproxy")
        return pid

    @property
    def dns(self) -> dict[str, Any]:
        """The DNS part of the node's status."""
        found: dict[str, Any] = self.node.status()["dns"]
        return found


def dig(pod: Pod, server: str, name: str, kind: str = "A", *options: str) -> Answer:
    """Ask from the pod, once."""
    words = ["dig", "+noall", "+comments", "+answer", "+time=5", "+tries=1", *options, f"@{server}", name, kind]
    printed = pod.run(words).stdout
    status = re.search(r"status: (\w+)", printed)
    flags = re.search(r"^;; flags: ([a-z ]*);", printed, re.MULTILINE)
    values = tuple(line.split(None, 4)[4] for line in printed.splitlines() if line and not line.startswith(";"))
    return Answer(status[1] if status else "TIMEOUT", tuple(flags[1].split()) if flags else (), values, printed)


def libc_addresses(pod: Pod, directory: Path, name: str, server: str, *lines: str) -> list[str]:
    """What getaddrinfo tells a program in the pod whose resolv.conf names ``server`` and has ``lines``."""
    path = directory / f"resolv-{pod.name}.conf"
    path.write_text("\n".join([f"nameserver {server}", *lines]) + "\n")
    program = (
        "import socket, sys\n"
        "try:\n"
        " print(*sorted({each[4][0] for each in socket.getaddrinfo(sys.argv[1], None)}))\n"
        "except socket.gaierror as error:\n"
        " print(error.errno)\n"
    )
    script = f'mount --bind {path} /etc/resolv.conf && exec "$@"'
    words: Sequence[str] = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-I", "-c", program, name]
    return pod.run(words).stdout.split()
