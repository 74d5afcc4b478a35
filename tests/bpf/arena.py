"""A node with pods and a loaded data plane, and sockets anywhere in it, all in this process.

A socket stays in the network namespace in which it was made, so one thread that steps in and out of namespaces can hold
both ends of every connection; nothing runs concurrently but the kernel. ``Proxy`` stands in for Envoy: a transparent
listener per slot, and upstream sockets from the client's own address.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from types import TracebackType
from typing import Any, Self

from bpf_redirect.abi import MARK_FROM_PROXY, DropReason, Hook, PassReason, Reason
from bpf_redirect.datapath import Datapath, DatapathSettings
from bpf_redirect.events import CounterValue
from bpf_redirect.host import HostNames
from bpf_redirect.offload import forget_over
from l7filters.identity import IdentityNumber, Network, Reserved
from l7filters.ir import EntryKey
from l7filters.mapstate import EndpointValue, IpcacheValue, MapState, MapVerdict, PolicyValue, SlotValue
from l7filters.model import Direction, Offload
from tests.support.netns import NETNS_DIRECTORY, NODE_V4, NODE_V6, UPLINK_INTERFACE, UPLINK_V4, UPLINK_V6, Cluster, Pod

PROXY_PORT_MIN = 19000
SECONDS_MAX = 5.0
"""Of waiting for something that must happen; reached only by a failing test."""
SILENCE_SECONDS = 0.3
"""Of waiting for something that must not happen: three times the slowest thing seen on these veths."""
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75

FIRST_POD_IDENTITY = 300
REMOTE_IDENTITY = 900
ALLOW = PolicyValue(MapVerdict.ALLOW)
DENY = PolicyValue(MapVerdict.DENY)
LOCALHOST = {4: "127.0.0.1", 6: "::1"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


HOST_IS_OPEN = EntryKey(IdentityNumber(Reserved.HOST), IdentityNumber(Reserved.ANY), Direction.INGRESS, None, 0, 0)
"""As compile writes it where no policy is for this node."""


def redirect(slot: int, would_deny: bool = False) -> PolicyValue:
    """A redirect entry."""
    return PolicyValue(MapVerdict.REDIRECT, slot, would_deny)


@contextlib.contextmanager
def netns(path: str | os.PathLike[str]) -> Iterator[None]:
    """Run a block in another network namespace."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(path, os.O_RDONLY)
    try:
        if _libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            if _libc.setns(here, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns back")
    finally:
        os.close(there)
        os.close(here)


def _abort(made: socket.socket) -> None:
    """Close so that nothing is sent again later, into the counts of another test."""
    if made.fileno() >= 0 and made.type == socket.SOCK_STREAM:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.close()


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Poll until ``condition`` holds; fail the test if it does not in time."""
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, f"not within {SECONDS_MAX} s: {what}"
        time.sleep(0.005)


class Arena:
    """The node, its pods and the data plane. Identities of pods are 300, 301, ... in order of creation."""

    def __init__(self, tag: str, **settings: Any) -> None:
        self.cluster = Cluster("tgbpf")
        self._exits = contextlib.ExitStack()
        self._sockets = contextlib.ExitStack()
        self._baseline: dict[tuple[Reason, Hook], CounterValue] = {}
        self._tag = tag
        self._settings = settings
        self.identities: dict[str, IdentityNumber] = {}
        self.datapath = Datapath()
        self.policy: dict[EntryKey, PolicyValue] = {}
        self.slots: dict[int, int] = {}
        self.offload: dict[int, Offload] = {}
        self.pairs: dict[tuple[int, int], int] = {}
        self.extra_ipcache: dict[Network, IpcacheValue] = {}
        self.cgroups: dict[int, IdentityNumber] = {}
        self.closed: set[str] = set()
        self.ifindexes: dict[str, int] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.enter_context(self.cluster)
            undo.enter_context(netns(NETNS_DIRECTORY / self.cluster.node_netns))
            settings = DatapathSettings(
                pin_root=f"/sys/fs/bpf/tgtest-{os.getpid()}-{self._tag}",
                state_directory=self.cluster.directory / "state",
                proxy_port_min=PROXY_PORT_MIN,
                names=HostNames(),
                **self._settings,
            )
            self.datapath = Datapath(settings)
            undo.callback(lambda: self.datapath.cleanup())
            undo.callback(lambda: self._sockets.close())
            self.datapath.load()
            self.datapath.open()
            self._exits = undo.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._exits.close()

    # ---- building ---------------------------------------------------------------------------------------------------

    def pod(self, name: str) -> Pod:
        """A local pod with the data plane on its veth. Its entry is written by ``apply``."""
        pod = self.cluster.pod(name)
        self.identities[name] = IdentityNumber(FIRST_POD_IDENTITY + len(self.identities))
        assert pod.interface is not None
        self.ifindexes[name] = self.datapath.attach_endpoint(pod.interface)
        return pod

    def world(self, uplink: bool) -> Pod:
        """A machine beyond the uplink; ``uplink`` says whether the uplink has a program."""
        pod = self.cluster.world("world")
        if uplink:
            self.datapath.attach_uplink(UPLINK_INTERFACE)
        for address in (pod.ipv4, pod.ipv6):
            self.extra_ipcache[ip_network(address)] = IpcacheValue(IdentityNumber(REMOTE_IDENTITY))
        return pod

    def rule(
        self,
        subject: str,
        direction: Direction,
        value: PolicyValue,
        peer: str | int = Reserved.ANY,
        protocol: int | None = None,
        port: int = 0,
    ) -> None:
        """Set one policy entry; it is written by ``apply``."""
        number = self.identities[peer] if isinstance(peer, str) else IdentityNumber(peer)
        key = EntryKey(self.identities[subject], number, direction, protocol, port, 16 if port else 0)
        self.policy[key] = value

    def open_all(self, *names: str) -> None:
        """No policy for these pods: everything is allowed, both ways."""
        for name in names:
            for direction in Direction:
                self.rule(name, direction, ALLOW)

    def state(self) -> MapState:
        """What the maps should hold now."""
        ipcache: dict[Network, IpcacheValue] = {
            ip_network("0.0.0.0/0"): IpcacheValue(IdentityNumber(Reserved.WORLD_IPV4)),
            ip_network("::/0"): IpcacheValue(IdentityNumber(Reserved.WORLD_IPV6)),
        }
        for address in (NODE_V4, NODE_V6, UPLINK_V4, UPLINK_V6, "fe80::1"):
            ipcache[ip_network(address)] = IpcacheValue(IdentityNumber(Reserved.HOST))
        endpoints = {}
        for name, pod in self.cluster.pods.items():
            for address in (pod.ipv4, pod.ipv6):
                ipcache[ip_network(address)] = IpcacheValue(self.identities[name], self.ifindexes[name])
            if name not in self.closed:
                addresses = (ip_address(pod.ipv4), ip_address(pod.ipv6))
                endpoints[self.ifindexes[name]] = EndpointValue(self.identities[name], addresses)
        return MapState(
            ipcache=ipcache | self.extra_ipcache,
            policy={HOST_IS_OPEN: ALLOW, **self.policy},
            slots={slot: SlotValue(port, offload=self.offload.get(slot)) for slot, port in self.slots.items()},
            pairs=dict(self.pairs),
            endpoints=endpoints,
            cgroups=dict(self.cgroups),
        )

    def apply(self) -> None:
        """Write everything to the maps."""
        self.datapath.apply(self.state())

    def reset(self) -> None:
        """No policy, no slot, no known connection: where each test begins."""
        self._sockets.close()
        for name in (self.policy, self.slots, self.offload, self.pairs, self.cgroups):
            name.clear()
        self.closed.clear()
        self.datapath.apply(MapState())
        for entry in list(self.datapath.conntrack_entries()):
            self.datapath.conntrack_delete(entry)
        forget_over(self.datapath.maps["tg_offload"], 1 << 63)
        self._baseline = dict(self.datapath.counters())

    def reopen(self, **changes: Any) -> None:
        """The agent starts again with other settings, over the same pins."""
        self.datapath.close()
        self.datapath = Datapath(replace(self.datapath.settings, **changes))
        self.datapath.open()

    # ---- observing ----------------------------------------------------------------------------------------------------

    def counted(self) -> Mapping[tuple[Reason, Hook], int]:
        """Packets per reason and hook since the last reset."""
        before = {key: value.packets for key, value in self._baseline.items()}
        now = {key: value.packets - before.get(key, 0) for key, value in self.datapath.counters().items()}
        return {key: packets for key, packets in now.items() if packets}

    def count(self, reason: PassReason | DropReason, hook: Hook | None = None) -> int:
        """Packets that left for ``reason`` (at ``hook``)."""
        return sum(
            packets for (name, where), packets in self.counted().items() if name is reason and (hook is None or where is hook)
        )

    # ---- sockets ------------------------------------------------------------------------------------------------------

    def inside(self, pod: Pod) -> contextlib.AbstractContextManager[None]:
        """Step into a pod's namespace."""
        return netns(NETNS_DIRECTORY / pod.netns)

    def at_reset(self, undo: Callable[[], None]) -> None:
        """Have something undone at the next reset, at the latest when the arena ends."""
        self._sockets.callback(undo)

    def owned(self, made: socket.socket) -> socket.socket:
        """Close at the next reset, at the latest."""
        self._sockets.callback(_abort, made)
        made.settimeout(SECONDS_MAX)
        return made

    def tcp(self, pod: Pod, version: int) -> socket.socket:
        """A TCP socket in a pod (or the host)."""
        with self.inside(pod):
            made = self.owned(socket.socket(FAMILY[version], socket.SOCK_STREAM))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return made

    def udp(self, pod: Pod, version: int, port: int = 0) -> socket.socket:
        """A UDP socket bound to the pod's address."""
        with self.inside(pod):
            made = self.owned(socket.socket(FAMILY[version], socket.SOCK_DGRAM))
        made.bind((pod.address(version), port))
        return made

    def server(self, pod: Pod, version: int, port: int) -> socket.socket:
        """A listening TCP socket on every address of a pod."""
        made = self.tcp(pod, version)
        made.bind(("0.0.0.0" if version == 4 else "::", port))
        made.listen(16)
        return made

    def dial(self, pod: Pod, target: Pod, version: int, port: int, source_port: int = 0) -> socket.socket:
        """Connect from a pod to another; raises what connect raises."""
        made = self.tcp(pod, version)
        if source_port:
            made.bind((pod.address(version), source_port))
        made.connect((target.address(version), port))
        return made

    def dial_in_silence(self, pod: Pod, target: Pod, version: int, port: int) -> bool:
        """Whether a connect meets silence: neither accepted nor refused."""
        made = self.tcp(pod, version)
        made.settimeout(SILENCE_SECONDS)
        try:
            made.connect((target.address(version), port))
        except TimeoutError:
            return True
        except OSError:
            return False
        finally:
            made.close()
        return False


class Proxy:
    """Stands in for Envoy on one slot."""

    def __init__(self, arena: Arena, slot: int) -> None:
        self.arena = arena
        self.slot = slot
        self.port = PROXY_PORT_MIN + slot
        self.listeners = {version: self._listener(version) for version in (4, 6)}
        arena.slots[slot] = self.port

    def _transparent(self, version: int) -> socket.socket:
        made = self.arena.owned(socket.socket(FAMILY[version], socket.SOCK_STREAM))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_FROM_PROXY)
        if version == 4:
            made.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        return made

    def _listener(self, version: int) -> socket.socket:
        made = self._transparent(version)
        made.bind((LOCALHOST[version], self.port))
        made.listen(16)
        return made

    def accept(self, version: int) -> socket.socket:
        """The next redirected connection."""
        accepted, _ = self.listeners[version].accept()
        return self.arena.owned(accepted)

    def upstream(self, accepted: socket.socket, source_port: int = 0) -> socket.socket:
        """Connect to where ``accepted`` was going, from its client's address (original_src)."""
        version = 4 if accepted.family == socket.AF_INET else 6
        return self.upstream_to(version, accepted.getpeername()[0], accepted.getsockname()[:2], source_port)

    def upstream_to(self, version: int, source: str, target: tuple[str, int], source_port: int = 0) -> socket.socket:
        """Connect to ``target`` from ``source``."""
        made = self._transparent(version)
        made.bind((source, source_port))
        made.connect(target)
        return made


def exchange(client: socket.socket, server: socket.socket, text: bytes = b"ping") -> None:
    """Bytes pass both ways."""
    client.sendall(text)
    assert server.recv(len(text), socket.MSG_WAITALL) == text
    server.sendall(text[::-1])
    assert client.recv(len(text), socket.MSG_WAITALL) == text[::-1]
