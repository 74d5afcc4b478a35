"""What can be attached to."""

from __future__ import annotations

import pytest

from bpf_redirect.attach import require_ethernet
from bpf_redirect.errors import HostError


def test_a_device_without_ethernet_headers_is_refused_with_what_to_do() -> None:
    with pytest.raises(HostError, match=r"lo is not an Ethernet device.*uplinks"):
        require_ethernet("lo")


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(HostError, match="there is no interface nowhere0"):
        require_ethernet("nowhere0")
