"""DNS on real sockets: datagrams given to the proxy and its own upstream sockets, and what names open in the kernel."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from bpf_redirect.abi import MARK_FROM_PROXY, NAMES_PER_ADDRESS_MAX, DropReason, Hook, PassReason
from bpf_redirect.names import decode_names_key, encode_grants, encode_names_key
from l7filters.identity import IdentityNumber, Reserved
from l7filters.mapstate import IpcacheValue, MapVerdict, PolicyValue
from l7filters.model import Direction, Protocol
from proxylib.dns.sockets import ReplySocket, Sender, original_destination, udp_listener, upstream
from tests.bpf.arena import (
    ALLOW,
    LOCALHOST,
    PROXY_PORT_MIN,
    SILENCE_SECONDS,
    Arena,
    Proxy,
    exchange,
    redirect,
)
from tests.support.netns import NODE_V4, NODE_V6, UPLINK_INTERFACE, Pod

pytestmark = pytest.mark.root

TCP, UDP = int(Protocol.TCP), int(Protocol.UDP)
DNS, PORT = 53, 8443
SLOT = 7
WORLD = 900
NAME, OTHER_NAME = 901, 902
EXPLICIT_DENY = PolicyValue(MapVerdict.DENY, explicit=True)
VERSIONS = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def shared() -> Iterator[Arena]:
    with Arena("dns") as arena:
        for name in ("a", "b"):
            arena.pod(name)
        arena.world(uplink=False)
        yield arena


@pytest.fixture
def arena(shared: Arena) -> Iterator[Arena]:
    shared.reset()
    yield shared
    shared.datapath.detach_uplink(UPLINK_INTERFACE)


@pytest.fixture
def a(arena: Arena) -> Pod:
    return arena.cluster.pods["a"]


@pytest.fixture
def b(arena: Arena) -> Pod:
    return arena.cluster.pods["b"]


@pytest.fixture
def world(arena: Arena) -> Pod:
    return arena.cluster.worlds["world"]


# ---- datagrams to the proxy and its sockets -------------------------------------------------------------------------


class DnsProxy:
    """Stands in for the DNS proxy on one slot, with its own sockets."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.port = PROXY_PORT_MIN + SLOT
        self.listeners = {v: arena.owned(udp_listener(LOCALHOST[v], self.port, MARK_FROM_PROXY)) for v in (4, 6)}
        arena.slots[SLOT] = self.port

    def receive(self, version: int) -> tuple[bytes, tuple[str, int], tuple[str, int]]:
        """Return the next question, who asks, and whom."""
        data, ancillary, _, client = self.listeners[version].recvmsg(2048, 256)
        return data, client[:2], original_destination(ancillary)

    def ask(self, client: tuple[str, int], server: tuple[str, int]) -> socket.socket:
        """Return a socket from the client's address to the server."""
        return self.arena.owned(upstream(socket.SOCK_DGRAM, client[0], server, MARK_FROM_PROXY))

    def answer(self, data: bytes, server: tuple[str, int], client: tuple[str, int]) -> None:
        """Answer in the server's name."""
        replies = ReplySocket(socket.AF_INET6 if ":" in client[0] else socket.AF_INET, MARK_FROM_PROXY)
        try:
            replies.send(data, Sender(server, client[0]), client)
        finally:
            replies.close()


def ask_through_proxy(arena: Arena, proxy: DnsProxy, a: Pod, server: socket.socket, address: str, version: int) -> None:
    """A question and its answer go both legs, each side seeing the other as if nobody stood between."""
    client = arena.udp(a, version)
    client.connect((address, DNS))
    client.send(b"question")
    question, asking, asked = proxy.receive(version)
    assert (question, asking, asked) == (b"question", client.getsockname()[:2], (address, DNS))
    out = proxy.ask(asking, asked)
    out.send(question)
    received, sender = server.recvfrom(64)
    assert (received, sender[0]) == (b"question", a.address(version))
    server.sendto(b"answer", sender)
    answer = out.recv(64)
    proxy.answer(answer, asked, asking)
    assert client.recv(64) == b"answer"
    assert not any(isinstance(reason, DropReason) for reason, _ in arena.counted()), arena.counted()


def redirect_dns(arena: Arena, peer: str | int = Reserved.ANY) -> DnsProxy:
    arena.open_all("a", "b")
    proxy = DnsProxy(arena)
    arena.rule("a", Direction.EGRESS, redirect(SLOT), peer=peer, protocol=UDP, port=DNS)
    return proxy


@VERSIONS
def test_question_to_a_local_server_goes_through_the_proxy(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    proxy = redirect_dns(arena)
    arena.apply()
    server = arena.udp(b, version, DNS)
    for _ in range(2):
        ask_through_proxy(arena, proxy, a, server, b.address(version), version)
    assert arena.count(PassReason.REDIRECTED, Hook.FROM_ENDPOINT) >= 4


@VERSIONS
@pytest.mark.parametrize("attached", [False, True])
def test_question_to_a_server_beyond_the_uplink(arena: Arena, a: Pod, world: Pod, version: int, attached: bool) -> None:
    proxy = redirect_dns(arena)
    arena.apply()
    if attached:
        arena.datapath.attach_uplink(UPLINK_INTERFACE)
    else:
        arena.reopen(disable_early_demux=True)
    server = arena.udp(world, version, DNS)
    ask_through_proxy(arena, proxy, a, server, world.address(version), version)
    steered = arena.count(PassReason.REDIRECTED, Hook.FROM_NETDEV if attached else Hook.FROM_HAIRPIN)
    assert steered >= 1
    arena.reopen(disable_early_demux=False)


@VERSIONS
def test_question_to_a_server_on_this_host(arena: Arena, a: Pod, version: int) -> None:
    proxy = redirect_dns(arena)
    arena.apply()
    address = NODE_V4 if version == 4 else NODE_V6
    server = arena.owned(socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM))
    server.bind((address, DNS))
    ask_through_proxy(arena, proxy, a, server, address, version)
    assert arena.count(PassReason.REDIRECTED, Hook.FROM_HAIRPIN) >= 1


@VERSIONS
def test_socket_of_the_host_on_any_address_takes_nothing_of_a_pods(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    arena.open_all("a", "b")
    arena.apply()
    receiver = arena.udp(a, version)
    port = receiver.getsockname()[1]
    thief = arena.owned(socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM))
    thief.bind(("0.0.0.0" if version == 4 else "::", port))
    arena.udp(b, version, DNS).sendto(b"for a", (a.address(version), port))
    assert receiver.recv(64) == b"for a"
    thief.settimeout(SILENCE_SECONDS)
    with pytest.raises(TimeoutError):
        thief.recv(64)


@VERSIONS
def test_only_the_server_that_was_asked_reaches_the_proxys_socket(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    proxy = redirect_dns(arena)
    arena.apply()
    out = proxy.ask((a.address(version), 0), (b.address(version), DNS))
    arena.udp(b, version, DNS + 1).sendto(b"lie", out.getsockname()[:2])
    out.settimeout(SILENCE_SECONDS)
    with pytest.raises(TimeoutError):
        out.recv(64)


@VERSIONS
def test_answer_is_dropped_once_the_pod_may_not_ask_that_server_any_more(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    proxy = redirect_dns(arena)
    arena.apply()
    server = arena.udp(b, version, DNS)
    out = proxy.ask((a.address(version), 0), (b.address(version), DNS))
    out.send(b"question")
    _, sender = server.recvfrom(64)
    arena.rule("a", Direction.EGRESS, EXPLICIT_DENY, protocol=UDP, port=DNS)
    arena.apply()
    server.sendto(b"late", sender)
    out.settimeout(SILENCE_SECONDS)
    with pytest.raises(TimeoutError):
        out.recv(64)
    assert arena.count(DropReason.CT_MISSING) == 1


@VERSIONS
def test_without_the_dns_proxy_questions_are_dropped_and_counted(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    proxy = redirect_dns(arena)
    arena.apply()
    for listener in proxy.listeners.values():
        listener.close()
    wildcard = arena.owned(socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM))
    wildcard.bind(("0.0.0.0" if version == 4 else "::", proxy.port))
    server = arena.udp(b, version, DNS)
    arena.udp(a, version).sendto(b"question", (b.address(version), DNS))
    for deaf in (wildcard, server):
        deaf.settimeout(SILENCE_SECONDS)
        with pytest.raises(TimeoutError):
            deaf.recv(64)
    assert arena.count(DropReason.NO_LISTENER, Hook.FROM_ENDPOINT) == 1


@VERSIONS
def test_answer_in_fragments_is_dropped_and_counted(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    """Which is why the proxy tells servers a size that fits one packet, and asks again by TCP."""
    proxy = redirect_dns(arena)
    arena.apply()
    server = arena.udp(b, version, DNS)
    out = proxy.ask((a.address(version), 0), (b.address(version), DNS))
    out.send(b"question")
    server.sendto(bytes(4000), server.recvfrom(64)[1])
    out.settimeout(SILENCE_SECONDS)
    with pytest.raises(TimeoutError):
        out.recv(8000)
    assert arena.count(DropReason.FRAGMENT_REDIRECT) >= 1


# ---- names ----------------------------------------------------------------------------------------------------------


def outside(arena: Arena, world: Pod, *, is_outside: bool = True) -> None:
    """The world's machine is (or is not) outside the cluster; pod a may not reach it by its address."""
    for address in (world.ipv4, world.ipv6):
        arena.extra_ipcache[ip_network(address)] = IpcacheValue(IdentityNumber(WORLD), outside=is_outside)
    arena.open_all("b")
    arena.rule("a", Direction.INGRESS, ALLOW)


def grant(arena: Arena, pod: Pod, address: str, *identities: int, seconds: int = 60) -> None:
    """DNS told ``pod`` of ``address``, as the DNS proxy writes it."""
    expires_s = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000_000 + seconds
    key = encode_names_key(arena.ifindexes[pod.name], ip_address(address))
    arena.datapath.maps["tg_names"].update(key, encode_grants(dict.fromkeys(identities, expires_s)))


@VERSIONS
def test_name_opens_an_address_to_the_pod_that_asked_and_to_no_other(
    arena: Arena, a: Pod, b: Pod, world: Pod, version: int
) -> None:
    outside(arena, world)
    arena.policy = {key: value for key, value in arena.policy.items() if key.direction is Direction.INGRESS}
    for name in ("a", "b"):
        arena.rule(name, Direction.EGRESS, ALLOW, peer=NAME, protocol=TCP, port=PORT)
    arena.apply()
    server = arena.server(world, version, PORT)
    assert arena.dial_in_silence(a, world, version, PORT)
    grant(arena, a, world.address(version), NAME)
    client = arena.dial(a, world, version, PORT)
    exchange(client, arena.owned(server.accept()[0]))
    (entry,) = [entry for entry in arena.datapath.conntrack_entries() if entry.source_port == client.getsockname()[1]]
    assert entry.name_identity == NAME
    assert arena.dial_in_silence(a, world, version, PORT + 1), "another port"
    assert arena.dial_in_silence(b, world, version, PORT), "another pod"


@VERSIONS
def test_expired_name_opens_nothing_but_its_live_connections_go_on(arena: Arena, a: Pod, world: Pod, version: int) -> None:
    outside(arena, world)
    arena.rule("a", Direction.EGRESS, ALLOW, peer=NAME, protocol=TCP, port=PORT)
    arena.apply()
    server = arena.server(world, version, PORT)
    grant(arena, a, world.address(version), NAME)
    client = arena.dial(a, world, version, PORT)
    peer = arena.owned(server.accept()[0])
    grant(arena, a, world.address(version), NAME, seconds=0)
    arena.datapath.bump_epoch()
    exchange(client, peer)
    assert arena.dial_in_silence(a, world, version, PORT)
    arena.datapath.maps["tg_names"].delete(encode_names_key(arena.ifindexes["a"], ip_address(world.address(version))))
    arena.datapath.bump_epoch()
    exchange(client, peer)
    arena.rule("a", Direction.EGRESS, ALLOW, peer=OTHER_NAME, protocol=TCP, port=PORT)
    del arena.policy[next(key for key in arena.policy if key.peer == NAME)]
    arena.apply()
    client.sendall(b"cut")
    peer.settimeout(SILENCE_SECONDS)
    with pytest.raises(TimeoutError):
        peer.recv(3)
    assert arena.count(DropReason.POLICY_DENIED) >= 1


@VERSIONS
@pytest.mark.parametrize(
    ("by_address", "by_name", "opens"),
    [
        (None, ALLOW, True),
        (EXPLICIT_DENY, ALLOW, False),
        (PolicyValue(MapVerdict.DENY), ALLOW, True),
        (ALLOW, EXPLICIT_DENY, False),
        (ALLOW, PolicyValue(MapVerdict.DENY), True),
        (redirect(SLOT), ALLOW, True),
        (ALLOW, redirect(SLOT), True),
    ],
)
def test_address_and_name_together(
    arena: Arena, a: Pod, world: Pod, version: int, by_address: PolicyValue | None, by_name: PolicyValue, opens: bool
) -> None:
    outside(arena, world)
    if by_address is not None:
        arena.rule("a", Direction.EGRESS, by_address, peer=WORLD, protocol=TCP, port=PORT)
    arena.rule("a", Direction.EGRESS, by_name, peer=NAME, protocol=TCP, port=PORT)
    arena.apply()
    arena.server(world, version, PORT)
    grant(arena, a, world.address(version), NAME)
    assert arena.dial_in_silence(a, world, version, PORT) is not opens


@VERSIONS
def test_redirect_by_name_beats_one_by_address(arena: Arena, a: Pod, world: Pod, version: int) -> None:
    outside(arena, world)
    arena.rule("a", Direction.EGRESS, redirect(SLOT + 1), peer=WORLD, protocol=TCP, port=PORT)
    arena.rule("a", Direction.EGRESS, redirect(SLOT), peer=NAME, protocol=TCP, port=PORT)
    proxy = Proxy(arena, SLOT)
    arena.apply()
    arena.datapath.attach_uplink(UPLINK_INTERFACE)
    server = arena.server(world, version, PORT)
    grant(arena, a, world.address(version), NAME)
    client = arena.dial(a, world, version, PORT)
    accepted = proxy.accept(version)
    exchange(client, accepted)
    upstream_socket = proxy.upstream(accepted)
    exchange(upstream_socket, arena.owned(server.accept()[0]))


@VERSIONS
@pytest.mark.parametrize("attached", [False, True])
def test_proxied_connection_survives_its_name_and_ends_with_an_explicit_deny(
    arena: Arena, a: Pod, world: Pod, version: int, attached: bool
) -> None:
    outside(arena, world)
    arena.policy = {key: value for key, value in arena.policy.items() if key.subject != arena.identities["a"]}
    arena.rule("a", Direction.EGRESS, redirect(SLOT), peer=NAME, protocol=TCP, port=PORT)
    proxy = Proxy(arena, SLOT)
    arena.apply()
    if attached:
        arena.datapath.attach_uplink(UPLINK_INTERFACE)
    else:
        arena.reopen(disable_early_demux=True)
    server = arena.server(world, version, PORT)
    grant(arena, a, world.address(version), NAME)
    client = arena.dial(a, world, version, PORT)
    accepted = proxy.accept(version)
    first = proxy.upstream(accepted)
    peer = arena.owned(server.accept()[0])
    arena.datapath.maps["tg_names"].delete(encode_names_key(arena.ifindexes["a"], ip_address(world.address(version))))
    arena.datapath.bump_epoch()
    exchange(client, accepted)
    exchange(first, peer)
    second = proxy.upstream(accepted)
    exchange(second, arena.owned(server.accept()[0]))
    assert arena.dial_in_silence(a, world, version, PORT), "a new connection needs the name"
    arena.rule("a", Direction.EGRESS, EXPLICIT_DENY, protocol=TCP, port=PORT)
    arena.policy = {key: value for key, value in arena.policy.items() if key.peer != NAME}
    arena.apply()
    peer.sendall(b"late")
    first.settimeout(SILENCE_SECONDS)
    with pytest.raises(TimeoutError):
        first.recv(4)
    arena.reopen(disable_early_demux=False)


@VERSIONS
def test_last_of_all_the_names_that_an_address_can_have_counts(arena: Arena, a: Pod, world: Pod, version: int) -> None:
    outside(arena, world)
    names = range(NAME, NAME + NAMES_PER_ADDRESS_MAX)
    arena.rule("a", Direction.EGRESS, ALLOW, peer=names[-1], protocol=TCP, port=PORT)
    arena.apply()
    arena.server(world, version, PORT)
    grant(arena, a, world.address(version), *names[:-1])
    assert arena.dial_in_silence(a, world, version, PORT)
    grant(arena, a, world.address(version), *names)
    arena.dial(a, world, version, PORT)


@VERSIONS
def test_name_that_points_into_the_cluster_opens_nothing(arena: Arena, a: Pod, b: Pod, world: Pod, version: int) -> None:
    outside(arena, world, is_outside=False)
    arena.rule("a", Direction.EGRESS, ALLOW, peer=NAME, protocol=TCP, port=PORT)
    arena.apply()
    for target in (b, world, arena.cluster.host):
        arena.server(target, version, PORT)
        grant(arena, a, target.address(version), NAME)
        assert arena.dial_in_silence(a, target, version, PORT), target.name


@VERSIONS
def test_datagrams_go_by_names_too(arena: Arena, a: Pod, world: Pod, version: int) -> None:
    outside(arena, world)
    arena.rule("a", Direction.EGRESS, ALLOW, peer=NAME, protocol=UDP, port=PORT)
    arena.apply()
    client, server = arena.udp(a, version), arena.udp(world, version, PORT)
    grant(arena, a, world.address(version), NAME)
    client.sendto(b"question", (world.address(version), PORT))
    server.sendto(b"answer", server.recvfrom(64)[1])
    assert client.recv(64) == b"answer"


def test_next_pod_on_an_interface_inherits_no_name(arena: Arena, a: Pod, b: Pod, world: Pod) -> None:
    outside(arena, world)
    arena.apply()
    for pod in (a, b):
        grant(arena, pod, world.ipv4, NAME)
    state = arena.state()
    arena.datapath.apply(state, state)
    assert len(list(arena.datapath.maps["tg_names"].items())) == 2
    arena.closed.add("a")
    arena.apply()
    assert [decode_names_key(key)[0] for key, _ in arena.datapath.maps["tg_names"].items()] == [arena.ifindexes["b"]]
