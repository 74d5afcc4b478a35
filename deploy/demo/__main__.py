"""Shows policy at work on a node built of network namespaces, and exits 0 only if every verdict is right.

The same harness as the tests' (tests/support) builds the namespaces and removes them, also after Ctrl-C; what a run that was
killed left behind is removed by the next. Nothing of this machine's own network is touched.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from deploy.demo.scene import BASE, HTTP, POLICIES, TRAP, Request, Scene
from tests.support.kafka import KAFKA
from tests.support.node import eventually
from tests.support.pod import Connection, LoadCounts

RECORD_WAIT_SECONDS = 3.0
LOAD_CONNECTIONS = 8


class Demo:
    """One run. ``wrong`` collects what was not as it should be."""

    def __init__(self, console: Console, scene: Scene) -> None:
        self.console, self.scene = console, scene
        self.wrong: list[str] = []

    def run(self) -> None:
        """All of it, in order."""
        self._show_stage()
        records = Recorder(self.scene)
        self._show_verdicts(records)
        self._show_names()
        self._show_flows()
        self._show_explanation()
        self._show_edit()
        records.stop()

    def _heading(self, text: str) -> None:
        self.console.print()
        self.console.print(Rule(f"[bold]{text}", align="left", style="blue"))

    def _expect(self, what: str, *, holds: bool) -> None:
        self.console.print(f"  [{'green' if holds else 'bold red'}]{'✓' if holds else '✗'}[/] {what}")
        if not holds:
            self.wrong.append(what)

    def _show_stage(self) -> None:
        self._heading("A node of network namespaces, with Tidegate enforcing these policies")
        table = Table("pod", "labels", "addresses", "runs", box=None, header_style="dim")
        scene = self.scene
        roles = {"deathstar": "nginx", "hangar": "gRPC server", "bespin": "nginx", "holonet": "knot", "comlink": "Kafka broker"}
        droids = (scene.r2d2, scene.c3po)
        for pod in (
            scene.deathstar,
            scene.hangar,
            scene.comlink,
            scene.tiefighter,
            scene.xwing,
            *droids,
            scene.outpost,
            scene.bespin,
            scene.holonet,
        ):
            labels = " ".join(f"{key}={value}" for key, value in pod.labels.items()) or "[dim]outside the cluster[/]"
            place = " [dim](another node)[/]" if pod is scene.outpost else ""
            table.add_row(pod.name + place, labels, f"{pod.ipv4} {pod.ipv6}", roles.get(pod.name, ""))
        self.console.print(table)
        policy = (POLICIES / "deathstar.yaml").read_text()
        self.console.print(Panel(Syntax(policy, "yaml", background_color="default"), title="deathstar.yaml", border_style="dim"))
        others = " and ".join(sorted(path.name for path in POLICIES.glob("*.yaml") if path.stem != "deathstar"))
        self.console.print(f"  [dim]beside it {others}, all in {POLICIES.relative_to(Path.cwd())}[/]")

    # ---- verdicts -------------------------------------------------------------------------------------------------

    def _show_verdicts(self, records: Recorder) -> None:
        self._heading("Who may call whom, and what they may say")
        table = Table("", "client", "request", "server", "expected", "actual", "decided by", header_style="bold")
        for request in self.scene.requests():
            start = records.count()
            actual = request.run()
            right = actual == request.expected
            if not right:
                self.wrong.append(f"{request.client} to {request.server}: {request.text}: {actual} instead of {request.expected}")
            decided = records.deciding_rule(request, start)
            colour = "green" if right else "bold red"
            mark = Text("✓" if right else "✗", style=colour)
            table.add_row(mark, request.client, request.text, request.server, request.expected, f"[{colour}]{actual}[/]", decided)
        self.console.print(table)
        self.console.print("  [dim]Each 200 also says that the server saw the client's own address.[/]")

    def _show_names(self) -> None:
        self._heading("Droids may ask for *.rebels.test, and connect to what that has")
        scene = self.scene
        base, trap = "base.rebels.test", "trap.empire.test"
        for what, run, expected in (
            (f"r2d2: GET http://{BASE}, before it has asked", lambda: scene.fetch(scene.r2d2, BASE, base), "dropped"),
            (f"r2d2: who is {base}?", lambda: scene.ask(scene.r2d2, base), BASE),
            (f"r2d2: GET http://{base}", lambda: scene.fetch(scene.r2d2, BASE, base), "200"),
            (
                f"c3po: GET http://{base}, with the same policy but without asking",
                lambda: scene.fetch(scene.c3po, BASE, base),
                "dropped",
            ),
            (f"r2d2: GET http://{trap} at the same address", lambda: scene.fetch(scene.r2d2, BASE, trap), "403"),
            (f"r2d2: who is {trap}?", lambda: scene.ask(scene.r2d2, trap), "REFUSED"),
            (f"r2d2: who is {trap}? over TCP", lambda: scene.ask(scene.r2d2, trap, "+tcp"), "REFUSED"),
            (f"r2d2: GET http://{TRAP}", lambda: scene.fetch(scene.r2d2, TRAP, trap), "dropped"),
        ):
            actual = run()
            right = actual == expected
            self._expect(f"{what}  [bold]{actual}[/]" + ("" if right else f" instead of {expected}"), holds=right)

    def _show_flows(self) -> None:
        self._heading("tidegate flows --last 8")
        self._show_output(self._output("flows", "--last", "8"))

    def _show_explanation(self) -> None:
        question = ["--from", "default/tiefighter", "--to", f"default/deathstar:{HTTP}", "--http", "PUT /v1/exhaust-port"]
        self._heading("tidegate explain " + " ".join(f"'{word}'" if " " in word else word for word in question))
        self._show_output(self._output("explain", *question, expected_code=1))

    def _show_output(self, text: str) -> None:
        """A command's output as it is: no markup, no wrapping of ours."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _output(self, *arguments: str, expected_code: int = 0) -> str:
        result = self.scene.node.cli(*arguments)
        if result.returncode != expected_code:
            self.wrong.append(f"tidegate {' '.join(arguments)} exits {result.returncode}: {result.stderr.strip()}")
        return (result.stdout + result.stderr).rstrip()

    # ---- the edit -------------------------------------------------------------------------------------------------

    def _show_edit(self) -> None:
        self._heading("An edit of the policy reaches connections that are already open")
        scene = self.scene
        scene.hangar.serve_http(HTTP)
        edits = {method: self._shuttle_policy(method) for method in ("GET", "POST")}
        scene.node.write_policy("shuttles", edits["GET"])
        scene.node.wait_ready()
        url = scene.hangar.url(HTTP, "/v1/shuttles")
        connections = {name: scene.tiefighter.connect(url, protocol) for name, protocol in (("HTTP/1.1", "h1"), ("HTTP/2", "h2"))}
        for name, connection in connections.items():
            self._expect(f"{name}: GET is 200, POST is 403", holds=methods(connection) == (200, 403))
        load = scene.tiefighter.load(url, connections=LOAD_CONNECTIONS)
        eventually(lambda: load.counts().statuses.get(200, 0) > 100)
        self.console.print("  [bold]edit:[/] [red]- {method: GET}[/]  [green]+ {method: POST}[/]")
        written = time.monotonic()
        scene.node.write_policy("shuttles", edits["POST"])
        eventually(lambda: load.counts().statuses.get(403, 0) > 100, 20, "the edit")
        counts = load.stop()
        for name, connection in connections.items():
            holds = methods(connection) == (403, 200) and connection.is_open
            self._expect(f"{name}: on the same connection GET is 403 now, POST is 200", holds=holds)
            connection.close()
        self._show_load(counts, written)

    def _show_load(self, counts: LoadCounts, written: float) -> None:
        total = sum(counts.statuses.values())
        failed = sum(counts.failures.values())
        self._expect(
            f"{total} requests on {counts.opened_count} connections meanwhile: {failed} failed, no connection was closed",
            holds=failed == 0 and counts.opened_count == LOAD_CONNECTIONS and set(counts.statuses) == {200, 403},
        )
        settled = counts.last_seen[200] - written if 403 in counts.first_seen else 0.0
        self.console.print(f"  [dim]last request under the old policy: {settled * 1000:.0f} ms after the file was written[/]")

    @staticmethod
    def _shuttle_policy(method: str) -> str:
        return f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: shuttles, namespace: default}}
spec:
  endpointSelector: {{matchLabels: {{app: hangar}}}}
  ingress:
    - fromEndpoints: [{{matchLabels: {{class: tiefighter}}}}]
      toPorts:
        - ports: [{{port: "{HTTP}", protocol: TCP}}]
          rules: {{http: [{{method: {method}}}]}}
"""


class Recorder:
    """Follows ``tidegate flows`` for as long as the demo runs; while somebody follows, every verdict is recorded."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._file = scene.cluster.directory / "flows.ndjson"
        with self._file.open("wb") as output:
            command = scene.node.command("flows", "-f", "-o", "json")
            self._child = scene.cluster.host.popen(command, stdout=output, stderr=subprocess.DEVNULL)
        eventually(lambda: scene.node.status()["flows"]["followers"] > 0, 10, "tidegate flows -f follows")

    def stop(self) -> None:
        """End the follower."""
        self._child.terminate()
        self._child.wait()

    def records(self) -> list[dict[str, Any]]:
        """Every record so far."""
        whole, _, _ = self._file.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def count(self) -> int:
        """How many records there are."""
        return len(self.records())

    def deciding_rule(self, request: Request, start: int) -> str:
        """The rule that decided a request, from the first record of it after ``start``."""
        if request.client == "host":
            return "[dim]the node always reaches its pods[/]"
        found: list[dict[str, Any]] = []

        def arrived() -> bool:
            found.extend(record for record in self.records()[start:] if concerns(record, request))
            return bool(found)

        try:
            eventually(arrived, RECORD_WAIT_SECONDS)
        except AssertionError:
            return "[dim]-[/]"
        return describe(found[-1].get("tidegate", {}))


def concerns(record: dict[str, Any], request: Request) -> bool:
    """Whether a record is of a request: by its server and port, and by its method where the record has one."""
    if record.get("destination", {}).get("pod_name", request.server) != request.server:
        return False
    if record.get("source", {}).get("pod_name", request.client) != request.client:
        return False
    l4 = record.get("l4", {})
    if request.port and l4.get("TCP", {}).get("destination_port") != request.port:
        return False
    if not request.port and not {"ICMPv4", "ICMPv6"} & set(l4):
        return False
    if record.get("l7", {}).get("kafka") is not None:
        # Clients speak more than one API for one thing that a person asks; the denial is what tells.
        return request.port == KAFKA and (record.get("verdict") in ("DROPPED", "DENIED")) == (request.expected != "ok")
    if request.port == KAFKA:
        return False
    said = record.get("l7", {}).get("http")
    if said is not None:
        return request.http is not None and bool(said["method"] == request.http[0])
    # A redirected connection's own record comes before that of its request, which is the one to show.
    return record.get("verdict") != "REDIRECTED"


def describe(decision: dict[str, Any]) -> str:
    """The deciding rule, or for a default deny what the nearest rule lacked."""
    if decision.get("rule"):
        return f"{decision['policy'].rpartition('/')[2]} [dim]{decision['rule'].removeprefix('spec.')}[/]"
    if decision.get("nearest_miss"):
        rule, _, lacking = decision["nearest_miss"].partition(" would allow it, but ")
        return f"no rule: {escape(lacking)}" if lacking else f"no rule [dim](nearest: {escape(rule)})[/]"
    return "no rule" if decision.get("verdict") in ("denied", "dropped") else "[dim]no policy[/]"


def methods(connection: Connection) -> tuple[int, int]:
    """The statuses of a GET and a POST on an open connection."""
    return connection.request("/v1/shuttles").status, connection.request("/v1/shuttles", "POST").status


def stop_on_signal() -> None:
    """Make SIGTERM and SIGHUP end the demo as Ctrl-C does, through every ``finally``."""

    def interrupt(_signal_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def timed(console: Console, text: str, action: Callable[[], object]) -> None:
    """Do something that takes a moment and say how long it took."""
    start = time.monotonic()
    with console.status(text):
        action()
    console.print(f"  [dim]{text}: {time.monotonic() - start:.1f} s[/]")


def main() -> int:
    """Run the demo; 0 only if every verdict was right."""
    stop_on_signal()
    console = Console(width=None if sys.stdout.isatty() else 160)
    scene = Scene()
    demo = Demo(console, scene)
    try:
        with scene.cluster:
            timed(console, "building namespaces, starting servers", scene.build)
            timed(console, "starting tidegate run, waiting until every policy is realised", scene.node.__enter__)
            try:
                demo.run()
            except BaseException:
                scene.node.print_log()
                scene.node.close(check=False)
                raise
            scene.node.close()
    except KeyboardInterrupt:
        console.print("\ninterrupted; everything that was built is removed")
        return 130
    console.print()
    if demo.wrong:
        console.print(f"[bold red]{len(demo.wrong)} wrong:[/]")
        for what in demo.wrong:
            console.print(f"  {what}")
        return 1
    console.print("[bold green]Every verdict is right[/], and nothing is left behind.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
