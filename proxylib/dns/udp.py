"""DNS over UDP: from the pod to the server it asked, and back in the server's name.

Owns: sockets towards servers, ids, what a lie is. A (pod, server) pair has one connected socket from the pod's address with a
port of the kernel's choice; each query gets a random id on it. To forge an answer one must hit server, port, id, question and the
client's letter case; wrong answers are counted and ignored, and too many make the pair move to another port.
"""

from __future__ import annotations

import os
import socket
from collections import OrderedDict
from time import monotonic_ns as clock_ns

from proxylib.dns.arbiter import Arbiter, Asked
from proxylib.dns.counters import Counters
from proxylib.dns.loop import Loop
from proxylib.dns.message import HEADER_BYTES, MESSAGE_BYTES_MAX
from proxylib.dns.report import Reason
from proxylib.dns.settings import (
    SOCKET_AGE_NS_MAX,
    SOCKET_LIES_MAX,
    SOCKET_QUERIES_MAX,
    UPSTREAM_SOCKETS_MAX,
    Settings,
)
from proxylib.dns.sockets import ANCILLARY_BYTES, ReplySocket, Sender, original_destination, upstream

BATCH_MAX = 32
"""Datagrams taken from one socket before the others get their turn."""
QUERY_BYTES_MAX = 4096
"""A longer query is none: names are at most 255 bytes, options are few."""
IDS_BYTES = 8192
_CUT_SHORT = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
IDLE_FLOWS_PER_TICK = 64


class Ids:
    """Random 16-bit numbers as bytes, fetched from the kernel many at a time."""

    __slots__ = ("_pool", "_position")

    def __init__(self) -> None:
        self._pool = b""
        self._position = 0

    def take(self, taken: dict[bytes, Asked]) -> bytes:
        """Return one that is not in ``taken``, which must hold far fewer than there are."""
        assert len(taken) < 1 << 15, "more open queries than ids to hide them among"
        while True:
            if self._position == len(self._pool):
                self._pool = os.urandom(IDS_BYTES)
                self._position = 0
            found = self._pool[self._position : self._position + 2]
            self._position += 2
            if found not in taken:
                return found


class Flow:
    """A pod and a server it asks."""

    __slots__ = ("current", "dialled", "reply", "sender", "server", "used_ns")

    def __init__(self, client: str, server: tuple[str, int], dialled: tuple[str, int], reply: ReplySocket) -> None:
        self.server = server
        self.dialled = dialled
        self.sender = Sender(server, client)
        self.reply = reply
        self.current: UpstreamSocket | None = None
        self.used_ns = 0


class UpstreamSocket:
    """One source port of a flow, and the queries that are open on it."""

    __slots__ = ("born_ns", "flow", "given_up", "lies", "open", "queries", "retired", "socket")

    def __init__(self, flow: Flow, made: socket.socket, born_ns: int) -> None:
        self.flow = flow
        self.socket = made
        self.born_ns = born_ns
        self.open: dict[bytes, Asked] = {}
        self.given_up: set[bytes] = set()
        """Ids whose time ran out: an answer to them is late, not a lie. At most SOCKET_QUERIES_MAX."""
        self.queries = 0
        self.lies = 0
        self.retired = False


class UdpRelay:
    """All UDP traffic of the proxy."""

    def __init__(self, loop: Loop, arbiter: Arbiter, settings: Settings, counters: Counters) -> None:
        self._loop = loop
        self._arbiter = arbiter
        self._settings = settings
        self._counters = counters
        families = {socket.AF_INET6 if ":" in address else socket.AF_INET for address in settings.listen_addresses}
        self._replies = {family: ReplySocket(family, settings.mark) for family in families}
        self._flows: OrderedDict[tuple[str, bytes], Flow] = OrderedDict()
        self._sockets: dict[UpstreamSocket, None] = {}
        self._ids = Ids()
        self._buffer = bytearray(MESSAGE_BYTES_MAX)
        self._view = memoryview(self._buffer)

    @property
    def sockets(self) -> int:
        """Sockets towards servers."""
        return len(self._sockets)

    def listen(self, slot: int, listener: socket.socket) -> None:
        """Serve the queries that arrive at ``listener``. The caller closes it after ``Loop.remove``."""
        own: tuple[str, int] = listener.getsockname()[:2]
        self._loop.add(listener, lambda _: self._on_queries(slot, listener, own))

    # ---- queries --------------------------------------------------------------------------------------------------

    def _on_queries(self, slot: int, listener: socket.socket, own: tuple[str, int]) -> None:
        for _ in range(BATCH_MAX):
            try:
                data, ancillary, flags, client = listener.recvmsg(QUERY_BYTES_MAX, ANCILLARY_BYTES)
            except OSError:
                return  # nothing there; or an error that a datagram before left behind, and it is now read off
            self._counters.queries_udp += 1
            if flags & _CUT_SHORT or not ancillary:
                self._counters.malformed += 1
                continue
            key = (client[0], ancillary[0][2])
            flow = self._flows.get(key)
            if flow is None:
                flow = self._add_flow(key, original_destination(ancillary), own, listener.family)
                if flow is None:
                    self._counters.dropped += 1
                    continue
            else:
                self._flows.move_to_end(key)
            self._on_query(data, client, flow, slot)

    def _on_query(self, data: bytes, client: tuple[str, int], flow: Flow, slot: int) -> None:
        now_ns = flow.used_ns = clock_ns()
        asked = self._arbiter.admit(data, client, flow.server, slot, "udp", now_ns)
        if isinstance(asked, bytes):
            if asked:
                self._reply(flow, asked, client)
            return
        self._ask(asked, flow, now_ns)

    def _add_flow(self, key: tuple[str, bytes], server: tuple[str, int], own: tuple[str, int], family: int) -> Flow | None:
        is_direct = server == own
        dialled = self._settings.direct_server if is_direct else server
        if dialled is None or (":" in dialled[0]) != (":" in key[0]):
            return None
        flow = Flow(key[0], server, dialled, self._replies[socket.AddressFamily(family)])
        self._flows[key] = flow
        if len(self._flows) > UPSTREAM_SOCKETS_MAX:
            self._retire(self._flows.popitem(last=False)[1])
        return flow

    def _ask(self, asked: Asked, flow: Flow, now_ns: int) -> None:
        current = flow.current
        if current is None or current.queries >= SOCKET_QUERIES_MAX or now_ns - current.born_ns > SOCKET_AGE_NS_MAX:
            self._retire(flow)
            try:
                made = upstream(socket.SOCK_DGRAM, asked.client[0], flow.dialled, self._settings.mark)
            except OSError:
                self._counters.failed_internal += 1
                self._reply(flow, self._arbiter.fail(asked, Reason.NO_SOCKET, now_ns), asked.client)
                return
            current = flow.current = UpstreamSocket(flow, made, now_ns)
            self._sockets[current] = None
            # A bound variable per socket: `current` of a later call must not be meant.
            self._loop.add(made, lambda _, mine=current: self._on_answers(mine))  # type: ignore[misc]  # mypy#15459
        id_ = self._ids.take(current.open)
        current.open[id_] = asked
        current.queries += 1
        try:
            current.socket.send(id_ + asked.data[2:])
        except BlockingIOError:
            pass  # as if lost on the way: the timeout ends it
        except OSError:
            self._unreachable(current, now_ns)

    # ---- answers --------------------------------------------------------------------------------------------------

    def _on_answers(self, current: UpstreamSocket) -> None:
        for _ in range(BATCH_MAX):
            try:
                size = current.socket.recv_into(self._buffer)
            except BlockingIOError:
                return
            except OSError:
                self._unreachable(current, clock_ns())
                return
            self._on_answer(current, bytes(self._view[:size]))
            if current not in self._sockets:
                return

    def _on_answer(self, current: UpstreamSocket, data: bytes) -> None:
        id_ = data[:2]
        asked = current.open.get(id_) if len(data) >= HEADER_BYTES else None
        if asked is None or not asked.is_answered_by(data):
            self._on_lie(current, asked, data)
            return
        del current.open[id_]
        self._reply(current.flow, self._arbiter.settle(asked, data, clock_ns()), asked.client)
        if current.retired and not current.open:
            self._close(current)

    def _on_lie(self, current: UpstreamSocket, asked: Asked | None, data: bytes) -> None:
        if asked is None and data[:2] in current.given_up:
            current.given_up.discard(data[:2])
            self._counters.upstream_late += 1
            return
        if asked is None:
            self._counters.upstream_lies_id += 1
        else:
            self._counters.upstream_lies_question += 1
        current.lies += 1
        if current.lies < SOCKET_LIES_MAX or current.retired:
            return
        self._counters.upstream_sockets_suspect += 1
        flow = current.flow
        waiting, current.open = current.open, {}
        flow.current = None
        self._close(current)
        now_ns = clock_ns()
        for each in waiting.values():
            if self._arbiter.may_ask_again(each, now_ns):
                self._ask(each, flow, now_ns)
            else:
                self._reply(flow, self._arbiter.fail(each, Reason.UPSTREAM_LIES, now_ns), each.client)

    def _unreachable(self, current: UpstreamSocket, now_ns: int) -> None:
        """The server's host says that nobody listens, or there is no way to it: whoever waits is told at once."""
        waiting, current.open = current.open, {}
        if current.flow.current is current:
            current.flow.current = None
        self._close(current)
        for asked in waiting.values():
            self._counters.upstream_unreachable += 1
            self._reply(current.flow, self._arbiter.fail(asked, Reason.UPSTREAM_UNREACHABLE, now_ns), asked.client)

    def _reply(self, flow: Flow, data: bytes, client: tuple[str, int]) -> None:
        try:
            flow.reply.send(data, flow.sender, client)
        except OSError:
            self._counters.reply_failed += 1

    # ---- time and ends --------------------------------------------------------------------------------------------

    def _retire(self, flow: Flow) -> None:
        """Ask nothing more on a flow's socket; it is closed when its last query ends."""
        current, flow.current = flow.current, None
        if current is not None:
            current.retired = True
            if not current.open:
                self._close(current)

    def _close(self, current: UpstreamSocket) -> None:
        if current in self._sockets:
            del self._sockets[current]
            self._loop.remove(current.socket)
            current.socket.close()

    def tick(self, now_ns: int) -> None:
        """End what waited too long, and close sockets that nobody uses."""
        for current in list(self._sockets):
            self._expire(current, now_ns)
        for _ in range(min(IDLE_FLOWS_PER_TICK, len(self._flows))):
            key = next(iter(self._flows))
            if now_ns - self._flows[key].used_ns <= SOCKET_AGE_NS_MAX:
                break
            self._retire(self._flows.pop(key))

    def _expire(self, current: UpstreamSocket, now_ns: int) -> None:
        """End what waited too long on one socket: the first in the table was asked first, and the timeout is the same for all."""
        while current.open:
            id_, asked = next(iter(current.open.items()))
            if asked.deadline_ns > now_ns:
                return
            del current.open[id_]
            current.given_up.add(id_)
            self._counters.upstream_timeouts += 1
            self._reply(current.flow, self._arbiter.fail(asked, Reason.UPSTREAM_TIMEOUT, now_ns), asked.client)
        if current.retired:
            self._close(current)

    def close(self) -> None:
        """Close all sockets; what waits gets no answer."""
        for current in list(self._sockets):
            for asked in current.open.values():
                self._arbiter.abandon(asked)
            self._close(current)
        for reply in self._replies.values():
            reply.close()
