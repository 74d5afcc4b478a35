"""endpoints.yaml: the workloads of a node without a cluster.

Owns: the file's shape, its errors, and what it gives: ``world.Endpoint``s and the backends of Services. A list of::

    - name: xwing                    # required
      namespace: default             # default: "default"
      labels: {org: alliance}
      interface: lxc-xwing           # host side of its veth: a local workload; without it (and cgroup) a remote one
      cgroup: system.slice/b.service # instead of interface: processes of this node without a network namespace
      ipv4: 10.0.0.2                 # an address or a list of them; ipv6 likewise
      ports: {http: 8080}            # named ports, or a list of {name, port, protocol}
      services: [ships]              # Services of its namespace that it backs

As for policies, an entry whose new version is bad stays in force as it last was good, and harms no other. Two entries
can't share a name, an address, an interface or a cgroup: the later one is the error.
Must not know policies. Labels of namespaces come from Namespace documents: ``with_namespaces`` joins them.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from l7filters.documents import DocumentError, Namespace
from l7filters.documents.addresses import address
from l7filters.documents.metadata import DEFAULT_NAMESPACE
from l7filters.documents.names import label_map, namespace_name, object_name, port_name_problem
from l7filters.documents.reader import Fields, Node, Report, render_path
from l7filters.documents.yamltree import lines_of, read_documents
from l7filters.labels import NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX
from l7filters.model import Protocol
from l7filters.world import Address, Endpoint, NamedPort, Service
from tidegate.sources.files import FileReader
from tidegate.sources.watching import states_of

ENDPOINTS_MAX = 100_000
ADDRESSES_MAX = 16
PORTS_MAX = 256
SERVICES_MAX = 256
PORT_MAX = 65535
INTERFACE_CHARS_MAX = 15
"""IFNAMSIZ less the terminating zero."""
CGROUP_CHARS_MAX = 4096
METADATA_NAME_LABEL = "kubernetes.io/metadata.name"
_INTERFACE = re.compile(r"[^/\s:]+\Z")


class _PortProtocol(StrEnum):
    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


@dataclass(frozen=True, slots=True)
class EndpointEntry:
    """One good entry of the file: the endpoint and the Services (of its namespace) that it backs."""

    endpoint: Endpoint
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointsState:
    """What endpoints.yaml says now. ``stale`` holds the keys of endpoints that are in force as they last were good.

    ``readable`` False: there is no such file (or none that can be read), and all is as it last was.
    """

    revision: int = 0
    entries: tuple[EndpointEntry, ...] = ()
    errors: tuple[DocumentError, ...] = ()
    stale: frozenset[str] = frozenset()
    readable: bool = True

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints in force, without the labels of their namespaces."""
        return tuple(entry.endpoint for entry in self.entries)


@dataclass(frozen=True, slots=True)
class ParsedEndpoints:
    """One reading of the file: the good entries, the keys of bad ones, and all errors.

    ``in_doubt``: something in the file can't be told to be any endpoint (bad YAML, an entry without a name).
    """

    entries: tuple[EndpointEntry, ...] = ()
    bad: frozenset[str] = frozenset()
    errors: tuple[DocumentError, ...] = ()
    in_doubt: bool = False


# ---- parsing --------------------------------------------------------------------------------------------------------


def parse_endpoints(text: str, source: str) -> ParsedEndpoints:
    """Read the file's text; never raises.

    ``[]`` says that there are no endpoints. A file with nothing in it says nothing: it may be what a full disk left of a list.
    """
    if not text.strip():
        error = DocumentError("", "is empty", "write [] if there are no endpoints; until then all stays as it was", source)
        return ParsedEndpoints(errors=(error,), in_doubt=True)
    documents = list(read_documents(text))
    if not documents:
        return ParsedEndpoints()
    first = documents[0]
    problems = [document for document in documents if document.problem is not None]
    if problems:
        problem = problems[0].problem
        assert problem is not None
        error = DocumentError("", problem.message, problem.hint, source, problems[0].index, problem.line)
        return ParsedEndpoints(errors=(error,), in_doubt=True)
    report = Report()
    if len(documents) > 1:
        Node(None, (), report).error("holds more than one document", "put all endpoints into one list")
    entries: list[EndpointEntry] = []
    bad: set[str] = set()
    in_doubt = len(documents) > 1 or not isinstance(first.tree, list) or len(first.tree) > ENDPOINTS_MAX
    taken: dict[tuple[str, object], str] = {}
    for node in Node(first.tree, (), report).items(ENDPOINTS_MAX):
        before = len(report.found)
        key, entry = _entry(node)
        if entry is not None and len(report.found) == before:
            _claim(entry.endpoint, node, taken)
        if entry is not None and len(report.found) == before:
            entries.append(entry)
        elif key:
            bad.add(key)
        else:
            in_doubt = True
    lines = lines_of(text, [first.index])[first.index] if report.found else {}
    errors = []
    for path, message, hint in report.found:
        line = next((lines[path[:size]] for size in range(len(path), -1, -1) if path[:size] in lines), None)
        errors.append(DocumentError(render_path(path), message, hint, source, first.index, line))
    return ParsedEndpoints(tuple(entries), frozenset(bad), tuple(errors), in_doubt)


def _entry(node: Node) -> tuple[str, EndpointEntry | None]:
    """Read one entry; its key ("" if it can't be named) and, if it has no errors of shape, its value."""
    with node.fields() as fields:
        name_node = fields.require("name")
        name = "" if name_node is None else object_name(name_node)
        namespace = fields.read("namespace", namespace_name, DEFAULT_NAMESPACE)
        labels: dict[str, str] = fields.read("labels", label_map, {})
        interface = fields.read("interface", _interface, None)
        cgroup = fields.read("cgroup", _cgroup, None)
        addresses = (*_addresses(fields, "ipv4", 4), *_addresses(fields, "ipv6", 6))
        no_ports: tuple[NamedPort, ...] = ()
        ports = fields.read("ports", _named_ports, no_ports)
        services = tuple(object_name(item) for item in fields.items("services", SERVICES_MAX) or [])
        given = fields.present(("interface", "cgroup", "ipv4", "ipv6"))
        if "interface" in given and "cgroup" in given:
            fields.error("interface and cgroup exclude each other", "a workload with a veth has an interface")
        if not fields.broken and not {"cgroup", "ipv4", "ipv6"} & set(given):
            fields.error("needs ipv4 or ipv6", "only a host process (cgroup) has no address of its own")
    if not name or not namespace:
        return "", None
    all_labels = {**labels, **_own_labels(namespace)}
    endpoint = Endpoint(
        name=name,
        namespace=namespace,
        labels=all_labels,
        addresses=addresses,
        interface=interface,
        cgroup=cgroup,
        named_ports=ports,
    )
    return endpoint.key, EndpointEntry(endpoint, services)


def _own_labels(namespace: str) -> dict[str, str]:
    """The labels that an endpoint of ``namespace`` always has."""
    return {NAMESPACE_LABEL: namespace, NAMESPACE_LABELS_PREFIX + METADATA_NAME_LABEL: namespace}


def _interface(node: Node) -> str | None:
    text = node.string(chars_max=INTERFACE_CHARS_MAX)
    if text and (not _INTERFACE.match(text) or text in (".", "..")):
        node.error(f'"{text}" is not an interface name')
        return None
    return text or None


def _cgroup(node: Node) -> str | None:
    text = node.string(chars_max=CGROUP_CHARS_MAX)
    path = text.strip("/")
    if text and (not path or any(part in ("", ".", "..") for part in path.split("/"))):
        node.error(f'"{text}" is not a path below the cgroup root', "like system.slice/builder.service")
        return None
    return path or None


def _addresses(fields: Fields, name: str, version: int) -> tuple[Address, ...]:
    node = fields.get(name)
    if node is None:
        return ()
    nodes = node.items(ADDRESSES_MAX) if isinstance(node.value, list) else [node]
    found: list[Address] = []
    for item in nodes:
        value = address(item)
        if value is None:
            continue
        if value.version != version:
            item.error(f"{value} is not an IPv{version} address", f"it belongs into ipv{value.version}")
        elif value.is_unspecified or value.is_multicast or value.is_loopback:
            item.error(f"{value} can't be the address of a workload")
        else:
            found.append(value)
    if isinstance(node.value, list) and not node.value:
        node.error("must not be empty", "leave the field out")
    return tuple(found)


def _named_ports(node: Node) -> tuple[NamedPort, ...]:
    """Read ``{name: port}`` (TCP) or a list of ``{name, port, protocol}``."""
    found: list[NamedPort] = []
    if isinstance(node.value, dict):
        for name, item in node.pairs(PORTS_MAX):
            found.append(NamedPort(_port_name(item, name), item.integer(1, PORT_MAX)))
    else:
        for item in node.items(PORTS_MAX):
            with item.fields() as fields:
                name_node, port_node = fields.require("name"), fields.require("port")
                protocol = fields.read("protocol", lambda at: at.choice(_PortProtocol) or _PortProtocol.TCP, _PortProtocol.TCP)
                name = "" if name_node is None else _port_name(name_node, name_node.string())
                port = 1 if port_node is None else port_node.integer(1, PORT_MAX)
            found.append(NamedPort(name, port, Protocol[protocol.value]))
    keys = [(port.name, port.protocol) for port in found]
    if len(set(keys)) != len(keys):
        node.error("gives one port name twice")
    return tuple(found)


def _port_name(node: Node, name: str) -> str:
    problem = port_name_problem(name.lower()) if name else None
    if problem is not None:
        node.error(problem)
    return name.lower()


def _claim(endpoint: Endpoint, node: Node, taken: dict[tuple[str, object], str]) -> None:
    """Refuse what an earlier entry has already; claim it otherwise. An entry in error claims nothing."""
    wanted = _claims(endpoint)
    for what, value in wanted:
        if (what, value) in taken:
            node.error(f"{what} {value} is already that of {taken[what, value]}", "each belongs to one endpoint")
            return
    for claim in wanted:
        taken[claim] = endpoint.key


def _claims(endpoint: Endpoint) -> list[tuple[str, object]]:
    claims: list[tuple[str, object]] = [("name", endpoint.key)]
    if endpoint.interface is not None:
        claims.append(("interface", endpoint.interface))
    if endpoint.cgroup is not None:
        claims.append(("cgroup", endpoint.cgroup))
    return claims + [("address", value) for value in dict.fromkeys(endpoint.addresses)]


# ---- what is in force -----------------------------------------------------------------------------------------------


def apply_endpoints(before: EndpointsState, parsed: ParsedEndpoints) -> EndpointsState:
    """Return the state after a reading; ``before`` itself if nothing changed.

    A last good version gives way where a good entry of the file now has its name, address, interface or cgroup.
    """
    entries = list(parsed.entries)
    present = {entry.endpoint.key for entry in entries}
    taken = {claim for entry in entries for claim in _claims(entry.endpoint)}
    stale: set[str] = set()
    for entry in before.entries:
        key = entry.endpoint.key
        if key in present or not (parsed.in_doubt or key in parsed.bad):
            continue
        claims = _claims(entry.endpoint)
        if taken.isdisjoint(claims):
            entries.append(entry)
            taken.update(claims)
            stale.add(key)
    state = EndpointsState(before.revision, tuple(entries), parsed.errors, frozenset(stale))
    return before if state == before else replace(state, revision=before.revision + 1)


def unreadable(before: EndpointsState, source: str, message: str, hint: str) -> EndpointsState:
    """Return the state while the file can't be read: everything stays in force, stale."""
    error = DocumentError("", message, hint, source)
    keys = frozenset(entry.endpoint.key for entry in before.entries)
    state = EndpointsState(before.revision, before.entries, (error,), keys, readable=False)
    return before if state == before else replace(state, revision=before.revision + 1)


def with_namespaces(endpoints: Iterable[Endpoint], namespaces: Iterable[Namespace]) -> tuple[Endpoint, ...]:
    """Return the endpoints with the labels of their namespaces, as far as Namespace documents give them."""
    prefixed: Mapping[str, dict[str, str]] = {
        namespace.name: {NAMESPACE_LABELS_PREFIX + key: value for key, value in namespace.labels.items()}
        for namespace in namespaces
    }
    return tuple(
        # The endpoint's own labels last: metadata.name always is the namespace's name.
        replace(endpoint, labels={**prefixed[endpoint.namespace], **endpoint.labels})
        if endpoint.namespace in prefixed
        else endpoint
        for endpoint in endpoints
    )


def with_backends(services: Iterable[Service], entries: Iterable[EndpointEntry]) -> tuple[Service, ...]:
    """Return the Services with the addresses of the entries that name them; one that only entries name is made."""
    added: dict[tuple[str, str], list[Address]] = {}
    for entry in entries:
        for name in entry.services:
            added.setdefault((entry.endpoint.namespace, name), []).extend(entry.endpoint.addresses)
    joined: list[Service] = []
    for service in services:
        extra = added.pop((service.namespace, service.name), [])
        joined.append(replace(service, addresses=tuple(dict.fromkeys((*service.addresses, *extra)))) if extra else service)
    joined += (
        Service(namespace=namespace, name=name, addresses=tuple(dict.fromkeys(addresses)))
        for (namespace, name), addresses in sorted(added.items())
    )
    return tuple(joined)


@dataclass(slots=True)
class EndpointsSource:
    """Reads one endpoints file. ``watch`` yields its state, first at once and then after every change of it."""

    path: Path
    clock: Callable[[], int] = time.time_ns
    state: EndpointsState = field(default_factory=EndpointsState)
    _reader: FileReader = field(default_factory=FileReader)
    _again_ns: int | None = None

    @property
    def again_ns(self) -> int | None:
        """When the last look wants another one; None: the file was at rest."""
        return self._again_ns

    def look(self) -> EndpointsState:
        """Look at the file once and return the state; the same object if nothing changed. Blocks on the disk."""
        found = self._reader.look([self.path], self.clock())
        self._again_ns = found.again_ns
        name = self.path.name
        for change in found.changes:
            if change.text is not None:
                self.state = apply_endpoints(self.state, parse_endpoints(change.text, name))
            elif change.problem:
                self.state = unreadable(self.state, name, change.problem, change.hint)
        if self.path not in self._reader.known:
            hint = "write it ([] means no endpoints); until then all stays as it was"
            self.state = unreadable(self.state, name, "does not exist", hint)
        return self.state

    def watch(self) -> AsyncGenerator[EndpointsState, None]:
        """Yield the state, and again after every change. Never ends; close the iterator to stop."""
        return states_of(self, self.path.parent)
