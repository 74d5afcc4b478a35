"""The proxy's event loop: epoll and nothing else.

Owns: which handler belongs to which socket. Not asyncio: the handlers here never block, never wait and share one thread, so there
is nothing to schedule between epoll and them, and nothing needs a lock.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

EVENTS_MAX = 256
READ = select.EPOLLIN
WRITE = select.EPOLLOUT

Handler = Callable[[int], None]
"""Takes the events that epoll saw."""


class Loop:
    """Sockets and their handlers."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}

    def add(self, watched: socket.socket, handler: Handler, events: int = READ) -> None:
        """Call ``handler`` when ``watched`` is ready."""
        self._handlers[watched.fileno()] = handler
        self._epoll.register(watched.fileno(), events)

    def change(self, watched: socket.socket, events: int) -> None:
        """Wait for other events from now on."""
        self._epoll.modify(watched.fileno(), events)

    def remove(self, watched: socket.socket) -> None:
        """Forget a socket, before it is closed."""
        if self._handlers.pop(watched.fileno(), None) is not None:
            self._epoll.unregister(watched.fileno())

    def turn(self, timeout_seconds: float) -> None:
        """Wait for events at most ``timeout_seconds``, and handle those there are."""
        for number, events in self._epoll.poll(timeout_seconds, EVENTS_MAX):
            # A handler before this one may have closed it (a number is reused only by a later handler's socket, which is
            # non-blocking and finds nothing to do).
            handler = self._handlers.get(number)
            if handler is not None:
                handler(events)

    def close(self) -> None:
        """Close epoll; the sockets are their owners'."""
        self._epoll.close()
