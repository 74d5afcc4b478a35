"""How much was said on the wire, as values.

Owns: the counting. It is how anyone can see that a change of pods costs no xDS response: read, let pods come and go, read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from xds_server.snapshot import TypeUrl


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeCounters:
    """Of one resource type, since the server was made, over all clients."""

    responses_sent: int = 0
    resources_sent: int = 0
    removals_sent: int = 0
    bytes_sent: int = 0
    acks: int = 0
    nacks: int = 0

    def __add__(self, other: TypeCounters) -> TypeCounters:
        return TypeCounters(
            responses_sent=self.responses_sent + other.responses_sent,
            resources_sent=self.resources_sent + other.resources_sent,
            removals_sent=self.removals_sent + other.removals_sent,
            bytes_sent=self.bytes_sent + other.bytes_sent,
            acks=self.acks + other.acks,
            nacks=self.nacks + other.nacks,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """A reading. ``requests_ignored``: for types that are not served."""

    by_type: Mapping[TypeUrl, TypeCounters] = field(default_factory=lambda: dict.fromkeys(TypeUrl, TypeCounters()))
    streams_opened: int = 0
    requests_ignored: int = 0

    @property
    def total(self) -> TypeCounters:
        return sum(self.by_type.values(), TypeCounters())

    def plus(self, type_url: TypeUrl, more: TypeCounters) -> Counters:
        return replace(self, by_type={**self.by_type, type_url: self.by_type[type_url] + more})
