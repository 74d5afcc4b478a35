"""The page in a real browser: what people see and do. With ``TIDEGATE_PICTURES`` set, pictures of it are written there."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from l7filters.ir import SlotKey
from l7filters.model import L7Protocol
from tests.support.browser import CHROMIUM, Browser, Page
from tests.support.synthetic import services, traffic
from tests.support.worlds import To, allow, deny, endpoint, entity, http, pods, policy, world
from tests.unit.tidegate.fakes import DEATHSTAR, RULE, XWING, denied_request, packet, realised_status
from tests.unit.tidegate.paged import paged
from tests.unit.tidegate.served import Served
from tidegate.flows.record import FlowEnd, HttpPart, Verdict
from tidegate.status.node import EndpointState, EndpointStatus, Unmanaged

TOKEN = "0123456789abcdef0123456789abcdef"
SIZES = ((1280, 800, False), (1280, 800, True), (390, 800, False), (390, 800, True))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    assert Path(CHROMIUM).exists(), "Chromium is missing: `make setup` installs it (Debian's package chromium)"
    with Browser() as started:
        yield started


@contextmanager
def site(token: str | None = None) -> Iterator[tuple[Served, str]]:
    with tempfile.TemporaryDirectory(prefix="tg-") as directory, paged(Path(directory), token) as found:
        yield found


def publish(node: Served, *flows: object) -> None:
    node.do(lambda: [node.agent.flows.publish(flow) for flow in flows])  # type: ignore[arg-type]


def picture(page: Page, name: str) -> None:
    """Keep a picture for who wants to look."""
    directory = os.environ.get("TIDEGATE_PICTURES")
    if directory:
        page.picture(Path(directory) / f"{name}.png")


def populated(node: Served) -> None:
    """A policy with every kind of rule, endpoints in every state, an unmanaged interface, and some traffic."""
    rules = [allow(pods("org=alliance"), To("80", http=(http("GET", "/v1/.*"), http("POST", "/v1/land")))), deny(entity("world"))]
    ends = (
        endpoint("deathstar", "org=empire", ip=("10.0.0.3",)),
        endpoint("xwing", "org=alliance", ip=("10.0.0.2",)),
    )
    key = SlotKey(L7Protocol.HTTP, ingress=("cnp/default/rule1:spec.ingress[0].toPorts[0]",))
    states = (("deathstar", EndpointState.READY, ""), ("xwing", EndpointState.WAITING, "interface lxc-xwing does not exist yet"))
    status = realised_status(
        endpoints=tuple(
            EndpointStatus(
                key=f"default/{name}", state=state, workload=f"default/{name}", message=message, attachment=f"lxc-{name}"
            )
            for name, state, message in states
        ),
        unmanaged=(Unmanaged(name="veth9", kind="interface", reason="no endpoint claims it"),),
    )

    def prepare() -> None:
        node.agent.shown_world = world(policy("rule1", "org=empire", ingress=rules), endpoints=ends)
        node.agent.shown_slots = {key: (5, True)}
        node.agent.set_status(status)

    node.do(prepare)
    get = HttpPart(method="GET", path="/v1/x", host="deathstar", protocol="HTTP/1.1", code=200)
    publish(node, *(packet(rule=RULE, l7=get, uuid=f"get-{number}") for number in range(20)))
    publish(node, *(denied_request(uuid=f"put-{number}", nearest_miss=MISS) for number in range(3)))
    publish(node, packet(destination=replace(DEATHSTAR, name="moon"), verdict=Verdict.DENIED, reason="POLICY_DENY", rule=RULE))


MISS = f"{RULE} would allow it, but method is PUT, must match GET"


@pytest.mark.parametrize(("width", "height", "dark"), SIZES)
@pytest.mark.parametrize("view", ["map", "flows", "policies", "workloads"])
def test_every_view_is_shown_without_complaint_and_fits_the_width(
    browser: Browser, view: str, width: int, height: int, dark: bool
) -> None:
    with site() as (node, url):
        populated(node)
        with browser.open(f"{url}#/{view}", width=width, height=height, dark=dark) as page:
            page.wait_for("document.body.innerText.includes('deathstar') || document.body.innerText.includes('rule1')")
            page.wait_for("document.getElementById('node').textContent === 'node-a · r7'")
            assert page.run("document.documentElement.scrollWidth <= innerWidth")
            assert page.run("getComputedStyle(document.body).backgroundColor") == (
                "rgb(16, 21, 23)" if dark else "rgb(247, 248, 248)"
            )
            picture(page, f"{view}-{width}-{'dark' if dark else 'light'}")


def test_page_of_an_idle_node_says_so(browser: Browser) -> None:
    with site() as (node, url):
        node.do(lambda: node.agent.set_status(realised_status(endpoints=(), policies=())))
        for view, words in (
            ("map", "Nobody talks yet"),
            ("flows", "Nothing yet"),
            ("policies", "No policies"),
            ("workloads", "No endpoints on this node"),
        ):
            with browser.open(f"{url}#/{view}") as page:
                page.wait_for(f"document.body.innerText.includes({words!r})")
                page.wait_for("document.body.innerText.includes('All in force')")
                picture(page, f"empty-{view}")


def test_map_is_green_and_red_by_verdict_and_says_the_same_as_a_table(browser: Browser) -> None:
    with site() as (node, url):
        populated(node)
        publish(node, packet(source=replace(XWING, name="falcon")))
        with browser.open(url) as page:
            page.wait_for("document.querySelectorAll('g.edge').length === 3")
            tones = page.run(
                "Object.fromEntries([...document.querySelectorAll('g.edge')].map((edge) =>"
                " [edge.querySelector('title').textContent.split('\\n')[0], edge.getAttribute('class')]))"
            )
            assert tones == {
                "default/xwing → default/deathstar": "edge mixed",
                "default/xwing → default/moon": "edge refused",
                "default/falcon → default/deathstar": "edge allowed",
            }
            assert page.run("document.querySelector('g.node.unready').getAttribute('aria-label')") == "default/xwing"
            rows = page.run("[...document.querySelectorAll('.edges tbody tr')].map((row) => row.innerText)")
            assert any("default/xwing → default/deathstar" in row and "\t20\t3" in row for row in rows), rows
            page.run("document.querySelector('g.node[aria-label=\"default/xwing\"]').focus()")
            page.press("Enter")
            page.wait_for("!document.getElementById('panel').hidden")
            assert "default/moon" in page.run("document.getElementById('panel').innerText")
            picture(page, "map-panel")
            page.press("Escape")
            assert page.run("document.getElementById('panel').hidden")
            assert page.run("document.activeElement.getAttribute('aria-label')") == "default/xwing"


def test_map_is_one_click_from_the_flows_of_an_edge(browser: Browser) -> None:
    with site() as (node, url):
        populated(node)
        with browser.open(url) as page:
            page.wait_for("document.querySelector('.edges button')")
            page.click(".edges tbody button")
            page.wait_for("!document.getElementById('panel').hidden")
            page.click("#panel a.button")
            page.wait_for("location.hash.startsWith('#/flows?source=')")
            page.wait_for("document.querySelectorAll('.row:not([hidden])').length > 0")


def test_flows_are_filtered_by_words_and_chips_as_the_command_does(browser: Browser) -> None:
    with site() as (node, url):
        populated(node)
        with browser.open(f"{url}#/flows") as page:
            shown = "document.querySelector('.facts').textContent.startsWith('{} shown')"
            page.wait_for(shown.format(24))
            page.run("document.getElementById('filter').focus()")
            page.write("status:4xx method:put")
            page.press("Enter")
            page.wait_for(shown.format(3))
            assert page.run("location.hash") == "#/flows?status=4xx&method=put"
            page.run("[...document.querySelectorAll('.chip')].find((chip) => chip.textContent === 'Denied').click()")
            page.wait_for("document.getElementById('filter').value === 'verdict:denied status:4xx method:put'")
            page.wait_for(shown.format(3))
            for words, problem in (
                ("path:(", "is no regular expression"),
                ("colour:red", "colour is no filter; use one of verdict"),
            ):
                page.run(f"document.getElementById('filter').value = {words!r}")
                page.run("document.querySelector('form.bar').requestSubmit()")
                page.wait_for(f"document.querySelector('.problem').textContent.includes({problem!r})")
            picture(page, "flows-problem")
            page.complaints = [each for each in page.complaints if "400" not in each]


def test_one_flow_is_told_whole_and_explained_by_keyboard_alone(browser: Browser) -> None:
    with site() as (node, url):
        populated(node)
        with browser.open(f"{url}#/flows?verdict=denied&method=PUT") as page:
            page.wait_for("document.querySelectorAll('.row:not([hidden])').length >= 3")
            page.run("document.querySelector('.flow-list').focus()")
            page.press("ArrowDown", 2)
            page.press("Enter")
            page.wait_for("!document.getElementById('panel').hidden")
            told = page.run("document.getElementById('panel').innerText")
            for words in (
                "denied",
                "default/xwing",
                "PUT http://deathstar.default/v1/exhaust-port",
                "method is PUT, must match GET",
                "put-1",
            ):
                assert words in told
            page.click("#panel .primary")
            page.wait_for("document.querySelector('.explained').textContent.includes('DENIED: no L7 rule allows it')")
            picture(page, "flow-explained")
            page.press("Escape")
            assert page.run("document.getElementById('panel').hidden")
            assert page.run("document.activeElement.className") == "flow-list"


def test_what_comes_is_shown_at_once_and_waits_while_somebody_reads(browser: Browser) -> None:
    with site() as (node, url), browser.open(f"{url}#/flows") as page:
        page.wait_for("document.body.innerText.includes('Nothing yet')")
        publish(node, denied_request(uuid="first"))
        page.wait_for("document.querySelector('#flow-first')")
        page.run("document.querySelector('.flow-list').focus()")
        page.press("ArrowDown")
        publish(node, denied_request(uuid="second"))
        page.wait_for("document.querySelector('.fresh').textContent === '↑ 1 new' && !document.querySelector('.fresh').hidden")
        assert not page.run("Boolean(document.querySelector('#flow-second'))")
        page.click(".fresh")
        page.wait_for("document.querySelector('#flow-second')")


def test_following_ends_with_the_page(browser: Browser) -> None:
    with site() as (node, url), browser.open(f"{url}#/flows") as page:
        page.wait_for("document.body.innerText.includes('Nothing yet')")
        assert node.do(lambda: node.agent.flows.follower_count) == 1
        page.run("location.hash = '#/policies'")
        deadline = time.monotonic() + 10
        while node.do(lambda: node.agent.flows.follower_count):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_policy_shows_whom_it_selects_what_it_says_and_what_it_decided(browser: Browser) -> None:
    with site() as (node, url):
        populated(node)
        with browser.open(f"{url}#/policies") as page:
            page.wait_for("document.querySelector('main a')")
            page.click("main td a")
            page.wait_for("document.querySelector('main h1')")
            told = page.run("document.getElementById('main').innerText")
            for words in (
                "Selects 1 endpoint",
                "default/deathstar",
                "What no rule allows is denied: ingress",
                "method must match GET, path must match /v1/.*",
                "method must match POST",
                "20 forwarded",
                "3 denied that it nearly allowed",
            ):
                assert words in told
            picture(page, "policy")


def test_hostile_text_is_text(browser: Browser) -> None:
    hostile = "<img src=x onerror=document.title='owned'>"
    part = HttpPart(method="GET", path=f"/{hostile}", host=hostile, code=403)
    with site() as (node, url):
        end = FlowEnd(namespace=hostile, name=hostile, labels=(f"k8s:app={hostile}",))
        publish(node, denied_request(uuid="x", l7=part, source=end, nearest_miss=hostile))
        for view in ("flows", "map"):
            with browser.open(f"{url}#/{view}") as page:
                page.wait_for("document.body.innerText.includes('onerror') || document.querySelector('g.node')")
                if view == "flows":
                    page.run("document.querySelector('.row').click()")
                assert page.run("document.images.length") == 0
                assert "owned" not in page.run("document.title")


def test_locked_page_asks_for_the_token_and_opens(browser: Browser) -> None:
    with site(TOKEN) as (node, url):
        populated(node)
        with browser.open(url) as page:
            page.wait_for("document.querySelector('form.login')")
            picture(page, "login")
            page.write("wrong")
            page.press("Enter")
            page.wait_for("document.querySelector('.login .problem').textContent === 'this is not the token'")
            page.run("document.querySelector('.login input').value = ''; document.querySelector('.login input').focus()")
            page.write(TOKEN)
            page.press("Enter")
            page.wait_for("document.querySelector('g.node')")
            assert page.run("document.cookie") == ""
            page.complaints = [each for each in page.complaints if "401" not in each]


FLOWS_PER_SECOND = 1000
BUSY_SHARE_MAX = 0.8
"""Of the page's main thread, on a machine that others load too; alone it is some 0.1."""
ELEMENTS_MAX = 3000
MANY_ROWS = "document.querySelectorAll('.row').length > 10"
MANY_EDGES = "document.querySelectorAll('g.edge').length > 300"


def test_200_services_and_1000_flows_a_second_are_shown_without_loss(browser: Browser) -> None:
    ends = services(200)
    feed = traffic(ends)
    stop = threading.Event()
    with site() as (node, url):

        def pump() -> None:
            next_s = time.monotonic()
            while not stop.is_set():
                now_ns = time.time_ns()
                batch = [replace(flow, time_ns=now_ns) for flow in itertools.islice(feed, FLOWS_PER_SECOND // 20)]
                publish(node, *batch)
                next_s += 0.05
                time.sleep(max(0, next_s - time.monotonic()))

        pumping = threading.Thread(target=pump)
        pumping.start()
        try:
            for view, ready in (
                ("flows", "document.querySelectorAll('.row').length > 10"),
                ("map", "document.querySelectorAll('g.edge').length > 300"),
            ):
                with browser.open(f"{url}#/{view}") as page:
                    page.wait_for(ready)
                    before, started = page.metrics(), time.monotonic()
                    time.sleep(5)  # measured over this long; nothing is waited for
                    after, seconds = page.metrics(), time.monotonic() - started
                    share = (after["TaskDuration"] - before["TaskDuration"]) / seconds
                    elements = page.run("document.querySelectorAll('*').length")
                    facts = page.run("document.querySelector('.facts').textContent")
                    print(f"{view}: {share:.2f} of the main thread, {elements} elements, {facts}")
                    assert share < BUSY_SHARE_MAX
                    assert elements < (ELEMENTS_MAX if view == "flows" else 4 * ELEMENTS_MAX)
                    assert "lost" not in facts
                    picture(page, f"busy-{view}")
            with browser.open(f"{url}#/map", dark=True) as page:
                page.wait_for(MANY_EDGES)
                picture(page, "busy-map-dark")
        finally:
            stop.set()
            pumping.join()
