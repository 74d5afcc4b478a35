"""Envoy takes everything that the translation gives, and does with it what the evaluator says."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator

import pytest

from l7filters.envoy import EnvoySettings, EscapedSlashes, TypeUrl, UnderscoreHeaders, proxy_port, translate_slot
from l7filters.envoy.secrets import Secrets, SecretValue
from l7filters.http import HttpRequest
from l7filters.ir import RuleSet
from l7filters.model import HeaderMatch, HttpRule, L7Protocol, MatchKind, MismatchAction, QueryMatch, SecretRef, StringMatch
from l7filters.predicates import header_actions, http_holds
from tests.support import golden
from tests.support.certificates import Authority
from tests.support.slots import everything, header, origin, rule, slot
from tests.support.translation_node import Refused, TranslationNode, eventually

pytestmark = [pytest.mark.envoy, pytest.mark.root]

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
SETTINGS = EnvoySettings(proxy_port_min=8000)
SLOTS_PER_ROUND = 20
REQUESTS_PER_SLOT = 40


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TranslationNode]:
    with TranslationNode(tmp_path_factory.mktemp("accepted"), SETTINGS, base_id=8407 + 10 * WORKER) as running:
        yield running


@pytest.fixture(scope="module")
def node_servers() -> set[int]:
    """The slots at whose port the backend serves already."""
    return set()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.mark.parametrize("case", golden.cases())
def test_envoy_accepts_every_golden_case(node: TranslationNode, authority: Authority, case: str) -> None:
    made = golden.run(case)
    node.publish(made.slots, _RealSecrets(made.secrets, authority))
    closed = {error.slot for error in made.translation.errors if error.closed}
    served = {each.key for each in made.compiled.slots if each.key.protocol is not L7Protocol.DNS} - closed

    def listening() -> int:
        return len(json.loads(node.admin("/listeners?format=json")).get("listener_statuses", []))

    eventually(lambda: listening() == len(served), f"{len(served)} listeners were to be there")


class _RealSecrets(dict[SecretRef, SecretValue]):
    """The golden secrets, with real PEM where the files have words: Envoy reads certificates before it accepts them."""

    def __init__(self, secrets: Secrets, authority: Authority) -> None:
        super().__init__()
        self._secrets = secrets
        issued = authority.issue("www.example.com")
        self._pem = {"tls.crt": issued.certificate, "tls.key": issued.key, "ca.crt": authority.certificate}

    def get(self, ref: SecretRef, default: SecretValue | None = None) -> SecretValue | None:  # type: ignore[override]
        found = self._secrets.get(ref, default)
        return SecretValue(self._pem[ref.key].read_bytes()) if found is not None and ref.key in self._pem else found


@pytest.mark.parametrize(
    "settings",
    [
        EnvoySettings(proxy_port_min=8000, ipv6=False, accept_http_10=True, request_timeout_seconds=1.5),
        EnvoySettings(proxy_port_min=8000, transparent=False, escaped_slashes=EscapedSlashes.REJECT),
        EnvoySettings(proxy_port_min=8000, underscore_headers=UnderscoreHeaders.REJECT, stream_idle_timeout_seconds=0),
        EnvoySettings(
            proxy_port_min=8000, denied_body='{"a": "%REQ(x)%"}\n', denied_header="X-Why", h2_stream_window_bytes=65535
        ),
    ],
    ids=["http10", "reject-slashes", "reject-underscores", "replies"],
)
def test_envoy_accepts_what_other_settings_give(node: TranslationNode, settings: EnvoySettings) -> None:
    before, node.settings = node.settings, settings
    try:
        node.publish({1: slot(everything(), everything())})
    finally:
        node.settings = before


def test_refusal_would_be_seen(node: TranslationNode) -> None:
    """The other tests of this file mean something only if a refusal fails them."""
    bad = slot(RuleSet(allow=(rule(0, headers=(HeaderMatch("", None),)),)))
    assert any(each.type_url is TypeUrl.ROUTE for each in translate_slot(bad, 1, SETTINGS).resources)
    with pytest.raises(Refused):
        node.publish({1: bad})
    node.publish({})


# ---- the evaluator's word -----------------------------------------------------------------------------------------

PATHS = ["/", "/a", "/a/", "/a/b", "/ab", "//a", "/x/../a", "/%61", "/a%2fb", "/A", "/a;x", "/a/.", "/b/./a"]
QUERIES = ["", "?q=1", "?q=2", "?q=1&q=2", "?%71=1", "?q", "?r=x&q=%31", "?q=", "?r=1&q=11", "?qq=1"]
METHODS = ["GET", "POST", "PUT"]
HOSTS = ["a.example", "b.example:80", "A.EXAMPLE", "c"]
VALUES = ["1", "2", "11", "1,2", "2, 1", "", "A", "a"]
NAMES = ["x-a", "x-b", "x-c"]


def random_string(chance: random.Random, values: list[str]) -> StringMatch:
    kind = chance.choice(list(MatchKind))
    if kind is MatchKind.REGEX:
        return StringMatch(kind, chance.choice(["1+", ".*1.*", "[a-z]", "/a(/.*)?", "1|2", "", ".+", r"\d*", "GET|P.*", "a.*e"]))
    return StringMatch(kind, chance.choice(values), ignore_case=chance.random() < 0.3)


def random_path(chance: random.Random) -> StringMatch:
    match chance.choice(list(MatchKind)):
        case MatchKind.REGEX:
            return StringMatch(MatchKind.REGEX, chance.choice(["/a.*", "/a", "/[ab]/?", r"/a\?q=.*", ".*b", "/(a|b)(/.*)?"]))
        case kind:
            return StringMatch(kind, chance.choice(["/", "/a", "/a/b", "/b"]), ignore_case=chance.random() < 0.3)


def random_header(chance: random.Random, *, acts: bool) -> HeaderMatch:
    name = chance.choice(NAMES)
    if acts and chance.random() < 0.3:
        return header(
            name, chance.choice(["1", "2"]), mismatch=chance.choice([each for each in MismatchAction if each != "FAIL"])
        )
    value = None if chance.random() < 0.3 else random_string(chance, VALUES)
    return HeaderMatch(name, value, invert=chance.random() < 0.3)


def random_rule(chance: random.Random, number: int, *, acts: bool) -> HttpRule:
    headers = tuple(random_header(chance, acts=acts) for _ in range(chance.choice([0, 0, 1, 2])))
    query = () if chance.random() < 0.6 else (QueryMatch("q", None if chance.random() < 0.3 else random_string(chance, VALUES)),)
    if any(each.mismatch is not MismatchAction.FAIL for each in headers):
        # What doesn't go together with an action says so (tests/unit/envoy): query values, and values that may be empty.
        query = ()
        headers = tuple(
            each for each in headers if each.value is None or (each.value.kind is MatchKind.EXACT and each.value.value)
        )
    return rule(
        number,
        method=random_string(chance, METHODS) if chance.random() < 0.3 else None,
        path=random_path(chance) if chance.random() < 0.6 else None,
        host=random_string(chance, HOSTS) if chance.random() < 0.2 else None,
        headers=headers,
        query=query,
    )


def random_rules(chance: random.Random) -> RuleSet:
    allow = tuple(random_rule(chance, number, acts=True) for number in range(chance.randint(0, 3)))
    deny = tuple(random_rule(chance, 10 + number, acts=False) for number in range(chance.choice([0, 0, 1, 2])))
    return RuleSet(allow=allow, deny=deny, allow_all=(origin(99),) if chance.random() < 0.2 else ())


def random_request(chance: random.Random) -> HttpRequest:
    headers = tuple((chance.choice(NAMES), chance.choice(VALUES)) for _ in range(chance.choice([0, 1, 1, 2, 3])))
    return HttpRequest(
        method=chance.choice(METHODS),
        path=chance.choice(PATHS) + chance.choice(QUERIES),
        authority=chance.choice(HOSTS),
        headers=headers,
    )


def allows(rules: RuleSet, request: HttpRequest) -> bool:
    if any(http_holds(each, request, {}, denies=True) for each in rules.deny if isinstance(each, HttpRule)):
        return False
    return bool(rules.allow_all) or any(
        http_holds(each, request, {}, denies=False) for each in rules.allow if isinstance(each, HttpRule)
    )


def headers_after(rules: RuleSet, request: HttpRequest) -> list[tuple[str, str]]:
    """What the server should see of the ``x-`` headers, lines of one name joined, sorted."""
    found = {name: ",".join(value for each, value in request.headers if each == name) for name, _ in request.headers}
    acts = dict.fromkeys(header_actions([each for each in rules.allow if isinstance(each, HttpRule)], request, {}))
    removed = {each.header for each in acts if each.action is MismatchAction.DELETE}
    found = {name: value for name, value in found.items() if name not in removed}
    # As documented in headers.py: what replaces comes before what adds.
    for act in sorted(acts, key=lambda each: (each.action is MismatchAction.ADD, str(each.origin), each.header)):
        assert act.value is not None or act.action in (MismatchAction.DELETE, MismatchAction.LOG)
        if act.action is MismatchAction.REPLACE:
            found[act.header] = str(act.value)
        if act.action is MismatchAction.ADD:
            found[act.header] = f"{found[act.header]},{act.value}" if act.header in found else str(act.value)
    return sorted(found.items())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_envoy_and_the_evaluator_agree(node: TranslationNode, node_servers: set[int], seed: int, protocol: str) -> None:
    chance = random.Random(f"{seed} {protocol}")
    rule_sets = {number: random_rules(chance) for number in range(1, SLOTS_PER_ROUND + 1)}
    node.publish({number: slot(rules, name=str(number)) for number, rules in rule_sets.items()})
    assert node.errors == ()
    verdicts: set[bool] = set()
    for number, rules in rule_sets.items():
        port = proxy_port(number, SETTINGS)
        if number not in node_servers:
            node.backend.serve_http(port)
            node_servers.add(number)
        connection = node.client.connect(node.backend.url(port), protocol)
        for _ in range(REQUESTS_PER_SLOT):
            request = random_request(chance)
            sent = (("host", request.authority), *request.headers)
            answer = connection.request(request.path, request.method, sent)
            expected = allows(rules, request)
            verdicts.add(expected)
            assert answer.status == (200 if expected else 403), (rules, request)
            if expected:
                seen = [(name, value) for name, value in answer.json["headers"] if name in NAMES]
                joined = {name: ",".join(value for each, value in seen if each == name) for name, _ in seen}
                assert sorted(joined.items()) == headers_after(rules, request), (rules, request)
        connection.close()
    assert verdicts == {True, False}
