"""What a compile costs at scale: a full one, and the changes of everyday life.

``python -m bench.compile_scale --policies 1000 --endpoints 1000 --label-sets 1000``; CPU milliseconds, one row per change.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from random import Random
from typing import TypeVar

from l7filters.compile import Memo, recompile
from l7filters.identity import IdentityTable
from l7filters.ir import CompiledPolicy
from l7filters.mapstate import DeriveMemo, rederive
from l7filters.model import Policy
from l7filters.slots import SlotTable, assign
from l7filters.world import World
from tests.support.worlds import To, allow, cidr, endpoint, http, pods, policy, world

T = TypeVar("T")
FIRST_ADDRESS = 0x0A00_0000
PROXY_PORT_MIN = 19000


def big_policy(number: int, label_sets: int, random: Random) -> Policy:
    """Return one policy: three ingress rules, half of them HTTP; every fifth restricts HTTP on egress, every third the rest."""

    def peer() -> str:
        return f"app=a{random.randrange(label_sets)}"

    content = (http("GET", f"/x{number}"), http("POST", f"/y{number}"))
    ingress = [
        allow(pods(peer()), To(random.choice(["80", "8080", "443"]), http=content) if random.random() < 0.5 else "5432,6379")
        for _ in range(3)
    ]
    egress = None
    if number % 5 == 0:
        egress = [allow(None, To("80", http=(http("GET", f"/out{number}"),)))]
    elif number % 3 == 0:
        egress = [allow(pods(peer()), "80,443,8080"), allow(cidr(f"10.{number % 200}.0.0/16"), "443"), allow(None, "53/udp")]
    return policy(f"p{number}", f"app=a{number % label_sets}", ingress=ingress, egress=egress)


def big_world(policies: int, endpoints: int, label_sets: int) -> World:
    """Return a world of local endpoints."""
    random = Random(1)
    labels = (f"app=a{n % label_sets},tier=t{n % 10}" for n in range(endpoints))
    pods_ = [endpoint(f"e{n}", text, ip=str(ip_address(FIRST_ADDRESS + n))) for n, text in enumerate(labels)]
    return world(*(big_policy(n, label_sets, random) for n in range(policies)), endpoints=pods_)


def changes(first: World) -> list[tuple[str, World]]:
    """Return worlds, each a change of the one before."""
    known = first.endpoints[0].labels
    pod = replace(first.endpoints[0], name="new", labels=dict(known), addresses=(ip_address("10.200.0.1"),), interface="lxc-new")
    second = replace(first, endpoints=(*first.endpoints, pod))
    third = replace(second, endpoints=(*second.endpoints, endpoint("other", ip="10.200.0.2")))
    edited = policy("p0", "app=a0", ingress=[allow(pods("app=a1"), To("80", http=(http("GET", "/edited"),)))])
    fourth = replace(third, policies=(edited, *third.policies[1:]))
    return [
        ("full", first),
        ("pod with known labels", second),
        ("pod with new labels", third),
        ("policy edited", fourth),
        ("policy removed", replace(fourth, policies=fourth.policies[1:])),
    ]


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return what ``work`` returns and the CPU milliseconds that it took."""
    gc.collect()
    start_s = time.process_time()
    result = work()
    return result, (time.process_time() - start_s) * 1000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=int, default=1000)
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--label-sets", type=int, default=1000)
    wanted = parser.parse_args()
    identities, memo, table, deriving = IdentityTable(), Memo(), SlotTable(), DeriveMemo()
    previous: CompiledPolicy | None = None
    print(f"{'change':24}{'compile':>10}{'assign':>10}{'derive':>10}{'entries':>10}{'slots':>8}{'moved':>8}")
    for name, seen in changes(big_world(wanted.policies, wanted.endpoints, wanted.label_sets)):
        (compiled, memo), compile_ms = timed(lambda: recompile(seen, identities, memo))  # noqa: B023
        found, assign_ms = timed(lambda: assign(table, previous, compiled))  # noqa: B023
        table = found.table
        interfaces = {one.key: index for index, one in enumerate(seen.endpoints, start=1)}
        ready = frozenset(table.ids.values())
        (_, deriving), derive_ms = timed(
            lambda: rederive(compiled, table, interfaces, {}, ready, PROXY_PORT_MIN, deriving)  # noqa: B023
        )
        counts = f"{len(compiled.entries):10}{len(compiled.slots):8}{len(found.moved):8}"
        print(f"{name:24}{compile_ms:10.1f}{assign_ms:10.1f}{derive_ms:10.1f}{counts}")
        previous, identities = compiled, compiled.identities


if __name__ == "__main__":
    main()
