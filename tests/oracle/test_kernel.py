"""The kernel gives every flow the verdict of the evaluator: random worlds in real maps, packets by BPF_PROG_TEST_RUN.

A packet that opens a flow is given to the program that sees it first: ``from_endpoint`` of a local source, else ``to_endpoint``
of a local destination. What is said on a redirected connection is Envoy's half of the oracle (tests/envoy).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings

from bpf_redirect import bpf
from bpf_redirect.abi import ABI_VERSION, DropReason, Hook, PassReason, Reason
from bpf_redirect.datapath import Datapath, DatapathSettings
from bpf_redirect.names import encode_grants, encode_names_key
from l7filters.decision import Flow, Outcome
from l7filters.evaluate import evaluate
from l7filters.mapstate import MapState, derive
from l7filters.model import Protocol
from l7filters.slots import SlotTable, assign
from l7filters.world import Endpoint, World
from tests.bpf import packets as p
from tests.bpf.arena import netns
from tests.support.netns import NETNS_DIRECTORY
from tests.support.strategies import ENDPOINTS_MAX, THIS_NODE, worlds_and_flows
from tests.support.worlds import View

pytestmark = pytest.mark.root

PORT_MIN = 19000
PREFIX = "tgoracle-"
EXPIRES_S = (1 << 32) - 1
REDIRECTED = {PassReason.HAIRPINNED, DropReason.NO_LISTENER}
"""Nothing listens here, so a redirect ends at the missing listener, or goes round the hairpin first."""
DENIED = {DropReason.POLICY_DENIED, DropReason.NO_PAIR}
ALLOWED = {PassReason.FORWARDED, PassReason.FROM_HOST}


@dataclass
class Kernel:
    """Our programs on interfaces that carry nothing, one per endpoint that a world can have."""

    datapath: Datapath
    ifindexes: dict[str, int] = field(default_factory=dict)
    programs: dict[str, int] = field(default_factory=dict)
    state: MapState = field(default_factory=MapState)
    view: View | None = None

    def install(self, world: World) -> None:
        """Bring ``world`` into the maps; no connection is known."""
        self.view = View.of(world)
        compiled = self.view.compiled
        table = assign(SlotTable(), None, compiled).table
        wanted = derive(compiled, table, self.ifindexes, {}, frozenset(table.ids.values()), PORT_MIN)
        self.datapath.apply(wanted, self.state)
        self.state = wanted

    def outcome(self, world: World, flow: Flow) -> tuple[Outcome, Reason]:
        """Give the kernel the packet that opens ``flow``."""
        for entry in list(self.datapath.conntrack_entries()):
            self.datapath.conntrack_delete(entry)
        by_address = {address: endpoint for endpoint in world.endpoints for address in endpoint.addresses}
        source, destination = by_address.get(_address(flow.source)), by_address.get(_address(flow.destination))
        if _has_interface(source):
            program, hook, ifindex = "tg_from_endp", Hook.FROM_ENDPOINT, self.ifindexes[source.key]  # type: ignore[union-attr]
        else:
            program, hook, ifindex = "tg_to_endp", Hook.TO_ENDPOINT, self.ifindexes[destination.key]  # type: ignore[union-attr]
        self._grant(flow, ifindex)
        own = _address(flow.source) in THIS_NODE.addresses
        context = p.skb_context(ifindex=ifindex, ingress_ifindex=0 if own or program == "tg_from_endp" else 1)
        before = self.datapath.counters()
        bpf.program_run(self.programs[program], _packet(flow), context)
        after = self.datapath.counters()
        counted = {
            reason: count.packets - (before[reason, where].packets if (reason, where) in before else 0)
            for (reason, where), count in after.items()
            if where is hook
        }
        reasons = [reason for reason, count in counted.items() if count and reason is not PassReason.WOULD_DENY]
        assert len(reasons) == 1, counted
        (reason,) = reasons
        for outcome, group in ((Outcome.REDIRECT, REDIRECTED), (Outcome.DENY, DENIED), (Outcome.ALLOW, ALLOWED)):
            if reason in group:
                return outcome, reason
        raise AssertionError(f"{reason.name} is no verdict of policy")

    def _grant(self, flow: Flow, ifindex: int) -> None:
        """Have DNS told the source of the destination, and another pod of what the source was not told."""
        assert self.view is not None
        names, address = self.datapath.maps["tg_names"], ip_address(str(flow.destination))
        for key, _ in list(names.items()):
            names.delete(key)
        told = self.view.granted(*flow.names)
        names.update(encode_names_key(ifindex, address), encode_grants(dict.fromkeys(told, EXPIRES_S)))
        others = {number for one, number in self.view.compiled.identities.numbers.items() if one.fqdn is not None}
        names.update(encode_names_key(ifindex + 1000, address), encode_grants(dict.fromkeys(others, EXPIRES_S)))


def _address(who: object) -> object:
    return ip_address(str(who))


def _has_interface(endpoint: Endpoint | None) -> bool:
    return endpoint is not None and endpoint.interface is not None


def _packet(flow: Flow) -> bytes:
    port = flow.destination_port
    match Protocol(flow.protocol):
        case Protocol.TCP:
            payload = p.tcp(40000, port, flags=p.SYN)
        case Protocol.UDP:
            payload = p.udp(40000, port)
        case Protocol.SCTP:
            payload = p.sctp(40000, port)
        case Protocol.ICMP | Protocol.ICMPV6:
            payload = p.icmp(port)
        case _:
            payload = bytes(8)
    return p.ip(str(flow.source), str(flow.destination), flow.protocol, payload)


def _is_judged_here(world: World, flow: Flow) -> bool:
    """Whether a program of ours sees the flow first at an interface, as a packet that policy decides."""
    by_address = {address: endpoint for endpoint in world.endpoints for address in endpoint.addresses}
    source, destination = by_address.get(_address(flow.source)), by_address.get(_address(flow.destination))
    if source is not None and source.cgroup is not None:
        return False
    return _has_interface(source) or _has_interface(destination)


def remove_leftovers() -> None:
    """Remove the namespaces and pins of runs that were killed."""
    for directory in (Path(NETNS_DIRECTORY), Path("/sys/fs/bpf")):
        for left in directory.glob(f"{PREFIX}*") if directory.is_dir() else ():
            if not Path("/proc", left.name.removeprefix(PREFIX)).exists():
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    subprocess.run(["ip", "netns", "del", left.name], check=True)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    remove_leftovers()
    name = f"{PREFIX}{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with netns(Path(NETNS_DIRECTORY) / name):
            datapath = Datapath(
                DatapathSettings(
                    pin_root=f"/sys/fs/bpf/{name}",
                    state_directory=tmp_path_factory.mktemp("state"),
                    proxy_port_min=PORT_MIN,
                    event_sample_every=0,
                )
            )
            try:
                datapath.load()
                datapath.open()
                made = Kernel(datapath)
                for index in range(ENDPOINTS_MAX):
                    interface = f"tgo{index}"
                    subprocess.run(["ip", "link", "add", interface, "type", "veth", "peer", "name", f"tgq{index}"], check=True)
                    number = datapath.attach_endpoint(interface)
                    for namespace in ("default", "other"):
                        made.ifindexes[f"{namespace}/pod-{index}"] = number
                for program in ("tg_from_endp", "tg_to_endp"):
                    made.programs[program] = bpf.get(f"{datapath.settings.pin_root}/v{ABI_VERSION}/programs/{program}")
                yield made
            finally:
                datapath.cleanup()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@given(case=worlds_and_flows())
def test_kernel_and_evaluator_agree_on_every_connection(kernel: Kernel, case: tuple[World, tuple[Flow, ...]]) -> None:
    world, flows = case
    kernel.install(world)
    for flow in flows:
        if not _is_judged_here(world, flow):
            continue
        expected = evaluate(world, flow)
        found, reason = kernel.outcome(world, flow)
        event(f"{found} {reason.name}")
        assert found is expected.outcome, f"{flow}: {reason.name}, expected {expected.outcome} ({expected.reason})"
