"""A limit that is reached closes and says so; it opens nothing and harms nothing that was in force."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.node import eventually
from tests.support.stage import DEATHSTAR, HTTP, HTTP_OTHER, TIEFIGHTER, XWING, Stage, cnp, from_endpoints, reach

pytestmark = [pytest.mark.root, pytest.mark.envoy]

ENTRIES_MAX = 256
PORTS_PER_ITEM = 40


@pytest.fixture(scope="module")
def small_stage() -> Iterator[Stage]:
    with Stage(prefix="tglimits", config={"maps": {"policyEntries": ENTRIES_MAX}}) as stage:
        yield stage


def test_a_full_policy_map_opens_nothing_is_named_with_its_setting_and_recovers(small_stage: Stage) -> None:
    stage = small_stage
    stage.enforce(cnp("few", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(TIEFIGHTER), "toPorts": to(HTTP)}]))
    assert reach(stage.tiefighter, stage.deathstar, [HTTP, HTTP_OTHER], 4) == {HTTP: True, HTTP_OTHER: False}
    # Odd ports, so that none share a prefix: more entries than the map holds.
    many = [
        {"fromEndpoints": from_endpoints(XWING), "toPorts": to(*range(first, first + 80, 2))} for first in range(20001, 21200, 80)
    ]
    stage.node.write_policy("many", cnp("many", DEATHSTAR, ingress=many).text)
    eventually(lambda: "tg_policy" in "".join(stage.node.status()["obstacles"]), what="the full map is reported")
    obstacles = "".join(stage.node.status()["obstacles"])
    assert f"map tg_policy holds its {ENTRIES_MAX} entries" in obstacles
    assert "maps.policyEntries" in obstacles
    assert reach(stage.tiefighter, stage.deathstar, [HTTP, HTTP_OTHER], 4) == {HTTP: True, HTTP_OTHER: False}
    assert reach(stage.xwing, stage.deathstar, [HTTP, HTTP_OTHER], 4) == {HTTP: False, HTTP_OTHER: False}
    stage.node.remove_policy("many")
    stage.node.wait_ready()
    assert reach(stage.tiefighter, stage.deathstar, [HTTP, HTTP_OTHER], 4) == {HTTP: True, HTTP_OTHER: False}


def to(*numbers: int) -> list[dict[str, object]]:
    """``toPorts`` of single TCP ports."""
    listed = [{"port": str(number), "protocol": "TCP"} for number in numbers]
    return [{"ports": listed[start : start + PORTS_PER_ITEM]} for start in range(0, len(listed), PORTS_PER_ITEM)]
