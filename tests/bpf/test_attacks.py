"""What an attacker who owns a pod, or a machine beyond the node, may try against the packet programs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from bpf_redirect.abi import Conntrack, ConntrackKind, DropReason, PassReason
from bpf_redirect.conntrack import encode_key
from bpf_redirect.encode import decode_struct
from l7filters.identity import Reserved
from l7filters.model import Direction
from tests.bpf import packets as p
from tests.bpf.arena import DENY, Arena, Proxy, redirect
from tests.bpf.test_packets import ECHO, NODE, PORT, SLOT, VERSIONS, WORLD, Bench

pytestmark = pytest.mark.root

ERROR = {4: (p.ICMP, 3), 6: (p.ICMPV6, 1)}
SECOND_NS = 1_000_000_000


@pytest.fixture(scope="module")
def shared() -> Iterator[Bench]:
    with Arena("attack", event_sample_every=0) as arena:
        for name in ("a", "b", "c"):
            arena.pod(name)
        arena.world(uplink=False)
        for pod in arena.cluster.pods.values():  # no packet but ours is counted
            subprocess.run(["ip", "link", "set", str(pod.interface), "down"], check=True)
        yield Bench(arena)


@pytest.fixture
def bench(shared: Bench) -> Bench:
    """Everything is allowed and nothing known."""
    shared.arena.reset()
    shared.arena.open_all("a", "b", "c")
    shared.arena.apply()
    return shared


# ---- addresses --------------------------------------------------------------------------------------------------------


@VERSIONS
def test_a_pods_address_opens_nothing_by_another_way_than_its_own_interface(bench: Bench, version: int) -> None:
    # By a tunnel's device, say, or an interface that has no program.
    for protocol, payload in (
        (p.TCP, p.tcp(40000, PORT)),
        (p.UDP, p.udp(4000, 53)),
        (ECHO[version][0], p.icmp(ECHO[version][1])),
    ):
        packet = bench.from_a(version, protocol, payload)
        bench.expect("tg_to_endp", packet, DropReason.SPOOFED, pod="b", ingress=99)
        bench.expect("tg_from_endp", packet, PassReason.FORWARDED)
        bench.expect("tg_to_endp", packet, PassReason.FORWARDED, pod="b", ingress=bench.arena.ifindexes["a"])


@VERSIONS
def test_a_forged_syn_does_not_turn_a_pods_connection_round(bench: Bench, version: int) -> None:
    bench.expect("tg_from_endp", bench.from_a(version, p.TCP, p.tcp(40000, PORT)), PassReason.FORWARDED)
    forged = bench.from_b(version, p.TCP, p.tcp(PORT, 40000))
    bench.expect("tg_to_endp", forged, DropReason.SPOOFED, pod="a", ingress=99)
    (entry,) = bench.arena.datapath.conntrack_entries()
    assert str(entry.source) == bench.address("a", version)


@pytest.mark.parametrize("program", ["tg_from_endp", "tg_to_endp"])
@pytest.mark.parametrize("mapped", ["source", "destination", "both"])
def test_ipv4_mapped_addresses_have_no_business_in_an_ipv6_header(bench: Bench, mapped: str, program: str) -> None:
    source = "::ffff:" + bench.address("a", 4) if mapped != "destination" else bench.address("a", 6)
    destination = "::ffff:" + bench.address("b", 4) if mapped != "source" else bench.address("b", 6)
    bench.expect(program, p.ipv6(source, destination, p.TCP, p.tcp(40000, PORT)), DropReason.LOOPBACK, ingress=1)
    assert not list(bench.arena.datapath.conntrack_entries())


@pytest.mark.parametrize("kind", [134, 137])
def test_a_pod_neither_advertises_a_router_nor_redirects(bench: Bench, kind: int) -> None:
    packet = p.ipv6("fe80::2", "ff02::1", p.ICMPV6, p.icmp(kind, payload=bytes(32)), hops=255)
    bench.expect("tg_from_endp", packet, DropReason.ICMP_REDIRECT)
    bench.expect("tg_to_endp", packet, PassReason.LINK)


@pytest.mark.parametrize("destination", ["255.255.255.255", "224.0.0.1", "239.1.2.3", "ff02::1", "ff05::2"])
def test_what_is_sent_to_many_is_sent_to_the_host(bench: Bench, destination: str) -> None:
    version = 6 if ":" in destination else 4
    packet = p.ip(bench.address("a", version), destination, p.UDP, p.udp(4000, 5353))
    bench.expect("tg_from_endp", packet, PassReason.FORWARDED)
    bench.arena.rule("a", Direction.EGRESS, DENY, peer=Reserved.HOST)
    bench.arena.apply()
    bench.expect("tg_from_endp", packet, DropReason.POLICY_DENIED)


# ---- fragments --------------------------------------------------------------------------------------------------------


def test_no_fragment_hides_in_a_fragment(bench: Bench) -> None:
    inner = p.fragment_header(p.TCP, 0, False, 2) + p.tcp(40000, PORT)
    for offset in (0, 8):
        packet = p.ipv6(
            bench.address("a", 6), bench.address("b", 6), p.FRAGMENT, p.fragment_header(p.FRAGMENT, offset, True, 1) + inner
        )
        bench.expect("tg_from_endp", packet, DropReason.FRAGMENT_UNKNOWN if offset else DropReason.FRAGMENT_BAD)


@VERSIONS
def test_fragments_of_a_denied_datagram_stay_out_whatever_their_order(bench: Bench, version: int) -> None:
    bench.arena.rule("b", Direction.INGRESS, DENY, protocol=p.UDP, port=53)
    bench.arena.apply()
    a, b = bench.address("a", version), bench.address("b", version)
    datagram = p.udp(4000, 53, payload=bytes(64))

    def fragment(offset: int, more: bool, payload: bytes) -> bytes:
        if version == 4:
            return p.ipv4(a, b, p.UDP, payload, fragment=offset | (p.MORE_FRAGMENTS if more else 0), number=900)
        return p.ipv6(a, b, p.FRAGMENT, p.fragment_header(p.UDP, offset, more, 900) + payload)

    bench.expect("tg_from_endp", fragment(4, False, datagram[32:]), DropReason.FRAGMENT_UNKNOWN)
    bench.expect("tg_from_endp", fragment(0, True, datagram[:32]), DropReason.POLICY_DENIED)
    bench.expect("tg_from_endp", fragment(4, False, datagram[32:]), DropReason.POLICY_DENIED)
    # A first fragment to an open port before: the denied one is judged by its own ports all the same.
    bench.expect("tg_from_endp", fragment(0, True, p.udp(4000, 54, payload=bytes(24))), PassReason.FORWARDED)
    bench.expect("tg_from_endp", fragment(0, True, datagram[:32]), DropReason.POLICY_DENIED)


# ---- ICMP errors ------------------------------------------------------------------------------------------------------


@VERSIONS
def test_a_pod_complains_only_of_what_was_sent_to_itself(bench: Bench, version: int) -> None:
    arena = bench.arena
    arena.rule("c", Direction.EGRESS, DENY)
    arena.apply()
    protocol, kind = ERROR[version]
    question = bench.from_a(version, p.UDP, p.udp(4000, 53))
    bench.expect("tg_from_endp", question, PassReason.FORWARDED)
    forged = p.ip(bench.address("c", version), bench.address("a", version), protocol, p.icmp(kind, 3, payload=question[14:]))
    bench.expect("tg_from_endp", forged, DropReason.POLICY_DENIED, pod="c")
    # A router on the way may.
    router = p.ip(WORLD[version], bench.address("a", version), protocol, p.icmp(kind, 3, payload=question[14:]))
    bench.expect("tg_from_net", router, PassReason.RELATED)


# ---- connections ------------------------------------------------------------------------------------------------------


def rewrite(bench: Bench, **fields: int) -> None:
    """Change the one conntrack entry that there is."""
    (entry,) = bench.arena.datapath.conntrack_entries()
    conntrack = bench.arena.datapath.maps["tg_conntrack"]
    raw = conntrack.lookup(encode_key(entry))
    assert raw is not None
    value = decode_struct(Conntrack, raw)
    for name, number in fields.items():
        setattr(value, name, number)
    conntrack.update(encode_key(entry), bytes(value))


@VERSIONS
def test_a_flow_that_another_processor_saw_a_moment_later_is_no_stranger(bench: Bench, version: int) -> None:
    bench.arena.rule("a", Direction.INGRESS, DENY)
    bench.arena.apply()
    bench.expect("tg_from_endp", bench.from_a(version, p.TCP, p.tcp(40000, PORT)), PassReason.FORWARDED)
    (entry,) = bench.arena.datapath.conntrack_entries()
    rewrite(bench, last_seen_ns=entry.last_seen_ns + 3600 * SECOND_NS)
    bench.expect("tg_from_endp", bench.from_b(version, p.TCP, p.tcp(PORT, 40000, p.ACK)), PassReason.FORWARDED, pod="b")


@VERSIONS
def test_a_reset_that_the_proxy_does_not_believe_frees_no_flow_of_its_policy(bench: Bench, version: int) -> None:
    arena = bench.arena
    Proxy(arena, SLOT)
    arena.rule("b", Direction.INGRESS, redirect(SLOT), protocol=p.TCP, port=PORT)
    arena.apply()
    bench.expect("tg_from_endp", bench.from_a(version, p.TCP, p.tcp(40000, PORT)), DropReason.ASSIGN_FAILED)
    bench.expect("tg_from_endp", bench.from_a(version, p.TCP, p.tcp(40000, PORT, p.RST)), DropReason.ASSIGN_FAILED)
    (entry,) = arena.datapath.conntrack_entries()
    rewrite(bench, last_seen_ns=entry.last_seen_ns - 60 * SECOND_NS)
    arena.rule("b", Direction.INGRESS, DENY, protocol=p.TCP, port=PORT)
    arena.apply()
    # Known, so denied by policy; CT_MISSING would say that it was forgotten.
    bench.expect("tg_from_endp", bench.from_a(version, p.TCP, p.tcp(40000, PORT, p.ACK)), DropReason.POLICY_DENIED)


@VERSIONS
def test_the_hosts_answer_in_an_old_connection_makes_it_none_of_the_hosts_own(bench: Bench, version: int) -> None:
    arena = bench.arena
    to_host = bench.from_a(version, p.TCP, p.tcp(40000, PORT), NODE[version])
    bench.expect("tg_from_endp", to_host, PassReason.FORWARDED)
    (entry,) = arena.datapath.conntrack_entries()
    rewrite(bench, last_seen_ns=entry.last_seen_ns - 7 * 3600 * SECOND_NS)
    answer = p.ip(NODE[version], bench.address("a", version), p.TCP, p.tcp(PORT, 40000, p.ACK))
    bench.expect("tg_to_endp", answer, PassReason.FROM_HOST)
    assert [each.kind for each in arena.datapath.conntrack_entries()] == [ConntrackKind.DIRECT]
    arena.rule("a", Direction.EGRESS, DENY)
    arena.apply()
    bench.expect("tg_from_endp", bench.from_a(version, p.TCP, p.tcp(40000, PORT, p.ACK), NODE[version]), DropReason.POLICY_DENIED)


@VERSIONS
def test_a_change_that_was_cut_short_before_its_epoch_is_felt_after_the_next_start(bench: Bench, version: int) -> None:
    arena = bench.arena
    flow = bench.from_a(version, p.UDP, p.udp(4000, 53))
    bench.expect("tg_from_endp", flow, PassReason.FORWARDED)
    config = arena.datapath.maps["tg_config"]
    before = config.lookup(bytes(4))
    assert before is not None
    arena.rule("b", Direction.INGRESS, DENY, protocol=p.UDP, port=53)
    arena.apply()
    config.update(bytes(4), before)  # every write but the last
    arena.reopen()
    arena.apply()
    bench.expect("tg_from_endp", flow, DropReason.POLICY_DENIED)
