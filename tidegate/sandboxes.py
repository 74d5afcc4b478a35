"""What the CNI plugin says of pods that are about to start, and what it is answered.

Owns: the two requests of the admin API (docs/kubernetes.md, "No packet before policy") and their JSON. The plugin has closed the
pod's interface already; it waits here until the pod's policy is in force. Must not know how that is found out.

    POST   /v1/sandboxes[?wait=SECONDS]   a sandbox; {"open": bool, "message": str} when it is open, at the latest after SECONDS
    DELETE /v1/sandboxes                  it is gone
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

from aiohttp import web

ADDRESSES_MAX = 16
TEXT_CHARS_MAX = 512
WAIT_SECONDS_MAX = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A pod's network as the runtime has just made it."""

    namespace: str
    name: str
    container: str
    interface: str = ""
    """The host side of its veth."""
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    uid: str = ""

    @property
    def key(self) -> str:
        """``namespace/name`` of the pod."""
        return f"{self.namespace}/{self.name}"


class SandboxKeeper(Protocol):
    """Who makes a pod's policy come into force."""

    async def open_sandbox(self, sandbox: Sandbox, wait_seconds: float) -> str:
        """Return "" once the pod's policy is in force, or after ``wait_seconds`` why it is not."""

    async def forget_sandbox(self, sandbox: Sandbox) -> None:
        """The sandbox is gone."""


def parse_sandbox(text: str) -> Sandbox:
    """Read the body of a request. Raises ValueError."""
    tree = json.loads(text)
    if not isinstance(tree, dict):
        raise ValueError("not an object")  # noqa: TRY004
    words = {name: tree.get(name, "") for name in ("namespace", "name", "container", "interface", "uid")}
    for name, value in words.items():
        if not isinstance(value, str) or len(value) > TEXT_CHARS_MAX:
            raise ValueError(f"{name} is not a string of at most {TEXT_CHARS_MAX} characters")
    if not words["namespace"] or not words["name"]:
        raise ValueError("namespace and name are needed: does the runtime set K8S_POD_NAMESPACE and K8S_POD_NAME in CNI_ARGS?")
    texts = tree.get("addresses", [])
    if not isinstance(texts, Sequence) or isinstance(texts, str) or len(texts) > ADDRESSES_MAX:
        raise ValueError(f"addresses is not a list of at most {ADDRESSES_MAX}")
    return Sandbox(**words, addresses=tuple(ip_address(item) for item in texts))


def add_routes(app: web.Application, keeper: SandboxKeeper) -> None:
    """Serve the two requests."""

    async def post(request: web.Request) -> web.Response:
        sandbox = await _sandbox_of(request)
        if not sandbox.interface or not sandbox.addresses:
            raise web.HTTPBadRequest(text="interface and addresses are needed")
        problem = await keeper.open_sandbox(sandbox, _wait_seconds(request))
        return web.json_response({"open": not problem, "message": problem})

    async def delete(request: web.Request) -> web.Response:
        await keeper.forget_sandbox(await _sandbox_of(request))
        return web.json_response({})

    app.router.add_post("/v1/sandboxes", post)
    app.router.add_delete("/v1/sandboxes", delete)


async def _sandbox_of(request: web.Request) -> Sandbox:
    try:
        return parse_sandbox(await request.text())
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"not a sandbox: {error}") from error


def _wait_seconds(request: web.Request) -> float:
    try:
        seconds = float(request.query.get("wait", "0"))
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= WAIT_SECONDS_MAX:
        raise web.HTTPBadRequest(text=f"wait is a number from 0 to {WAIT_SECONDS_MAX:g}")
    return seconds
