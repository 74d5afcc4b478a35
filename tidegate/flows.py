"""The flow ring: the last verdicts of this node, and those who follow them.

Owns: the ring, its subscribers and the filters over records. Must not know how a record is made (attribution.py) or sent
(admin.py). Everything is bounded: the ring forgets its oldest record, a slow reader loses its oldest unread ones, and both
are counted; publishing never waits. For use from one asyncio loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType

from tidegate.flow import Flow, FlowEnd, Verdict, protocol_name, transport_name

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
    SUBSCRIBER = "subscriber"
    """Somebody read too slowly; others saw the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowFilter:
    """Which records somebody wants: all that is set must hold; empty means any."""

    verdicts: frozenset[Verdict] = frozenset()
    namespaces: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    """``name`` or ``namespace/name`` of either end."""
    protocols: frozenset[str] = frozenset()
    """http, grpc, tls, dns, kafka, tcp, udp, icmp, icmpv6, ...: L7 and transport names alike."""
    since_ns: int = 0

    def matches(self, flow: Flow) -> bool:
        """Tell whether ``flow`` is wanted."""
        if flow.time_ns < self.since_ns:
            return False
        if self.verdicts and flow.verdict not in self.verdicts:
            return False
        ends = (flow.source, flow.destination)
        if self.namespaces and not any(end.namespace in self.namespaces for end in ends):
            return False
        if self.names and not any(_is_named(end, self.names) for end in ends):
            return False
        return not self.protocols or not self.protocols.isdisjoint(_protocol_names(flow))

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> FlowFilter:
        """Read a filter from URL parameters (lists are comma-separated). Raises ValueError with what to write instead."""
        return cls(
            verdicts=parse_verdicts(_listed(query.get("verdict", ""))),
            namespaces=frozenset(_listed(query.get("namespace", ""))),
            names=frozenset(_listed(query.get("name", ""))),
            protocols=frozenset(word.lower() for word in _listed(query.get("protocol", ""))),
            since_ns=_parse_since(query.get("since_ns", "0")),
        )

    def to_query(self) -> dict[str, str]:
        """Return the URL parameters that ``from_query`` reads back."""
        query = {
            "verdict": ",".join(sorted(self.verdicts)),
            "namespace": ",".join(sorted(self.namespaces)),
            "name": ",".join(sorted(self.names)),
            "protocol": ",".join(sorted(self.protocols)),
            "since_ns": str(self.since_ns) if self.since_ns else "",
        }
        return {key: value for key, value in query.items() if value}


def parse_verdicts(words: Iterable[str]) -> frozenset[Verdict]:
    """Read verdict names in our spelling or Hubble's.

    ``dropped`` covers denials too, as in Hubble; ``denied`` is policy's alone. Raises ValueError naming the choices.
    """
    found: set[Verdict] = set()
    for word in words:
        match word.strip().lower():
            case "dropped":
                found |= {Verdict.DROPPED, Verdict.DENIED}
            case "audit":
                found.add(Verdict.AUDITED)
            case lower:
                try:
                    found.add(Verdict(lower))
                except ValueError:
                    choices = ", ".join(verdict.value for verdict in Verdict)
                    raise ValueError(f"{word!r} is no verdict; write one of {choices}") from None
    return frozenset(found)


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
        self._seen: Counter[Verdict] = Counter()
        self._lost: Counter[LossSource] = Counter()

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
        return {source: self._lost[source] for source in LossSource}

    def publish(self, flow: Flow) -> None:
        """Keep ``flow`` and hand it to whoever follows; never waits."""
        self._seen[flow.verdict] += 1
        self._records.append(flow)
        for subscriber in self._subscribers:
            if not subscriber._offer(flow):
                self._lost[LossSource.SUBSCRIBER] += 1

    def report_lost(self, source: LossSource, count: int) -> None:
        """Count records that were lost before they came here."""
        assert count >= 0
        self._lost[source] += count

    def recent(self, wanted: FlowFilter, last: int | None = None) -> tuple[Flow, ...]:
        """Return the kept records that match, oldest first; only the ``last`` of them if given."""
        found: list[Flow] = []
        for flow in reversed(self._records):
            if last is not None and len(found) >= last:
                break
            if wanted.matches(flow):
                found.append(flow)
        return tuple(reversed(found))

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


def _is_named(end: FlowEnd, names: frozenset[str]) -> bool:
    return bool(end.name) and (end.name in names or end.key in names)


def _protocol_names(flow: Flow) -> set[str]:
    names = {protocol_name(flow), transport_name(flow.protocol)}
    return names | {"http"} if "grpc" in names else names


def _listed(text: str) -> list[str]:
    return [word for word in (part.strip() for part in text.split(",")) if word]


def _parse_since(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise ValueError(f"since_ns is nanoseconds since the epoch, not {text[:40]!r}")
    return int(text)
