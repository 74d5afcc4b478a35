"""What Envoy is started with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from l7filters.envoy import BootstrapSettings, EnvoySettings, bootstrap_json
from l7filters.envoy.matching import REGEX_PROGRAM_SIZE_MAX


def made(**node: Any) -> dict[str, Any]:
    settings = BootstrapSettings(**{"node_id": "node-a", "xds_socket": "/run/x.sock", "admin_port": 9901, **node})
    parsed: dict[str, Any] = json.loads(bootstrap_json(settings, EnvoySettings(downstream_connections_max=777)))
    return parsed


def test_everything_comes_over_the_agents_socket() -> None:
    bootstrap = made()
    (cluster,) = bootstrap["static_resources"]["clusters"]
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["pipe"]["path"] == "/run/x.sock"
    assert set(bootstrap["static_resources"]) == {"clusters"}
    resources = bootstrap["dynamic_resources"]
    assert resources["ads_config"]["api_type"] == "DELTA_GRPC"
    assert "ads" in resources["lds_config"]
    assert "ads" in resources["cds_config"]


def test_admin_is_a_private_socket_or_a_loopback_port() -> None:
    assert made()["admin"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 9901}
    pipe = made(admin_port=None, admin_socket="/run/a.sock")["admin"]["address"]["pipe"]
    assert pipe == {"path": "/run/a.sock", "mode": 0o600}


@pytest.mark.parametrize("node", [{"admin_port": None}, {"admin_socket": "/a"}, {"node_id": ""}])
def test_settings_that_contradict_themselves_are_refused(node: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        made(**node)


def test_envoys_regex_bound_is_the_one_that_is_checked_here() -> None:
    flags = made()["layered_runtime"]["layers"][0]["static_layer"]
    assert flags["re2.max_program_size.error_level"] == REGEX_PROGRAM_SIZE_MAX


def test_header_lines_are_joined_before_they_are_compared() -> None:
    flags = made()["layered_runtime"]["layers"][0]["static_layer"]
    assert flags["envoy.reloadable_features.rbac_match_headers_individually"] is False
    assert flags["envoy.reloadable_features.match_headers_individually"] is False


def test_connections_of_the_whole_process_are_limited() -> None:
    (monitor,) = made()["overload_manager"]["resource_monitors"]
    assert monitor["typed_config"]["max_active_downstream_connections"] == "777"


def test_heap_limit_sheds_load_before_it_is_reached() -> None:
    manager = made(heap_bytes_max=1 << 30)["overload_manager"]
    assert [action["name"].rpartition(".")[2] for action in manager["actions"]] == ["shrink_heap", "stop_accepting_requests"]
    assert len(manager["resource_monitors"]) == 2


def test_bootstrap_is_the_same_each_time(tmp_path: Path) -> None:
    node = BootstrapSettings(node_id="n", xds_socket="/x", admin_port=1)
    assert bootstrap_json(node, EnvoySettings()) == bootstrap_json(node, EnvoySettings())
