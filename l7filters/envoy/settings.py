"""What an operator decides about Envoy, as one value.

Owns: every limit, timeout and switch that the translation puts into a resource. Must not know policies or slots. Times are
seconds, sizes say their unit; 0 seconds means "no limit" where Envoy can do without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from l7filters.slots import SLOT_MAX

PROXY_PORT_MIN = 19000
PORT_MAX = 65535


class EscapedSlashes(StrEnum):
    """What happens to ``%2F`` and ``%5C`` in a path before it is judged."""

    UNESCAPE = "unescape"
    """They become slashes, for the policy and for the server alike."""
    REJECT = "reject"
    """400."""


class UnderscoreHeaders(StrEnum):
    """What happens to request headers with an underscore in their name. CGI-like servers take ``x_role`` for ``x-role``."""

    ALLOW = "allow"
    REJECT = "reject"
    DROP = "drop"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoySettings:
    """Defaults keep out of the way: nothing is retried, nothing ends early but what never ends by itself."""

    proxy_port_min: int = PROXY_PORT_MIN
    ipv6: bool = True
    """Listen on ::1 too. False only on a node that has no IPv6 at all: binding ``::1`` fails there."""
    reuse_port: bool = True
    """A listening socket per worker. False before kernel 6.6, where BPF can't give a connection to a SO_REUSEPORT socket."""
    transparent: bool = True
    """Listeners and upstream sockets are transparent and marked. False only in tests that dial a slot's port directly."""

    denied_body: str = "Access denied\r\n"
    denied_header: str | None = None
    """Name of the response header that says what denied a request; None: none is added."""
    escaped_slashes: EscapedSlashes = EscapedSlashes.UNESCAPE
    underscore_headers: UnderscoreHeaders = UnderscoreHeaders.ALLOW
    accept_http_10: bool = False

    connect_timeout_seconds: float = 5.0
    request_headers_timeout_seconds: float = 10.0
    request_timeout_seconds: float = 0.0
    """The whole of a request and its response."""
    stream_idle_timeout_seconds: float = 300.0
    """No byte either way on one request (or WebSocket) for this long ends it."""
    connection_idle_timeout_seconds: float = 3600.0
    """A client's connection without a request on it."""
    upstream_idle_timeout_seconds: float = 60.0
    """A server's connection without a request on it. It is never used for another client's address."""
    tcp_idle_timeout_seconds: float = 3600.0
    """A passed-through TLS connection without a byte either way."""
    listener_filters_timeout_seconds: float = 10.0
    """From accept to the end of a TLS ClientHello; then the connection is closed."""

    request_headers_kib_max: int = 60
    request_headers_count_max: int = 200
    connections_max: int = 1 << 20
    """Connections, pending requests and requests to servers at once, for the node."""
    downstream_connections_max: int = 100_000
    connection_buffer_bytes: int = 64 * 1024
    h2_concurrent_streams_max: int = 1024
    h2_stream_window_bytes: int = 256 * 1024
    h2_connection_window_bytes: int = 1024 * 1024
    tcp_backlog: int = 4096

    native_module: str | None = None
    """Path of the module that Envoy loads; None: there is none, and what needs it is not to be had. A change of it changes
    listeners."""
    maps_directory: str | None = None
    """Where the node's BPF maps are pinned: the module counts verdicts there."""

    kafka_reports: str | None = None
    """Path of the datagram socket that the module tells of Kafka requests; None: nobody listens."""

    allowed_sample: float = 0.01
    """Share of allowed requests in the access log; changed at run time through the runtime resource."""
    access_log_flush_seconds: float = 0.2
    access_log_buffer_bytes: int = 16 * 1024

    def __post_init__(self) -> None:
        assert 0 < self.proxy_port_min <= PORT_MAX - SLOT_MAX, "slot ports must be ports"
        assert 0.0 <= self.allowed_sample <= 1.0
        assert self.h2_stream_window_bytes >= 65535, "HTTP/2 flow control starts at 64 KiB"
        assert self.h2_connection_window_bytes >= 65535
        assert self.connections_max < 1 << 32
