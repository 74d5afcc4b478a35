"""What is on a node and under no policy."""

from __future__ import annotations

from l7filters.world import Endpoint
from tidegate.sources import EndpointsState
from tidegate.sources.endpoints import EndpointEntry
from tidegate.status.agent import Facts, unmanaged
from tidegate.status.node import EndpointState, EndpointStatus, Unmanaged
from tidegate.worlds import Inputs

CLAIMED = Endpoint(name="a", namespace="default", labels={}, interface="lxc-a")
FACTS = Facts(inputs=Inputs(endpoints=EndpointsState(entries=(EndpointEntry(CLAIMED),))))


def status(name: str, state: EndpointState, message: str = "") -> EndpointStatus:
    return EndpointStatus(key=f"default/{name}", state=state, message=message)


def test_endpoints_that_are_not_attached_and_interfaces_nobody_claims_are_unmanaged() -> None:
    statuses = (
        status("a", EndpointState.READY),
        status("b", EndpointState.WAITING, "interface lxc-b does not exist yet"),
        status("c", EndpointState.FAILED, "no room"),
        status("d", EndpointState.REGENERATING),
    )
    reason = "leads to another network namespace, and no endpoint claims it"
    assert unmanaged(FACTS, statuses, {"lxc-a", "veth2", "veth1"}) == (
        Unmanaged(name="default/b", kind="endpoint", reason="interface lxc-b does not exist yet"),
        Unmanaged(name="default/c", kind="endpoint", reason="no room"),
        Unmanaged(name="veth1", kind="interface", reason=reason),
        Unmanaged(name="veth2", kind="interface", reason=reason),
    )


def test_node_whose_every_door_is_claimed_has_none() -> None:
    assert unmanaged(FACTS, (status("a", EndpointState.READY),), {"lxc-a"}) == ()
