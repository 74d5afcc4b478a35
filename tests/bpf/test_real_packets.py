"""Real sockets in real namespaces: what PROG_RUN can't show, above all the hand-over of connections to the proxy."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from bpf_redirect.abi import ConntrackFlag, ConntrackKind, DropReason, Hook, PassReason
from bpf_redirect.cgroups import mount_point
from bpf_redirect.errors import PinMissing
from bpf_redirect.host import get_sysctl, set_sysctl
from l7filters.identity import IdentityNumber, Reserved
from l7filters.model import Direction, Protocol
from tests.bpf.arena import (
    ALLOW,
    DENY,
    PROXY_PORT_MIN,
    SECONDS_MAX,
    SILENCE_SECONDS,
    Arena,
    Proxy,
    eventually,
    exchange,
    netns,
    redirect,
)
from tests.support.netns import NETNS_DIRECTORY, NODE_V4, NODE_V6, UPLINK_INTERFACE, Pod

pytestmark = pytest.mark.root

TCP, UDP = int(Protocol.TCP), int(Protocol.UDP)
PORT = 8080
SLOT = 7
TCP_REPAIR = 19
VERSIONS = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def shared() -> Iterator[Arena]:
    with Arena("real") as arena:
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


@pytest.fixture
def no_early_demux(arena: Arena) -> Iterator[None]:
    arena.reopen(disable_early_demux=True)
    assert get_sysctl("ipv4/tcp_early_demux") == "0"
    yield
    arena.reopen(disable_early_demux=False)
    set_sysctl("ipv4/tcp_early_demux", "1")


def redirect_ingress(arena: Arena, subject: str = "b") -> Proxy:
    """Both pods open, but TCP to ``subject``'s port goes through the proxy."""
    arena.open_all("a", "b")
    proxy = Proxy(arena, SLOT)
    arena.rule(subject, Direction.INGRESS, redirect(SLOT), protocol=TCP, port=PORT)
    arena.apply()
    return proxy


def is_reset(sock: socket.socket) -> bool:
    """Whether the connection has ended with a RST by now or within the time of a test."""
    try:
        return sock.recv(1) == b"never"
    except ConnectionResetError:
        return True


def sends_until_reset(sock: socket.socket) -> None:
    """Keep sending; the connection must be reset within a second."""
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        try:
            sock.sendall(b"more")
        except (ConnectionResetError, BrokenPipeError):
            return
        time.sleep(0.01)
    pytest.fail("still not reset after a second")


# ---- allow and deny -------------------------------------------------------------------------------------------------


@VERSIONS
def test_allowed_connection_passes_both_ways(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    arena.open_all("a", "b")
    arena.apply()
    listener = arena.server(b, version, PORT)
    client = arena.dial(a, b, version, PORT)
    peer = arena.owned(listener.accept()[0])
    exchange(client, peer)
    assert peer.getpeername()[0] == a.address(version)
    assert not any(isinstance(reason, DropReason) for reason, _ in arena.counted())


@VERSIONS
def test_ingress_default_deny_is_silence_and_counted(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    arena.open_all("a")
    arena.rule("b", Direction.EGRESS, ALLOW)
    arena.apply()
    arena.server(b, version, PORT)
    assert arena.dial_in_silence(a, b, version, PORT)
    assert arena.count(DropReason.POLICY_DENIED, Hook.FROM_ENDPOINT) >= 1


@VERSIONS
def test_egress_deny_wins_over_ingress_allow(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    arena.open_all("a", "b")
    arena.rule("a", Direction.EGRESS, DENY, peer="b", protocol=TCP, port=PORT)
    arena.apply()
    arena.server(b, version, PORT)
    assert arena.dial_in_silence(a, b, version, PORT)
    other = arena.server(b, version, PORT + 1)
    arena.dial(a, b, version, PORT + 1)
    arena.owned(other.accept()[0])


@VERSIONS
def test_udp_reply_passes_and_unsolicited_does_not(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    arena.rule("a", Direction.EGRESS, ALLOW)
    arena.rule("b", Direction.INGRESS, ALLOW, peer="a", protocol=UDP, port=PORT)
    arena.apply()
    client, server = arena.udp(a, version), arena.udp(b, version, PORT)
    client.sendto(b"question", (b.address(version), PORT))
    question, sender = server.recvfrom(64)
    assert (question, sender[0]) == (b"question", a.address(version))
    server.sendto(b"answer", sender)
    assert client.recv(64) == b"answer"
    stranger = arena.udp(b, version, PORT + 1)
    stranger.sendto(b"unsolicited", (a.address(version), client.getsockname()[1]))
    client.settimeout(SILENCE_SECONDS)
    with pytest.raises(TimeoutError):
        client.recv(64)


@VERSIONS
def test_fragments_of_a_datagram_follow_their_first(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    arena.rule("a", Direction.EGRESS, ALLOW, peer="b", protocol=UDP, port=PORT)
    arena.rule("b", Direction.INGRESS, ALLOW, peer="a", protocol=UDP, port=PORT)
    arena.apply()
    client, server = arena.udp(a, version), arena.udp(b, version, PORT)
    large = os.urandom(6000)
    client.sendto(large, (b.address(version), PORT))
    assert server.recv(8000) == large


@VERSIONS
def test_host_reaches_a_pod_that_denies_everything(arena: Arena, a: Pod, version: int) -> None:
    arena.apply()
    listener = arena.server(a, version, PORT)
    client = arena.dial(arena.cluster.host, a, version, PORT)
    exchange(client, arena.owned(listener.accept()[0]))
    client, server = arena.udp(arena.cluster.host, version), arena.udp(a, version, PORT)
    client.sendto(b"question", (a.address(version), PORT))
    server.sendto(b"answer", server.recvfrom(64)[1])
    assert client.recv(64) == b"answer"
    assert arena.count(PassReason.FROM_HOST) >= 4


@VERSIONS
def test_pod_that_denies_everything_does_not_reach_the_host(arena: Arena, a: Pod, version: int) -> None:
    arena.apply()
    arena.server(arena.cluster.host, version, PORT)
    assert arena.dial_in_silence(a, arena.cluster.host, version, PORT)


@VERSIONS
def test_endpoint_without_an_entry_is_closed_even_to_the_host(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    arena.open_all("a", "b")
    arena.closed.add("b")
    arena.apply()
    arena.server(b, version, PORT)
    assert arena.dial_in_silence(a, b, version, PORT)
    assert arena.dial_in_silence(arena.cluster.host, b, version, PORT)
    assert arena.dial_in_silence(b, a, version, PORT)
    assert arena.count(DropReason.NOT_READY, Hook.TO_ENDPOINT) >= 2
    assert arena.count(DropReason.NOT_READY, Hook.FROM_ENDPOINT) >= 1


@VERSIONS
def test_closed_udp_port_is_reported_back(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    arena.rule("a", Direction.EGRESS, ALLOW, protocol=UDP)
    arena.rule("b", Direction.INGRESS, ALLOW, protocol=UDP)
    arena.apply()
    client = arena.udp(a, version)
    client.connect((b.address(version), PORT))
    client.send(b"anyone?")
    with pytest.raises(ConnectionRefusedError):
        client.recv(1)
    assert arena.count(PassReason.RELATED, Hook.FROM_ENDPOINT) == 1


# ---- redirect -------------------------------------------------------------------------------------------------------


@VERSIONS
def test_redirected_connection_keeps_both_addresses_on_both_legs(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    proxy = redirect_ingress(arena)
    server = arena.server(b, version, PORT)
    client = arena.dial(a, b, version, PORT)
    accepted = proxy.accept(version)
    assert accepted.getsockname()[:2] == (b.address(version), PORT)
    assert accepted.getpeername()[:2] == client.getsockname()[:2]
    exchange(client, accepted)
    upstream = proxy.upstream(accepted)
    peer = arena.owned(server.accept()[0])
    assert peer.getpeername()[0] == a.address(version)
    exchange(upstream, peer)
    entries = [entry for entry in arena.datapath.conntrack_entries() if entry.kind is ConntrackKind.REDIRECT]
    assert [(entry.slot, entry.destination_port) for entry in entries] == [(SLOT, PORT)]
    assert not any(isinstance(reason, DropReason) for reason, _ in arena.counted())


@VERSIONS
def test_much_data_passes_both_legs(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    proxy = redirect_ingress(arena)
    server = arena.server(b, version, PORT)
    client = arena.dial(a, b, version, PORT)
    accepted = proxy.accept(version)
    upstream = proxy.upstream(accepted)
    peer = arena.owned(server.accept()[0])
    for sender, receiver in ((client, accepted), (accepted, client), (upstream, peer), (peer, upstream)):
        data = os.urandom(1 << 20)
        sent = received = 0
        sender.setblocking(False)
        pieces = []
        deadline = time.monotonic() + SECONDS_MAX
        while received < len(data) and time.monotonic() < deadline:
            try:
                sent += sender.send(data[sent : sent + 65536])
            except BlockingIOError:
                pass
            receiver.setblocking(False)
            try:
                pieces.append(receiver.recv(1 << 18))
            except BlockingIOError:
                continue
            received += len(pieces[-1])
        assert b"".join(pieces) == data


@VERSIONS
def test_upstream_on_the_very_port_of_its_client_is_not_confused_with_it(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    proxy = redirect_ingress(arena)
    server = arena.server(b, version, PORT)
    client = arena.dial(a, b, version, PORT)
    accepted = proxy.accept(version)
    upstream = proxy.upstream(accepted, source_port=client.getsockname()[1])
    peer = arena.owned(server.accept()[0])
    assert peer.getpeername()[:2] == client.getsockname()[:2]
    exchange(upstream, peer)
    exchange(client, accepted)


@VERSIONS
def test_local_pair_goes_through_the_pair_slot_once(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    arena.open_all("a", "b")
    arena.rule("a", Direction.EGRESS, redirect(1), peer="b", protocol=TCP, port=PORT)
    arena.rule("b", Direction.INGRESS, redirect(2), peer="a", protocol=TCP, port=PORT)
    Proxy(arena, 1)
    Proxy(arena, 2)
    pair = Proxy(arena, 3)
    arena.apply()
    assert arena.dial_in_silence(a, b, version, PORT)
    assert arena.count(DropReason.NO_PAIR, Hook.FROM_ENDPOINT) >= 1
    arena.pairs[1, 2] = 3
    arena.apply()
    server = arena.server(b, version, PORT)
    client = arena.dial(a, b, version, PORT)
    accepted = pair.accept(version)
    exchange(client, accepted)
    upstream = pair.upstream(accepted)
    exchange(upstream, arena.owned(server.accept()[0]))


def settled(arena: Arena) -> set[ConntrackKind]:
    """The kinds of the connections whose socket is left to the stack to find."""
    return {entry.kind for entry in arena.datapath.conntrack_entries() if ConntrackFlag.SETTLED in entry.flags}


def vanish(sock: socket.socket) -> None:
    """Close without a word to the other end."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    sock.close()


@VERSIONS
@pytest.mark.parametrize("early_demux", [True, False])
def test_once_established_the_stack_finds_the_proxys_sockets_by_itself(
    arena: Arena, a: Pod, b: Pod, version: int, early_demux: bool, request: pytest.FixtureRequest
) -> None:
    if not early_demux:
        request.getfixturevalue("no_early_demux")
    proxy = redirect_ingress(arena)
    server = arena.server(b, version, PORT)
    client = arena.dial(a, b, version, PORT)
    accepted = proxy.accept(version)
    upstream = proxy.upstream(accepted)
    peer = arena.owned(server.accept()[0])
    for _ in range(3):
        exchange(client, accepted)
        exchange(upstream, peer)
    assert settled(arena) == {ConntrackKind.REDIRECT, ConntrackKind.PROXY}
    arena.rule("b", Direction.INGRESS, redirect(SLOT), protocol=TCP, port=PORT + 1)
    arena.apply()  # another epoch: judged again, and settled as before
    for _ in range(3):
        exchange(client, accepted)
        exchange(upstream, peer)
    assert settled(arena) == {ConntrackKind.REDIRECT, ConntrackKind.PROXY}
    arena.rule("b", Direction.INGRESS, DENY, protocol=TCP, port=PORT)
    arena.apply()
    client.sendall(b"more")
    eventually(lambda: arena.count(DropReason.POLICY_DENIED, Hook.FROM_ENDPOINT) >= 1, "what the client sends is denied")
    accepted.setblocking(False)
    with pytest.raises(BlockingIOError):
        accepted.recv(1)


@VERSIONS
def test_client_is_reset_when_the_proxys_settled_socket_has_vanished(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    proxy = redirect_ingress(arena)
    client = arena.dial(a, b, version, PORT)
    accepted = proxy.accept(version)
    for _ in range(3):
        exchange(client, accepted)
    assert settled(arena) == {ConntrackKind.REDIRECT}
    vanish(accepted)
    sends_until_reset(client)


@VERSIONS
def test_what_replies_to_the_proxy_may_opens_nothing_for_others(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    """The remembered reply flow has the ends and ports of whatever the client or the server may dial next."""
    proxy = redirect_ingress(arena)
    server = arena.server(b, version, PORT)
    arena.dial(a, b, version, PORT)
    accepted = proxy.accept(version)
    upstream = proxy.upstream(accepted)
    peer = arena.owned(server.accept()[0])
    for _ in range(3):
        exchange(upstream, peer)
    assert settled(arena) == {ConntrackKind.PROXY}
    source_port = upstream.getsockname()[1]
    own = arena.dial(a, b, version, PORT, source_port=source_port)  # the same ends and ports, by the client itself
    own_accepted = proxy.accept(version)
    assert own_accepted.getpeername()[:2] == (a.address(version), source_port)
    for _ in range(3):
        exchange(own, own_accepted)
        exchange(upstream, peer)


@VERSIONS
def test_redirect_without_a_listener_or_a_ready_slot_is_closed(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    arena.open_all("a", "b")
    arena.rule("b", Direction.INGRESS, redirect(SLOT), protocol=TCP, port=PORT)
    arena.server(b, version, PORT)
    arena.apply()
    assert arena.dial_in_silence(a, b, version, PORT)
    assert arena.count(DropReason.SLOT_NOT_READY) >= 1
    arena.slots[SLOT] = PROXY_PORT_MIN + SLOT
    arena.apply()
    assert arena.dial_in_silence(a, b, version, PORT)
    assert arena.count(DropReason.NO_LISTENER) >= 1


@VERSIONS
def test_dead_proxy_is_closed_never_open(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    proxy = redirect_ingress(arena)
    server = arena.server(b, version, PORT)
    client = arena.dial(a, b, version, PORT)
    proxy.accept(version).close()
    for listener in proxy.listeners.values():
        listener.close()
    assert client.recv(1) == b""
    assert arena.dial_in_silence(a, b, version, PORT)
    server.settimeout(0)
    with pytest.raises(BlockingIOError):
        server.accept()


@VERSIONS
def test_client_port_is_usable_again_though_the_proxy_closed_first(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    proxy = redirect_ingress(arena)
    for _ in range(3):
        client = arena.dial(a, b, version, PORT, source_port=41000)
        accepted = proxy.accept(version)
        exchange(client, accepted)
        accepted.close()
        assert client.recv(1) == b""
        client.close()


@VERSIONS
def test_redirect_from_outside_goes_round_the_hairpin(
    arena: Arena, no_early_demux: None, b: Pod, world: Pod, version: int
) -> None:
    proxy = redirect_ingress(arena)
    server = arena.server(b, version, PORT)
    arena.dial(world, b, version, PORT)
    accepted = proxy.accept(version)
    assert accepted.getsockname()[:2] == (b.address(version), PORT)
    assert accepted.getpeername()[0] == world.address(version)
    assert arena.count(PassReason.HAIRPINNED, Hook.TO_ENDPOINT) >= 1
    assert arena.count(PassReason.REDIRECTED, Hook.FROM_HAIRPIN) >= 1
    upstream = proxy.upstream(accepted)
    exchange(upstream, arena.owned(server.accept()[0]))


@VERSIONS
def test_redirect_from_outside_needs_no_hairpin_at_an_attached_uplink(arena: Arena, b: Pod, world: Pod, version: int) -> None:
    arena.datapath.attach_uplink(UPLINK_INTERFACE)
    proxy = redirect_ingress(arena)
    server = arena.server(b, version, PORT)
    client = arena.dial(world, b, version, PORT)
    accepted = proxy.accept(version)
    exchange(client, accepted)
    upstream = proxy.upstream(accepted)
    peer = arena.owned(server.accept()[0])
    assert peer.getpeername()[0] == world.address(version)
    exchange(upstream, peer)
    assert arena.count(PassReason.HAIRPINNED) == 0


@VERSIONS
def test_proxy_reaches_outside_from_its_clients_address(arena: Arena, a: Pod, world: Pod, version: int) -> None:
    arena.datapath.attach_uplink(UPLINK_INTERFACE)
    arena.open_all("a")
    proxy = Proxy(arena, SLOT)
    arena.rule("a", Direction.EGRESS, redirect(SLOT), protocol=TCP, port=PORT)
    arena.apply()
    server = arena.server(world, version, PORT)
    client = arena.dial(a, world, version, PORT)
    accepted = proxy.accept(version)
    assert accepted.getsockname()[:2] == (world.address(version), PORT)
    exchange(client, accepted)
    upstream = proxy.upstream(accepted)
    peer = arena.owned(server.accept()[0])
    assert peer.getpeername()[0] == a.address(version)
    exchange(upstream, peer)
    assert arena.count(PassReason.REDIRECTED, Hook.FROM_NETDEV) >= 1


@VERSIONS
def test_without_early_demux_the_uplink_needs_no_program(
    arena: Arena, no_early_demux: None, a: Pod, world: Pod, version: int
) -> None:
    arena.open_all("a")
    proxy = Proxy(arena, SLOT)
    arena.rule("a", Direction.EGRESS, redirect(SLOT), protocol=TCP, port=PORT)
    arena.apply()
    server = arena.server(world, version, PORT)
    arena.dial(a, world, version, PORT)
    upstream = proxy.upstream(proxy.accept(version))
    exchange(upstream, arena.owned(server.accept()[0]))
    assert arena.count(PassReason.REDIRECTED, Hook.FROM_HAIRPIN) >= 1


@VERSIONS
def test_proxy_reaches_a_server_on_this_host_from_its_clients_address(arena: Arena, a: Pod, version: int) -> None:
    arena.open_all("a")
    proxy = Proxy(arena, SLOT)
    arena.rule("a", Direction.EGRESS, redirect(SLOT), protocol=TCP, port=PORT)
    arena.apply()
    server = arena.server(arena.cluster.host, version, PORT)
    client = arena.dial(a, arena.cluster.host, version, PORT)
    accepted = proxy.accept(version)
    exchange(client, accepted)
    upstream = proxy.upstream(accepted)
    peer = arena.owned(server.accept()[0])
    assert peer.getpeername()[0] == a.address(version)
    exchange(upstream, peer)


# ---- policy changes under live connections --------------------------------------------------------------------------


@VERSIONS
def test_direct_connection_that_must_be_redirected_is_reset_at_both_ends(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    arena.open_all("a", "b")
    arena.apply()
    listener = arena.server(b, version, PORT)
    client = arena.dial(a, b, version, PORT)
    peer = arena.owned(listener.accept()[0])
    exchange(client, peer)
    proxy = redirect_ingress(arena)
    sends_until_reset(client)
    sends_until_reset(peer)
    assert arena.count(DropReason.FLOW_MOVED, Hook.FROM_ENDPOINT) >= 2
    again = arena.dial(a, b, version, PORT)
    exchange(again, proxy.accept(version))


@VERSIONS
@pytest.mark.parametrize("uplink", [False, True])
def test_direct_connection_from_outside_is_reset_too(arena: Arena, b: Pod, world: Pod, version: int, uplink: bool) -> None:
    if uplink:
        arena.datapath.attach_uplink(UPLINK_INTERFACE)
    arena.open_all("b")
    arena.apply()
    listener = arena.server(b, version, PORT)
    client = arena.dial(world, b, version, PORT)
    peer = arena.owned(listener.accept()[0])
    exchange(client, peer)
    redirect_ingress(arena)
    sends_until_reset(client)
    sends_until_reset(peer)
    assert arena.count(DropReason.FLOW_MOVED, Hook.FROM_NETDEV if uplink else Hook.TO_ENDPOINT) >= 1


@VERSIONS
def test_denied_connection_stops_and_goes_on_when_allowed_again(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    arena.open_all("a", "b")
    arena.apply()
    listener = arena.server(b, version, PORT)
    client = arena.dial(a, b, version, PORT)
    peer = arena.owned(listener.accept()[0])
    exchange(client, peer)
    arena.rule("b", Direction.INGRESS, DENY, protocol=TCP, port=PORT)
    arena.apply()
    peer.settimeout(SILENCE_SECONDS)
    client.sendall(b"late")
    with pytest.raises(TimeoutError):
        peer.recv(4)
    client.settimeout(SILENCE_SECONDS)
    peer.sendall(b"back")
    with pytest.raises(TimeoutError):
        client.recv(4)
    arena.open_all("a", "b")
    del arena.policy[next(key for key in arena.policy if key.port == PORT)]
    arena.apply()
    peer.settimeout(SECONDS_MAX)
    assert peer.recv(4) == b"late"


@VERSIONS
def test_denied_redirected_connection_is_closed_at_once_by_destroying_its_socket(
    arena: Arena, a: Pod, b: Pod, version: int
) -> None:
    proxy = redirect_ingress(arena)
    client = arena.dial(a, b, version, PORT)
    accepted = proxy.accept(version)
    exchange(client, accepted)
    arena.rule("b", Direction.INGRESS, DENY, protocol=TCP, port=PORT)
    arena.apply()
    assert arena.datapath.destroy_connections(lambda entry: entry.slot == SLOT) == 1
    assert is_reset(client)
    with pytest.raises(ConnectionAbortedError):
        accepted.recv(1)
    assert not list(arena.datapath.conntrack_entries())


@VERSIONS
def test_servers_syn_from_its_port_is_a_new_connection_not_a_reply(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    arena.open_all("a", "b")
    arena.rule("a", Direction.INGRESS, DENY)
    arena.apply()
    listener = arena.server(b, version, PORT)
    client = arena.dial(a, b, version, PORT)
    peer = arena.owned(listener.accept()[0])
    exchange(client, peer)
    port = client.getsockname()[1]
    client.close()
    assert peer.recv(1) == b""
    peer.close()
    listener.close()
    target = arena.server(a, version, port)
    back = arena.tcp(b, version)
    back.settimeout(SILENCE_SECONDS)
    back.bind((b.address(version), PORT))
    with pytest.raises(TimeoutError):
        back.connect((a.address(version), port))
    target.settimeout(0)
    with pytest.raises(BlockingIOError):
        target.accept()


@VERSIONS
def test_connection_older_than_the_data_plane_lives_on_where_nothing_denies_it(
    arena: Arena, a: Pod, b: Pod, version: int
) -> None:
    arena.open_all("a", "b")
    arena.apply()
    listener = arena.server(b, version, PORT)
    client = arena.dial(a, b, version, PORT)
    peer = arena.owned(listener.accept()[0])
    for entry in list(arena.datapath.conntrack_entries()):
        arena.datapath.conntrack_delete(entry)
    peer.sendall(b"first from the server")
    assert client.recv(64) == b"first from the server"
    exchange(client, peer)
    # The first packet seen was the server's, so its direction is a guess: both are judged.
    redirect_ingress(arena)
    sends_until_reset(client)


@VERSIONS
@pytest.mark.parametrize("denied", [True, False])
def test_client_of_the_proxy_whose_entry_was_evicted_meets_the_policy_of_today(
    arena: Arena, a: Pod, b: Pod, version: int, denied: bool
) -> None:
    proxy = redirect_ingress(arena)
    client = arena.dial(a, b, version, PORT)
    accepted = proxy.accept(version)
    client.sendall(b"one")
    assert accepted.recv(3) == b"one"
    for entry in list(arena.datapath.conntrack_entries()):  # as when the table is full of others
        arena.datapath.conntrack_delete(entry)
    if denied:
        arena.rule("b", Direction.INGRESS, DENY, protocol=TCP, port=PORT)
        arena.apply()
    client.sendall(b"two")
    if denied:
        accepted.settimeout(SILENCE_SECONDS)
        with pytest.raises(TimeoutError):
            accepted.recv(3)
        assert arena.count(DropReason.POLICY_DENIED)
    else:
        assert accepted.recv(3, socket.MSG_WAITALL) == b"two"
        assert [(entry.kind, entry.slot) for entry in arena.datapath.conntrack_entries()] == [(ConntrackKind.REDIRECT, SLOT)]


@VERSIONS
def test_unknown_connection_to_a_policed_port_is_refused(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    arena.open_all("a", "b")
    arena.rule("a", Direction.INGRESS, DENY)
    arena.apply()
    listener = arena.server(b, version, PORT)
    client = arena.dial(a, b, version, PORT)
    peer = arena.owned(listener.accept()[0])
    for entry in list(arena.datapath.conntrack_entries()):
        arena.datapath.conntrack_delete(entry)
    client.sendall(b"late")
    peer.settimeout(SILENCE_SECONDS)
    with pytest.raises(TimeoutError):
        peer.recv(4)
    assert arena.count(DropReason.CT_MISSING, Hook.FROM_ENDPOINT) >= 1


@VERSIONS
def test_programs_are_replaced_under_live_connections(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    proxy = redirect_ingress(arena)
    client = arena.dial(a, b, version, PORT)
    accepted = proxy.accept(version)
    arena.datapath.close()
    report = arena.datapath.load()
    arena.datapath.open()
    assert report.maps_created == report.maps_replaced == ()
    exchange(client, accepted)
    assert arena.datapath.read() == arena.state()


# ---- what pods must not do ------------------------------------------------------------------------------------------


@VERSIONS
def test_pod_can_not_dial_a_proxy_port(arena: Arena, a: Pod, version: int) -> None:
    arena.open_all("a")
    arena.apply()
    proxy = Proxy(arena, SLOT)
    arena.server(arena.cluster.host, version, proxy.port + 1)
    assert arena.dial_in_silence(a, arena.cluster.host, version, proxy.port)
    assert arena.dial_in_silence(a, arena.cluster.host, version, proxy.port + 1)
    assert arena.count(DropReason.PROXY_PORT) >= 2


@VERSIONS
def test_pod_can_not_lend_itself_an_address(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    arena.open_all("a", "b")
    arena.apply()
    server = arena.udp(b, version, PORT)
    with arena.inside(a):
        stolen = "10.0.200.1" if version == 4 else "fd00:10::beef"
        subprocess.run(["ip", "addr", "add", stolen, "dev", "lo", *(["nodad"] if version == 6 else [])], check=True)
    thief = arena.udp(a, version)
    with arena.inside(a):
        thief = arena.owned(socket.socket(thief.family, socket.SOCK_DGRAM))
    thief.bind((stolen, 0))
    thief.sendto(b"hello", (b.address(version), PORT))
    server.settimeout(SILENCE_SECONDS)
    with pytest.raises(TimeoutError):
        server.recv(64)
    assert arena.count(DropReason.SPOOFED, Hook.FROM_ENDPOINT) == 1


@VERSIONS
def test_frame_that_ends_within_its_ip_header_is_dropped(arena: Arena, a: Pod, version: int) -> None:
    arena.open_all("a")
    arena.apply()
    with arena.inside(a):
        raw = arena.owned(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        raw.bind(("eth0", 0))
    ethertype = b"\x08\x00" if version == 4 else b"\x86\xdd"
    raw.send(b"\xff" * 6 + b"\x02" * 6 + ethertype + b"\x45\x00")
    eventually(lambda: arena.count(DropReason.TRUNCATED, Hook.FROM_ENDPOINT) == 1, "the cut frame is counted")


# ---- answers instead of silence -------------------------------------------------------------------------------------


@VERSIONS
def test_denied_sender_is_answered_if_the_node_says_so(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    arena.reopen(deny_reply=True)
    try:
        arena.rule("a", Direction.EGRESS, ALLOW)
        arena.apply()
        with pytest.raises(ConnectionRefusedError):
            arena.dial(a, b, version, PORT)
        client = arena.udp(a, version)
        client.connect((b.address(version), PORT))
        client.send(b"anyone?")
        with pytest.raises(OSError) as refused:
            client.recv(1)
        assert refused.value.errno in (errno.EACCES, errno.EHOSTUNREACH)
        assert arena.count(PassReason.REPLY_SENT, Hook.FROM_ENDPOINT) >= 2
        assert arena.count(PassReason.OWN_REPLY, Hook.TO_ENDPOINT) >= 2
    finally:
        arena.reopen(deny_reply=False)


@VERSIONS
def test_events_tell_who_was_denied_and_who_was_redirected(arena: Arena, a: Pod, b: Pod, version: int) -> None:
    with arena.datapath.events() as reader:
        list(reader.read())
        proxy = redirect_ingress(arena)
        arena.rule("b", Direction.INGRESS, DENY, protocol=UDP)
        arena.apply()
        client = arena.dial(a, b, version, PORT)
        proxy.accept(version)
        arena.udp(a, version).sendto(b"no", (b.address(version), 53))
        told = [(event.reason, event.slot, event.source_identity, event.destination_identity) for event in reader.read()]
        assert told == [
            (PassReason.REDIRECTED, SLOT, arena.identities["a"], arena.identities["b"]),
            (DropReason.POLICY_DENIED, 0, arena.identities["a"], arena.identities["b"]),
        ]
        assert client.getpeername()[1] == PORT


# ---- host workloads -------------------------------------------------------------------------------------------------

_CHILD = textwrap.dedent(
    """
    import socket, sys
    family, address, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    sock = socket.socket(family, socket.SOCK_STREAM)
    if address == "listen":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", port))
        sock.listen()
        print("listening", flush=True)
        sys.stdin.readline()
        sys.exit()
    sock.settimeout(5)
    try:
        sock.connect((address, port))
    except OSError as error:
        print("error", error.errno, flush=True)
        sys.exit()
    print("connected", sock.getpeername()[0], sock.getpeername()[1], sock.getsockname()[0], flush=True)
    sys.stdin.readline()
    sock.sendall(b"hello")
    print(sock.recv(5).decode(), flush=True)
    """
)


class Workload:
    """A process in a cgroup of its own (a child of the selected one), in the host's namespace."""

    def __init__(self, arena: Arena, cgroup: str, arguments: list[str]) -> None:
        leaf = mount_point() / cgroup / "leaf"
        leaf.mkdir(exist_ok=True)
        script = f'echo $$ > {leaf}/cgroup.procs && exec {sys.executable} -c "$0" "$@"'
        self.process = subprocess.Popen(
            ["sh", "-c", script, _CHILD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        arena.at_reset(self.end)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def cgroup(arena: Arena) -> Iterator[str]:
    name = f"tgtest-{os.getpid()}"
    directory = mount_point() / name
    directory.mkdir()
    number = arena.datapath.attach_cgroup(name)
    arena.identities["workload"] = IdentityNumber(700)
    arena.cgroups[number] = arena.identities["workload"]
    arena.reopen(host_ipv4=None, host_ipv6=None)
    yield name
    arena.reset()  # ends the workloads, also those of a test that failed
    arena.datapath.detach_cgroup(number)
    for path in (directory / "leaf", directory):
        if path.exists():
            eventually(lambda path=path: not (path / "cgroup.procs").read_text(), f"{path} is empty")  # type: ignore[misc]
            path.rmdir()


def family_number(version: int) -> str:
    return str(int(socket.AF_INET if version == 4 else socket.AF_INET6))


@VERSIONS
def test_workload_of_a_cgroup_is_allowed_and_denied(arena: Arena, b: Pod, cgroup: str, version: int) -> None:
    arena.open_all("b")
    arena.rule("workload", Direction.EGRESS, ALLOW, peer="b", protocol=TCP, port=PORT)
    arena.apply()
    server = arena.server(b, version, PORT)
    allowed = Workload(arena, cgroup, [family_number(version), b.address(version), str(PORT)])
    assert allowed.line().startswith("connected")
    arena.owned(server.accept()[0])
    allowed.end()
    denied = Workload(arena, cgroup, [family_number(version), b.address(version), str(PORT + 1)])
    assert denied.line() == f"error {errno.EPERM}"
    denied.end()
    assert arena.count(DropReason.POLICY_DENIED, Hook.CGROUP_CONNECT) == 1
    unselected = arena.tcp(arena.cluster.host, version)
    with pytest.raises(ConnectionRefusedError):
        unselected.connect((b.address(version), PORT + 1))


@VERSIONS
def test_workload_is_redirected_without_noticing(arena: Arena, b: Pod, cgroup: str, version: int) -> None:
    arena.reopen(host_ipv4=ip_address(NODE_V4), host_ipv6=ip_address(NODE_V6))
    arena.rule("b", Direction.INGRESS, ALLOW, peer="workload", protocol=TCP, port=PORT)  # and to nobody else
    proxy = Proxy(arena, SLOT)
    arena.rule("workload", Direction.EGRESS, redirect(SLOT), peer="b", protocol=TCP, port=PORT)
    arena.apply()
    server = arena.server(b, version, PORT)
    workload = Workload(arena, cgroup, [family_number(version), b.address(version), str(PORT)])
    accepted = proxy.accept(version)
    node = NODE_V4 if version == 4 else NODE_V6
    assert workload.line() == f"connected {b.address(version)} {PORT} {node}"
    assert accepted.getpeername()[0] == node
    if version == 4:
        raw = accepted.getsockopt(socket.SOL_IP, 80, 16)
        port, address = struct.unpack_from("!H4s", raw, 2)
        original = (socket.inet_ntop(socket.AF_INET, address), port)
    else:
        raw = accepted.getsockopt(socket.IPPROTO_IPV6, 80, 28)
        port, address = struct.unpack_from("!H4x16s", raw, 2)
        original = (socket.inet_ntop(socket.AF_INET6, address), port)
    assert original == (b.address(version), PORT)
    upstream = proxy.upstream_to(version, node, original)
    exchange(upstream, arena.owned(server.accept()[0]))
    workload.go()
    assert accepted.recv(5) == b"hello"
    accepted.sendall(b"world")
    assert workload.line() == "world"
    workload.end()


@VERSIONS
def test_redirected_workload_connection_is_closed_by_destroying_its_socket(
    arena: Arena, b: Pod, cgroup: str, version: int
) -> None:
    arena.reopen(host_ipv4=ip_address(NODE_V4), host_ipv6=ip_address(NODE_V6))
    arena.open_all("b")
    proxy = Proxy(arena, SLOT)
    arena.rule("workload", Direction.EGRESS, redirect(SLOT), peer="b", protocol=TCP, port=PORT)
    arena.apply()
    workload = Workload(arena, cgroup, [family_number(version), b.address(version), str(PORT)])
    accepted = proxy.accept(version)
    assert workload.line().startswith("connected")
    mine = [item for item in arena.datapath.workload_connections() if item.client_port == accepted.getpeername()[1]]
    assert [(str(item.destination), item.destination_port, item.proxy_port, item.identity) for item in mine] == [
        (b.address(version), PORT, proxy.port, arena.identities["workload"])
    ]
    assert arena.datapath.destroy_workload_connections(lambda item: item in mine) == 1
    with pytest.raises(ConnectionAbortedError):
        accepted.recv(1)
    workload.end()


@VERSIONS
def test_open_connection_of_a_workload_feels_a_new_policy(arena: Arena, b: Pod, cgroup: str, version: int) -> None:
    arena.open_all("b", "workload")
    arena.apply()
    server = arena.server(b, version, PORT)
    workload = Workload(arena, cgroup, [family_number(version), b.address(version), str(PORT)])
    assert workload.line().startswith("connected")
    peer = arena.owned(server.accept()[0])
    arena.rule("workload", Direction.EGRESS, DENY, peer="b", protocol=TCP, port=PORT)
    arena.apply()
    workload.go()
    peer.settimeout(SILENCE_SECONDS)
    with pytest.raises(TimeoutError):
        peer.recv(5)
    assert arena.count(DropReason.POLICY_DENIED, Hook.CGROUP_EGRESS) >= 1
    workload.end()


@VERSIONS
def test_what_a_workload_receives_is_judged(arena: Arena, a: Pod, b: Pod, cgroup: str, version: int) -> None:
    arena.open_all("a", "b")
    arena.rule("workload", Direction.EGRESS, ALLOW)
    arena.rule("workload", Direction.INGRESS, ALLOW, peer="a", protocol=TCP, port=PORT)
    arena.rule("workload", Direction.INGRESS, redirect(SLOT), peer="a", protocol=TCP, port=PORT + 1)
    arena.apply()
    listening = [Workload(arena, cgroup, [family_number(version), "listen", str(port)]) for port in (PORT, PORT + 1)]
    assert [workload.line() for workload in listening] == ["listening", "listening"]
    arena.dial(a, arena.cluster.host, version, PORT).close()
    assert arena.dial_in_silence(b, arena.cluster.host, version, PORT)
    assert arena.count(DropReason.POLICY_DENIED, Hook.CGROUP_INGRESS) >= 1
    assert arena.dial_in_silence(a, arena.cluster.host, version, PORT + 1)
    assert arena.count(DropReason.REDIRECT_WORKLOAD, Hook.CGROUP_INGRESS) >= 1
    arena.dial(arena.cluster.host, arena.cluster.host, version, PORT).close()
    for workload in listening:
        workload.end()


@VERSIONS
def test_workload_redirect_needs_the_nodes_address(arena: Arena, b: Pod, cgroup: str, version: int) -> None:
    arena.open_all("b")
    Proxy(arena, SLOT)
    arena.rule("workload", Direction.EGRESS, redirect(SLOT), peer=int(Reserved.ANY), protocol=TCP)
    arena.apply()
    workload = Workload(arena, cgroup, [family_number(version), b.address(version), str(PORT)])
    assert workload.line() == f"error {errno.EPERM}"
    workload.end()
    assert arena.count(DropReason.NO_HOST_ADDRESS) == 1


# ---- the end --------------------------------------------------------------------------------------------------------


def test_rule_comes_with_the_first_slot_and_cleanup_leaves_nothing_behind() -> None:
    with Arena("clean") as arena:
        pod = arena.pod("a")
        arena.world(uplink=True)
        arena.open_all("a")
        arena.apply()
        with netns(NETNS_DIRECTORY / arena.cluster.node_netns):
            assert "2004" not in ip_text("-4", "rule"), "a rule makes every route lookup slower: none without a slot"
            arena.slots[SLOT] = PROXY_PORT_MIN + SLOT
            arena.apply()
            assert "2004" in ip_text("-4", "rule")
            assert "2004" in ip_text("-6", "rule")
        arena.datapath.cleanup()
        assert not os.path.exists(arena.datapath.settings.pin_root)
        assert not list((arena.datapath.settings.state_directory).glob("*"))
        for interface in (str(pod.interface), UPLINK_INTERFACE):
            shown = subprocess.run(["bpftool", "net", "show", "dev", interface], capture_output=True, text=True, check=False)
            assert "tg_" not in shown.stdout
        with netns(NETNS_DIRECTORY / arena.cluster.node_netns):
            for flag in ("-4", "-6"):
                assert "2004" not in ip_text(flag, "rule")
                assert ip_text(flag, "route", "show", "table", "2004") == ""
            assert "tg-hairpin" not in ip_text("link")
        with pytest.raises(PinMissing):
            arena.datapath.open()
        arena.datapath.cleanup()


def ip_text(*arguments: str) -> str:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip()
