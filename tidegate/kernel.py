"""The kernel's half as the agent uses it: the datapath with node.yaml's settings, and what is attached where.

Owns: which interfaces and cgroups are attached, why some could not be, and the reading of counters into status values. Must not
know policies. Methods that change something are called from one thread at a time; reading status is cheap and never blocks long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from ipaddress import IPv4Address, IPv6Address

import structlog

from bpf_redirect.abi import ConntrackKind, DropReason, Hook
from bpf_redirect.conntrack import ConntrackEntry, WorkloadConnection
from bpf_redirect.datapath import Datapath, DatapathSettings
from bpf_redirect.errors import DatapathError
from bpf_redirect.events import EventReader, EventTotals
from bpf_redirect.l7_verdicts import VerdictTable
from bpf_redirect.maps import MapSizes
from l7filters.identity import IdentityNumber
from l7filters.mapstate import MapState
from l7filters.model import Protocol
from l7filters.world import Address, World
from tidegate import surroundings
from tidegate.config.node import DenyResponse, NodeConfig
from tidegate.realise import Surroundings
from tidegate.stale import ProxiedConnection
from tidegate.status.node import BpfStatus, DropCount, MapFill

_log = structlog.get_logger()


def datapath_settings(config: NodeConfig, addresses: Iterable[Address] = ()) -> DatapathSettings:
    """Return what node.yaml says about the datapath. ``addresses``: this node's, for the sources of host workloads."""
    sizes = config.maps
    usable = [address for address in addresses if not address.is_link_local and not address.is_loopback]
    return DatapathSettings(
        pin_root=str(config.bpf.pin_root),
        state_directory=config.state,
        proxy_port_min=config.proxy_ports.min,
        maps=MapSizes(
            ipcache=sizes.ipcache_entries,
            policy=sizes.policy_entries,
            conntrack=sizes.conntrack_entries,
            endpoints=sizes.endpoint_entries,
            l7_verdicts=sizes.verdict_entries,
            names=sizes.name_entries,
            events_bytes=sizes.event_ring_kib * 1024,
        ),
        deny_reply=config.deny_response is DenyResponse.RESET,
        host_ipv4=next((address for address in usable if isinstance(address, IPv4Address)), None),
        host_ipv6=next((address for address in usable if isinstance(address, IPv6Address)), None),
    )


class KernelSide:
    """The datapath of this node."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._datapath = Datapath(datapath_settings(config))
        self._state: MapState | None = None
        self._opened = False
        self._failed = "the programs are being loaded"
        self._interfaces: dict[str, int] = {}
        self._cgroups: dict[str, int] = {}
        self._uplinks: dict[str, int] = {}
        self._unwanted: list[Callable[[], None]] = []
        self._uplink_failures: Mapping[str, str] = {}
        self.attach_failures: Mapping[str, str] = {}

    # ---- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Load the programs and open the maps. What an earlier agent left in them stays in force. Raises DatapathError."""
        addresses = self._config.node.addresses or surroundings.node_addresses()
        self._datapath = Datapath(datapath_settings(self._config, addresses))
        report = self._datapath.load()
        self._datapath.open()
        self._state = self._datapath.read()
        self._opened = True
        self._failed = ""
        _log.info(
            "programs_loaded",
            compile_ms=report.compile_ms,
            load_ms=report.load_ms,
            maps_reused=len(report.maps_reused),
            maps_created=len(report.maps_created) + len(report.maps_replaced),
        )

    def close(self) -> None:
        """Close the descriptors; the data plane goes on."""
        self._opened = False
        self._datapath.close()

    # ---- attaching --------------------------------------------------------------------------------------------------

    def attach(self, world: World) -> Surroundings:
        """Attach to the interfaces and cgroups of the world's endpoints that exist now, and to the uplinks.

        An endpoint that can't be attached is left out and its reason kept in ``attach_failures``; it holds up no other.
        """
        failures: dict[str, str] = {}
        by_interface = {each.interface: each.key for each in world.endpoints if each.interface is not None}
        by_cgroup = {each.cgroup: each.key for each in world.endpoints if each.cgroup is not None}
        interfaces = self._attach_interfaces(by_interface, failures)
        cgroups = self._attach_cgroups(by_cgroup, failures)
        self._attach_uplinks(set(by_interface))
        for key in failures.keys() - self.attach_failures.keys():
            _log.error("attach_failed", endpoint=key, reason=failures[key])
        self.attach_failures = failures
        return Surroundings(
            interface_indices={by_interface[name]: index for name, index in interfaces.items()},
            cgroup_ids={by_cgroup[path]: number for path, number in cgroups.items()},
        )

    def _attach_interfaces(self, wanted: Mapping[str, str], failures: dict[str, str]) -> dict[str, int]:
        present = surroundings.interface_indices(wanted)
        attached: dict[str, int] = {}
        for name, index in present.items():
            if self._interfaces.get(name) == index:
                attached[name] = index
                continue
            try:
                attached[name] = self._datapath.attach_endpoint(name)
            except DatapathError as error:
                failures[wanted[name]] = str(error)
        for name in self._interfaces.keys() - attached.keys():
            self._unwanted.append(partial(self._datapath.detach_endpoint, name))
        self._interfaces = attached
        return attached

    def _attach_cgroups(self, wanted: Mapping[str, str], failures: dict[str, str]) -> dict[str, int]:
        attached: dict[str, int] = {}
        for path, number in surroundings.cgroup_ids(wanted).items():
            if self._cgroups.get(path) != number:
                try:
                    self._datapath.attach_cgroup(path)
                except DatapathError as error:
                    failures[wanted[path]] = str(error)
                    continue
            attached[path] = number
        for path in self._cgroups.keys() - attached.keys():
            self._unwanted.append(partial(self._datapath.detach_cgroup, self._cgroups[path]))
        self._cgroups = attached
        return attached

    def _attach_uplinks(self, endpoint_interfaces: set[str]) -> None:
        names = self._config.uplinks if self._config.uplinks is not None else surroundings.default_route_interfaces()
        present = surroundings.interface_indices(set(names) - endpoint_interfaces)
        failures: dict[str, str] = {}
        for name, index in present.items():
            if self._uplinks.get(name) != index:
                try:
                    self._uplinks[name] = self._datapath.attach_uplink(name)
                except DatapathError as error:
                    failures[name] = str(error)
        for name in self._uplinks.keys() - present.keys():
            del self._uplinks[name]
            self._unwanted.append(partial(self._datapath.detach_uplink, name))
        for name in failures.keys() - self._uplink_failures.keys():
            _log.error("attach_failed", uplink=name, reason=failures[name])
        self._uplink_failures = failures

    def detach_others(self) -> None:
        """Leave what ``attach`` found no longer wanted. Called when the maps no longer speak of it."""
        while self._unwanted:
            self._unwanted.pop()()

    # ---- realise.Kernel ---------------------------------------------------------------------------------------------

    def held(self) -> MapState:
        """What the maps hold. Raises DatapathError."""
        if self._state is None:
            self._state = self._datapath.read()
        return self._state

    def write(self, wanted: MapState) -> None:
        """Make the maps hold ``wanted``. Raises DatapathError; the next call then starts from what the kernel has."""
        current, self._state = self._state, None
        self._datapath.apply(wanted, current)
        self._state = wanted

    def listening_ports(self) -> frozenset[int]:
        """The proxy ports that listen on every loopback address Envoy was given."""
        return self._datapath.listening_ports()

    def dns_ports(self) -> frozenset[int]:
        """The proxy ports on which the DNS proxy takes questions."""
        return self._datapath.dns_ports()

    def proxied_connections(self) -> Iterable[ProxiedConnection]:
        """The connections that were given to slots."""
        for entry in self._datapath.conntrack_entries():
            # A datagram to the DNS proxy belongs to no connection: the next one is judged anew by itself.
            if entry.kind is ConntrackKind.REDIRECT and entry.protocol == Protocol.TCP:
                yield _proxied(entry)
        for connection in self._datapath.workload_connections():
            yield self._proxied_workload(connection)

    def close_connections(self, connections: Iterable[ProxiedConnection]) -> int:
        """Reset them at the proxy's sockets; return how many there were."""
        wanted = frozenset(connections)
        closed = self._datapath.destroy_connections(lambda entry: _proxied(entry) in wanted)
        return closed + self._datapath.destroy_workload_connections(lambda one: self._proxied_workload(one) in wanted)

    def _proxied_workload(self, connection: WorkloadConnection) -> ProxiedConnection:
        return ProxiedConnection(
            source=connection.client,
            source_port=connection.client_port,
            destination=connection.destination,
            destination_port=connection.destination_port,
            slot_id=connection.proxy_port - self._config.proxy_ports.min,
            workload=IdentityNumber(connection.identity),
        )

    # ---- watching ---------------------------------------------------------------------------------------------------

    def l7_verdicts(self) -> VerdictTable:
        """The table of what the proxy said."""
        return self._datapath.l7_verdicts()

    def events(self) -> EventReader:
        """The reader of verdict events."""
        return self._datapath.events()

    def event_totals(self) -> EventTotals:
        """How many events were sent and lost."""
        return self._datapath.event_totals()

    def status(self) -> BpfStatus:
        """Whether the programs run, and where."""
        if not self._opened:
            return BpfStatus(healthy=False, message=self._failed)
        attached = {"endpoint": len(self._interfaces), "uplink": len(self._uplinks), "cgroup": len(self._cgroups)}
        failed = "; ".join(f"uplink {name}: {reason}" for name, reason in sorted(self._uplink_failures.items()))
        return BpfStatus(healthy=not failed, attached=attached, message=failed)

    @property
    def uplinks(self) -> frozenset[str]:
        """The interfaces that lead off the node."""
        return frozenset(self._uplinks)

    def drops(self) -> tuple[DropCount, ...]:
        """Dropped packets by reason and hook."""
        if not self._opened:
            return ()
        return tuple(
            DropCount(reason=reason.name.lower(), packets=count.packets, bytes=count.bytes, direction=_hook_name(hook))
            for (reason, hook), count in sorted(self._datapath.counters().items())
            if isinstance(reason, DropReason)
        )

    def map_fills(self) -> tuple[MapFill, ...]:
        """How full the maps are that the agent fills."""
        state = self._state
        if not self._opened or state is None:
            return ()
        sizes = self._datapath.settings.maps
        return (
            MapFill(name="tg_ipcache", entries=len(state.ipcache), capacity=sizes.ipcache),
            MapFill(name="tg_policy", entries=len(state.policy), capacity=sizes.policy),
            MapFill(name="tg_endpoints", entries=len(state.endpoints), capacity=sizes.endpoints),
            MapFill(name="tg_pairs", entries=len(state.pairs), capacity=sizes.pairs),
            MapFill(name="tg_cgroups", entries=len(state.cgroups), capacity=sizes.cgroups),
        )


def _proxied(entry: ConntrackEntry) -> ProxiedConnection:
    return ProxiedConnection(
        source=entry.source,
        source_port=entry.source_port,
        destination=entry.destination,
        destination_port=entry.destination_port,
        slot_id=entry.slot,
        name=IdentityNumber(entry.name_identity) if entry.name_identity else None,
    )


def _hook_name(hook: Hook) -> str:
    return hook.name.lower()
