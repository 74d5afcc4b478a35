"""node.yaml: what is read, what defaults say, and how mistakes are told."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from l7filters.envoy.settings import EscapedSlashes
from l7filters.world import Enforcement
from tidegate.config.node import (
    CONFIG_BYTES_MAX,
    ConfigError,
    DenyResponse,
    EnvoyLogLevel,
    NodeConfig,
    NodeSection,
    load_config,
    parse_config,
)

HOME = Path("/etc/tidegate/node.yaml")
SHORTEST = "node: {name: node-a}\npolicies: ./policies\nendpoints: ./endpoints.yaml\n"


def parse(text: str) -> NodeConfig:
    return parse_config(text.encode(), HOME)


def problems(text: str) -> list[tuple[str, str, str]]:
    """(field, message, hint) of every problem."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return [(problem.field, problem.message, problem.hint) for problem in caught.value.problems]


def test_shortest_file_gives_defaults_and_paths_relative_to_itself() -> None:
    assert parse(SHORTEST) == NodeConfig(
        path=HOME,
        node=NodeSection(name="node-a"),
        policies=Path("/etc/tidegate/policies"),
        endpoints=Path("/etc/tidegate/endpoints.yaml"),
    )


def test_every_documented_field_is_read() -> None:
    config = parse(
        """
        node: {name: node-a, labels: {zone: a}, addresses: [192.0.2.1, "2001:db8::1"]}
        policies: /srv/policies
        endpoints: ../endpoints.yaml
        state: ./state
        secrets: ./secrets
        uplinks: [eth0, eth1]
        enforcement: always
        denyResponse: reset
        http: {deniedBody: "no", deniedHeader: true, escapedSlashes: reject, acceptHttp10: true, requestTimeoutSeconds: 1.5}
        proxyPorts: {min: 20000}
        maps: {policyEntries: 1000, eventRingKib: 64}
        envoy: {path: ./envoy, concurrency: 2, baseId: 7, logLevel: off, nativeModule: ./module.so}
        bpf: {pinRoot: /sys/fs/bpf/other}
        admin: {metrics: "[::1]:9469"}
        flows: {ring: 100, allowedSample: 1, redact: {query: false}, file: {path: ./f.jsonl, maxBytes: 65536}}
        """
    )
    assert config.node == NodeSection(
        name="node-a", labels={"zone": "a"}, addresses=(ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    )
    assert (config.policies, config.endpoints, config.state, config.secrets) == (
        Path("/srv/policies"),
        Path("/etc/endpoints.yaml"),
        Path("/etc/tidegate/state"),
        Path("/etc/tidegate/secrets"),
    )
    assert config.uplinks == ("eth0", "eth1")
    assert (config.enforcement, config.deny_response) == (Enforcement.ALWAYS, DenyResponse.RESET)
    assert (config.http.denied_body, config.http.denied_header) == ("no", "x-tidegate-denied-by")
    assert (config.http.escaped_slashes, config.http.accept_http10) == (EscapedSlashes.REJECT, True)
    assert config.http.request_timeout_seconds == 1.5
    assert (config.proxy_ports.min, config.proxy_ports.max) == (20000, 22047)
    assert (config.maps.policy_entries, config.maps.event_ring_kib, config.maps.ipcache_entries) == (1000, 64, 262144)
    assert config.envoy.path == Path("/etc/tidegate/envoy")
    assert (config.envoy.concurrency, config.envoy.base_id, config.envoy.log_level) == (2, 7, EnvoyLogLevel.OFF)
    assert (config.envoy.native_module, config.envoy.use_native_module) == (Path("/etc/tidegate/module.so"), True)
    assert not parse(SHORTEST + "envoy: {nativeModule: none}").envoy.use_native_module
    assert config.bpf.pin_root == Path("/sys/fs/bpf/other")
    assert (config.admin.metrics_host, config.admin.metrics_port) == ("::1", 9469)
    assert config.flows.file is not None
    assert (config.flows.file.path.name, config.flows.file.bytes_max, config.flows.file.files) == ("f.jsonl", 65536, 5)
    assert (config.flows.ring, config.flows.allowed_sample, config.flows.redact_query) == (100, 1.0, False)


def test_auto_means_whatever_the_machine_has() -> None:
    config = parse("node: {name: a, addresses: auto}\nuplinks: auto\npolicies: p\nendpoints: e\n")
    assert (config.node.addresses, config.uplinks) == (None, None)


@pytest.mark.parametrize("text", ["uplinks: []", "uplinks:"])
def test_no_uplinks_is_not_auto(text: str) -> None:
    assert parse(SHORTEST + text).uplinks == (() if "[]" in text else None)


@pytest.mark.parametrize(
    ("text", "field", "message", "hint"),
    [
        ("polices: x", "polices", "unknown field", "did you mean policies?"),
        ("http: {deniedbody: x}", "http.deniedbody", "unknown field", "did you mean deniedBody?"),
        ("flows: {redact: {headr: true}}", "flows.redact.headr", "unknown field", "did you mean headers?"),
        ("dns: {reject: drop}", "dns.reject", "'drop' is not one of refused, nxdomain", ""),
        ("dns: {ttlFlorSeconds: 1}", "dns.ttlFlorSeconds", "unknown field", "did you mean ttlFloorSeconds?"),
        (
            "dns: {ttlFloorSeconds: 9999999}",
            "dns.ttlFloorSeconds",
            "9999999 is out of range",
            "write a number from 0 to 604800; the default is 0",
        ),
        (
            "dns: {upstreamTimeoutSeconds: 0}",
            "dns.upstreamTimeoutSeconds",
            "0 is out of range",
            "write a number from 0.05 to 60; the default is 4",
        ),
        (
            "dns: {inFlightMax: 10, inFlightPerEndpointMax: 11}",
            "dns.inFlightPerEndpointMax",
            "11 is more than inFlightMax (10)",
            "raise inFlightMax, too",
        ),
        ("enforcement: sometimes", "enforcement", "'sometimes' is not one of default, always, never", ""),
        ("envoy: {logLevel: warn}", "envoy.logLevel", None, "did you mean warning?"),
        ("maps: {policyEntries: many}", "maps.policyEntries", "expected a whole number, found text", ""),
        ("maps: {policyEntries: true}", "maps.policyEntries", "expected a whole number, found true", ""),
        ("maps: {policyEntries: 1}", "maps.policyEntries", "1 is out of range", None),
        ("maps: {eventRingKib: 100}", "maps.eventRingKib", "100 is not a power of two", None),
        ("proxyPorts: {min: 65000}", "proxyPorts.min", "65000 is out of range", None),
        ("proxyPorts: 19000", "proxyPorts", "expected a mapping, found the number 19000", "write `proxyPorts: {key: value}`"),
        ("admin: {page: '0.0.0.0:9470'}", "admin.page", "0.0.0.0 is not loopback: others could read", None),
        ("admin: {page: 'localhost'}", "admin.page", "'localhost' is not host:port", None),
        ("flows: {file: {maxBytes: 100000}}", "flows.file.path", "missing", "add `path: ./flows.jsonl`"),
        ("flows: {file: {path: ./f, files: 0}}", "flows.file.files", "0 is out of range", None),
        ("flows: {allowedSample: 2}", "flows.allowedSample", "2 is out of range", None),
        ("http: {connectTimeoutSeconds: 0}", "http.connectTimeoutSeconds", "0 is out of range", None),
        ("http: {deniedHeader: 'a b'}", "http.deniedHeader", "'a b' is not a header name", None),
        ("http: {acceptHttp10: 1}", "http.acceptHttp10", "expected true or false, found the number 1", ""),
        ("uplinks: eth0", "uplinks", "expected a list of words, found text", "write `uplinks: [one, two]`"),
        ("uplinks: [a-name-much-too-long]", "uplinks", None, None),
        ("bpf: {pinRoot: relative}", "bpf.pinRoot", "'relative' is not absolute", None),
        ("admin: {metrics: 9469}", "admin.metrics", "expected text, found the number 9469", 'quote it: `metrics: "9469"`'),
        ("admin: {metrics: 'localhost'}", "admin.metrics", "'localhost' is not host:port", None),
        ("admin: {metrics: '127.0.0.1:70000'}", "admin.metrics", "'127.0.0.1:70000' is not host:port", None),
        ("state: " + "x" * 120, "state", None, "choose a shorter directory"),
        ("secrets: [a]", "secrets", "expected a path, found a list", ""),
    ],
)
def test_mistake_names_field_and_remedy(text: str, field: str, message: str | None, hint: str | None) -> None:
    ((found_field, found_message, found_hint),) = problems(SHORTEST + text)
    assert found_field == field
    assert message is None or found_message == message
    assert hint is None or found_hint == hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node: {name: a}\nnode: {name: b}\n", 'YAML: key "node" is given twice in one mapping'),
        ("a: [", "YAML: while parsing a flow node"),
        ("a: 1\n---\nb: 2\n", "a second document begins here"),
        ("[1, 2]", "expected a mapping, found a list"),
        ("", "expected a mapping, found nothing"),
        ("[" * 10_000, "YAML: "),
    ],
)
def test_text_that_is_no_mapping_is_one_problem(text: str, message: str) -> None:
    ((_, found, _),) = problems(text)
    assert found.startswith(message)


def test_all_mistakes_are_told_at_once() -> None:
    fields = [field for field, _, _ in problems("node: {nam: a}\nhttp: {x: 1}\nendpoints: e\n")]
    assert sorted(fields) == ["http.x", "node.nam", "node.name", "policies"]


@pytest.mark.parametrize("text", ["node: {}\n", "node:\n", "node: {name: ''}\n", "node: {name: 'a b'}\n"])
def test_node_needs_a_name(text: str) -> None:
    (field, *_), *_ = problems(SHORTEST.replace("node: {name: node-a}\n", text))
    assert field == ("node" if text == "node:\n" else "node.name")


def test_labels_are_text_and_not_what_yaml_makes_of_it() -> None:
    ((field, message, hint),) = problems(SHORTEST.replace("name: node-a", "name: a, labels: {gpu: yes}"))
    assert (field, message, hint) == ("node.labels.gpu", "expected text, found true", "put it in quotes")


def test_missing_file_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "absent.yaml")
    assert "No such file" in str(caught.value)
    assert "--config" in str(caught.value)


def test_file_that_is_far_too_large_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_bytes(b"#" * (CONFIG_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load_config(path)


def test_binary_file_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(path)


def test_relative_paths_do_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node.yaml").write_text(SHORTEST)
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("node.yaml"))
    assert config.policies == tmp_path / "policies"
    assert config.admin_socket == Path("/run/tidegate/admin.sock")
