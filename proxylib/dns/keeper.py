"""The cache on disk: nothing that was learned is forgotten by a kill, and saving never holds up answers for long.

Owns: what is written when. Every answer goes into the journal before it is released; now and then a round of saving brings the
files of the endpoints up to date, a few per tick, and the journal begins anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from proxylib.dns.cache import DnsCache, EndpointKey, dump_line, load_line
from proxylib.dns.counters import Counters
from proxylib.dns.message import Address
from proxylib.dns.settings import SAVE_NS
from proxylib.dns.store import JOURNAL_BYTES_MAX, CacheFiles, Journal, boot_id
from proxylib.errors import SavedStateError

SAVES_PER_TICK = 8
"""Endpoints per tick whose files are written in a round of saving."""


class Keeper:
    """Keeps ``cache`` in ``directory``. ``problem``: why it can't; empty if it can."""

    def __init__(self, cache: DnsCache, directory: Path, counters: Counters) -> None:
        self.problem = ""
        self._cache = cache
        self._counters = counters
        self._files = CacheFiles(directory)
        self._journal = Journal(directory)
        self._boot_id = boot_id()
        self._changed: dict[EndpointKey, None] = {}
        self._round: list[EndpointKey] | None = None
        self._round_failed = False
        self._due_ns = 0

    def restore(self, now_ns: int) -> None:
        """Take back what is on disk. What can't be read is counted; its names are asked for again."""
        for _, text in self._files.read():
            try:
                self._cache.load(text, self._boot_id, now_ns)
            except SavedStateError:
                self._counters.cache_failed += 1
        for line in filter(None, self._journal.read()):
            try:
                found = load_line(line, self._boot_id)
            except SavedStateError:
                self._counters.cache_failed += 1
                continue
            if found is not None:
                key, name, addresses, expires_ns = found
                self._cache.remember(key, name, addresses, expires_ns, now_ns)
                self._changed[key] = None

    def note(self, key: EndpointKey, name: str, addresses: tuple[Address, ...], expires_ns: int) -> None:
        """Write down what an endpoint learned."""
        self._changed[key] = None
        try:
            self._journal.append(dump_line(key, name, addresses, expires_ns, self._boot_id))
        except OSError as error:
            self._trouble(error)

    def remove(self, gone: Iterable[EndpointKey]) -> None:
        """Remove the files of endpoints that are no more."""
        for key in gone:
            self._changed.pop(key, None)
            try:
                self._files.remove(key)
            except OSError:
                self._counters.cache_failed += 1

    def tick(self, now_ns: int) -> None:
        """Begin a round of saving when one is due; go on with the one under way."""
        if self._round is None:
            if self._changed and (now_ns >= self._due_ns or self._journal.size_bytes >= JOURNAL_BYTES_MAX):
                self._begin()
                self._due_ns = now_ns + SAVE_NS
            return
        self._save(SAVES_PER_TICK)
        if not self._round:
            self._end()

    def close(self) -> None:
        """Save all."""
        self._begin()
        if self._round is not None:
            self._save(len(self._round))
            self._end()
        self._journal.close()

    def begin_anew(self) -> None:
        """Somebody took the files away: all that is known is to be saved again."""
        self._journal.close()
        self._files.make_directory()
        self._round = None
        self._changed.update(dict.fromkeys(self._cache.endpoints))
        self._due_ns = 0

    def _begin(self) -> None:
        try:
            self._journal.begin_round()
        except OSError as error:
            self._trouble(error)
            return
        self._round_failed = False
        self._round = [*(self._round or ()), *self._changed]
        self._changed.clear()

    def _save(self, count_max: int) -> None:
        assert self._round is not None, "called within a round"
        for key in self._round[:count_max]:
            try:
                if self._cache.knows(key):
                    self._files.write(key, self._cache.dump(key, self._boot_id))
                else:
                    self._files.remove(key)
                self.problem = ""
            except OSError as error:
                self._changed[key] = None
                self._round_failed = True
                self._trouble(error)
        del self._round[:count_max]

    def _end(self) -> None:
        self._round = None
        if self._round_failed:
            return  # the journal stays, until a round saves all of it
        try:
            self._journal.end_round()
        except OSError as error:
            self._trouble(error)

    def _trouble(self, error: OSError) -> None:
        self._counters.cache_failed += 1
        self.problem = f"answers can't be saved: {error}"
