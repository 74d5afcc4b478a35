"""The page: the admin API for people's browsers, at a TCP address.

Owns: which routes a browser gets, its files (``tidegate/admin/web``, plain modules and styles, served from memory) and how
``guard`` is asked. Must not know how answers are made: those are the admin API's own. Nothing here changes the node.
docs/page.md shows it.

    GET /                             the page
    GET /web/NAME                     its files
    GET /v1/status, flows, flows/UUID, flows/UUID/explain, endpoints, policies, policies/effect?key=, map
    POST /v1/explain                  a question
    POST /v1/session {"token": ..}    a session, where a token is asked for
    GET /healthz                      for anyone; /metrics
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from aiohttp import web

from tidegate.admin import api as admin
from tidegate.admin.guard import HEADERS, SESSION_COOKIE, SESSION_SECONDS, TOKEN_CHARACTERS_MIN, Guard, Refusal, is_loopback
from tidegate.config.node import AdminSection, ConfigError, ConfigProblem, NodeConfig

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
OPEN_PATHS = ("/", "/healthz", "/v1/session")
"""What needs no token: the page itself, which holds no data, and the way to a session."""
GUARD: web.AppKey[Guard] = web.AppKey("guard", Guard)
FILES: web.AppKey[dict[str, Any]] = web.AppKey("files", dict)


def page_app(view: admin.AgentView) -> web.Application:
    """Return what the page's address serves."""
    section = view.config.admin
    assert section.page_host is not None
    app = web.Application(client_max_size=admin.REQUEST_BYTES_MAX, middlewares=[_guarded])
    app.on_response_prepare.append(_add_headers)
    app[admin.VIEW] = view
    app[GUARD] = Guard(loopback=is_loopback(section.page_host), token=read_token(section))
    app[FILES] = read_files()
    app.router.add_get("/", get_page)
    app.router.add_get("/web/{name}", get_file)
    app.router.add_post("/v1/session", post_session)
    admin.add_reads(app)
    return app


def read_token(section: AdminSection) -> str | None:
    """Return the token; None if none is configured. Raises ConfigError."""
    path = section.token_file
    if path is None:
        return None
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _token_error(f"{path} can't be read: {error}") from error
    if len(token) < TOKEN_CHARACTERS_MIN:
        raise _token_error(f"{path} holds {len(token)} characters; a token has at least {TOKEN_CHARACTERS_MIN}")
    return token


def _token_error(message: str) -> ConfigError:
    return ConfigError("node.yaml", [ConfigProblem("admin.tokenFile", message, "e.g. `openssl rand -hex 32 > token`")])


def page_url(config: NodeConfig) -> str:
    """Return where the page is; empty if it is not served."""
    host = config.admin.page_host
    if host is None:
        return ""
    return f"http://{f'[{host}]' if ':' in host else host}:{config.admin.page_port}/"


def read_files() -> dict[str, tuple[bytes, str]]:
    """Return the page's files by name, with their types."""
    found: dict[str, tuple[bytes, str]] = {}
    for entry in files("tidegate.admin").joinpath("web").iterdir():
        kind = TYPES.get("." + entry.name.rpartition(".")[2])
        if kind is not None:
            found[entry.name] = (entry.read_bytes(), kind)
    return found


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what the guard refuses, and answer errors as JSON."""
    guard = request.app[GUARD]
    try:
        guard.check_request(request.method, request.headers)
        if request.path not in OPEN_PATHS and not request.path.startswith("/web/"):
            guard.check_access(request.headers, request.cookies)
        return await handler(request)
    except Refusal as refusal:
        return web.json_response({"error": str(refusal)}, status=refusal.status)
    except web.HTTPException as error:
        return web.json_response({"error": error.text or error.reason}, status=error.status)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    del request
    response.headers.update(HEADERS)


async def get_page(request: web.Request) -> web.Response:
    """The page."""
    return _file(request, "index.html")


async def get_file(request: web.Request) -> web.Response:
    """One of its files."""
    return _file(request, request.match_info["name"])


def _file(request: web.Request, name: str) -> web.Response:
    found = request.app[FILES].get(name)
    if found is None:
        raise web.HTTPNotFound(text=f"there is no {name[:80]!r}")
    body, kind = found
    return web.Response(body=body, content_type=kind, charset="utf-8")


async def post_session(request: web.Request) -> web.Response:
    """Exchange the token for a cookie that scripts can't read and other sites don't send."""
    try:
        given = json.loads(await request.text())["token"]
    except (ValueError, KeyError, TypeError):
        raise web.HTTPBadRequest(text='send {"token": ".."}') from None
    session = request.app[GUARD].open_session(str(given))
    response = web.json_response({"ok": True})
    response.set_cookie(
        SESSION_COOKIE, session, max_age=int(SESSION_SECONDS), httponly=True, samesite="Strict", path="/", secure=request.secure
    )
    return response
