"""From compiled policy to the DNS proxy's rules and roster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from l7filters.compile import Memo, recompile
from l7filters.identity import IdentityTable, LabelSet
from l7filters.ir import CompiledPolicy
from l7filters.model import DnsRule, L7Protocol, L7Rules, Policy, RuleOrigin
from l7filters.slots import SlotTable, assign
from l7filters.world import Endpoint
from proxylib.dns.policy import AllowRule, CompiledRules, DnsRules, Reject, Role, Roster, SlotRules, Subject
from proxylib.dns.rules import NameSelector
from tests.support.worlds import To, allow, endpoint, entity, fqdn, number_of, policy, world
from tidegate.config.dns import DnsSection
from tidegate.dns.rules import MIXED_ROLES_MIN, Content, dns_content

A, B = endpoint("a", ip=("10.0.0.2", "fd00::2")), endpoint("b", ip="10.0.0.3")
SECTION = DnsSection(reject=Reject.NXDOMAIN, ttl_floor_seconds=9, addresses_per_name_max=77)
INTERFACES = {"default/a": 5, "default/b": 6}


def asking(name: str, *patterns: str, on: str = "", audit: bool = False, names: Sequence[str] = (), **rule: object) -> Policy:
    """May ask anybody outside for ``patterns``, and connect to ``names`` on 8443."""
    origin = RuleOrigin(policy(name).key, "rules.dns")
    rules = tuple(DnsRule(origin, match_pattern=pattern, **rule) for pattern in patterns)  # type: ignore[arg-type]
    dns = To("53/any", l7=L7Rules(L7Protocol.DNS, allow=rules))
    egress = [allow(entity("world"), dns), *([allow(fqdn(*names), "8443")] if names else [])]
    return policy(name, on or f"app={name}", egress=egress, audit=audit)


@dataclass
class Node:
    """Policies that follow one another, as a realiser has them."""

    compiled: CompiledPolicy | None = None
    identities: IdentityTable = field(default_factory=IdentityTable)
    table: SlotTable = field(default_factory=SlotTable)
    memo: Memo = field(default_factory=Memo)

    def take(self, *policies: Policy, endpoints: Sequence[Endpoint] = (A, B)) -> Content:
        """Compile and number; return what follows."""
        compiled, self.memo = recompile(world(*policies, endpoints=endpoints), self.identities, self.memo)
        self.table = assign(self.table, self.compiled, compiled).table
        self.compiled, self.identities = compiled, compiled.identities
        return Content(compiled, self.table)

    def number(self, pattern: str) -> int:
        """The identity of a selector of names."""
        return self.identities.numbers[LabelSet(fqdn=NameSelector(match_pattern=pattern))]

    def role(self, one: Endpoint) -> int:
        """The identity of an endpoint."""
        assert self.compiled is not None
        return number_of(self.compiled, one)


def content(ours: Content, theirs: Content | None = None) -> tuple[DnsRules, Roster]:
    found = dns_content(ours, theirs, INTERFACES, SECTION)
    CompiledRules(found[0]).parties(found[1])  # it can be put in force
    return found


def test_slots_selectors_roles_and_subjects_follow_from_policy() -> None:
    node = Node()
    ours = node.take(asking("a", "*.x.test", names=["*.x.test"], query_types=("A",), excepts=("s.x.test",)))
    rules, roster = content(ours)
    (slot,) = ours.slots
    selector = NameSelector(match_pattern="*.x.test", excepts=("s.x.test",))
    assert rules == DnsRules(
        reject=Reject.NXDOMAIN,
        ttl_seconds_min=9,
        addresses_per_name_max=77,
        slots={slot: SlotRules((AllowRule("cnp/default/a:rules.dns", selector, ("A",)),))},
        selectors={node.number("*.x.test"): NameSelector(match_pattern="*.x.test")},
        roles={node.role(A): Role((slot,), (node.number("*.x.test"),))},
    )
    assert roster == Roster(subjects=(Subject("default/a", ("10.0.0.2", "fd00::2"), node.role(A), 5),)), "b has no DNS rules"


def test_a_pod_that_comes_changes_the_roster_alone() -> None:
    node = Node()
    before = content(node.take(asking("a", "*.x.test", on="app"), endpoints=[A]))
    twin = endpoint("late", "app=a", ip="10.0.0.9")
    after = content(node.take(asking("a", "*.x.test", on="app"), endpoints=[A, twin]))
    assert (after[0], [each.endpoint for each in after[1].subjects]) == (before[0], ["default/a", "default/late"])


def test_what_only_a_policy_in_audit_mode_restricts_is_allowed_with_a_shadow() -> None:
    rules, _ = content(Node().take(asking("a", "*.x.test", audit=True)))
    (slot,) = rules.slots.values()
    assert [rule.names for rule in slot.allow] == [None]
    assert slot.shadow == (AllowRule("cnp/default/a:rules.dns", NameSelector(match_pattern="*.x.test")),)


def test_what_watching_needs_is_a_slot_that_allows_every_name() -> None:
    """Names count only if the pod is seen asking: what it may say to port 53 goes through the proxy."""
    node = Node()
    everything = policy("a", "app=a", egress=[allow(entity("world"), "53/any"), allow(fqdn("*.x.test"), "8443")])
    rules, roster = content(node.take(everything))
    assert [[rule.names for rule in slot.allow] for slot in rules.slots.values()] == [[None]]
    assert rules.roles[roster.subjects[0].role].selectors == (node.number("*.x.test"),)


def test_while_the_kernel_goes_over_both_hold() -> None:
    node = Node()
    old = node.take(asking("a", "*.x.test", names=["*.x.test"]))
    # Another set of rules: another slot; and another name.
    new = node.take(asking("a", "*.y.test", names=["*.y.test"]), asking("more", "*.z.test", on="app=a"))
    rules, _ = content(new, old)
    assert rules.slots == old.slots | new.slots
    assert rules.selectors.keys() == {node.number("*.y.test"), *old.selectors}
    (role,) = rules.roles.values()
    assert role == Role(tuple(sorted(old.slots.keys() | new.slots.keys())), tuple(sorted(rules.selectors)))
    assert content(new)[0].slots == new.slots


def test_who_changes_identity_keeps_what_it_had_until_the_kernel_knows() -> None:
    node = Node()
    policies = asking("a", "*.x.test", names=["*.x.test"]), asking("b", "*.y.test", names=["*.y.test"])
    old = node.take(*policies)
    was, becomes = node.role(A), node.role(B)
    relabelled = endpoint("a", "app=b", ip=("10.0.0.2", "fd00::2"))
    rules, roster = content(node.take(*policies, endpoints=[relabelled, B]), old)
    roles = {each.endpoint: each.role for each in roster.subjects}
    assert roles == {"default/a": MIXED_ROLES_MIN, "default/b": becomes}
    assert set(rules.roles[MIXED_ROLES_MIN].slots) == {*old.roles[was].slots, *old.roles[becomes].slots}
    assert set(rules.roles[becomes].slots) == set(old.roles[becomes].slots), "nobody else gains by it"
