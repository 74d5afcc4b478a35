"""Small worlds in few words, for tests of the core.

``policy("p", "app=web", ingress=[allow(pods("app=client"), To("80", http=(http("GET", "/"),)))])`` reads as it acts. Selectors
are ``key=value,key2=value2`` (empty: everything); origins follow the field paths that a document would have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any, assert_never

from l7filters.compile import compile
from l7filters.identity import IdentityNumber, IdentityTable, LabelSet, Reserved
from l7filters.ir import Allow, CompiledPolicy, Deny, DirectionRules, EntryVerdict, Redirect, Slot
from l7filters.labels import NAMESPACE_LABEL, LabelSelector, Operator, Requirement
from l7filters.lookup import AddressTable, EntryTable, Flow
from l7filters.model import (
    CidrPeer,
    Direction,
    EndpointPeer,
    Entity,
    EntityPeer,
    FqdnPeer,
    HttpRule,
    KafkaRule,
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
from l7filters.ports import PortPrefix
from l7filters.world import Endpoint, NamedPort, Node, World
from proxylib.dns.rules import NameMatcher

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


def fqdn(*names: str, but: Sequence[str] = ()) -> tuple[Peer, ...]:
    """Return the peers of names, and of patterns where there is a star; ``but``: patterns left out of each."""
    return tuple(
        FqdnPeer(match_pattern=name, excepts=tuple(but)) if "*" in name else FqdnPeer(name, excepts=tuple(but)) for name in names
    )


def ports(text: str) -> tuple[PortSpec, ...]:
    """Return the ports that ``text`` spells: ``80``, ``80/udp``, ``8000-8999``, ``web``, ``8/icmp``; several by comma."""
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


def number_of(compiled: CompiledPolicy, one: Endpoint) -> IdentityNumber:
    """Return the identity of ``one``."""
    return compiled.identities.numbers[LabelSet.of(one.labels)]


NO_IDENTITIES = IdentityTable()
NODE = Node(name="node-a", labels={"role": "worker"}, addresses=(ip_address("192.168.0.1"), ip_address("fd01::1")))


def world(*policies: Policy, endpoints: Iterable[Endpoint], revision: int = 1, node: Node = NODE, **rest: Any) -> World:
    """Return a world of one node."""
    return World(revision=revision, node=node, endpoints=tuple(endpoints), policies=tuple(policies), **rest)


@dataclass(frozen=True)
class View:
    """A compiled world, asked by the names of endpoints or by addresses."""

    world: World
    compiled: CompiledPolicy
    entries: EntryTable
    addresses: AddressTable

    @classmethod
    def of(cls, world: World) -> View:
        """Compile ``world``."""
        compiled = compile(world, NO_IDENTITIES)
        return cls(world, compiled, EntryTable.of(compiled), AddressTable.of(compiled))

    def number(self, who: str | Reserved) -> IdentityNumber:
        """Return the identity of an endpoint by name, or of an address."""
        if isinstance(who, Reserved):
            return IdentityNumber(int(who))
        for one in self.world.endpoints:
            if one.name == who:
                return number_of(self.compiled, one)
        return self.addresses.find(ip_address(who)).identity

    def verdict(self, subject: str | Reserved, peer: str | Reserved, direction: str, port: str) -> EntryVerdict:
        """Return what holds for ``subject`` with ``peer``; ``port`` as in ``ports``. What no entry covers is default deny."""
        spec = ports(port)[0]
        assert isinstance(spec.port, int)
        prefix = PortPrefix(int(spec.protocol), spec.port, 16)
        found = self.entries.verdict(self.number(subject), self.number(peer), Direction(direction), prefix)
        return Deny() if found is None else found

    def ingress(self, subject: str | Reserved, peer: str | Reserved, port: str) -> EntryVerdict:
        """Return the verdict on what ``subject`` receives from ``peer``."""
        return self.verdict(subject, peer, "ingress", port)

    def egress(self, subject: str | Reserved, peer: str | Reserved, port: str) -> EntryVerdict:
        """Return the verdict on what ``subject`` sends to ``peer``."""
        return self.verdict(subject, peer, "egress", port)

    def granted(self, *names: str) -> tuple[IdentityNumber, ...]:
        """Return the identities for which DNS answers to ``names`` count, as the DNS proxy finds them."""
        numbers = {one.fqdn: number for one, number in self.compiled.identities.numbers.items() if one.fqdn is not None}
        matcher = NameMatcher(list(numbers))
        covering = {index for name in names for index in matcher.matches(name)}
        return tuple(number for index, number in enumerate(numbers.values()) if index in covering)

    def reached(self, subject: str, address: str, port: str, *names: str) -> EntryVerdict:
        """Return what holds for ``subject`` at an address outside that DNS gave it for ``names``."""
        spec = ports(port)[0]
        assert isinstance(spec.port, int)
        flow = Flow(self.number(subject), self.number(address), int(spec.protocol), spec.port, names=self.granted(*names))
        return self.entries.egress(flow)[0]

    def slot(self, verdict: EntryVerdict) -> Slot:
        """Return the slot that ``verdict`` redirects to."""
        assert isinstance(verdict, Redirect), verdict
        return next(slot for slot in self.compiled.slots if slot.key == verdict.slot)

    def rules(self, verdict: EntryVerdict) -> DirectionRules:
        """Return the rules of the one direction that ``verdict``'s slot judges."""
        slot = self.slot(verdict)
        rules = slot.egress or slot.ingress
        assert rules is not None
        return rules


def kind(verdict: EntryVerdict) -> str:
    """Return the verdict in a word: deny, allow, or the protocol it is redirected for; ``!`` after it: would be denied."""
    match verdict:
        case Deny():
            return "deny"
        case Allow():
            word = "allow"
        case Redirect(slot=slot):
            word = str(slot.protocol)
        case _:
            assert_never(verdict)
    return word + "!" * verdict.would_deny


def paths(rules: Iterable[HttpRule | KafkaRule]) -> list[str]:
    """Return the path patterns of HTTP rules."""
    return [rule.path.value if isinstance(rule, HttpRule) and rule.path else "*" for rule in rules]


def _placed(rules: tuple[HttpRule, ...], parent: RuleOrigin, kind: str) -> tuple[HttpRule, ...]:
    return tuple(
        replace(rule, origin=RuleOrigin(parent.policy, f"{parent.path}.rules.{kind}[{index}]"))
        for index, rule in enumerate(rules)
    )
