"""endpoints.yaml: what it means, what is refused, and what stays in force meanwhile."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import aclosing
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l7filters.documents import Namespace
from l7filters.model import Protocol
from l7filters.world import Endpoint, NamedPort, Service
from tidegate.sources import EndpointsSource, EndpointsState, parse_endpoints, watching, with_backends, with_namespaces
from tidegate.sources.endpoints import apply_endpoints

NS = "io.kubernetes.pod.namespace"
NS_LABELS = "io.cilium.k8s.namespace.labels."
DEADLINE_SECONDS = 10.0


def labels(namespace: str, **own: str) -> dict[str, str]:
    return {**own, NS: namespace, f"{NS_LABELS}kubernetes.io/metadata.name": namespace}


def one(entry: str) -> Endpoint:
    parsed = parse_endpoints(f"[{entry}]", "endpoints.yaml")
    assert [str(error) for error in parsed.errors] == []
    (found,) = parsed.entries
    return found.endpoint


@pytest.mark.parametrize(
    ("entry", "endpoint"),
    [
        (
            '{name: xwing, namespace: space, labels: {org: alliance}, interface: lxc-xwing, ipv4: 10.0.0.2, ipv6: "fd00::2"}',
            Endpoint(
                name="xwing",
                namespace="space",
                labels=labels("space", org="alliance"),
                addresses=(ip_address("10.0.0.2"), ip_address("fd00::2")),
                interface="lxc-xwing",
            ),
        ),
        (
            "{name: db-0, ipv4: [10.0.9.7, 10.0.9.8]}",
            Endpoint(
                name="db-0",
                namespace="default",
                labels=labels("default"),
                addresses=(ip_address("10.0.9.7"), ip_address("10.0.9.8")),
            ),
        ),
        (
            "{name: builder, namespace: host, cgroup: /system.slice/builder.service/}",
            Endpoint(name="builder", namespace="host", labels=labels("host"), cgroup="system.slice/builder.service"),
        ),
        (
            "{name: a, ipv4: 10.0.0.1, ports: {http: 8080, Metrics: 9090}}",
            Endpoint(
                name="a",
                namespace="default",
                labels=labels("default"),
                addresses=(ip_address("10.0.0.1"),),
                named_ports=(NamedPort("http", 8080), NamedPort("metrics", 9090)),
            ),
        ),
        (
            "{name: a, ipv4: 10.0.0.1, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns, port: 53}]}",
            Endpoint(
                name="a",
                namespace="default",
                labels=labels("default"),
                addresses=(ip_address("10.0.0.1"),),
                named_ports=(NamedPort("dns", 53, Protocol.UDP), NamedPort("dns", 53)),
            ),
        ),
    ],
)
def test_entry(entry: str, endpoint: Endpoint) -> None:
    assert one(entry) == endpoint


def test_entry_is_local_by_its_interface_or_cgroup() -> None:
    assert one("{name: a, interface: x, ipv4: 10.0.0.1}").is_local
    assert one("{name: a, cgroup: x}").is_local
    assert not one("{name: a, ipv4: 10.0.0.1}").is_local


def test_labels_cannot_claim_another_namespace() -> None:
    found = one("{name: a, namespace: mine, ipv4: 10.0.0.1, labels: {'k8s:io.kubernetes.pod.namespace': theirs}}")
    assert found.labels == labels("mine")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_file_with_nothing_in_it_takes_no_endpoint_away(text: str) -> None:
    before = apply_endpoints(EndpointsState(), parse_endpoints("[{name: a, ipv4: 10.0.0.1}]", "e"))
    after = apply_endpoints(before, parse_endpoints(text, "e"))
    assert after.entries == before.entries
    assert [error.message for error in after.errors] == ["is empty"]
    assert after.stale == {"default/a"}


@pytest.mark.parametrize("text", ["# nothing\n", "[]", "---\n[]\n"])
def test_empty_list_means_no_endpoints(text: str) -> None:
    parsed = parse_endpoints(text, "e")
    assert (parsed.entries, parsed.errors, parsed.in_doubt) == ((), (), False)


@pytest.mark.parametrize(
    ("entry", "path", "message"),
    [
        ("{ipv4: 10.0.0.1}", "[0].name", "is required"),
        ("{name: A, ipv4: 10.0.0.1}", "[0].name", '"A" is not a valid name'),
        ("{name: a, namespace: a.b, ipv4: 10.0.0.1}", "[0].namespace", '"a.b" is not a valid namespace'),
        ("{name: a}", "[0]", "needs ipv4 or ipv6"),
        ("{name: a, interface: x}", "[0]", "needs ipv4 or ipv6"),
        ("{name: a, interface: x, cgroup: y, ipv4: 10.0.0.1}", "[0]", "interface and cgroup exclude each other"),
        ("{name: a, interface: a-name-too-long-for-linux, ipv4: 10.0.0.1}", "[0].interface", "is longer than 15"),
        ("{name: a, interface: a/b, ipv4: 10.0.0.1}", "[0].interface", '"a/b" is not an interface name'),
        ("{name: a, cgroup: ../b}", "[0].cgroup", '"../b" is not a path below the cgroup root'),
        ("{name: a, cgroup: /}", "[0].cgroup", '"/" is not a path below the cgroup root'),
        ("{name: a, ipv4: 10.0.0.256}", "[0].ipv4", '"10.0.0.256" is not an IP address'),
        ("{name: a, ipv4: 'fd00::1'}", "[0].ipv4", "fd00::1 is not an IPv4 address"),
        ("{name: a, ipv6: ['fd00::1', 10.0.0.1]}", "[0].ipv6[1]", "10.0.0.1 is not an IPv6 address"),
        ("{name: a, ipv6: '::ffff:10.0.0.1'}", "[0].ipv6", '"::ffff:10.0.0.1" is an IPv4 address in IPv6 form'),
        ("{name: a, ipv4: 127.0.0.1}", "[0].ipv4", "127.0.0.1 can't be the address of a workload"),
        ("{name: a, ipv4: []}", "[0].ipv4", "must not be empty"),
        ("{name: a, ipv4: 10.0.0.1, labels: {a: 1}}", "[0].labels.a", "must be a string, not a number (1)"),
        ("{name: a, ipv4: 10.0.0.1, ports: {http: '80'}}", "[0].ports.http", "must be an integer"),
        ("{name: a, ipv4: 10.0.0.1, ports: {'80': 80}}", "[0].ports.80", '"80" is neither a port number nor a port name'),
        ("{name: a, ipv4: 10.0.0.1, ports: [{name: x}]}", "[0].ports[0].port", "is required"),
        ("{name: a, ipv4: 10.0.0.1, ports: [{name: x, port: 1}, {name: x, port: 2}]}", "[0].ports", "gives one port name twice"),
        ("{name: a, ipv4: 10.0.0.1, adress: x}", "[0].adress", "unknown field"),
        ("null", "[0]", "must be a mapping, not null"),
    ],
)
def test_entry_is_refused_and_harms_no_other(entry: str, path: str, message: str) -> None:
    parsed = parse_endpoints(f"[{entry}, {{name: good, ipv4: 10.9.9.9}}]", "e")
    assert [item.endpoint.key for item in parsed.entries] == ["default/good"]
    assert any(error.path == path and error.message.startswith(message) for error in parsed.errors), parsed.errors


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("{name: a, ipv4: 10.0.0.1}", "{name: a, ipv4: 10.0.0.2}", "name default/a is already that of default/a"),
        ("{name: a, ipv4: 10.0.0.1}", "{name: b, ipv4: 10.0.0.1}", "address 10.0.0.1 is already that of default/a"),
        ("{name: a, ipv6: 'fd00::1'}", "{name: b, ipv6: 'fd00:0::1'}", "address fd00::1 is already that of default/a"),
        (
            "{name: a, interface: x, ipv4: 10.0.0.1}",
            "{name: b, interface: x, ipv4: 10.0.0.2}",
            "interface x is already that of default/a",
        ),
        ("{name: a, cgroup: x}", "{name: b, cgroup: /x}", "cgroup x is already that of default/a"),
    ],
)
def test_later_entry_that_takes_what_is_taken_is_the_error(first: str, second: str, message: str) -> None:
    parsed = parse_endpoints(f"- {first}\n- {second}\n", "e")
    assert [item.endpoint.name for item in parsed.entries] == ["a"]
    assert [(error.path, error.message, error.line) for error in parsed.errors] == [("[1]", message, 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a", "must be a list, not a mapping"),
        ("[]\n---\n[]", "holds more than one document"),
        ("[{name: a", "YAML: "),
        ("[{name: a, name: b}]", 'YAML: key "name" is given twice'),
    ],
)
def test_file_that_is_no_list_leaves_everything_in_doubt(text: str, message: str) -> None:
    parsed = parse_endpoints(text, "e")
    assert parsed.in_doubt
    assert parsed.errors[0].message.startswith(message)


def keys(state: EndpointsState) -> dict[str, str]:
    """Name -> first address, with a star if the version is stale."""
    return {
        entry.endpoint.name: f"{entry.endpoint.addresses[0]}{'*' if entry.endpoint.key in state.stale else ''}"
        for entry in state.entries
    }


A, B = "{name: a, ipv4: 10.0.0.1}", "{name: b, ipv4: 10.0.0.2}"
START = apply_endpoints(EndpointsState(), parse_endpoints(f"[{A}, {B}]", "e"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"[{A}, {B}]", {"a": "10.0.0.1", "b": "10.0.0.2"}),
        (f"[{B}]", {"b": "10.0.0.2"}),
        ("[]", {}),
        (f"[{{name: a, ipv4: nonsense}}, {B}]", {"b": "10.0.0.2", "a": "10.0.0.1*"}),
        (f"[{{ipv4: 10.0.0.7}}, {B}]", {"b": "10.0.0.2", "a": "10.0.0.1*"}),
        ("[{name: c", {"a": "10.0.0.1*", "b": "10.0.0.2*"}),
        ("[{name: a, ipv4: nonsense}, {name: c, ipv4: 10.0.0.1}]", {"c": "10.0.0.1"}),
    ],
)
def test_last_good_version_stays_until_somebody_takes_its_place(text: str, expected: dict[str, str]) -> None:
    assert keys(apply_endpoints(START, parse_endpoints(text, "e"))) == expected


def test_unchanged_content_gives_the_same_state() -> None:
    assert apply_endpoints(START, parse_endpoints(f"# moved\n- {A}\n- {B}", "e")) is START


def test_namespace_documents_add_their_labels() -> None:
    namespace = Namespace("default", {"team": "blue", "kubernetes.io/metadata.name": "lie"})
    (found,) = with_namespaces([one(A)], [namespace, Namespace("other", {"team": "red"})])
    assert found.labels == {**labels("default"), f"{NS_LABELS}team": "blue"}


def test_entries_back_services_that_exist_or_not() -> None:
    parsed = parse_endpoints(
        "[{name: a, ipv4: 10.0.0.1, services: [db, web]}, {name: b, namespace: n, ipv4: 10.0.0.2, services: [db]}]", "e"
    )
    db = Service(namespace="default", name="db", labels={"tier": "x"}, addresses=(ip_address("10.0.0.9"),))
    idle = Service(namespace="default", name="idle")
    assert with_backends([db, idle], parsed.entries) == (
        Service(namespace="default", name="db", labels={"tier": "x"}, addresses=(ip_address("10.0.0.9"), ip_address("10.0.0.1"))),
        idle,
        Service(namespace="default", name="web", addresses=(ip_address("10.0.0.1"),)),
        Service(namespace="n", name="db", addresses=(ip_address("10.0.0.2"),)),
    )


def test_file_is_watched_through_edits_breakage_and_absence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.05)
    path = tmp_path / "endpoints.yaml"

    async def run() -> None:
        async with aclosing(EndpointsSource(path).watch()) as states, asyncio.timeout(DEADLINE_SECONDS):
            state = await anext(states)
            assert (state.readable, state.entries, state.errors[0].message) == (False, (), "does not exist")

            async def until(expected: dict[str, str], *, errors: int) -> None:
                async for found in states:
                    if keys(found) == expected and len(found.errors) == errors:
                        return

            path.write_text(f"[{A}]")
            await until({"a": "10.0.0.1"}, errors=0)
            aside = tmp_path / "aside"
            aside.write_text(f"[{A}, {B}")
            aside.rename(path)
            await until({"a": "10.0.0.1*"}, errors=1)
            path.write_text(f"[{A}, {B}]")
            await until({"a": "10.0.0.1", "b": "10.0.0.2"}, errors=0)
            path.unlink()
            await until({"a": "10.0.0.1*", "b": "10.0.0.2*"}, errors=1)
            path.write_text(f"[{A}, {B}]")
            await until({"a": "10.0.0.1", "b": "10.0.0.2"}, errors=0)

    asyncio.run(run())


def test_ten_thousand_endpoints_are_read_in_time(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yaml"
    path.write_text(
        "\n".join(f"- {{name: p{n}, labels: {{app: a{n}}}, ipv4: 10.{n >> 16}.{n >> 8 & 255}.{n & 255}}}" for n in range(10_000))
    )
    os.utime(path, ns=(0, 0))
    started = time.monotonic()
    assert len(EndpointsSource(path).look().entries) == 10_000
    assert time.monotonic() - started < 20


FIELDS = ["name", "namespace", "labels", "interface", "cgroup", "ipv4", "ipv6", "ports", "services", "protocol", "port", "x"]
VALUES = st.none() | st.booleans() | st.integers(-1, 70000) | st.sampled_from(["a", "10.0.0.1", "fd00::1", "", "TCP", "../x"])
TREES = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5)
)


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), TREES, max_size=6), max_size=4))
def test_any_list_gives_entries_or_errors(entries: list[dict[str, Any]]) -> None:
    import json

    parsed = parse_endpoints(json.dumps(entries), "e")
    assert len(parsed.entries) + len({error.path.split("]")[0] for error in parsed.errors}) == len(entries)
