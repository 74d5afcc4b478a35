"""The API server, as far as a source needs it: get, watch, apply and create, with JSON trees in and out.

Owns: the connection (kubeconfig or the pod's service account, through ``kubernetes.aio``), its time-outs, the cutting of a watch
into events, and the errors. Must not know kinds. No object is turned into one of the client's models: a tree of dicts is what the
document parsers read, and costs a tenth.

Errors::

    ApiError          something went wrong between us and the API server; ``status`` is its HTTP code, 0 without an answer
      ApiUnavailable  no answer, or one that says "later" (429, 5xx): try again
      ApiGone         410: the version that was asked for is no longer there; list anew
      ApiAbsent       404: there is no such thing, or no such kind
      ApiRefused      anything else, e.g. 403: waiting does not mend it
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from kubernetes.aio.client.api_client import ApiClient

Tree = dict[str, Any]
"""A JSON object."""

OPENED: Tree = {"type": "OPENED", "object": {}}
"""The first event of every watch: the server has accepted it. Not one of the API's."""
CONNECT_SECONDS_MAX = 5.0
REQUEST_SECONDS_MAX = 30.0
"""Of anything but a watch: a page of a list takes well under a second."""
EVENT_BYTES_MAX = 8 << 20
"""Of one line of a watch. etcd takes objects up to 1.5 MiB; a stream that goes on beyond this is no watch."""
RESPONSE_BYTES_MAX = 256 << 20
"""Of one page of a list; 500 objects of the largest size would be three times this, real ones a hundredth."""
CONNECTIONS_MAX = 400
"""One per watch (about a dozen, and one per Secret that rules name), and a few for requests."""
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)
"""A watch may be silent for minutes; a peer that is gone without a word shows within 30 s."""
_LATER = frozenset({429, 500, 502, 503, 504})


class ApiError(Exception):
    """See the module's docstring."""

    def __init__(self, what: str, reason: str, status: int = 0, retry_after_s: float | None = None) -> None:
        super().__init__(f"{what}: {reason}")
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


class ApiUnavailable(ApiError):
    """Try again later."""


class ApiGone(ApiError):
    """That version is no longer there."""


class ApiAbsent(ApiError):
    """There is no such thing."""


class ApiRefused(ApiError):
    """It will not do that for us."""


def error_of(what: str, status: int, body: object, retry_after_s: float | None = None) -> ApiError:
    """Return the error that an answer with ``status`` and ``body`` (a Status object, if it is one) stands for."""
    message = str(body.get("message") or body.get("reason") or "") if isinstance(body, dict) else ""
    reason = f"{status} {message[:500]}".strip()
    kind: type[ApiError] = ApiRefused
    if status == 410:
        kind = ApiGone
    elif status == 404:
        kind = ApiAbsent
    elif status in _LATER:
        kind = ApiUnavailable
    return kind(what, reason, status, retry_after_s)


class EventSplitter:
    """Cuts the bytes of a watch into events. Raises ApiUnavailable for what is no event, ApiError for an ERROR event."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Tree]:
        """Take in more bytes; return the events that they complete, as ``{"type": .., "object": ..}``."""
        if b"\n" not in data:
            self._rest += data
            self._check_size()
            return []
        *lines, rest = (bytes(self._rest) + data).split(b"\n")
        self._rest = bytearray(rest)
        self._check_size()
        return [self._event(line) for line in lines if line.strip()]

    def _check_size(self) -> None:
        if len(self._rest) > EVENT_BYTES_MAX:
            raise ApiUnavailable(self._what, f"an event is larger than {EVENT_BYTES_MAX} bytes")

    def _event(self, line: bytes) -> Tree:
        try:
            event = json.loads(line)
        except ValueError as error:
            raise ApiUnavailable(self._what, "sent something that is not JSON") from error
        if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
            raise ApiUnavailable(self._what, "sent something that is not an event")
        if event.get("type") == "ERROR":
            code = event["object"].get("code")
            raise error_of(self._what, code if isinstance(code, int) else 500, event["object"])
        return event


class ApiServer:
    """One API server. Use ``async with ApiServer.connect(kubeconfig)``; on one event loop."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    @classmethod
    @asynccontextmanager
    async def connect(cls, kubeconfig: Path | None) -> AsyncGenerator[ApiServer, None]:
        """Read the credentials; no connection is made yet. ``kubeconfig`` None: this pod's service account.

        Raises ApiRefused if they can't be read.
        """
        # Here, not above: a node without a cluster has no use for these 17 MB.
        from kubernetes.aio.client.api_client import ApiClient
        from kubernetes.aio.client.configuration import Configuration
        from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

        configuration = Configuration()
        what = str(kubeconfig) if kubeconfig is not None else "the pod's service account"
        try:
            if kubeconfig is None:
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                path = str(kubeconfig)
                await load_kube_config(config_file=path, client_configuration=configuration)  # type: ignore[no-untyped-call]
        except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
            raise ApiRefused(what, f"can't be used: {error}") from error
        configuration.retries = None
        client = ApiClient(configuration)
        connector = aiohttp.TCPConnector(
            limit=CONNECTIONS_MAX, ssl=client.rest_client.ssl_context, socket_factory=_socket, keepalive_timeout=60
        )
        configuration.client_session_kwargs = {"connector": connector}
        try:
            yield cls(client)
        finally:
            await client.close()  # type: ignore[no-untyped-call]
            await connector.close()

    @property
    def host(self) -> str:
        """Its URL."""
        return str(self._client.configuration.host)

    async def get(self, path: str, query: Mapping[str, str] | None = None, accept: str = "") -> Tree:
        """Return the object or list at ``path``, in the form ``accept``. Raises ApiError."""
        return await self._ask("GET", path, query, accept=accept)

    async def apply(self, path: str, body: Tree, field_manager: str) -> Tree:
        """Apply ``body`` on the server as ``field_manager``, which owns just what it says. Raises ApiError."""
        query = {"fieldManager": field_manager, "force": "true"}
        return await self._ask("PATCH", path, query, body, "application/apply-patch+yaml")

    async def create(self, path: str, body: Tree) -> Tree:
        """Create ``body`` in the collection at ``path``. Raises ApiError."""
        return await self._ask("POST", path, None, body, "application/json")

    async def watch(self, path: str, query: Mapping[str, str], seconds_max: int) -> AsyncGenerator[Tree, None]:
        """Yield the events of the collection at ``path`` until the server ends the watch; the first is OPENED. Raises
        ApiError."""
        what = f"watch {path}"
        timeout = aiohttp.ClientTimeout(total=seconds_max + 30, sock_connect=CONNECT_SECONDS_MAX)
        response = await self._request("GET", path, {**query, "watch": "true", "timeoutSeconds": str(seconds_max)}, timeout)
        splitter = EventSplitter(what)
        try:
            if response.status != 200:
                raise error_of(what, response.status, await _json(response), _retry_after_s(response))
            yield OPENED
            async for data in response.content.iter_any():
                for event in splitter.feed(data):
                    yield event
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiUnavailable(what, _words(error)) from error
        finally:
            response.close()

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Tree | None = None,
        kind: str = "",
        accept: str = "",
    ) -> Tree:
        what = f"{method} {path}"
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS_MAX, sock_connect=CONNECT_SECONDS_MAX)
        response = await self._request(method, path, query or {}, timeout, body, kind, accept)
        try:
            answer = await _json(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiUnavailable(what, _words(error)) from error
        finally:
            response.release()
        if response.status not in (200, 201):
            raise error_of(what, response.status, answer, _retry_after_s(response))
        if not isinstance(answer, dict):
            raise ApiUnavailable(what, "answered with something that is not a JSON object")
        return answer

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        body: Tree | None = None,
        kind: str = "",
        accept: str = "",
    ) -> aiohttp.ClientResponse:
        from kubernetes.aio.config import ConfigException

        headers = {"Accept": accept or "application/json"} | ({"Content-Type": kind} if kind else {})
        try:
            request = await self._client.param_serialize(
                method, path, query_params=list(query.items()), header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            answer = await self._client.call_api(*request, _request_timeout=timeout)
        except (aiohttp.ClientError, TimeoutError, OSError, ConfigException) as error:
            raise ApiUnavailable(f"{method} {path}", _words(error)) from error
        response = answer.response
        assert isinstance(response, aiohttp.ClientResponse)
        return response


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    try:
        for level, option, value in _KEEPALIVE:
            made.setsockopt(level, option, value)
    except OSError:
        made.close()
        raise
    return made


async def _json(response: aiohttp.ClientResponse) -> object:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > RESPONSE_BYTES_MAX:
            raise aiohttp.ClientPayloadError(f"the answer is larger than {RESPONSE_BYTES_MAX} bytes")
    try:
        return await asyncio.to_thread(json.loads, bytes(data)) if len(data) > 1 << 20 else json.loads(bytes(data))
    except ValueError:
        return bytes(data[:200]).decode(errors="replace")


def _retry_after_s(response: aiohttp.ClientResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
