"""DNS egress on real packets: who may ask for what, and who may connect where because of it.

Addresses are part of the names that the odd server is asked for (``ttl-77.good.test`` is 198.51.100.77 for 77 seconds), so that
each test opens addresses that no other one opened.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.dns_stage import HTTP, HTTP_OTHER, KNOT, ODD, RAW, TLS, TYPES, DnsStage, dig, libc_addresses
from tests.support.netns import Pod
from tests.support.node import eventually
from tests.support.pod import Failed
from tests.support.stage import DENIED_SECONDS, Document, cnp, tidegate_policy

pytestmark = [pytest.mark.root, pytest.mark.envoy]

CLIENT_PROGRAM = Path(__file__).parents[1] / "support" / "dns_client.py"
NAMES = [{"matchPattern": "*.good.test"}, {"matchName": "www.site.test"}]
ANY_PORT_53 = [{"port": "53", "protocol": "ANY"}]
PROXY_PORT_MIN = 19000
numbers = count(20)


def egress(names: list[dict[str, str]]) -> list[dict[str, Any]]:
    """May ask anybody for ``names``, and connect to what they have."""
    ports = [{"port": str(port), "protocol": "TCP"} for port in (HTTP, HTTP_OTHER, TLS, RAW)]
    dns = [{"ports": ANY_PORT_53, "rules": {"dns": names}}]
    return [
        {"toEntities": ["world", "host"], "toPorts": dns},
        {"toEndpoints": [{"matchLabels": {"app": "dns"}}], "toPorts": dns},
        {"toFQDNs": names, "toPorts": [{"ports": ports}]},
    ]


def policies(names: list[dict[str, str]] = NAMES) -> tuple[Document, ...]:
    """The same for both pods: what tells them apart is who asked."""
    return tuple(cnp(name, {"app": name}, egress=egress(names)) for name in ("client", "other"))


@pytest.fixture(scope="module")
def dns_stage() -> Iterator[DnsStage]:
    config = {"dns": {"graceSeconds": 1, "upstreamTimeoutSeconds": 2}, "flows": {"allowedSample": 1}}
    with DnsStage("tgdnsnet", config) as made:
        yield made


@pytest.fixture
def stage(dns_stage: DnsStage) -> DnsStage:
    """The stage with the usual policies in force."""
    dns_stage.enforce(*policies())
    return dns_stage


def fresh(family: int) -> tuple[str, str]:
    """A name that nobody asked for yet, and the address that it will have."""
    number = next(numbers)
    return f"ttl-{number}.good.test", f"198.51.100.{number}" if family == 4 else f"2001:db8:51::{number:x}"


def reaches(pod: Pod, address: str, port: int = HTTP_OTHER) -> bool:
    """Whether a first SYN gets through; a drop is silence."""
    outcome = pod.tcp(address, port, timeout=DENIED_SECONDS)
    assert outcome in ("connected", "timeout"), outcome
    return outcome == "connected"


# ---- who may ask, who may connect ---------------------------------------------------------------------------------


def test_an_address_opens_with_the_answer_and_for_who_asked_alone(stage: DnsStage, family: int) -> None:
    name, address = fresh(family)
    assert not reaches(stage.client, address), "before it was resolved"
    answer = dig(stage.client, ODD[family], name, TYPES[family])
    assert (answer.status, answer.values) == ("NOERROR", (address,))
    assert reaches(stage.client, address)
    assert reaches(stage.client, address, RAW)
    assert not reaches(stage.client, address, 9999), "a port that the rule does not name"
    assert not reaches(stage.other, address), "the other pod did not ask, whatever its policy allows"
    assert dig(stage.other, ODD[family], name, TYPES[family]).status == "NOERROR"
    assert reaches(stage.other, address)


def test_other_names_are_refused_at_once_over_both_protocols(stage: DnsStage, family: int) -> None:
    for options in ((), ("+tcp",)):
        start = time.monotonic()
        assert dig(stage.client, KNOT[family], "secret.site.test", TYPES[family], *options).status == "REFUSED"
        assert dig(stage.client, KNOT[family], "www.elsewhere.test", TYPES[family], *options).status == "REFUSED"
        assert time.monotonic() - start < 2
    assert not reaches(stage.client, "198.51.100.16" if family == 4 else "2001:db8:51::16")


def test_the_server_sees_the_pods_own_address(stage: DnsStage, family: int) -> None:
    """Any server is asked as the pod asked it, and answers in its own name: dig takes no other answer."""
    for server in (KNOT, ODD):
        for options in ((), ("+tcp",)):
            answer = dig(stage.client, server[family], "www.good.test", TYPES[family], *options)
            assert answer.status == "NOERROR", answer.text


@pytest.mark.parametrize("where", ["resolver", "host"])
def test_servers_on_this_node_are_asked_as_any_other(stage: DnsStage, family: int, where: str) -> None:
    """Cluster DNS as a pod of the same node, a node-local cache on the node itself."""
    server = stage.resolver if where == "resolver" else stage.cluster.host
    for options in ((), ("+tcp",)):
        name, address = fresh(family)
        answer = dig(stage.client, server.address(family), name, TYPES[family], *options)
        assert answer.values == (address,), answer.text
        assert reaches(stage.client, address)
        assert dig(stage.client, server.address(family), "nope.elsewhere.test", "A", *options).status == "REFUSED"


def test_other_ways_to_ask_are_closed(stage: DnsStage, family: int) -> None:
    for port in (853, 443):
        assert not reaches(stage.client, ODD[family], port), "DNS over TLS or HTTPS"


def test_aliases_lead_where_the_name_that_was_asked_for_leads(stage: DnsStage, family: int) -> None:
    number = next(numbers)
    address = f"198.51.100.{number}" if family == 4 else f"2001:db8:51::{number:x}"
    answer = dig(stage.client, ODD[family], f"alias-{number}.good.test", TYPES[family])
    assert answer.values == ("www.elsewhere.test.", address)
    assert reaches(stage.client, address)
    answer = dig(stage.client, KNOT[family], "alias.good.test", TYPES[family])
    assert reaches(stage.client, answer.values[1])


def test_addresses_in_https_records_open(stage: DnsStage, family: int) -> None:
    answer = dig(stage.client, KNOT[family], "svc.good.test", "HTTPS")
    assert "ipv4hint=198.51.100.11" in answer.text
    assert reaches(stage.client, "198.51.100.11" if family == 4 else "2001:db8:51::11")


def test_case_signatures_and_options_are_untouched(stage: DnsStage) -> None:
    rule = {"matchName": "www.signed.good.test"}
    stage.enforce(*policies([rule]))
    answer = dig(stage.client, KNOT[4], "wWw.SiGnEd.gOoD.tEsT", "A", "+dnssec", "+question", "+bufsize=1232")
    assert "wWw.SiGnEd.gOoD.tEsT." in answer.text
    assert "flags: do" in answer.text
    assert answer.values[0] == "198.51.100.13"
    assert answer.values[1].startswith("A 13 4 60"), "a signature"


def test_a_truncated_answer_is_fetched_over_tcp_and_all_its_addresses_open(stage: DnsStage) -> None:
    short = dig(stage.client, ODD[4], "many.good.test", "A", "+ignore")
    assert ("tc" in short.flags, short.values) == (True, ())
    answer = dig(stage.client, ODD[4], "many.good.test", "A")
    assert len(answer.values) == 1000
    for address in (answer.values[0], answer.values[500], answer.values[999]):
        assert reaches(stage.client, address)


def test_query_types_and_exceptions_of_our_own_kind(dns_stage: DnsStage) -> None:
    stage = dns_stage
    rule = {"matchPattern": "**.good.test", "queryTypes": ["A"], "except": ["www.good.test"]}
    stage.enforce(
        tidegate_policy(
            "client",
            {"app": "client"},
            egress=[{"toEntities": ["world"], "toPorts": [{"ports": ANY_PORT_53, "rules": {"dns": [rule]}}]}],
        )
    )
    assert dig(stage.client, KNOT[4], "host1.good.test").status == "NOERROR"
    assert dig(stage.client, KNOT[4], "host1.good.test", "AAAA").status == "REFUSED"
    assert dig(stage.client, KNOT[4], "www.good.test").status == "REFUSED"


# ---- many names, many addresses -----------------------------------------------------------------------------------


def test_first_connections_right_after_rotating_answers_never_fail(stage: DnsStage, family: int) -> None:
    words = [sys.executable, "-I", str(CLIENT_PROGRAM), ODD[family], str(family), "30", "5", str(HTTP_OTHER), "rotate.good.test"]
    result = json.loads(stage.client.run(words).stdout)
    assert (result["asked"], result["answered"], result["connected"], result["failures"]) == (150, 150, 150, {}), result
    assert result["addresses"] > 100


def test_two_names_on_one_address_are_told_apart_where_the_port_says_which_is_meant(stage: DnsStage, family: int) -> None:
    address = "198.51.100.14" if family == 4 else "2001:db8:51::14"
    assert dig(stage.client, KNOT[family], "www.site.test", TYPES[family]).values == (address,)
    url = f"http://{address if family == 4 else f'[{address}]'}:{HTTP}/"
    assert stage.client.http(url, headers={"host": "www.site.test"}).status == 200
    assert stage.client.http(url, headers={"host": "secret.site.test"}).status == 403
    secure = url.replace("http://", "https://").replace(f":{HTTP}/", f":{TLS}/")
    authority = stage.authority.certificate
    assert (
        stage.client.http(secure, headers={"host": "www.site.test"}, authority=authority, server_name="www.site.test").status
        == 200
    )
    with pytest.raises(Failed):
        stage.client.http(secure, headers={"host": "x"}, authority=authority, server_name="secret.site.test", timeout=2)


def test_a_load_of_questions_loses_none(stage: DnsStage) -> None:
    names = stage.cluster.directory / "names.txt"
    names.write_text("".join(f"host{number}.good.test A\n" for number in range(1, 251)))
    words = ["dnsperf", "-s", KNOT[4], "-d", str(names), "-l", "2", "-c", "8", "-q", "200"]
    printed = stage.client.run(words, 60).stdout
    assert "Queries lost:         0 (0.00%)" in printed, printed
    assert "NOERROR" in printed
    assert "REFUSED" not in printed


# ---- time ---------------------------------------------------------------------------------------------------------


def test_what_has_expired_is_closed_and_a_live_connection_survives(stage: DnsStage, family: int) -> None:
    """TTL 3 and one second of grace."""
    address = "198.51.100.3" if family == 4 else "2001:db8:51::3"
    assert dig(stage.client, ODD[family], "ttl-3.good.test", TYPES[family]).values == (address,)
    connection = stage.client.connect(f"http://{address if family == 4 else f'[{address}]'}:{RAW}/", "tcp")
    eventually(lambda: not reaches(stage.client, address), 15, "its expiry")
    for _ in range(3):
        assert connection.exchange(b"still here") == b"still here"
    connection.close()


def test_a_connection_that_envoy_looks_into_outlives_its_name_too(dns_stage: DnsStage) -> None:
    """The pod receives nothing of itself: what the server sends to Envoy's socket may pass only as part of its connection."""
    dns_stage.enforce(*policies(), cnp("closed", {"app": "client"}, ingress=[{}]))
    name = "ttl-4.good.test"
    assert dig(dns_stage.client, ODD[4], name).values == ("198.51.100.4",)
    connection = dns_stage.client.connect(f"http://198.51.100.4:{HTTP}/")
    assert connection.request(headers={"host": name}).status == 200
    eventually(lambda: not reaches(dns_stage.client, "198.51.100.4"), 15, "its expiry")
    assert connection.request(headers={"host": name}).status == 200
    assert connection.request(headers={"host": "www.elsewhere.test"}).status == 403
    connection.close()


def test_an_edit_takes_names_away_at_once(stage: DnsStage) -> None:
    name, address = fresh(4)
    assert dig(stage.client, ODD[4], name).status == "NOERROR"
    assert reaches(stage.client, address)
    stage.enforce(*policies([{"matchName": "www.site.test"}]))
    assert not reaches(stage.client, address)
    assert dig(stage.client, ODD[4], name).status == "REFUSED"
    stage.enforce(*policies())
    assert reaches(stage.client, address), "what it resolved before is known still"


# ---- servers that misbehave ---------------------------------------------------------------------------------------


def test_a_silent_server_gives_servfail_in_time(stage: DnsStage) -> None:
    start = time.monotonic()
    assert dig(stage.client, ODD[4], "silent.good.test").status == "SERVFAIL"
    assert 1.9 < time.monotonic() - start < 4.5
    eventually(lambda: stage.dns["counters"]["upstream_timeouts"] >= 1)


def test_nobody_who_listens_gives_servfail_at_once(stage: DnsStage) -> None:
    assert dig(stage.client, "203.0.113.7", "www.good.test").status == "SERVFAIL"


@pytest.mark.parametrize("lie, counter", [("lie-id", "upstream_lies_id"), ("lie-name", "upstream_lies_question")])
def test_a_wrong_answer_is_counted_and_the_true_one_taken(stage: DnsStage, lie: str, counter: str) -> None:
    before = stage.dns["counters"][counter]
    assert dig(stage.client, ODD[4], f"{lie}.good.test").values == ("198.51.100.1",)
    eventually(lambda: stage.dns["counters"][counter] == before + 1)


def test_a_slow_server_holds_up_nobody_else(stage: DnsStage) -> None:
    slow = stage.client.popen(["dig", "+short", "+time=5", f"@{ODD[4]}", "slow-1500.good.test"])
    start = time.monotonic()
    assert dig(stage.client, KNOT[4], "www.good.test").status == "NOERROR"
    assert slow.poll() is None or time.monotonic() - start > 1.5
    assert slow.wait(10) == 0


# ---- resolvers ----------------------------------------------------------------------------------------------------


def test_getaddrinfo_finds_names_through_a_search_list(stage: DnsStage) -> None:
    """As Kubernetes sets it: five dots, and three domains to try before the name itself."""
    lines = ("search default.svc.cluster.local svc.cluster.local cluster.local", "options ndots:5")
    directory = stage.cluster.directory
    assert libc_addresses(stage.client, directory, "www.good.test", KNOT[4], *lines) == ["198.51.100.10", "2001:db8:51::10"]
    assert libc_addresses(stage.client, directory, "www.good.test", KNOT[6]) == ["198.51.100.10", "2001:db8:51::10"]
    (problem,) = libc_addresses(stage.client, directory, "www.elsewhere.test", KNOT[4], *lines)
    assert problem.startswith("-"), "a refused name has no addresses"


# ---- what people see ----------------------------------------------------------------------------------------------


def test_flows_and_metrics_tell_of_questions(stage: DnsStage) -> None:
    name, address = fresh(4)
    assert dig(stage.client, ODD[4], name).status == "NOERROR"
    assert dig(stage.client, ODD[4], "nope.elsewhere.test").status == "REFUSED"

    def found() -> list[Any]:
        records = stage.node.flows("--last", "200", "--protocol", "dns")
        return [each for each in records if each["l7"]["dns"]["query"] in (name, "nope.elsewhere.test")]

    eventually(lambda: len(found()) == 2, 10, "both records")
    allowed, denied = found()
    assert allowed["l7"]["dns"] == {
        "query": name,
        "ips": [address],
        "ttl": int(name[4:].split(".")[0]),
        "qtypes": ["A"],
        "rrtypes": ["A"],
    }
    assert (allowed["verdict"], allowed["source"]["pod_name"]) == ("FORWARDED", "client")
    assert allowed["tidegate"]["rule"].endswith("rules.dns[0]")
    assert (denied["verdict"], denied["l7"]["dns"]["rcode"], denied["drop_reason_desc"]) == ("DROPPED", 5, "POLICY_DENIED")
    metrics = stage.cluster.host.run(
        ["curl", "-s", "--unix-socket", str(stage.node.directory / "state" / "admin.sock"), "http://node/metrics"]
    ).stdout
    assert 'tidegate_dns_queries_total{qtype="A",rcode="REFUSED",verdict="refused"}' in metrics
    assert "tidegate_dns_up 1.0" in metrics
    assert "DNS proxy" in stage.node.cli("status").stdout


def test_pods_that_come_and_go_cost_no_rules_and_no_push(stage: DnsStage) -> None:
    rules = stage.node.directory / "state" / "dns" / "rules.json"
    before, pushes = rules.stat(), stage.node.status()["xds"]["pushes"]
    pod = stage.cluster.pod("late", {"app": "client"})
    try:
        stage.node.write_endpoints()
        stage.node.wait_ready()
        name, address = fresh(4)
        assert dig(pod, ODD[4], name).status == "NOERROR"
        assert reaches(pod, address)
        assert not reaches(stage.client, address)
    finally:
        stage.cluster.remove_pod("late")
        stage.node.write_endpoints()
        stage.node.wait_ready()
    assert (rules.stat().st_mtime_ns, stage.node.status()["xds"]["pushes"]) == (before.st_mtime_ns, pushes)


# ---- deaths -------------------------------------------------------------------------------------------------------


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def agent_pid(stage: DnsStage) -> int:
    (pid,) = stage.node.processes("tidegate.agent")
    return pid


def test_names_go_on_while_the_agent_is_dead(stage: DnsStage) -> None:
    known, known_address = fresh(4)
    assert dig(stage.client, ODD[4], known).status == "NOERROR"
    pid = agent_pid(stage)
    os.kill(pid, signal.SIGSTOP)  # a dead one would be started again at once
    try:
        name, address = fresh(4)
        assert reaches(stage.client, known_address)
        assert dig(stage.client, ODD[4], name).status == "NOERROR"
        assert reaches(stage.client, address)
        assert dig(stage.client, KNOT[4], "www.elsewhere.test").status == "REFUSED"
    finally:
        kill(pid)
    eventually(lambda: stage.node.processes("tidegate.agent") not in ([], [pid]), 20, "another agent")
    assert dig(stage.client, ODD[4], known).status == "NOERROR"
    assert reaches(stage.client, known_address)
    stage.node.wait_ready()


def test_a_killed_proxy_is_back_within_a_second_and_knows_what_it_knew(stage: DnsStage) -> None:
    name, address = fresh(4)
    assert dig(stage.client, ODD[4], name).status == "NOERROR"
    ports = {f":{PROXY_PORT_MIN + slot}" for slot in stage.dns["slots"]}
    old = stage.proxy_pid

    def listens() -> bool:
        printed = "".join(stage.node.host_lines("ss", "-Hlun"))
        return all(port in printed for port in ports)

    assert listens()
    kill(old)
    eventually(lambda: not listens(), 5, "its death")
    took = eventually(listens, 10, "its listeners")
    assert reaches(stage.client, address), "without asking again"
    assert dig(stage.client, ODD[4], "www.good.test").status == "NOERROR"
    assert dig(stage.client, KNOT[4], "www.elsewhere.test").status == "REFUSED"
    assert stage.proxy_pid != old
    eventually(lambda: bool(stage.dns["gauges"].get("cached_names")), 5)
    stage.node.wait_ready()
    # It takes 0.2 s on a machine that has nothing else to do; a loaded one is given its share of the second.
    assert took < 1.0 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), f"{took:.2f} s"


def test_the_death_of_envoy_does_not_touch_dns(stage: DnsStage) -> None:
    pid = stage.node.envoy_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        name, address = fresh(4)
        assert dig(stage.client, ODD[4], name).status == "NOERROR"
        assert reaches(stage.client, address)
    finally:
        kill(pid)
    assert dig(stage.client, ODD[4], fresh(4)[0]).status == "NOERROR"
    stage.node.wait_ready()


def test_the_next_run_adopts_the_proxy_that_outlived_the_last(stage: DnsStage) -> None:
    name, address = fresh(4)
    assert dig(stage.client, ODD[4], name).status == "NOERROR"
    pid = stage.proxy_pid
    assert stage.node.stop(signal.SIGKILL) == -signal.SIGKILL
    assert dig(stage.client, ODD[4], name).status == "NOERROR"
    stage.node.start()
    stage.node.wait_ready()
    assert stage.proxy_pid == pid
    assert reaches(stage.client, address)
    assert dig(stage.client, ODD[4], fresh(4)[0]).status == "NOERROR"


def test_a_clean_stop_ends_the_proxy_and_the_next_run_knows_what_it_knew(stage: DnsStage) -> None:
    name, address = fresh(4)
    assert dig(stage.client, ODD[4], name).status == "NOERROR"
    assert stage.node.stop() == 0
    assert stage.node.processes("tidegate.dnsproxy") == []
    assert dig(stage.client, ODD[4], name, "A", "+time=1").status == "TIMEOUT", "closed while nobody judges"
    assert reaches(stage.client, address), "what was resolved stays reachable"
    stage.node.start()
    stage.node.wait_ready()
    assert reaches(stage.client, address)
    assert dig(stage.client, ODD[4], name).status == "NOERROR"
