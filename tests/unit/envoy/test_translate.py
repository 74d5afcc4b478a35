"""Slots become resources: what is there, what it refers to, and what an edit touches."""

from __future__ import annotations

import pickle
import traceback

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from l7filters.envoy import EnvoyResource, EnvoySettings, SecretValue, TypeUrl, shared_resources, translate, translate_slot
from l7filters.envoy.secrets import Secrets
from l7filters.ir import RuleSet, Slot
from l7filters.model import L7Protocol, MismatchAction, QueryMatch, SecretRef, TlsContext
from l7filters.slots import SLOT_MAX
from tests.support.second_reader import decode, decode_otherwise
from tests.support.slots import allowing, everything, exact, header, origin, prefix, regex, rule, slot

SETTINGS = EnvoySettings()
TLS = TlsContext("default", "web", certificate="tls.crt", private_key="tls.key")
CA = TlsContext("default", "web", trusted_ca="ca.crt")
SECRETS: Secrets = {SecretRef("default", "web", key): SecretValue(f"{key} bytes") for key in ("tls.crt", "tls.key", "ca.crt")}
ORIGINATING = "slot-3-originating"


def resources(one: Slot, slot_id: int = 3, secrets: Secrets = SECRETS) -> dict[tuple[str, str], EnvoyResource]:
    translation = translate_slot(one, slot_id, SETTINGS, secrets)
    assert translation.errors == ()
    return {(each.type_url.name, each.name): each for each in translation.resources}


def names(one: Slot) -> list[tuple[str, str]]:
    return sorted(resources(one))


EVERY_KIND = {
    "http": slot(allowing(rule(0, method="GET", path=prefix("/x"), host=regex("a.*"), query=(QueryMatch("q", exact("1")),)))),
    "pair": slot(allowing(rule(0), deny=(rule(1, path=exact("/no")),)), everything(), egress_shadow=allowing()),
    "headers": slot(allowing(rule(0, headers=(header("x-a", "v", mismatch=MismatchAction.ADD),)))),
    "connect": slot(allowing(rule(0, method="CONNECT"))),
    "server-names": slot(RuleSet(server_names=("*.example.com",), any_server_name=False), protocol=L7Protocol.TLS),
    "terminating": slot(RuleSet(allow_all=(origin(0),), server_names=("a.b",), any_server_name=False), terminating=TLS),
    "originating": slot(everything(), originating=CA),
}


def test_http_slot_is_a_listener_and_its_route() -> None:
    assert names(EVERY_KIND["http"]) == [("LISTENER", "slot-3"), ("ROUTE", "slot-3")]


def test_tls_slot_has_its_rules_beside_the_listener() -> None:
    assert names(EVERY_KIND["server-names"]) == [
        ("EXTENSION", "slot-3/ingress"),
        ("EXTENSION", "slot-3/ingress/audit"),
        ("LISTENER", "slot-3"),
    ]


def test_originating_slot_has_a_cluster_and_its_trust_anchor() -> None:
    assert names(EVERY_KIND["originating"]) == [
        ("CLUSTER", ORIGINATING),
        ("LISTENER", "slot-3"),
        ("ROUTE", "slot-3"),
        ("SECRET", "trusted-ca/default/web/ca.crt"),
    ]
    route = RouteConfiguration.FromString(resources(EVERY_KIND["originating"])["ROUTE", "slot-3"].body)
    assert route.virtual_hosts[0].routes[-1].route.cluster == ORIGINATING


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_reference_resolves(kind: str) -> None:
    translation = translate([EVERY_KIND[kind]], {EVERY_KIND[kind].key: 3}, SETTINGS, SECRETS)
    keys = {each.key for each in translation.resources}
    assert {target for each in translation.resources for target in each.references} <= keys
    assert not translation.errors


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_equal_slots_give_equal_bytes(kind: str) -> None:
    rebuilt: Slot = pickle.loads(pickle.dumps(EVERY_KIND[kind]))
    assert resources(rebuilt) == resources(EVERY_KIND[kind])


def test_order_of_slots_does_not_matter() -> None:
    slots = [slot(everything(origin(number)), name=str(number)) for number in range(4)]
    ids = {each.key: number for number, each in enumerate(slots, 1)}
    assert translate(slots, ids, SETTINGS).resources == translate(reversed(slots), ids, SETTINGS).resources


def test_edit_of_the_rules_touches_the_route_alone() -> None:
    before = resources(slot(allowing(rule(0, path=prefix("/a")))))
    after = resources(
        slot(
            allowing(
                rule(0, method="CONNECT"),
                rule(1, query=(QueryMatch("q", exact("1")),), headers=(header("a"),)),
                rule(2, headers=(header("x", "v", mismatch=MismatchAction.REPLACE),)),
                deny=(rule(3),),
            ),
            ingress_shadow=everything(),
        )
    )
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == {("ROUTE", "slot-3")}


def test_edit_of_server_names_leaves_the_listener_alone() -> None:
    before = resources(slot(RuleSet(server_names=("a.b",), any_server_name=False), protocol=L7Protocol.TLS))
    after = resources(slot(RuleSet(allow_all=(origin(1),)), protocol=L7Protocol.TLS, ingress_shadow=RuleSet()))
    assert before["LISTENER", "slot-3"] == after["LISTENER", "slot-3"]
    assert before["EXTENSION", "slot-3/ingress"] != after["EXTENSION", "slot-3/ingress"]
    assert before["EXTENSION", "slot-3/ingress/audit"] != after["EXTENSION", "slot-3/ingress/audit"]


def test_renewed_certificate_touches_the_secret_alone() -> None:
    one = slot(everything(), terminating=TLS)
    renewed = {**SECRETS, SecretRef("default", "web", "tls.crt"): SecretValue("new")}
    before, after = resources(one), resources(one, secrets=renewed)
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {("SECRET", "certificate/default/web/tls.crt/tls.key")}


# ---- errors -------------------------------------------------------------------------------------------------------


BAD_SLOTS = {
    "dns": (slot(RuleSet(), protocol=L7Protocol.DNS), "judges no dns"),
    "kafka without the module": (slot(RuleSet(), protocol=L7Protocol.KAFKA), "need Tidegate's native module"),
    "no certificate": (slot(everything(), terminating=CA), "needs a certificate"),
    "certificate without key": (slot(everything(), terminating=TlsContext("d", "w", certificate="c")), "go together"),
    "secret missing": (slot(everything(), terminating=TlsContext("d", "w", certificate="c", private_key="k")), "has no key c"),
    "nothing verified": (slot(everything(), originating=TLS), "needs a trusted CA"),
    "too many actions": (
        slot(allowing(*(rule(n, headers=(header(f"x-{n}", mismatch=MismatchAction.LOG),)) for n in range(9)))),
        "the most is 8",
    ),
    "server name": (
        slot(RuleSet(server_names=("a" * 9000,), any_server_name=False), protocol=L7Protocol.TLS),
        "regular expression refused",
    ),
}


@pytest.mark.parametrize("case", BAD_SLOTS)
def test_bad_slot_is_closed_and_harms_no_other(case: str) -> None:
    bad, message = BAD_SLOTS[case]
    good = slot(everything(), name="good")
    translation = translate([bad, good], {bad.key: 1, good.key: 2}, SETTINGS, SECRETS)
    assert {each.name for each in translation.resources} == {"original-dst", "tidegate", "slot-2"}
    (error,) = translation.errors
    assert error.slot == bad.key
    assert error.closed
    assert message in error.message


@pytest.mark.parametrize("slot_id", [0, -1, SLOT_MAX + 1])
def test_slot_id_out_of_range_is_refused(slot_id: int) -> None:
    translation = translate_slot(slot(everything()), slot_id, SETTINGS)
    assert not translation.resources
    assert translation.errors[0].closed


def test_slot_without_an_id_is_refused() -> None:
    translation = translate([slot(everything())], {}, SETTINGS)
    assert [each.message for each in translation.errors] == ["there is no slot id left"]


def test_fault_of_one_rule_leaves_the_slot_open_for_the_others() -> None:
    one = slot(allowing(rule(0, headers=(header("x", secret=SecretRef("default", "gone", "k")),)), rule(1)))
    translation = translate_slot(one, 3, SETTINGS)
    (error,) = translation.errors
    assert (error.closed, error.origin) == (False, str(origin(0)))
    assert [each.type_url for each in translation.resources] == [TypeUrl.LISTENER, TypeUrl.ROUTE]


# ---- what is promised ---------------------------------------------------------------------------------------------


def test_listener_binds_both_loopbacks_transparently_and_marked() -> None:
    listener = Listener.FromString(resources(EVERY_KIND["http"])["LISTENER", "slot-3"].body)
    addresses = [listener.address, *(each.address for each in listener.additional_addresses)]
    assert [(each.socket_address.address, each.socket_address.port_value) for each in addresses] == [
        ("127.0.0.1", 19003),
        ("::1", 19003),
    ]
    assert listener.transparent.value
    (mark,) = listener.socket_options
    assert (mark.level, mark.name, mark.int_value) == (1, 36, 0xA00)
    assert [each.name.rpartition(".")[2] for each in listener.listener_filters] == ["original_dst", "original_src"]
    assert len(listener.filter_chains) == 1


def test_nothing_is_sniffed_unless_tls_is_the_subject() -> None:
    for kind, one in EVERY_KIND.items():
        listener = Listener.FromString(resources(one)["LISTENER", "slot-3"].body)
        inspected = [each.name for each in listener.listener_filters if "inspector" in each.name]
        assert bool(inspected) == (kind in ("server-names", "terminating")), kind
        assert not any("http_inspector" in each for each in inspected)


def test_nothing_is_retried_and_breakers_are_explicit() -> None:
    (shared, _) = shared_resources(SETTINGS)
    cluster = Cluster.FromString(shared.body)
    assert [each.max_retries.value for each in cluster.circuit_breakers.thresholds] == [0, 0]
    for threshold in cluster.circuit_breakers.thresholds:
        for limit in ("max_connections", "max_pending_requests", "max_requests", "max_connection_pools"):
            assert getattr(threshold, limit).value >= 100_000, limit
    for kind, one in EVERY_KIND.items():
        found = resources(one).get(("ROUTE", "slot-3"))
        if found is not None:
            assert "retry" not in str(RouteConfiguration.FromString(found.body)), kind


def test_secrets_print_nowhere() -> None:
    secret = SecretValue("hunter2")
    one = slot(allowing(rule(0, headers=(header("x", secret=SecretRef("default", "web", "token")),))), terminating=TLS)
    secrets = {**SECRETS, SecretRef("default", "web", "token"): secret, SecretRef("default", "web", "tls.key"): secret}
    translation = translate_slot(one, 3, SETTINGS, secrets)
    assert any(b"hunter2" in each.body for each in translation.resources), "or there is nothing to hide"
    assert "hunter2" not in f"{secret!r} {secret!s} {secret} {translation!r} {secrets!r}"
    with pytest.raises(TypeError, match="can't be pickled") as caught:
        pickle.dumps(secret)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_secret_that_no_header_can_carry_is_not_in_its_error() -> None:
    one = slot(allowing(rule(0, headers=(header("x", secret=SecretRef("default", "web", "token")),))))
    translation = translate_slot(one, 3, SETTINGS, {SecretRef("default", "web", "token"): SecretValue("hunter2\nx")})
    assert translation.errors
    assert "hunter2" not in repr(translation.errors)


def test_settings_reach_the_resources() -> None:
    other = EnvoySettings(
        proxy_port_min=30000, ipv6=False, transparent=False, connections_max=5, denied_body="No!", denied_header="x-why"
    )
    one = EVERY_KIND["http"]
    translation = translate([one], {one.key: 3}, other)
    by_type: dict[TypeUrl, bytes] = {each.type_url: each.body for each in translation.resources}
    listener = Listener.FromString(by_type[TypeUrl.LISTENER])
    assert listener.address.socket_address.port_value == 30003
    assert not listener.additional_addresses
    assert not listener.HasField("transparent")
    assert not listener.socket_options
    assert len(listener.listener_filters) == 1
    assert b"No!" in by_type[TypeUrl.LISTENER]
    assert b"x-why" in by_type[TypeUrl.LISTENER]
    assert Cluster.FromString(by_type[TypeUrl.CLUSTER]).circuit_breakers.thresholds[0].max_connections.value == 5


def test_percent_in_the_denied_body_is_no_command() -> None:
    one = EVERY_KIND["http"]
    translation = translate_slot(one, 3, EnvoySettings(denied_body="100% no"))
    assert b"100%% no" in translation.resources[0].body


# ---- a second reader ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_independent_decoder_reads_the_same(kind: str) -> None:
    translation = translate([EVERY_KIND[kind]], {EVERY_KIND[kind].key: 3}, SETTINGS, SECRETS)
    for each in translation.resources:
        other, ours = decode_otherwise(each), decode(each)
        assert other.name == each.name
        assert type(ours).FromString(bytes(other)) == ours, each.key
