"""Peers of a rule: who it allows or denies.

Owns: the L3 members of ingress and egress items, which of them exclude each other, and what their absence means:

1. No L3 member at all, with ports (or ICMP fields): any peer (None).
2. No L3 member and no ports: no peer (an item ``{}`` only turns default deny on).
3. An empty list in any L3 member: no peer.
4. Otherwise the union of the member's items. Two kinds of members in one item are an error, as in Cilium.

Must not know ports' contents.
"""

from __future__ import annotations

from collections.abc import Callable

from l7filters.documents.addresses import excepts, prefix
from l7filters.documents.dns import fqdn_peer
from l7filters.documents.names import namespace_name, object_name
from l7filters.documents.reader import Fields, Node
from l7filters.documents.scope import EXCEPTS_MAX, PEERS_MAX, Scope
from l7filters.documents.selectors import peer as peer_selector
from l7filters.documents.selectors import selector
from l7filters.model import (
    CidrGroupPeer,
    CidrPeer,
    Direction,
    EndpointPeer,
    Entity,
    EntityPeer,
    NodePeer,
    Peer,
    ServicePeer,
)

PeerReader = Callable[[Node, Scope], Peer | None]


def peers(fields: Fields, scope: Scope, direction: Direction, *, deny: bool, has_ports: bool) -> tuple[Peer, ...] | None:
    """Read the L3 members of one item (module docstring)."""
    word = "from" if direction is Direction.INGRESS else "to"
    readers: dict[str, PeerReader] = {
        f"{word}Endpoints": _endpoints,
        f"{word}Entities": _entity,
        f"{word}CIDR": _cidr,
        f"{word}CIDRSet": _cidr_set,
        f"{word}Nodes": _nodes,
    }
    if direction is Direction.EGRESS:
        readers["toServices"] = _service
        if deny:
            fields.refuse("toFQDNs", "names can't be denied", "allow the names that are wanted instead; except lists narrow them")
        else:
            readers["toFQDNs"] = fqdn_peer
    fields.refuse(f"{word}Groups", "cloud provider groups are not supported", f"list the addresses in {word}CIDRSet")
    _refuse_requires(fields, f"{word}Requires", f"{word}Endpoints")

    given = fields.present(readers)
    lists = {name: fields.items(name, PEERS_MAX) or [] for name in given}
    filled = [name for name, items in lists.items() if items]
    if len(filled) > 1:
        fields.error(f"combining {' and '.join(filled)} in one rule is not supported", "write one rule for each")
    found = [readers[name](node, scope) for name, items in lists.items() for node in items]
    if not given:
        return None if has_ports else ()
    if any(not items for items in lists.values()):
        return ()
    return tuple(peer for peer in found if peer is not None)


def _refuse_requires(fields: Fields, name: str, instead: str) -> None:
    """fromRequires/toRequires were removed from Cilium; an empty list, its placeholder, means nothing."""
    node = fields.get(name)
    if node is not None and node.items(PEERS_MAX):
        node.error(f"{name} was removed", f"put the requirement into each selector of {instead}")


def _endpoints(node: Node, scope: Scope) -> Peer:
    return EndpointPeer(peer_selector(node, scope.namespace, subject_is_init=scope.subject_is_init))


def _nodes(node: Node, _scope: Scope) -> Peer:
    return NodePeer(selector(node))


def _entity(node: Node, _scope: Scope) -> Peer | None:
    entity = node.choice(Entity)
    return None if entity is None else EntityPeer(entity)


def _cidr(node: Node, _scope: Scope) -> Peer | None:
    network = prefix(node, bare_address=True)
    return None if network is None else CidrPeer(network)


def _cidr_set(node: Node, _scope: Scope) -> Peer | None:
    with node.fields() as fields:
        given = fields.present(("cidr", "cidrGroupRef", "cidrGroupSelector"))
        except_nodes = fields.items("except", EXCEPTS_MAX) or []
        if len(given) != 1:
            if not fields.broken:
                fields.error("needs exactly one of cidr, cidrGroupRef and cidrGroupSelector")
            return None
        at = fields.get(given[0])
        assert at is not None
        if given[0] == "cidr":
            network = prefix(at)
            narrowed = excepts(except_nodes, network)
            return None if network is None else CidrPeer(network, narrowed)
        narrowed = excepts(except_nodes, None)
        if given[0] == "cidrGroupRef":
            name = object_name(at)
            return CidrGroupPeer(name, None, narrowed) if name else None
        return CidrGroupPeer(None, selector(at), narrowed)


def _service(node: Node, _scope: Scope) -> Peer | None:
    with node.fields() as fields:
        given = fields.present(("k8sService", "k8sServiceSelector"))
        if len(given) != 1:
            if not fields.broken:
                fields.error("needs exactly one of k8sService and k8sServiceSelector")
            return None
        at = fields.get(given[0])
        assert at is not None
        with at.fields() as service:
            namespace = service.read("namespace", _optional_namespace, None)
            if given[0] == "k8sService":
                name_node = service.require("serviceName")
                name = "" if name_node is None else object_name(name_node)
                return ServicePeer(namespace, name) if name else None
            selector_node = service.require("selector")
            return None if selector_node is None else ServicePeer(namespace, None, selector(selector_node))


def _optional_namespace(node: Node) -> str | None:
    """Read a namespace; "" is Cilium's way to say any."""
    return None if node.value == "" else namespace_name(node) or None
