"""DNS over TCP: each client's connection has one of its own to the server that it dialled.

Owns: connections, their bounds, who waits for whom. Queries may be pipelined and answers may overtake each other (RFC 7766
6.2.1): each query gets an id of ours towards the server and its own id back. What the client leaves unread stops the reading, so
buffers are bounded.
"""

from __future__ import annotations

import socket
from collections import deque
from time import monotonic_ns as clock_ns

from proxylib.dns.arbiter import Arbiter, Asked
from proxylib.dns.counters import Counters
from proxylib.dns.loop import READ, WRITE, Loop
from proxylib.dns.report import Reason
from proxylib.dns.settings import (
    SOCKET_LIES_MAX,
    TCP_CONNECTIONS_MAX,
    TCP_CONNECTIONS_PER_ENDPOINT_MAX,
    TCP_IDLE_NS,
    TCP_QUERIES_MAX,
    TCP_UNSENT_BYTES_MAX,
    Settings,
)
from proxylib.dns.sockets import upstream
from proxylib.dns.stream import Framer, QueryStream, frame
from proxylib.dns.udp import Ids
from proxylib.errors import ProtocolError
from proxylib.ops import Drop, Inject, More, Pass

ACCEPT_MAX = 32
READ_BYTES = 64 << 10


class TcpRelay:
    """All TCP connections of the proxy."""

    def __init__(self, loop: Loop, arbiter: Arbiter, settings: Settings, counters: Counters) -> None:
        self.loop = loop
        self.arbiter = arbiter
        self.settings = settings
        self.counters = counters
        self.ids = Ids()
        self._connections: dict[Connection, None] = {}
        self._of_client: dict[str, int] = {}

    @property
    def connections(self) -> int:
        """Connections with clients."""
        return len(self._connections)

    def listen(self, slot: int, listener: socket.socket) -> None:
        """Serve the connections that arrive at ``listener``. The caller closes it after ``Loop.remove``."""
        own: tuple[str, int] = listener.getsockname()[:2]
        self.loop.add(listener, lambda _: self._on_accept(slot, listener, own))

    def _on_accept(self, slot: int, listener: socket.socket, own: tuple[str, int]) -> None:
        for _ in range(ACCEPT_MAX):
            try:
                accepted, peer = listener.accept()
            except OSError:
                return
            client: tuple[str, int] = peer[:2]
            server: tuple[str, int] = accepted.getsockname()[:2]
            dialled = self.settings.direct_server if server == own else server
            mine = self._of_client.get(client[0], 0)
            is_full = len(self._connections) >= TCP_CONNECTIONS_MAX or mine >= TCP_CONNECTIONS_PER_ENDPOINT_MAX
            if dialled is None or client[0] not in self.arbiter.parties or is_full:
                self.counters.tcp_refused += 1
                accepted.close()
                continue
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._of_client[client[0]] = mine + 1
            self._connections[Connection(self, accepted, client, server, dialled, slot)] = None

    def forget(self, connection: Connection) -> None:
        """A connection has closed."""
        del self._connections[connection]
        host = connection.client[0]
        left = self._of_client[host] - 1
        if left:
            self._of_client[host] = left
        else:
            del self._of_client[host]

    def tick(self, now_ns: int) -> None:
        """End queries that waited too long and connections that nobody uses."""
        for connection in list(self._connections):
            connection.expire(now_ns)
        for connection in [each for each in self._connections if each.is_idle(now_ns)]:
            connection.close()

    def close(self) -> None:
        """Close everything; what waits gets no answer."""
        for connection in list(self._connections):
            connection.close()


class Connection:
    """A client's connection and the one to its server."""

    def __init__(
        self,
        relay: TcpRelay,
        accepted: socket.socket,
        client: tuple[str, int],
        server: tuple[str, int],
        dialled: tuple[str, int],
        slot: int,
    ) -> None:
        self.client = client
        self._relay = relay
        self._socket = accepted
        self._server = server
        self._dialled = dialled
        self._slot = slot
        self._stream = QueryStream(self._judge)
        self._admitted: deque[Asked] = deque()
        self._open: dict[bytes, Asked] = {}
        self._to_client = bytearray()
        self._client_ended = False
        self._closed = False
        self._upstream: socket.socket | None = None
        self._framer = Framer()
        self._to_server = bytearray()
        self._lies = 0
        self._used_ns = clock_ns()
        self._interest = READ
        relay.loop.add(accepted, self._on_client)

    # ---- the client's side ----------------------------------------------------------------------------------------

    def _judge(self, message: bytes) -> bytes | None:
        self._relay.counters.queries_tcp += 1
        asked = self._relay.arbiter.admit(message, self.client, self._server, self._slot, "tcp", clock_ns())
        if isinstance(asked, bytes):
            return asked
        self._admitted.append(asked)
        return None

    def _on_client(self, events: int) -> None:
        if events & ~(READ | WRITE):
            self.close()
            return
        if events & READ and not self._read_client():
            return
        self._settle_down()

    def _read_client(self) -> bool:
        """Take what the client sent; return whether the connection still stands."""
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            self.close()
            return False
        self._used_ns = clock_ns()
        if not data:
            self._client_ended = True
            return True
        try:
            ops = self._stream.feed(data)
        except ProtocolError:
            self._relay.counters.malformed += 1
            self.close()
            return False
        for op in ops:
            match op:
                case Pass():
                    self._ask(self._admitted.popleft())
                case Inject(answer):
                    self._to_client += answer
                case Drop() | More():
                    pass
        return not self._closed

    def _settle_down(self) -> None:
        """Write what can be written, close if all is done, and say what is waited for."""
        if self._closed or not self._write_client():
            return
        self._write_upstream()
        if self._closed:
            return
        if self._client_ended and not self._open and not self._to_client:
            self.close()
            return
        is_full = len(self._open) >= TCP_QUERIES_MAX or len(self._to_client) > TCP_UNSENT_BYTES_MAX
        interest = (0 if self._client_ended or is_full else READ) | (WRITE if self._to_client else 0)
        if interest != self._interest:
            self._interest = interest
            self._relay.loop.change(self._socket, interest)

    def _write_client(self) -> bool:
        if self._to_client:
            try:
                del self._to_client[: self._socket.send(self._to_client)]
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return False
        return True

    # ---- the server's side ----------------------------------------------------------------------------------------

    def _ask(self, asked: Asked) -> None:
        if self._upstream is None:
            try:
                self._upstream = upstream(socket.SOCK_STREAM, self.client[0], self._dialled, self._relay.settings.mark)
            except OSError:
                self._relay.counters.failed_internal += 1
                self._answer(self._relay.arbiter.fail(asked, Reason.NO_SOCKET, clock_ns()))
                return
            self._framer, self._lies = Framer(), 0
            self._to_server.clear()
            self._relay.loop.add(self._upstream, self._on_upstream, READ | WRITE)
        id_ = self._relay.ids.take(self._open)
        self._open[id_] = asked
        self._to_server += frame(id_ + asked.data[2:])

    def _answer(self, message: bytes) -> None:
        self._to_client += frame(message)

    def _on_upstream(self, events: int) -> None:
        if events & READ:
            self._read_upstream()
        elif events & ~WRITE:
            self._lose_upstream()
        self._settle_down()

    def _read_upstream(self) -> None:
        assert self._upstream is not None, "its handler is removed before it is closed"
        try:
            data = self._upstream.recv(READ_BYTES)
            messages = self._framer.feed(data)
        except BlockingIOError:
            return
        except (OSError, ProtocolError):
            data, messages = b"", []
        if not data:
            self._lose_upstream()
            return
        self._used_ns = clock_ns()
        for message in messages:
            asked = self._open.get(message[:2])
            if asked is None or not asked.is_answered_by(message):
                self._on_lie(asked)
                continue
            del self._open[message[:2]]
            self._answer(self._relay.arbiter.settle(asked, message, self._used_ns))
        if self._lies >= SOCKET_LIES_MAX:
            self._relay.counters.upstream_sockets_suspect += 1
            self._lose_upstream()

    def _on_lie(self, asked: Asked | None) -> None:
        counters = self._relay.counters
        if asked is None:
            counters.upstream_lies_id += 1
        else:
            counters.upstream_lies_question += 1
        self._lies += 1

    def _write_upstream(self) -> None:
        if self._upstream is None:
            return
        if self._to_server:
            try:
                del self._to_server[: self._upstream.send(self._to_server)]
            except BlockingIOError:
                pass  # also while it is connecting
            except OSError:
                self._lose_upstream()
                return
        self._relay.loop.change(self._upstream, READ | WRITE if self._to_server else READ)

    def _lose_upstream(self) -> None:
        """The server closed or failed: ask what is open once more, as a server may close while a query is on its way."""
        self._drop_upstream()
        waiting, self._open = self._open, {}
        for asked in waiting.values():
            if self._relay.arbiter.may_ask_again(asked, clock_ns()):
                self._ask(asked)
            else:
                self._relay.counters.upstream_unreachable += 1
                self._answer(self._relay.arbiter.fail(asked, Reason.UPSTREAM_UNREACHABLE, clock_ns()))

    def _drop_upstream(self) -> None:
        if self._upstream is not None:
            self._relay.loop.remove(self._upstream)
            self._upstream.close()
            self._upstream = None

    # ---- time and ends --------------------------------------------------------------------------------------------

    def expire(self, now_ns: int) -> None:
        """End what waited too long: the first in the table was asked first, and the timeout is the same for all."""
        has_expired = False
        while self._open:
            id_, asked = next(iter(self._open.items()))
            if asked.deadline_ns > now_ns:
                break
            del self._open[id_]
            has_expired = True
            self._relay.counters.upstream_timeouts += 1
            self._answer(self._relay.arbiter.fail(asked, Reason.UPSTREAM_TIMEOUT, now_ns))
        if has_expired:
            if not self._open:
                self._drop_upstream()  # an answer that comes late must not meet a new query
            self._settle_down()

    def is_idle(self, now_ns: int) -> bool:
        """Tell whether nothing happens here: no bytes for long, and nothing asked."""
        return not self._open and now_ns - self._used_ns > TCP_IDLE_NS

    def close(self) -> None:
        """Close both sides; what is open gets no answer."""
        if self._closed:
            return
        self._closed = True
        for asked in (*self._open.values(), *self._admitted):
            self._relay.arbiter.abandon(asked)
        self._open.clear()
        self._admitted.clear()
        self._drop_upstream()
        self._relay.loop.remove(self._socket)
        self._socket.close()
        self._relay.forget(self)
