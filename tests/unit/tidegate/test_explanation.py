"""Questions as people write them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from l7filters.decision import Flow
from l7filters.envoy.secrets import SecretValue
from l7filters.http import HttpRequest
from l7filters.model import HeaderMatch, SecretRef
from l7filters.world import NamedPort
from tests.support.worlds import To, allow, endpoint, http, policy, world
from tidegate.explanation import Question, QuestionError, answer, secret_texts, split_port

SERVER = endpoint("server", ip="10.0.0.1", ports=(NamedPort("web", 8080),))
CLIENT = endpoint("client", ip="fd00::2", namespace="other")
TOKEN = SecretRef("default", "tokens", "client")
RULE = replace(http("GET", "/public"), headers=(HeaderMatch("x-token", secret=TOKEN),))
WORLD = world(policy("p", "app=server", ingress=[allow(None, To("80", http=(RULE,)))]), endpoints=(SERVER, CLIENT))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("default/server:80", ("default/server", "80")),
        ("default/server:web", ("default/server", "web")),
        ("server", ("server", "")),
        ("10.0.0.1:80", ("10.0.0.1", "80")),
        ("fd00::1", ("fd00::1", "")),
        ("[fd00::1]:80", ("fd00::1", "80")),
        ("[fd00::1]", ("fd00::1", "")),
    ],
)
def test_port_is_split_from_its_end(text: str, parts: tuple[str, str]) -> None:
    assert split_port(text) == parts


@pytest.mark.parametrize(
    ("question", "flow"),
    [
        (Question(source="other/client", destination="server:80"), Flow("other/client", "default/server", 6, 80)),
        (Question(source="fd00::2", destination="default/server:web"), Flow(ip_address("fd00::2"), "default/server", 6, 8080)),
        (Question(source="host", destination="10.0.0.1:web"), Flow("host", ip_address("10.0.0.1"), 6, 8080)),
        (Question(source="host", destination="server", protocol="icmp"), Flow("host", "default/server", 1, 8)),
        (Question(source="host", destination="server:3", protocol="ICMP"), Flow("host", "default/server", 1, 3)),
        (Question(source="host", destination="server", protocol="gre"), Flow("host", "default/server", 47, 0)),
        (
            Question(source="host", destination="server:443", server_name="a.example"),
            Flow("host", "default/server", 6, 443, server_name="a.example"),
        ),
        (
            Question(source="host", destination="server:80", http="GET /a", headers=("X-A: b c ", "y=1"), host="h:80"),
            Flow(
                "host",
                "default/server",
                6,
                80,
                HttpRequest(method="GET", path="/a", authority="h:80", headers=(("X-A", "b c"), ("y", "1"))),
            ),
        ),
    ],
)
def test_question_becomes_the_flow_it_asks_about(question: Question, flow: Flow) -> None:
    assert question.to_flow(WORLD) == flow


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"source": "default/servr"}, "there is no endpoint default/servr", "did you mean default/server?"),
        ({"source": "default/client"}, "there is no endpoint default/client", "did you mean other/client?"),
        ({"destination": "server"}, "to which port?", "write --to namespace/name:port"),
        ({"destination": "server:70000"}, "'70000' is no port of default/server", None),
        ({"destination": "server:wbe"}, "'wbe' is no port of default/server", "a number, or a named port; named here: web"),
        ({"destination": "192.0.2.1:web"}, "'web' is no port number", None),
        ({"protocol": "htp"}, "'htp' is not a protocol", None),
        ({"http": "GET"}, None, "e.g. --http 'GET /status'"),
        ({"headers": ("x: y",)}, "headers and host need a request", "add --http 'GET /path'"),
        ({"http": "GET /", "headers": ("no header",)}, None, None),
        ({"http": "GET /", "protocol": "udp"}, "an HTTP request over udp can't be judged", "leave out --protocol"),
    ],
)
def test_question_that_makes_no_sense_says_how_to_ask(changes: dict[str, object], message: str | None, hint: str | None) -> None:
    question = replace(Question(source="host", destination="server:80"), **changes)  # type: ignore[arg-type]
    with pytest.raises(QuestionError) as caught:
        question.to_flow(WORLD)
    assert message is None or str(caught.value) == message
    assert hint is None or caught.value.hint == hint


def test_secret_header_is_judged_and_never_shown() -> None:
    stored = {TOKEN: SecretValue("hunter2\n")}
    texts = secret_texts(WORLD.policies, stored)
    asked = Question(source="other/client", destination="server:80", http="GET /public", headers=("x-token: hunter2",))
    assert answer(WORLD, asked, texts).as_json()["verdict"] == "allowed"
    wrong = answer(WORLD, replace(asked, headers=("x-token: guess",)), texts)
    assert wrong.as_json()["verdict"] == "denied"
    assert "hunter2" not in str(wrong.as_json()) + wrong.as_text()


@pytest.mark.parametrize("stored", [{}, {TOKEN: SecretValue(b"\xff\x00")}])
def test_secret_that_is_missing_or_no_header_value_is_left_out(stored: dict[SecretRef, SecretValue]) -> None:
    assert secret_texts(WORLD.policies, stored) == {}
