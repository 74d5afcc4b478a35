"""The agent: what runs on a node between the sources and the two halves of the data plane.

The composition root: the only module that knows every package. It owns no policy logic; it connects

    sources -> inputs -> world -> realise (compile, Envoy, maps) -> status
    kernel events, access records -> flows -> ring -> admin API

Lifecycle: ``python -m tidegate.agent node.yaml``, started by the supervisor (or as a container of its own). It may be killed at
any time: Envoy and the kernel go on with the last policy, and the next agent takes over the numbering, the maps and Envoy.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from bpf_redirect.errors import DatapathError
from l7filters.envoy.resource import EnvoyResource, Translation
from l7filters.envoy.settings import EnvoySettings
from l7filters.envoy.translate import shared_resources, translate_slot
from l7filters.ir import CompiledPolicy, Slot
from l7filters.model import L7Protocol
from l7filters.world import World
from tidegate import surroundings
from tidegate.admin.api import AdminServer
from tidegate.admin.policy_effect import SlotStates
from tidegate.config.node import ConfigError, ExistingPods, HostNetworkPods, NodeConfig, SourceKind, load_config
from tidegate.counts.keeper import SWEEP_S, L7Keeper
from tidegate.counts.totals import L7Counts, Names
from tidegate.dns.side import DnsSide
from tidegate.exits import Exit
from tidegate.explanation import secret_texts
from tidegate.flows.file import FlowFileWriter
from tidegate.flows.observe import Observer
from tidegate.flows.ring import FlowRing, LossSource
from tidegate.flows.traffic import Traffic
from tidegate.following import Follower, Source
from tidegate.heap import Heap
from tidegate.kafka.reports import KafkaReports
from tidegate.kernel import KernelSide
from tidegate.metrics import Meters, RequestCollector
from tidegate.numbering import NumberingFiles
from tidegate.processes import native_module
from tidegate.processes.dns import DnsPlaces
from tidegate.processes.envoy import EnvoyLauncher, ask_version, envoy_settings
from tidegate.realise import Realisation, Realiser
from tidegate.sandboxes import Sandbox
from tidegate.sources import DirectorySource, DirectoryState, EndpointsSource, EndpointsState, SecretsSource, SecretsState
from tidegate.sources.kubernetes import ClusterSettings, ClusterState, KubernetesSource
from tidegate.status import agent as agent_status
from tidegate.status.node import ChangeSignal, EnvoyStatus, NodeStatus, PolicyStatus, ProcessState, XdsStatus
from tidegate.status.selection import Selection
from tidegate.supervisor import SUPERVISOR_PID
from tidegate.worlds import Inputs, StoredSecrets, build_world
from xds_server.service import SocketUnusable, XdsServer

_log = structlog.get_logger()

ENVOY_POLL_S = 0.5
"""How often Envoy is asked whether it is well; its absence shows sooner, in the connection to the discovery server."""
ENVOY_FIRST_WAIT_S = 10.0
"""How long the first realisation waits for Envoy. Then L3/L4 policy comes into force without it; what needs it stays closed."""
FAILURE_RETRY_S = 2.0
_PR_SET_PDEATHSIG = 1


class StateDirectoryLost(Exception):
    """Our sockets are gone from the state directory: nobody can find us any more, Envoy neither."""


class _Translator:
    """Translation with the settings, secrets and sampling of the moment. A new object means: translate everything anew."""

    def __init__(self, settings: EnvoySettings, secrets: StoredSecrets) -> None:
        self._settings = settings
        self.secrets = secrets
        self.allowed_sample = settings.allowed_sample
        self._common: tuple[float, tuple[EnvoyResource, ...]] | None = None

    def common(self) -> tuple[EnvoyResource, ...]:
        if self._common is None or self._common[0] != self.allowed_sample:
            self._common = (self.allowed_sample, shared_resources(self._settings, self.allowed_sample))
        return self._common[1]

    def slot(self, slot: Slot, slot_id: int) -> Translation:
        return translate_slot(slot, slot_id, self._settings, self.secrets, self.allowed_sample)


class Agent:
    """One agent of one node; what ``admin.AgentView`` asks for is answered from here. One use."""

    def __init__(self, config: NodeConfig, *, with_envoy: bool) -> None:
        """``with_envoy``: Envoy runs beside it as one of ours, and has its module where we put it."""
        self._config = config
        self._changes = ChangeSignal()
        self._ring = FlowRing(config.flows.ring, on_followers=self._followers_changed)
        self._flow_file: FlowFileWriter | None = None
        self._meters = Meters()
        self._ring.tap(self._meters.records.take)
        self._meters.add(RequestCollector(self.l7_counts))
        self._traffic = Traffic()
        self._ring.tap(self._traffic.take)
        self._veths: Mapping[str, int] = {}
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._settings = envoy_settings(config, native_module.path_for_envoy(config, supervised=with_envoy))
        self._launcher = EnvoyLauncher(config)
        self._kernel = KernelSide(config)
        self._xds = XdsServer()
        self._dns = DnsSide(config, self._changes.bump)
        identities, slots = NumberingFiles(config.identities_file, config.slots_file).load()
        self._realiser = Realiser(
            kernel=self._kernel,
            envoy=self._xds,
            numbering=NumberingFiles(config.identities_file, config.slots_file),
            identities=identities,
            slots=slots,
            port_min=config.proxy_ports.min,
            dns=self._dns,
        )
        self._observer = Observer(config, self._ring)
        self._kafka_reports = KafkaReports(config.kafka_socket)
        self._keeper = L7Keeper(
            config.l7_ledger_file, has_module=self._settings.native_module is not None, now_ns=time.monotonic_ns
        )
        self._inputs = Inputs()
        self._heard: set[str] = set()
        self._world = build_world(config, self._inputs, 0)
        self._translator = _Translator(self._settings, StoredSecrets())
        self._realisation: Realisation | None = None
        self._failed = ""
        self._wake = asyncio.Event()
        self._pending = True
        self._heap = Heap()
        self._selection: Selection | None = None
        self._envoy_version: str | None = None
        self._cluster: KubernetesSource | None = None
        self._sources = self._make_sources()

    # ---- life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises DatapathError or OSError when this machine can't do it."""
        stop = asyncio.Event()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
        await self._xds.start(self._config.xds_socket)
        self._keep_flows()
        try:
            self._kafka_reports.open()
            # Before anything slow, so that `tidegate status` has someone to ask.
            async with AdminServer(self):
                await asyncio.to_thread(self._kernel.start)
                async with asyncio.TaskGroup() as tasks:
                    running = [tasks.create_task(job) for job in self._jobs()]
                    await stop.wait()
                    for task in running:
                        task.cancel()
        finally:
            await self._xds.stop()
            self._kafka_reports.close()
            self._kernel.close()
            if self._flow_file is not None:
                self._flow_file.close()

    def _keep_flows(self) -> None:
        """Hand every record to the disk, if node.yaml says so."""
        if self._config.flows.file is not None:
            self._flow_file = FlowFileWriter(self._config.flows.file)
            self._ring.tap(self._flow_file.put)
            self._ring.count_losses(LossSource.FILE, lambda: self._flow_file.lost if self._flow_file else 0)

    def _jobs(self) -> Iterator[asyncio._CoroutineLike[None]]:
        for source in self._sources.values():
            yield source.run()
        yield self._follow_machine()
        yield self._follow_envoy()
        yield self._reconcile()
        yield self._observer.read_access_log(self._xds.records)
        yield self._observer.read_kernel(self._kernel)
        yield self._observer.read_dns(DnsPlaces(self._config).reports, lambda: self._dns.status)
        yield self._dns.watch()
        yield self._observer.read_kafka(self._kafka_reports)
        yield self._keep_counts()

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def _make_sources(self) -> dict[str, Source]:
        """Return what tells of policies and endpoints, by the name under which ``_heard`` knows it."""
        config = self._config
        if config.source is SourceKind.KUBERNETES:
            self._cluster = KubernetesSource(cluster_settings(config), self._take_cluster, self._policy_statuses)
            return {"cluster": self._cluster}
        documents = DirectorySource(config.policies, kept=config.kept_documents)
        sources: dict[str, Source] = {
            "policies": Follower(documents, config.policies, self._take_policies),
            "endpoints": Follower(EndpointsSource(config.endpoints), config.endpoints.parent, self._take_endpoints),
        }
        if config.secrets is not None:
            secrets = SecretsSource(config.secrets)
            sources["secrets"] = Follower(secrets, config.secrets, self._take_secrets, recursive=True)
        return sources

    def _take_cluster(self, state: ClusterState) -> None:
        secrets = SecretsState(secrets=state.secrets)
        inputs = replace(self._inputs, cluster=state, policies=state.policies, endpoints=state.endpoints, secrets=secrets)
        self._take("cluster", inputs)

    def _take_policies(self, state: DirectoryState) -> None:
        self._take("policies", replace(self._inputs, policies=state))

    def _take_endpoints(self, state: EndpointsState) -> None:
        self._take("endpoints", replace(self._inputs, endpoints=state))

    def _take_secrets(self, state: SecretsState) -> None:
        self._take("secrets", replace(self._inputs, secrets=state))

    def _take(self, source: str, inputs: Inputs) -> None:
        before, self._inputs = self._inputs, inputs
        if (inputs.policies.secrets, inputs.secrets.secrets) != (before.policies.secrets, before.secrets.secrets):
            sample = self._translator.allowed_sample
            self._translator = _Translator(self._settings, StoredSecrets(inputs.policies.secrets, inputs.secrets.secrets))
            self._translator.allowed_sample = sample
        self._heard.add(source)
        self._meters.realisation.noticed(time.monotonic())
        self._poke()

    def _followers_changed(self, count: int) -> None:
        """Have every allowed request recorded while somebody looks, and the configured share otherwise."""
        sample = 1.0 if count else self._settings.allowed_sample
        compiled = self.compiled()
        if compiled is not None and any(slot.key.protocol is L7Protocol.KAFKA for slot in compiled.slots):
            # Kafka slots carry the share themselves; what else is translated comes out as it was.
            self._translator = _Translator(self._settings, self._translator.secrets)
        self._translator.allowed_sample = sample
        self._dns.allowed_sample = sample
        self._poke()

    def _poke(self) -> None:
        self._pending = True
        self._wake.set()
        self._changes.bump()

    async def _follow_machine(self) -> None:
        notice = surroundings.ChangeNotice()
        try:
            while True:
                addresses = await asyncio.to_thread(surroundings.node_addresses)
                self._veths = await asyncio.to_thread(surroundings.foreign_veths)
                if addresses != self._inputs.addresses:
                    self._inputs = replace(self._inputs, addresses=addresses)
                self._heard.add("machine")
                self._poke()
                await notice.wait()
        finally:
            notice.close()

    async def _follow_envoy(self) -> None:
        while True:
            if not (self._config.xds_socket.exists() and self._config.lock_file.exists()):
                raise StateDirectoryLost
            version = await ask_version(self._launcher.admin_socket)
            if version != self._envoy_version:
                self._envoy_version = version
                self._changes.bump()
            await asyncio.sleep(ENVOY_POLL_S)

    def _complete(self) -> bool:
        """Whether every source has spoken: a world without the policies would open what they close."""
        return {"machine", *self._sources} <= self._heard

    async def _keep_counts(self) -> None:
        with self._kernel.l7_verdicts() as table:
            self._keeper.open(table)
            while True:
                await asyncio.sleep(SWEEP_S)
                try:
                    self._keeper.sweep()
                except OSError as error:
                    _log.error("l7_ledger_not_written", reason=str(error))

    # ---- realisation ------------------------------------------------------------------------------------------------

    async def _reconcile(self) -> None:
        first = True
        while True:
            await self._wait_for_work()
            if not self._complete():
                continue
            if first:
                await self._wait_for_envoy()
                first = False
            if self._pending:
                await self._realise()
                self._heap.changed(time.monotonic())
            elif not self._heap.rest(time.monotonic()):
                await self._settle()

    async def _wait_for_work(self) -> None:
        due_s = min((due for due in (self._realiser.next_due_s(), self._heap.due_s()) if due is not None), default=None)
        try:
            async with asyncio.timeout(None if due_s is None else max(0.0, due_s - time.monotonic())):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _wait_for_envoy(self) -> None:
        deadline_s = time.monotonic() + ENVOY_FIRST_WAIT_S
        while not self._xds.connected and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)

    async def _realise(self) -> None:
        self._pending = False
        inputs, translator = self._inputs, self._translator
        candidate = build_world(self._config, inputs, self._world.revision)
        if candidate != self._world or self._realisation is None:
            self._world = replace(candidate, revision=self._world.revision + 1)
        started_s, noticed_s = time.monotonic(), self._meters.realisation.started()
        try:
            found = await asyncio.to_thread(self._kernel.attach, self._world)
            self._realisation = await self._realiser.realise(self._world, found, translator)
            await asyncio.to_thread(self._kernel.detach_others)
        except (DatapathError, OSError) as error:
            self._failed = str(error)
            self._meters.realisation.failed(noticed_s)
            _log.error("realisation_failed", revision=self._world.revision, reason=self._failed)
            asyncio.get_running_loop().call_later(FAILURE_RETRY_S, self._poke)
        else:
            if self._failed:
                _log.info("realisation_recovered", revision=self._world.revision)
            self._failed = ""
            self._meters.realisation.realised(noticed_s, time.monotonic())
            self._announce(self._realisation)
            _log.info(
                "realised",
                revision=self._world.revision,
                milliseconds=round((time.monotonic() - started_s) * 1000, 1),
                slots=len(self._realisation.table.ids),
            )
        self._came_of_it()

    def _announce(self, realisation: Realisation) -> None:
        """Have what is reported from now on told in the names of this world."""
        secrets = self.secrets()
        self._observer.world_changed(realisation, secret_texts(realisation.world.policies, secrets) if len(secrets) else {})
        names = Names(realisation.compiled, realisation.table.ids)
        self._keeper.rename(names, (policy.key for policy in realisation.world.policies))

    async def _settle(self) -> None:
        try:
            settled = await self._realiser.settle()
        except (DatapathError, OSError) as error:
            self._failed = str(error)
            asyncio.get_running_loop().call_later(FAILURE_RETRY_S, self._poke)
        else:
            if settled is not None:
                self._realisation = settled
                self._announce(settled)
        self._came_of_it()

    def _came_of_it(self) -> None:
        """Tell whoever asks how far things are."""
        self._changes.bump()
        if self._cluster is not None:
            self._cluster.report()

    # ---- AgentView --------------------------------------------------------------------------------------------------

    @property
    def config(self) -> NodeConfig:
        """The configuration the agent runs with."""
        return self._config

    @property
    def changes(self) -> ChangeSignal:
        """Bumped whenever the status may have changed."""
        return self._changes

    @property
    def flows(self) -> FlowRing:
        """The flow ring."""
        return self._ring

    @property
    def meters(self) -> Meters:
        """What is counted besides the status."""
        return self._meters

    @property
    def traffic(self) -> Traffic:
        """Who talks to whom."""
        return self._traffic

    def slot_states(self) -> SlotStates:
        """The slots in use."""
        found = self._realisation
        return {key: (number, key not in found.unready) for key, number in found.table.ids.items()} if found else {}

    def l7_counts(self) -> L7Counts:
        """What the proxy said until now, by whom, to whom and under which policies."""
        return self._keeper.read()

    def world(self) -> World:
        """The world in force."""
        return self._realisation.world if self._realisation is not None else self._world

    def compiled(self) -> CompiledPolicy | None:
        """What it compiled to; None before the first time."""
        return self._realisation.compiled if self._realisation is not None else None

    def secrets(self) -> StoredSecrets:
        """The secrets that policies may refer to."""
        return StoredSecrets(self._inputs.policies.secrets, self._inputs.secrets.secrets)

    async def refresh(self) -> None:
        """Take in what is on disk at this moment, so that ``status`` speaks of it."""
        try:
            await asyncio.gather(*(source.refresh() for source in self._sources.values()))
        except TimeoutError:
            _log.warning("refresh_timed_out", directory=str(self._config.policies))

    async def open_sandbox(self, sandbox: Sandbox, wait_seconds: float) -> str:
        """Return "" once the pod's policy is in force, or after ``wait_seconds`` why it is not."""
        if self._cluster is None:
            return "this agent follows files, not an API server"
        begun_s = time.monotonic()
        while True:
            serial = self._changes.serial
            self._cluster.take_sandbox(sandbox)
            problem = self._why_closed(sandbox)
            left_s = begun_s + wait_seconds - time.monotonic()
            if not problem or left_s <= 0:
                milliseconds = round((time.monotonic() - begun_s) * 1000, 1)
                _log.info(
                    "sandbox_opened" if not problem else "sandbox_waits", pod=sandbox.key, milliseconds=milliseconds, why=problem
                )
                return problem
            try:
                await asyncio.wait_for(self._changes.wait_after(serial), left_s)
            except TimeoutError:
                continue

    async def forget_sandbox(self, sandbox: Sandbox) -> None:
        """The sandbox is gone."""
        if self._cluster is not None:
            self._cluster.forget_sandbox(sandbox)

    def _why_closed(self, sandbox: Sandbox) -> str:
        """Return what stands between a sandbox and its policy; "": nothing."""
        realisation = self._realisation
        if realisation is None:
            return "nothing is realised yet"
        if self._failed:
            return self._failed
        index = surroundings.interface_indices((sandbox.interface,)).get(sandbox.interface)
        if index is None:
            return f"there is no interface {sandbox.interface}"
        if sandbox.key in self._kernel.attach_failures:
            return self._kernel.attach_failures[sandbox.key]
        if realisation.surroundings.interface_indices.get(sandbox.key) != index:
            assert self._cluster is not None
            return self._cluster.why_unknown(sandbox) or "its policy is on the way"
        return ""

    def _facts(self) -> agent_status.Facts:
        return agent_status.Facts(
            inputs=self._inputs,
            realisation=self._realisation,
            current=not self._pending and self._complete() and self._realisation is not None and self._in_force(),
            failed=self._failed,
            attachments=self._kernel.attach_failures,
            selection=self._selection_in_force(),
        )

    def _policy_statuses(self, keys: frozenset[str]) -> tuple[PolicyStatus, ...]:
        return agent_status.policy_statuses(self._facts(), keys)

    def status(self) -> NodeStatus:
        """The status of this moment."""
        facts = self._facts()
        endpoints = agent_status.endpoint_statuses(facts)
        return NodeStatus(
            node=self._config.node.name,
            version=version(),
            revision=self._world.revision,
            started_at=self._started_at,
            endpoints=endpoints,
            unmanaged=agent_status.unmanaged(facts, endpoints, self._veths.keys() - self._kernel.uplinks),
            policies=agent_status.policy_statuses(facts),
            document_errors=agent_status.document_errors(self._inputs, () if self._cluster is None else self._cluster.unheard()),
            envoy=self._envoy_status(),
            dns=self._dns.status,
            bpf=self._kernel.status(),
            xds=self._xds_status(),
            drops=self._kernel.drops(),
            maps=self._kernel.map_fills(),
            flows=replace(self._observer.status(), message=self._flow_file.problem if self._flow_file else ""),
            counts=self._keeper.status(),
        )

    def _selection_in_force(self) -> Selection | None:
        if self._realisation is None:
            return None
        if self._selection is None or self._selection.world is not self._realisation.world:
            self._selection = Selection(self._realisation.world)
        return self._selection

    def _in_force(self) -> bool:
        return self._realisation is not None and self._realisation.world.revision == self._world.revision

    def _envoy_status(self) -> EnvoyStatus:
        if self._envoy_version is None:
            return EnvoyStatus(state=ProcessState.DOWN, message=f"does not answer at {self._launcher.admin_socket}")
        if not self._xds.connected:
            return EnvoyStatus(state=ProcessState.STARTING, version=self._envoy_version, message="not connected to the agent yet")
        return EnvoyStatus(state=ProcessState.READY, version=self._envoy_version)

    def _xds_status(self) -> XdsStatus:
        total = self._xds.counters.total
        return XdsStatus(
            connected=self._xds.connected,
            pushes=total.responses_sent,
            acks=total.acks,
            nacks=total.nacks,
            resources=total.resources_sent,
            bytes=total.bytes_sent,
            quarantined={key.name: nack.reason for key, nack in self._xds.nacks().items()},
        )


def cluster_settings(config: NodeConfig) -> ClusterSettings:
    """Return what node.yaml says about following the API server."""
    return ClusterSettings(
        node_name=config.node.name,
        saved=config.saved_cluster,
        kubeconfig=config.kubernetes.kubeconfig,
        host_network=config.kubernetes.host_network_pods is HostNetworkPods.ENFORCE,
        cgroup_root=config.kubernetes.cgroup_root,
        leave_existing=config.kubernetes.existing_pods is ExistingPods.LEAVE,
    )


def version() -> str:
    """The version of the program."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    try:
        return version_of("tidegate")
    except PackageNotFoundError:
        return "unknown"


# ---- the process ------------------------------------------------------------------------------------------------------


@contextmanager
def only_one(lock_file: Path) -> Iterator[None]:
    """Hold the node's lock. Raises BlockingIOError when another agent has it."""
    lock_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def end_with_supervisor(supervisor_pid: int) -> None:
    """Ask the kernel for SIGTERM when the supervisor ends, so that there is never an agent without one."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != supervisor_pid:
        sys.exit(Exit.OK)


def run_agent(config: NodeConfig, *, with_envoy: bool) -> int:
    """Run an agent until it is told to stop; return the exit code. ``with_envoy``: see Agent."""
    try:
        with only_one(config.lock_file):
            asyncio.run(Agent(config, with_envoy=with_envoy).run())
    except BlockingIOError:
        return _give_up(f"another agent runs with the state directory {config.state}", Exit.REFUSED)
    except ConfigError as error:
        return _give_up(str(error), Exit.INVALID)
    except (DatapathError, SocketUnusable, OSError) as error:
        return _give_up(str(error), Exit.MACHINE)
    except BaseExceptionGroup as group:
        lost, other = group.split(StateDirectoryLost)
        if lost is not None and other is None:
            return _give_up(f"the state directory {config.state} was emptied: starting anew", Exit.NO)
        expected, rest = group.split((DatapathError, OSError))
        if rest is not None:
            raise
        assert expected is not None
        return _give_up("; ".join(str(error) for error in expected.exceptions), Exit.MACHINE)
    return Exit.OK


def _give_up(message: str, code: Exit) -> int:
    print(f"tidegate: {message}", file=sys.stderr)
    return code


def main() -> int:
    """``python -m tidegate.agent node.yaml``."""
    if len(sys.argv) != 2:
        return _give_up("usage: python -m tidegate.agent NODE_YAML", Exit.USAGE)
    supervisor_pid = os.environ.get(SUPERVISOR_PID)
    if supervisor_pid is not None:
        end_with_supervisor(int(supervisor_pid))
    try:
        config = load_config(Path(sys.argv[1]))
    except ConfigError as error:
        return _give_up(str(error), Exit.INVALID)
    return run_agent(config, with_envoy=supervisor_pid is not None)


if __name__ == "__main__":
    sys.exit(main())
