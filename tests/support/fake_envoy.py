"""A discovery client without a network, which polices the protocol: every response that breaks an invariant fails the test.

It behaves as Envoy was seen to: listeners and clusters by wildcard, routes by the name that an applied listener asks for; the
good listeners and clusters of a refused response are applied and the bad ones named; of any other refused response some part
may have been applied and nothing is named; versions are only declared for accepted responses.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from xds_server.delta import (
    INTRODUCTION_NS,
    REMOVED,
    Accepted,
    DeltaStream,
    Fact,
    Forgotten,
    Legacy,
    Output,
    Pardoned,
    Refused,
    Request,
    Response,
)
from xds_server.quarantine import RETRY_NS_MAX, RETRY_NS_MIN
from xds_server.snapshot import MAY_REFER_TO, SEND_RANK, Resource, ResourceKey, Snapshot, TypeUrl

WILDCARD_TYPES = (TypeUrl.CLUSTER, TypeUrl.LISTENER)
LIST_FORMS = {
    TypeUrl.LISTENER: ("Error adding/updating listener(s) ", "\n"),
    TypeUrl.CLUSTER: ("Error adding/updating cluster(s) ", ", "),
}


def resource(type_url: TypeUrl, name: str, content: int | str, references: Iterable[ResourceKey] = ()) -> Resource:
    """A resource whose version is readable."""
    return Resource(
        type_url=type_url, name=name, version=f"v{content}", body=str(content).encode(), references=frozenset(references)
    )


@dataclass(slots=True)
class ClientType:
    """What the client knows of one type. ``applied`` is what it runs, ``declared`` what it would say on a reconnect."""

    names: set[str] = field(default_factory=set)
    wildcard: bool = False
    applied: dict[str, Resource] = field(default_factory=dict)
    declared: dict[str, Resource] = field(default_factory=dict)
    # How many more times a resource that is held already may come: once for each time it was asked for or refused.
    excuses: Counter[str] = field(default_factory=Counter)
    unanswered: str | None = None
    # Since when the stream is up: whether the server has heard a request, and what it can take as arrived or arriving.
    heard: bool = False
    sent: set[str] = field(default_factory=set)
    greeting_due: bool = False


class FakeEnvoy:
    """Client, server machine and the wire between them; nothing moves unless the test says so."""

    def __init__(self, is_bad: Callable[[Resource], bool] = lambda _: False) -> None:
        self.is_bad = is_bad
        self.now_ns = 0
        self.snapshot: Snapshot | None = None
        self.machine = DeltaStream()
        self.types = {type_url: ClientType() for type_url in TypeUrl}
        self.to_client: deque[Response] = deque()
        self.to_server: dict[TypeUrl, deque[Request]] = {type_url: deque() for type_url in TypeUrl}
        self.responses: list[Response] = []
        self.facts: list[Fact] = []
        self.refusals: dict[ResourceKey, tuple[str, int, int]] = {}
        self._last_nonce = 0
        self._restarted = False
        self._first_heard_ns = 0
        self._blind_removals: set[str] = set()
        self._ever_bad: set[ResourceKey] = set()

    # ---- what the test can make happen ----------------------------------------------------------------------------

    def connect(self, *types: TypeUrl) -> None:
        """Ask for everything of these types; by default listeners and clusters, as Envoy does."""
        for type_url in types or WILDCARD_TYPES:
            self.types[type_url].wildcard = True
            self.types[type_url].greeting_due = True
            self.to_server[type_url].append(Request(type_url=type_url))

    def publish(self, resources: Iterable[Resource]) -> None:
        wanted = tuple(resources)
        self.snapshot = self.snapshot.replaced_by(wanted) if self.snapshot is not None else Snapshot(wanted)
        self._ever_bad.update(item.key for item in wanted if self.is_bad(item))
        self._take(self.machine.publish(self.snapshot, self.now_ns))

    def sleep(self, duration_ns: int) -> None:
        self.now_ns += duration_ns
        self._take(self.machine.tick(self.now_ns))

    def subscribe(self, type_url: TypeUrl, *names: str) -> None:
        client = self.types[type_url]
        client.names.update(names)
        client.excuses.update(names)
        self.to_server[type_url].append(Request(type_url=type_url, subscribe=names))

    def unsubscribe(self, type_url: TypeUrl, *names: str) -> None:
        client = self.types[type_url]
        names = tuple(name for name in names if name in client.names)
        if not names:
            return
        client.names.difference_update(names)
        for name in names:
            if client.wildcard:
                client.excuses[name] += 1
            else:
                self._drop(client, name)
        self.to_server[type_url].append(Request(type_url=type_url, unsubscribe=names))

    def reconnect(self, *, new_server: bool = False) -> None:
        """The stream breaks; what was on the wire is lost. ``new_server``: the server has restarted too."""
        legacy = Legacy() if new_server else self.machine.legacy()
        self.machine = DeltaStream(legacy)
        self.to_client.clear()
        self._last_nonce = 0
        self._blind_removals.clear()
        if new_server:
            self.refusals.clear()
            self._restarted = True
        for type_url, client in self.types.items():
            self.to_server[type_url].clear()
            client.unanswered = None
            client.heard = False
            client.sent = set(client.declared)
            uncertain = {key.name for key in (*legacy.uncertain, *legacy.in_flight) if key.type_url is type_url}
            client.excuses = Counter(uncertain)
            client.excuses.update(name for name in client.names if name not in client.declared)
            client.greeting_due = client.wildcard and not client.declared
            if client.wildcard or client.names:
                names = tuple(sorted(client.names))
                # Envoy's own ways to say it: nothing at all where there is only the wildcard.
                subscribe = ("*", *names) if client.wildcard and names else names
                self.to_server[type_url].append(
                    Request(
                        type_url=type_url,
                        subscribe=subscribe,
                        initial_versions={name: item.version for name, item in client.declared.items()},
                    )
                )
        if self.snapshot is not None:
            self._take(self.machine.publish(self.snapshot, self.now_ns))

    def deliver_to_client(self) -> bool:
        """The client handles the oldest response; its answer is put on the wire."""
        if not self.to_client:
            return False
        response = self.to_client.popleft()
        client = self.types[response.type_url]
        client.unanswered = None
        wanted = [item for item in response.resources if client.wildcard or item.name in client.names]
        bad = [item for item in wanted if self.is_bad(item)]
        if bad:
            self._refuse(client, response, wanted, bad)
        else:
            self._accept(client, response, wanted)
        if response.type_url is TypeUrl.LISTENER:
            self._follow_listeners()
        return True

    def deliver_to_server(self, type_url: TypeUrl) -> bool:
        """The server handles the oldest request of a type; Envoy may hold back those of one type while others go on."""
        if not self.to_server[type_url]:
            return False
        if not any(client.heard for client in self.types.values()):
            self._first_heard_ns = self.now_ns
        self.types[type_url].heard = True
        self._take(self.machine.request(self.to_server[type_url].popleft(), self.now_ns))
        return True

    def settle(self) -> None:
        """Deliver everything until nothing is on the wire. No time passes."""
        for _ in range(10_000):
            moved = [self.deliver_to_client(), *(self.deliver_to_server(type_url) for type_url in TypeUrl)]
            if not any(moved):
                return
        raise AssertionError("client and server keep talking for ever")

    def heal(self) -> None:
        """Let every back-off pass, more than once."""
        for _ in range(4):
            self.settle()
            self.sleep(RETRY_NS_MAX)
        self.settle()

    # ---- what the test can ask ------------------------------------------------------------------------------------

    def runs(self, type_url: TypeUrl) -> dict[str, str]:
        """Name -> version of what the client runs."""
        return {name: item.version for name, item in self.types[type_url].applied.items()}

    def sent_since(self, count: int) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
        """The responses after the first ``count``: (type, names added, names removed)."""
        return [
            (response.type_url.name, tuple(item.name for item in response.resources), response.removed)
            for response in self.responses[count:]
        ]

    def assert_converged(self) -> None:
        """The client runs what the snapshot says, save for what it refuses: there it runs something good, or nothing."""
        assert self.snapshot is not None
        for type_url, client in self.types.items():
            wanted = {
                key.name: item
                for key, item in self.snapshot.items()
                if key.type_url is type_url and (client.wildcard or key.name in client.names)
            }
            for name, item in wanted.items():
                if self.is_bad(item):
                    assert name not in client.applied or not self.is_bad(client.applied[name])
                else:
                    assert client.applied.get(name) == item, f"{item.key} is not what the snapshot says"
            for name in client.applied.keys() - wanted.keys():
                assert self._may_be_in_use(ResourceKey(type_url, name)), f"stale {type_url.name} {name}"
            bad = {name for name, item in wanted.items() if self.is_bad(item)}
            refusals = self.machine.legacy().quarantined
            quarantined = {
                key.name for key in refusals if key.type_url is type_url and (client.wildcard or key.name in client.names)
            }
            assert bad <= quarantined, f"{type_url.name}: {quarantined} are quarantined, {bad} are bad"
            for name in quarantined - bad:
                # Its removal is due, and waits.
                assert ResourceKey(type_url, name) not in self.snapshot
                assert self._may_be_in_use(ResourceKey(type_url, name)), f"{type_url.name} {name} is quarantined for nothing"

    # ---- the client -----------------------------------------------------------------------------------------------

    def _accept(self, client: ClientType, response: Response, wanted: list[Resource]) -> None:
        for item in wanted:
            client.applied[item.name] = item
            client.declared[item.name] = item
        for name in response.removed:
            if response.nonce not in self._blind_removals:
                self._assert_not_in_use(ResourceKey(response.type_url, name))
            self._drop(client, name)
        self.to_server[response.type_url].append(Request(type_url=response.type_url, nonce=response.nonce))

    def _refuse(self, client: ClientType, response: Response, wanted: list[Resource], bad: list[Resource]) -> None:
        form = LIST_FORMS.get(response.type_url)
        if form is not None:
            prefix, separator = form
            message = prefix + separator.join(f"{item.name}: {item.name}x: no" for item in bad)
            applied = [item for item in wanted if item not in bad]
        else:
            message = "no"
            applied = [item for item in wanted[::2] if item not in bad]
        for item in applied:
            client.applied[item.name] = item
        client.excuses.update(item.name for item in response.resources)
        self.to_server[response.type_url].append(Request(type_url=response.type_url, nonce=response.nonce, error=message))

    def _follow_listeners(self) -> None:
        """Subscribe to the routes of the listeners that run, and to no others."""
        routes = self.types[TypeUrl.ROUTE]
        needed = {
            target.name
            for item in self.types[TypeUrl.LISTENER].applied.values()
            for target in item.references
            if target.type_url is TypeUrl.ROUTE
        }
        if needed - routes.names:
            self.subscribe(TypeUrl.ROUTE, *sorted(needed - routes.names))
        if routes.names - needed:
            self.unsubscribe(TypeUrl.ROUTE, *sorted(routes.names - needed))

    def _drop(self, client: ClientType, name: str) -> None:
        client.applied.pop(name, None)
        client.declared.pop(name, None)

    # ---- the police -----------------------------------------------------------------------------------------------

    def _take(self, output: Output) -> None:
        self.facts += output.facts
        for fact in output.facts:
            match fact:
                case Refused(key, version, _):
                    known, attempts, _ = self.refusals.get(key, ("", 0, 0))
                    attempts = attempts + 1 if known == version else 1
                    delay_ns = min(RETRY_NS_MIN * 2 ** (attempts - 1), RETRY_NS_MAX)
                    self.refusals[key] = (version, attempts, self.now_ns + delay_ns)
                case Accepted(key, _) | Pardoned(key) | Forgotten(key):
                    self.refusals.pop(key, None)
                case _:
                    pass
        for response in output.responses:
            self._inspect(response)
            self.responses.append(response)
            self.to_client.append(response)

    def _inspect(self, response: Response) -> None:
        client = self.types[response.type_url]
        assert self.snapshot is not None, "nothing may be said before there is a snapshot"
        assert int(response.nonce) == self._last_nonce + 1, "nonces count up within a stream"
        self._last_nonce += 1
        assert client.unanswered is None, "a response while another of the type is unanswered"
        client.unanswered = response.nonce
        names = [item.name for item in response.resources] + list(response.removed)
        assert len(names) == len(set(names))
        assert not (response.resources and response.removed), "additions and removals are ordered differently, so they are apart"
        assert names or client.greeting_due, "an empty response"
        client.greeting_due = False
        assert all(item.type_url is response.type_url for item in response.resources), "type URLs disagree"
        for item in response.resources:
            assert self.snapshot[item.key] == item, "only the latest state is sent"
            self._assert_targets_went_before(item)
            client.sent.add(item.name)
            if client.declared.get(item.name) == item:
                client.excuses[item.name] -= 1
                assert client.excuses[item.name] >= 0, f"{item.key} is held already"
        if response.removed and not self._is_introduced():
            self._blind_removals.add(response.nonce)
        for name in response.removed:
            assert ResourceKey(response.type_url, name) not in self.snapshot
            client.sent.discard(name)
        for name in names:
            self._assert_backed_off(response, name)

    def _assert_backed_off(self, response: Response, name: str) -> None:
        key = ResourceKey(response.type_url, name)
        version, _, retry_at_ns = self.refusals.get(key, ("none", 0, 0))
        assert self.snapshot is not None
        target = self.snapshot.get(key)
        if version == (target.version if target is not None else REMOVED):
            assert self.now_ns >= retry_at_ns, f"{key} is sent again before its back-off has passed"
            assert len(response.resources) + len(response.removed) == 1, "what was refused is tried again alone"

    def _assert_targets_went_before(self, item: Resource) -> None:
        """Make before break: what a resource refers to among earlier types has been sent before it, or is something refused."""
        for target in item.references:
            client = self.types[target.type_url]
            if SEND_RANK[target.type_url] < SEND_RANK[item.type_url] and client.heard and target not in self._ever_bad:
                assert target.name in client.sent, f"{item.key} is sent before {target}"

    def _assert_not_in_use(self, key: ResourceKey) -> None:
        """Removals come last: nothing that the client has accepted still refers to what goes."""
        if key.name in self.types[key.type_url].applied:
            assert not self._is_in_use(key), f"{key} is removed while it is referred to"

    def _is_in_use(self, key: ResourceKey) -> bool:
        return any(key in item.references for client in self.types.values() for item in client.declared.values())

    def _is_introduced(self) -> bool:
        """Whether the client has had its say about every type, or has taken too long over it."""
        late = self.now_ns >= self._first_heard_ns + INTRODUCTION_NS
        return not late or all(client.heard for client in self.types.values() if client.wildcard or client.names)

    def _may_be_in_use(self, key: ResourceKey) -> bool:
        """As far as the server can know: what a restarted one has not seen, and can't replace, may refer to anything."""
        assert self.snapshot is not None
        snapshot = self.snapshot
        unseen = self._restarted and any(
            item.version != snapshot[item.key].version if item.key in snapshot else self._may_be_in_use(item.key)
            for type_url, client in self.types.items()
            if key.type_url in MAY_REFER_TO[type_url]
            for item in client.applied.values()
        )
        return unseen or self._is_in_use(key)
