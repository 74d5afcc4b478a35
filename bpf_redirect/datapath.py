"""The data plane as the agent sees it: load, attach, apply, watch, clean up.

Owns: the composition of this package. One Datapath is used from one thread; nothing here blocks longer than a system call,
except ``load`` (a second or two: it runs the loader process). Errors are those of ``errors.py``.

What outlives what: programs, maps and attachments are pinned, so they outlive this object and its process; ``cleanup``
alone takes them away. A new Datapath over the same pins goes on where the last one stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from bpf_redirect import abi, attach, bpf, cgroups, host, sockets, sync
from bpf_redirect.attach import Attachment, Side
from bpf_redirect.conntrack import (
    ConntrackEntry,
    WorkloadConnection,
    delete_entry,
    delete_workload_connection,
    read_entries,
    read_workload_connections,
)
from bpf_redirect.encode import address_struct, decode_struct, encode_u32
from bpf_redirect.errors import CompileError, HostError, KernelError, LoadError, VerifierError
from bpf_redirect.events import CounterValue, EventReader, EventTotals, read_counters, read_event_totals
from bpf_redirect.l7_verdicts import VerdictTable
from bpf_redirect.loader import LoadReport
from bpf_redirect.maps import Maps, MapSizes
from bpf_redirect.names import forget_pods
from bpf_redirect.pins import DEFAULT_ROOT, PinRoot
from bpf_redirect.sync import ApplyReport
from l7filters.mapstate import MapState

LOAD_SECONDS_MAX = 120
"""Compiling and verifying take two seconds on a fast core; a loaded, slow one gets a hundred times that before we give up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatapathSettings:
    """What a node can choose. ``host_ipv4``/``host_ipv6`` are needed for redirects of host workloads only."""

    pin_root: str = DEFAULT_ROOT
    state_directory: Path = Path("/run/tidegate")
    proxy_port_min: int = 19000
    maps: MapSizes = field(default_factory=MapSizes)
    names: host.HostNames = field(default_factory=host.HostNames)
    deny_reply: bool = False
    ct_missing_reset: bool = False
    event_sample_every: int = 1
    events_per_second: int = 1000
    events_burst: int = 2000
    host_ipv4: IPv4Address | None = None
    host_ipv6: IPv6Address | None = None
    disable_early_demux: bool = False
    """For nodes where pods' packets arrive by devices that are no attached uplink: the kernel would find the proxy's socket
    for them before routing, and does not forward a packet that has one (net.ipv4.{tcp,udp}_early_demux; both cover IPv6)."""
    proxy_cgroup: str = ""
    """Where the proxy runs, from the root of cgroup v2; narrows what its SO_ORIGINAL_DST costs others. Empty: the root."""

    @property
    def proxy_port_max(self) -> int:
        """The port of the last slot."""
        return self.proxy_port_min + abi.SLOTS_MAX - 1


# The programs of a selected cgroup, and those of the whole host.
_WORKLOAD_PROGRAMS = {
    "tg_connect4": bpf.AttachType.CGROUP_INET4_CONNECT,
    "tg_connect6": bpf.AttachType.CGROUP_INET6_CONNECT,
    "tg_sendmsg4": bpf.AttachType.CGROUP_UDP4_SENDMSG,
    "tg_sendmsg6": bpf.AttachType.CGROUP_UDP6_SENDMSG,
    "tg_getpeer4": bpf.AttachType.CGROUP_INET4_GETPEERNAME,
    "tg_getpeer6": bpf.AttachType.CGROUP_INET6_GETPEERNAME,
    "tg_cg_egress": bpf.AttachType.CGROUP_INET_EGRESS,
    "tg_cg_ingress": bpf.AttachType.CGROUP_INET_INGRESS,
}
_SO_NETNS_COOKIE = 71
_NETNS_FILE = "/proc/thread-self/ns/net"


def _netns_cookie() -> int:
    """Return the kernel's number of this network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return int(struct.unpack("=Q", probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0])


def _other_pods(held: MapState, wanted: MapState) -> frozenset[int]:
    """Return the interfaces behind which there is another pod now than before, or none: it has other addresses."""
    return frozenset(
        ifindex
        for ifindex in held.endpoints.keys() | wanted.endpoints.keys()
        if ifindex not in held.endpoints
        or ifindex not in wanted.endpoints
        or held.endpoints[ifindex].addresses != wanted.endpoints[ifindex].addresses
    )


def _load_error(answer: Mapping[str, object]) -> Exception:
    message, log = str(answer.get("message")), str(answer.get("log", ""))
    code = answer.get("code")
    number = code if isinstance(code, int) else 0
    match answer.get("kind"):
        case "VerifierError":
            return VerifierError(str(answer.get("program")), number, log)
        case "CompileError":
            return CompileError(log)
        case "KernelError" | "MapFull" | "PinMissing":
            return KernelError(message.rpartition(": ")[0], number, str(answer.get("hint", "")))
        case _:
            return LoadError(message, str(answer.get("hint", "")))


class Datapath:
    """The facade. ``load`` once, then ``open``, then attach and apply as the world changes."""

    def __init__(self, settings: DatapathSettings | None = None) -> None:
        self.settings = settings or DatapathSettings()
        self._root = PinRoot(self.settings.pin_root)
        self._maps: Maps | None = None
        self._routed = False

    # ---- life cycle ----------------------------------------------------------------------------------------------

    def load(self, *, verifier_log: bool = False) -> LoadReport:
        """Compile, load and pin everything in a process of its own, then give attachments the new programs.

        Raises CompileError, VerifierError, KernelError or LoadError; what ran before keeps running then.
        """
        command = [sys.executable, "-m", "bpf_redirect.loader", "--pin-root", self.settings.pin_root]
        command += ["--settings", json.dumps(asdict(self.settings.maps))]
        if verifier_log:
            command.append("--verifier-log")
        path = os.pathsep.join(entry for entry in sys.path if entry)
        try:
            process = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=LOAD_SECONDS_MAX,
                check=False,
                env={**os.environ, "PYTHONPATH": path},
            )
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"the loader took more than {LOAD_SECONDS_MAX} s") from error
        last_line = process.stdout.strip().rpartition("\n")[2]
        try:
            answer = json.loads(last_line)
        except json.JSONDecodeError as error:
            raise LoadError(f"the loader ended with {process.returncode}: {process.stderr.strip()[-500:]}") from error
        if not answer.pop("ok"):
            raise _load_error(answer)
        self._replace_attached()
        return LoadReport(
            programs=tuple(answer["programs"]),
            maps_created=tuple(answer["maps_created"]),
            maps_reused=tuple(answer["maps_reused"]),
            maps_replaced=tuple(answer["maps_replaced"]),
            compile_ms=answer["compile_ms"],
            load_ms=answer["load_ms"],
        )

    def open(self) -> None:
        """Open the pinned maps, write the configuration, and make hairpin and sysctls. Idempotent."""
        self.close()
        self._maps = Maps.open(self._root.maps)
        self._route_marked(sync.read(self._maps))
        hairpin_ifindex = host.make_hairpin(self.settings.names)
        wanted = host.wanted_sysctls(self.settings.names)
        for name in ("ipv4/tcp_early_demux", "ipv4/udp_early_demux"):
            if self.settings.disable_early_demux and host.get_sysctl(name) != "0":
                wanted[name] = "0"
        host.change_sysctls(wanted, self.settings.state_directory)
        self._attach(self.settings.names.hairpin_peer, Side.INGRESS, "tg_from_hair")
        self._configure(hairpin_ifindex)
        root = str(cgroups.mount_point())
        attach.attach_by_link(self._root, "root-tg_sock_ops", "tg_sock_ops", root, bpf.AttachType.CGROUP_SOCK_OPS)
        attach.attach_by_link(self._root, "net-tg_sk_lookup", "tg_sk_lookup", _NETNS_FILE, bpf.AttachType.SK_LOOKUP)

    def close(self) -> None:
        """Close the descriptors; the data plane goes on."""
        if self._maps is not None:
            self._maps.close()
            self._maps = None

    def cleanup(self) -> None:
        """Leave nothing behind: no program, pin, link, filter, rule, route, device or changed sysctl. Idempotent."""
        self.close()
        for name in attach.attached_links(self._root):
            interface = attach.interface_of(name)
            if interface is None:
                attach.detach_by_link(self._root, name)
            else:
                attach.detach_interface(self._root, interface[1], interface[0])
        for _, interface_name in socket.if_nameindex():
            attach.remove_filters(interface_name)
        host.remove_hairpin(self.settings.names)
        host.remove_routes(self.settings.names)
        self._routed = False
        host.restore_sysctls(self.settings.state_directory)
        self._root.remove()

    # ---- attaching -----------------------------------------------------------------------------------------------

    def attach_endpoint(self, interface: str) -> int:
        """Attach to both sides of a pod's host-side veth; return its number. Until its entry is applied it is closed."""
        host.quiet_veth(interface, self.settings.state_directory)
        self._attach(interface, Side.EGRESS, "tg_to_endp")
        return self._attach(interface, Side.INGRESS, "tg_from_endp").ifindex

    def detach_endpoint(self, interface: str) -> None:
        """Leave an endpoint's interface; fine if it is gone."""
        attach.detach_interface(self._root, interface, Side.INGRESS)
        attach.detach_interface(self._root, interface, Side.EGRESS)

    def attach_uplink(self, interface: str) -> int:
        """Attach to an interface that leads off the node; return its number. Raises HostError unless it is Ethernet."""
        attach.require_ethernet(interface)
        return self._attach(interface, Side.INGRESS, "tg_from_net").ifindex

    def detach_uplink(self, interface: str) -> None:
        """Leave an uplink; fine if it is gone."""
        attach.detach_interface(self._root, interface, Side.INGRESS)

    def attach_cgroup(self, cgroup: str) -> int:
        """Attach to a host workload's cgroup (named from the root of cgroup v2) and to the proxy's; return the cgroup's id.

        Connections that are open stay as they are. Until the id is in the applied state, nothing is judged.
        """
        directory = cgroups.directory_of(cgroup)
        number = cgroups.cgroup_id(directory)
        for program, kind in _WORKLOAD_PROGRAMS.items():
            attach.attach_by_link(self._root, f"cgroup-{number}-{program}", program, str(directory), kind)
        proxy = str(cgroups.directory_of(self.settings.proxy_cgroup))
        attach.attach_by_link(self._root, "proxy-tg_getsockopt", "tg_getsockopt", proxy, bpf.AttachType.CGROUP_GETSOCKOPT)
        return number

    def detach_cgroup(self, number: int) -> None:
        """Leave a cgroup by its id; fine if it is gone."""
        for program in _WORKLOAD_PROGRAMS:
            attach.detach_by_link(self._root, f"cgroup-{number}-{program}")

    def _attach(self, interface: str, side: Side, program: str) -> Attachment:
        return attach.attach_interface(self._root, interface, side, program)

    def _replace_attached(self) -> None:
        """Give every pinned attachment its program of the last load."""
        for name in attach.attached_links(self._root):
            interface = attach.interface_of(name)
            if interface is None:
                attach.replace_by_link(self._root, name, name.rpartition("-")[2])
                continue
            side, interface_name = interface
            program = self._program_on(side, interface_name)
            with contextlib.suppress(HostError):  # gone since
                self._attach(interface_name, side, program)

    def _program_on(self, side: Side, interface: str) -> str:
        if side is Side.EGRESS:
            return "tg_to_endp"
        if interface == self.settings.names.hairpin_peer:
            return "tg_from_hair"
        is_endpoint = attach.link_name(interface, Side.EGRESS) in attach.attached_links(self._root)
        return "tg_from_endp" if is_endpoint else "tg_from_net"

    # ---- state ---------------------------------------------------------------------------------------------------

    @property
    def maps(self) -> Maps:
        """The open maps."""
        assert self._maps is not None, "open() comes first"
        return self._maps

    def read(self) -> MapState:
        """Return what the kernel holds."""
        return sync.read(self.maps)

    def apply(self, wanted: MapState, current: MapState | None = None) -> ApplyReport:
        """Bring the kernel to ``wanted``. ``current`` is what it holds, if the caller knows; None: read it.

        Raises MapFull or KernelError with a first, safe part of the change done; call again with ``current=None``.
        """
        self._route_marked(wanted)
        held = self.read() if current is None else current
        # Before its entry opens an endpoint: whoever had its interface's number before may have left what DNS told it.
        forget_pods(self.maps["tg_names"], _other_pods(held, wanted))
        return sync.apply(sync.plan(held, wanted), self.maps)

    def bump_epoch(self) -> int:
        """Have every established flow judged again."""
        return sync.bump_epoch(self.maps)

    def _route_marked(self, state: MapState) -> None:
        """Make rule and routes for marked packets before there is a slot that they could be for.

        Not earlier: with any rule beside the kernel's own, each packet that the host forwards costs a slower route lookup, and
        a node without L7 policy should not pay for it.
        """
        if state.slots and not self._routed:
            host.make_routes(self.settings.names)
            self._routed = True

    def _configure(self, hairpin_ifindex: int) -> None:
        raw = self.maps["tg_config"].lookup(encode_u32(0))
        assert raw is not None
        settings = self.settings
        flags = abi.ConfigFlag.TIME_WAIT_LOOKUP
        if settings.deny_reply:
            flags |= abi.ConfigFlag.DENY_REPLY
        if settings.ct_missing_reset:
            flags |= abi.ConfigFlag.CT_MISSING_RESET
        config = abi.Config(
            # A new one: whoever was here before may have ended between its last write and its epoch.
            epoch=sync.next_epoch(decode_struct(abi.Config, raw).epoch),
            flags=flags,
            hairpin_ifindex=hairpin_ifindex,
            event_sample_every=settings.event_sample_every,
            events_per_second=settings.events_per_second,
            events_burst=settings.events_burst,
            proxy_port_min=settings.proxy_port_min,
            proxy_port_max=settings.proxy_port_max,
            netns_cookie=_netns_cookie(),
            host_ipv4=address_struct(settings.host_ipv4),
            host_ipv6=address_struct(settings.host_ipv6),
        )
        self.maps["tg_config"].update(encode_u32(0), bytes(config))

    # ---- watching ------------------------------------------------------------------------------------------------

    def counters(self) -> Mapping[tuple[abi.Reason, abi.Hook], CounterValue]:
        """Return packets and bytes per reason and hook."""
        return read_counters(self.maps["tg_counters"])

    def l7_verdicts(self) -> VerdictTable:
        """Return the table of verdict counts, mapped anew; close it when done."""
        return VerdictTable(self.maps["tg_l7_verdicts"])

    def events(self) -> EventReader:
        """Return a reader of verdict events; there must be only one at a time."""
        return EventReader(self.maps["tg_events"])

    def event_totals(self) -> EventTotals:
        """Return how many events were sent and lost."""
        return read_event_totals(self.maps["tg_budget"])

    def conntrack_entries(self) -> Iterator[ConntrackEntry]:
        """Iterate over the connections as they stand."""
        yield from read_entries(self.maps["tg_conntrack"])

    def conntrack_delete(self, entry: ConntrackEntry) -> bool:
        """Forget a connection; return whether it was known."""
        return delete_entry(self.maps["tg_conntrack"], entry)

    def workload_connections(self) -> Iterator[WorkloadConnection]:
        """Iterate over the redirected connections of host workloads; some may have ended."""
        yield from read_workload_connections(self.maps["tg_origins"])

    # ---- the proxy's sockets ---------------------------------------------------------------------------------------

    def listening_ports(self) -> frozenset[int]:
        """Return the proxy ports that are listened on, on every loopback address that this host has."""
        bound = sockets.listening()
        v4 = {port for address, port in bound if address in (IPv4Address("127.0.0.1"), IPv4Address(0), IPv6Address(0))}
        v6 = {port for address, port in bound if address in (IPv6Address("::1"), IPv6Address(0))}
        return frozenset(v4 & v6 if host.has_ipv6() else v4)

    def dns_ports(self) -> frozenset[int]:
        """Return the proxy ports on which the DNS proxy takes questions: TCP and UDP, on every loopback address there is."""
        udp = sockets.bound_udp()
        v4 = {port for address, port in udp if address == IPv4Address("127.0.0.1")}
        v6 = {port for address, port in udp if address == IPv6Address("::1")}
        return frozenset(v4 & v6 if host.has_ipv6() else v4) & self.listening_ports()

    def destroy_connections(self, is_stale: Callable[[ConntrackEntry], bool]) -> int:
        """Close the proxy's client-side connections of the redirected flows for which ``is_stale`` holds, and forget them.

        Both ends get a RST: the client from here, the server when the proxy sees its client gone. Returns how many sockets
        were closed. Call after ``apply``, with the flows that the new state denies or sends to another slot.
        """
        closed = 0
        for entry in list(self.conntrack_entries()):
            if entry.kind is not abi.ConntrackKind.REDIRECT or not is_stale(entry):
                continue
            closed += sockets.destroy(entry.destination, entry.destination_port, entry.source, entry.source_port)
            self.conntrack_delete(entry)
        return closed

    def destroy_workload_connections(self, is_stale: Callable[[WorkloadConnection], bool]) -> int:
        """Like ``destroy_connections``, for what host workloads dialled through the proxy."""
        closed = 0
        for connection in list(self.workload_connections()):
            if not is_stale(connection):
                continue
            version = connection.client.version
            loopback = IPv4Address("127.0.0.1") if version == 4 else IPv6Address("::1")
            closed += sockets.destroy(loopback, connection.proxy_port, connection.client, connection.client_port)
            delete_workload_connection(self.maps["tg_origins"], connection)
        return closed
