"""Which versions of which resources a client has refused, why, and when each may be tried again.

Owns: the back-off. Pure: time comes in as an argument. One resource's refusal says nothing about any other resource, and
nothing about another version of the same resource: that one may go out at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xds_server.snapshot import ResourceKey

RETRY_NS_MIN = 1_000_000_000
"""A refused version is sent at most once a second ..."""

RETRY_NS_MAX = 60_000_000_000
"""... and at least once a minute: some refusals heal (an address in use, a file that was missing)."""

REASON_CHARS_MAX = 2_048
"""Envoy cuts its own message at 4 KiB; what a person needs stands at its start."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A refused version. ``attempts`` counts its refusals so far; it may be sent again from ``retry_at_ns`` on."""

    version: str
    reason: str
    attempts: int
    retry_at_ns: int


class Quarantine:
    """The refused versions of one client."""

    def __init__(self, inherited: Mapping[ResourceKey, Quarantined] | None = None) -> None:
        self._entries: dict[ResourceKey, Quarantined] = dict(inherited or {})

    def entries(self) -> dict[ResourceKey, Quarantined]:
        """A copy: what a client's next stream inherits."""
        return dict(self._entries)

    def find(self, key: ResourceKey, version: str) -> Quarantined | None:
        """The entry of exactly this version."""
        entry = self._entries.get(key)
        return entry if entry is not None and entry.version == version else None

    def refuse(self, key: ResourceKey, version: str, reason: str, now_ns: int) -> Quarantined:
        """Note a refusal; each further one of the same version doubles the wait."""
        known = self.find(key, version)
        attempts = known.attempts + 1 if known else 1
        # The shift is bounded so that a resource refused for months does not build a huge integer.
        delay_ns = min(RETRY_NS_MIN << min(attempts - 1, 16), RETRY_NS_MAX)
        entry = Quarantined(version, reason[:REASON_CHARS_MAX], attempts, now_ns + delay_ns)
        self._entries[key] = entry
        return entry

    def release(self, key: ResourceKey) -> bool:
        """The client has taken a version of this resource, or has no interest in it any more. Says whether it had an entry."""
        return self._entries.pop(key, None) is not None
