"""The page's address: what it serves, and whom it refuses."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from l7filters.ir import SlotKey
from l7filters.model import L7Protocol
from tests.support.worlds import To, allow, endpoint, pods, policy, world
from tests.support.worlds import http as http_rule
from tests.unit.tidegate.fakes import RULE, denied_request, packet
from tests.unit.tidegate.paged import paged
from tests.unit.tidegate.served import Served
from tidegate.admin.guard import SESSIONS_MAX, Guard, Refusal
from tidegate.admin.page import read_files, read_token
from tidegate.config.node import AdminSection, ConfigError

TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass
class Site:
    """A page's address, asked as a browser would, or as an attacker."""

    node: Served
    url: str

    def ask(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: str | None = None
    ) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=10)
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, dict(answer.getheaders()), text


@pytest.fixture
def site(short_path: Path) -> Iterator[Site]:
    with paged(short_path) as (node, url):
        yield Site(node, url)


@pytest.fixture
def locked(short_path: Path) -> Iterator[Site]:
    with paged(short_path, TOKEN) as (node, url):
        yield Site(node, url)


def test_every_answer_lets_nothing_in_from_elsewhere(site: Site) -> None:
    for path in ("/", "/web/app.js", "/v1/status", "/v1/flows", "/nothing", "/metrics"):
        _, headers, _ = site.ask(path)
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
        assert headers["Cache-Control"] == "no-store"


def test_files_name_no_other_place() -> None:
    found = read_files()
    assert {"index.html", "app.js", "map.js", "flows.js", "policies.js", "workloads.js", "style.css", "icon.svg"} <= found.keys()
    for name, (body, _) in found.items():
        text = body.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, name
        assert "https://" not in text, name
        for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert unsafe not in text, name


def test_page_and_its_files_have_their_types(site: Site) -> None:
    for path, kind in (("/", "text/html"), ("/web/app.js", "text/javascript"), ("/web/style.css", "text/css")):
        status, headers, _ = site.ask(path)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")


@pytest.mark.parametrize(
    "path", ["/web/../page.py", "/web/%2e%2e/page.py", "/web/none.js", "/web/", "/v1/world", "/../etc/passwd"]
)
def test_nothing_else_is_served(site: Site, path: str) -> None:
    assert site.ask(path)[0] in (400, 404)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:9470"}, 200),
        ({"Host": "[::1]:9470"}, 200),
        ({"Host": "127.0.0.9"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:9470"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "localhost.evil.example"}, 421),
        ({"Host": ""}, 421),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
)
def test_reads_of_other_sites_and_rebound_names_are_refused(site: Site, headers: dict[str, str], status: int) -> None:
    for path in ("/", "/v1/status", "/v1/flows", "/metrics"):
        assert site.ask(path, headers=headers)[0] == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json"}, 400),
        ({"Content-Type": "application/json", "Origin": "http://evil.example"}, 403),
        ({"Content-Type": "application/json", "Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({}, 415),
    ],
)
def test_questions_of_other_origins_and_forms_are_refused(site: Site, headers: dict[str, str], status: int) -> None:
    assert site.ask("/v1/explain", "POST", headers, "{}")[0] == status


def test_no_method_changes_anything(site: Site) -> None:
    headers = {"Content-Type": "application/json"}
    for method in ("PUT", "DELETE", "PATCH", "POST"):
        for path in ("/v1/status", "/v1/policies", "/v1/flows", "/"):
            assert site.ask(path, method, headers, "{}")[0] == 405


def test_token_is_asked_for_data_and_not_for_the_page(locked: Site) -> None:
    assert [locked.ask(path)[0] for path in ("/", "/web/app.js", "/healthz")] == [200, 200, 200]
    for path in ("/v1/status", "/v1/flows", "/v1/map", "/metrics", "/v1/policies/effect"):
        assert locked.ask(path)[0] == 401
        assert locked.ask(path, headers={"Authorization": "Bearer " + TOKEN[:-1]})[0] == 401
    assert locked.ask("/v1/status", headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200


def test_token_opens_a_session_whose_cookie_scripts_and_other_sites_cannot_use(locked: Site) -> None:
    json_type = {"Content-Type": "application/json"}
    assert locked.ask("/v1/session", "POST", json_type, '{"token": "wrong"}')[0] == 401
    assert locked.ask("/v1/session", "POST", json_type, "[]")[0] == 400
    status, headers, _ = locked.ask("/v1/session", "POST", json_type, json.dumps({"token": TOKEN}))
    assert status == 200
    cookie, *flags = headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(flags)
    assert TOKEN not in cookie
    assert locked.ask("/v1/status", headers={"Cookie": cookie})[0] == 200
    assert locked.ask("/v1/status", headers={"Cookie": cookie + "x"})[0] == 401


def test_sessions_end_and_are_bounded() -> None:
    now = [0.0]
    guard = Guard(loopback=False, token=TOKEN, clock=lambda: now[0])
    first = guard.open_session(TOKEN)
    guard.check_access({}, {"tidegate_session": first})
    for _ in range(SESSIONS_MAX):
        last = guard.open_session(TOKEN)
    with pytest.raises(Refusal):
        guard.check_access({}, {"tidegate_session": first})
    guard.check_access({}, {"tidegate_session": last})
    now[0] = 13 * 3600.0
    with pytest.raises(Refusal):
        guard.check_access({}, {"tidegate_session": last})


def test_token_that_is_missing_or_short_is_told(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(ConfigError, match=r"tokenFile: .* can't be read"):
        read_token(AdminSection(token_file=path))
    path.write_text("short\n")
    with pytest.raises(ConfigError, match="holds 5 characters; a token has at least 16"):
        read_token(AdminSection(token_file=path))
    path.write_text(f"{TOKEN}\n")
    assert read_token(AdminSection(token_file=path)) == TOKEN


def test_effect_of_a_policy_is_whom_it_selects_what_it_says_and_what_it_decided(site: Site) -> None:
    rules = [allow(pods("org=alliance"), To("80", http=(http_rule("GET", "/v1/.*"),)))]
    shown = world(
        policy("rule1", "org=empire", ingress=rules), endpoints=(endpoint("deathstar", "org=empire", ip=("10.0.0.3",)),)
    )
    key = SlotKey(L7Protocol.HTTP, ingress=("cnp/default/rule1:spec.ingress[0].toPorts[0]",))

    def prepare() -> None:
        site.node.agent.shown_world = shown
        site.node.agent.shown_slots = {key: (5, True)}
        for flow in (packet(rule=RULE), packet(rule=RULE), denied_request(nearest_miss=f"{RULE} would allow it, but"), packet()):
            site.node.agent.flows.publish(flow)

    site.node.do(prepare)
    status, _, text = site.ask("/v1/policies/effect?key=cnp/default/rule1")
    found = json.loads(text)
    assert status == 200
    assert found["selects"]["endpoints"] == [{"key": "default/deathstar", "local": True}]
    assert found["default_deny"] == ["ingress"]
    (rule,) = found["rules"]
    assert (rule["effect"], rule["direction"], rule["recent"]) == ("allow", "ingress", {"forwarded": 2})
    (port,) = rule["ports"]
    assert (port["ports"], port["protocol"]) == (["80/TCP"], "http")
    assert port["messages"][0]["words"] == "method must match GET, path must match /v1/.*"
    assert found["slots"] == [{"id": 5, "protocol": "http", "ready": True, "rules": list(key.ingress or ())}]
    assert (found["recent"], found["nearest_misses"]) == ({"forwarded": 2}, 1)
    assert site.ask("/v1/policies/effect?key=none")[0] == 404


def test_map_shows_who_talked_to_whom(site: Site) -> None:
    site.node.do(lambda: [site.node.agent.flows.publish(flow) for flow in (packet(), denied_request(), packet(is_reply=True))])
    found = json.loads(site.ask("/v1/map")[2])
    edges = {(edge["source"], edge["destination"]): edge for edge in found["edges"]}
    assert edges.keys() == {("default/xwing", "default/deathstar"), ("default/deathstar", "default/xwing")}
    edge = edges["default/xwing", "default/deathstar"]
    assert dict(zip(found["columns"], edge["counts"], strict=True)) == {
        "forwarded": 1, "denied": 1, "dropped": 0, "audited": 0, "error": 0,
    }  # fmt: skip
    assert edge["services"] == ["tcp:80", "http:80"]
    assert {each["id"] for each in found["workloads"]} == {"default/xwing", "default/deathstar"}
