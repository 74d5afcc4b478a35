"""Following a source."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from tidegate.following import Follower
from tidegate.sources import DirectorySource, DirectoryState

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {name}, namespace: default}}
spec: {{endpointSelector: {{}}, ingress: [{{}}]}}
"""


def names(state: DirectoryState) -> list[str]:
    return [policy.key for policy in state.policies]


def test_refresh_tells_what_was_written_just_before_it(tmp_path: Path) -> None:
    told: list[DirectoryState] = []

    async def scenario() -> None:
        follower = Follower(DirectorySource(tmp_path), tmp_path, told.append)
        task = asyncio.create_task(follower.run())
        try:
            for number in range(5):
                (tmp_path / f"{number}.yaml").write_text(POLICY.format(name=f"p{number}"))
                await follower.refresh()
                assert names(told[-1]) == [f"cnp/default/p{each}" for each in range(number + 1)]
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(scenario())
    assert len({id(state) for state in told}) == len(told), "a state is told once"
