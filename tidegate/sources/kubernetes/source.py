"""The API server as a source: follows what counts, and tells the agent whenever the state changed.

Owns: the tasks (one reflector a kind, one a Secret that rules name), the first synchronisation, the look for the interfaces of
this node's pods, and the saving of the state. What the objects mean is cluster.py's business. Lifecycle: ``run`` until cancelled.

1. What was saved is taken in at once. It counts from ``SAVED_AFTER_S`` on if the server has not been heard by then.
2. When every kind was listed, the Secrets that rules name are read, and the first state is told. Until then the agent realises
   nothing and the kernel goes on with what it has.
3. From then on a change is told within ``GATHER_S``. A server that is away changes nothing; ``problems`` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from l7filters.model import Policy
from l7filters.world import Address
from tidegate.sandboxes import Sandbox
from tidegate.sources.kubernetes.cluster import Cluster, ClusterState
from tidegate.sources.kubernetes.kinds import KINDS, Kind, Role
from tidegate.sources.kubernetes.objects import Pod
from tidegate.sources.kubernetes.people import Attachment
from tidegate.sources.kubernetes.reflector import Changes, Health, Reflector
from tidegate.sources.kubernetes.reporter import Reading, Reporter
from tidegate.sources.kubernetes.saved import SavedObjects
from tidegate.sources.kubernetes.server import ApiError, ApiServer
from tidegate.sources.kubernetes.verdict import PolicyObject
from tidegate.status.node import PolicyStatus
from tidegate.surroundings import ChangeNotice
from tidegate.veths import VethLook
from tidegate.workloads import CgroupLook

_log = structlog.get_logger()

GATHER_S = 0.005
"""Changes that come within this are told together."""
SAVED_AFTER_S = 5.0
SECRETS_WAIT_S = 5.0
"""How long the first state waits for the Secrets; rules whose Secret is not there yet are closed."""
SECRETS_MAX = 256
"""Secrets that rules name: each costs a watch."""
LOOK_S_MIN, LOOK_S_MAX = 0.05, 10.0
"""Between looks for an interface that was not found; a pod whose address no veth leads to is looked for ever more seldom."""
SAVE_S_MIN = 2.0
SAVE_SHARE_MAX = 0.02
"""Of the time, for saving: with many pods it takes longer and is done less often."""
CONNECT_RETRY_S = 5.0
REFRESH_SECONDS_MAX = 3.0
"""How long ``tidegate status`` waits for the watch to bring what the server has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """How the cluster is followed. ``kubeconfig`` None: with the service account of this pod."""

    node_name: str
    saved: Path
    kubeconfig: Path | None = None
    host_network: bool = False
    """Whether pods in the node's own network are judged, by their cgroup."""
    cgroup_root: str = "/"
    report: bool = True
    """Whether the status of policies and Events are written."""
    leave_existing: bool = False
    """Whether pods that ran before Tidegate first did are left alone until they start again."""


@dataclass(slots=True)
class _SecretTask:
    reflector: Reflector
    task: asyncio.Task[None]


@dataclass(slots=True)
class _Looking:
    """The look for interfaces that were not found."""

    wanted: frozenset[str] = frozenset()
    delay_s: float = LOOK_S_MIN
    due_s: float = 0.0


class KubernetesSource:
    """Follows one cluster. One use; on one event loop."""

    def __init__(
        self,
        settings: ClusterSettings,
        tell: Callable[[ClusterState], None],
        statuses: Callable[[frozenset[str]], Iterable[PolicyStatus]] = lambda _: (),
    ) -> None:
        """``statuses``: how far policies (by key) are on this node, for the status of their objects."""
        self._settings = settings
        self._tell = tell
        self.cluster = Cluster(settings.node_name)
        self._saved = SavedObjects(settings.saved)
        self._dirty = asyncio.Event()
        self._publishing = asyncio.Lock()
        self._reflectors: dict[Kind, Reflector] = {}
        self._secrets: dict[str, _SecretTask] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._server: ApiServer | None = None
        self._from_saved = False
        self._connect_problem = ""
        self._save_problem = ""
        self._veths = VethLook()
        self._cgroups = CgroupLook(settings.cgroup_root)
        self._looking = _Looking()
        self._told: ClusterState | None = None
        self._statuses = statuses
        self._reporter: Reporter | None = None
        self._fresh: set[str] = set()
        self._told_policies: dict[str, PolicyObject] = {}
        """The objects as of the state that was told: their generations are those that the agent speaks of."""

    @property
    def server(self) -> ApiServer | None:
        """The connection, once there is one."""
        return self._server

    # ---- life -------------------------------------------------------------------------------------------------------

    def unheard(self) -> tuple[str, ...]:
        """Why no state was told yet, one line each; empty once one was."""
        if self._told is not None:
            return ()
        missing = [kind.plural for kind, reflector in self._reflectors.items() if not reflector.health.synced]
        return self._problems() or (f"not listed yet: {', '.join(missing) or 'anything'}",)

    def report(self) -> None:
        """What ``statuses`` says may have changed."""
        if self._reporter is not None:
            self._reporter.changed()

    async def run(self) -> None:
        """Follow until cancelled."""
        await asyncio.to_thread(self._take_saved)
        while True:
            try:
                async with ApiServer.connect(self._settings.kubeconfig) as server:
                    self._connect_problem = ""
                    self._server = server
                    await self._follow(server)
            except ApiError as error:
                self._connect_problem = str(error)
                _log.error("api_server_unusable", reason=str(error))
                if self._from_saved:
                    self._publish()
                await asyncio.sleep(CONNECT_RETRY_S)

    async def refresh(self) -> None:
        """Return when what policies and pods of this node the API server has at the call was told. Raises TimeoutError."""
        if self._told is None:
            return
        here = {"fieldSelector": f"spec.nodeName={self._settings.node_name}"}
        asked = {
            kind: one for kind, one in self._reflectors.items() if kind.role in (Role.POLICY, Role.POD) and not one.health.problem
        }
        try:
            async with asyncio.timeout(REFRESH_SECONDS_MAX):
                await asyncio.gather(*(one.catch_up(here if kind.role is Role.POD else None) for kind, one in asked.items()))
        except ApiError as error:
            _log.warning("refresh_failed", reason=str(error))
        await self._publish_now()

    def take_sandbox(self, sandbox: Sandbox) -> None:
        """Take in what the CNI plugin says of a pod: it knows the addresses before the API server does."""
        attachment = Attachment(sandbox.addresses, interface=sandbox.interface)
        if self.cluster.people.take_sandbox(sandbox.key, attachment, sandbox.container):
            self._dirty.set()

    def forget_sandbox(self, sandbox: Sandbox) -> None:
        """A sandbox is gone; another one of the same pod stays."""
        if self.cluster.people.drop_sandbox(sandbox.key, sandbox.container):
            self._dirty.set()

    def why_unknown(self, sandbox: Sandbox) -> str:
        """Return why a pod is no endpoint yet; "" if it is one."""
        pod = self.cluster.people.pod(sandbox.key)
        if pod is None:
            return "; ".join(("the API server has not told of the pod yet", *self._problems()))
        if pod.node != self._settings.node_name:
            return f"the pod is assigned to {pod.node or 'no node'}, and this is {self._settings.node_name}"
        return ""

    async def _follow(self, server: ApiServer) -> None:
        for kind in KINDS:
            self._reflectors[kind] = self._reflector(server, kind)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for reflector in self._reflectors.values():
                tasks.create_task(reflector.run())
            tasks.create_task(self._watch_links())
            tasks.create_task(self._keep_saved())
            await self._first_sync()
            if self._settings.report:
                self._reporter = Reporter(self._settings.node_name, server, self._reading)
                tasks.create_task(self._reporter.run())
            while True:
                await self._publish_now()
                await self._wait_for_change()

    def _reflector(self, server: ApiServer, kind: Kind) -> Reflector:
        def tell(changes: Changes) -> None:
            self.cluster.take(kind, changes)
            self._dirty.set()
            if kind.role is Role.POLICY:
                self._fresh.update(f"{kind.word}/{key}" for key in (*changes.present, *changes.gone))

        reflector = Reflector(
            server, kind.path, tell, query=kind.query, optional=kind.optional, fallback=kind.fallback, changed=self._dirty.set
        )
        reflector.assume(set(self.cluster.saved_form(kind)))
        return reflector

    async def _first_sync(self) -> None:
        """Return when the first state can be told."""
        begun_s = time.monotonic()
        while not all(reflector.health.synced for reflector in self._reflectors.values()):
            if self._from_saved and time.monotonic() - begun_s > SAVED_AFTER_S:
                _log.warning("api_server_away", using="the state that was saved", problems=list(self._problems()))
                return
            self._dirty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._dirty.wait(), 0.25)
        await self._remember_existing()
        self._follow_secrets()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SECRETS_WAIT_S):
                while not all(one.reflector.health.synced for one in self._secrets.values()):
                    self._dirty.clear()
                    await self._dirty.wait()
        _log.info(
            "api_server_synced",
            server="" if self._server is None else self._server.host,
            milliseconds=round((time.monotonic() - begun_s) * 1000),
            endpoints=len(self.cluster.people.state.entries),
            policies=len(self.cluster.papers.state.policies),
        )

    async def _wait_for_change(self) -> None:
        due_s = self._looking.due_s if self._looking.wanted else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if due_s is None else max(0.0, due_s - time.monotonic())):
                await self._dirty.wait()
        if self._dirty.is_set():
            await asyncio.sleep(GATHER_S)

    async def _publish_now(self) -> None:
        async with self._publishing:
            self._dirty.clear()
            self._follow_secrets()
            await self._look_for_interfaces()
            self._publish()

    def _publish(self) -> None:
        state = self.cluster.state(self._problems())
        self._told_policies = dict(self.cluster.policies)
        if state != self._told:
            self._told = state
            self._tell(state)
        if self._reporter is not None and self._fresh:
            self._reporter.changed(self._fresh)
            self._fresh = set()

    def _problems(self) -> tuple[str, ...]:
        found = {} if not self._connect_problem else {"the API server": self._connect_problem}
        for kind, reflector in self._reflectors.items():
            if reflector.health.problem:
                found[kind.plural] = reflector.health.problem
        for name, one in self._secrets.items():
            if one.reflector.health.problem:
                found[f"secret {name}"] = one.reflector.health.problem
        if len(self.cluster.wanted_secrets()) > SECRETS_MAX:
            found["secrets"] = f"rules name more than {SECRETS_MAX}; the rest are not read, and their rules closed"
        if self._save_problem:
            found["saved state"] = self._save_problem
        return tuple(f"{what}: {problem}" for what, problem in found.items())

    def _reading(self) -> Reading:
        """What there is to report at this moment."""
        cluster = self.cluster
        policies: dict[str, list[Policy]] = {}
        for policy in cluster.papers.state.policies:
            policies.setdefault(policy.key, []).append(policy)

        def nodes_of(key: str) -> frozenset[str]:
            specs = [one for one in policies.get(key, ()) if not one.selects_nodes]
            return (
                cluster.people.nodes_of(lambda labels: any(one.subject.matches(labels) for one in specs))
                if specs
                else frozenset()
            )

        errors = {key: wrong for key in self._told_policies if (wrong := cluster.papers.errors_of(key))}
        return Reading(objects=self._told_policies, errors=errors, statuses=self._statuses, nodes_of=nodes_of)

    # ---- Secrets ----------------------------------------------------------------------------------------------------

    def _follow_secrets(self) -> None:
        """Follow the Secrets that rules name now, and no others."""
        server, tasks = self._server, self._tasks
        if server is None or tasks is None:
            return
        wanted = {
            f"{namespace}/{name}": (namespace, name) for namespace, name in sorted(self.cluster.wanted_secrets())[:SECRETS_MAX]
        }
        for gone in self._secrets.keys() - wanted.keys():
            self._secrets.pop(gone).task.cancel()
        self.cluster.vault.keep_only(wanted)
        for key in wanted.keys() - self._secrets.keys():
            namespace, name = wanted[key]

            def tell(changes: Changes) -> None:
                self.cluster.take_secret(changes)
                self._dirty.set()

            reflector = Reflector(
                server,
                f"/api/v1/namespaces/{namespace}/secrets",
                tell,
                query={"fieldSelector": f"metadata.name={name}"},
                changed=self._dirty.set,
            )
            self._secrets[key] = _SecretTask(reflector, tasks.create_task(reflector.run()))

    # ---- interfaces and cgroups -------------------------------------------------------------------------------------

    async def _look_for_interfaces(self) -> None:
        """Find where the local pods are reached that have no interface yet."""
        wanting = [(pod, addresses) for pod, addresses in self.cluster.people.wanting() if self._is_judged(pod)]
        wanted = frozenset(f"{pod.uid} {addresses}" for pod, addresses in wanting)
        looking = self._looking
        if not wanting:
            looking.wanted = wanted
            return
        if wanted == looking.wanted and time.monotonic() < looking.due_s:
            return
        if wanted != looking.wanted:
            looking.wanted, looking.delay_s = wanted, LOOK_S_MIN
        try:
            found = await asyncio.to_thread(self._look, wanting)
        except OSError as error:
            _log.error("interface_look_failed", reason=str(error))
            found = {}
        self.cluster.people.take_attachments(found)
        looking.due_s = time.monotonic() + looking.delay_s
        looking.delay_s = min(looking.delay_s * 2, LOOK_S_MAX)
        looking.wanted = frozenset(f"{pod.uid} {addresses}" for pod, addresses in wanting if pod.key not in found)

    def _is_judged(self, pod: Pod) -> bool:
        return self._settings.host_network or not pod.host_network

    def _look(self, wanting: list[tuple[Pod, tuple[Address, ...]]]) -> dict[str, Attachment]:
        found: dict[str, Attachment] = {}
        in_pods = [(pod, addresses) for pod, addresses in wanting if not pod.host_network]
        by_address: Mapping[Address, str] = {}
        if in_pods:
            by_address = self._veths.interfaces_of(address for _, addresses in in_pods for address in addresses)
        for pod, addresses in in_pods:
            name = next((by_address[address] for address in addresses if address in by_address), None)
            if name is not None:
                found[pod.key] = Attachment(addresses, interface=name)
        for pod, _ in wanting:
            if pod.host_network:
                cgroup = self._cgroups.find(pod.uid, pod.quality)
                if cgroup is not None:
                    found[pod.key] = Attachment((), cgroup=cgroup)
        return found

    async def _watch_links(self) -> None:
        """Look again when the machine's links, addresses or routes changed, and forget interfaces that are gone."""
        notice = ChangeNotice()
        try:
            while True:
                await notice.wait()
                lost = await asyncio.to_thread(self._lost_interfaces)
                self.cluster.people.lose_attachments(lost)
                if lost or self._looking.wanted:
                    self._looking.due_s, self._looking.delay_s = 0.0, LOOK_S_MIN
                    self._dirty.set()
                await asyncio.sleep(LOOK_S_MIN)
        finally:
            notice.close()

    def _lost_interfaces(self) -> list[str]:
        present = {name for _, name in socket.if_nameindex()}
        people = self.cluster.people
        attached = [(pod.key, people.attachment(pod.key)) for pod in tuple(people.local_pods())]
        return [key for key, at in attached if at is not None and at.interface is not None and at.interface not in present]

    # ---- pods from before us ----------------------------------------------------------------------------------------

    async def _remember_existing(self) -> None:
        """Leave the pods alone that ran before Tidegate first did, if that is wanted."""
        if not self._settings.leave_existing:
            return
        known = await asyncio.to_thread(self._saved.load, "left-alone")
        if known is None:
            left = {pod.uid: {"pod": pod.key} for pod in self.cluster.people.local_pods() if pod.addresses and pod.uid}
            self._save_problem = await asyncio.to_thread(self._saved.save, "left-alone", left)
            known = left
        self.cluster.people.leave_alone(frozenset(known))

    # ---- the saved state --------------------------------------------------------------------------------------------

    def _take_saved(self) -> None:
        complete = True
        for kind in KINDS:
            objects = self._saved.load(kind.word)
            if objects is None:
                complete = complete and kind.optional
                continue
            self.cluster.take(kind, Changes(objects))
        self._from_saved = complete
        self.cluster.unsaved.clear()
        left = self._saved.load("left-alone") if self._settings.leave_existing else None
        if left is not None:
            self.cluster.people.leave_alone(frozenset(left))

    async def _keep_saved(self) -> None:
        try:
            while True:
                took_s = await self._save()
                await asyncio.sleep(max(SAVE_S_MIN, took_s / SAVE_SHARE_MAX))
        finally:
            await asyncio.shield(self._save())

    async def _save(self) -> float:
        """Save the kinds that changed; return how long it took."""
        begun_s = time.monotonic()
        wanted, self.cluster.unsaved = self.cluster.unsaved, set()
        problem = ""
        for kind, reflector in self._reflectors.items():
            if kind.role in wanted and reflector.health.synced:
                objects = self.cluster.saved_form(kind)
                problem = await asyncio.to_thread(self._saved.save, kind.word, objects) or problem
        if problem != self._save_problem:
            self._save_problem = problem
            self._dirty.set()
        return time.monotonic() - begun_s


__all__ = ["ClusterSettings", "ClusterState", "Health", "KubernetesSource", "Role"]
