"""What node.yaml and the machine say to Envoy."""

from __future__ import annotations

import pytest

from tidegate.processes.envoy import assigns_reuse_port_sockets


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.6.0", True),
        ("6.18.44-custom", True),
        ("10.0", True),
        ("6.5.13-1-amd64", False),
        ("6.1.0-28-amd64", False),
        ("5.15", False),
        ("strange", False),
    ],
)
def test_a_socket_per_worker_only_where_the_kernel_can_assign_to_it(release: str, expected: bool) -> None:
    assert assigns_reuse_port_sockets(release) is expected
