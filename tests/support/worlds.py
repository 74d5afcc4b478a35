"""Small worlds in few words, for tests of the core.

``policy("p", on="app=web", ingress=[allow(frm="app=client", ports="80", http=[http("GET", "/")])])`` reads as it acts. Selectors are
``key=value,key2=value2`` (empty: everything); origins follow the field paths that a document would have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from l7filters.identity import IdentityTable, LabelSet
from l7filters.ir import CompiledPolicy
from l7filters.labels import NAMESPACE_LABEL, LabelSelector, Operator, Requirement
from l7filters.model import (
    CidrPeer,
    Direction,
    EndpointPeer,
    Entity,
    EntityPeer,
    HttpRule,
    L7Protocol,
    L7Rules,
    MatchKind,
    Mode,
    Peer,
    Policy,
    PolicyKey,
    PortRule,
    PortSpec,
    Protocol,
    Rule,
    RuleOrigin,
    StringMatch,
    TlsContext,
)
from l7filters.world import Endpoint, NamedPort

NOWHERE = RuleOrigin(PolicyKey(""), "")
"""The origin of parts that ``policy`` has yet to place."""


def selector(text: str = "") -> LabelSelector:
    """Return the selector that ``text`` spells: ``a=b,c=d``; ``c`` alone: exists; ``!c``: does not."""
    requirements: list[Requirement] = []
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if equals:
            requirements.append(Requirement(key, Operator.IN, (value,)))
        elif key.startswith("!"):
            requirements.append(Requirement(key[1:], Operator.DOES_NOT_EXIST))
        else:
            requirements.append(Requirement(key, Operator.EXISTS))
    return LabelSelector(tuple(requirements))


def endpoint(
    name: str,
    labels: str = "",
    *,
    ip: str | Sequence[str] = (),
    remote: bool = False,
    cgroup: str | None = None,
    ports: Sequence[NamedPort] = (),
    namespace: str = "default",
) -> Endpoint:
    """Return an endpoint labelled ``labels`` (its name as ``app`` if empty): local by an interface unless told otherwise."""
    pairs = dict(part.split("=", 1) for part in (labels or f"app={name}").split(","))
    addresses = (ip,) if isinstance(ip, str) else ip
    return Endpoint(
        name=name,
        namespace=namespace,
        labels={**pairs, NAMESPACE_LABEL: namespace},
        addresses=tuple(ip_address(one) for one in addresses),
        interface=None if remote or cgroup else f"lxc-{name}",
        cgroup=cgroup,
        named_ports=tuple(ports),
    )


def pods(text: str) -> tuple[Peer, ...]:
    """Return the peers ``text`` selects."""
    return (EndpointPeer(selector(text)),)


def entity(name: str) -> tuple[Peer, ...]:
    """Return the peers of one entity."""
    return (EntityPeer(Entity(name)),)


def cidr(text: str, *excepts: str) -> tuple[Peer, ...]:
    """Return the peers of one prefix."""
    return (CidrPeer(ip_network(text), tuple(ip_network(hole) for hole in excepts)),)


def ports(text: str) -> tuple[PortSpec, ...]:
    """Return the ports that ``text`` spells: ``80``, ``80/udp``, ``8000-8999``, ``web``, ``0/any``, ``8/icmp``; several by comma."""
    specs: list[PortSpec] = []
    for part in text.split(","):
        number, _, protocol = part.partition("/")
        low, _, high = number.partition("-")
        specs.append(
            PortSpec(
                Protocol[(protocol or "tcp").upper()],
                int(low) if low.isdigit() else number,
                int(high) if high.isdigit() and low.isdigit() else None,
            )
        )
    return tuple(specs)


def http(method: str | None = None, path: str | None = None) -> HttpRule:
    """Return an HTTP rule; both are regular expressions, as in Cilium."""
    return HttpRule(
        NOWHERE,
        path=StringMatch(MatchKind.REGEX, path) if path else None,
        method=StringMatch(MatchKind.REGEX, method) if method else None,
    )


@dataclass(frozen=True)
class To:
    """A ``toPorts`` item yet to be placed."""

    ports: str
    http: tuple[HttpRule, ...] | None = None
    http_deny: tuple[HttpRule, ...] = ()
    l7: L7Rules | None = None
    names: tuple[str, ...] = ()
    terminating: TlsContext | None = None
    originating: TlsContext | None = None

    def place(self, origin: RuleOrigin) -> PortRule:
        """Return the item at ``origin``, its L7 rules below it."""
        l7 = self.l7
        if self.http is not None or self.http_deny:
            l7 = L7Rules(
                L7Protocol.HTTP,
                allow=_placed(self.http or (), origin, "http"),
                deny=_placed(self.http_deny, origin, "httpDeny"),
                deny_only=self.http is None,
            )
        return PortRule(ports(self.ports), origin, l7, self.names, self.terminating, self.originating)


@dataclass(frozen=True)
class Item:
    """A rule yet to be placed. ``peers`` None: anyone."""

    peers: tuple[Peer, ...] | None = None
    to: tuple[To, ...] = ()
    deny: bool = False


def allow(peers: tuple[Peer, ...] | None = None, *to: To | str) -> Item:
    """Return a rule that allows ``peers`` on ``to`` (a string: ports without L7)."""
    return Item(peers, tuple(To(one) if isinstance(one, str) else one for one in to))


def deny(peers: tuple[Peer, ...] | None = None, *to: str) -> Item:
    """Return a rule that denies ``peers`` on ``to``."""
    return Item(peers, tuple(To(one) for one in to), deny=True)


def policy(
    name: str,
    on: str = "",
    *,
    ingress: Iterable[Item] | None = None,
    egress: Iterable[Item] | None = None,
    default_deny: bool = True,
    audit: bool = False,
    nodes: bool = False,
) -> Policy:
    """Return policy ``cnp/default/NAME`` on the endpoints that ``on`` selects; it selects a direction whose list is given."""
    key = PolicyKey(f"cnp/default/{name}")
    rules: list[Rule] = []
    directions: set[Direction] = set()
    for direction, items in ((Direction.INGRESS, ingress), (Direction.EGRESS, egress)):
        if items is None:
            continue
        directions.add(direction)
        counts = {False: 0, True: 0}
        for item in items:
            field = f"spec.{direction}{'Deny' if item.deny else ''}[{counts[item.deny]}]"
            counts[item.deny] += 1
            rules.append(
                Rule(
                    RuleOrigin(key, field),
                    direction,
                    item.deny,
                    item.peers,
                    tuple(to.place(RuleOrigin(key, f"{field}.toPorts[{index}]")) for index, to in enumerate(item.to)),
                )
            )
    return Policy(
        key=key,
        subject=selector(on),
        rules=tuple(rules),
        default_deny=frozenset(directions) if default_deny else frozenset(),
        selects_nodes=nodes,
        mode=Mode.AUDIT if audit else Mode.ENFORCE,
    )


def origin(policy_name: str, path: str) -> RuleOrigin:
    """Return an origin in ``cnp/default/POLICY_NAME``."""
    return RuleOrigin(PolicyKey(f"cnp/default/{policy_name}"), path)


def number_of(compiled: CompiledPolicy, one: Endpoint) -> int:
    """Return the identity of ``one``."""
    return compiled.identities.numbers[LabelSet.of(one.labels)]


NO_IDENTITIES = IdentityTable()


def _placed(rules: tuple[HttpRule, ...], parent: RuleOrigin, kind: str) -> tuple[HttpRule, ...]:
    return tuple(
        replace(rule, origin=RuleOrigin(parent.policy, f"{parent.path}.rules.{kind}[{index}]"))
        for index, rule in enumerate(rules)
    )
