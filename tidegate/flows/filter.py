"""Which flow records somebody wants: one filter language for the command, the admin API, the page and files.

Owns: the fields of a filter, how they are written, and what they match. Pure: the time of day comes in as an argument. Must not
know where records are kept. docs/flows.md tells a reader the same.

All fields that are given must hold; of one field's values, any. A filter is written as URL parameters, lists with commas::

    verdict=denied,error&namespace=default&status=4xx&path=^/v1/&since=5m
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from l7filters.model import PolicyKey
from tidegate.flows.record import (
    NANOSECONDS,
    DnsPart,
    Flow,
    FlowEnd,
    HttpPart,
    KafkaPart,
    Verdict,
    parse_origin,
    protocol_name,
    transport_name,
)

if TYPE_CHECKING:
    import re2

T = TypeVar("T")

VALUES_MAX = 64
"""Values of one field: more than a person writes, few enough to compare with every record."""
VALUE_CHARACTERS_MAX = 512
"""A name, a label or a pattern is shorter; a path regex of this size is somebody's mistake."""
REGEX_MEMORY_BYTES_MAX = 1 << 20
"""RE2 refuses an expression whose automaton would need more. Matching is linear in the path whatever the expression."""
PORT_MAX = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowFilter:
    """Which records somebody wants: all that is set must hold; empty means any. Raises ValueError on a path that is no regex."""

    verdicts: frozenset[Verdict] = frozenset()
    namespaces: frozenset[str] = frozenset()
    """Of either end."""
    names: frozenset[str] = frozenset()
    """Of either end: see ``is_named``."""
    sources: frozenset[str] = frozenset()
    """The same of who asked."""
    destinations: frozenset[str] = frozenset()
    """The same of who was asked."""
    labels: frozenset[str] = frozenset()
    """``key``, ``key=value`` or ``source:key=value`` of either end; several must all be on one end."""
    ports: frozenset[int] = frozenset()
    """Of the destination."""
    protocols: frozenset[str] = frozenset()
    """http, grpc, tls, dns, kafka, tcp, udp, icmp, icmpv6, ...: L7 and transport names alike."""
    methods: frozenset[str] = frozenset()
    """HTTP methods or Kafka APIs, in any case."""
    path: str = ""
    """RE2, found anywhere in the path of a request."""
    statuses: frozenset[str] = frozenset()
    """``404`` or ``4xx``."""
    topics: frozenset[str] = frozenset()
    """Kafka topics; ``*`` stands for anything."""
    dns_names: frozenset[str] = frozenset()
    """Names asked for; ``*`` stands for anything."""
    policies: frozenset[str] = frozenset()
    """Of the policy that decided or came nearest: its key (``cnp/default/web``), ``default/web`` or ``web``."""
    since_ns: int = 0
    until_ns: int = 0
    """0: no end."""

    def __post_init__(self) -> None:
        if self.path:
            _regex(self.path)

    def matches(self, flow: Flow) -> bool:
        """Tell whether ``flow`` is wanted."""
        if flow.time_ns < self.since_ns or (self.until_ns and flow.time_ns > self.until_ns):
            return False
        if self.verdicts and flow.verdict not in self.verdicts:
            return False
        return self._ends_match(flow) and self._message_matches(flow) and self._policy_matches(flow)

    def _ends_match(self, flow: Flow) -> bool:
        ends = (flow.source, flow.destination)
        if self.namespaces and not any(end.namespace in self.namespaces for end in ends):
            return False
        if self.names and not any(is_named(end, self.names) for end in ends):
            return False
        if self.sources and not is_named(flow.source, self.sources):
            return False
        if self.destinations and not is_named(flow.destination, self.destinations):
            return False
        if self.labels and not any(all(_has_label(end, label) for label in self.labels) for end in ends):
            return False
        return not self.ports or flow.destination.port in self.ports

    def _message_matches(self, flow: Flow) -> bool:
        if self.protocols and self.protocols.isdisjoint(_protocol_names(flow)):
            return False
        message = flow.l7
        http = message if isinstance(message, HttpPart) else None
        if self.methods:
            method = http.method if http else message.api_key if isinstance(message, KafkaPart) else ""
            if method.lower() not in self.methods:
                return False
        if self.path and (http is None or _regex(self.path).search(http.path) is None):
            return False
        if self.statuses and (http is None or self.statuses.isdisjoint((str(http.code), f"{http.code // 100}xx"))):
            return False
        if self.topics and not (isinstance(message, KafkaPart) and any(_any_fits(self.topics, name) for name in message.topics)):
            return False
        return not self.dns_names or (
            isinstance(message, DnsPart) and _any_fits(self.dns_names, message.query.rstrip(".").lower())
        )

    def _policy_matches(self, flow: Flow) -> bool:
        if not self.policies:
            return True
        key = str(policy_of(flow) or "")
        _, _, scoped = key.partition("/")
        return bool(key) and not self.policies.isdisjoint((key, scoped, key.rpartition("/")[2]))

    @classmethod
    def from_query(cls, query: Mapping[str, str], now_ns: int = 0) -> FlowFilter:
        """Read a filter from URL parameters; others than ``PARAMETERS`` are not looked at. ``now_ns``: what "5m" is before.

        Raises ValueError with what to write instead.
        """
        return cls(
            verdicts=parse_verdicts(_listed(query, "verdict")),
            namespaces=frozenset(_listed(query, "namespace")),
            names=frozenset(_listed(query, "name")),
            sources=frozenset(_listed(query, "source")),
            destinations=frozenset(_listed(query, "destination")),
            labels=frozenset(_listed(query, "label")),
            ports=_read_all(_listed(query, "port"), _port),
            protocols=frozenset(word.lower() for word in _listed(query, "protocol")),
            methods=frozenset(word.lower() for word in _listed(query, "method")),
            path=_bounded(query.get("path", ""), "path"),
            statuses=_read_all(_listed(query, "status"), _status),
            topics=frozenset(_listed(query, "topic")),
            dns_names=frozenset(word.rstrip(".").lower() for word in _listed(query, "dns")),
            policies=frozenset(_listed(query, "policy")),
            since_ns=_nanoseconds(query, "since_ns") or parse_when(query.get("since", ""), now_ns, "since"),
            until_ns=_nanoseconds(query, "until_ns") or parse_when(query.get("until", ""), now_ns, "until"),
        )

    def to_query(self) -> dict[str, str]:
        """Return the URL parameters that ``from_query`` reads back, whatever the time."""
        query = {
            "verdict": self.verdicts,
            "namespace": self.namespaces,
            "name": self.names,
            "source": self.sources,
            "destination": self.destinations,
            "label": self.labels,
            "port": (str(port) for port in self.ports),
            "protocol": self.protocols,
            "method": self.methods,
            "path": (self.path,),
            "status": self.statuses,
            "topic": self.topics,
            "dns": self.dns_names,
            "policy": self.policies,
            "since_ns": (str(self.since_ns or ""),),
            "until_ns": (str(self.until_ns or ""),),
        }
        written = {key: ",".join(sorted(values)) for key, values in query.items()}
        return {key: value for key, value in written.items() if value}

    @property
    def is_empty(self) -> bool:
        """Whether every record is wanted."""
        return not any(getattr(self, field.name) for field in fields(self))


PARAMETERS = (
    "verdict",
    "namespace",
    "name",
    "source",
    "destination",
    "label",
    "port",
    "protocol",
    "method",
    "path",
    "status",
    "topic",
    "dns",
    "policy",
    "since",
    "until",
    "since_ns",
    "until_ns",
)
"""The words of the language. The command's options and the page's search words are the same, but for the last two."""


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


_AGO = re.compile(r"(\d{1,9})(ms|s|m|h|d)")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_when(text: str, now_ns: int, name: str = "since") -> int:
    """Return a time since the epoch: ``text`` is a duration before ``now_ns``, or a time (local if it names no zone); "" is 0.

    Raises ValueError.
    """
    if not text:
        return 0
    ago = _AGO.fullmatch(text)
    if ago:
        return max(0, now_ns - int(ago[1]) * _UNIT_MS[ago[2]] * 1_000_000)
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        shown = text[:40]
        raise ValueError(f"{name} {shown!r}: write a duration such as 5m, or a time such as 2026-01-31T12:00:00Z") from error
    if when.tzinfo is None:
        when = when.astimezone()
    return max(0, int(when.timestamp() * NANOSECONDS))


def policy_of(flow: Flow) -> PolicyKey | None:
    """Return the policy that decided ``flow``; on a default deny, the one that came nearest to allowing it."""
    if flow.rule is not None:
        return flow.rule.policy
    origin = parse_origin(flow.nearest_miss.partition(" ")[0])
    return origin.policy if origin else None


def is_named(end: FlowEnd, names: frozenset[str]) -> bool:
    """Tell whether one of ``names`` means ``end``.

    That is its name, its workload (both with or without namespace), its address, or a reserved name such as ``world``.
    """
    workload = end.workload
    means = {end.key, workload, str(end.address or "")}
    if end.name:
        means |= {end.name, workload.partition("/")[2]}
    return not names.isdisjoint(means - {""})


def _has_label(end: FlowEnd, wanted: str) -> bool:
    """``wanted`` may leave out the source (``k8s:``) and the value."""
    for label in end.labels:
        bare = label.partition(":")[2]
        if wanted in (label, bare, bare.partition("=")[0], label.partition("=")[0]):
            return True
    return False


def _protocol_names(flow: Flow) -> set[str]:
    names = {protocol_name(flow), transport_name(flow.protocol)}
    return names | {"http"} if "grpc" in names else names


def _any_fits(patterns: frozenset[str], name: str) -> bool:
    return name in patterns or any("*" in pattern and _wildcard(pattern).fullmatch(name) is not None for pattern in patterns)


@lru_cache(maxsize=256)
def _wildcard(pattern: str) -> re2._Regexp:
    return _compiled(".*".join(re.escape(part) for part in pattern.split("*")))


@lru_cache(maxsize=256)
def _regex(pattern: str) -> re2._Regexp:
    return _compiled(pattern)


def _compiled(pattern: str) -> re2._Regexp:
    import re2  # not at the top: most filters have no regex, and `tidegate flows` should start fast

    options = re2.Options()
    options.log_errors = False
    options.max_mem = REGEX_MEMORY_BYTES_MAX
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error.args[0]
        raise ValueError(f"path {pattern[:80]!r} is no regular expression (RE2): {reason}") from None


def _bounded(text: str, name: str) -> str:
    if len(text) > VALUE_CHARACTERS_MAX:
        raise ValueError(f"{name} is longer than {VALUE_CHARACTERS_MAX} characters")
    return text


def _listed(query: Mapping[str, str], name: str) -> list[str]:
    words = [word for word in (part.strip() for part in query.get(name, "").split(",")) if word]
    if len(words) > VALUES_MAX:
        raise ValueError(f"{name} has more than {VALUES_MAX} values")
    return [_bounded(word, name) for word in words]


def _read_all(words: Iterable[str], read: Callable[[str], T]) -> frozenset[T]:
    return frozenset(read(word) for word in words)


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= PORT_MAX:
        return int(text)
    raise ValueError(f"{text!r} is no port; write a number from 0 to {PORT_MAX}")


def _status(text: str) -> str:
    if re.fullmatch(r"[1-9](\d\d|xx)", text.lower(), re.ASCII):
        return text.lower()
    raise ValueError(f"{text!r} is no status; write a number such as 404, or a class such as 4xx")


def _nanoseconds(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "") or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise ValueError(f"{name} is nanoseconds since the epoch, not {text[:40]!r}")
    return int(text)
