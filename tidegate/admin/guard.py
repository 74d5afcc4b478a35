"""Who may ask the page's address: the checks between a TCP socket that browsers reach and the admin API.

Owns: those checks and the sessions. Must not know the routes. Against what:

- another site in the same browser (CSRF, and reading by <script>): requests that a browser marks as cross-site are refused, and
  whatever is not a plain read must come from our own origin; no read changes anything;
- another site that resolves its own name to our address (DNS rebinding): on loopback the Host header must be a name of loopback;
  elsewhere nothing is told without the token, and a rebound name has neither header nor cookie;
- another user or host: loopback only by default, else the token, compared in constant time.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

SESSION_COOKIE = "tidegate_session"
SESSION_SECONDS = 12 * 3600.0
SESSIONS_MAX = 64
"""People who look at one node; the oldest session goes for a new one."""
TOKEN_CHARACTERS_MIN = 16
"""A token that can't be guessed at some thousand tries a second."""
READS = frozenset({"GET", "HEAD"})
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""On every answer. Nothing comes from elsewhere, nothing runs that is not a file of ours."""


class Refusal(Exception):
    """The request is refused; ``status`` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def is_loopback(host: str) -> bool:
    """Tell whether ``host`` (an address or a name) is only this machine's."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """The checks of one listening address. ``token`` None: none is asked for, which only loopback may do."""

    def __init__(self, *, loopback: bool, token: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        assert loopback or token is not None
        self._loopback = loopback
        self._token = token
        self._clock = clock
        self._sessions: OrderedDict[str, float] = OrderedDict()

    @property
    def needs_token(self) -> bool:
        """Whether data is told only with the token."""
        return self._token is not None

    def check_request(self, method: str, headers: Mapping[str, str]) -> None:
        """Check where a request comes from. Raises Refusal."""
        host = headers.get("Host", "")
        if self._loopback and not is_loopback(_name_of(host)):
            raise Refusal(421, f"this address answers for loopback only, not for {host[:80]!r}")
        if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise Refusal(403, "requests of other sites are refused")
        if method in READS:
            return
        origin = headers.get("Origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Refusal(403, "requests of other origins are refused")
        if headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
            # A form of another site can't send this without asking first (CORS), which nobody answers.
            raise Refusal(415, "send application/json")

    def check_access(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> None:
        """Check that whoever asks may see data. Raises Refusal."""
        if self._token is None:
            return
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(given):
            return
        expires_s = self._sessions.get(cookies.get(SESSION_COOKIE, ""), 0.0)
        if expires_s <= self._clock():
            raise Refusal(401, "the token is asked for: send `Authorization: Bearer TOKEN`, or log in on the page")

    def is_token(self, given: str) -> bool:
        """Compare in a time that doesn't tell how much of it is right."""
        return self._token is not None and hmac.compare_digest(given.strip().encode(), self._token.encode())

    def open_session(self, given: str) -> str:
        """Return a new session's cookie for who knows the token. Raises Refusal."""
        if not self.is_token(given):
            raise Refusal(401, "this is not the token")
        session = secrets.token_urlsafe(32)
        self._sessions[session] = self._clock() + SESSION_SECONDS
        while len(self._sessions) > SESSIONS_MAX:
            self._sessions.popitem(last=False)
        return session


def _name_of(host: str) -> str:
    """Return the name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
