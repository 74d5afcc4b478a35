"""A made-up shop of many services and its traffic, for looking at the page and measuring it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

from l7filters.model import Direction, PolicyKey, Protocol, RuleOrigin
from tidegate.flows.record import DnsPart, Flow, FlowEnd, HttpPart, KafkaPart, L7Part, Verdict

NAMES = (
    "frontend", "cart", "checkout", "payment", "shipping", "catalog", "search", "recommend", "email", "currency", "ads", "orders",
    "users", "sessions", "stock", "pricing", "invoices", "reviews", "media", "gateway",
)  # fmt: skip
NAMESPACES = ("shop", "billing", "data", "edge", "tools")
WORLD = FlowEnd(address=ip_address("203.0.113.7"), port=443, identity=2, labels=("cidr:0.0.0.0/0", "reserved:world"))
ALLOW = RuleOrigin(PolicyKey("cnp/shop/frontend"), "spec.ingress[0].toPorts[0].rules.http[0]")


def services(count: int) -> list[FlowEnd]:
    """``count`` endpoints, twenty names a namespace, then the same with a number."""
    found = []
    for number in range(count):
        name = NAMES[number % len(NAMES)]
        turn = number // len(NAMES)
        namespace = NAMESPACES[turn % len(NAMESPACES)]
        shown = name if turn < len(NAMESPACES) else f"{name}{turn // len(NAMESPACES) + 1}x"
        found.append(
            FlowEnd(
                address=ip_address(f"10.0.{number // 250}.{number % 250 + 2}"),
                port=8080,
                identity=300 + number,
                namespace=namespace,
                name=f"{shown}-7d4b9c6f5-x2x7k",
                labels=(f"k8s:app={shown}", f"k8s:tier={'edge' if number % 5 == 0 else 'core'}"),
            )
        )
    return found


def traffic(ends: list[FlowEnd], seed: int = 1, per_service: int = 3) -> Iterator[Flow]:
    """Yield flows between ``ends`` for ever: mostly forward in their order, a twentieth denied. Times are to be set."""
    chance = random.Random(seed)
    pairs = [(WORLD, ends[0], False)]
    for index, source in enumerate(ends):
        for _ in range(chance.randint(1, 2 * per_service - 1)):
            target = min(len(ends) - 1, index + 1 + int(chance.expovariate(1 / max(2, len(ends) / 8))))
            if target != index:
                pairs.append((source, ends[target], chance.random() < 0.08))
    for number in itertools.count():
        source, destination, bad = pairs[int(len(pairs) * chance.random() ** 1.7)]
        yield flow(number, source, destination, chance, denied=bad and chance.random() < 0.6)


def flow(number: int, source: FlowEnd, destination: FlowEnd, chance: random.Random, *, denied: bool) -> Flow:
    """Return one flow."""
    method = chance.choice(("GET", "GET", "GET", "POST", "PUT", "DELETE"))
    path = chance.choice(("/", "/v1/items/42", "/v1/cart", "/v1/checkout", "/healthz", "/v1/users/me"))
    code = 403 if denied else chance.choice((200, 200, 200, 200, 201, 304, 404, 500))
    part: L7Part = HttpPart(
        method=method, path=path, host=f"{destination.workload.partition('/')[2]}.svc", protocol="HTTP/1.1", code=code
    )
    kind = chance.random()
    if kind < 0.06:
        part = DnsPart(query="api.example.com.", query_types=("A",), addresses=("203.0.113.7",), ttl_seconds=30)
    elif kind < 0.12:
        part = KafkaPart(api_key="produce", api_version=9, topics=("orders",), client_id="checkout")
    miss = f"{ALLOW} would allow it, but method is {method}, must match ^HEAD$"
    return Flow(
        time_ns=0,
        uuid=f"feed-{number:x}",
        node="node-a",
        verdict=Verdict.DENIED if denied else Verdict.FORWARDED,
        direction=Direction.INGRESS,
        source=replace(source, port=40000 + number % 20000),
        destination=destination,
        protocol=Protocol.TCP,
        reason="POLICY_DENIED" if denied else "",
        rule=None if denied else ALLOW,
        nearest_miss=miss if denied else "",
        revision=7,
        slot=3,
        l7=part,
        latency_ns=int(chance.lognormvariate(14, 1)),
    )
