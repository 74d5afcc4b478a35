"""A port that is only observed: its requests are seen and counted, nothing is denied, and what is enforced stays so."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.support.node import eventually
from tests.support.pod import Connection, Failed
from tests.support.stage import (
    DEATHSTAR,
    DENIED_SECONDS,
    HTTP,
    HTTP_OTHER,
    TCP,
    TIEFIGHTER,
    XWING,
    Document,
    Stage,
    cnp,
    from_endpoints,
    http,
    ports,
    tidegate_policy,
)

pytestmark = [pytest.mark.root, pytest.mark.envoy]

UNRELATED = cnp("unrelated", {"class": "nobody"}, ingress=[{}])
REQUESTS = 20


def look(subject: dict[str, str], port: int = HTTP, direction: str = "ingress", **more: object) -> Document:
    seen = {"direction": direction, "ports": [{"port": str(port), "protocol": "TCP"}], "protocol": "http", **more}
    return tidegate_policy("look", subject, observe=[seen])


def recorded(stage: Stage, path: str) -> list[Any]:
    return stage.node.flows("--path", path, "--last", "1000")


def counted(stage: Stage) -> Counter[tuple[str, str]]:
    """(policy, verdict) -> requests."""
    found: Counter[tuple[str, str]] = Counter()
    for row in stage.node.counts()["counts"]:
        for policy in row["policies"]:
            found[policy, row["verdict"]] += row["requests"]
    return found


def said(record: Any) -> tuple[Any, ...]:
    http_part = record["l7"]["http"]
    return record["verdict"], record["traffic_direction"], http_part["method"], http_part["code"], record["source"]["pod_name"]


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_requests_are_seen_only_once_a_policy_observes_the_port_and_all_pass(stage: Stage, direction: str, family: int) -> None:
    subject = DEATHSTAR if direction == "ingress" else XWING
    url, path = stage.deathstar.url(HTTP, family=family), f"/observed-{direction}-{family}"
    stage.enforce(UNRELATED)
    proxied = sum(counted(stage).values())
    assert stage.xwing.http(url, path=f"{path}-before").status == 200
    stage.enforce(look(subject, direction=direction, sample=1))
    before = counted(stage)
    for method in ("GET", "PUT", "DELETE"):
        assert stage.xwing.http(url, method, path=path).status == 200
    eventually(lambda: len(recorded(stage, path)) == 3, what="three records")
    assert sorted(map(said, recorded(stage, path))) == [
        ("FORWARDED", direction.upper(), method, 200, "xwing") for method in ("DELETE", "GET", "PUT")
    ]
    policy = "tp/default/look"
    eventually(lambda: (counted(stage) - before)[policy, "allowed"] == 3, what="three counts")
    assert {verdict for _, verdict in counted(stage) - before} == {"allowed"}
    assert recorded(stage, f"{path}-before") == []
    assert sum(before.values()) == proxied, "the request before went past the proxy"


def test_other_ports_and_pods_go_past_the_proxy(stage: Stage, family: int) -> None:
    stage.enforce(look(DEATHSTAR, HTTP, sample=1))
    path = f"/past-{family}"
    assert stage.xwing.http(stage.deathstar.url(HTTP_OTHER, family=family), path=path).status == 200
    assert stage.falcon.http(stage.xwing.url(HTTP, family=family), path=path).status == 200
    assert stage.xwing.http(stage.deathstar.url(HTTP, family=family), path=path).status == 200
    eventually(lambda: bool(recorded(stage, path)), what="the record of the one observed")
    assert [said(each)[4] for each in recorded(stage, path)] == ["xwing"]


def test_what_is_enforced_on_the_port_stays_denied_and_what_is_allowed_is_seen(stage: Stage, family: int) -> None:
    get_only = {"fromEndpoints": from_endpoints(XWING), "toPorts": http({"method": "GET"})}
    plain = {"fromEndpoints": from_endpoints(TIEFIGHTER), "toPorts": ports(HTTP)}
    stage.enforce(cnp("strict", DEATHSTAR, ingress=[get_only, plain]), look(DEATHSTAR, sample=1))
    url, path = stage.deathstar.url(HTTP, family=family), f"/strict-{family}"
    assert stage.xwing.http(url).status == 200
    assert stage.xwing.http(url, "PUT").status == 403
    assert stage.tiefighter.http(url, "PUT", path=path).status == 200
    with pytest.raises(Failed):
        stage.falcon.http(url, timeout=DENIED_SECONDS)
    with pytest.raises(Failed):
        stage.xwing.http(stage.deathstar.url(HTTP_OTHER, family=family), timeout=DENIED_SECONDS)
    eventually(lambda: bool(recorded(stage, path)), what="the record of the plainly allowed")
    assert [said(each) for each in recorded(stage, path)] == [("FORWARDED", "INGRESS", "PUT", 200, "tiefighter")]


def test_sample_bounds_the_records_also_while_somebody_follows_and_counts_stay_exact(stage: Stage) -> None:
    stage.enforce(look(DEATHSTAR, sample=0))
    before, url = counted(stage), stage.deathstar.url(HTTP)
    log = stage.host.popen(stage.node.command("flows", "-f", "-o", "json", "--protocol", "http"))
    try:
        eventually(lambda: stage.node.status()["flows"]["followers"] > 0, what="the follower is there")
        for _ in range(REQUESTS):
            assert stage.xwing.http(url, path="/unrecorded").status == 200
        eventually(lambda: (counted(stage) - before)["tp/default/look", "allowed"] == REQUESTS, what="the counts")
        # A request after them that is recorded: nothing of theirs is still on its way.
        stage.enforce(look(DEATHSTAR, sample=1))
        eventually(lambda: stage.xwing.http(url, path="/at-last").status == 200 and bool(recorded(stage, "/at-last")), 10)
        assert recorded(stage, "/unrecorded") == []
    finally:
        log.terminate()
        log.wait()


def test_connect_and_bytes_that_are_no_http_end_at_the_proxy(stage: Stage) -> None:
    stage.enforce(UNRELATED)
    said_to = stage.xwing.raw(stage.deathstar.ipv4, TCP, b"hello\n")
    stage.enforce(look(DEATHSTAR, TCP, sample=1))
    assert said_to != stage.xwing.raw(stage.deathstar.ipv4, TCP, b"hello\n")
    connect = b"CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n\r\n"
    assert stage.xwing.raw(stage.deathstar.ipv4, TCP, connect).startswith(b"HTTP/1.1 403")


def ends(connection: Connection) -> bool:
    try:
        return connection.request().status != 200 or not connection.is_open
    except Failed:
        return True


def test_open_connections_end_when_observing_begins_and_when_it_ends(stage: Stage) -> None:
    stage.enforce(UNRELATED)
    url = stage.deathstar.url(HTTP)
    past_it = stage.xwing.connect(url)
    assert past_it.request().status == 200
    stage.enforce(look(DEATHSTAR, sample=1))
    eventually(lambda: ends(past_it), what="the end of the connection past the proxy")
    through_it = stage.xwing.connect(url)
    assert through_it.request().status == 200
    stage.enforce(UNRELATED)
    eventually(lambda: ends(through_it), what="the end of the connection through the proxy")
