"""The scene: who is there, what they run, which requests they make and what should become of each.

Owns: the cast and the expectations, as values. Must not know how anything is shown.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support import knot
from tests.support.kafka import KAFKA, Broker, Client
from tests.support.netns import Cluster, Pod, ip_batch
from tests.support.node import Node, eventually
from tests.support.pod import Failed

POLICIES = Path(__file__).parent / "policies"
DENIED_SECONDS = 0.7
"""How long silence lasts before it counts as a drop; an answer takes milliseconds."""
HTTP, ECHO, GRPC = 80, 8080, 50051
HOLONET, BASE, TRAP = "203.0.113.53", "203.0.113.66", "203.0.113.67"
ZONES = {"rebels.test": f"base A {BASE}", "empire.test": f"trap A {TRAP}"}
TOPICS = ("distress-calls", "plans")


@dataclass(frozen=True)
class Request:
    """One request and what should become of it. ``expected``: an HTTP status, a gRPC code, or a word."""

    client: str
    text: str
    server: str
    port: int
    expected: str
    run: Callable[[], str]
    http: tuple[str, str] | None = None
    """Method and path, for finding the record of its verdict."""


class Scene:
    """The cluster of the demo, with a node that runs Tidegate."""

    def __init__(self) -> None:
        self.cluster = Cluster(prefix="tgdemo")
        self.node = Node(self.cluster, policies={path.stem: path.read_text() for path in POLICIES.glob("*.yaml")})

    def build(self) -> None:
        """Build the namespaces and start the servers."""
        cluster = self.cluster
        self.deathstar = cluster.pod("deathstar", {"org": "empire", "class": "deathstar"})
        self.hangar = cluster.pod("hangar", {"org": "empire", "app": "hangar"})
        self.comlink = cluster.pod("comlink", {"org": "empire", "app": "comlink"})
        self.tiefighter = cluster.pod("tiefighter", {"org": "empire", "class": "tiefighter"})
        self.xwing = cluster.pod("xwing", {"org": "alliance", "class": "xwing"})
        self.outpost = cluster.remote("outpost", {"org": "empire", "class": "outpost"})
        self.r2d2 = cluster.pod("r2d2", {"app": "droid"})
        self.c3po = cluster.pod("c3po", {"app": "droid"})
        self.bespin = cluster.world("bespin")
        self.holonet = cluster.world("holonet", HOLONET, "2001:db8:113::53")
        outside = (self.outpost, self.bespin, cluster.host)
        for pod in (self.deathstar, self.hangar, self.tiefighter, self.xwing, self.r2d2, self.c3po, *outside):
            _ = pod.process
        self._start_nginx(self.deathstar)
        self._start_nginx(self.bespin)
        self.hangar.serve_grpc(GRPC)
        self._start_knot()
        self._start_broker()

    def _start_knot(self) -> None:
        """Debian's knot on the holonet; the names' addresses are bespin's, whose nginx answers on all of them."""
        directory = self.cluster.directory / "knot"
        directory.mkdir()
        for address in (BASE, TRAP):
            ip_batch(self.bespin.netns, f"addr add {address}/32 dev eth0")
            ip_batch(f"{self.cluster.tag}-router", f"route add {address}/32 via {self.bespin.ipv4} dev out-bespin")
        log = (directory / "log").open("wb")
        with log:
            self.holonet.popen(knot.command(directory, (HOLONET,), 53, ZONES), stdout=log, stderr=log)
        eventually(lambda: self.ask(self.bespin, "base.rebels.test") == BASE, 20, "knot on the holonet")

    def ask(self, client: Pod, name: str, *options: str) -> str:
        """What dig is told: the addresses, else the status."""
        words = ["dig", "+noall", "+comments", "+answer", "+time=2", "+tries=1", *options, f"@{HOLONET}", name, "A"]
        printed = client.run(words).stdout
        found = [line.split()[-1] for line in printed.splitlines() if line and not line.startswith(";")]
        status = printed.partition("status: ")[2].partition(",")[0]
        return " ".join(found) or status or "no answer"

    def fetch(self, client: Pod, address: str, host: str) -> str:
        """The status of a GET for ``host`` at ``address``, or ``dropped``."""
        try:
            return str(client.http(f"http://{address}:{HTTP}/plans", headers={"host": host}, timeout=DENIED_SECONDS).status)
        except Failed as failed:
            return "dropped" if failed.kind == "timeout" else str(failed.kind)

    def _start_broker(self) -> None:
        """A real Kafka broker with two topics in it."""
        self.broker = Broker.tansu(self.comlink, self.cluster.directory)
        self.broker.wait_started()
        with Client(self.comlink, "confluent", self.comlink.authority(KAFKA)) as client:
            client.ask("create", topics=list(TOPICS))
            client.ask("produce", topics=list(TOPICS), count=3)
        self.kafka = {pod.name: Client(pod, "confluent", self.comlink.authority(KAFKA)) for pod in (self.xwing, self.tiefighter)}

    def _start_nginx(self, pod: Pod) -> None:
        """Debian's nginx, untouched but for a configuration that tells what it was asked."""
        directory = self.cluster.directory / f"nginx-{pod.name}"
        directory.mkdir()
        (directory / "nginx.conf").write_text(
            textwrap.dedent(
                f"""\
                user root; daemon off; pid {directory}/pid; error_log stderr warn; worker_processes 1;
                events {{ worker_connections 256; }}
                http {{
                    access_log off;
                    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
                    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
                    keepalive_requests 1000000;
                    server {{
                        listen 80; listen [::]:80;
                        default_type text/plain;
                        location / {{ return 200 "{pod.name} $connection $remote_addr $request_method\\n"; }}
                    }}
                }}
                """
            )
        )
        log = (directory / "log").open("wb")
        with log:
            pod.popen(["/usr/sbin/nginx", "-e", "stderr", "-c", str(directory / "nginx.conf")], stdout=log, stderr=log)
        for family in (4, 6):
            eventually(lambda family=family: pod.tcp(pod.address(family), HTTP) == "connected", 10, f"nginx in {pod.name}")  # type: ignore[misc]

    def requests(self) -> list[Request]:
        """What is asked, in the order of the table."""
        return [
            self._http(self.tiefighter, self.deathstar, "GET", "/v1/status", 4, "200"),
            self._http(self.tiefighter, self.deathstar, "POST", "/v1/request-landing", 6, "200"),
            self._http(self.tiefighter, self.deathstar, "PUT", "/v1/exhaust-port", 4, "403"),
            self._http(self.tiefighter, self.deathstar, "PUT", "/v1/exhaust-port", 6, "403"),
            self._http(self.tiefighter, self.deathstar, "GET", "/v1/%2e%2e/exhaust-port", 4, "403"),
            self._http(self.xwing, self.deathstar, "GET", "/v1/status", 4, "dropped"),
            self._http(self.xwing, self.deathstar, "GET", "/v1/status", 6, "dropped"),
            self._http(self.outpost, self.deathstar, "GET", "/v1/status", 4, "200"),
            self._http(self.outpost, self.deathstar, "DELETE", "/v1/status", 6, "403"),
            self._http(self.bespin, self.deathstar, "GET", "/v1/status", 4, "dropped"),
            self._http(self.cluster.host, self.deathstar, "GET", "/healthz", 4, "200"),
            self._grpc(self.xwing, "/empire.Hangar/GetStatus", 4, "OK"),
            self._grpc(self.tiefighter, "/empire.Hangar/StreamArrivals", 6, "OK"),
            self._grpc(self.xwing, "/empire.Hangar/OpenDoors", 6, "PERMISSION_DENIED"),
            self._http(self.xwing, self.bespin, "GET", "/plans", 4, "200"),
            self._http(self.xwing, self.bespin, "POST", "/plans", 6, "403"),
            self._kafka(self.xwing, "produce", "distress-calls", "ok"),
            self._kafka(self.xwing, "produce", "plans", "TOPIC_AUTHORIZATION_FAILED"),
            self._kafka(self.tiefighter, "consume", "distress-calls", "ok"),
            self._kafka(self.tiefighter, "produce", "distress-calls", "TOPIC_AUTHORIZATION_FAILED"),
            self._ping(self.tiefighter, 4, "answered"),
            self._ping(self.xwing, 6, "dropped"),
        ]

    def _http(self, client: Pod, server: Pod, method: str, path: str, family: int, expected: str) -> Request:
        def run() -> str:
            try:
                response = client.http(server.url(HTTP, family=family), method, path=path, timeout=wait_seconds(expected))
            except Failed as failed:
                return "dropped" if failed.kind == "timeout" else str(failed.kind)
            if response.status == 200 and client.address(family) not in response.body.decode().split():
                return f"200, but the server saw {response.body.decode().split()[2]}"
            return str(response.status)

        return Request(client.name, f"{method} {path}  [dim]IPv{family}[/]", server.name, HTTP, expected, run, (method, path))

    def _grpc(self, client: Pod, method: str, family: int, expected: str) -> Request:
        names = {0: "OK", 7: "PERMISSION_DENIED", 14: "UNAVAILABLE", 4: "DEADLINE_EXCEEDED"}

        def run() -> str:
            stream = method.rpartition("/")[2].startswith("Stream")
            code = client.grpc(self.hangar.authority(GRPC, family), method, stream=stream).code
            return names.get(code, str(code))

        return Request(client.name, f"gRPC {method}  [dim]IPv{family}[/]", "hangar", GRPC, expected, run, ("POST", method))

    def _kafka(self, client: Pod, operation: str, topic: str, expected: str) -> Request:
        def run() -> str:
            topics = {"topics": [topic]} if operation == "produce" else {"topic": topic}
            answer = self.kafka[client.name].ask(operation, **topics)
            outcome = answer.get("ok", answer.get("error"))
            return str(outcome.get(topic)) if isinstance(outcome, dict) else "ok" if isinstance(outcome, int) else str(outcome)

        return Request(client.name, f"Kafka {operation} {topic}", "comlink", KAFKA, expected, run)

    def _ping(self, client: Pod, family: int, expected: str) -> Request:
        def run() -> str:
            return "answered" if client.ping(self.deathstar.address(family), timeout=wait_seconds(expected)) else "dropped"

        return Request(client.name, f"ping  [dim]IPv{family}[/]", "deathstar", 0, expected, run)


def wait_seconds(expected: str) -> float:
    """Patience: little where silence is expected, much where an answer is."""
    return DENIED_SECONDS if expected == "dropped" else 5.0
