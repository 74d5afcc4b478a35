"""The HTTP request as policy sees it: after Envoy has read it, before any rule has judged it.

Owns: the request value, the spelling of its path after normalisation, and what several headers of one name amount to.
Must not know rules. Both halves restate what the slot listeners' connection manager does (``normalize_path``,
``merge_slashes``, ``path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD``), quirks included, because a rule is only
as good as the agreement on what it judges; tests/unit/evaluate/test_request_envoy.py holds it against the real binary.

The order, each step on the path without its query (RFC 3986 section 6.2.2 where it has an opinion):

1. ``%2F`` and ``%5C`` become ``/`` and ``\\``.
2. A dot segment loses its parameters: ``/..;x/`` is ``/../``. Only a dot spelled as a dot.
3. Canonical form: ``\\`` is ``/``; dot segments go; escaped unreserved characters are unescaped; some raw ones are escaped.
4. Runs of slashes become one, except that a path of slashes only stays ``//``.
5. A dot segment that has parameters by now was spelled ``/%2e%2e;x/``: there are servers that go up by it, so it is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from string import ascii_letters, digits
from typing import Final

PATH_BYTES_MAX: Final = 60 * 1024
"""Envoy's default limit on all request headers together; a longer path never reaches a rule."""

_UNRESERVED: Final = frozenset(ascii_letters + digits + "-._~")
_ESCAPED_WHEN_RAW: Final = frozenset('"<>^`{|}')
_VISIBLE: Final = re.compile(r"[\x21-\x7e]*")
_ESCAPED_SLASH: Final = re.compile(r"%(2[Ff]|5[Cc])")
_DOT_SEGMENT_PARAMETERS: Final = re.compile(r"(/\.\.?);[^/]*")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_OF_THE_CONNECTION: Final = frozenset({"connection", "keep-alive", "proxy-connection"})
_KEPT_AS_ONE: Final = frozenset(
    {
        *("accept", "accept-encoding", "access-control-request-headers", "access-control-request-method", "authorization"),
        *("cache-control", "content-encoding", "content-type", "expect", "grpc-accept-encoding", "grpc-timeout", "if-match"),
        *("if-modified-since", "if-none-match", "origin", "pragma", "referer", "user-agent", "via", "x-client-trace-id"),
        *("x-envoy-external-address", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto"),
        "x-request-id",
    }
)
"""Headers that Envoy joins while it reads them: it then leaves empty values out, which it doesn't for others."""
_HOST_AND_PORT: Final = re.compile(r".+:[0-9]{1,5}")
_ABSOLUTE_FORM: Final = re.compile(r"(?i)https?://([^/?#]+)(/.*)?")


def normalise_path(path: str) -> str | None:
    """Return ``path`` (with its query as spelled) as rules see it and the server gets it, or None.

    None: Envoy answers such a request itself (400), so no rule judges it and no server sees it.
    """
    if not path.startswith("/") or len(path) > PATH_BYTES_MAX or "#" in path or not _VISIBLE.fullmatch(path):
        return None
    location, mark, query = path.partition("?")
    location = _ESCAPED_SLASH.sub(lambda found: "/" if found[1][0] == "2" else "\\", location)
    location = _DOT_SEGMENT_PARAMETERS.sub(r"\1", location)
    if "%00" in location:
        return None
    location = _merge_slashes(_remove_dot_segments(_canonical_escapes(location)))
    return None if _DOT_SEGMENT_PARAMETERS.search(location) else location + mark + query


def _canonical_escapes(location: str) -> str:
    """Unescape what needs no escape and escape what may not stand raw.

    Unescaping never makes a new escape: in ``%2%66`` the stray ``%`` becomes ``%25``, which gives ``%252f``.
    """
    written: list[str] = []
    stray: int | None = None  # where in ``written`` the last % stands that begins no escape
    index = 0
    while index < len(location):
        character = location[index]
        escape = _ESCAPE.match(location, index) if character == "%" else None
        if escape is None:
            if character == "%":
                stray = len(written)
            written.append(
                f"%{ord(character):02X}" if character in _ESCAPED_WHEN_RAW else "/" if character == "\\" else character
            )
            index += 1
            continue
        index = escape.end()
        unescaped = chr(int(escape[1], 16))
        if unescaped not in _UNRESERVED:
            written.append(escape[0])
            continue
        written.append(unescaped)
        if stray is not None and len(written) - stray <= 3:
            after_stray = "".join(written[stray:]) + (location[index : index + 1] if len(written) - stray == 2 else "")
            if _ESCAPE.fullmatch(after_stray):
                written[stray] = "%25"
                stray = None
    return "".join(written)


def _remove_dot_segments(location: str) -> str:
    """Apply RFC 3986 section 5.2.4; empty segments count as segments, so ``/a//../b`` is ``/a/b``."""
    segments = location.split("/")[1:]
    kept: list[str] = []
    for segment in segments:
        match segment:
            case ".":
                continue
            case "..":
                if kept:
                    kept.pop()
            case _:
                kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _merge_slashes(location: str) -> str:
    if "//" not in location:
        return location
    return "/" + "/".join(segment for segment in location.split("/") if segment) + ("/" if location.endswith("/") else "")


@dataclass(frozen=True, kw_only=True)
class HttpRequest:
    """One request. ``path`` is ``:path`` as the client spelled it; ``authority`` keeps its port.

    ``headers`` are (name, value) pairs in the order received, names in any case, values without surrounding blanks.
    """

    method: str
    path: str
    authority: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, line: str, *, authority: str = "", headers: tuple[tuple[str, str], ...] = ()) -> HttpRequest:
        """Return the request of ``METHOD TARGET``, as in ``GET /path`` or ``GET http://host:port/path``.

        A ``Host`` header serves as the authority when there is no other. Raises ValueError if ``line`` isn't that.
        """
        words = line.split(" ")
        if len(words) != 2 or not all(words):
            raise ValueError(f"an HTTP request is written METHOD PATH, as in 'GET /status'; this is {line!r}")
        method, target = words
        hosts = [value for name, value in headers if name.lower() == "host"]
        others = tuple((name, value) for name, value in headers if name.lower() != "host")
        absolute = _ABSOLUTE_FORM.fullmatch(target)
        if absolute:
            return cls(method=method, path=absolute[2] or "/", authority=absolute[1], headers=others)
        return cls(method=method, path=target, authority=authority or ",".join(hosts), headers=others)

    @cached_property
    def normalised_path(self) -> str | None:
        """``:path`` with its query as rules judge it; None: refused before any rule."""
        return normalise_path(self.path)

    @cached_property
    def location(self) -> str | None:
        """The normalised path without its query."""
        return None if self.normalised_path is None else self.normalised_path.partition("?")[0]

    @property
    def is_connect(self) -> bool:
        """Whether this asks for a tunnel; it then has no path."""
        return self.method == "CONNECT"

    @property
    def is_refused(self) -> bool:
        """Whether Envoy answers this itself, before any rule. A tunnel must name its port."""
        if self.is_connect:
            return not _HOST_AND_PORT.fullmatch(self.authority)
        return self.normalised_path is None

    def query_values(self, name: str) -> tuple[str, ...]:
        """Return the decoded values of every occurrence of a parameter; one without ``=`` has the value ''.

        ``name`` is compared decoded too, so no spelling of it hides. ``+`` stays ``+``.
        """
        items = (item.partition("=") for item in self.path.partition("?")[2].split("&"))
        return tuple(_decoded(value) for spelled, _, value in items if _decoded(spelled) == name)

    def header(self, name: str) -> str | None:
        """Return the value of a header, None when no rule sees it; several lines of one name are one value, joined by commas.

        ``name`` is lower case; ``host`` is the authority. Headers that are about the connection, and those that ``Connection``
        names, are gone before a rule looks.
        """
        if name in ("host", ":authority"):
            return self.authority
        nominated = {
            each.strip().lower() for held, value in self.headers if held.lower() == "connection" for each in value.split(",")
        }
        if name in _OF_THE_CONNECTION or name in nominated:
            return None
        values = [value for held, value in self.headers if held.lower() == name]
        if not values:
            return None
        if name in _KEPT_AS_ONE:
            values = [value for value in values if value] or [""]
        return ",".join(values)


def _decoded(text: str) -> str:
    raw = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    return raw.encode("latin-1").decode("utf-8", "surrogateescape")
