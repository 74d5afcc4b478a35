"""Edits reach what is already open: the next request of a live connection, without a lost request and without a stale verdict."""

from __future__ import annotations

import time

import pytest

from tests.support.node import eventually
from tests.support.pod import Connection, Failed
from tests.support.stage import DEATHSTAR, HTTP, TIEFIGHTER, XWING, Document, Stage, cnp, from_endpoints, http, ports, reach

pytestmark = [pytest.mark.root, pytest.mark.envoy]
PROTOCOLS = pytest.mark.parametrize("protocol", ["h1", "h2"])
STALE_SECONDS_MAX = 1.0


def fate(connection: Connection, path: str = "/", method: str = "GET") -> int | str:
    """What becomes of a request on an old connection: its status, ``ended``, or (never good) ``stalled``."""
    try:
        return connection.request(path, method, timeout=2).status
    except Failed as failed:
        return "stalled" if failed.kind == "timeout" else "ended"


def methods(*names: str) -> Document:
    return cnp("rule1", DEATHSTAR, ingress=[{"toPorts": http(*({"method": name} for name in names))}])


@PROTOCOLS
def test_edit_reaches_the_next_request_of_an_open_connection(stage: Stage, protocol: str, family: int) -> None:
    stage.enforce(methods("GET"))
    connection = stage.xwing.connect(stage.deathstar.url(HTTP, family=family), protocol)
    first = connection.request()
    assert first.status == 200
    stage.enforce(methods("POST"))
    assert connection.request().status == 403
    stage.enforce(methods("POST", "GET"))
    again = connection.request()
    assert again.status == 200
    # The same TCP connection all the way: the client's by construction, Envoy's to the server by its number there.
    assert again.json["connection"] == first.json["connection"]
    connection.close()


@PROTOCOLS
def test_edits_under_load_fail_no_request(stage: Stage, protocol: str, family: int) -> None:
    stage.enforce(methods("GET"))
    load = stage.xwing.load(stage.deathstar.url(HTTP, family=family), connections=8, protocol=protocol)
    eventually(lambda: load.counts().statuses.get(200, 0) > 50)
    for _ in range(5):
        stage.enforce(methods("GET", "POST"))
        stage.enforce(methods("GET"))
    counts = load.stop()
    assert counts.failures == {}
    assert set(counts.statuses) == {200}
    assert counts.opened_count == 8


@PROTOCOLS
def test_after_an_edit_no_request_passes_by_the_old_policy(stage: Stage, protocol: str) -> None:
    stage.enforce(methods("GET"))
    load = stage.xwing.load(stage.deathstar.url(HTTP), connections=8, protocol=protocol)
    eventually(lambda: load.counts().statuses.get(200, 0) > 50)
    written = time.monotonic()
    stage.enforce(methods("POST"))
    realised = time.monotonic()
    eventually(lambda: load.counts().statuses.get(403, 0) > 50)
    counts = load.stop()
    assert counts.failures == {}
    assert counts.opened_count == 8
    # Judged by when they were sent: what was on its way at that moment may still come back.
    assert counts.last_sent[200] < realised
    assert counts.first_seen[403] - written < STALE_SECONDS_MAX


@PROTOCOLS
def test_new_http_policy_leaves_no_direct_connection_after_a_second(stage: Stage, protocol: str, family: int) -> None:
    stage.enforce()
    connection = stage.xwing.connect(stage.deathstar.url(HTTP, family=family), protocol)
    assert connection.request("/before").status == 200
    stage.enforce(methods("POST"))
    time.sleep(STALE_SECONDS_MAX)
    before = stage.deathstar.server_counts(HTTP)["requests"]
    assert fate(connection, "/after") in (403, "ended")
    assert stage.deathstar.server_counts(HTTP)["requests"] == before
    connection.close()
    assert stage.xwing.http(stage.deathstar.url(HTTP, family=family)).status == 403


@PROTOCOLS
def test_removed_http_policy_frees_the_port_and_stalls_nobody(stage: Stage, protocol: str, family: int) -> None:
    stage.enforce(methods("GET"))
    connection = stage.xwing.connect(stage.deathstar.url(HTTP, family=family), protocol)
    assert connection.request().status == 200
    stage.enforce()
    time.sleep(STALE_SECONDS_MAX)
    assert fate(connection, method="DELETE") in (200, "ended")
    connection.close()
    assert stage.xwing.http(stage.deathstar.url(HTTP, family=family), "DELETE").status == 200


@PROTOCOLS
def test_members_that_move_to_another_rule_set_meet_it_within_a_second(stage: Stage, protocol: str, family: int) -> None:
    everyone = methods("GET")
    xwing_only = cnp("more", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(XWING), "toPorts": http({"method": "DELETE"})}])
    stage.enforce(everyone, xwing_only)
    url = stage.deathstar.url(HTTP, family=family)
    moved, stayed = stage.xwing.connect(url, protocol), stage.tiefighter.connect(url, protocol)
    assert (moved.request(method="DELETE").status, stayed.request(method="DELETE").status) == (200, 403)
    stage.enforce(everyone)
    time.sleep(STALE_SECONDS_MAX)
    assert fate(moved, method="DELETE") in (403, "ended")
    assert stayed.request().status == 200
    for connection in (moved, stayed):
        connection.close()
    assert stage.xwing.http(url, "DELETE").status == 403


def test_new_denial_of_a_peer_ends_its_proxied_connection(stage: Stage, family: int) -> None:
    stage.enforce(methods("GET"))
    url = stage.deathstar.url(HTTP, family=family)
    denied, other = stage.xwing.connect(url), stage.tiefighter.connect(url)
    assert (denied.request().status, other.request().status) == (200, 200)
    deny = cnp("deny", DEATHSTAR, ingressDeny=[{"fromEndpoints": from_endpoints(XWING)}])
    stage.enforce(methods("GET"), deny)
    before = stage.deathstar.server_counts(HTTP)["requests"]
    with pytest.raises(Failed):
        denied.request(timeout=0.5)
    assert stage.deathstar.server_counts(HTTP)["requests"] == before
    assert other.request().status == 200
    assert reach(stage.xwing, stage.deathstar, [HTTP], family) == {HTTP: False}
    for connection in (denied, other):
        connection.close()


def test_l4_rule_of_an_unconcerned_pod_disturbs_no_proxied_connection(stage: Stage) -> None:
    stage.enforce(methods("GET"))
    connection = stage.xwing.connect(stage.deathstar.url(HTTP))
    number = connection.request().json["connection"]
    stage.enforce(methods("GET"), cnp("unrelated", TIEFIGHTER, ingress=[{"toPorts": ports(1234)}]))
    assert connection.request().json["connection"] == number
    connection.close()
