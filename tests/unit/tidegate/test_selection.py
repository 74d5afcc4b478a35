"""The index counts what asking every policy of every endpoint would."""

from __future__ import annotations

from random import Random

from l7filters.model import Policy
from l7filters.world import World
from tests.support.worlds import allow, endpoint, policy, world
from tidegate.status.selection import Selection

SUBJECTS = ("app=a", "app=b", "!app", "app", "app=a,tier=x", "!app,tier", "")


def some_world(seed: int) -> World:
    random = Random(seed)
    labels = ["tier=y", "app=a", "app=b", "app=a,tier=x", "app=c,tier=x", "tier=x"]
    endpoints = [endpoint(f"e{n}", random.choice(labels), ip=f"10.0.0.{n + 1}") for n in range(20)]
    remote = endpoint("remote", "app=a", ip="10.0.1.1", remote=True)
    policies = (policy(f"p{n}", subject, ingress=[allow(None)]) for n, subject in enumerate(SUBJECTS))
    return world(*policies, endpoints=[*endpoints, remote])


def asked(policy: Policy, seen: World, local: bool) -> list[str]:
    return [each.key for each in seen.endpoints if policy.subject.matches(each.labels) and (each.is_local or not local)]


def test_counts_are_those_of_asking_everyone() -> None:
    for seed in range(20):
        seen = some_world(seed)
        selection = Selection(seen)
        for each in seen.endpoints:
            assert selection.policies_of[each.key] == sum(one.subject.matches(each.labels) for one in seen.policies)
        for one in seen.policies:
            assert selection.endpoints_of([one]) == len(asked(one, seen, local=True))
        both = seen.policies[:2]
        assert selection.endpoints_of(both) == len({key for one in both for key in asked(one, seen, local=True)})
        assert selection.endpoints_of([]) == 0
