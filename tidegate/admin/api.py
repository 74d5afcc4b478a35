"""The admin API: what the agent tells people and scripts, over HTTP on a Unix socket.

Owns: the routes, their parameters and the sockets. Must not know how the agent works: it sees an AgentView. The socket
{state}/admin.sock is readable by its owner only (0600), and that is all the authentication there is; the optional TCP
addresses serve /metrics and /healthz, which name no rule and no address, and the page (page.py). docs/cli.md lists the routes.

    GET /v1/status[?wait=SECONDS]     NodeStatus; with wait, as soon as all is realised, at the latest after SECONDS
    GET /v1/flows[?follow=1&last=N&verdict=..&namespace=..&name=..&protocol=..&since_ns=N]    NDJSON
    GET /v1/flows/UUID[/explain]      one record; what the evaluator says of it
    GET /v1/endpoints, /v1/policies, /v1/policies/effect?key=, /v1/map, /v1/world
    GET /v1/counts                    how many requests were allowed, denied, audited, in error: exact, by who and policy
    POST /v1/explain                  a question (explanation.py) against the live world
    POST, DELETE /v1/sandboxes        pods that are about to start (sandboxes.py)
    GET /healthz, /metrics
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from aiohttp import web

from l7filters.envoy.secrets import SecretValue
from l7filters.ir import CompiledPolicy
from l7filters.model import SecretRef
from l7filters.world import World
from tidegate import sandboxes
from tidegate.admin.policy_effect import SlotStates, policy_effect
from tidegate.config.node import NodeConfig
from tidegate.counts.totals import L7Counts, counts_json
from tidegate.explanation import Question, QuestionError, answer, secret_texts
from tidegate.flows.filter import FlowFilter
from tidegate.flows.record import Flow, Redaction, rfc3339
from tidegate.flows.recorded import explain_record
from tidegate.flows.ring import FlowRing, TooManySubscribers
from tidegate.flows.traffic import Traffic, map_json
from tidegate.jsonvalue import decode, encode
from tidegate.metrics import CONTENT_TYPE, Meters, render
from tidegate.sandboxes import SandboxKeeper
from tidegate.status.node import ChangeSignal, NodeStatus

WAIT_SECONDS_MAX = 3600.0
"""A long poll ends after this; who wants longer asks again."""
LAST_MAX = 1 << 31
"""More than any ring holds; whoever asks for more gets all there is."""
SHUTDOWN_SECONDS = 0.5
"""How long open requests (followers) get when the agent stops; then they are cut."""
INTERVAL_SECONDS_MAX = 5.0
"""How long a follower may let records gather; its queue holds some seconds of them."""
REQUEST_BYTES_MAX = 64 << 10
"""The largest request is a question to explain with all its headers."""


class AgentView(SandboxKeeper, Protocol):
    """What the admin API sees of the agent. All of it is called on the agent's own loop and must not block."""

    @property
    def config(self) -> NodeConfig:
        """The configuration the agent runs with."""

    @property
    def changes(self) -> ChangeSignal:
        """Bumped whenever ``status().all_realised`` may have changed."""

    @property
    def flows(self) -> FlowRing:
        """The flow ring."""

    @property
    def meters(self) -> Meters:
        """What is counted besides the status."""

    @property
    def traffic(self) -> Traffic:
        """Who talks to whom."""

    async def refresh(self) -> None:
        """Take in what the sources say at this moment, so that ``status`` speaks of it."""

    def status(self) -> NodeStatus:
        """The status of this moment, with counters read now or a moment ago."""

    def l7_counts(self) -> L7Counts:
        """What the proxy said until now, by whom, to whom and under which policies."""

    def world(self) -> World:
        """The world in force."""

    def compiled(self) -> CompiledPolicy | None:
        """What it compiled to; None before the first time."""

    def slot_states(self) -> SlotStates:
        """The slots in use."""

    def secrets(self) -> Mapping[SecretRef, SecretValue]:
        """The secrets that policies may refer to; look-up is enough."""


VIEW: web.AppKey[AgentView] = web.AppKey("view", AgentView)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def admin_app(view: AgentView) -> web.Application:
    """Return the whole API, for the Unix socket."""
    app = web.Application(client_max_size=REQUEST_BYTES_MAX, middlewares=[_errors_as_json])
    app[VIEW] = view
    app.router.add_get("/v1/world", get_world)
    sandboxes.add_routes(app, view)
    add_reads(app)
    return app


def add_reads(app: web.Application) -> None:
    """Add the routes that the page's address has as well; none of them changes anything."""
    app.router.add_get("/v1/status", get_status)
    app.router.add_get("/v1/flows", get_flows)
    app.router.add_get("/v1/flows/{uuid}", get_flow)
    app.router.add_get("/v1/flows/{uuid}/explain", get_flow_explained)
    app.router.add_get("/v1/map", get_map)
    app.router.add_get("/v1/endpoints", get_endpoints)
    app.router.add_get("/v1/policies", get_policies)
    app.router.add_get("/v1/policies/effect", get_policy_effect)
    app.router.add_get("/v1/counts", get_counts)
    app.router.add_post("/v1/explain", post_explain)
    app.router.add_get("/healthz", get_health)
    app.router.add_get("/metrics", get_metrics)


def metrics_app(view: AgentView) -> web.Application:
    """Return what the TCP address serves."""
    app = web.Application(client_max_size=REQUEST_BYTES_MAX, middlewares=[_errors_as_json])
    app[VIEW] = view
    app.router.add_get("/healthz", get_health)
    app.router.add_get("/metrics", get_metrics)
    return app


class AdminServer:
    """Serves the API for as long as the ``async with`` block lasts."""

    def __init__(self, view: AgentView) -> None:
        self._view = view
        self._runners: list[web.AppRunner] = []

    async def __aenter__(self) -> AdminServer:
        config = self._view.config
        try:
            await self._serve(admin_app(self._view), bind_unix(config.admin_socket))
            if config.admin.metrics_host is not None:
                sock = bind_tcp(config.admin.metrics_host, config.admin.metrics_port)
                await self._serve(metrics_app(self._view), sock)
            if config.admin.page_host is not None:
                from tidegate.admin.page import page_app  # it serves what is defined here

                app = page_app(self._view)
                await self._serve(app, bind_tcp(config.admin.page_host, config.admin.page_port))
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._close()

    async def _serve(self, app: web.Application, sock: socket.socket) -> None:
        # A follower that goes away must free its queue at once, hence the cancellation of its handler.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_SECONDS)
        self._runners.append(runner)
        try:
            await runner.setup()
            await web.SockSite(runner, sock).start()
        except BaseException:
            sock.close()
            raise

    async def _close(self) -> None:
        while self._runners:
            await self._runners.pop().cleanup()
        with suppress(FileNotFoundError):
            self._view.config.admin_socket.unlink()


def bind_unix(path: Path) -> socket.socket:
    """Return a listening socket that only the owner can connect to. What stood at ``path`` is replaced.

    The agent's lock says that nobody else serves there. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)  # so that there is no moment at which others could connect
    try:
        sock.bind(str(path))
        sock.listen(64)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return sock


def bind_tcp(host: str, port: int) -> socket.socket:
    """Return a socket that listens on one address. Raises OSError (a host name that isn't known is one, too)."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(64)
    except BaseException:
        sock.close()
        raise
    return sock


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a refused request with ``{"error": ..}``, also for an unknown route."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return web.json_response({"error": error.text or error.reason}, status=error.status)


async def get_status(request: web.Request) -> web.Response:
    """Status now, or as soon as all is realised."""
    view = request.app[VIEW]
    wait_seconds = _number(request, "wait", 0.0, WAIT_SECONDS_MAX)
    deadline = asyncio.get_running_loop().time() + wait_seconds
    await view.refresh()
    while True:
        serial = view.changes.serial
        status = view.status()
        left = deadline - asyncio.get_running_loop().time()
        if status.all_realised or left <= 0:
            return web.json_response(status_json(status))
        with suppress(TimeoutError):
            await asyncio.wait_for(view.changes.wait_after(serial), left)


def status_json(status: NodeStatus) -> dict[str, Any]:
    """Return a status as JSON, with what follows from it."""
    return {**encode(status), "all_realised": status.all_realised, "obstacles": list(status.obstacles())}


async def get_flows(request: web.Request) -> web.StreamResponse:
    """Stream records as lines ``{"flow": ..}`` and, where this reader was too slow, ``{"lost_events": ..}``."""
    view = request.app[VIEW]
    try:
        wanted = FlowFilter.from_query(request.query, time.time_ns())
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    last = int(_number(request, "last", 0, LAST_MAX)) if "last" in request.query else None
    follow = request.query.get("follow", "") not in ("", "0", "false")
    interval_seconds = _number(request, "interval", 0, INTERVAL_SECONDS_MAX)
    if not follow:
        return await _send_flows(request, _lines(view.flows.recent(wanted, last)))
    try:
        subscription = view.flows.subscribe(wanted)
    except TooManySubscribers as error:
        raise web.HTTPServiceUnavailable(text=str(error)) from error
    with subscription:
        response = await _send_flows(request, _lines(view.flows.recent(wanted, last)), end=False)
        with suppress(ConnectionError):
            while True:
                flows, lost = await subscription.batch()
                if lost:
                    await response.write(_lost_line(lost))
                await response.write(_lines(flows))
                await asyncio.sleep(interval_seconds)
    return response


async def get_flow(request: web.Request) -> web.Response:
    """One record."""
    return web.json_response(_recorded(request).to_json())


async def get_flow_explained(request: web.Request) -> web.Response:
    """What the policy in force says of what was recorded: a report (flows/recorded.py), and as text."""
    view = request.app[VIEW]
    flow, world, flows = _recorded(request), view.world(), view.config.flows
    try:
        redaction = Redaction(query=flows.redact_query, headers=flows.redact_headers)
        report = explain_record(world, flow, secret_texts(world.policies, view.secrets()), redaction)
    except QuestionError as error:
        raise web.HTTPBadRequest(text=f"{error} ({error.hint})" if error.hint else str(error)) from error
    return web.json_response({**report.as_json(), "text": report.as_text()})


def _recorded(request: web.Request) -> Flow:
    uuid = request.match_info["uuid"]
    flow = request.app[VIEW].flows.find(uuid)
    if flow is None:
        kept = request.app[VIEW].flows.capacity
        raise web.HTTPNotFound(text=f"there is no flow {uuid[:80]!r} among the last {kept} (flows.ring in node.yaml)")
    return flow


async def _send_flows(request: web.Request, lines: bytes, end: bool = True) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    await response.write(lines)
    if end:
        await response.write_eof()
    return response


def _lines(flows: tuple[Flow, ...]) -> bytes:
    return b"".join(_line({"flow": flow.to_json(), "node_name": flow.node, "time": rfc3339(flow.time_ns)}) for flow in flows)


def _lost_line(count: int) -> bytes:
    return _line({"lost_events": {"source": "SUBSCRIBER_QUEUE", "num_events_lost": str(count)}})


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


async def get_endpoints(request: web.Request) -> web.Response:
    """All endpoints as the world has them, local ones with their state."""
    view = request.app[VIEW]
    states = {status.key: encode(status) for status in view.status().endpoints}
    rows = [{**encode(endpoint), "status": states.get(endpoint.key)} for endpoint in view.world().endpoints]
    return web.json_response({"endpoints": rows})


async def get_policies(request: web.Request) -> web.Response:
    """All policies with their state, and the documents that are in error."""
    status = request.app[VIEW].status()
    return web.json_response({"policies": encode(status.policies), "document_errors": encode(status.document_errors)})


async def get_policy_effect(request: web.Request) -> web.Response:
    """What one policy (``key``) selects, allows and denies, and what it decided of late."""
    view = request.app[VIEW]
    key = request.query.get("key", "")
    wanted = FlowFilter(policies=frozenset((key,)))
    effect = policy_effect(view.world(), key, view.slot_states(), view.flows.recent(wanted))
    if effect is None:
        raise web.HTTPNotFound(text=f"there is no policy {key[:200]!r}")
    return web.json_response(effect)


async def get_map(request: web.Request) -> web.Response:
    """Who talks to whom, over the last minutes: workloads and edges with their counts and rates."""
    view = request.app[VIEW]
    return web.json_response(map_json(view.traffic, view.status()))


async def get_counts(request: web.Request) -> web.Response:
    """The exact counts of requests."""
    return web.json_response(counts_json(request.app[VIEW].l7_counts()))


async def get_world(request: web.Request) -> web.Response:
    """The world in force, whole."""
    return web.json_response(encode(request.app[VIEW].world()))


async def post_explain(request: web.Request) -> web.Response:
    """Answer a Question (explanation.py, as JSON by its field names) about the live world: the report, and as text."""
    view = request.app[VIEW]
    try:
        question = decode(Question, await request.json())
        world = view.world()
        report = answer(world, question, secret_texts(world.policies, view.secrets()))
    except QuestionError as error:
        raise web.HTTPBadRequest(text=f"{error} ({error.hint})" if error.hint else str(error)) from error
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"not a question: {error}") from error
    return web.json_response({**report.as_json(), "text": report.as_text()})


async def get_health(request: web.Request) -> web.Response:
    """Say that the agent's loop runs: 200 whatever is realised, so that a policy mistake doesn't restart it."""
    del request
    return web.json_response({"status": "ok"})


async def get_metrics(request: web.Request) -> web.Response:
    """Prometheus text, read now."""
    view = request.app[VIEW]
    body = render(view.status(), view.flows, view.meters)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


def _number(request: web.Request, name: str, least: float, most: float) -> float:
    text = request.query.get(name)
    if text is None:
        return least
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise web.HTTPBadRequest(text=f"{name} is a number from {least:g} to {most:g}, not {text[:40]!r}")
    return value
