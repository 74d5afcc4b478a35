"""Writing back: the status of our own policy kinds, and Events about rejected policies of any kind.

Owns: when something is written, and how often. What is written is verdict.py's business. Nothing here holds up enforcement: a
server that refuses or is away costs a report, which is made when it is back. Lifecycle: ``run`` until cancelled.

- Objects that changed, and those that are not in force everywhere yet, are looked at within ``GATHER_S`` of a change. All of
them are   at times, never for more than ``SHARE_MAX`` of the agent's time. What the server has already is not written again.
- At most ``WRITES_PER_S`` a second from one agent. The shared conditions are written after a random pause, looked at again
before.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from l7filters.documents import DocumentError
from tidegate.sources.kubernetes.reflector import Backoff
from tidegate.sources.kubernetes.server import ApiAbsent, ApiError, ApiRefused, ApiServer
from tidegate.sources.kubernetes.verdict import (
    CONDITIONS_MANAGER,
    PolicyObject,
    apply_body,
    conditions,
    event,
    is_news,
    is_outstanding,
    node_entry,
    node_manager,
    present_entry,
)
from tidegate.status.node import PolicyStatus

_log = structlog.get_logger()

GATHER_S = 0.25
WRITES_PER_S = 20.0
CONDITIONS_PAUSE_S = 0.5
"""The shared conditions are written after a random part of this, by whoever comes first."""
ALL_S_MIN = 5.0
SHARE_MAX = 0.02
"""Looking at all policies takes longer the more there are, and is done less often then."""
COUNTS_S = 60.0
"""How often the number of selected workloads is brought up to date, where nothing else changed."""
EVENTS_REMEMBERED_MAX = 10_000
_CONFLICT = 409


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the reporter sees at one moment."""

    objects: Mapping[str, PolicyObject]
    """All of them, by key."""
    errors: Mapping[str, tuple[DocumentError, ...]]
    """Key -> why the present version can't be read."""
    statuses: Callable[[frozenset[str]], Iterable[PolicyStatus]]
    """Keys -> how far each is on this node."""
    nodes_of: Callable[[str], frozenset[str]]
    """Key -> the nodes with workloads that the policy selects."""


class Reporter:
    """Writes what one agent has to say."""

    def __init__(self, node: str, server: ApiServer, read: Callable[[], Reading]) -> None:
        self._node = node
        self._server = server
        self._read = read
        self._wake = asyncio.Event()
        self._backoff = Backoff()
        self._fresh: set[str] = set()
        self._open: set[str] = set()
        """Not in force everywhere when last looked at."""
        self._all_due_s = 0.0
        self._events: dict[str, int] = {}
        self._counts_due_s: dict[str, float] = {}
        self.problem = ""

    def changed(self, keys: Iterable[str] = ()) -> None:
        """These objects changed, or what is in force on this node."""
        self._fresh.update(keys)
        if self._fresh or self._open:
            self._wake.set()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self._report()
            except ApiError as error:
                self.problem = str(error)
                self._all_due_s = 0.0
                pause_s = self._backoff.next_s(error.retry_after_s) * (20 if isinstance(error, ApiRefused) else 1)
                _log.warning("report_failed", reason=str(error), retry_in_s=round(pause_s, 1))
                await asyncio.sleep(pause_s)
                continue
            self.problem = ""
            self._backoff.reset()
            try:
                async with asyncio.timeout(max(0.0, self._all_due_s - _loop_s())):
                    await self._wake.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(GATHER_S)

    async def _report(self) -> None:
        """Write what differs of those that changed or are outstanding, or of all if that is due."""
        begun_s = _loop_s()
        reading = self._read()
        everything = begun_s >= self._all_due_s
        keys = frozenset(reading.objects if everything else (self._fresh | self._open) & reading.objects.keys())
        self._fresh.clear()
        statuses = {status.key: status for status in reading.statuses(keys)}
        pending = [key for key in sorted(keys) if self._wanted_conditions(reading, key) is not None]
        looked_s = _loop_s() - begun_s
        for key in sorted(keys):
            item, errors = reading.objects[key], reading.errors.get(key, ())
            if errors and self._events.get(item.uid) != item.generation:
                await self._send_event(item, errors)
            if item.kind.has_status and await self._write_entry(item, statuses.get(key)):
                await asyncio.sleep(1 / WRITES_PER_S)
        if pending:
            await asyncio.sleep(random.random() * CONDITIONS_PAUSE_S)
        for key in pending:
            # The object may have changed while we waited: another agent may have written it.
            fresh = self._read()
            wanted = self._wanted_conditions(fresh, key)
            if wanted is not None:
                await self._apply(fresh.objects[key], wanted, CONDITIONS_MANAGER)
                await asyncio.sleep(1 / WRITES_PER_S)
        outstanding = {key for key in keys if key in pending or is_outstanding(reading.objects[key])}
        self._open = outstanding if everything else (self._open - keys) | outstanding
        if everything:
            self._all_due_s = _loop_s() + max(ALL_S_MIN, looked_s / SHARE_MAX)

    def _wanted_conditions(self, reading: Reading, key: str) -> dict[str, object] | None:
        item = reading.objects.get(key)
        if item is None or not item.kind.has_status:
            return None
        return conditions(item, reading.errors.get(key, ()), reading.nodes_of(key), _now())

    async def _write_entry(self, item: PolicyObject, status: PolicyStatus | None) -> bool:
        present = present_entry(item, self._node)
        wanted = node_entry(item, status, self._node, present)
        if wanted == present:
            return False
        now_s = _loop_s()
        if not is_news(wanted, present) and now_s < self._counts_due_s.get(item.key, 0.0):
            return False
        self._counts_due_s[item.key] = now_s + COUNTS_S
        await self._apply(item, {} if wanted is None else {"nodes": [wanted]}, node_manager(self._node))
        return True

    async def _apply(self, item: PolicyObject, status: dict[str, object], manager: str) -> None:
        path = f"{item.kind.object_path(item.namespace or None, item.name)}/status"
        try:
            await self._server.apply(path, apply_body(item, status), manager)
        except ApiAbsent:  # deleted meanwhile
            return
        except ApiRefused as error:
            if error.status != _CONFLICT:
                raise

    async def _send_event(self, item: PolicyObject, errors: tuple[DocumentError, ...]) -> None:
        if len(self._events) >= EVENTS_REMEMBERED_MAX:
            self._events.clear()
        _log.warning("policy_rejected", policy=item.key, generation=item.generation, reason=str(errors[0]))
        body = event(item, errors, self._node, _now())
        try:
            await self._server.create(f"/api/v1/namespaces/{body['metadata']['namespace']}/events", body)
        except ApiRefused as error:
            if error.status != _CONFLICT:  # another agent has said it
                raise
        self._events[item.uid] = item.generation


def _loop_s() -> float:
    return asyncio.get_running_loop().time()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
