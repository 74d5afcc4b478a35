"""The flow ring: the last verdicts of this node, and those who follow them.

Owns: the ring, its subscribers and whoever else is handed every record (the file on disk, the meters). Must not know how a record
is made (attribution.py), wanted (filter.py) or sent (admin/api.py). Everything is bounded: the ring forgets its oldest record, a
slow reader loses its oldest unread ones, and both are counted; publishing never waits. For use from one asyncio loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import TracebackType

from tidegate.flows.filter import FlowFilter
from tidegate.flows.record import Flow, Verdict

SUBSCRIBERS_MAX = 32
"""People who follow at the same time; each costs a queue and a comparison per record."""
SUBSCRIBER_QUEUE_MAX = 2048
"""Unread records per subscriber: two seconds at 1,000 flows/s, a few megabytes."""


class TooManySubscribers(Exception):
    """The follower limit is reached; the caller's fault, to be tried again when somebody left."""


class LossSource(StrEnum):
    """Where records were lost."""

    BPF = "bpf"
    """The kernel's ring buffer was full."""
    ACCESS_LOG = "access_log"
    """Envoy's access log, or the queue behind it, was full."""
    DNS = "dns"
    """The DNS proxy's reports were more than the agent takes."""
    SUBSCRIBER = "subscriber"
    """Somebody read too slowly; others saw the record."""
    FILE = "file"
    """The disk was too slow or full; the ring has the record."""


class Subscription:
    """A reader's bounded queue; leave the ``with`` block to end it."""

    def __init__(self, ring: FlowRing, wanted: FlowFilter, queue_max: int) -> None:
        self._ring = ring
        self._wanted = wanted
        self._queue: deque[Flow] = deque(maxlen=queue_max)
        self._ready = asyncio.Event()
        self._lost = 0

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ring._leave(self)

    async def batch(self) -> tuple[tuple[Flow, ...], int]:
        """Wait for records; return all that are queued and how many were lost before the first of them."""
        await self._ready.wait()
        self._ready.clear()
        flows, lost = tuple(self._queue), self._lost
        self._queue.clear()
        self._lost = 0
        return flows, lost

    def _offer(self, flow: Flow) -> bool:
        """Queue ``flow`` if wanted; return False if an unread record had to go for it."""
        if not self._wanted.matches(flow):
            return True
        full = len(self._queue) == self._queue.maxlen
        self._queue.append(flow)
        self._lost += full
        self._ready.set()
        return not full


class FlowRing:
    """The last ``capacity`` records. ``on_followers`` is told the number of subscribers whenever it changes.

    The agent uses that to have every allowed request recorded while somebody looks, and few otherwise.
    """

    def __init__(
        self,
        capacity: int,
        *,
        queue_max: int = SUBSCRIBER_QUEUE_MAX,
        on_followers: Callable[[int], None] | None = None,
    ) -> None:
        assert capacity > 0
        assert queue_max > 0
        self._records: deque[Flow] = deque(maxlen=capacity)
        self._queue_max = queue_max
        self._subscribers: list[Subscription] = []
        self._on_followers = on_followers
        self._taps: list[Callable[[Flow], None]] = []
        self._seen: Counter[Verdict] = Counter()
        self._lost: Counter[LossSource] = Counter()
        self._loss_readers: dict[LossSource, Callable[[], int]] = {}

    @property
    def capacity(self) -> int:
        """How many records are kept."""
        return self._records.maxlen or 0

    @property
    def follower_count(self) -> int:
        """How many follow now."""
        return len(self._subscribers)

    @property
    def seen(self) -> Mapping[Verdict, int]:
        """Records published so far, by verdict. A sample: exact counts are in the BPF maps."""
        return dict(self._seen)

    @property
    def lost(self) -> Mapping[LossSource, int]:
        """Records lost so far, by where."""
        return {source: self._lost[source] + self._read_loss(source) for source in LossSource}

    def tap(self, take: Callable[[Flow], None]) -> None:
        """Hand every record to ``take`` from now on. It must be quick, never wait and never fail."""
        self._taps.append(take)

    def count_losses(self, source: LossSource, read: Callable[[], int]) -> None:
        """Take the losses of ``source`` from who counts them himself."""
        self._loss_readers[source] = read

    def publish(self, flow: Flow) -> None:
        """Keep ``flow`` and hand it to whoever follows; never waits."""
        self._seen[flow.verdict] += 1
        self._records.append(flow)
        for tap in self._taps:
            tap(flow)
        for subscriber in self._subscribers:
            if not subscriber._offer(flow):
                self._lost[LossSource.SUBSCRIBER] += 1

    def report_lost(self, source: LossSource, count: int) -> None:
        """Count records that were lost before they came here."""
        assert count >= 0
        self._lost[source] += count

    def _read_loss(self, source: LossSource) -> int:
        read = self._loss_readers.get(source)
        return read() if read is not None else 0

    def recent(self, wanted: FlowFilter, last: int | None = None) -> tuple[Flow, ...]:
        """Return the kept records that match, oldest first; only the ``last`` of them if given."""
        found: list[Flow] = []
        for flow in reversed(self._records):
            if last is not None and len(found) >= last:
                break
            if wanted.matches(flow):
                found.append(flow)
        return tuple(reversed(found))

    def find(self, uuid: str) -> Flow | None:
        """Return the kept record with this id."""
        return next((flow for flow in reversed(self._records) if flow.uuid == uuid), None)

    def subscribe(self, wanted: FlowFilter) -> Subscription:
        """Follow what comes from now on. With ``recent`` called before the next await there is no gap and no repeat.

        Raises TooManySubscribers.
        """
        if len(self._subscribers) >= SUBSCRIBERS_MAX:
            raise TooManySubscribers(f"{SUBSCRIBERS_MAX} readers follow already; close one and try again")
        subscription = Subscription(self, wanted, self._queue_max)
        self._subscribers.append(subscription)
        self._tell_followers()
        return subscription

    def _leave(self, subscription: Subscription) -> None:
        if subscription in self._subscribers:
            self._subscribers.remove(subscription)
            self._tell_followers()

    def _tell_followers(self) -> None:
        if self._on_followers is not None:
            self._on_followers(len(self._subscribers))
