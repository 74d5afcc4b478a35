"""The proxy with real sockets: real knot where the server behaves, a fake where it must not."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from proxylib.dns.policy import AllowRule, DnsRules, Reject, Role, Roster, SlotRules, Subject
from proxylib.dns.rules import NameSelector
from proxylib.dns.settings import CONNECT_GRACE_NS, SECOND_NS, SOCKET_LIES_MAX, TCP_QUERIES_MAX
from proxylib.dns.stream import frame
from tests.unit.proxylib.dns_bed import (
    CLIENT,
    INTERFACE,
    ROLE,
    ROSTER,
    RULES,
    SLOT,
    Bed,
    addresses,
    answer_a,
    bed,
    fake_server,
    knot,
)

pytestmark = [pytest.mark.root]

MILLISECOND_NS = 1_000_000


@pytest.fixture(scope="module")
def knot_bed() -> Iterator[Bed]:
    if shutil.which("knotd") is None:
        pytest.fail("knotd is not installed: apt-get install knot (make setup does it)")
    with knot() as server, bed(server) as made:
        yield made


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize(
    "name, kind, expected",
    [
        ("www.test", "A", ["10.1.0.1"]),
        ("wWw.TeSt", "AAAA", ["fd00:1::1"]),
        ("alias.test", "A", ["10.1.0.1"]),
        ("nothing.test", "A", []),
    ],
)
def test_allowed_names_resolve(knot_bed: Bed, tcp: bool, name: str, kind: str, expected: list[str]) -> None:
    assert addresses(knot_bed.ask(name, kind, tcp)) == expected
    if expected:
        selectors = {31, 32} if name.lower() == "www.test" else {31}
        assert all(selectors <= knot_bed.publisher.table["default/client", each].keys() for each in expected)


def test_hints_of_https_records_are_answers(knot_bed: Bed) -> None:
    assert len(knot_bed.ask("svc.test", "HTTPS").answer) == 1
    assert ("default/client", (31,), ("10.1.0.7", "fd00:1::7")) in knot_bed.publisher.published


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("name", ["secret.test", "www.example.com", "test"])
def test_other_names_are_refused_at_once(knot_bed: Bed, tcp: bool, name: str) -> None:
    before = knot_bed.count("refused")
    reply = knot_bed.ask(name, "A", tcp, use_edns=0, want_dnssec=True)
    assert (reply.rcode(), reply.edns, bool(reply.ednsflags & dns.flags.DO)) == (dns.rcode.REFUSED, 0, True)
    assert knot_bed.count("refused") == before + 1


def test_a_large_answer_is_truncated_over_udp_and_whole_over_tcp_or_edns(knot_bed: Bed) -> None:
    truncated = knot_bed.ask("big.test")
    assert bool(truncated.flags & dns.flags.TC)
    assert len(addresses(knot_bed.ask("big.test", tcp=True))) == 60
    # Fragments from 1,500 bytes on are the kernel's work; this one fits loopback.
    assert len(addresses(knot_bed.ask("big.test", use_edns=0, payload=4096))) == 60
    published = {address for _, _, found in knot_bed.publisher.published for address in found if address.startswith("10.2.")}
    assert len(published) == 60


def test_many_queries_in_flight_all_get_their_own_answer(knot_bed: Bed) -> None:
    def ask(number: int) -> bool:
        return addresses(knot_bed.ask(f"host{number}.test", tcp=number % 5 == 0)) == [f"10.3.{number // 250}.{number % 250}"]

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(ask, range(500)))


def test_clients_of_both_families_are_served() -> None:
    with fake_server(lambda query, _: [answer_a(query, "fd00::5")], "::1") as server, bed(("::1", server.port)) as made:
        assert addresses(made.ask("a.test", "AAAA", family=6)) == ["fd00::5"]
        assert addresses(made.ask("a.test", "AAAA", tcp=True, family=6)) == ["fd00::5"]


def test_the_answer_waits_for_its_addresses_to_be_published() -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1", ttl=30)]) as server, bed(("127.0.0.1", server.port)) as made:
        made.publisher.delay_seconds = 0.2
        started_ns = time.monotonic_ns()
        assert addresses(made.ask("a.test")) == ["10.1.1.1"]
        assert time.monotonic_ns() - started_ns >= 200 * MILLISECOND_NS
        expiry_ns = made.publisher.table["default/client", "10.1.1.1"][31]
        assert 0 <= expiry_ns - started_ns - 30 * SECOND_NS - CONNECT_GRACE_NS < 5 * SECOND_NS


def test_an_answer_that_can_not_be_published_is_not_released() -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        made.publisher.failing = True
        reply = made.ask("a.test")
        assert (reply.rcode(), addresses(reply), made.count("failed_publish")) == (dns.rcode.SERVFAIL, [], 1)
        made.publisher.failing = False
        assert addresses(made.ask("a.test")) == ["10.1.1.1"]


def test_a_repeated_answer_is_published_once_and_special_addresses_never() -> None:
    found = ("10.1.1.1", "127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0")
    with (
        fake_server(lambda query, _: [answer_a(query, *found)]) as server,
        bed(("127.0.0.1", server.port)) as made,
    ):
        for _ in range(5):
            assert len(addresses(made.ask("a.test"))) == 5
        assert made.publisher.published == [("default/client", (31,), ("10.1.1.1",))]


def test_a_thousand_rotating_addresses_stay_within_the_cap() -> None:
    numbers = iter(range(10_000))

    def rotate(query: bytes, client: tuple[str, int]) -> list[bytes]:
        del client
        return [answer_a(query, *(f"10.4.{n // 250}.{n % 250 + 1}" for n in (next(numbers) for _ in range(20))))]

    with fake_server(rotate) as server, bed(("127.0.0.1", server.port)) as made:
        made.set_rules(replace(RULES, revision=2, addresses_per_name_max=300))
        made.until(lambda: made.proxy.revision == 2, "rules were not loaded")
        for _ in range(50):
            assert set(addresses(made.ask("a.test"))) <= set(made.publisher.published[-1][2])
        assert made.count("published") == 1000
        assert len(made.publisher.withdrawn) == 700
        assert made.publisher.withdrawn[:2] == ["10.4.0.1", "10.4.0.2"], "the oldest first"


def test_lies_are_counted_and_the_true_answer_is_taken() -> None:
    def lie(query: bytes, client: tuple[str, int]) -> list[bytes]:
        del client
        true = answer_a(query, "10.1.1.1")
        wrong_id = bytes([true[0] ^ 1]) + true[1:]
        other_case = true[:13] + bytes([true[13] ^ 0x20]) + true[14:]
        return [b"", b"\0", wrong_id, query, other_case, true]

    with fake_server(lie) as server, bed(("127.0.0.1", server.port)) as made:
        assert addresses(made.ask("a.test")) == ["10.1.1.1"]
        assert (made.count("upstream_lies_id"), made.count("upstream_lies_question")) == (3, 2)


def test_an_answer_from_another_address_or_port_never_arrives() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))

        def spoof(query: bytes, client: tuple[str, int]) -> list[bytes]:
            elsewhere.sendto(answer_a(query, "10.6.6.6"), client)
            return [answer_a(query, "10.1.1.1")]

        with fake_server(spoof) as server, bed(("127.0.0.1", server.port)) as made:
            assert addresses(made.ask("a.test")) == ["10.1.1.1"]
            assert [found for *_, found in made.publisher.published] == [("10.1.1.1",)]


def test_after_many_lies_the_query_is_asked_again_from_another_port() -> None:
    ports: list[int] = []

    def flood(query: bytes, client: tuple[str, int]) -> list[bytes]:
        ports.append(client[1])
        return [query] * SOCKET_LIES_MAX if len(ports) == 1 else [answer_a(query, "10.1.1.1")]

    with fake_server(flood) as server, bed(("127.0.0.1", server.port)) as made:
        assert addresses(made.ask("a.test")) == ["10.1.1.1"]
        assert (made.count("upstream_sockets_suspect"), made.count("asked_again"), len(set(ports))) == (1, 1, 2)


@pytest.mark.parametrize("tcp", [False, True])
def test_a_silent_server_gives_servfail_in_time_and_nothing_stays_behind(tcp: bool) -> None:
    with (
        fake_server(lambda query, _: []) as server,
        bed(("127.0.0.1", server.port), upstream_timeout_ns=300 * MILLISECOND_NS) as made,
    ):
        started_ns = time.monotonic_ns()
        assert made.ask("a.test", tcp=tcp).rcode() == dns.rcode.SERVFAIL
        assert 300 * MILLISECOND_NS <= time.monotonic_ns() - started_ns < 3 * SECOND_NS
        made.proxy.status()
        assert (made.count("upstream_timeouts"), made.count("in_flight")) == (1, 0)


@pytest.mark.parametrize("tcp", [False, True])
def test_a_dead_server_gives_servfail_at_once(tcp: bool) -> None:
    with fake_server(lambda query, _: []) as server:
        port = server.port
    with bed(("127.0.0.1", port)) as made:
        started_ns = time.monotonic_ns()
        assert made.ask("a.test", tcp=tcp).rcode() == dns.rcode.SERVFAIL
        assert time.monotonic_ns() - started_ns < made.settings.upstream_timeout_ns // 2
        assert made.count("upstream_unreachable") >= 1


def test_late_answers_are_dropped_and_counted() -> None:
    late: list[bytes] = []

    def stall(query: bytes, client: tuple[str, int]) -> list[bytes]:
        del client
        late.append(answer_a(query, "10.1.1.1"))
        return late if len(late) == 2 else []

    with fake_server(stall) as server, bed(("127.0.0.1", server.port), upstream_timeout_ns=200 * MILLISECOND_NS) as made:
        assert made.ask("a.test").rcode() == dns.rcode.SERVFAIL
        assert addresses(made.ask("b.test")) == ["10.1.1.1"]
        assert (made.count("upstream_late"), made.count("upstream_lies_id")) == (1, 0)


def test_queries_in_flight_are_bounded_per_endpoint() -> None:
    limits = {"in_flight_per_endpoint_max": 8, "upstream_timeout_ns": 1500 * MILLISECOND_NS}
    with fake_server(lambda query, _: []) as server, bed(("127.0.0.1", server.port), **limits) as made:
        with ThreadPoolExecutor(20) as pool:
            codes = list(pool.map(lambda number: made.ask(f"h{number}.test").rcode(), range(20)))
        assert codes == [dns.rcode.SERVFAIL] * 20
        assert (made.count("failed_limit"), made.count("upstream_timeouts")) == (12, 8)


def test_a_fault_of_ours_in_one_message_ends_nothing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        with monkeypatch.context() as patched:
            patched.setattr("proxylib.dns.arbiter.read_query", lambda data: 1 // 0)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"x", ("127.0.0.1", made.port))
                made.until(lambda: made.count("faults") == 1, "it was not noticed")
        assert addresses(made.ask("a.test")) == ["10.1.1.1"]
        assert "ZeroDivisionError" in capfd.readouterr().err


def test_malformed_queries_get_format_error_and_the_proxy_lives_on() -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.connect(("127.0.0.1", made.port))
            for data in (b"", b"\0", bytes(5000), b"\xff" * 40):
                client.send(data)
            client.send(dns.message.make_query("a.test", "A").to_wire() + b"tail")
            assert dns.message.from_wire(client.recv(512)).rcode() == dns.rcode.FORMERR
        assert addresses(made.ask("a.test")) == ["10.1.1.1"]
        assert made.count("malformed") == 5


def test_queries_are_answered_in_any_order_on_one_connection_and_split_anywhere() -> None:
    def swap(query: bytes, client: tuple[str, int]) -> list[bytes]:
        del client
        held.append(answer_a(query, f"10.5.0.{len(held) + 1}"))
        return held[::-1] if len(held) == 3 else []

    held: list[bytes] = []
    queries = [dns.message.make_query(f"h{number}.test", "A") for number in range(3)]
    with fake_server(swap) as server, bed(("127.0.0.1", server.port)) as made:
        with socket.create_connection(("127.0.0.1", made.port), 10) as client:
            for byte in b"".join(frame(query.to_wire()) for query in queries):
                client.send(bytes([byte]))
            replies = [dns.query.receive_tcp(client, time.time() + 10)[0] for _ in queries]
            found = {reply.id: addresses(reply) for reply in replies}
        assert found == {query.id: [f"10.5.0.{number + 1}"] for number, query in enumerate(queries)}
        made.until(lambda: made.count("tcp_connections") == 0, "connection stays")


def test_a_flood_of_pipelined_queries_is_read_no_faster_than_it_is_answered() -> None:
    gate = threading.Event()

    def wait(query: bytes, client: tuple[str, int]) -> list[bytes]:
        del client
        gate.wait(10)
        return [answer_a(query, "10.1.1.1")]

    count = 3 * TCP_QUERIES_MAX
    data = b"".join(frame(dns.message.make_query("a.test", "A", id=number).to_wire()) for number in range(count))
    with fake_server(wait) as server, bed(("127.0.0.1", server.port)) as made:
        with socket.create_connection(("127.0.0.1", made.port), 10) as client:
            sender = threading.Thread(target=client.sendall, args=(data,))
            sender.start()
            made.until(lambda: made.count("in_flight") > 0, "nothing was asked")
            gate.set()
            ids = {dns.query.receive_tcp(client, time.time() + 20)[0].id for _ in range(count)}
            sender.join()
        assert ids == set(range(count))


def test_an_upstream_connection_that_the_server_closed_is_opened_anew() -> None:
    class Closing:
        """A TCP server that closes after each answer."""

        def __init__(self) -> None:
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.port = self.listener.getsockname()[1]
            self.thread = threading.Thread(target=self.serve, daemon=True)
            self.thread.start()

        def serve(self) -> None:
            for _ in range(2):
                accepted, _ = self.listener.accept()
                with accepted:
                    size = int.from_bytes(accepted.recv(2), "big")
                    accepted.sendall(frame(answer_a(accepted.recv(size), "10.1.1.1")))

    server = Closing()
    with bed(("127.0.0.1", server.port)) as made, socket.create_connection(("127.0.0.1", made.port), 10) as client:
        for _ in range(2):
            dns.query.send_tcp(client, dns.message.make_query("a.test", "A"), time.time() + 10)
            assert addresses(dns.query.receive_tcp(client, time.time() + 10)[0]) == ["10.1.1.1"]
        assert made.count("answered") == 2
    server.thread.join(10)
    server.listener.close()


# ---- rules, files, reports ----------------------------------------------------------------------------------------


def test_new_rules_are_judged_by_and_cover_names_that_were_resolved_before() -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        made.ask("a.test")
        selectors = {**RULES.selectors, 40: NameSelector(match_name="a.test")}
        roles = {ROLE: Role((SLOT,), (31, 32, 40))}
        made.set_rules(replace(RULES, revision=2, reject=Reject.NXDOMAIN, selectors=selectors, roles=roles))
        made.until(lambda: made.proxy.revision == 2, "rules were not loaded")
        assert made.publisher.published[-1] == ("default/client", (31, 40), ("10.1.1.1",))
        assert made.ask("nope.example").rcode() == dns.rcode.NXDOMAIN


def test_a_bad_rules_file_leaves_the_last_rules_in_force() -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        (made.directory / "rules.json").write_text("{")
        made.until(lambda: made.proxy.problem != "", "nothing was said about it")
        assert addresses(made.ask("a.test")) == ["10.1.1.1"]
        assert made.count("rules_failed") == 1


def test_strangers_are_refused() -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        made.set_roster(Roster(revision=2, subjects=(Subject("default/other", ("10.0.0.9",), ROLE),)))
        made.until(lambda: made.proxy.roster_revision == 2, "subjects were not loaded")
        assert made.ask("a.test").rcode() == dns.rcode.REFUSED
        assert made.count("unknown_subject") == 1
        assert server.asked == []


def test_a_slot_that_goes_is_listened_for_no_more() -> None:
    with bed(("127.0.0.1", 9)) as made:
        assert made.proxy.status()["slots"] == [1]
        made.set_rules(DnsRules(revision=2))
        made.until(lambda: made.proxy.status()["slots"] == [], "the slot is still there")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", made.port), 10).close()


def test_a_restarted_proxy_publishes_what_it_knew() -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        made.ask("a.test")
        before = made.publisher.table.copy()
        made.stop()
        made.publisher.table.clear()
        made.start()
        assert made.publisher.table == before
        assert made.publisher.retained[-1] == {INTERFACE: frozenset({31, 32})}


def test_a_killed_proxy_forgets_nothing_that_it_answered() -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        for number in range(20):
            made.ask(f"n{number}.test")
        # What a kill leaves: the directory as it stands at this moment, the last line perhaps cut short.
        left = made.directory / "left"
        shutil.copytree(made.directory / "cache", left)
        with (left / "journal.new").open("a") as journal:
            journal.write('["boot", "default/cl')
        table = made.publisher.table.copy()
        made.stop()
        made.settings = replace(made.settings, cache_directory=left)
        made.publisher.table.clear()
        made.start()
        assert made.publisher.table == table
        assert made.count("cache_failed") == 1


def test_a_directory_that_was_emptied_is_filled_again() -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        made.ask("a.test")
        control, cache = made.directory / "control.sock", made.directory / "cache"
        for path in made.directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        made.until(lambda: control.exists() and list(cache.glob("*.json")) != [], "nothing is there")
        made.until(lambda: made.proxy.problem == "", "a problem stays")
        made.ask("b.test")
        assert (cache / "journal.new").exists()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
            asking.settimeout(10)
            asking.bind("")
            asking.sendto(b"{}", str(control))
            assert json.loads(asking.recv(65536))["slots"] == [SLOT], "the rules that were there are in force still"
        made.set_rules(RULES)
        made.set_roster(ROSTER)


def test_rounds_of_saving_empty_the_journal_and_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxylib.dns.keeper.JOURNAL_BYTES_MAX", 400)
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        for number in range(60):
            made.ask(f"n{number}.test")
        cache = made.directory / "cache"
        made.until(lambda: list(cache.glob("*.json")) != [] and not (cache / "journal.old").exists(), "no round was ended")
        made.until(
            lambda: sum(path.stat().st_size for path in cache.glob("journal.*")) < 1000, "the journal grows beyond its bound"
        )
        names = made.proxy._cache.names(CLIENT.key, time.monotonic_ns())
        made.stop()
        made.start()
        assert made.proxy._cache.names(CLIENT.key, time.monotonic_ns()) == names
        assert len(names) == 60


def test_two_names_on_one_address_give_it_the_selectors_of_both_each_until_its_own_expiry() -> None:
    def answer(query: bytes, client: tuple[str, int]) -> list[bytes]:
        return [answer_a(query, "10.1.1.1", ttl=300 if b"www" in query else 30)]

    with fake_server(answer) as server, bed(("127.0.0.1", server.port)) as made:
        rules = replace(
            RULES, revision=2, selectors={31: NameSelector(match_name="a.test"), 32: NameSelector(match_name="www.test")}
        )
        made.set_rules(rules)
        made.until(lambda: made.proxy.revision == 2, "rules were not loaded")
        made.ask("www.test")
        made.ask("a.test")
        grants = made.publisher.table["default/client", "10.1.1.1"]
        assert grants.keys() == {31, 32}
        assert 265 * SECOND_NS < grants[32] - grants[31] < 275 * SECOND_NS
        # When one name goes, what the other opened stays.
        made.set_rules(replace(rules, revision=3, selectors={32: rules.selectors[32]}, roles={ROLE: Role((SLOT,), (32,))}))
        made.until(lambda: made.proxy.revision == 3, "rules were not loaded")
        assert made.publisher.table["default/client", "10.1.1.1"] == {32: grants[32]}


def test_an_expired_address_is_taken_from_the_datapath() -> None:
    with (
        fake_server(lambda query, _: [answer_a(query, "10.1.1.1", ttl=0)]) as server,
        bed(("127.0.0.1", server.port), grace_ns=SECOND_NS // 2) as made,
    ):
        made.ask("a.test")
        assert made.publisher.table["default/client", "10.1.1.1"].keys() == {31}
        made.until(lambda: made.publisher.table["default/client", "10.1.1.1"] == {}, "it stays")
        assert made.proxy._cache.size() == (0, 0)


def test_what_a_gone_pod_resolved_is_taken_from_the_datapath() -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        made.ask("a.test")
        made.set_roster(Roster(revision=2))
        made.until(lambda: made.publisher.withdrawn == ["10.1.1.1"], "it stays")


def test_a_pod_with_a_new_interface_keeps_what_it_resolved() -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        made.ask("a.test")
        made.set_roster(Roster(revision=2, subjects=(replace(CLIENT, interface=INTERFACE + 1),)))
        made.until(lambda: made.proxy.roster_revision == 2, "subjects were not loaded")
        assert made.publisher.withdrawn == ["10.1.1.1"], "under the old interface"
        assert made.publisher.published[-1] == ("default/client", (31,), ("10.1.1.1",)), "under the new one"


def test_a_datapath_that_was_made_anew_is_told_all_again() -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        made.ask("a.test")
        made.publisher.table.clear()
        made.publisher.is_new = True
        made.until(lambda: ("default/client", "10.1.1.1") in made.publisher.table, "it was not told")


def test_a_search_list_goes_on_to_the_allowed_name() -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        assert made.ask("a.test.default.svc.cluster.local").rcode() == dns.rcode.NXDOMAIN
        assert made.ask("other.example.cluster.local").rcode() == dns.rcode.REFUSED
        assert server.asked == [], "neither is asked for"


def test_a_type_that_is_not_allowed_leaves_the_name_existing() -> None:
    slots = {SLOT: SlotRules((AllowRule("only A", NameSelector(match_name="a.test"), ("A",)),))}
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        for revision, reject, rcode in ((2, Reject.REFUSED, dns.rcode.REFUSED), (3, Reject.NXDOMAIN, dns.rcode.NOERROR)):
            made.set_rules(replace(RULES, revision=revision, reject=reject, slots=slots))
            made.until(lambda wanted=revision: made.proxy.revision == wanted, "rules were not loaded")  # type: ignore[misc]
            assert made.ask("a.test", "AAAA").rcode() == rcode
        assert addresses(made.ask("a.test", "A")) == ["10.1.1.1"]


def test_a_question_that_enforcing_would_refuse_is_answered_and_reported_as_audited() -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        slots = {SLOT: SlotRules((AllowRule("any"),), shadow=(AllowRule("strict", NameSelector(match_name="a.test")),))}
        made.set_rules(replace(RULES, revision=2, slots=slots))
        made.until(lambda: made.proxy.revision == 2, "rules were not loaded")
        for name in ("a.test", "b.test"):
            assert addresses(made.ask(name)) == ["10.1.1.1"]
        verdicts = [json.loads(made.reports.recv(65536))["verdict"] for _ in range(2)]
        assert verdicts == ["allowed", "audited"]
        outcomes = made.proxy.counters.outcomes
        assert (outcomes["allowed", 0, 1], outcomes["audited", 0, 1]) == (1, 1)


def test_outcomes_and_latencies_are_counted_with_few_labels() -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        made.ask("a.test")
        made.ask("no.example", "AAAA")
        made.ask("no.example", "TYPE65400")
        tables = made.proxy.counters.tables()
        assert tables["outcomes"] == [
            {"verdict": "allowed", "rcode": 0, "qtype": "A", "count": 1},
            {"verdict": "refused", "rcode": 5, "qtype": "other", "count": 1},
            {"verdict": "refused", "rcode": 5, "qtype": "AAAA", "count": 1},
        ]
        assert sum(made.proxy.counters.latency_counts) == 1


def test_every_verdict_is_reported() -> None:
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        made.ask("a.test")
        line = json.loads(made.reports.recv(65536))
        assert {key: value for key, value in line.items() if not key.endswith(("_ns", "_us", "_port"))} == {
            "verdict": "allowed",
            "endpoint": "default/client",
            "pod": "127.0.0.1",
            "query": "a.test",
            "qtypes": ["A"],
            "rcode": 0,
            "ips": ["10.1.1.1"],
            "ttl": 60,
            "rule": "allow-test",
            "slot": 1,
            "reason": "",
            "protocol": "udp",
            "server": "127.0.0.1",
            "cnames": [],
            "rrtypes": ["A"],
        }
        made.ask("b.example", tcp=True)
        line = json.loads(made.reports.recv(65536))
        assert (line["verdict"], line["query"], line["rcode"], line["protocol"]) == ("refused", "b.example", 5, "tcp")


def test_reports_that_nobody_takes_are_lost_and_counted_and_hold_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxylib.dns.report.LINES_MAX", 100)
    with fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server, bed(("127.0.0.1", server.port)) as made:
        for _ in range(600):
            made.ask("no.example")
        assert made.count("reports_lost") > 0
        assert addresses(made.ask("a.test")) == ["10.1.1.1"]


def test_the_control_socket_tells_when_rules_are_in_force() -> None:
    with bed(("127.0.0.1", 9)) as made, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
        control.settimeout(10)
        control.bind(str(made.directory / "asker.sock"))
        made.set_rules(replace(RULES, revision=9))
        control.sendto(b'{"do": "reload"}', str(made.directory / "control.sock"))
        status = json.loads(control.recv(65536))
        assert (status["revision"], status["slots"], status["problem"]) == (9, [1], "")
        assert status["counters"]["rules_loaded"] == 2
        for junk in (b"", b"[]", b"{}", b"{", b"\xff"):
            control.sendto(junk, str(made.directory / "control.sock"))
            assert json.loads(control.recv(65536))["revision"] == 9, "whatever is asked, the answer is the status"


def test_allowed_questions_are_reported_by_sample_and_refusals_always() -> None:
    with (
        fake_server(lambda query, _: [answer_a(query, "10.1.1.1")]) as server,
        bed(("127.0.0.1", server.port)) as made,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control,
    ):
        control.settimeout(10)
        control.bind(str(made.directory / "asker.sock"))
        control.sendto(b'{"do": "status", "allowed_sample": 0}', str(made.directory / "control.sock"))
        control.recv(65536)
        for name in ("a.test", "no.example"):
            made.ask(name)
        assert json.loads(made.reports.recv(65536))["query"] == "no.example"


def test_a_port_that_is_taken_is_a_problem_until_it_is_free() -> None:
    with bed(("127.0.0.1", 9)) as made:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as squatter:
            squatter.bind(("127.0.0.1", made.port + 1))
            made.set_rules(replace(RULES, revision=2, slots={**RULES.slots, 2: SlotRules()}))
            made.until(lambda: "slot 2" in made.proxy.problem, "nothing was said about it")
            assert made.proxy.status()["slots"] == [1]
        made.until(lambda: made.proxy.status()["slots"] == [1, 2], "the port is not tried again")
        made.until(lambda: made.proxy.problem == "", "the problem stays")
