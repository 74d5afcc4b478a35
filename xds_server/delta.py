"""The delta xDS protocol of one stream, as a pure state machine: events in, responses and facts out.

Owns: what is sent when. No IO, no clock (time is the ``now_ns`` of each event), no randomness, no logging. Follows the
incremental variant of the xDS protocol over one aggregated stream (envoyproxy.io, "xDS REST and gRPC protocol").

The rules, each of which has a test that claims it:

1. Nothing is sent that the client holds already, and nothing at all when nothing changed for it.
2. A type has at most one unanswered response. So an ACK or NACK can't be misread, and a slow client gets the latest state when
   it answers, never a backlog.
3. Make before break: types are served in the order of ``TypeUrl``; a resource waits for those of earlier types that it refers
   to; a removal waits until the client has accepted a world in which nothing refers to what is removed.
4. A refusal (NACK) quarantines single resources. If the text names them, those; else the response is halved until one is left.
   The rest is sent again at once, since only an ACK proves what the client holds. A refused version comes back after a back-off,
   alone, so it can't spoil another's update; a new version of it goes out at once.
5. Before the first snapshot nothing is said: an empty server is not an order to remove everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from xds_server.nack import refused_names
from xds_server.quarantine import Quarantine, Quarantined
from xds_server.snapshot import MAY_REFER_TO, SEND_RANK, Resource, ResourceKey, Snapshot, TypeUrl
from xds_server.subscription import Held, InFlight, Subscription

REMOVED = ""
"""The version of a resource that is not there."""

RESPONSE_BYTES_MAX = 4 * 1024 * 1024
"""A response closes when its bodies reach this; the rest follows after the ACK. Keeps both sides' buffers bounded."""

INTRODUCTION_NS = 1_000_000_000
"""How long a new stream is given to say what it holds of each type. Envoy says all of it within milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A decoded DeltaDiscoveryRequest. ``error`` is the reason of a NACK, None otherwise."""

    type_url: TypeUrl
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A DeltaDiscoveryResponse to send. Both lists are sorted by name; both are empty only in a greeting."""

    type_url: TypeUrl
    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The client holds this version, by its own word; REMOVED: it holds none."""

    key: ResourceKey
    version: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The client refused this version and keeps what it had."""

    key: ResourceKey
    version: str
    reason: str


@dataclass(frozen=True, slots=True)
class Declared:
    """The client said at the start of the stream that it still holds this version. A refusal of another version stands."""

    key: ResourceKey
    version: str


@dataclass(frozen=True, slots=True)
class Pardoned:
    """What was refused of this resource is not wanted any more, and the client holds what is."""

    key: ResourceKey


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The client has no interest in this resource any more."""

    key: ResourceKey


@dataclass(frozen=True, slots=True)
class Answered:
    """A response was answered: an ACK, or a NACK."""

    type_url: TypeUrl
    accepted: bool


Fact = Accepted | Refused | Declared | Pardoned | Forgotten | Answered


@dataclass(frozen=True, slots=True)
class Output:
    """What follows from an event, in order."""

    responses: tuple[Response, ...] = ()
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Legacy:
    """What a client's next stream must know of its last one.

    ``uncertain``: what was in a refused response and not accepted since. The client may have applied it without saying so, and
    it will then declare an older version than it really runs; so its word for these is not enough. ``in_flight``: what was sent
    and not answered (None: a removal), which is uncertain too unless the client declares just that. ``held``: what it has
    accepted, for the references of the versions that it will declare.
    """

    quarantined: Mapping[ResourceKey, Quarantined] = field(default_factory=dict)
    uncertain: frozenset[ResourceKey] = frozenset()
    in_flight: Mapping[ResourceKey, Resource | None] = field(default_factory=dict)
    held: Mapping[ResourceKey, Held] = field(default_factory=dict)


class DeltaStream:
    """The state of one stream. Each event returns the responses to send; sending them is the caller's."""

    def __init__(self, legacy: Legacy | None = None) -> None:
        legacy = legacy or Legacy()
        self._legacy = legacy
        self._subscriptions = {type_url: Subscription(type_url) for type_url in TypeUrl}
        self._quarantine = Quarantine(legacy.quarantined)
        self._snapshot: Snapshot | None = None
        self._nonce_count = 0
        self._wake_at_ns: int | None = None
        self._started_at_ns: int | None = None
        # How many resources that the client holds refer to each key; and, by type, of how many that is not known.
        self._referrers: Counter[ResourceKey] = Counter()
        self._inscrutable: Counter[TypeUrl] = Counter()

    @property
    def wake_at_ns(self) -> int | None:
        """When ``tick`` is due, for the first quarantined resource to try again; None: not at all."""
        return self._wake_at_ns

    def legacy(self) -> Legacy:
        """What the same client's next stream inherits."""
        uncertain: set[ResourceKey] = set()
        in_flight: dict[ResourceKey, Resource | None] = {}
        held: dict[ResourceKey, Held] = {}
        for type_url, subscription in self._subscriptions.items():
            if not subscription.started:
                # A stream that broke before the client came to this type has learnt nothing about it.
                uncertain.update(key for key in self._legacy.uncertain if key.type_url is type_url)
                in_flight.update((key, sent) for key, sent in self._legacy.in_flight.items() if key.type_url is type_url)
                held.update((key, known) for key, known in self._legacy.held.items() if key.type_url is type_url)
                continue
            uncertain.update(subscription.key(name) for name in subscription.uncertain)
            held.update((subscription.key(name), known) for name, known in subscription.held.items())
            if subscription.in_flight is not None:
                in_flight.update((subscription.key(name), sent) for name, sent in subscription.in_flight.sent.items())
        return Legacy(quarantined=self._quarantine.entries(), uncertain=frozenset(uncertain), in_flight=in_flight, held=held)

    def publish(self, snapshot: Snapshot, now_ns: int) -> Output:
        """There is a new snapshot. Costs O(changed)."""
        previous, self._snapshot = self._snapshot, snapshot
        if previous is None:
            for subscription in self._subscriptions.values():
                subscription.dirty.update(name for name in self._existing(subscription.type_url) if subscription.wants(name))
                self._learn_references(subscription)
        else:
            for type_url, name in snapshot.changed_keys(previous):
                subscription = self._subscriptions[type_url]
                if subscription.wants(name):
                    subscription.dirty.add(name)
        pardoned = self._pardon_unwanted(snapshot)
        planned = self._plan(now_ns)
        return Output(planned.responses, (*pardoned, *planned.facts))

    def tick(self, now_ns: int) -> Output:
        """Time has passed."""
        return self._plan(now_ns)

    def request(self, request: Request, now_ns: int) -> Output:
        """The client sent a request: an answer to a response, a change of its subscriptions, or both at once.

        Raises ProtocolViolation, after which the stream must end.
        """
        subscription = self._subscriptions[request.type_url]
        if self._started_at_ns is None:
            self._started_at_ns = now_ns
        facts: list[Fact] = []
        # The answer comes first: it is about what the client had before it changed its mind in the same message.
        answered = subscription.answered(request.nonce) if request.nonce else None
        if answered is not None:
            facts.append(Answered(request.type_url, request.error is None))
            if request.error is None:
                facts += self._accept(subscription, answered)
            else:
                facts += self._refuse(subscription, answered, request.error, now_ns)
        facts += self._resubscribe(subscription, request)
        planned = self._plan(now_ns)
        return Output(planned.responses, (*facts, *planned.facts))

    # ---- what the client says -------------------------------------------------------------------------------------

    def _resubscribe(self, subscription: Subscription, request: Request) -> list[Fact]:
        first = not subscription.started
        if not first and not request.subscribe and not request.unsubscribe:
            return []
        before = dict(subscription.held) if request.unsubscribe else {}
        existing = self._existing(request.type_url) if self._snapshot is not None else ()
        if first:
            subscription.doubt(self._uncertain_names(request))
        subscription.request(request.subscribe, request.unsubscribe, request.initial_versions, existing)
        facts: list[Fact] = []
        for name in sorted({*before, *request.unsubscribe}):
            if not subscription.wants(name):
                if name in before:
                    self._count_references(subscription, before[name], -1)
                self._quarantine.release(subscription.key(name))
                facts.append(Forgotten(subscription.key(name)))
        if first:
            facts += [Declared(subscription.key(name), held.version) for name, held in subscription.held.items()]
            self._inscrutable[request.type_url] = len(subscription.held)
            if self._snapshot is not None:
                self._learn_references(subscription)
        return facts

    def _uncertain_names(self, request: Request) -> set[str]:
        """Of what the last stream left open, that which the client's declarations don't settle."""
        declared = request.initial_versions
        uncertain = {key.name for key in self._legacy.uncertain if key.type_url is request.type_url}
        for key, sent in self._legacy.in_flight.items():
            if key.type_url is request.type_url and declared.get(key.name, REMOVED) != _version(sent):
                uncertain.add(key.name)
        return uncertain

    def _pardon_unwanted(self, snapshot: Snapshot) -> list[Fact]:
        """Drop refusals that concern neither the client nor the snapshot any more; they came from an earlier stream."""
        facts: list[Fact] = []
        for key, entry in self._quarantine.entries().items():
            if not self._subscriptions[key.type_url].wants(key.name) and _version(snapshot.get(key)) != entry.version:
                self._quarantine.release(key)
                facts.append(Pardoned(key))
        return facts

    def _learn_references(self, subscription: Subscription) -> None:
        """A client declares versions only; of those that are current, or that its last stream knew, the references are known."""
        assert self._snapshot is not None
        for name, held in list(subscription.held.items()):
            if held.references is not None:
                continue
            key = subscription.key(name)
            for known in (self._snapshot.get(key), self._legacy.held.get(key), self._legacy.in_flight.get(key)):
                if known is not None and known.version == held.version and known.references is not None:
                    self._learn(subscription, name, known.references)
                    break

    def _learn(self, subscription: Subscription, name: str, references: frozenset[ResourceKey]) -> None:
        before = subscription.held[name]
        subscription.held[name] = after = Held(before.version, references)
        self._count_references(subscription, before, -1)
        self._count_references(subscription, after, +1)

    def _accept(self, subscription: Subscription, response: InFlight) -> list[Fact]:
        for name in response.sent:
            if (held := subscription.held.get(name)) is not None:
                self._count_references(subscription, held, -1)
        facts: list[Fact] = []
        for name in subscription.accepted(response):
            resource = response.sent[name]
            self._quarantine.release(subscription.key(name))
            facts.append(Accepted(subscription.key(name), _version(resource)))
        for name in response.sent:
            if (held := subscription.held.get(name)) is not None:
                self._count_references(subscription, held, +1)
        return facts

    def _refuse(self, subscription: Subscription, response: InFlight, message: str, now_ns: int) -> list[Fact]:
        wanted = subscription.refused(response)
        named = refused_names(subscription.type_url, message, wanted)
        removals_only = all(resource is None for resource in response.sent.values())
        if len(response.sent) == 1 or (removals_only and not named):
            named = {name: named.get(name, message) for name in wanted}
        if not named:
            names = sorted(wanted)
            half = (len(names) + 1) // 2
            halves = (frozenset(names[:half]), frozenset(names[half:]))
            subscription.suspects.extendleft(part for part in reversed(halves) if part)
        facts: list[Fact] = []
        for name, reason in sorted(named.items()):
            resource = response.sent[name]
            version = _version(resource)
            entry = self._quarantine.refuse(subscription.key(name), version, reason, now_ns)
            facts.append(Refused(subscription.key(name), version, entry.reason))
        return facts

    def _count_references(self, subscription: Subscription, held: Held, step: int) -> None:
        if held.references is None:
            self._inscrutable[subscription.type_url] += step
            return
        for key in held.references:
            self._referrers[key] += step
            if not self._referrers[key]:
                del self._referrers[key]

    # ---- what to send ---------------------------------------------------------------------------------------------

    def _existing(self, type_url: TypeUrl) -> Iterable[str]:
        assert self._snapshot is not None
        return [key.name for key in self._snapshot if key.type_url is type_url]

    def _plan(self, now_ns: int) -> Output:
        """Every response that may go out now: additions in send order, then removals in reverse."""
        self._wake_at_ns = None
        if self._snapshot is None:
            return Output()
        responses: list[Response] = []
        facts: list[Fact] = []
        gone: dict[TypeUrl, list[str]] = {}
        for type_url, subscription in self._subscriptions.items():
            if subscription.dirty or subscription.greeting_due:
                facts += self._settle(subscription)
            # What changed meanwhile waits for the answer, which leads back here.
            if subscription.in_flight is not None or not (subscription.dirty or subscription.greeting_due):
                continue
            added, gone[type_url] = self._due(subscription, now_ns)
            if added or (subscription.greeting_due and not gone[type_url]):
                responses.append(self._send(subscription, {resource.name: resource for resource in added}))
        if any(gone.values()):
            responses += self._remove(gone, now_ns)
        return Output(tuple(responses), tuple(facts))

    def _settle(self, subscription: Subscription) -> list[Fact]:
        """Strike off what turned out to be held already. Not while a response is in flight, which may change what is held."""
        assert self._snapshot is not None
        if subscription.in_flight is not None:
            return []
        facts: list[Fact] = []
        for name in sorted(subscription.dirty - subscription.owed):
            key = subscription.key(name)
            held = subscription.held.get(name)
            target = self._snapshot.get(key)
            if _version(held) == _version(target):
                subscription.dirty.discard(name)
                if held is not None and target is not None and held.references is None:
                    self._learn(subscription, name, target.references)
                if self._quarantine.release(key):
                    facts.append(Pardoned(key))
        return facts

    def _remove(self, gone: Mapping[TypeUrl, list[str]], now_ns: int) -> list[Response]:
        """Removals of what nothing refers to any more, neither in what the client holds nor in what is on its way to it."""
        arriving = frozenset[ResourceKey]().union(
            *(
                resource.references
                for subscription in self._subscriptions.values()
                if subscription.in_flight is not None
                for resource in subscription.in_flight.sent.values()
                if resource is not None
            )
        )
        responses: list[Response] = []
        for type_url, names in sorted(gone.items(), key=lambda item: -SEND_RANK[item[0]]):
            subscription = self._subscriptions[type_url]
            if subscription.in_flight is not None:
                continue
            if not self._knows_referrers_of(type_url, now_ns):
                # What the client surely does not hold can be said to be gone at any time.
                names = [name for name in names if name not in subscription.held and name not in subscription.uncertain]
            keys = (subscription.key(name) for name in names)
            free = [key.name for key in keys if not self._referrers[key] and key not in arriving]
            if free:
                responses.append(self._send(subscription, dict.fromkeys(free)))
        return responses

    def _knows_referrers_of(self, type_url: TypeUrl, now_ns: int) -> bool:
        """Whether it is known what the client's resources of other types refer to, in so far as they could refer to this type.

        Just after it has reconnected, it may not have come to say what it holds of those; and of a version that this server has
        not seen, nobody knows. Such a version is on its way out anyhow, or else it is the last good one of something refused.
        """
        assert self._started_at_ns is not None
        settled_at_ns = self._started_at_ns + INTRODUCTION_NS
        for referrer in TypeUrl:
            if type_url not in MAY_REFER_TO[referrer]:
                continue
            if self._inscrutable[referrer]:
                return False
            if not self._subscriptions[referrer].started and now_ns < settled_at_ns:
                self._wake_at(settled_at_ns)
                return False
        return True

    def _due(self, subscription: Subscription, now_ns: int) -> tuple[list[Resource], list[str]]:
        """Which resources to add in the next response of this type, and which names to remove after that."""
        assert self._snapshot is not None
        fresh: list[Resource] = []
        retries: list[Resource] = []
        gone: list[str] = []
        gone_retries: list[str] = []
        for name in sorted(subscription.dirty):
            key = subscription.key(name)
            target = self._snapshot.get(key)
            refusal = self._quarantine.find(key, _version(target))
            if refusal is not None and now_ns < refusal.retry_at_ns:
                self._wake_at(refusal.retry_at_ns)
            elif target is None:
                (gone if refusal is None else gone_retries).append(name)
            elif refusal is not None:
                retries.append(target)
            elif not self._must_wait(target):
                fresh.append(target)
        return self._choose(subscription, fresh, retries), gone or gone_retries[:1]

    def _choose(self, subscription: Subscription, fresh: list[Resource], retries: list[Resource]) -> list[Resource]:
        """One response's worth: what is beyond suspicion, else one group of suspects, else one resource to try again."""
        suspected = frozenset().union(*subscription.suspects)
        chosen = [resource for resource in fresh if resource.name not in suspected]
        while not chosen and subscription.suspects:
            group = subscription.suspects.popleft()
            chosen = [resource for resource in fresh if resource.name in group]
        size_bytes = 0
        for index, resource in enumerate(chosen):
            size_bytes += len(resource.body)
            if size_bytes > RESPONSE_BYTES_MAX and index:
                return chosen[:index]
        return chosen or retries[:1]

    def _must_wait(self, resource: Resource) -> bool:
        """Whether something of an earlier type that the resource refers to is still to be sent to this client."""
        return any(
            SEND_RANK[target.type_url] < SEND_RANK[resource.type_url] and self._is_yet_to_come(target)
            for target in resource.references
        )

    def _is_yet_to_come(self, key: ResourceKey) -> bool:
        assert self._snapshot is not None
        subscription = self._subscriptions[key.type_url]
        if not subscription.wants(key.name):
            return False
        if subscription.in_flight is not None and key.name in subscription.in_flight.sent:
            return subscription.in_flight.sent[key.name] is None
        if key.name in subscription.held:
            return False
        # What the client refuses can't be waited for: without it the referrer fails closed, and says so itself.
        return self._quarantine.find(key, self._snapshot[key].version) is None

    def _wake_at(self, at_ns: int) -> None:
        self._wake_at_ns = at_ns if self._wake_at_ns is None else min(self._wake_at_ns, at_ns)

    def _send(self, subscription: Subscription, sent: Mapping[str, Resource | None]) -> Response:
        assert subscription.in_flight is None, "one unanswered response per type"
        self._nonce_count += 1
        nonce = str(self._nonce_count)
        subscription.in_flight = InFlight(nonce, sent)
        subscription.greeting_due = False
        subscription.dirty.difference_update(sent)
        return Response(
            type_url=subscription.type_url,
            nonce=nonce,
            resources=tuple(resource for resource in sent.values() if resource is not None),
            removed=tuple(name for name, resource in sent.items() if resource is None),
        )


def _version(thing: Resource | Held | None) -> str:
    return thing.version if thing is not None else REMOVED
