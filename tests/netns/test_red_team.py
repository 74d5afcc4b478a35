"""A pod, a restart or a crash that tries to get past policy, on real packets and the real Envoy."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.netns import Pod, ip_batch
from tests.support.node import eventually
from tests.support.pod import Connection, Failed
from tests.support.stage import (
    DEATHSTAR,
    DENIED_SECONDS,
    HTTP,
    TCP,
    TIEFIGHTER,
    UDP,
    XWING,
    Document,
    Stage,
    answers_udp,
    cnp,
    from_endpoints,
    http,
    ports,
    reach,
    tidegate_policy,
)

pytestmark = [pytest.mark.root, pytest.mark.envoy]

RAW_HTTP = 8090
STALE_SECONDS = 1.0
"""How long a verdict of yesterday may live, as promised."""
MARGIN_SECONDS = 0.5
"""For the test's own requests, on a busy machine."""

PUBLIC = cnp(
    "paths",
    DEATHSTAR,
    ingress=[{"toPorts": http({"path": "/public/.*"}, port=RAW_HTTP)}, {"toPorts": http({"path": "/public/.*"})}],
)


def by_peer(xwing: str, tiefighter: str) -> Document:
    """One HTTP method for each peer: two rule sets on one port."""
    return cnp(
        "rule1",
        DEATHSTAR,
        ingress=[
            {"fromEndpoints": from_endpoints(XWING), "toPorts": http({"method": xwing})},
            {"fromEndpoints": from_endpoints(TIEFIGHTER), "toPorts": http({"method": tiefighter})},
            {"fromEndpoints": from_endpoints(XWING), "toPorts": ports(TCP)},
        ],
    )


@pytest.fixture(scope="module")
def own_stage() -> Iterator[Stage]:
    """A stage whose processes and files these tests ruin."""
    with Stage(prefix="tgred") as stage:
        yield stage


def outcome(pod: Pod, stage: Stage, method: str, family: int = 4) -> int | str:
    """The status of a request, or how it failed."""
    try:
        return int(pod.http(stage.deathstar.url(HTTP, family=family), method, timeout=DENIED_SECONDS).status)
    except Failed as failed:
        return failed.kind


def refused_from_now_on(connection: Connection, method: str) -> bool:
    """Whether an open connection does not carry this request any more: it is closed, or told 403."""
    try:
        return connection.request(method=method).status == 403
    except Failed:
        return True


def kill_run(stage: Stage) -> None:
    """End supervisor and agent without a word."""
    stage.node.stop(signal.SIGKILL)
    eventually(lambda: not stage.node.processes("tidegate.agent"), 10, "the agent's end")


# ---- HTTP -------------------------------------------------------------------------------------------------------------

# A server that takes every request and knows no WebSocket: what reaches it as a second request, it would serve.
_NAIVE_SERVER = """
import socket, sys, threading
def serve(connection, log):
    pending = b""
    while data := connection.recv(65536):
        log.write(data)
        pending += data
        while b"\\r\\n\\r\\n" in pending:
            pending = pending.partition(b"\\r\\n\\r\\n")[2]
            connection.sendall(b"HTTP/1.1 404 Not Found\\r\\ncontent-length: 0\\r\\n\\r\\n")
listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
log = open(sys.argv[2], "ab", 0)
log.write(b"ready")
while True:
    threading.Thread(target=serve, args=(listener.accept()[0], log), daemon=True).start()
"""

INNER = b"GET /admin/secret HTTP/1.1\r\nhost: a\r\n\r\n"
WEBSOCKET = ("upgrade: websocket", "connection: upgrade")


def message(line: str, *headers: str, rest: bytes = INNER) -> bytes:
    """A request and what follows it at once."""
    return "\r\n".join([f"{line} HTTP/1.1", "host: a", *headers, "", ""]).encode("latin-1") + rest


SMUGGLED = {
    "behind an upgrade that the server refuses": message("GET /public/x", *WEBSOCKET),
    "behind an upgrade in other letters": message("GET /public/x", "Upgrade: WebSocket", "Connection: x, Upgrade"),
    "behind an upgrade with a length": message("POST /public/x", *WEBSOCKET, "content-length: 3", rest=b"abc" + INNER),
    "behind an upgrade in chunks": message("POST /public/x", *WEBSOCKET, "transfer-encoding: chunked", rest=b"0\r\n\r\n" + INNER),
    "behind an upgrade to h2c": message(
        "GET /public/x", "upgrade: h2c", "connection: upgrade, http2-settings", "http2-settings: AAMAAABkAAQAAP__"
    ),
    "behind two lengths": message("POST /public/x", "content-length: 0", "content-length: 40"),
    "behind a signed length": message("POST /public/x", "content-length: +40"),
    "behind a coding with a space": message("POST /public/x", "transfer-encoding : chunked", "content-length: 40"),
    "behind a folded coding": message(
        "POST /public/x", "transfer-encoding:", " chunked", "content-length: 5", rest=b"0\r\n\r\n" + INNER
    ),
    "behind two codings": message(
        "POST /public/x", "transfer-encoding: chunked", "transfer-encoding: identity", rest=b"0\r\n\r\n" + INNER
    ),
    "behind a chunk extension with a line feed": message(
        "POST /public/x", "transfer-encoding: chunked", rest=b"2;\nxx\r\n2b\r\n0\r\n\r\n" + INNER + b"\r\n0\r\n\r\n"
    ),
    "behind bare line feeds": message("GET /public/x").replace(b"\r", b""),
    "behind an expectation": message("POST /public/x", "expect: 100-continue", "content-length: 0"),
    "as an absolute target": message("GET http://b/admin/secret", rest=b""),
    "as an absolute target without a path": message("GET http://b?/public/../admin/secret", rest=b""),
    "behind a fragment": message("GET /public/x#/../../admin/secret", rest=b""),
    "behind a tab": message("GET /public/x\t/admin/secret", rest=b""),
    "behind an overlong dot": message("GET /public/\xc0\xae\xc0\xae/admin/secret", rest=b""),
    "behind a parameter": message("GET /public/..;/admin/secret", rest=b""),
    "behind an encoded parameter": message("GET /public/%2e%2e;x/admin/secret", rest=b""),
    "as HTTP/0.9": b"GET /admin/secret\r\n",
}


@pytest.fixture(scope="module")
def naive_log(shared_stage: Stage) -> Iterator[Path]:
    """What the naive server in the deathstar was sent."""
    log = shared_stage.cluster.directory / "naive.log"
    server = shared_stage.deathstar.popen([sys.executable, "-c", _NAIVE_SERVER, str(RAW_HTTP), str(log)])
    eventually(lambda: log.exists() and log.read_bytes() == b"ready", what="the naive server")
    yield log
    server.kill()
    server.wait()


@pytest.mark.parametrize("name", SMUGGLED)
def test_no_request_hides(stage: Stage, naive_log: Path, name: str, family: int) -> None:
    stage.enforce(PUBLIC)
    before = len(naive_log.read_bytes())
    stage.xwing.raw(stage.deathstar.address(family), RAW_HTTP, SMUGGLED[name], quiet=0.3)
    assert b"/admin" not in naive_log.read_bytes()[before:]


def test_a_denied_host_is_denied_in_every_spelling(stage: Stage) -> None:
    denying = ports(HTTP, rules={"httpDeny": [{"host": "admin.local"}]})
    stage.enforce(tidegate_policy("host", DEATHSTAR, ingress=[{"toPorts": denying}]))
    for host, status in (("other.local", 200), ("admin.local", 403), ("ADMIN.local", 403), ("admin.local.:8080", 403)):
        answer = stage.xwing.raw(stage.deathstar.ipv4, HTTP, f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode(), quiet=0.3)
        assert answer.startswith(b"HTTP/1.1 %d" % status), (host, answer)


def test_pods_have_no_way_to_envoys_admin_or_the_agents_sockets(stage: Stage) -> None:
    stage.enforce(PUBLIC)
    listening = [line.split()[3] for line in stage.node.host_lines("ss", "-Hltn")]
    ours = {int(address.rpartition(":")[2]) for address in listening if "127.0.0.1" in address or "[::1]" in address}
    assert all(19000 < port < 19000 + 2048 for port in ours), listening
    for name in ("xds.sock", "admin.sock", "envoy/admin.sock"):
        mode = (stage.node.directory / "state" / name).stat().st_mode
        assert mode & 0o077 == 0, name


# ---- packets ----------------------------------------------------------------------------------------------------------


def test_udp_to_a_redirected_port_goes_nowhere(stage: Stage, family: int) -> None:
    stage.enforce(cnp("udp", DEATHSTAR, ingress=[{"toPorts": ports(UDP, rules={"http": [{}]})}]))
    assert not answers_udp(stage.xwing, stage.deathstar.address(family), UDP)


def test_a_spoofed_source_and_a_tagged_frame_leave_no_pod(stage: Stage) -> None:
    stage.enforce(
        cnp("udp", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(TIEFIGHTER), "toPorts": ports(UDP, protocol="UDP")}])
    )
    assert answers_udp(stage.tiefighter, stage.deathstar.ipv4, UDP)

    def dropped(reason: str) -> int:
        return sum(int(drop["packets"]) for drop in stage.node.status()["drops"] if drop["reason"] == reason)

    before = {reason: dropped(reason) for reason in ("spoofed", "vlan_tagged")}
    ip_batch(stage.xwing.netns, f"addr add {stage.tiefighter.ipv4}/32 dev eth0")
    try:
        script = (
            "import socket, sys\n"
            "r = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); r.bind(('eth0', 0))\n"
            "r.send(b'\\xff' * 6 + b'\\x02' * 6 + b'\\x81\\x00\\x00\\x05\\x08\\x00' + bytes(60))\n"
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((sys.argv[1], 0)); s.settimeout(0.5)\n"
            "s.sendto(b'x', (sys.argv[2], int(sys.argv[3])))\n"
            "print(s.recv(9))"
        )
        tried = stage.xwing.run([sys.executable, "-c", script, stage.tiefighter.ipv4, stage.deathstar.ipv4, str(UDP)])
        assert "timed out" in tried.stderr, tried
    finally:
        ip_batch(stage.xwing.netns, f"addr del {stage.tiefighter.ipv4}/32 dev eth0")
    assert all(dropped(reason) > count for reason, count in before.items())


# ---- identities that change under live connections --------------------------------------------------------------------


def endpoints_with(stage: Stage, labels: dict[str, dict[str, str]]) -> None:
    """Write endpoints.yaml with other labels for some pods, and wait."""
    kept = {name: pod.labels for name, pod in stage.cluster.pods.items()}
    for name, other in labels.items():
        stage.cluster.pods[name].labels = other
    try:
        stage.node.write_endpoints()
    finally:
        for name, own in kept.items():
            stage.cluster.pods[name].labels = own
    stage.node.wait_ready()


def test_pods_that_swap_labels_swap_what_their_open_connections_may_say(own_stage: Stage, family: int) -> None:
    stage = own_stage
    stage.enforce(by_peer("GET", "PUT"))
    connections = {
        "GET": stage.xwing.connect(stage.deathstar.url(HTTP, family=family)),
        "PUT": stage.tiefighter.connect(stage.deathstar.url(HTTP, family=family)),
    }
    assert [connection.request(method=method).status for method, connection in connections.items()] == [200, 200]
    try:
        endpoints_with(stage, {"xwing": TIEFIGHTER, "tiefighter": XWING})
        time.sleep(STALE_SECONDS)
        assert all(refused_from_now_on(connection, method) for method, connection in connections.items())
        assert (outcome(stage.xwing, stage, "GET", family), outcome(stage.xwing, stage, "PUT", family)) == (403, 200)
    finally:
        endpoints_with(stage, {})


def test_an_endpoint_that_was_gone_and_comes_back_as_another_keeps_no_connection(own_stage: Stage) -> None:
    stage = own_stage
    stage.enforce(by_peer("GET", "PUT"))
    connection = stage.xwing.connect(stage.deathstar.url(HTTP))
    assert connection.request(method="GET").status == 200
    xwing = stage.cluster.pods.pop("xwing")
    try:
        stage.node.write_endpoints()
        stage.node.wait_ready()
        assert reach(xwing, stage.deathstar, [TCP], 4) == {TCP: False}
    finally:
        stage.cluster.pods["xwing"] = xwing
    endpoints_with(stage, {"xwing": TIEFIGHTER})
    try:
        time.sleep(STALE_SECONDS)
        assert refused_from_now_on(connection, "GET")
    finally:
        endpoints_with(stage, {})


# ---- processes and files ----------------------------------------------------------------------------------------------


def test_a_policy_that_changed_while_no_agent_ran_reaches_connections_of_before(own_stage: Stage, family: int) -> None:
    stage = own_stage
    stage.enforce(by_peer("GET", "GET"))
    connection = stage.xwing.connect(stage.deathstar.url(HTTP, family=family))
    raw = stage.xwing.connect(stage.deathstar.url(TCP, family=family), "tcp")
    assert connection.request().status == 200
    assert raw.exchange(b"x") == b"x"
    kill_run(stage)
    stage.node.write_policy(
        "rule1",
        cnp("rule1", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(TIEFIGHTER), "toPorts": http({"method": "GET"})}]).text,
    )
    stage.node.start()
    stage.node.wait_ready()
    stage.forget()
    time.sleep(STALE_SECONDS)
    assert refused_from_now_on(connection, "GET")
    with pytest.raises(Failed):
        raw.exchange(b"x", timeout=DENIED_SECONDS)
    assert outcome(stage.tiefighter, stage, "GET", family) == 200


@pytest.mark.parametrize("loss", ["removed", "corrupt", "state emptied"])
def test_a_lost_numbering_judges_nobody_by_anothers_rules(own_stage: Stage, loss: str) -> None:
    stage = own_stage
    stage.enforce(by_peer("GET", "PUT"))
    connection = stage.xwing.connect(stage.deathstar.url(HTTP))
    assert connection.request().status == 200
    kill_run(stage)
    state = stage.node.directory / "state"
    match loss:
        case "removed":
            for name in ("identities.json", "slots.json"):
                (state / name).unlink()
        case "corrupt":
            for name in ("identities.json", "slots.json"):
                (state / name).write_bytes(b'{"version": 1, \xff')
        case _:
            shutil.rmtree(state)
    before = stage.deathstar.server_counts(HTTP)["requests"]
    # Other policies, so that whatever numbers are given out again would mean something else.
    other = cnp("aaa", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(TIEFIGHTER), "toPorts": http({"method": "DELETE"})}])
    stage.node.write_policy("aaa", other.text)
    stage.node.start()
    try:
        outcomes: set[int | str] = set()

        def ready() -> bool:
            outcomes.add(outcome(stage.xwing, stage, "DELETE"))
            return bool(outcome(stage.tiefighter, stage, "DELETE") == 200)

        eventually(ready, 60, "the new policy")
        stage.node.wait_ready()
        assert 200 not in outcomes
        # One Envoy, whatever became of the record of the one before.
        assert stage.node.envoy_pid()
        assert (outcome(stage.xwing, stage, "GET"), outcome(stage.xwing, stage, "DELETE")) == (200, 403)
        assert refused_from_now_on(connection, "DELETE")
        assert stage.deathstar.server_counts(HTTP)["requests"] >= before
    finally:
        stage.node.remove_policy("aaa")
        stage.node.wait_ready()
        stage.forget()


def test_a_state_directory_that_is_emptied_under_a_running_node_is_made_anew(own_stage: Stage) -> None:
    stage = own_stage
    stage.enforce(by_peer("GET", "PUT"))
    connection = stage.xwing.connect(stage.deathstar.url(HTTP))
    assert connection.request().status == 200
    state = stage.node.directory / "state"
    for path in state.iterdir():
        if path.name != "envoy":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    stage.node.write_policy("rule1", by_peer("DELETE", "PUT").text)
    stage.forget()
    eventually(lambda: (state / "admin.sock").exists() and (state / "xds.sock").exists(), 60, "the agent's sockets")
    stage.node.wait_ready()
    # The numbering went too, so nobody knows any more whose slot the open connection is in.
    time.sleep(STALE_SECONDS)
    assert refused_from_now_on(connection, "GET")
    assert (outcome(stage.xwing, stage, "DELETE"), outcome(stage.xwing, stage, "GET")) == (200, 403)


def test_an_endpoints_file_that_a_full_disk_emptied_opens_nothing(own_stage: Stage) -> None:
    stage = own_stage
    stage.enforce(by_peer("GET", "PUT"))
    (stage.node.directory / "endpoints.yaml").write_text("")
    try:
        eventually(lambda: bool(stage.node.status()["document_errors"]), what="the error in the status")
        assert (outcome(stage.xwing, stage, "GET"), outcome(stage.xwing, stage, "DELETE")) == (200, 403)
        assert reach(stage.tiefighter, stage.deathstar, [TCP], 4) == {TCP: False}
    finally:
        stage.node.write_endpoints()
        stage.node.wait_ready()


def victims(stage: Stage) -> dict[str, Callable[[], list[int]]]:
    """The node's processes by name."""
    return {
        "agent": lambda: stage.node.processes("tidegate.agent"),
        "envoy": lambda: stage.node.processes("--base-id"),
    }


@pytest.mark.parametrize("order", [("agent", "envoy"), ("envoy", "agent"), ("agent", "agent", "envoy")], ids="-".join)
def test_whoever_is_killed_during_an_edit_no_denied_request_passes(own_stage: Stage, order: tuple[str, ...]) -> None:
    stage = own_stage
    stage.enforce(by_peer("GET", "PUT"))
    before = stage.deathstar.server_counts(HTTP)["requests"]
    outcomes: set[int | str] = set()
    for victim in order:
        # Both versions deny DELETE to everybody.
        stage.node.write_policy("rule1", by_peer("POST", "PUT").text)
        for pid in victims(stage)[victim]():
            os.kill(pid, signal.SIGKILL)
        for pod in (stage.xwing, stage.tiefighter):
            outcomes.add(outcome(pod, stage, "DELETE"))
        stage.node.write_policy("rule1", by_peer("GET", "PUT").text)
        outcomes.add(outcome(stage.xwing, stage, "DELETE"))
    assert stage.deathstar.server_counts(HTTP)["requests"] == before
    assert 200 not in outcomes
    eventually(lambda: outcome(stage.xwing, stage, "GET") == 200, 60, "service again")
    stage.node.wait_ready()
    stage.forget()


def test_policies_that_flap_twenty_times_a_second_end_as_they_were_left(own_stage: Stage) -> None:
    stage = own_stage
    stage.enforce(by_peer("GET", "PUT"))
    before = stage.deathstar.server_counts(HTTP)["requests"]
    documents = [by_peer("POST", "PUT").text, by_peer("GET", "PUT").text]
    deadline = time.monotonic() + 2
    number = 0
    while time.monotonic() < deadline:
        stage.node.write_policy("rule1", documents[number % 2])
        number += 1
        if number % 10 == 0:
            assert outcome(stage.xwing, stage, "DELETE") == 403
        time.sleep(0.05)
    stage.node.write_policy("rule1", documents[0])
    stage.forget()
    started = time.monotonic()
    stage.node.wait_ready()
    assert time.monotonic() - started < STALE_SECONDS + MARGIN_SECONDS
    assert (outcome(stage.xwing, stage, "POST"), outcome(stage.xwing, stage, "GET")) == (200, 403)
    assert stage.deathstar.server_counts(HTTP)["requests"] == before + 1
