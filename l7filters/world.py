"""The world: everything that policy is judged against, as one immutable value.

Owns: endpoints, node, services, CIDR groups, the policies in force, and the revision that names this state of them.
Sources (a directory, an API server) build it; ``compile`` and ``evaluate`` read it. Must not know where it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from l7filters.identity import Network
from l7filters.labels import LabelSelector
from l7filters.model import Policy, Protocol

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class NamedPort:
    """A port that an endpoint gives a name, as ``containerPort`` with ``name`` does."""

    name: str
    port: int
    protocol: Protocol = Protocol.TCP


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A workload: local when it has an ``interface`` (host side of its veth) or a ``cgroup``, else remote.

    ``labels`` hold the user's labels, ``NAMESPACE_LABEL`` and the labels of its namespace (see labels.py).
    """

    name: str
    namespace: str
    labels: Mapping[str, str]
    addresses: tuple[Address, ...] = ()
    interface: str | None = None
    cgroup: str | None = None
    named_ports: tuple[NamedPort, ...] = ()

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def is_local(self) -> bool:
        """Whether this node enforces its policy."""
        return self.interface is not None or self.cgroup is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """This node (or, in ``World.remote_nodes``, another one)."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A Kubernetes Service: its backends are the endpoints that ``selector`` matches, and ``addresses``.

    ``selector`` None: backends only from ``addresses`` (EndpointSlices). It is confined to the service's namespace.
    """

    namespace: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    selector: LabelSelector | None = None
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CidrGroup:
    """A CiliumCIDRGroup."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    cidrs: tuple[Network, ...] = ()


class Enforcement(StrEnum):
    """Which endpoints are enforced: those that a policy selects (default), all, or none."""

    DEFAULT = "default"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class FqdnPorts:
    """TCP ports on which a server reached by name (``toFQDNs``) is also asked for that name, whatever the rule says of L7.

    Many names share an address: on these ports the proxy sees which one is meant (``tls``: SNI; ``http``: Host).
    """

    tls: tuple[int, ...] = (443,)
    http: tuple[int, ...] = (80,)


DEFAULT_FQDN_PORTS = FqdnPorts()


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One consistent state of everything. ``revision`` grows by one with every change."""

    revision: int
    node: Node
    endpoints: tuple[Endpoint, ...] = ()
    policies: tuple[Policy, ...] = ()
    services: tuple[Service, ...] = ()
    cidr_groups: tuple[CidrGroup, ...] = ()
    remote_nodes: tuple[Node, ...] = ()
    enforcement: Enforcement = Enforcement.DEFAULT
    fqdn_ports: FqdnPorts = DEFAULT_FQDN_PORTS
