"""What one client wants and holds of one resource type, on one stream.

Owns: the client's view. Must not know snapshots, time, quarantine or the order between types: ``delta`` puts those together.
Follows the incremental variant of the xDS protocol (envoyproxy.io, "xDS REST and gRPC protocol"); the branches name the part of
it that they implement.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from xds_server.snapshot import Resource, ResourceKey, TypeUrl, XdsError

WILDCARD = "*"

NAMES_MAX = 50_000
"""Subscribed names of one type on one stream: above every snapshot's size, below what would hurt."""


class ProtocolViolation(XdsError):
    """The client did what the protocol does not allow; its stream ends."""


@dataclass(frozen=True, slots=True)
class Held:
    """A version that the client has, as it said itself. ``references`` None: it is not known to what it refers, since the client
    brought it along from another stream and it is not a current version."""

    version: str
    references: frozenset[ResourceKey] | None = None


@dataclass(slots=True)
class InFlight:
    """The one response of a type that the client has not answered yet. None stands for a removal.

    ``void``: names whose answer is not settled by this response, because the client asked for them again after it was sent.
    """

    nonce: str
    sent: Mapping[str, Resource | None]
    void: set[str] = field(default_factory=set)


class Subscription:
    """The client's view of one type. The fields are read by ``delta``; all changes go through the methods."""

    def __init__(self, type_url: TypeUrl) -> None:
        self.type_url = type_url
        # Names that were in a refused response and have not been accepted since: the client may have applied them all the same.
        self.uncertain: set[str] = set()
        self.started = False
        self.wildcard = False
        self.names: set[str] = set()
        self.held: dict[str, Held] = {}
        self.in_flight: InFlight | None = None
        # Names whose target may differ from what is held. Work is proportional to this, not to the size of the snapshot.
        self.dirty: set[str] = set()
        # Names for which a message is due even if nothing differs: asked for anew, or uncertain after a refusal.
        self.owed: set[str] = set()
        # Halves of refused responses whose text named no resource; each is sent on its own.
        self.suspects: deque[frozenset[str]] = deque()
        # A new wildcard subscription waits for a first response, even an empty one (Envoy does not start listening before).
        self.greeting_due = False

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def key(self, name: str) -> ResourceKey:
        return ResourceKey(self.type_url, name)

    def request(
        self, subscribe: Iterable[str], unsubscribe: Iterable[str], initial: Mapping[str, str], existing: Iterable[str]
    ) -> None:
        """Take the subscription part of a request. ``existing``: the names that the server has, for a wildcard.

        The names that lost interest are gone from ``held`` afterwards.
        """
        subscribe = tuple(subscribe)
        first = not self.started
        self.started = True
        if first:
            # "initial_resource_versions": what the client still has from an earlier stream, so it is not sent again.
            self.held = {name: Held(version) for name, version in initial.items()}
            # "legacy wildcard": a first request without names asks for everything.
            if not subscribe:
                subscribe = (WILDCARD,)
        if len(self.names) + len(subscribe) > NAMES_MAX:
            raise ProtocolViolation(f"more than {NAMES_MAX} names of {self.type_url}")
        for name in subscribe:
            if name == WILDCARD:
                self._widen(existing, greet=not initial)
            else:
                # "The server must respond to a subscription even if it believes that the client has the resource."
                self.names.add(name)
                self._ask(name, owed=not (first and name in initial))
        for name in unsubscribe:
            if name == WILDCARD:
                self._narrow()
            elif name in self.names:
                self.names.discard(name)
                # Under a wildcard the client can't know whether it still gets the resource: it must be told.
                if self.wildcard:
                    self._ask(name, owed=True)
                else:
                    self.forget(name)
        if first:
            for name in [name for name in (self.held.keys() | self.uncertain) if not self.wants(name)]:
                self.forget(name)
            # Of these the client's own word is not enough, and it may run some that it does not declare.
            for name in self.uncertain:
                self._ask(name, owed=True)

    def doubt(self, names: Iterable[str]) -> None:
        """Before the first request: what an earlier stream left open, so that what the client says of these is not enough."""
        assert not self.started
        self.uncertain.update(names)

    def forget(self, name: str) -> None:
        """The client has lost interest in the name."""
        self.held.pop(name, None)
        self.dirty.discard(name)
        self.owed.discard(name)
        self.uncertain.discard(name)
        if self.in_flight is not None:
            self.in_flight.void.add(name)

    def answered(self, nonce: str) -> InFlight | None:
        """The response that ``nonce`` answers, which is then not in flight any more; None for a nonce that is not current."""
        if self.in_flight is None or self.in_flight.nonce != nonce:
            return None
        answered, self.in_flight = self.in_flight, None
        return answered

    def accepted(self, response: InFlight) -> Iterator[str]:
        """The client took the response; gives the names for which that settles something."""
        for name, resource in response.sent.items():
            if not self.wants(name):
                continue
            self.uncertain.discard(name)
            if name not in response.void:
                self.owed.discard(name)
            if resource is None:
                self.held.pop(name, None)
            else:
                self.held[name] = Held(resource.version, resource.references)
            yield name

    def refused(self, response: InFlight) -> list[str]:
        """The client refused the response; gives the names that it still wants.

        It may have applied some of it, so what it holds of these is not certain until it accepts something: they are owed.
        """
        names = [name for name in response.sent if self.wants(name)]
        self.dirty.update(names)
        self.owed.update(names)
        self.uncertain.update(names)
        return names

    def _ask(self, name: str, *, owed: bool) -> None:
        self.dirty.add(name)
        if owed:
            self.owed.add(name)
            if self.in_flight is not None:
                self.in_flight.void.add(name)

    def _widen(self, existing: Iterable[str], *, greet: bool) -> None:
        if not self.wildcard:
            self.wildcard = True
            self.greeting_due = greet
            self.dirty.update(existing)
            self.dirty.update(self.held)

    def _narrow(self) -> None:
        self.wildcard = False
        self.greeting_due = False
        for name in (self.held.keys() | self.dirty | self.owed) - self.names:
            self.forget(name)
