"""Realising names: the DNS proxy's slots beside Envoy's, and connections that were opened by a name."""

from __future__ import annotations

from ipaddress import ip_address

from l7filters.compile import compile
from l7filters.ir import Redirect
from l7filters.lookup import EntryTable
from l7filters.mapstate import MapState
from l7filters.model import DnsRule, L7Protocol, L7Rules, Policy
from l7filters.slots import SlotTable, assign
from l7filters.world import World
from tests.support.worlds import To, View, allow, endpoint, fqdn, origin, pods, policy, world
from tests.unit.tidegate.test_realise import PORT_MIN, Bench, FakeEnvoy, FakeKernel, FakeNumbering, Translator, run
from tidegate.realise import DnsInputs, Realiser
from tidegate.stale import End, ProxiedConnection, stale_connections, takes_server_names_away

A, B = endpoint("a", ip="10.0.0.1"), endpoint("b", ip="10.0.0.2")
RULES = L7Rules(L7Protocol.DNS, allow=(DnsRule(origin("p", "rules.dns[0]"), match_pattern="*"),))
ASKS = allow(pods("app=b"), To("53/any", l7=RULES))
OUTSIDE = "203.0.113.7"


class NamesKernel(FakeKernel):
    """The DNS proxy listens where it is told to."""

    def __init__(self, envoy: FakeEnvoy) -> None:
        super().__init__(envoy)
        self.asked_on: frozenset[int] = frozenset()

    def write(self, wanted: MapState) -> None:
        self.written.append(wanted)

    def dns_ports(self) -> frozenset[int]:
        return self.asked_on


class FakeDns:
    """Remembers what it was given, and how much was written by then."""

    def __init__(self, kernel: NamesKernel) -> None:
        self.kernel = kernel
        self.given: list[tuple[int, int | None, int]] = []

    def publish(self, rules: DnsInputs, before: DnsInputs | None) -> None:
        revision = None if before is None else before.compiled.revision
        self.given.append((rules.compiled.revision, revision, len(self.kernel.written)))


class NamesBench(Bench):
    def __init__(self) -> None:
        self.envoy = FakeEnvoy()
        self.kernel: NamesKernel = NamesKernel(self.envoy)
        self.numbering = FakeNumbering()
        self.translator = Translator()
        self.dns = FakeDns(self.kernel)
        self.realiser = Realiser(
            kernel=self.kernel,
            envoy=self.envoy,
            numbering=self.numbering,
            identities=View.of(sending(ASKS)).compiled.identities,
            slots=SlotTable(),
            port_min=PORT_MIN,
            dns=self.dns,
        )


def ports(kernel: NamesKernel) -> dict[int, int]:
    return {number: slot.port for number, slot in kernel.state.slots.items()}


def sending(*items: object, revision: int = 1) -> World:
    return world(policy("p", "app=a", egress=items), endpoints=[A, B], revision=revision)  # type: ignore[arg-type]


def test_slot_of_the_dns_proxy_is_ready_when_it_listens_whatever_envoy_does() -> None:
    async def scenario() -> None:
        bench = NamesBench()
        bench.envoy.connected = False
        bench.kernel.asked_on = frozenset({PORT_MIN + 1})
        done = await bench.realise(sending(ASKS))
        assert (ports(bench.kernel), done.unready) == ({1: PORT_MIN + 1}, frozenset())
        assert bench.translator.translated == 0, "it is not Envoy's"

    run(scenario())


def test_slot_waits_for_a_dns_proxy_that_is_late_and_is_opened_by_settle() -> None:
    async def scenario() -> None:
        bench = NamesBench()
        done = await bench.realise(sending(ASKS))
        assert (bench.kernel.state.slots, len(done.unready)) == ({}, 1)
        bench.kernel.asked_on = frozenset({PORT_MIN + 1})
        settled = await bench.realiser.settle()
        assert settled is not None
        assert (ports(bench.kernel), settled.unready) == ({1: PORT_MIN + 1}, frozenset())

    run(scenario())


def test_dns_proxy_has_the_rules_before_the_maps_and_keeps_the_old_ones_until_after() -> None:
    async def scenario() -> None:
        bench = NamesBench()
        bench.kernel.asked_on = frozenset({PORT_MIN + 1, PORT_MIN + 2})
        await bench.realise(sending(ASKS))
        await bench.realise(sending(ASKS, allow(fqdn("a.example.com"), "8443"), revision=2))
        assert bench.dns.given == [(1, None, 0), (1, None, 1), (2, 1, 1), (2, None, 2)]

    run(scenario())


# ---- connections ----------------------------------------------------------------------------------------------------


def stale(before: Policy, after: Policy) -> bool:
    """Whether a connection that a name opened under ``before`` is in the wrong slot under ``after``."""
    first = View.of(world(before, endpoints=[A, B]))
    verdict = first.reached("a", OUTSIDE, "443", "a.example.com")
    assert isinstance(verdict, Redirect)
    table = assign(SlotTable(), None, first.compiled).table
    (name,) = first.granted("a.example.com")
    far = ip_address(OUTSIDE)
    connection = ProxiedConnection(A.addresses[0], 40000, far, 443, table.ids[verdict.slot], name=name)
    second = compile(world(after, endpoints=[A, B]), first.compiled.identities)
    ids = assign(table, first.compiled, second).table.ids
    ends = {A.addresses[0]: End(first.number("a"), local=True), far: End(first.number(OUTSIDE), local=False)}
    return bool(stale_connections([connection], EntryTable.of(second), ids, ends.__getitem__))


def by_name(*names: str) -> Policy:
    return policy("p", "app=a", egress=[allow(fqdn(*names), "443")])


def test_connection_that_a_name_opened_stays_while_policy_gives_the_name_whatever_dns_says() -> None:
    assert not stale(by_name("a.example.com"), by_name("a.example.com"))
    assert stale(by_name("a.example.com"), by_name("b.example.com"))
    assert stale(by_name("a.example.com"), policy("p", "app=a", egress=[]))


def test_slot_that_loses_a_name_closes_what_was_let_in_under_it() -> None:
    def slot(*names: str) -> object:
        view = View.of(world(by_name(*names), endpoints=[A, B]))
        return view.slot(view.reached("a", OUTSIDE, "443", names[0]))

    assert takes_server_names_away(slot("a.example.com", "b.example.com"), slot("a.example.com"))  # type: ignore[arg-type]
    assert not takes_server_names_away(slot("a.example.com"), slot("a.example.com"))  # type: ignore[arg-type]
