"""Status values, their JSON, and the signal that they changed."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.unit.tidegate.fakes import realised_status
from tidegate.jsonvalue import decode, encode
from tidegate.status.node import (
    BpfStatus,
    ChangeSignal,
    DnsStatus,
    DocumentError,
    EndpointState,
    EndpointStatus,
    EnvoyStatus,
    NodeStatus,
    PolicyState,
    PolicyStatus,
    ProcessState,
)


def test_all_is_realised_when_nothing_is_outstanding() -> None:
    assert realised_status().all_realised
    assert list(realised_status().obstacles()) == []


@pytest.mark.parametrize(
    ("changes", "obstacle"),
    [
        ({"bpf": BpfStatus()}, "BPF: not loaded yet"),
        ({"bpf": BpfStatus(message="verifier says no")}, "BPF: verifier says no"),
        ({"envoy": EnvoyStatus(state=ProcessState.DOWN, message="exit 1")}, "Envoy: down: exit 1"),
        ({"envoy": EnvoyStatus()}, "Envoy: starting"),
        ({"dns": DnsStatus(state=ProcessState.DOWN, wanted=1, message="gone")}, "DNS proxy: down: gone"),
        ({"dns": DnsStatus(state=ProcessState.READY, wanted=1, message="slot 7: no port")}, "DNS proxy: ready: slot 7: no port"),
        (
            {"document_errors": (DocumentError(source="a.yaml", index=1, path="spec.x", message="unknown field"),)},
            "document a.yaml[1]: spec.x: unknown field",
        ),
        ({"policies": (PolicyStatus(key="cnp/a/b", state=PolicyState.PENDING),)}, "policy cnp/a/b: pending"),
        ({"policies": (PolicyStatus(key="cnp/a/b", state=PolicyState.FAILED, message="NACK"),)}, "policy cnp/a/b: failed: NACK"),
        ({"endpoints": (EndpointStatus(key="a/b", state=EndpointState.WAITING),)}, "endpoint a/b: waiting"),
        ({"endpoints": (EndpointStatus(key="a/b", state=EndpointState.REGENERATING),)}, "endpoint a/b: regenerating"),
    ],
)
def test_each_thing_outstanding_is_an_obstacle(changes: dict[str, object], obstacle: str) -> None:
    status = realised_status(**changes)
    assert list(status.obstacles()) == [obstacle]
    assert not status.all_realised


def test_a_dns_proxy_that_no_policy_needs_is_no_obstacle() -> None:
    assert realised_status(dns=DnsStatus(state=ProcessState.DOWN, message="gone")).all_realised


def test_status_survives_json() -> None:
    status = realised_status()
    assert decode(NodeStatus, json.loads(json.dumps(encode(status)))) == status


def test_field_that_an_older_command_does_not_know_is_ignored() -> None:
    data = encode(realised_status())
    data["new"] = 1
    data["endpoints"][0]["new"] = {}
    assert decode(NodeStatus, data) == realised_status()


@pytest.mark.parametrize("change", [{"endpoints": {}}, {"endpoints": [1]}, {"revision": "7"}, {"envoy": {"state": "dancing"}}])
def test_json_of_another_shape_is_a_value_error(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        decode(NodeStatus, {**encode(realised_status()), **change})
    with pytest.raises(ValueError, match="missing"):
        decode(NodeStatus, {})


def test_value_without_a_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        encode((object(),))


def test_signal_wakes_every_waiter_once_and_misses_nothing() -> None:
    async def scenario() -> None:
        signal = ChangeSignal()
        seen = signal.serial
        signal.bump()
        await asyncio.wait_for(signal.wait_after(seen), 1)
        waiters = [asyncio.create_task(signal.wait_after(signal.serial)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(waiter.done() for waiter in waiters)
        waiters[0].cancel()
        signal.bump()
        await asyncio.wait_for(asyncio.gather(*waiters[1:]), 1)
        assert signal._waiters == set()

    asyncio.run(scenario())
