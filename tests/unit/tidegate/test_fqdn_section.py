"""``fqdn`` of node.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from l7filters.world import FqdnPorts
from tidegate.config.node import ConfigError, parse_config

NODE = "node: {name: node-a}\npolicies: ./policies\nendpoints: ./endpoints.yaml\n"


def ports(text: str) -> FqdnPorts:
    return parse_config((NODE + text).encode(), Path("/etc/tidegate/node.yaml")).fqdn.ports


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", FqdnPorts((443,), (80,))),
        ("fqdn: {tlsPorts: [8443, 443, 8443]}", FqdnPorts((443, 8443), (80,))),
        ("fqdn: {tlsPorts: [], httpPorts: []}", FqdnPorts((), ())),
    ],
)
def test_ports_that_ask_for_names(text: str, expected: FqdnPorts) -> None:
    assert ports(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("fqdn: {tlsPorts: 443}", "fqdn.tlsPorts: expected a list of ports, found the number 443"),
        ("fqdn: {tlsPorts: [true]}", "fqdn.tlsPorts: expected a list of ports, found a list"),
        ("fqdn: {httpPorts: [0]}", "fqdn.httpPorts: 0 is no port"),
        ("fqdn: {httpPorts: [443]}", "fqdn.httpPorts: 443 is one of tlsPorts, too"),
        ("fqdn: {tlsPorts: [53]}", "fqdn.tlsPorts: 53 carries DNS"),
        (f"fqdn: {{tlsPorts: {list(range(1000, 1065))}}}", "fqdn.tlsPorts: 65 ports are too many"),
        ("fqdn: {ports: [443]}", "fqdn.ports: unknown field"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ports(text)
    assert problem in str(refused.value)
