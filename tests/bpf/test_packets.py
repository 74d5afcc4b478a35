"""Packet in -> action, mark and counted reason, by BPF_PROG_TEST_RUN.

The kernel refuses socket assignment in a test run, so a redirect that found its listener ends as ASSIGN_FAILED here;
test_real_packets.py shows the hand-over.
"""

from __future__ import annotations

import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf_redirect import abi, bpf
from bpf_redirect.abi import (
    IPV6_EXTENSIONS_MAX,
    MARK_FROM_PROXY,
    MARK_MASK,
    MARK_REPLY,
    MARK_TO_PROXY,
    ConntrackKind,
    DropReason,
    Hook,
    PassReason,
    Reason,
)
from bpf_redirect.offload import OffloadedPeer, encode_peer, read_offloaded
from l7filters.identity import IdentityNumber
from l7filters.mapstate import MapVerdict, PolicyValue
from l7filters.model import Direction, Offload
from tests.bpf import packets as p
from tests.bpf.arena import ALLOW, DENY, PROXY_PORT_MIN, REMOTE_IDENTITY, Arena, Proxy, redirect
from tests.support.netns import NODE_V4, NODE_V6

pytestmark = pytest.mark.root

VERSIONS = pytest.mark.parametrize("version", [4, 6])
HOOKS = {
    "tg_from_endp": Hook.FROM_ENDPOINT,
    "tg_to_endp": Hook.TO_ENDPOINT,
    "tg_from_net": Hook.FROM_NETDEV,
    "tg_from_hair": Hook.FROM_HAIRPIN,
}
WORLD = {4: "203.0.113.7", 6: "2001:db8:113::7"}
NODE = {4: NODE_V4, 6: NODE_V6}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
UNSPECIFIED = {4: "0.0.0.0", 6: "::"}
FORGED = {4: "10.0.99.99", 6: "fd00:10::9999"}
ECHO = {4: (p.ICMP, 8, 0), 6: (p.ICMPV6, 128, 129)}
PORT = 8080
SLOT = 5


class Action(IntEnum):
    """What a tc program returns."""

    NEXT = 0xFFFFFFFF
    OK = 0
    SHOT = 2
    REDIRECT = 7


@dataclass
class Bench:
    """Runs programs on packets between pods a and b and tells what was counted."""

    arena: Arena
    programs: dict[str, int] = field(default_factory=dict)
    data: bytes = b""
    mark: int = 0

    def address(self, name: str, version: int) -> str:
        return self.arena.cluster.pods[name].address(version)

    def run(
        self, program: str, packet: bytes, *, pod: str = "a", ingress: int = 0, mark: int = 0
    ) -> tuple[Action, dict[Reason, int]]:
        if program not in self.programs:
            root = self.arena.datapath.settings.pin_root
            self.programs[program] = bpf.get(f"{root}/v{abi.ABI_VERSION}/programs/{program}")
        before = self.arena.counted()
        context = p.skb_context(ifindex=self.arena.ifindexes[pod], ingress_ifindex=ingress, mark=mark)
        result = bpf.program_run(self.programs[program], packet, context)
        self.data, self.mark = result.data, p.context_mark(result.context)
        after = self.arena.counted()
        counted = {
            reason: count - before.get((reason, hook), 0) for (reason, hook), count in after.items() if hook is HOOKS[program]
        }
        return Action(result.returned), {reason: count for reason, count in counted.items() if count}

    def expect(self, program: str, packet: bytes, reason: Reason, **context: object) -> None:
        """One packet, one reason, and the action that goes with it."""
        action, counted = self.run(program, packet, **context)  # type: ignore[arg-type]
        assert counted == {reason: 1}
        if isinstance(reason, DropReason):
            assert action is Action.SHOT
        elif reason is PassReason.HAIRPINNED:
            assert action is Action.REDIRECT
        else:
            assert action in (Action.NEXT, Action.OK)

    def from_a(self, version: int, protocol: int, payload: bytes, destination: str | None = None) -> bytes:
        """A packet from a to b (or to ``destination``)."""
        return p.ip(self.address("a", version), destination or self.address("b", version), protocol, payload)

    def from_b(self, version: int, protocol: int, payload: bytes) -> bytes:
        """A packet from b to a."""
        return p.ip(self.address("b", version), self.address("a", version), protocol, payload)


@pytest.fixture(scope="module")
def shared() -> Iterator[Bench]:
    with Arena("run", event_sample_every=0) as arena:
        arena.pod("a")
        arena.pod("b")
        arena.world(uplink=False)
        for pod in arena.cluster.pods.values():  # no packet but ours is counted
            subprocess.run(["ip", "link", "set", str(pod.interface), "down"], check=True)
        yield Bench(arena)


@pytest.fixture
def bench(shared: Bench) -> Bench:
    shared.arena.reset()
    shared.arena.open_all("a", "b")
    shared.arena.apply()
    return shared


# ---- parsing: what passes unjudged and what can't be judged -------------------------------------------------------------


def test_arp_passes_even_for_an_endpoint_that_is_not_ready(bench: Bench) -> None:
    bench.arena.closed.update(("a", "b"))
    bench.arena.apply()
    for program in ("tg_from_endp", "tg_to_endp"):
        bench.expect(program, p.frame(bytes(28), p.ETH_ARP), PassReason.LINK)


@pytest.mark.parametrize("kind", [133, 135, 136])
def test_neighbour_discovery_passes_on_the_link_only(bench: Bench, kind: int) -> None:
    bench.arena.closed.add("a")
    bench.arena.apply()
    on_link = p.ipv6("fe80::2", "ff02::1:ff00:1", p.ICMPV6, p.icmp(kind, payload=bytes(16)), hops=255)
    bench.expect("tg_from_endp", on_link, PassReason.LINK)
    forwarded = p.ipv6("fe80::2", "ff02::1:ff00:1", p.ICMPV6, p.icmp(kind, payload=bytes(16)), hops=254)
    bench.expect("tg_from_endp", forwarded, DropReason.NOT_READY)
    to_world = p.ipv6(bench.address("a", 6), WORLD[6], p.ICMPV6, p.icmp(kind, payload=bytes(16)), hops=255)
    bench.expect("tg_from_endp", to_world, DropReason.NOT_READY)


@pytest.mark.parametrize("kind", [130, 131, 132, 143])
def test_multicast_listener_discovery_passes_behind_its_router_alert(bench: Bench, kind: int) -> None:
    bench.arena.closed.add("a")
    bench.arena.apply()
    packet = p.ipv6("fe80::2", "ff02::16", p.HOP_BY_HOP, p.extension(p.ICMPV6, b"\x05\x02\0\0\x01\0") + p.icmp(kind), hops=1)
    bench.expect("tg_from_endp", packet, PassReason.LINK)
    elsewhere = p.ipv6("fe80::2", WORLD[6], p.HOP_BY_HOP, p.extension(p.ICMPV6) + p.icmp(kind), hops=1)
    bench.expect("tg_from_endp", elsewhere, DropReason.NOT_READY)


A4, B4, A6, B6 = "10.0.0.4", "10.0.0.5", "fd00:10::2", "fd00:10::3"
SEGMENT = p.tcp(40000, PORT)
ENDLESS_OPTIONS = [(p.DEST_OPTS, p.extension(p.DEST_OPTS))] * IPV6_EXTENSIONS_MAX


def chain(count: int) -> bytes:
    """``count`` destination options headers before a TCP SYN."""
    return p.extension(p.DEST_OPTS) * (count - 1) + p.extension(p.TCP) + SEGMENT


MALFORMED: dict[str, tuple[bytes, DropReason]] = {
    "vlan tag": (p.frame(b"\0\x05\x08\0" + bytes(40), p.ETH_VLAN), DropReason.VLAN_TAGGED),
    "QinQ tag": (p.frame(b"\0\x05\x08\0" + bytes(40), p.ETH_QINQ), DropReason.VLAN_TAGGED),
    "unknown ethertype": (p.frame(bytes(40), 0x88CC), DropReason.UNKNOWN_ETHERTYPE),
    "IPv4 that says 6": (p.ipv4(A4, B4, p.TCP, SEGMENT, version=6), DropReason.BAD_HEADER),
    "IPv6 that says 4": (p.ipv6(A6, B6, p.TCP, SEGMENT, version=4), DropReason.BAD_HEADER),
    "IPv4 header of 16 bytes": (p.ipv4(A4, B4, p.TCP, SEGMENT, words=4), DropReason.BAD_HEADER),
    "IPv4 longer than the frame": (p.ipv4(A4, B4, p.TCP, SEGMENT, total=2000), DropReason.BAD_LENGTH),
    "IPv4 shorter than its header": (p.ipv4(A4, B4, p.TCP, SEGMENT, total=19), DropReason.BAD_LENGTH),
    "IPv4 of length 0": (p.ipv4(A4, B4, p.TCP, SEGMENT, total=0), DropReason.BAD_LENGTH),
    "IPv4 header longer than the packet": (p.ipv4(A4, B4, p.TCP, SEGMENT, words=15), DropReason.BAD_LENGTH),
    "IPv6 longer than the frame": (p.ipv6(A6, B6, p.TCP, SEGMENT, length=2000), DropReason.BAD_LENGTH),
    "TCP cut by its length": (p.ipv4(A4, B4, p.TCP, SEGMENT, total=39), DropReason.TRUNCATED),
    "TCP cut": (p.ipv6(A6, B6, p.TCP, SEGMENT[:19]), DropReason.TRUNCATED),
    "TCP header of 16 bytes": (p.ipv4(A4, B4, p.TCP, p.tcp(1, PORT, words=4)), DropReason.BAD_HEADER),
    "TCP header beyond the packet": (p.ipv4(A4, B4, p.TCP, p.tcp(1, PORT, words=15)), DropReason.BAD_LENGTH),
    "SYN and FIN": (p.ipv4(A4, B4, p.TCP, p.tcp(1, PORT, p.SYN | p.FIN)), DropReason.BAD_TCP_FLAGS),
    "SYN and RST": (p.ipv6(A6, B6, p.TCP, p.tcp(1, PORT, p.SYN | p.RST)), DropReason.BAD_TCP_FLAGS),
    "UDP cut": (p.ipv4(A4, B4, p.UDP, p.udp(1, 53)[:7]), DropReason.TRUNCATED),
    "UDP of length 7": (p.ipv4(A4, B4, p.UDP, p.udp(1, 53, length=7)), DropReason.BAD_LENGTH),
    "UDP longer than its packet": (p.ipv6(A6, B6, p.UDP, p.udp(1, 53, length=9)), DropReason.BAD_LENGTH),
    "SCTP cut": (p.ipv4(A4, B4, p.SCTP, p.sctp(1, 2)[:11]), DropReason.TRUNCATED),
    "ICMP cut": (p.ipv4(A4, B4, p.ICMP, p.icmp(8)[:7]), DropReason.TRUNCATED),
    "ICMPv6 cut": (p.ipv6(A6, B6, p.ICMPV6, p.icmp(128)[:7]), DropReason.TRUNCATED),
    "loose source route": (p.ipv4(A4, B4, p.TCP, SEGMENT, options=b"\x83\x07\x04\x0a\0\0\x01\0"), DropReason.SOURCE_ROUTED),
    "strict source route behind no-ops": (
        p.ipv4(A4, B4, p.TCP, SEGMENT, options=b"\x01\x01\x89\x07\x04\x0a\0\0\x01\0\0\0"),
        DropReason.SOURCE_ROUTED,
    ),
    "option of length 0": (p.ipv4(A4, B4, p.TCP, SEGMENT, options=b"\x07\x00\0\0"), DropReason.SOURCE_ROUTED),
    "routing header of type 0": (p.ipv6(A6, B6, p.ROUTING, p.routing(p.TCP, 0, 0) + SEGMENT), DropReason.SOURCE_ROUTED),
    "routing header with a hop to go": (p.ipv6(A6, B6, p.ROUTING, p.routing(p.TCP, 4, 1) + SEGMENT), DropReason.SOURCE_ROUTED),
    "extension header cut": (p.ipv6(A6, B6, p.DEST_OPTS, p.extension(p.TCP)[:7]), DropReason.TRUNCATED),
    "extension header beyond the packet": (p.ipv6(A6, B6, p.DEST_OPTS, b"\x06\x20" + bytes(30)), DropReason.BAD_LENGTH),
    "one extension header too many": (p.ipv6(A6, B6, p.DEST_OPTS, chain(IPV6_EXTENSIONS_MAX + 1)), DropReason.EXTENSION_LIMIT),
    "first fragment without its TCP header": (
        p.ipv4(A4, B4, p.TCP, SEGMENT[:16], fragment=p.MORE_FRAGMENTS),
        DropReason.FRAGMENT_BAD,
    ),
    "fragment over the TCP flags": (p.ipv4(A4, B4, p.TCP, bytes(16), fragment=1), DropReason.FRAGMENT_BAD),
    "later fragment of nothing": (p.ipv4(A4, B4, p.UDP, bytes(16), fragment=100), DropReason.FRAGMENT_UNKNOWN),
    "later IPv6 fragment of nothing": (
        p.ipv6(A6, B6, p.FRAGMENT, p.fragment_header(p.UDP, 100, False) + bytes(16)),
        DropReason.FRAGMENT_UNKNOWN,
    ),
    "first IPv6 fragment that hides its header": (
        p.ipv6(A6, B6, p.FRAGMENT, p.fragment_header(p.TCP, 0, True) + SEGMENT[:8]),
        DropReason.FRAGMENT_BAD,
    ),
}


def test_the_addresses_in_the_tables_are_the_pods(bench: Bench) -> None:
    assert tuple(bench.address(name, version) for version in (4, 6) for name in ("a", "b")) == (A4, B4, A6, B6)


@pytest.mark.parametrize("program", ["tg_from_endp", "tg_to_endp"])
@pytest.mark.parametrize("name", MALFORMED)
def test_what_can_not_be_judged_is_dropped_with_its_reason(bench: Bench, name: str, program: str) -> None:
    packet, reason = MALFORMED[name]
    bench.expect(program, packet, reason)


@pytest.mark.parametrize("name", MALFORMED)
def test_an_uplink_leaves_what_it_can_not_read_to_the_stack(bench: Bench, name: str) -> None:
    bench.expect("tg_from_net", MALFORMED[name][0], PassReason.UNTOUCHED)


WELL_FORMED: dict[str, bytes] = {
    "TCP": p.ipv4(A4, B4, p.TCP, SEGMENT),
    "TCP over IPv6": p.ipv6(A6, B6, p.TCP, SEGMENT),
    "UDP": p.ipv4(A4, B4, p.UDP, p.udp(1, 53, b"x")),
    "UDP of length 0 (jumbo)": p.ipv6(A6, B6, p.UDP, p.udp(1, 53, length=0)),
    "SCTP": p.ipv6(A6, B6, p.SCTP, p.sctp(1, 2)),
    "GRE": p.ipv4(A4, B4, p.GRE, bytes(8)),
    "nothing within": p.ipv6(A6, B6, 59, b""),
    "harmless options": p.ipv4(A4, B4, p.TCP, SEGMENT, options=b"\x07\x07\x04\0\0\0\0\0"),
    "padding after the packet": p.ipv4(A4, B4, p.UDP, p.udp(1, 53)) + bytes(18),
    "as many extension headers as may be": p.ipv6(A6, B6, p.DEST_OPTS, chain(IPV6_EXTENSIONS_MAX)),
    "authentication header": p.ipv6(A6, B6, p.AH, p.authentication(p.TCP) + SEGMENT),
    "routing header that has arrived": p.ipv6(A6, B6, p.ROUTING, p.routing(p.TCP, 4, 0) + SEGMENT),
    "atomic fragment": p.ipv6(A6, B6, p.FRAGMENT, p.fragment_header(p.TCP, 0, False) + SEGMENT),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_well_formed_packet_is_forwarded_where_nothing_denies_it(bench: Bench, name: str) -> None:
    bench.expect("tg_from_endp", WELL_FORMED[name], PassReason.FORWARDED)


@pytest.mark.parametrize("name", WELL_FORMED)
def test_well_formed_packet_is_denied_where_nothing_allows_it(bench: Bench, name: str) -> None:
    bench.arena.policy.clear()
    bench.arena.apply()
    bench.expect("tg_from_endp", WELL_FORMED[name], DropReason.POLICY_DENIED)


@VERSIONS
def test_later_fragment_follows_the_verdict_of_its_first(bench: Bench, version: int) -> None:
    bench.arena.policy.clear()
    bench.arena.open_all("a")
    bench.arena.rule("b", Direction.INGRESS, ALLOW, protocol=p.UDP, port=PORT)
    bench.arena.apply()
    a, b = bench.address("a", version), bench.address("b", version)

    def fragments(port: int, number: int) -> tuple[bytes, bytes]:
        datagram = p.udp(4000, port, bytes(100), length=2000)
        if version == 4:
            first = p.ipv4(a, b, p.UDP, datagram, fragment=p.MORE_FRAGMENTS, number=number)
            return first, p.ipv4(a, b, p.UDP, bytes(40), fragment=20, number=number)
        head = p.ipv6(a, b, p.FRAGMENT, p.fragment_header(p.UDP, 0, True, number) + datagram)
        return head, p.ipv6(a, b, p.FRAGMENT, p.fragment_header(p.UDP, 20, False, number) + bytes(40))

    first, later = fragments(PORT, 501 + version)
    bench.expect("tg_from_endp", later, DropReason.FRAGMENT_UNKNOWN)
    bench.expect("tg_from_endp", first, PassReason.FORWARDED)
    bench.expect("tg_from_endp", later, PassReason.FORWARDED)
    first, later = fragments(PORT + 1, 601 + version)
    bench.expect("tg_from_endp", first, DropReason.POLICY_DENIED)
    bench.expect("tg_from_endp", later, DropReason.POLICY_DENIED)


@VERSIONS
def test_fragments_of_a_redirected_segment_are_dropped(bench: Bench, version: int) -> None:
    proxy = Proxy(bench.arena, SLOT)
    bench.arena.rule("b", Direction.INGRESS, redirect(SLOT), protocol=p.TCP, port=PORT)
    bench.arena.apply()
    a, b = bench.address("a", version), bench.address("b", version)
    segment = p.tcp(4000, PORT, payload=bytes(60))
    if version == 4:
        first = p.ipv4(a, b, p.TCP, segment, fragment=p.MORE_FRAGMENTS, number=700)
        later = p.ipv4(a, b, p.TCP, bytes(40), fragment=10, number=700)
    else:
        first = p.ipv6(a, b, p.FRAGMENT, p.fragment_header(p.TCP, 0, True, 700) + segment)
        later = p.ipv6(a, b, p.FRAGMENT, p.fragment_header(p.TCP, 10, False, 700) + bytes(40))
    bench.expect("tg_from_endp", first, DropReason.FRAGMENT_REDIRECT)
    bench.expect("tg_from_endp", later, DropReason.CT_MISSING)
    assert proxy.port == PROXY_PORT_MIN + SLOT


# ---- who may send what ----------------------------------------------------------------------------------------------


@VERSIONS
def test_only_the_endpoints_own_source_passes(bench: Bench, version: int) -> None:
    for source in (FORGED[version], bench.address("b", version), NODE[version], WORLD[version], LOOPBACK[version]):
        packet = p.ip(source, bench.address("b", version), p.UDP, p.udp(1, 53))
        bench.expect("tg_from_endp", packet, DropReason.SPOOFED)


@VERSIONS
def test_loopback_is_no_destination_of_a_pod(bench: Bench, version: int) -> None:
    for destination in (LOOPBACK[version], UNSPECIFIED[version]):
        bench.expect("tg_from_endp", bench.from_a(version, p.TCP, SEGMENT, destination), DropReason.LOOPBACK)


@VERSIONS
@pytest.mark.parametrize(("port", "reason"), [(0, None), (2047, DropReason.PROXY_PORT), (2048, None), (-1, None)])
def test_proxy_ports_of_the_node_are_out_of_reach(bench: Bench, version: int, port: int, reason: DropReason | None) -> None:
    packet = bench.from_a(version, p.TCP, p.tcp(40000, PROXY_PORT_MIN + port), NODE[version])
    bench.expect("tg_from_endp", packet, reason or (DropReason.PROXY_PORT if port == 0 else PassReason.FORWARDED))
    elsewhere = bench.from_a(version, p.TCP, p.tcp(40000, PROXY_PORT_MIN + port))
    bench.expect("tg_from_endp", elsewhere, PassReason.FORWARDED)


def test_pod_may_not_send_icmp_redirects(bench: Bench) -> None:
    bench.expect("tg_from_endp", bench.from_a(4, p.ICMP, p.icmp(5, 1, payload=bytes(28))), DropReason.ICMP_REDIRECT)


@VERSIONS
@pytest.mark.parametrize("program", ["tg_from_endp", "tg_to_endp"])
def test_endpoint_that_is_not_ready_is_closed(bench: Bench, version: int, program: str) -> None:
    bench.arena.closed.add("a")
    bench.arena.apply()
    bench.expect(program, bench.from_a(version, p.TCP, SEGMENT), DropReason.NOT_READY)
    bench.expect(program, bench.from_a(version, p.TCP, SEGMENT), DropReason.NOT_READY, mark=MARK_FROM_PROXY)


@VERSIONS
def test_without_configuration_nothing_passes(bench: Bench, version: int) -> None:
    config = bench.arena.datapath.maps["tg_config"]
    written = config.lookup(bytes(4))
    assert written is not None
    config.update(bytes(4), bytes(len(written)))
    try:
        for program in ("tg_from_endp", "tg_to_endp"):
            bench.expect(program, bench.from_a(version, p.TCP, SEGMENT), DropReason.NOT_CONFIGURED)
        bench.expect("tg_from_hair", bench.from_a(version, p.TCP, SEGMENT), DropReason.HAIRPIN_STRAY)
    finally:
        config.update(bytes(4), written)


@VERSIONS
def test_own_answers_and_the_proxys_packets_pass_on_the_way_to_a_pod(bench: Bench, version: int) -> None:
    bench.arena.policy.clear()
    bench.arena.apply()
    packet = bench.from_b(version, p.TCP, p.tcp(PORT, 40000, p.RST))
    bench.expect("tg_to_endp", packet, PassReason.OWN_REPLY, mark=MARK_REPLY, ingress=1)
    bench.expect("tg_to_endp", packet, PassReason.FROM_PROXY, mark=MARK_FROM_PROXY)
    bench.expect("tg_to_endp", packet, PassReason.FROM_HOST)


@VERSIONS
def test_the_proxys_mark_means_nothing_on_a_packet_from_elsewhere(bench: Bench, version: int) -> None:
    bench.arena.policy.clear()
    bench.arena.apply()
    packet = p.ip(WORLD[version], bench.address("a", version), p.TCP, p.tcp(40000, PORT))
    bench.expect("tg_to_endp", packet, DropReason.POLICY_DENIED, mark=MARK_FROM_PROXY, ingress=1)


# ---- policy ---------------------------------------------------------------------------------------------------------


@VERSIONS
def test_named_peer_comes_before_any_and_longer_prefix_before_shorter(bench: Bench, version: int) -> None:
    arena = bench.arena
    arena.policy.clear()
    arena.open_all("a")
    arena.rule("b", Direction.EGRESS, ALLOW)
    arena.rule("b", Direction.INGRESS, ALLOW)
    arena.rule("b", Direction.INGRESS, DENY, peer="a", protocol=p.TCP)
    arena.rule("b", Direction.INGRESS, ALLOW, peer="a", protocol=p.TCP, port=PORT)
    arena.apply()
    bench.expect("tg_from_endp", bench.from_a(version, p.TCP, p.tcp(4000, PORT)), PassReason.FORWARDED)
    bench.expect("tg_from_endp", bench.from_a(version, p.TCP, p.tcp(4000, PORT + 1)), DropReason.POLICY_DENIED)
    bench.expect("tg_from_endp", bench.from_a(version, p.UDP, p.udp(4000, PORT + 1)), PassReason.FORWARDED)


@VERSIONS
def test_echo_is_judged_by_type_and_its_reply_is_known(bench: Bench, version: int) -> None:
    arena = bench.arena
    protocol, request, reply = ECHO[version]
    arena.policy.clear()
    arena.rule("a", Direction.EGRESS, ALLOW, protocol=protocol, port=request)
    arena.rule("b", Direction.INGRESS, ALLOW, protocol=protocol, port=request)
    arena.apply()
    bench.expect("tg_from_endp", bench.from_b(version, protocol, p.icmp(reply)), DropReason.POLICY_DENIED, pod="b")
    bench.expect("tg_from_endp", bench.from_a(version, protocol, p.icmp(request)), PassReason.FORWARDED)
    bench.expect("tg_from_endp", bench.from_b(version, protocol, p.icmp(reply)), PassReason.FORWARDED, pod="b")
    bench.expect("tg_from_endp", bench.from_b(version, protocol, p.icmp(reply, number=78)), DropReason.POLICY_DENIED, pod="b")


@VERSIONS
def test_icmp_error_passes_only_for_a_known_flow_and_to_its_sender(bench: Bench, version: int) -> None:
    arena = bench.arena
    arena.policy.clear()
    arena.rule("a", Direction.EGRESS, ALLOW, protocol=p.UDP)
    arena.rule("b", Direction.INGRESS, ALLOW, protocol=p.UDP)
    arena.apply()
    question = bench.from_a(version, p.UDP, p.udp(4000, 53))
    protocol, kind, ip_bytes = (p.ICMP, 3, 20) if version == 4 else (p.ICMPV6, 1, 40)
    error = bench.from_b(version, protocol, p.icmp(kind, 3, payload=question[14:]))
    bench.expect("tg_from_endp", error, DropReason.POLICY_DENIED, pod="b")
    bench.expect("tg_from_endp", question, PassReason.FORWARDED)
    bench.expect("tg_from_endp", error, PassReason.RELATED, pod="b")
    other = bench.from_a(version, p.UDP, p.udp(4000, 54))
    bench.expect(
        "tg_from_endp", bench.from_b(version, protocol, p.icmp(kind, 3, payload=other[14:])), DropReason.POLICY_DENIED, pod="b"
    )
    cut = bench.from_b(version, protocol, p.icmp(kind, 3, payload=question[14 : 14 + ip_bytes + 3]))
    bench.expect("tg_from_endp", cut, DropReason.POLICY_DENIED, pod="b")
    turned = bench.from_b(version, p.UDP, p.udp(53, 4000))
    bench.expect(
        "tg_from_endp", bench.from_b(version, protocol, p.icmp(kind, 3, payload=turned[14:])), DropReason.POLICY_DENIED, pod="b"
    )


@VERSIONS
def test_audited_flow_is_forwarded_and_counted_once(bench: Bench, version: int) -> None:
    bench.arena.rule("b", Direction.INGRESS, PolicyValue(MapVerdict.ALLOW, would_deny=True), protocol=p.TCP, port=PORT)
    bench.arena.apply()
    packet = bench.from_a(version, p.TCP, SEGMENT)
    action, counted = bench.run("tg_from_endp", packet)
    assert (action, counted) == (Action.NEXT, {PassReason.FORWARDED: 1, PassReason.WOULD_DENY: 1})
    bench.expect("tg_from_endp", packet, PassReason.FORWARDED)


@VERSIONS
@pytest.mark.parametrize("protocol", [p.SCTP, p.GRE])
def test_redirect_of_what_is_neither_tcp_nor_udp_is_closed(bench: Bench, version: int, protocol: int) -> None:
    Proxy(bench.arena, SLOT)
    bench.arena.rule("b", Direction.INGRESS, redirect(SLOT))
    bench.arena.apply()
    packet = bench.from_a(version, protocol, p.udp(1, 2, bytes(8)))
    bench.expect("tg_from_endp", packet, DropReason.REDIRECT_PROTOCOL)


@VERSIONS
def test_redirect_needs_a_ready_slot_then_a_listener_then_the_kernels_consent(bench: Bench, version: int) -> None:
    arena = bench.arena
    arena.rule("b", Direction.INGRESS, redirect(SLOT), protocol=p.TCP, port=PORT)
    arena.apply()
    packet = bench.from_a(version, p.TCP, SEGMENT)
    bench.expect("tg_from_endp", packet, DropReason.SLOT_NOT_READY)
    arena.slots[SLOT] = PROXY_PORT_MIN + SLOT
    arena.apply()
    bench.expect("tg_from_endp", packet, DropReason.NO_LISTENER)
    Proxy(arena, SLOT)
    bench.expect("tg_from_endp", packet, DropReason.ASSIGN_FAILED)
    assert bench.mark & MARK_MASK != MARK_TO_PROXY, "a packet that was not handed over is not marked either"


@VERSIONS
def test_an_offloaded_peer_is_dropped_where_it_would_be_redirected_until_its_time_is_up(bench: Bench, version: int) -> None:
    arena = bench.arena
    Proxy(arena, SLOT)
    arena.rule("b", Direction.INGRESS, redirect(SLOT), protocol=p.TCP, port=PORT)
    arena.rule("b", Direction.INGRESS, ALLOW, protocol=p.TCP, port=PORT + 1)
    arena.offload[SLOT] = Offload(5, 60)
    arena.apply()
    offload = arena.datapath.maps["tg_offload"]

    def offload_until(until_ns: int, slot: int = SLOT) -> None:
        source = ip_address(bench.address("a", version))
        offload.update(*encode_peer(OffloadedPeer(source=source, workload=0, slot=slot, until_ns=until_ns, packets=0)))

    segment, other = bench.from_a(version, p.TCP, SEGMENT), bench.from_a(version, p.TCP, p.tcp(4000, PORT + 1, p.SYN))
    bench.expect("tg_from_endp", segment, DropReason.ASSIGN_FAILED)
    offload_until(time.monotonic_ns() + 60_000_000_000, SLOT + 1)
    bench.expect("tg_from_endp", segment, DropReason.ASSIGN_FAILED)
    offload_until(time.monotonic_ns() + 60_000_000_000)
    bench.expect("tg_from_endp", segment, DropReason.OFFLOADED)
    bench.expect("tg_from_endp", segment, DropReason.OFFLOADED)
    bench.expect("tg_from_endp", other, PassReason.FORWARDED)
    assert {peer.packets for peer in read_offloaded(offload) if peer.slot == SLOT} == {2}
    # Whoever takes `offload` out of the policy lets the peer in again at once.
    del arena.offload[SLOT]
    arena.apply()
    bench.expect("tg_from_endp", segment, DropReason.ASSIGN_FAILED)
    arena.offload[SLOT] = Offload(5, 60)
    arena.apply()
    offload_until(time.monotonic_ns())
    bench.expect("tg_from_endp", segment, DropReason.ASSIGN_FAILED)


@VERSIONS
def test_two_redirects_without_their_pair_are_closed(bench: Bench, version: int) -> None:
    arena = bench.arena
    for slot in (1, 2, 3):
        Proxy(arena, slot)
    arena.rule("a", Direction.EGRESS, redirect(1), protocol=p.TCP)
    arena.rule("b", Direction.INGRESS, redirect(2), protocol=p.TCP)
    arena.apply()
    packet = bench.from_a(version, p.TCP, SEGMENT)
    bench.expect("tg_from_endp", packet, DropReason.NO_PAIR)
    arena.pairs[1, 2] = 3
    arena.apply()
    bench.expect("tg_from_endp", packet, DropReason.ASSIGN_FAILED)
    assert [(entry.kind, entry.slot) for entry in arena.datapath.conntrack_entries()] == [(ConntrackKind.REDIRECT, 3)]


@VERSIONS
def test_redirect_to_a_pod_goes_round_the_hairpin(bench: Bench, version: int) -> None:
    arena = bench.arena
    Proxy(arena, SLOT)
    arena.rule("b", Direction.INGRESS, redirect(SLOT), protocol=p.TCP, port=PORT)
    arena.apply()
    packet = p.ip(WORLD[version], bench.address("b", version), p.TCP, SEGMENT)
    bench.expect("tg_to_endp", packet, PassReason.HAIRPINNED, pod="b", ingress=1)
    bench.expect("tg_from_hair", packet, DropReason.ASSIGN_FAILED)
    bench.expect("tg_from_net", packet, DropReason.ASSIGN_FAILED)


@VERSIONS
def test_nothing_enters_by_the_hairpin_but_what_was_sent_there(bench: Bench, version: int) -> None:
    bench.expect("tg_from_hair", bench.from_a(version, p.TCP, p.tcp(4000, PORT, p.ACK)), DropReason.HAIRPIN_STRAY)
    bench.expect("tg_from_hair", bench.from_a(version, p.UDP, p.udp(1, 2)), DropReason.HAIRPIN_STRAY)
    bench.expect("tg_from_hair", p.frame(bytes(28), p.ETH_ARP), DropReason.HAIRPIN_STRAY)
    bench.expect("tg_from_hair", bench.from_a(version, p.TCP, SEGMENT), PassReason.OWN_REPLY, mark=MARK_REPLY)


@VERSIONS
def test_redirect_without_a_hairpin_is_closed(bench: Bench, version: int) -> None:
    arena = bench.arena
    Proxy(arena, SLOT)
    arena.rule("b", Direction.INGRESS, redirect(SLOT), protocol=p.TCP, port=PORT)
    arena.apply()
    config = arena.datapath.maps["tg_config"]
    written = config.lookup(bytes(4))
    assert written is not None
    config.update(bytes(4), written[:8] + bytes(4) + written[12:])
    try:
        packet = p.ip(WORLD[version], bench.address("b", version), p.TCP, SEGMENT)
        bench.expect("tg_to_endp", packet, DropReason.NO_HAIRPIN, pod="b", ingress=1)
    finally:
        config.update(bytes(4), written)


# ---- uplink ---------------------------------------------------------------------------------------------------------


@VERSIONS
def test_uplink_minds_only_what_is_for_a_local_pod(bench: Bench, version: int) -> None:
    bench.arena.rule("b", Direction.INGRESS, DENY, peer=REMOTE_IDENTITY)
    bench.arena.apply()
    to_node = p.ip(WORLD[version], NODE[version], p.TCP, SEGMENT)
    bench.expect("tg_from_net", to_node, PassReason.UNTOUCHED)
    bench.expect("tg_from_net", p.frame(bytes(28), p.ETH_ARP), PassReason.UNTOUCHED)
    to_a, to_b = (p.ip(WORLD[version], bench.address(name, version), p.TCP, SEGMENT) for name in ("a", "b"))
    bench.expect("tg_from_net", to_a, PassReason.FORWARDED)
    bench.expect("tg_from_net", to_b, DropReason.POLICY_DENIED)


@VERSIONS
def test_local_pods_address_does_not_come_from_outside(bench: Bench, version: int) -> None:
    bench.expect("tg_from_net", bench.from_a(version, p.TCP, SEGMENT), DropReason.SPOOFED)


# ---- connections ----------------------------------------------------------------------------------------------------


@VERSIONS
def test_reply_is_known_and_a_stranger_is_missing(bench: Bench, version: int) -> None:
    arena = bench.arena
    arena.rule("a", Direction.INGRESS, DENY)
    arena.apply()
    answer = bench.from_b(version, p.TCP, p.tcp(PORT, 40000, p.SYN | p.ACK))
    bench.expect("tg_from_endp", answer, DropReason.CT_MISSING, pod="b")
    bench.expect("tg_from_endp", bench.from_a(version, p.TCP, p.tcp(40000, PORT)), PassReason.FORWARDED)
    bench.expect("tg_from_endp", answer, PassReason.FORWARDED, pod="b")
    opening = bench.from_b(version, p.TCP, p.tcp(PORT, 40000))
    bench.expect("tg_from_endp", opening, DropReason.POLICY_DENIED, pod="b")


@VERSIONS
def test_epoch_without_a_change_of_verdict_changes_nothing(bench: Bench, version: int) -> None:
    bench.expect("tg_from_endp", bench.from_a(version, p.TCP, SEGMENT), PassReason.FORWARDED)
    bench.arena.datapath.bump_epoch()
    bench.expect("tg_from_endp", bench.from_b(version, p.TCP, p.tcp(PORT, 40000, p.ACK)), PassReason.FORWARDED, pod="b")


@VERSIONS
@pytest.mark.parametrize("sender", ["a", "b"])
def test_epoch_takes_a_stale_allow_away_whoever_sends_next(bench: Bench, version: int, sender: str) -> None:
    bench.expect("tg_from_endp", bench.from_a(version, p.UDP, p.udp(4000, 53)), PassReason.FORWARDED)
    bench.arena.rule("b", Direction.INGRESS, DENY, protocol=p.UDP, port=53)
    bench.arena.apply()
    packet = bench.from_a(version, p.UDP, p.udp(4000, 53)) if sender == "a" else bench.from_b(version, p.UDP, p.udp(53, 4000))
    for _ in range(2):
        bench.expect("tg_from_endp", packet, DropReason.POLICY_DENIED, pod=sender)


@VERSIONS
def test_datagrams_of_a_known_flow_go_where_the_policy_of_the_moment_says(bench: Bench, version: int) -> None:
    packet = bench.from_a(version, p.UDP, p.udp(4000, 53))
    bench.expect("tg_from_endp", packet, PassReason.FORWARDED)
    bench.arena.rule("b", Direction.INGRESS, redirect(SLOT), protocol=p.UDP, port=53)
    bench.arena.apply()
    bench.expect("tg_from_endp", packet, DropReason.SLOT_NOT_READY)
    bench.arena.rule("b", Direction.INGRESS, ALLOW, protocol=p.UDP, port=53)
    bench.arena.apply()
    bench.expect("tg_from_endp", packet, PassReason.FORWARDED)


# ---- answers --------------------------------------------------------------------------------------------------------


def check_reset(data: bytes, packet: bytes, *, sequence: int, acknowledged: int, flags: int) -> None:
    """``data`` is the RST that answers ``packet``, right under both readings of its checksum."""
    source, destination, protocol, segment = p.l4_of(data)
    asked_source, asked_destination, _, asked = p.l4_of(packet) if packet[14] >> 4 == 6 else (*_addresses(packet), 0, packet[34:])
    assert (source, destination, protocol) == (asked_destination, asked_source, p.TCP)
    assert data[:12] == packet[6:12] + packet[:6]
    ports = struct.unpack_from("!HH", asked)
    assert struct.unpack("!HHIIBB", segment[:14]) == (ports[1], ports[0], sequence, acknowledged, 5 << 4, flags)
    head = p.pseudo(source, destination, p.TCP, len(segment))
    assert p.checksum(head + segment) == 0, "as a finished checksum"
    assert segment[16:18] == struct.pack("!H", ~p.checksum(head) & 0xFFFF), "as a seed for the device's"


def _addresses(packet: bytes) -> tuple[str, str]:
    return ".".join(map(str, packet[26:30])), ".".join(map(str, packet[30:34]))


@VERSIONS
def test_moved_flow_is_answered_with_a_reset_that_its_sender_believes(bench: Bench, version: int) -> None:
    bench.expect("tg_from_endp", bench.from_a(version, p.TCP, SEGMENT), PassReason.FORWARDED)
    bench.arena.rule("b", Direction.INGRESS, redirect(SLOT), protocol=p.TCP, port=PORT)
    bench.arena.apply()
    packet = bench.from_a(version, p.TCP, p.tcp(40000, PORT, p.ACK | p.PSH, sequence=5, acknowledged=777, payload=b"x" * 99))
    for _ in range(2):
        action, counted = bench.run("tg_from_endp", packet)
        assert (action, counted) == (Action.REDIRECT, {DropReason.FLOW_MOVED: 1, PassReason.REPLY_SENT: 1})
        assert bench.mark & MARK_MASK == MARK_REPLY
        check_reset(bench.data, packet, sequence=777, acknowledged=0, flags=p.RST)
    reset = bench.from_a(version, p.TCP, p.tcp(40000, PORT, p.RST))
    bench.expect("tg_from_endp", reset, DropReason.FLOW_MOVED)
    from_server = bench.from_b(version, p.TCP, p.tcp(PORT, 40000, p.ACK, acknowledged=55))
    action, _ = bench.run("tg_from_endp", from_server, pod="b")
    assert action is Action.REDIRECT
    check_reset(bench.data, from_server, sequence=55, acknowledged=0, flags=p.RST)
    action, _ = bench.run("tg_to_endp", from_server, ingress=1)
    assert action is Action.REDIRECT
    check_reset(bench.data, from_server, sequence=55, acknowledged=0, flags=p.RST)


@VERSIONS
def test_denied_sender_is_answered_only_if_the_node_says_so(bench: Bench, version: int) -> None:
    bench.arena.rule("b", Direction.INGRESS, DENY)
    bench.arena.apply()
    syn = bench.from_a(version, p.TCP, p.tcp(40000, PORT, sequence=41, payload=b"fast"))
    datagram = bench.from_a(version, p.UDP, p.udp(4000, 53, b"query" * 10))
    bench.expect("tg_from_endp", syn, DropReason.POLICY_DENIED)
    bench.arena.reopen(deny_reply=True)
    try:
        action, _ = bench.run("tg_from_endp", syn)
        assert action is Action.REDIRECT
        check_reset(bench.data, syn, sequence=0, acknowledged=41 + 4 + 1, flags=p.RST | p.ACK)
        action, _ = bench.run("tg_from_endp", datagram)
        assert action is Action.REDIRECT
        source, destination, protocol, message = p.l4_of(bench.data)
        assert (source, destination) == (bench.address("b", version), bench.address("a", version))
        quoted = datagram[14 : 14 + (20 if version == 4 else 40) + 8]
        assert message[:2] == (b"\x03\x0d" if version == 4 else b"\x01\x01")
        assert message[8:] == quoted
        seed = b"" if version == 4 else p.pseudo(source, destination, protocol, len(message))
        assert p.checksum(seed + message) == 0
        for silent in (
            bench.from_a(version, p.TCP, p.tcp(1, PORT, p.RST)),
            bench.from_a(version, ECHO[version][0], p.icmp(ECHO[version][1])),
        ):
            action, _ = bench.run("tg_from_endp", silent)
            assert action is Action.SHOT
        action, _ = bench.run("tg_to_endp", p.ip(WORLD[version], bench.address("b", version), p.TCP, SEGMENT), pod="b", ingress=1)
        assert action is Action.SHOT, "nobody outside learns of the policy"
    finally:
        bench.arena.reopen(deny_reply=False)


@VERSIONS
def test_unknown_connection_is_reset_if_the_node_says_so(bench: Bench, version: int) -> None:
    bench.arena.rule("b", Direction.INGRESS, DENY)
    bench.arena.apply()
    packet = bench.from_a(version, p.TCP, p.tcp(40000, PORT, p.ACK, acknowledged=9))
    bench.expect("tg_from_endp", packet, DropReason.CT_MISSING)
    bench.arena.reopen(ct_missing_reset=True)
    try:
        action, counted = bench.run("tg_from_endp", packet)
        assert (action, counted) == (Action.REDIRECT, {DropReason.CT_MISSING: 1, PassReason.REPLY_SENT: 1})
        check_reset(bench.data, packet, sequence=9, acknowledged=0, flags=p.RST)
    finally:
        bench.arena.reopen(ct_missing_reset=False)


# ---- everything else ------------------------------------------------------------------------------------------------

NOT_BY_TEST_RUN = {
    DropReason.CT_FULL: "an LRU map is full only when memory is",
    DropReason.NO_HOST_ADDRESS: "cgroup programs: test_real_packets.py",
    DropReason.REDIRECT_WORKLOAD: "cgroup programs: test_real_packets.py",
}


def test_every_drop_reason_is_shown_by_some_test() -> None:
    """Read from this file, so that a new reason can't be forgotten."""
    with open(__file__, encoding="utf-8") as file:
        text = file.read()
    unseen = {reason for reason in DropReason if text.count(f"DropReason.{reason.name}") == 0}
    assert unseen == set()
    assert set(NOT_BY_TEST_RUN) <= set(DropReason)


@given(data=st.data())
def test_whatever_a_pod_sends_it_gets_nowhere_without_a_policy(shared: Bench, data: st.DataObject) -> None:
    """Valid packets, cut and scribbled over: dropped, or link traffic that never leaves the link."""
    if shared.arena.policy:
        shared.arena.reset()
        shared.arena.apply()
    base = bytearray(data.draw(st.sampled_from([*WELL_FORMED.values(), *(packet for packet, _ in MALFORMED.values())])))
    for _ in range(data.draw(st.integers(0, 4))):
        base[data.draw(st.integers(12, len(base) - 1))] = data.draw(st.integers(0, 255))
    shortest = 14 + (40 if base[12:14] == b"\x86\xdd" else 20)  # shorter ones the kernel refuses to test
    packet = bytes(base[: data.draw(st.integers(min(shortest, len(base)), len(base)))])
    action, counted = shared.run("tg_from_endp", packet)
    if counted == {PassReason.LINK: 1}:
        assert action is Action.NEXT
    else:
        assert action is Action.SHOT
        assert len(counted) == 1
        assert isinstance(next(iter(counted)), DropReason)


def test_identities_in_conntrack_are_those_of_the_originator_first(bench: Bench) -> None:
    bench.expect("tg_from_endp", bench.from_a(4, p.TCP, SEGMENT), PassReason.FORWARDED)
    bench.expect("tg_from_endp", bench.from_b(4, p.TCP, p.tcp(PORT, 40000, p.SYN | p.ACK)), PassReason.FORWARDED, pod="b")
    (entry,) = bench.arena.datapath.conntrack_entries()
    assert (str(entry.source), entry.source_port, str(entry.destination), entry.destination_port) == (A4, 40000, B4, PORT)
    assert (entry.source_identity, entry.destination_identity) == (bench.arena.identities["a"], bench.arena.identities["b"])
    assert (entry.packets, entry.policy_port, entry.kind) == (2, PORT, ConntrackKind.DIRECT)
    assert bench.arena.datapath.conntrack_delete(entry)
    assert not bench.arena.datapath.conntrack_delete(entry)
    assert IdentityNumber(entry.source_identity) in bench.arena.identities.values()
