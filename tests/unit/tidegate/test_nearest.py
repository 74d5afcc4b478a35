"""The nearest miss in flow records."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest

from l7filters.decision import Flow
from l7filters.http import HttpRequest
from l7filters.model import HeaderMatch, MatchKind, QueryMatch, StringMatch
from l7filters.world import World
from tests.support.worlds import To, allow, endpoint, http, policy, world
from tidegate.flows.nearest import MISSES_CACHED_MAX, MISSES_PER_SECOND_MAX, NOT_LOOKED_FOR, MissFinder, nearest_miss_of
from tidegate.flows.record import REDACTED, Redaction

SERVER = endpoint("server", ip="10.0.0.1")
CLIENT = endpoint("client", ip="10.0.0.2")
GET = http("GET", "/public")
WITH_TOKEN = replace(GET, headers=(HeaderMatch("x-token", StringMatch(MatchKind.EXACT, "abc")),))
WITH_QUERY = replace(http("GET"), query=(QueryMatch("user", StringMatch(MatchKind.EXACT, "root")),))


@dataclass
class FakeClock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def world_with(*rules: object) -> World:
    item = allow(None, To("80", http=rules))  # type: ignore[arg-type]
    return world(policy("p", "app=server", ingress=[item]), endpoints=(SERVER, CLIENT))


def request(line: str) -> Flow:
    return Flow(
        source=ip_address("10.0.0.2"), destination=ip_address("10.0.0.1"), destination_port=80, http=HttpRequest.parse(line)
    )


def miss(world: World, line: str, redaction: Redaction | None = None) -> str:
    """What is said after the rule's origin."""
    text = nearest_miss_of(world, redaction=redaction)(request(line))
    return text.partition(" would allow it, but ")[2]


def test_failing_predicate_is_named() -> None:
    text = nearest_miss_of(world_with(GET))(request("POST /public"))
    assert text == "cnp/default/p:spec.ingress[0].toPorts[0].rules.http[0] would allow it, but method is POST, must match GET"


def test_headers_are_not_recorded_so_none_is_said_to_be_absent() -> None:
    assert miss(world_with(WITH_TOKEN), "GET /public") == "header x-token must be abc"
    assert miss(world_with(WITH_TOKEN), "POST /public") == "method is POST, must match GET"


def test_rule_that_fails_for_something_known_less_comes_first() -> None:
    one_known_failure = replace(WITH_TOKEN, method=StringMatch(MatchKind.REGEX, "PUT"))
    two_known_failures = http("PUT", "/other")
    assert "rules.http[1]" in nearest_miss_of(world_with(two_known_failures, one_known_failure))(request("GET /public"))


def test_query_is_not_repeated_unless_the_operator_wants_it() -> None:
    line = "GET /login?password=hunter2,+must+go"
    assert miss(world_with(GET), line) == f"path is /login?{REDACTED}, must match /public"
    assert "hunter2" in miss(world_with(GET), line, Redaction(query=False))


def test_query_parameter_is_not_repeated() -> None:
    world = world_with(WITH_QUERY)
    assert miss(world, "GET /x?user=hunter2,%20must") == f"query parameter user is {REDACTED}, must be root"


def test_allowed_flow_has_no_miss_and_without_a_world_there_is_none() -> None:
    assert nearest_miss_of(world_with(GET))(request("GET /public")) == ""
    assert nearest_miss_of(None)(request("PUT /")) == ""


def test_flood_of_different_denials_is_explained_at_a_bounded_rate() -> None:
    clock = FakeClock()
    find = MissFinder(world_with(GET), {}, Redaction(), clock)
    found = [find(request(f"POST /{number}")) for number in range(MISSES_PER_SECOND_MAX + 10)]
    assert [text == NOT_LOOKED_FOR for text in found] == [False] * MISSES_PER_SECOND_MAX + [True] * 10
    clock.now_s += 0.1
    assert find(request("POST /later"))


def test_repeated_denial_costs_nothing() -> None:
    find = MissFinder(world_with(GET), {}, Redaction(), FakeClock())
    assert all(find(request("POST /same")) for _ in range(10 * MISSES_PER_SECOND_MAX))


def test_memory_is_bounded() -> None:
    clock = FakeClock()
    find = MissFinder(world_with(GET), {}, Redaction(), clock)
    for number in range(MISSES_CACHED_MAX + 5):
        clock.now_s += 1
        find(request(f"POST /{number}"))
    assert len(find._known) == MISSES_CACHED_MAX


@pytest.mark.parametrize("destination", ["10.0.0.1", "fd00::99"])
def test_packet_without_a_request_is_explained_too(destination: str) -> None:
    flow = Flow(source=ip_address("10.0.0.2"), destination=ip_address(destination), destination_port=81)
    text = nearest_miss_of(world_with(GET))(flow)
    assert ("port 81/TCP is not 80/TCP" in text) is (destination == "10.0.0.1")
