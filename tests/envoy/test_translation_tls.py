"""Translated TLS slots in the real Envoy: server names, TLS that is terminated, TLS that is originated."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from l7filters.envoy import EnvoySettings, Stage, StageVerdict, proxy_port, read_verdicts
from l7filters.envoy.names import NETWORK_RBAC_NAMESPACE, SERVER_NAMES_POLICY
from l7filters.envoy.secrets import SecretValue
from l7filters.ir import RuleSet, ServerNameRule
from l7filters.model import Direction, L7Protocol, SecretRef, TlsContext
from proxylib.dns.rules import NameSelector
from tests.support.certificates import Authority, Certificate
from tests.support.pod import Failed
from tests.support.slots import allowing, everything, exact, origin, prefix, rule, slot
from tests.support.translation_node import TranslationNode, eventually

pytestmark = [pytest.mark.envoy, pytest.mark.root]

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
SETTINGS = EnvoySettings(proxy_port_min=8000, listener_filters_timeout_seconds=1.0)
TLS_PORT, PLAIN_PORT, OTHER_TLS_PORT = (proxy_port(number, SETTINGS) for number in (1, 2, 3))
FAMILIES = (4, 6)
TERMINATING = TlsContext("default", "proxy", certificate="tls.crt", private_key="tls.key")
ORIGINATING = TlsContext("default", "proxy", trusted_ca="ca.crt")
MUTUAL = TlsContext("default", "proxy", trusted_ca="ca.crt", certificate="tls.crt", private_key="tls.key")


class Pki:
    """A CA for the servers, another that clients know the proxy by."""

    def __init__(self, directory: Path) -> None:
        self.servers, self.proxy = Authority(directory / "servers", "Server CA"), Authority(directory / "proxy", "Proxy CA")
        self.server = self.servers.issue("good.example.com", "*.wild.example.com")
        self.proxy_certificate = self.proxy.issue("good.example.com", "*.wild.example.com", "other.example.net")

    def secrets(self, certificate: Certificate | None = None, authority: Authority | None = None) -> dict[SecretRef, SecretValue]:
        shown, trusted = certificate or self.proxy_certificate, authority or self.servers
        files = {"tls.crt": shown.certificate, "tls.key": shown.key, "ca.crt": trusted.certificate}
        return {SecretRef("default", "proxy", key): SecretValue(path.read_bytes()) for key, path in files.items()}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[TranslationNode]:
    with TranslationNode(tmp_path_factory.mktemp("tls"), SETTINGS, base_id=8405 + 10 * WORKER) as running:
        running.backend.serve_http(TLS_PORT, pki.server.certificate, pki.server.key)
        running.backend.serve_http(PLAIN_PORT)
        yield running


def ask(
    node: TranslationNode, port: int, ca: Authority, name: str | None, path: str = "/", *, family: int = 4, protocol: str = "h1"
) -> int | str:
    """The status of a request over TLS with this server name, or how it failed."""
    url = node.backend.url(port, path, family=family, scheme="https")
    options = {"authority": str(ca.certificate), "server_name": name, "protocol": protocol}
    try:
        status: int = node.client.http(url, headers=(("host", name or "none"),), **options).status
    except Failed as failure:
        return str(failure)
    return status


def server_names(*names: str) -> RuleSet:
    return RuleSet(server_names=names, any_server_name=False)


# ---- passed through unopened --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_server_name_decides_and_the_client_stays_itself(node: TranslationNode, pki: Pki, family: int) -> None:
    node.publish({1: slot(server_names("good.example.com", "*.wild.example.com"), protocol=L7Protocol.TLS)})
    assert ask(node, TLS_PORT, pki.servers, "good.example.com", family=family) == 200
    assert ask(node, TLS_PORT, pki.servers, "GOOD.example.com", family=family) == 200
    assert ask(node, TLS_PORT, pki.servers, "a.wild.example.com", family=family, protocol="h2") == 200
    assert ask(node, TLS_PORT, pki.servers, "evil.example.com", family=family) == "reset"
    assert ask(node, TLS_PORT, pki.servers, None, family=family) == "reset"
    url = node.backend.url(TLS_PORT, family=family, scheme="https")
    answer = node.client.http(url, authority=str(pki.servers.certificate), server_name="good.example.com")
    assert json.loads(answer.body)["peer"][0] == node.client.address(family)


def test_server_reached_by_name_is_asked_for_a_name_that_the_rule_gives(node: TranslationNode, pki: Pki) -> None:
    names = (
        NameSelector("good.example.com"),
        NameSelector(None, "*.wild.example.com", ("bad.wild.*.com",)),
        NameSelector(None, "*"),
    )
    rules = RuleSet(
        any_server_name=False,
        by_name=(ServerNameRule(origin(), names[:2]), ServerNameRule(origin(1), names[2:], ("a.**",))),
    )
    node.publish({1: slot(rules, protocol=L7Protocol.TLS)})
    asked = ("good.example.com", "GOOD.Example.com", "b.wild.example.com", "bad.wild.example.com", "x.y.wild.example.com", "a.b")
    found = {name: ask(node, TLS_PORT, pki.servers, name) for name in asked}
    refused = {"bad.wild.example.com": "reset", "x.y.wild.example.com": "reset"}
    assert {name: answer for name, answer in found.items() if answer == "reset"} == refused
    assert ask(node, TLS_PORT, pki.servers, None) == "reset", "a pattern for any name covers none that is missing"


def test_what_is_no_tls_is_closed_and_so_is_silence(node: TranslationNode) -> None:
    node.publish({1: slot(server_names("**"), protocol=L7Protocol.TLS)})
    before = node.backend.server_counts(TLS_PORT)
    assert node.client.raw(node.backend.ipv4, TLS_PORT, b"GET / HTTP/1.1\r\nHost: good.example.com\r\n\r\n") == b""
    assert node.client.raw(node.backend.ipv4, TLS_PORT, b"\x16\x03\x01", quiet=3.0) == b""
    assert node.backend.server_counts(TLS_PORT) == before


def test_any_server_name_allows_a_client_that_sends_none(node: TranslationNode, pki: Pki) -> None:
    node.publish({1: slot(everything(), protocol=L7Protocol.TLS)})
    assert ask(node, TLS_PORT, pki.servers, None) == 200


def test_edit_of_server_names_reaches_new_connections_and_leaves_open_ones(node: TranslationNode, pki: Pki) -> None:
    node.publish({1: slot(server_names("good.example.com"), protocol=L7Protocol.TLS)})
    url = node.backend.url(TLS_PORT, scheme="https")
    options = {"authority": str(pki.servers.certificate), "server_name": "good.example.com"}
    connection = node.client.connect(url, **options)
    assert connection.request("/").status == 200
    node.publish({1: slot(server_names("other.example.net"), protocol=L7Protocol.TLS)})
    eventually(lambda: ask(node, TLS_PORT, pki.servers, "good.example.com") == "reset", "the edit never took effect")
    assert connection.request("/").status == 200, "whoever edits has to close it: tests/netns shows that the agent does"


def test_record_tells_the_name_and_both_verdicts(node: TranslationNode, pki: Pki) -> None:
    shadow = server_names("*.wild.example.com")
    one = slot(server_names("good.example.com"), everything(), protocol=L7Protocol.TLS, ingress_shadow=shadow)
    node.publish({1: one}, allowed_sample=0.0)
    node.forget_records()
    assert ask(node, TLS_PORT, pki.servers, "good.example.com") == 200
    assert ask(node, TLS_PORT, pki.servers, "evil.example.com") == "reset"
    found = node.records(lambda record: record.requested_server_name in ("good.example.com", "evil.example.com"), 2)
    records = {record.requested_server_name: record for record in found}
    out = StageVerdict(Direction.EGRESS, Stage.ALLOW, True, str(origin(99)), True, str(origin(99)))
    verdicts = {name: read_verdicts(record.metadata[NETWORK_RBAC_NAMESPACE]) for name, record in records.items()}
    assert verdicts == {
        "good.example.com": (out, StageVerdict(Direction.INGRESS, Stage.ALLOW, True, SERVER_NAMES_POLICY, False, None)),
        "evil.example.com": (out, StageVerdict(Direction.INGRESS, Stage.ALLOW, False, None, False, None)),
    }


# ---- terminated ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_terminated_tls_is_judged_as_http(node: TranslationNode, pki: Pki, protocol: str) -> None:
    node.publish({2: slot(allowing(rule(0, path=prefix("/ok"))), terminating=TERMINATING)}, pki.secrets())
    got = [ask(node, PLAIN_PORT, pki.proxy, "good.example.com", path, protocol=protocol) for path in ("/ok", "/no")]
    assert got == [200, 403]


def test_terminated_tls_judges_the_server_name_too(node: TranslationNode, pki: Pki) -> None:
    rules = RuleSet(allow_all=(origin(0),), server_names=("*.wild.example.com",), any_server_name=False)
    node.publish({2: slot(rules, terminating=TERMINATING)}, pki.secrets())
    got = [ask(node, PLAIN_PORT, pki.proxy, name) for name in ("a.wild.example.com", "good.example.com")]
    assert got == [200, 403]


def test_plain_http_on_a_terminating_slot_reaches_nobody(node: TranslationNode, pki: Pki) -> None:
    node.publish({2: slot(everything(), terminating=TERMINATING)}, pki.secrets())
    before = node.backend.server_counts(PLAIN_PORT)
    assert b"200 OK" not in node.client.raw(node.backend.ipv4, PLAIN_PORT, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert node.backend.server_counts(PLAIN_PORT) == before


def test_renewed_certificate_is_shown_to_new_connections(node: TranslationNode, pki: Pki, tmp_path: Path) -> None:
    one = {2: slot(everything(), terminating=TERMINATING)}
    node.publish(one, pki.secrets())
    assert ask(node, PLAIN_PORT, pki.proxy, "good.example.com") == 200
    new = Authority(tmp_path / "new", "New CA")
    node.publish(one, pki.secrets(new.issue("good.example.com")))
    eventually(lambda: ask(node, PLAIN_PORT, new, "good.example.com") == 200, "the new certificate was never shown")


# ---- originated ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_tls_is_terminated_judged_and_originated_again(node: TranslationNode, pki: Pki, protocol: str) -> None:
    one = slot(allowing(rule(0, path=prefix("/ok"))), terminating=TERMINATING, originating=ORIGINATING)
    node.publish({1: one}, pki.secrets())
    got = [ask(node, TLS_PORT, pki.proxy, "good.example.com", path, protocol=protocol) for path in ("/ok", "/no")]
    assert got == [200, 403]


def test_plain_request_is_carried_to_the_server_in_tls(node: TranslationNode, pki: Pki) -> None:
    node.publish({1: slot(everything(), originating=ORIGINATING)}, pki.secrets())
    url = node.backend.url(TLS_PORT)
    statuses = {
        host: node.client.http(url, headers=(("host", host),)).status
        for host in ("good.example.com", "good.example.com:8443", "x.wild.example.com", "evil.example.net")
    }
    assert statuses == {
        "good.example.com": 200,
        "good.example.com:8443": 200,
        "x.wild.example.com": 200,
        "evil.example.net": 503,
    }, "the server's certificate must be for the request's host"


def test_server_that_the_trusted_ca_did_not_sign_is_not_spoken_to(node: TranslationNode, pki: Pki) -> None:
    # A slot of its own: a connection to the server that was verified before stays in use.
    node.backend.serve_http(OTHER_TLS_PORT, pki.server.certificate, pki.server.key)
    node.publish({3: slot(everything(), originating=ORIGINATING)}, pki.secrets(authority=pki.proxy))
    url = node.backend.url(OTHER_TLS_PORT)
    assert node.client.http(url, headers=(("host", "good.example.com"),)).status == 503
    assert node.client.http(url, headers=(("host", "good.example.com"),), protocol="h2").status == 503


def test_missing_secret_closes_the_slot_and_names_itself(node: TranslationNode, pki: Pki) -> None:
    node.publish({1: slot(everything(), originating=ORIGINATING), 2: slot(everything(), name="other")})
    (error,) = node.errors
    assert error.closed
    assert error.message == "secret default/proxy has no key ca.crt"
    assert node.client.http(node.backend.url(PLAIN_PORT)).status == 200
    assert node.client.tcp(node.backend.ipv4, TLS_PORT, timeout=0.5) != "connected"


def test_client_certificate_is_shown_where_there_is_one(node: TranslationNode, pki: Pki) -> None:
    node.publish({1: slot(allowing(rule(0, path=exact("/x"))), originating=MUTUAL)}, pki.secrets())
    assert node.client.http(node.backend.url(TLS_PORT, "/x"), headers=(("host", "good.example.com"),)).status == 200
    names = node.admin("/config_dump?resource=dynamic_active_secrets&name_regex=certificate.*")
    assert "certificate/default/proxy/tls.crt/tls.key" in names
    assert "BEGIN PRIVATE KEY" not in names
