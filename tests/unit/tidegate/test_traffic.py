"""The edges of the service map."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.tidegate.fakes import DEATHSTAR, XWING, denied_request, packet
from tidegate.flows.record import Verdict
from tidegate.flows.traffic import BUCKET_SECONDS, BUCKETS, RATE_BUCKETS, Traffic


def test_counts_are_of_the_window_and_rates_of_its_last_seconds() -> None:
    now = [1000.0]
    traffic = Traffic(lambda: now[0])
    for _ in range(9):
        traffic.take(packet())
    traffic.take(denied_request())
    (edge,) = traffic.edges()
    assert (edge.source, edge.destination, edge.counts) == ("default/xwing", "default/deathstar", (9, 1, 0, 0, 0))
    assert (edge.rate, edge.refused_rate) == (round(10 / 9, 2), round(1 / 9, 2))
    now[0] += BUCKET_SECONDS * RATE_BUCKETS
    (edge,) = traffic.edges()
    assert (edge.rate, edge.counts) == (0, (9, 1, 0, 0, 0))
    now[0] += BUCKET_SECONDS * BUCKETS
    assert list(traffic.edges()) == []


def test_connection_given_to_the_proxy_is_counted_by_its_requests() -> None:
    traffic = Traffic(lambda: 0.0)
    traffic.take(packet(verdict=Verdict.REDIRECTED))
    assert list(traffic.edges()) == []


def test_reply_belongs_to_who_opened_the_connection() -> None:
    traffic = Traffic(lambda: 0.0)
    traffic.take(packet(source=DEATHSTAR, destination=XWING, is_reply=True))
    (edge,) = traffic.edges()
    assert (edge.source, edge.destination) == ("default/xwing", "default/deathstar")


def test_edges_beyond_the_limit_wait_for_a_silent_one() -> None:
    now = [1000.0]
    traffic = Traffic(lambda: now[0], edges_max=2)
    ends = [replace(XWING, name=name) for name in ("a", "b", "c")]
    for end in ends:
        traffic.take(packet(source=end))
    assert [edge.source for edge in traffic.edges()] == ["default/a", "default/b"]
    assert traffic.left_out == 1
    now[0] += BUCKET_SECONDS * BUCKETS
    traffic.take(packet(source=ends[2]))
    assert [edge.source for edge in traffic.edges()] == ["default/c"]
