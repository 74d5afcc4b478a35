"""Whatever happens, in whatever order: the client ends up with the snapshot, less what it refuses, and the protocol holds."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.fake_envoy import FakeEnvoy, resource
from xds_server.quarantine import RETRY_NS_MIN
from xds_server.snapshot import Resource, ResourceKey, TypeUrl

NAMES = ("a", "ab", "b", "c")
BAD = 9

names = st.sampled_from(NAMES)
types = st.sampled_from(tuple(TypeUrl))
contents = st.sampled_from((0, 1, 2, BAD))


def is_bad(item: Resource) -> bool:
    return item.version.startswith(f"v{BAD}")


@st.composite
def worlds(draw: st.DrawFn) -> list[Resource]:
    """A consistent set: listeners refer to the route of their name and maybe a cluster, routes maybe to a cluster."""
    clusters = draw(st.dictionaries(names, contents, max_size=len(NAMES)))
    made = [resource(TypeUrl.CLUSTER, name, content) for name, content in clusters.items()]
    secrets = draw(st.dictionaries(names, contents, max_size=2))
    made += [resource(TypeUrl.SECRET, name, content) for name, content in secrets.items()]
    maybe_cluster = st.sampled_from((None, *clusters)) if clusters else st.none()
    for name, content in draw(st.dictionaries(names, contents, max_size=len(NAMES))).items():
        route_cluster, listener_cluster = draw(maybe_cluster), draw(maybe_cluster)
        made.append(_referring(TypeUrl.ROUTE, name, draw(contents), route_cluster))
        made.append(_referring(TypeUrl.LISTENER, name, content, listener_cluster, ResourceKey(TypeUrl.ROUTE, name)))
    return made


def _referring(type_url: TypeUrl, name: str, content: int, cluster: str | None, *more: ResourceKey) -> Resource:
    """The references are part of the content, as they are in the real thing."""
    references = [*more, *([ResourceKey(TypeUrl.CLUSTER, cluster)] if cluster is not None else [])]
    return resource(type_url, name, f"{content}-{cluster}", references)


class DeltaConversation(RuleBasedStateMachine):
    """Publishes, deliveries in any order, breaks, restarts, subscriptions and the passing of time."""

    @initialize()
    def begin(self) -> None:
        self.envoy = FakeEnvoy(is_bad)
        self.envoy.connect()

    @rule(world=worlds())
    def publish(self, world: list[Resource]) -> None:
        self.envoy.publish(world)

    @rule()
    def client_reads(self) -> None:
        self.envoy.deliver_to_client()

    @rule(type_url=types)
    def server_reads(self, type_url: TypeUrl) -> None:
        self.envoy.deliver_to_server(type_url)

    @rule()
    def all_is_delivered(self) -> None:
        self.envoy.settle()

    @rule(steps=st.integers(1, 5))
    def time_passes(self, steps: int) -> None:
        self.envoy.sleep(steps * RETRY_NS_MIN // 2)

    @rule()
    def stream_breaks(self) -> None:
        self.envoy.reconnect()

    @precondition(lambda self: all(client.applied == client.declared for client in self.envoy.types.values()))
    @rule()
    def server_restarts(self) -> None:
        # What was applied out of a refused response and not confirmed yet is beyond what a new server can know.
        self.envoy.reconnect(new_server=True)

    @rule(name=names)
    def asks_for_a_secret(self, name: str) -> None:
        self.envoy.subscribe(TypeUrl.SECRET, name)

    @rule(name=names)
    def gives_up_a_secret(self, name: str) -> None:
        self.envoy.unsubscribe(TypeUrl.SECRET, name)

    @rule(name=names)
    def names_a_cluster_beside_the_wildcard(self, name: str) -> None:
        self.envoy.subscribe(TypeUrl.CLUSTER, name)

    @rule(name=names)
    def unnames_a_cluster_beside_the_wildcard(self, name: str) -> None:
        self.envoy.unsubscribe(TypeUrl.CLUSTER, name)

    @invariant()
    def work_is_bounded(self) -> None:
        if hasattr(self, "envoy"):
            assert len(self.envoy.to_client) <= len(TypeUrl), "a slow client gets the latest state, not a backlog"

    def teardown(self) -> None:
        if self.envoy.snapshot is None:
            self.envoy.publish([])
        self.envoy.heal()
        self.envoy.assert_converged()
        count = len(self.envoy.responses)
        self.envoy.publish(self.envoy.snapshot.values() if self.envoy.snapshot else [])
        self.envoy.settle()
        assert self.envoy.sent_since(count) == [], "nothing changed, so nothing is said"


TestDeltaConversation = DeltaConversation.TestCase
TestDeltaConversation.settings = settings(stateful_step_count=60)
