"""A flow to be judged and the judgement, as values.

Owns: the question (Flow) and the answer (Decision, with a Side for each end that this node enforces). Must not know how one
becomes the other: that is ``evaluate.py``; ``explain.py`` puts the answer into words.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from l7filters.fqdn import DnsQuestion
from l7filters.http import HttpRequest
from l7filters.ir import ServerNameRule
from l7filters.kafka import KafkaRequest
from l7filters.model import (
    Direction,
    L7Protocol,
    L7Rule,
    Policy,
    PolicyKey,
    PortRule,
    Protocol,
    Rule,
    RuleOrigin,
    TlsContext,
)
from l7filters.parties import Party
from l7filters.predicates import HeaderAction
from l7filters.world import Address
from proxylib.dns.rules import NameSelector


@dataclass(frozen=True, slots=True)
class Flow:
    """One connection and, of what is said on it, one message.

    ``source`` and ``destination`` are addresses, endpoint keys or ``host``. ``destination_port`` is the type for ICMP and 0 for
    protocols without ports. None of ``http``, ``kafka``, ``dns``: not stated. ``server_name`` None: not stated; empty: none is
    sent. ``names``: for which DNS gave the source the destination's address; they count for addresses outside the cluster only.
    """

    source: Address | str
    destination: Address | str
    protocol: int = Protocol.TCP
    destination_port: int = 0
    http: HttpRequest | None = None
    server_name: str | None = None
    kafka: KafkaRequest | None = None
    dns: DnsQuestion | None = None
    names: tuple[str, ...] = ()


class Outcome(StrEnum):
    """What becomes of the connection at L3/L4."""

    DENY = "deny"
    ALLOW = "allow"
    REDIRECT = "redirect"


class Verdict(StrEnum):
    """What becomes of the flow. UNDECIDED: that depends on a message which the flow doesn't state."""

    ALLOWED = "allowed"
    DENIED = "denied"
    UNDECIDED = "undecided"


class Reason(StrEnum):
    """Why."""

    NOT_SELECTED = "no policy selects the endpoint"
    NOT_DEFAULT_DENY = "no policy puts the endpoint in default deny"
    FROM_HOST = "the host always reaches its own endpoints"
    ALLOW_RULE = "a rule allows it"
    L7_ALLOW_RULE = "an L7 rule allows it"
    DENY_RULE = "a deny rule covers it"
    DEFAULT_DENY = "no rule allows it"
    L7_DENY_RULE = "an L7 deny rule matches it"
    L7_DEFAULT_DENY = "no L7 rule allows it"
    SERVER_NAME = "no rule lists its server name"
    UNREALISABLE = "the rules that cover it can't be enforced together"
    REFUSED = "the proxy refuses a request target like this"
    UNKNOWN_API = "Kafka 4 has no such API or version, so the proxy refuses it"
    FILTERED = "it asks for all that there is, and is told of what rules allow"
    NEGOTIATION = "ApiVersions and SASL pass before any rule"
    L7_UNSTATED = "L7 rules decide, and the flow states no message"


class Problem(StrEnum):
    """Why rules that cover one flow can't be united."""

    PROTOCOLS = "they speak different L7 protocols"
    TLS_CONTEXTS = "they give different TLS contexts"
    TLS_WITHOUT_L7 = "a TLS context needs L7 rules beside it"
    NAMES_BESIDE_HTTP = "server names beside HTTP rules need TLS that is terminated"
    NAMES_DIFFER = "on terminated TLS they differ in server names and in what they allow"
    ON_HOST = "L7 rules can't be enforced on the host's own traffic"
    ON_CGROUP = "ingress L7 rules can't be enforced for a workload known only by its cgroup"
    DNS_OVER_TLS = "DNS rules can't be enforced beside server names or TLS contexts"
    DNS_ON_CGROUP = "DNS rules can't be enforced for a workload known only by its cgroup"
    ENDS_DIFFER = "the rules of the two ends can't be judged in one pass"


def needs_proxy(port_rule: PortRule) -> bool:
    """Tell whether a ``toPorts`` item has anything that only the proxy can judge or do."""
    return bool(
        port_rule.l7 is not None
        or port_rule.server_names
        or port_rule.terminating_tls is not None
        or port_rule.originating_tls is not None
    )


@dataclass(frozen=True, slots=True)
class Clause:
    """One ``toPorts`` item, or a rule without any, of a policy that selects the side's endpoint.

    ``names``: those by which it allows servers; empty for what it says of other peers.
    """

    policy: Policy
    rule: Rule
    port_rule: PortRule | None = None
    names: tuple[NameSelector, ...] = ()

    @property
    def origin(self) -> RuleOrigin:
        """Where it stands."""
        return self.rule.origin if self.port_rule is None else self.port_rule.origin

    @property
    def redirects(self) -> bool:
        """Whether it needs the proxy."""
        return self.port_rule is not None and needs_proxy(self.port_rule)

    @property
    def server_names(self) -> tuple[str, ...]:
        """The names it lists; none: any."""
        return self.port_rule.server_names if self.port_rule is not None else ()

    @property
    def allows_every_message(self) -> bool:
        """Whether it has no L7 allow rules."""
        return self.port_rule is None or self.port_rule.l7 is None or self.port_rule.l7.deny_only


@dataclass(frozen=True, slots=True, kw_only=True)
class Union:
    """The L7 rules of all clauses that cover a flow. ``allow_all`` holds the clauses that allow every message."""

    protocol: L7Protocol
    allow: tuple[L7Rule, ...] = ()
    deny: tuple[L7Rule, ...] = ()
    allow_all: tuple[RuleOrigin, ...] = ()
    is_open: bool = False
    server_names: tuple[str, ...] | None = None
    """None: any, or none at all."""
    by_name: tuple[ServerNameRule, ...] = ()
    """Further ones, for servers reached by name."""
    terminating: TlsContext | None = None
    originating: TlsContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What one set of policies says of one side. ``rules`` cover the flow at L3/L4; ``deciding`` made the difference."""

    outcome: Outcome
    verdict: Verdict
    reason: Reason
    rules: tuple[RuleOrigin, ...] = ()
    deciding: tuple[RuleOrigin, ...] = ()
    union: Union | None = None
    problem: Problem | None = None
    header_actions: tuple[HeaderAction, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side's judgement. ``shadow`` is the ruling with audit policies enforced (the same object where there are none)."""

    direction: Direction
    subject: Party
    peer: Party
    selected_by: tuple[PolicyKey, ...]
    default_deny: tuple[PolicyKey, ...]
    """Enforcing policies that put this side in default deny."""
    is_open: bool
    outcome: Outcome
    ruling: Ruling
    shadow: Ruling
    observed_by: tuple[RuleOrigin, ...] = ()
    """For whose sake alone the proxy sees what passes anyway."""

    @property
    def audited(self) -> bool:
        """Whether only audit keeps this side from denying."""
        return self.ruling.verdict is not Verdict.DENIED and self.shadow.verdict is Verdict.DENIED


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of a flow. ``reason`` is that of the side that decided, or of none."""

    verdict: Verdict
    outcome: Outcome
    reason: Reason
    audited: bool
    """Allowed, though policies in audit mode would have denied it."""
    source: Party
    destination: Party
    sides: tuple[Side, ...] = ()
    problem: Problem | None = None
    """Why both sides together can't be judged."""

    @property
    def denied_by(self) -> tuple[Side, ...]:
        """The sides that deny."""
        return tuple(side for side in self.sides if side.ruling.verdict is Verdict.DENIED)

    @property
    def deciding(self) -> tuple[RuleOrigin, ...]:
        """The rules that made the difference: those that deny, or else those that allow, egress first."""
        sides = self.denied_by or self.sides
        return tuple(dict.fromkeys(origin for side in sides for origin in side.ruling.deciding))

    @property
    def header_actions(self) -> tuple[HeaderAction, ...]:
        """What happens to headers of a request that passes."""
        if self.verdict is Verdict.DENIED:
            return ()
        return tuple(action for side in self.sides for action in side.ruling.header_actions)
