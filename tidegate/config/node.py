"""The node's configuration: node.yaml as a frozen value.

Owns: the shape of node.yaml, its defaults and limits, where the file is found, and the places derived from it. Must not
know what any part does with its settings. Relative paths are relative to the file; all problems of a file are reported
together, as one ConfigError (config/settings.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from l7filters.envoy.settings import EscapedSlashes, UnderscoreHeaders
from l7filters.world import Enforcement
from tidegate.admin.guard import is_loopback
from tidegate.config.dns import DnsSection, parse_dns
from tidegate.config.fqdn import FqdnSection, parse_fqdn
from tidegate.config.settings import ConfigError, ConfigProblem, Section, load_yaml

__all__ = [
    "AdminSection",
    "BpfSection",
    "ConfigError",
    "ConfigProblem",
    "DenyResponse",
    "DnsSection",
    "EnvoyLogLevel",
    "EnvoySection",
    "FlowFileSection",
    "FlowsSection",
    "HttpSection",
    "KubernetesSection",
    "MapsSection",
    "NodeConfig",
    "NodeSection",
    "ProxyPortsSection",
    "SourceKind",
    "load_config",
    "parse_config",
]

ENVIRONMENT_VARIABLE = "TIDEGATE_CONFIG"
SOURCE_VARIABLE = "TIDEGATE_SOURCE"
"""``kubernetes`` has the same effect as ``source: kubernetes``; ``tidegate run --kubernetes`` sets it for its processes."""
NODE_NAME_VARIABLE = "TIDEGATE_NODE_NAME"
"""Stands for ``node.name``, so that one ConfigMap serves every node of a DaemonSet."""

CONFIG_BYTES_MAX = 1 << 20
"""A node.yaml is a page; a megabyte is somebody's mistake (the endpoints file, a log) and isn't parsed."""
SOCKET_PATH_BYTES_MAX = 107
"""sockaddr_un holds 108 bytes with the terminating zero (unix(7))."""
SLOT_MAX = 2047
"""The highest slot id; the proxy port of slot N is ``proxyPorts.min`` + N."""
PROXY_PORT_MIN_DEFAULT = 19000
MAP_ENTRIES_MAX = 1 << 24
"""Each map is allocated by the kernel up front or grows to this; 16 million entries are beyond any node's memory budget."""
NODE_NAME_LENGTH_MAX = 253
"""As a Kubernetes node name: a DNS subdomain (RFC 1123)."""
INTERFACE_NAME_BYTES_MAX = 15
"""IFNAMSIZ without the terminating zero."""
DENIED_BODY_BYTES_MAX = 4096
"""Envoy's own limit on an inline response body (max_direct_response_body_size_bytes)."""
SECONDS_MAX = 366 * 86400.0
"""A year: anything longer means "never", which is written 0."""
UINT32_MAX = (1 << 32) - 1
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
"""A token (RFC 9110, 5.6.2)."""
DENIED_HEADER_DEFAULT = "x-tidegate-denied-by"
AUTO = "auto"
NONE = "none"


class SourceKind(StrEnum):
    """Where policies and endpoints come from."""

    FILES = "files"
    KUBERNETES = "kubernetes"


class HostNetworkPods(StrEnum):
    """What becomes of pods in the node's own network."""

    IGNORE = "ignore"
    """They are the host, as in Cilium: no policy selects them."""
    ENFORCE = "enforce"
    """What they send is judged, by their cgroup."""


class ExistingPods(StrEnum):
    """What becomes of pods that ran before Tidegate first did on this node."""

    ATTACH = "attach"
    """Managed at once: closed until their policy is realised; connections from before are reset."""
    LEAVE = "leave"
    """Left alone, and listed as unmanaged, until they start again."""


class DenyResponse(StrEnum):
    """What a peer sees of a packet that policy denies at L3/L4."""

    DROP = "drop"
    RESET = "reset"
    """TCP gets a reset, anything else an ICMP "administratively prohibited"."""


class EnvoyLogLevel(StrEnum):
    """Envoy's log levels."""

    TRACE = "trace"
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSection:
    """``node``: who this node is. ``addresses`` None (``auto``): read from the interfaces."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[IPv4Address | IPv6Address, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSection:
    """``http``: what is said to clients, and every limit that a request can meet. 0 seconds: no limit."""

    denied_body: str = "Access denied\r\n"
    denied_header: str | None = None
    """Response header that names the deciding policy; None (``false``): none, for it tells strangers about the policy."""
    escaped_slashes: EscapedSlashes = EscapedSlashes.UNESCAPE
    underscore_headers: UnderscoreHeaders = UnderscoreHeaders.ALLOW
    accept_http10: bool = False
    idle_timeout_seconds: float = 3600.0
    """A client's connection with no request on it is closed after this long."""
    upstream_idle_timeout_seconds: float = 60.0
    """A server's connection with no request on it."""
    stream_idle_timeout_seconds: float = 300.0
    """A request on which neither side says anything is ended after this long."""
    request_timeout_seconds: float = 0.0
    """The whole of a request and its response; none by default, for streams may last for days."""
    request_headers_timeout_seconds: float = 10.0
    """From the first byte of a request to the end of its headers (slow clients)."""
    connect_timeout_seconds: float = 5.0
    request_headers_kib_max: int = 60
    request_headers_count_max: int = 200
    connections_max: int = 1 << 20
    """Connections, pending requests and requests to servers at once, for the node; Envoy's own default is 1024."""
    downstream_connections_max: int = 100_000
    """Connections from clients at once, for the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyPortsSection:
    """``proxyPorts``: slot N listens on ``min`` + N on loopback; the range must be free on the node."""

    min: int = PROXY_PORT_MIN_DEFAULT

    @property
    def max(self) -> int:
        """The last port of the range."""
        return self.min + SLOT_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class MapsSection:
    """``maps``: capacities. A full map drops what it can't judge, with a counted reason; it never opens anything."""

    policy_entries: int = 65536
    conntrack_entries: int = 262144
    ipcache_entries: int = 262144
    endpoint_entries: int = 4096
    verdict_entries: int = 16384
    """Records of exact request counts."""
    name_entries: int = 131072
    """Addresses that DNS told pods of; 150 bytes each, taken as they come."""
    event_ring_kib: int = 512
    """Ring buffer of verdict events; a power of two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoySection:
    """``envoy``: the proxy process. ``path`` None: the binary that comes with the installation."""

    path: Path | None = None
    concurrency: int = 0
    """Worker threads; 0: one per core that the process may use."""
    base_id: int = 0
    """Envoy's --base-id; two nodes on one machine (tests) need different ones."""
    log_level: EnvoyLogLevel = EnvoyLogLevel.WARNING
    native_module: Path | None = None
    """The module that Envoy loads; None: the newest build that came with the installation."""
    use_native_module: bool = True
    """False (``nativeModule: none``): go without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BpfSection:
    """``bpf``: where programs and maps are pinned; must lie on a bpffs (one is mounted on /sys/fs/bpf where missing)."""

    pin_root: Path = Path("/sys/fs/bpf/tidegate")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminSection:
    """``admin``: the API beyond its Unix socket. ``metrics`` (``host:port``) serves /metrics and /healthz, nothing else;
    ``page`` the page and what it reads.
    """

    metrics_host: str | None = None
    metrics_port: int = 0
    page_host: str | None = None
    page_port: int = 0
    token_file: Path | None = None
    """Holds the token that the page's address asks for; required where that is not loopback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowFileSection:
    """``flows.file``: records on disk. ``files`` counts the one that is being written."""

    path: Path
    bytes_max: int = 10 << 20
    files: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSection:
    """``kubernetes``: how the API server is followed. ``kubeconfig`` None: with the service account of the agent's pod."""

    kubeconfig: Path | None = None
    host_network_pods: HostNetworkPods = HostNetworkPods.IGNORE
    existing_pods: ExistingPods = ExistingPods.ATTACH
    cgroup_root: str = "/"
    """The kubelet's --cgroup-root, from the root of cgroup v2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowsSection:
    """``flows``: what is kept and shown of verdicts."""

    ring: int = 8192
    """How many records the agent keeps."""
    allowed_sample: float = 0.01
    """The share of allowed requests that are recorded while nobody follows; denials are always recorded."""
    redact_query: bool = True
    redact_headers: bool = True
    file: FlowFileSection | None = None
    """Where records are kept on disk; None: only in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """node.yaml, checked. All paths are absolute. ``uplinks`` None (``auto``): the devices of the default routes."""

    path: Path
    """The file it came from."""
    node: NodeSection
    policies: Path
    endpoints: Path
    state: Path = Path("/run/tidegate")
    source: SourceKind = SourceKind.FILES
    """With ``kubernetes``, ``policies``, ``endpoints`` and ``secrets`` are the API server's, and no file is read."""
    kubernetes: KubernetesSection = field(default_factory=KubernetesSection)
    secrets: Path | None = None
    """A directory of Secret documents, or of ``namespace/name/key`` files; watched like the policies."""
    uplinks: tuple[str, ...] | None = None
    enforcement: Enforcement = Enforcement.DEFAULT
    deny_response: DenyResponse = DenyResponse.DROP
    http: HttpSection = field(default_factory=HttpSection)
    proxy_ports: ProxyPortsSection = field(default_factory=ProxyPortsSection)
    maps: MapsSection = field(default_factory=MapsSection)
    fqdn: FqdnSection = field(default_factory=FqdnSection)
    envoy: EnvoySection = field(default_factory=EnvoySection)
    bpf: BpfSection = field(default_factory=BpfSection)
    admin: AdminSection = field(default_factory=AdminSection)
    flows: FlowsSection = field(default_factory=FlowsSection)
    dns: DnsSection = field(default_factory=DnsSection)

    @property
    def xds_socket(self) -> Path:
        """Where Envoy finds its configuration and sends its access log."""
        return self.state / "xds.sock"

    @property
    def kafka_socket(self) -> Path:
        """Where Envoy's module tells the agent of Kafka requests, in datagrams."""
        return self.state / "kafka.sock"

    @property
    def admin_socket(self) -> Path:
        """Where the agent answers the other commands."""
        return self.state / "admin.sock"

    @property
    def envoy_directory(self) -> Path:
        """Envoy's bootstrap and its own admin socket."""
        return self.state / "envoy"

    @property
    def dns_directory(self) -> Path:
        """The DNS proxy's rules, answers and sockets."""
        return self.state / "dns"

    @property
    def identities_file(self) -> Path:
        """The numbering of label sets, kept so that numbers survive a restart."""
        return self.state / "identities.json"

    @property
    def slots_file(self) -> Path:
        """The numbering of slots, kept so that ports survive a restart."""
        return self.state / "slots.json"

    @property
    def l7_ledger_file(self) -> Path:
        """What records of verdict counts had counted that are no longer in the kernel."""
        return self.state / "l7-ledger.json"

    @property
    def kept_documents(self) -> Path:
        """The last good version of every policy document, for those that went bad while no agent ran."""
        return self.state / "documents"

    @property
    def saved_cluster(self) -> Path:
        """What the API server last said, for an agent that starts while it is away."""
        return self.state / "kubernetes"

    @property
    def lock_file(self) -> Path:
        """Locked (flock) by the agent for as long as it runs: two agents can't share a node."""
        return self.state / "agent.lock"


# ---- finding and reading ------------------------------------------------------------------------------------------


def load_config(path: Path) -> NodeConfig:
    """Read and check node.yaml. Raises ConfigError with every problem found."""
    source = Path(os.path.abspath(path))
    try:
        with source.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        hint = "check the path given with --config or in " + ENVIRONMENT_VARIABLE
        message = f"can't be read: {error.strerror or error}"
        raise ConfigError(str(path), [ConfigProblem("", message, hint)]) from error
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError(str(path), [ConfigProblem("", "larger than 1 MiB", "is this really a node.yaml?")])
    return parse_config(data, source, shown_as=str(path))


def parse_config(data: bytes, source: Path, shown_as: str = "") -> NodeConfig:
    """Turn the text of node.yaml into a NodeConfig. ``source`` anchors relative paths. Raises ConfigError."""
    name = shown_as or str(source)
    problems: list[ConfigProblem] = []
    config = _parse_root(Section(load_yaml(data, name), "", problems), source)
    if problems:
        raise ConfigError(name, problems)
    return config


def _parse_root(root: Section, source: Path) -> NodeConfig:
    """Read the whole document; where a problem was noted the value is a default and the caller raises."""
    base = source.parent
    kind = _parse_source(root)
    files = (("policies", "./policies"), ("endpoints", "./endpoints.yaml"))
    if kind is SourceKind.FILES:
        for key, example in files:
            root.require(key, example)
    else:
        for key in ("policies", "endpoints", "secrets"):
            if root.has(key):
                root.problem(key, "means nothing with `source: kubernetes`", "the API server has them: remove the field")
    if not os.environ.get(NODE_NAME_VARIABLE):
        root.require("node", "{name: node-a}")
    state = root.path("state", base) or Path("/run/tidegate")
    longest = state / "dns" / "reports.sock"
    if len(os.fsencode(longest)) > SOCKET_PATH_BYTES_MAX:
        root.problem("state", f"{longest} is too long for a socket (107 bytes)", "choose a shorter directory")
    config = NodeConfig(
        path=source,
        node=_parse_node(root.section("node")),
        policies=root.path("policies", base) or base,
        endpoints=root.path("endpoints", base) or base,
        state=state,
        source=kind,
        kubernetes=_parse_kubernetes(root.section("kubernetes"), base),
        secrets=root.path("secrets", base),
        uplinks=_parse_uplinks(root),
        enforcement=root.choice("enforcement", Enforcement, Enforcement.DEFAULT),
        deny_response=root.choice("denyResponse", DenyResponse, DenyResponse.DROP),
        http=_parse_http(root.section("http")),
        proxy_ports=_parse_proxy_ports(root.section("proxyPorts")),
        maps=_parse_maps(root.section("maps")),
        fqdn=parse_fqdn(root.section("fqdn")),
        envoy=_parse_envoy(root.section("envoy"), base),
        bpf=_parse_bpf(root.section("bpf")),
        admin=_parse_admin(root.section("admin"), base),
        flows=_parse_flows(root.section("flows"), base),
        dns=parse_dns(root.section("dns")),
    )
    root.finish()
    return config


def _parse_source(root: Section) -> SourceKind:
    written = root.choice("source", SourceKind, SourceKind.KUBERNETES if root.has("kubernetes") else SourceKind.FILES)
    named = os.environ.get(SOURCE_VARIABLE, "")
    if named and named not in list(SourceKind):
        root.problem("source", f"{SOURCE_VARIABLE} is {named!r}", f"write {' or '.join(SourceKind)}")
        return written
    return SourceKind(named) if named else written


def _parse_kubernetes(section: Section, base: Path) -> KubernetesSection:
    default = KubernetesSection()
    parsed = KubernetesSection(
        kubeconfig=section.path("kubeconfig", base),
        host_network_pods=section.choice("hostNetworkPods", HostNetworkPods, default.host_network_pods),
        existing_pods=section.choice("existingPods", ExistingPods, default.existing_pods),
        cgroup_root=section.text("cgroupRoot", default.cgroup_root),
    )
    if not parsed.cgroup_root.startswith("/") or ".." in parsed.cgroup_root.split("/"):
        section.problem(
            "cgroupRoot", f"{parsed.cgroup_root!r} is not a path from the root of cgroup v2", "the kubelet's --cgroup-root"
        )
    section.finish()
    return parsed


def _parse_node(section: Section) -> NodeSection:
    given = os.environ.get(NODE_NAME_VARIABLE, "")
    if not given:
        section.require("name", "node-a")
    name = given or section.text("name", "")
    section.value("name")
    is_word = name.isprintable() and not any(character.isspace() for character in name)
    if (given or section.has("name")) and not (is_word and 0 < len(name) <= NODE_NAME_LENGTH_MAX):
        section.problem("name", f"{name[:40]!r} is not a node name", "at most 253 characters without spaces")
    addresses = None if section.value("addresses") == AUTO else section.addresses("addresses")
    labels = section.string_map("labels")
    section.finish()
    return NodeSection(name=name, labels=labels, addresses=addresses)


def _parse_uplinks(root: Section) -> tuple[str, ...] | None:
    if root.value("uplinks") == AUTO:
        return None
    names = root.strings("uplinks")
    for name in names or ():
        if len(name.encode()) > INTERFACE_NAME_BYTES_MAX or "/" in name or any(c.isspace() for c in name):
            root.problem("uplinks", f"{name!r} is not an interface name", "see `ip link`; at most 15 bytes")
    return names


def _parse_http(section: Section) -> HttpSection:
    default = HttpSection()

    def seconds(key: str, value: float) -> float:
        return section.number(key, value, 0, SECONDS_MAX)

    body = section.text("deniedBody", default.denied_body)
    if len(body.encode()) > DENIED_BODY_BYTES_MAX:
        section.problem("deniedBody", "longer than 4096 bytes", "Envoy holds it in every listener; write less")
    parsed = HttpSection(
        denied_body=body,
        denied_header=_parse_denied_header(section),
        escaped_slashes=section.choice("escapedSlashes", EscapedSlashes, default.escaped_slashes),
        underscore_headers=section.choice("underscoreHeaders", UnderscoreHeaders, default.underscore_headers),
        accept_http10=section.flag("acceptHttp10", default.accept_http10),
        idle_timeout_seconds=seconds("idleTimeoutSeconds", default.idle_timeout_seconds),
        upstream_idle_timeout_seconds=seconds("upstreamIdleTimeoutSeconds", default.upstream_idle_timeout_seconds),
        stream_idle_timeout_seconds=seconds("streamIdleTimeoutSeconds", default.stream_idle_timeout_seconds),
        request_timeout_seconds=seconds("requestTimeoutSeconds", default.request_timeout_seconds),
        request_headers_timeout_seconds=seconds("requestHeadersTimeoutSeconds", default.request_headers_timeout_seconds),
        connect_timeout_seconds=section.number("connectTimeoutSeconds", default.connect_timeout_seconds, 0.1, SECONDS_MAX),
        request_headers_kib_max=section.integer("requestHeadersKibMax", default.request_headers_kib_max, 1, 8192),
        request_headers_count_max=section.integer("requestHeadersCountMax", default.request_headers_count_max, 1, 65536),
        connections_max=section.integer("connectionsMax", default.connections_max, 1, UINT32_MAX),
        downstream_connections_max=section.integer("downstreamConnectionsMax", default.downstream_connections_max, 1, UINT32_MAX),
    )
    section.finish()
    return parsed


def _parse_denied_header(section: Section) -> str | None:
    written = section.value("deniedHeader")
    if written is None or written is False:
        return None
    if written is True:
        return DENIED_HEADER_DEFAULT
    if not isinstance(written, str) or not HEADER_NAME.fullmatch(written):
        section.problem("deniedHeader", f"{str(written)[:40]!r} is not a header name", "write true, false or e.g. x-denied-by")
        return None
    return written.lower()


def _parse_proxy_ports(section: Section) -> ProxyPortsSection:
    lowest = section.integer("min", PROXY_PORT_MIN_DEFAULT, 1024, 65535 - SLOT_MAX)
    section.finish()
    return ProxyPortsSection(min=lowest)


def _parse_maps(section: Section) -> MapsSection:
    default = MapsSection()
    parsed = MapsSection(
        policy_entries=section.integer("policyEntries", default.policy_entries, 256, MAP_ENTRIES_MAX),
        conntrack_entries=section.integer("conntrackEntries", default.conntrack_entries, 1024, MAP_ENTRIES_MAX),
        ipcache_entries=section.integer("ipcacheEntries", default.ipcache_entries, 256, MAP_ENTRIES_MAX),
        endpoint_entries=section.integer("endpointEntries", default.endpoint_entries, 16, 1 << 16),
        verdict_entries=section.integer("verdictEntries", default.verdict_entries, 64, MAP_ENTRIES_MAX),
        name_entries=section.integer("nameEntries", default.name_entries, 256, MAP_ENTRIES_MAX),
        event_ring_kib=section.integer("eventRingKib", default.event_ring_kib, 4, 1 << 18),
    )
    if parsed.event_ring_kib & (parsed.event_ring_kib - 1):
        section.problem("eventRingKib", f"{parsed.event_ring_kib} is not a power of two", "e.g. 512 or 1024")
    section.finish()
    return parsed


def _parse_envoy(section: Section, base: Path) -> EnvoySection:
    default = EnvoySection()
    parsed = EnvoySection(
        path=section.path("path", base),
        concurrency=section.integer("concurrency", default.concurrency, 0, 1024),
        base_id=section.integer("baseId", default.base_id, 0, (1 << 31) - 1),
        log_level=section.choice("logLevel", EnvoyLogLevel, default.log_level),
        native_module=None if section.value("nativeModule") == NONE else section.path("nativeModule", base),
        use_native_module=section.value("nativeModule") != NONE,
    )
    section.finish()
    return parsed


def _parse_bpf(section: Section) -> BpfSection:
    written = section.text("pinRoot", str(BpfSection().pin_root))
    if not written.startswith("/"):
        section.problem("pinRoot", f"{written!r} is not absolute", "e.g. /sys/fs/bpf/tidegate")
    section.finish()
    return BpfSection(pin_root=Path(os.path.normpath(written)))


def _parse_admin(section: Section, base: Path) -> AdminSection:
    metrics_host, metrics_port = _parse_address(section, "metrics", 9469)
    page_host, page_port = _parse_address(section, "page", 9470)
    token_file = section.path("tokenFile", base)
    section.finish()
    if page_host is not None and token_file is None and not is_loopback(page_host):
        section.problem("page", f"{page_host} is not loopback: others could read", "add `tokenFile: ./token`, or use 127.0.0.1")
    return AdminSection(
        metrics_host=metrics_host, metrics_port=metrics_port, page_host=page_host, page_port=page_port, token_file=token_file
    )


def _parse_address(section: Section, key: str, example: int) -> tuple[str | None, int]:
    written = section.text(key, "")
    if not written:
        return None, 0
    host, _, port = written.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        section.problem(key, f"{written!r} is not host:port", f"e.g. 127.0.0.1:{example} or [::1]:{example}")
        return None, 0
    return host, int(port)


def _parse_flows(section: Section, base: Path) -> FlowsSection:
    default = FlowsSection()
    redact = section.section("redact")
    parsed = FlowsSection(
        ring=section.integer("ring", default.ring, 16, 1 << 20),
        allowed_sample=section.number("allowedSample", default.allowed_sample, 0, 1),
        redact_query=redact.flag("query", default.redact_query),
        redact_headers=redact.flag("headers", default.redact_headers),
        file=_parse_flow_file(section.section("file"), base) if section.has("file") else None,
    )
    redact.finish()
    section.finish()
    return parsed


def _parse_flow_file(section: Section, base: Path) -> FlowFileSection:
    section.require("path", "./flows.jsonl")
    default = FlowFileSection(path=base)
    parsed = FlowFileSection(
        path=section.path("path", base) or base,
        bytes_max=section.integer("maxBytes", default.bytes_max, 1 << 16, 1 << 40),
        files=section.integer("files", default.files, 1, 1000),
    )
    section.finish()
    return parsed
