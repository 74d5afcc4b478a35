"""Which client has accepted or refused which version of which resource, and waiting for that.

Owns: the table and its waiters. Must not know the protocol: it is fed the facts of ``delta``. A version counts as accepted when
**every** connected client has accepted it and there is at least one: during a hot restart two Envoys serve the same ports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NewType, assert_never

from xds_server.delta import REMOVED, Accepted, Answered, Declared, Fact, Forgotten, Pardoned, Refused
from xds_server.snapshot import ResourceKey

StreamId = NewType("StreamId", int)


@dataclass(frozen=True, slots=True)
class Nack:
    """A refused version and Envoy's words for it."""

    version: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AckReport:
    """What became of the versions that somebody waited for.

    ``superseded``: a later snapshot wants another version, so this one may never be sent. ``pending``: no answer in time.
    """

    acked: frozenset[ResourceKey] = frozenset()
    nacked: Mapping[ResourceKey, str] = field(default_factory=dict)
    superseded: frozenset[ResourceKey] = frozenset()
    pending: frozenset[ResourceKey] = frozenset()

    @property
    def complete(self) -> bool:
        """Every version was accepted."""
        return not self.nacked and not self.superseded and not self.pending


@dataclass(slots=True)
class _View:
    """One client, as far as it has said."""

    accepted: dict[ResourceKey, str] = field(default_factory=dict)
    refused: dict[ResourceKey, Nack] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Waiter:
    wanted: Mapping[ResourceKey, str]
    undecided: set[ResourceKey]
    superseded: set[ResourceKey]
    done: asyncio.Event


class AckBoard:
    """The table. All methods belong to one event loop."""

    def __init__(self) -> None:
        self._views: dict[StreamId, _View] = {}
        self._last_refused: dict[ResourceKey, Nack] = {}
        self._waiters: set[_Waiter] = set()

    def open(self, stream: StreamId) -> None:
        """A client has connected. What is waited for now needs its word too."""
        self._views[stream] = _View()
        for waiter in self._waiters:
            waiter.undecided = set(waiter.wanted)

    def close(self, stream: StreamId) -> None:
        """A client has gone; its refusals stay on show until another one has something to say."""
        view = self._views.pop(stream)
        if not self._views:
            self._last_refused = view.refused
        for waiter in self._waiters:
            waiter.undecided = set(waiter.wanted)
            self._review(waiter)

    def apply(self, stream: StreamId, facts: Iterable[Fact]) -> None:
        """Take down what a client's stream has shown. Costs O(facts), and per waiter O(facts) too."""
        view = self._views[stream]
        touched: set[ResourceKey] = set()
        for fact in facts:
            match fact:
                case Accepted(key, version):
                    view.refused.pop(key, None)
                    if version == REMOVED:
                        view.accepted.pop(key, None)
                    else:
                        view.accepted[key] = version
                case Declared(key, version):
                    view.accepted[key] = version
                case Refused(key, version, reason):
                    view.refused[key] = Nack(version, reason)
                case Pardoned(key):
                    view.refused.pop(key, None)
                case Forgotten(key):
                    view.accepted.pop(key, None)
                    view.refused.pop(key, None)
                case Answered():
                    continue
                case _:
                    assert_never(fact)
            touched.add(key)
        if touched:
            for waiter in self._waiters:
                waiter.undecided |= touched & waiter.wanted.keys()
                self._review(waiter)

    def retarget(self, versions: Mapping[ResourceKey, str]) -> None:
        """These resources now have these versions in the snapshot (REMOVED: none): other versions of them are superseded."""
        for waiter in self._waiters:
            for key in waiter.wanted.keys() & versions.keys():
                if waiter.wanted[key] == versions[key]:
                    waiter.superseded.discard(key)
                    waiter.undecided.add(key)
                else:
                    waiter.superseded.add(key)
            self._review(waiter)

    def nacks(self) -> dict[ResourceKey, Nack]:
        """The refusals that stand. With nobody connected, those of the last one that was."""
        if not self._views:
            return dict(self._last_refused)
        return {key: nack for view in self._views.values() for key, nack in view.refused.items()}

    def is_acked(self, key: ResourceKey, version: str) -> bool:
        """Whether every connected client has accepted this version (REMOVED: holds none), and one is connected."""
        return bool(self._views) and all(view.accepted.get(key, REMOVED) == version for view in self._views.values())

    async def wait_for(
        self, wanted: Mapping[ResourceKey, str], timeout_s: float, superseded: Iterable[ResourceKey] = ()
    ) -> AckReport:
        """Wait until each of ``wanted`` is accepted, refused or superseded, at most ``timeout_s``. Never raises for lateness."""
        waiter = _Waiter(wanted, set(wanted), set(superseded), asyncio.Event())
        self._waiters.add(waiter)
        try:
            self._review(waiter)
            async with asyncio.timeout(timeout_s):
                await waiter.done.wait()
        except TimeoutError:
            pass
        finally:
            self._waiters.discard(waiter)
        return self._report(waiter)

    def _nack_of(self, key: ResourceKey, version: str) -> Nack | None:
        for view in self._views.values():
            nack = view.refused.get(key)
            if nack is not None and nack.version == version:
                return nack
        return None

    def _review(self, waiter: _Waiter) -> None:
        """Strike off what is decided; ``undecided`` shrinks, so each fact is looked at once."""
        waiter.undecided = {
            key
            for key in waiter.undecided
            if key not in waiter.superseded
            and not self.is_acked(key, waiter.wanted[key])
            and self._nack_of(key, waiter.wanted[key]) is None
        }
        if not waiter.undecided:
            waiter.done.set()

    def _report(self, waiter: _Waiter) -> AckReport:
        acked: set[ResourceKey] = set()
        nacked: dict[ResourceKey, str] = {}
        superseded: set[ResourceKey] = set()
        pending: set[ResourceKey] = set()
        for key, version in waiter.wanted.items():
            if self.is_acked(key, version):
                acked.add(key)
            elif (nack := self._nack_of(key, version)) is not None:
                nacked[key] = nack.reason
            elif key in waiter.superseded:
                superseded.add(key)
            else:
                pending.add(key)
        return AckReport(acked=frozenset(acked), nacked=nacked, superseded=frozenset(superseded), pending=frozenset(pending))
