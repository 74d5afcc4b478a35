"""The commands: what they print, and how they end."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner, Result

from tests.unit.tidegate.fakes import NOON_NS, denied_request, packet, realised_status
from tests.unit.tidegate.served import DEADLINE_SECONDS, Served, served
from tidegate.cli import app
from tidegate.cli.exits import Exit
from tidegate.cli.output import visible
from tidegate.flows.filter import PARAMETERS
from tidegate.flows.record import FlowEnd, HttpPart, Verdict
from tidegate.status.node import (
    DocumentError,
    DropCount,
    EndpointState,
    EndpointStatus,
    EnvoyStatus,
    MapFill,
    PolicyState,
    PolicyStatus,
    ProcessState,
    XdsStatus,
)

TIDEGATE = str(Path(sys.executable).with_name("tidegate"))
HELP_SECONDS_MAX = 0.3
GOOD_POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: rule1}
spec:
  endpointSelector: {matchLabels: {org: empire}}
  ingress:
  - fromEndpoints: [{matchLabels: {org: alliance}}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{method: GET, path: /public}]}
"""
BAD_POLICY = GOOD_POLICY.replace("rule1", "bad").replace("toPorts", "toPort")
ENDPOINTS = """\
- {name: deathstar, namespace: default, labels: {org: empire}, interface: lxc-deathstar, ipv4: 10.0.0.3}
- {name: xwing, namespace: default, labels: {org: alliance}, interface: lxc-xwing, ipv4: 10.0.0.2}
"""


@pytest.fixture(autouse=True)
def no_configuration_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEGATE_CONFIG", raising=False)


def run(*arguments: str | Path, environment: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], env=environment)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """node.yaml, endpoints.yaml and a directory with one good policy; no agent."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "rule1.yaml").write_text(GOOD_POLICY)
    (tmp_path / "endpoints.yaml").write_text(ENDPOINTS)
    (tmp_path / "node.yaml").write_text(
        f"node: {{name: node-a, addresses: [192.168.0.1]}}\npolicies: ./policies\nendpoints: ./endpoints.yaml\n"
        f"state: /tmp/tg-cli-{os.getpid()}\nbpf: {{pinRoot: /sys/fs/bpf/tg-cli-{os.getpid()}}}\n"
    )
    return tmp_path


# ---- in general -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["run", "status", "policy", "policy validate", "explain", "flows", "doctor", "cleanup", "dnsproxy", "version"]
)
def test_every_command_has_help_and_most_an_example(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert "Example" in result.output or command in ("policy", "version")


def test_help_is_fast() -> None:
    """By processor time: what the clock says depends on what else the machine does."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([TIDEGATE, "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < HELP_SECONDS_MAX


def test_commands_import_what_they_need_only_when_they_run() -> None:
    code = "import sys, tidegate.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"yaml", "aiohttp", "grpc", "google", "envoy", "pyroute2", "bcc", "structlog", "asyncio", "re2", "l7filters"}
    assert heavy.isdisjoint(loaded)


def test_completion_script_is_offered() -> None:
    result = subprocess.run([TIDEGATE, "--show-completion", "bash"], capture_output=True, text=True, check=False)
    assert (result.returncode, "_TIDEGATE_COMPLETE" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["status"], Exit.USAGE, "error: which node?\n  hint: give --config node.yaml, or set TIDEGATE_CONFIG\n"),
        (["status", "--config", "/nonexistent/node.yaml"], Exit.INVALID, "error: /nonexistent/node.yaml: can't be read"),
        (["status", "-o", "xml"], Exit.USAGE, "'xml' is not one of"),
        (["status", "--wait", "-1"], Exit.USAGE, "--wait"),
        (["flows", "--verdict", "forbidden", "--config", "x"], Exit.USAGE, "'forbidden' is no verdict"),
        (["flows", "--since", "yesterday", "--config", "x"], Exit.USAGE, "write a duration such as 5m"),
        (["frobnicate"], Exit.USAGE, "No such command"),
        (["policy", "validate"], Exit.USAGE, "PATH"),
        (["explain", "--from", "a", "--to", "b:1"], Exit.USAGE, "judge by which files?"),
        (["cleanup", "--config", "/nonexistent/node.yaml"], Exit.INVALID, "can't be read"),
    ],
)
def test_users_mistake_ends_with_a_message_and_no_traceback(arguments: Sequence[str], code: Exit, message: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_installed_command_ends_likewise() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TIDEGATE_CONFIG"}
    result = subprocess.run([TIDEGATE, "status"], capture_output=True, text=True, check=False, env=environment)
    assert (result.returncode, result.stdout) == (Exit.USAGE, "")
    assert result.stderr == "error: which node?\n  hint: give --config node.yaml, or set TIDEGATE_CONFIG\n"


def test_every_mistake_in_node_yaml_is_told_with_its_field(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("node: {name: a}\npolices: ./p\nendpoints: ./e\n")
    result = run("status", "--config", path)
    assert result.exit_code == Exit.INVALID
    assert f"error: {path}: policies: missing\n  hint: add `policies: ./policies`\n" in result.stderr
    assert f"error: {path}: polices: unknown field\n  hint: did you mean policies?\n" in result.stderr


def test_configuration_may_come_from_the_environment(node: Served) -> None:
    result = run("status", "-o", "json", environment={"TIDEGATE_CONFIG": str(node.agent.config.path)})
    assert result.exit_code == Exit.OK


@pytest.mark.parametrize("command", [["status"], ["flows"], ["explain", "--live", "--from", "a", "--to", "b:1"]])
def test_command_that_needs_an_agent_says_when_there_is_none(files: Path, command: list[str]) -> None:
    result = run(*command, "--config", files / "node.yaml")
    assert result.exit_code == Exit.UNREACHABLE
    assert "no agent answers" in result.stderr
    assert "hint: start it with `tidegate run`" in result.stderr


def test_version_tells_what_runs_here() -> None:
    assert json.loads(run("version", "-o", "json").stdout)["tidegate"] == "0.1.0"
    assert run("version").stdout.startswith("tidegate 0.1.0 (Python 3.")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode ✓", "plain ünïcode ✓"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("abc\u202edef", "abc\\u202edef"),
        ("\udce9", "\\udce9"),
    ],
)
def test_text_from_outside_cannot_command_the_terminal(text: str, shown: str) -> None:
    assert visible(text) == shown


# ---- status ---------------------------------------------------------------------------------------------------------


SICK = realised_status(
    endpoints=(
        EndpointStatus(key="default/late", state=EndpointState.WAITING, message="no interface lxc-late"),
        EndpointStatus(key="default/deathstar", state=EndpointState.READY, identity=257, attachment="lxc-ds", revision=7),
    ),
    policies=(PolicyStatus(key="cnp/default/bad", state=PolicyState.FAILED, message="NACK", hint="mend it"),),
    document_errors=(
        DocumentError(source="bad.yaml", index=0, path="spec.x", message="unknown field", hint="did you mean y?", kept=True),
    ),
    envoy=EnvoyStatus(state=ProcessState.DOWN, message="exit code 1"),
    xds=XdsStatus(quarantined={"slot-3": "invalid regex"}),
    drops=(DropCount(reason="POLICY_DENIED", direction="from_endpoint", packets=5, bytes=300),),
    maps=(MapFill(name="tg_policy", entries=10, capacity=100),),
)


def test_status_of_a_healthy_node_exits_0(node: Served) -> None:
    result = run("status", "--config", node.agent.config.path)
    assert result.exit_code == Exit.OK
    for word in ("default/deathstar", "lxc-deathstar", "ready", "cnp/default/rule1", "realised", "1.40.0", "10.0.0.3 fd00::3"):
        assert word in result.stdout
    assert "Not all is realised" not in result.stdout
    assert all(line == line.rstrip() for line in result.stdout.splitlines())
    assert "\x1b" not in result.stdout


def test_status_of_a_sick_node_exits_1_and_lists_every_obstacle(node: Served) -> None:
    node.do(lambda: node.agent.set_status(SICK))
    result = run("status", "--config", node.agent.config.path)
    assert result.exit_code == Exit.NO
    for line in SICK.obstacles():
        assert f"  {line}\n" in result.stdout
    for word in ("did you mean y?", "the last good version stays in force", "invalid regex", "POLICY_DENIED", "tg_policy 10/100"):
        assert word in result.stdout


def test_status_as_json_has_the_same_exit_code(node: Served) -> None:
    node.do(lambda: node.agent.set_status(SICK))
    result = run("status", "-o", "json", "--config", node.agent.config.path)
    found = json.loads(result.stdout)
    assert (result.exit_code, found["all_realised"], found["endpoints"][0]["state"]) == (Exit.NO, False, "waiting")


def test_status_waits_until_all_is_realised(node: Served) -> None:
    node.do(lambda: node.agent.set_status(SICK))
    path = str(node.agent.config.path)
    waiting = subprocess.Popen(
        [TIDEGATE, "status", "--wait", str(int(DEADLINE_SECONDS)), "--config", path], stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not node.do(lambda: node.agent.changes._waiters):
        assert time.monotonic() < deadline
        assert waiting.poll() is None
        time.sleep(0.01)
    node.do(lambda: node.agent.set_status(realised_status()))
    assert waiting.wait(DEADLINE_SECONDS) == Exit.OK
    assert waiting.stdout is not None
    waiting.stdout.close()


# ---- flows ----------------------------------------------------------------------------------------------------------


def publish(node: Served, *flows: Any) -> None:
    node.do(lambda: [node.agent.flows.publish(flow) for flow in flows])


def test_flows_as_json_are_one_record_a_line(node: Served) -> None:
    publish(node, packet(), denied_request())
    result = run("flows", "-o", "json", "--config", node.agent.config.path)
    assert [json.loads(line) for line in result.stdout.splitlines()] == [packet().to_json(), denied_request().to_json()]
    wrapped = run("flows", "-o", "jsonpb", "--last", "1", "--config", node.agent.config.path)
    assert json.loads(wrapped.stdout)["flow"] == denied_request().to_json()


def test_flows_are_filtered(node: Served) -> None:
    publish(node, packet(), denied_request(), packet(time_ns=time.time_ns()))
    path = node.agent.config.path

    def count(*arguments: str) -> int:
        return len(run("flows", "-o", "json", *arguments, "--config", path).stdout.splitlines())

    assert count() == 3
    assert count("--verdict", "denied") == 1
    assert count("--verdict", "denied", "--verdict", "forwarded") == 3
    assert count("-n", "default", "--name", "xwing", "--protocol", "http") == 1
    assert count("-n", "elsewhere") == 0
    assert count("--since", "5m") == 1
    assert count("--since", "2026-01-01T12:00:00.1Z") == 2
    assert count("--last", "2") == 2


def test_every_filter_has_its_option(node: Served) -> None:
    publish(node, packet(), denied_request(time_ns=time.time_ns()))
    path = node.agent.config.path
    spelled = {"source": "from", "destination": "to"}
    values = {
        "verdict": "denied",
        "namespace": "default",
        "name": "xwing",
        "source": "default/xwing",
        "destination": "deathstar",
        "label": "org=empire",
        "port": "80",
        "protocol": "http",
        "method": "PUT",
        "path": "^/v1/exhaust",
        "status": "4xx",
        "policy": "rule1",
        "since": "5m",
        "until": "2100-01-01",
    }
    options = [word for name, value in values.items() for word in (f"--{spelled.get(name, name)}", value)]
    assert len(run("flows", "-o", "json", *options, "--config", path).stdout.splitlines()) == 1
    for name in PARAMETERS:
        if not name.endswith("_ns"):
            assert f"--{spelled.get(name, name)}" in run("flows", "--help").output
    assert run("flows", "-o", "json", "--topic", "x", "--dns", "y", "--config", path).stdout == ""


def test_summary_counts_instead(node: Served) -> None:
    publish(node, packet(), denied_request(), denied_request())
    path = node.agent.config.path
    found = json.loads(run("flows", "--summary", "-o", "json", "--config", path).stdout)
    assert (found["records"], found["verdicts"]) == (3, {"denied": 2, "forwarded": 1})
    shown = run("flows", "--summary", "--config", path).stdout
    assert "3 records" in shown
    assert "2        denied     default/xwing  default/deathstar  80    http" in shown


def test_flows_on_disk_are_read_without_a_node(tmp_path: Path) -> None:
    path = tmp_path / "flows.jsonl"
    path.write_text("".join(json.dumps(flow.to_json()) + "\n" for flow in (packet(), denied_request())))
    shown = run("flows", "--file", path, "--verdict", "denied", "-o", "json").stdout
    assert json.loads(shown) == denied_request().to_json()
    assert len(run("flows", "--file", path, "--last", "1", "-o", "json").stdout.splitlines()) == 1
    missing = run("flows", "--file", tmp_path / "none")
    assert (missing.exit_code, missing.stdout) == (Exit.INVALID, "")
    assert run("flows", "--file", path, "-f").exit_code == Exit.USAGE


def test_flows_stored_by_a_node_are_found_by_its_configuration(files: Path) -> None:
    config = files / "node.yaml"
    assert "add `flows: {file:" in run("flows", "--stored", "--config", config).stderr
    config.write_text(config.read_text() + "flows: {file: {path: ./kept/flows.jsonl}}\n")
    (files / "kept").mkdir()
    (files / "kept" / "flows.jsonl").write_text(json.dumps(packet().to_json()))
    assert json.loads(run("flows", "--stored", "-o", "json", "--config", config).stdout) == packet().to_json()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_flow_table_fits_the_screen_and_says_why(node: Served, width: int) -> None:
    publish(node, packet(), denied_request(), packet(source=FlowEnd(namespace="\u540d" * 40, name="\u540d" * 40)))
    result = run("flows", "--config", node.agent.config.path, environment={"COLUMNS": str(width)})
    heading, *lines = result.stdout.splitlines()
    assert heading.startswith("TIME          VERDICT")
    cut = [line for line in lines if "nearest" not in line]
    assert all(cell_len(line) <= width for line in cut if "WHY" not in heading)
    assert "method PUT is not POST" in result.stdout
    assert len(lines) == (3 if width >= 160 else 4)


def test_flow_table_tells_who_what_and_why_in_a_line(node: Served) -> None:
    publish(node, denied_request())
    heading, line = run("flows", "--config", node.agent.config.path).stdout.splitlines()
    assert heading.split() == ["TIME", "VERDICT", "SIDE", "FROM", "->", "TO", "WHAT", "WHY"]
    for part in (
        "  denied      ingress  default/xwing -> default/deathstar:80",
        "HTTP/1.1 PUT http://deathstar.default/v1/exhaust-port 403",
        "no rule allows it; nearest: cnp/default/rule1:spec.ingress[0].toPorts[0].rules.http[0]: method PUT is not POST",
    ):
        assert part in line


def test_path_of_an_attacker_is_shown_harmless(node: Served) -> None:
    flow = denied_request()
    publish(node, denied_request(l7=flow.l7.__class__(method="GET", path="/\x1b]0;owned\x07\u202e", host="h")))
    output = run("flows", "--config", node.agent.config.path).stdout
    assert "\\x1b]0;owned\\x07\\u202e" in output
    assert "\x1b" not in output


def test_following_prints_what_comes_until_interrupted(node: Served) -> None:
    command = [TIDEGATE, "flows", "-f", "-o", "json", "--verdict", "denied", "--config", str(node.agent.config.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not node.do(lambda: node.agent.flows.follower_count):
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.01)
        publish(node, packet(), denied_request(time_ns=NOON_NS + 1), denied_request(time_ns=NOON_NS + 2))
        assert json.loads(child.stdout.readline())["time"].endswith("01Z")
        assert json.loads(child.stdout.readline())["time"].endswith("02Z")
        child.send_signal(2)
        assert child.wait(DEADLINE_SECONDS) == Exit.INTERRUPTED
        assert child.stderr.read() == ""


def test_follower_says_that_the_agent_stopped(short_path: Path) -> None:
    with served(short_path) as node:
        command = [TIDEGATE, "flows", "-f", "--config", str(node.agent.config.path)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not node.do(lambda: node.agent.flows.follower_count):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    _, errors = child.communicate(timeout=DEADLINE_SECONDS)
    assert (child.returncode, errors) == (Exit.UNREACHABLE, "error: the agent has stopped\n  hint: follow again when it runs\n")


def test_name_that_is_no_text_is_no_traceback(node: Served) -> None:
    odd = PolicyStatus(key="cnp/default/rule1", state=PolicyState.REALISED, revision=7, source="\udce9.yaml")
    node.do(lambda: node.agent.set_status(realised_status(policies=(odd,))))
    command = [TIDEGATE, "status", "--config", str(node.agent.config.path)]
    for more in ([], ["-o", "json"]):
        result = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (Exit.OK, "")
        assert "udce9.yaml" in result.stdout


def test_reader_that_has_seen_enough_is_no_error(node: Served) -> None:
    publish(node, *(packet(verdict=Verdict.FORWARDED) for _ in range(100)))
    command = f"'{TIDEGATE}' flows -o json --config '{node.agent.config.path}' | head -n 1"
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 1


PUT = HttpPart(method="PUT", path="/public", host="deathstar", code=403)
PUT_MISS = "cnp/default/rule1:spec.ingress[0].toPorts[0].rules.http[0] would allow it, but method is PUT, must match GET"


def test_recorded_flow_is_explained_by_a_candidate_policy(files: Path) -> None:
    path = files / "flows.jsonl"
    path.write_text(json.dumps(denied_request(l7=PUT, nearest_miss=PUT_MISS).to_json()))
    arguments = ["explain", "--flow", denied_request().uuid, "--flow-file", path, "--endpoints", files / "endpoints.yaml"]
    result = run(*arguments, "--policies", files / "policies", "-o", "json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["verdict"], report["record"]["agrees"]) == (Exit.NO, "denied", True)
    (files / "candidate.yaml").write_text(GOOD_POLICY.replace("GET", "PUT"))
    result = run(*arguments, "--policies", files / "candidate.yaml", "-o", "json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["verdict"], report["record"]["agrees"]) == (Exit.OK, "allowed", False)
    shown = run(*arguments, "--policies", files / "policies").stdout
    assert shown.startswith(f"recorded: denied, {PUT_MISS}\n")


def test_flow_that_is_not_kept_is_told(node: Served, files: Path) -> None:
    result = run("explain", "--flow", "none", "--config", node.agent.config.path)
    assert (result.exit_code, result.stdout) == (Exit.REFUSED, "")
    assert "there is no flow 'none' among the last 100" in result.stderr
    (files / "flows.jsonl").write_text("")
    result = run("explain", "--flow", "none", "--flow-file", files / "flows.jsonl", "--config", files / "node.yaml")
    assert result.exit_code == Exit.USAGE
    assert run("explain", "--flow", "x", "--from", "a").exit_code == Exit.USAGE
    assert run("explain", "--from", "a").exit_code == Exit.USAGE


# ---- policy validate ------------------------------------------------------------------------------------------------


def test_valid_policies_exit_0(files: Path) -> None:
    result = run("policy", "validate", files / "policies")
    assert (result.exit_code, result.stdout) == (Exit.OK, "1 document, all valid\n")


def test_mistake_is_told_with_file_line_document_field_and_hint(files: Path) -> None:
    path = files / "policies" / "two.yaml"
    path.write_text(f"{GOOD_POLICY.replace('rule1', 'rule2')}---\n{BAD_POLICY}")
    result = run("policy", "validate", files / "policies")
    assert result.exit_code == Exit.INVALID
    line = BAD_POLICY.splitlines().index("    toPort:") + 1
    first = len(GOOD_POLICY.splitlines()) + 1 + line  # of the field itself; its value begins on the next
    told = [f"{path}:{each}: document 1: spec.ingress[0].toPort: unknown field\n" for each in (first, first + 1)]
    assert any(each in result.stdout for each in told)
    assert 'hint: did you mean "toPorts"?' in result.stdout
    assert result.stdout.endswith("\n1 mistake in 3 documents\n")


def test_mistakes_as_json(files: Path) -> None:
    bad = files / "bad.yaml"
    bad.write_text(BAD_POLICY)
    result = run("policy", "validate", bad, files / "absent.yaml", "-o", "json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["valid"]) == (Exit.INVALID, False)
    assert [(error["source"], error["path"]) for error in found["errors"]] == [
        (str(files / "absent.yaml"), ""),
        (str(bad), "spec.ingress[0].toPort"),
    ]


def test_one_name_in_two_files_is_a_mistake(files: Path) -> None:
    (files / "policies" / "again.yaml").write_text(GOOD_POLICY)
    result = run("policy", "validate", files / "policies")
    assert result.exit_code == Exit.INVALID
    assert "cnp/default/rule1 is already defined" in result.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", "is not UTF-8 text"), (b"a: [", "YAML:"), (b"", "0 documents, all valid")],
)
def test_file_that_is_no_policy(files: Path, content: bytes, message: str) -> None:
    path = files / "odd.yaml"
    path.write_bytes(content)
    result = run("policy", "validate", path)
    assert message in result.stdout
    assert result.exit_code == (Exit.OK if "all valid" in message else Exit.INVALID)


def test_directory_without_documents_is_a_mistake(files: Path) -> None:
    (files / "empty").mkdir()
    result = run("policy", "validate", files / "empty")
    assert result.exit_code == Exit.INVALID
    assert "the directory holds no documents" in result.stdout


def test_policy_that_cannot_be_realised_is_found_with_endpoints(files: Path) -> None:
    conflict = GOOD_POLICY.replace("rule1", "rule2").replace(
        "rules: {http: [{method: GET, path: /public}]}", "rules: {kafka: [{topic: t}]}"
    )
    (files / "policies" / "rule2.yaml").write_text(conflict)
    assert run("policy", "validate", files / "policies").exit_code == Exit.OK
    result = run("policy", "validate", files / "policies", "--endpoints", files / "endpoints.yaml")
    assert result.exit_code == Exit.INVALID
    assert "cnp/default/rule" in result.stdout


def test_mistake_in_the_endpoints_file_is_told(files: Path) -> None:
    (files / "endpoints.yaml").write_text("- {name: a, namespace: default, ipv4: 10.0.0.999}\n")
    result = run("policy", "validate", files / "policies", "--endpoints", files / "endpoints.yaml")
    assert result.exit_code == Exit.INVALID
    assert f"{files / 'endpoints.yaml'}:1:" in result.stdout


# ---- explain --------------------------------------------------------------------------------------------------------


ASK = ("explain", "--from", "default/xwing", "--to", "default/deathstar:80", "--http")


def test_explain_by_the_nodes_files(files: Path) -> None:
    allowed = run(*ASK, "GET /public", "--config", files / "node.yaml")
    assert (allowed.exit_code, "ALLOWED" in allowed.stdout) == (Exit.OK, True)
    assert "cnp/default/rule1:spec.ingress[0].toPorts[0].rules.http[0]" in allowed.stdout
    denied = run(*ASK, "PUT /public", "--config", files / "node.yaml")
    assert (denied.exit_code, "DENIED" in denied.stdout) == (Exit.NO, True)
    assert "method is PUT, must match GET" in denied.stdout


def test_explain_by_named_files_needs_no_node(files: Path) -> None:
    named = ("--policies", files / "policies", "--endpoints", files / "endpoints.yaml")
    result = run(*ASK, "GET /public", *named, "-o", "json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["verdict"]) == (Exit.OK, "allowed")
    assert found["decidedBy"][0]["policy"] == "cnp/default/rule1"


def test_question_that_is_not_decided_does_not_exit_0(files: Path) -> None:
    result = run("explain", "--from", "xwing", "--to", "deathstar:80", "--config", files / "node.yaml")
    assert result.exit_code == Exit.NO
    assert "L7 rules decide" in result.stdout


def test_explain_goes_on_without_a_bad_document_but_says_so(files: Path) -> None:
    (files / "policies" / "bad.yaml").write_text(BAD_POLICY)
    result = run(*ASK, "GET /public", "--config", files / "node.yaml")
    assert result.exit_code == Exit.INVALID
    assert "ALLOWED" in result.stdout
    assert "bad.yaml" in result.stderr


def test_explain_reads_the_nodes_secrets_and_shows_none(files: Path) -> None:
    with_secret = GOOD_POLICY.replace(
        "{method: GET, path: /public}",
        "{path: /public, headerMatches: [{name: x-token, secret: {namespace: default, name: tokens}}]}",
    )
    (files / "policies" / "rule1.yaml").write_text(with_secret)
    (files / "secrets" / "default" / "tokens").mkdir(parents=True)
    (files / "secrets" / "default" / "tokens" / "client").write_text("hunter2\n")
    with (files / "node.yaml").open("a") as config:
        config.write("secrets: ./secrets\n")
    right = run(*ASK, "GET /public", "-H", "x-token: hunter2", "--config", files / "node.yaml")
    wrong = run(*ASK, "GET /public", "-H", "x-token: guess", "--config", files / "node.yaml")
    assert (right.exit_code, wrong.exit_code) == (Exit.OK, Exit.NO)
    assert "hunter2" not in wrong.output


def test_explain_of_the_running_node(node: Served, files: Path) -> None:
    from tidegate.offline import build_world, node_of, read_endpoints, read_paths

    entries, _ = read_endpoints(files / "endpoints.yaml")
    world = build_world(read_paths([files / "policies"]), entries, node_of(None))
    node.do(lambda: setattr(node.agent, "shown_world", world))
    result = run(*ASK, "PUT /public", "--live", "--config", node.agent.config.path)
    assert (result.exit_code, "method is PUT, must match GET" in result.stdout) == (Exit.NO, True)
    refused = run("explain", "--live", "--from", "x", "--to", "deathstar:80", "--config", node.agent.config.path)
    assert (refused.exit_code, "there is no endpoint default/x" in refused.stderr) == (Exit.USAGE, True)


# ---- doctor, cleanup, run ---------------------------------------------------------------------------------------------


def test_doctor_reports_every_check_and_exits_by_what_is_missing(files: Path) -> None:
    result = run("doctor", "-o", "json", "--config", files / "node.yaml")
    found = json.loads(result.stdout)
    checks = {finding["check"] for finding in found["findings"]}
    assert checks >= {"kernel", "rights", "bpffs", "bcc", "linux-libc-dev", "cgroup2", "Envoy", "rp_filter", "leftovers"}
    missing = [finding for finding in found["findings"] if finding["outcome"] == "missing"]
    assert found["ok"] is (not missing)
    assert result.exit_code == (Exit.NO if missing else Exit.OK)
    assert all(finding["fix"] for finding in found["findings"] if finding["outcome"] != "ok")
    assert "kernel" in run("doctor").stdout


@pytest.mark.parametrize("command", ["cleanup", "run"])
def test_nothing_is_done_while_an_agent_holds_the_nodes_lock(command: str, node: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    lock = node.agent.config.lock_file
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = run(command, "--config", node.agent.config.path)
    assert result.exit_code == Exit.REFUSED
    assert "an agent is running" in result.stderr
    assert "hint: stop it first" in result.stderr


def test_run_needs_root(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = run("run", "--config", files / "node.yaml")
    assert result.exit_code == Exit.MACHINE
    assert "needs root" in result.stderr
