"""The compiled policy: the only meeting point of policy, kernel and Envoy.

Owns: the intermediate representation. ``compile`` makes it; ``envoy/translate`` reads its slots, ``mapstate`` its entries.
Plain values, host byte order, no BPF layout, no protobuf. Levels, from the outside in::

    CompiledPolicy
      identities                      number -> label set
      ipcache: IpcacheEntry*          prefix -> identity
      entries: PolicyEntry*           (subject, peer, direction, protocol, port prefix) -> Deny | Allow | Redirect(SlotKey)
      slots: Slot*                    SlotKey -> DirectionRules for egress and/or ingress -> RuleSet (enforced, shadow)
      pairs: SlotPair*                (egress slot, ingress slot) -> the slot that judges both in one pass

Reading an entry: find the entries of (subject, peer); where the peer has none that cover the port, those of (subject, ANY).
The longest (protocol, port prefix) wins and is already fully resolved: no precedence is left for the reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from l7filters.identity import IdentityNumber, IdentityTable, LabelSet, Network
from l7filters.model import Direction, DnsRule, HttpRule, KafkaRule, L7Protocol, Offload, PolicyKey, RuleOrigin, TlsContext
from proxylib.dns.rules import NameSelector


@dataclass(frozen=True, slots=True)
class IpcacheEntry:
    """``prefix`` belongs to ``identity``; the longest prefix wins. ``endpoint`` is set for a local endpoint's address."""

    prefix: Network
    identity: IdentityNumber
    endpoint: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class EntryKey:
    """What an entry covers. ``protocol`` None: any (then ``port_bits`` is 0). For ICMP the port is the message type.

    ``port_bits``: how many leading bits of ``port`` count (0..16).
    """

    subject: IdentityNumber
    peer: IdentityNumber
    direction: Direction
    protocol: int | None
    port: int
    port_bits: int

    def __post_init__(self) -> None:
        assert 0 <= self.port_bits <= 16
        assert 0 <= self.port <= 0xFFFF
        assert self.protocol is not None or self.port_bits == 0
        assert self.port & ((1 << (16 - self.port_bits)) - 1) == 0, "bits beyond the prefix must be zero"


@dataclass(frozen=True, slots=True)
class SlotKey:
    """Identity of a rule set: the origins of every toPorts item (or bare L3 rule) that applies, per direction, sorted.

    A direction that is None is not judged by the slot. Both set: the slot of a local pair.
    """

    protocol: L7Protocol
    egress: tuple[str, ...] | None = None
    ingress: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        assert self.egress is not None or self.ingress is not None


@dataclass(frozen=True, slots=True)
class Deny:
    """Drop. ``rules``: the deny rules that say so; empty means default deny (or the problem named in ``problem``)."""

    rules: tuple[RuleOrigin, ...] = ()
    problem: str = ""

    @property
    def explicit(self) -> bool:
        """Whether something asks for it: then it also holds for an address that a name allows. Default deny does not."""
        return bool(self.rules or self.problem)


@dataclass(frozen=True, slots=True)
class Allow:
    """Pass at L3/L4. ``would_deny``: a policy in audit mode would have denied; report it."""

    rules: tuple[RuleOrigin, ...] = ()
    would_deny: bool = False


@dataclass(frozen=True, slots=True)
class Redirect:
    """Steer to the slot. ``would_deny`` as for Allow (an audited L3/L4 deny beside enforced L7 rules)."""

    slot: SlotKey
    rules: tuple[RuleOrigin, ...] = ()
    would_deny: bool = False


EntryVerdict = Deny | Allow | Redirect


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """One resolved entry."""

    key: EntryKey
    verdict: EntryVerdict


@dataclass(frozen=True, slots=True)
class ServerNameRule:
    """Server names allowed where a server is reached by name: ``names`` cover it and one of ``patterns``, if any, matches."""

    origin: RuleOrigin
    names: tuple[NameSelector, ...]
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The union of what applies: a message passes when no ``deny`` rule matches and ``allow_all`` or an ``allow`` rule does.

    ``allow_all`` holds the origins of rules that restrict only L3/L4 (or are deny-only): each allows every message.
    ``server_names`` are the allowed SNI patterns of a TLS slot (or of terminated TLS), ``by_name`` further ones of a TLS slot;
    ``any_server_name``: all of them.
    """

    allow: tuple[HttpRule | KafkaRule | DnsRule, ...] = ()
    deny: tuple[HttpRule | KafkaRule | DnsRule, ...] = ()
    allow_all: tuple[RuleOrigin, ...] = ()
    server_names: tuple[str, ...] = ()
    any_server_name: bool = True
    by_name: tuple[ServerNameRule, ...] = ()


@dataclass(frozen=True, slots=True)
class DirectionRules:
    """What one side says. ``shadow`` is what it would say if policies in audit mode were enforced; None: the same."""

    enforced: RuleSet
    shadow: RuleSet | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """One rule set with its protocol: one listener on one proxy port, Envoy's or (DNS) the DNS proxy's."""

    key: SlotKey
    egress: DirectionRules | None
    ingress: DirectionRules | None
    terminating_tls: TlsContext | None = None
    originating_tls: TlsContext | None = None
    offload: Offload | None = None
    """When a peer whose requests are denied here is dropped before it gets here; of several policies' the strictest."""
    sample: float | None = None
    """Of a slot that only observes: the share (0..1) of requests that is recorded, whoever follows; None: the node's."""

    def __post_init__(self) -> None:
        assert (self.egress is None) == (self.key.egress is None)
        assert (self.ingress is None) == (self.key.ingress is None)


@dataclass(frozen=True, slots=True)
class SlotPair:
    """Where both ends are local and both redirect, ``pair`` judges both in one pass.

    Where they can't be judged together and the enforced rules of one end let everything pass, ``pair`` is the other end's own
    slot. Ends that both restrict and can't be judged together have no pair: the kernel drops such a flow.
    """

    egress: SlotKey
    ingress: SlotKey
    pair: SlotKey


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """Something a policy asks for that can't be realised; what it touches is closed. ``hint``: what the user can do."""

    policy: PolicyKey
    path: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """A local endpoint and the identity it enforces."""

    key: str
    identity: IdentityNumber
    interface: str | None
    cgroup: str | None


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """All that follows from one world, sorted so that equal worlds give equal values."""

    revision: int
    identities: IdentityTable
    ipcache: tuple[IpcacheEntry, ...]
    entries: tuple[PolicyEntry, ...]
    slots: tuple[Slot, ...]
    pairs: tuple[SlotPair, ...]
    endpoints: tuple[LocalEndpoint, ...]
    problems: tuple[PolicyProblem, ...] = ()

    def label_set_by_number(self) -> Mapping[IdentityNumber, LabelSet]:
        """Return the reverse of the identity table."""
        return {number: label_set for label_set, number in self.identities.numbers.items()}
