"""What the DNS proxy tells the kernel: for which names a pod may reach an address, in the pinned map ``tg_names``.

Owns: writing that map, and clearing away what has expired. It is the only one who grants. Part of the DNS proxy's process, so it
imports neither policy nor bcc: addresses are bytes as DNS gives them, identities plain numbers.

An entry is written whole and at once: while it is replaced the kernel reads the old one or the new one.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Mapping
from itertools import islice

from bpf_redirect import bpf
from bpf_redirect.errors import DatapathError
from proxylib.dns.message import Address
from proxylib.dns.policy import Subject
from proxylib.dns.settings import SECOND_NS, Grants
from proxylib.errors import PublishError

GRANTS_MAX = 16
"""TG_NAMES_PER_ADDRESS_MAX in abi.h; of more, those that expire first go."""
SCAN_NS = 10 * SECOND_NS
"""Between two rounds over the map that clear away what has expired; the kernel ignores it from its second on."""
SCAN_ENTRIES = 256
"""Entries of a round that are looked at per tick: 128 bytes each, a fraction of a millisecond."""
BATCH_MIN = 4
"""Fewer entries than this are written one by one, which costs less."""
ENOTSUPP = 524
"""The kernel's own, without a name in errno."""
KEY_BYTES, VALUE_BYTES = 20, 128
_SECONDS_MAX = (1 << 32) - 1
_V4_MAPPED = bytes(10) + b"\xff\xff"
_KEY = struct.Struct("=I16s")
_GRANT = struct.Struct("=II")


def encode_key(interface: int, address: Address) -> bytes:
    """``tg_names_key``."""
    return _KEY.pack(interface, _V4_MAPPED + address if len(address) == 4 else address)


def encode_grants(grants: Mapping[int, int]) -> bytes:
    """``tg_names`` of identity -> expiry in seconds."""
    return b"".join(_GRANT.pack(identity, expires_s) for identity, expires_s in sorted(grants.items())).ljust(VALUE_BYTES, b"\0")


def decode_grants(raw: bytes) -> dict[int, int]:
    """Return identity -> expiry in seconds, of what has expired, too."""
    found: dict[int, int] = {}
    for identity, expires_s in _GRANT.iter_unpack(raw):
        if not identity:
            break
        found[identity] = expires_s
    return found


class NamesPublisher:
    """``proxylib.dns.settings.Publisher`` on the map pinned at ``pin``, which may come later, or be replaced."""

    def __init__(self, pin: str) -> None:
        self._pin = pin
        self._fd = -1
        self._inode = 0
        self._is_another = False
        self._scan: Iterator[tuple[bytes, bytes]] | None = None
        self._scan_ns = 0
        self._seen = 0
        self._counts = {"entries": 0, "capacity": 0, "evicted_grants": 0, "full": 0, "cleared": 0}
        self._reopen()

    def publish(self, subject: Subject, addresses: Mapping[Address, Grants]) -> None:
        """Write what each address stands for. Without an interface a pod is closed, and there is nobody to write for."""
        if not subject.interface:
            return
        self._follow_pin()
        updates: list[tuple[bytes, bytes]] = []
        for address, grants in addresses.items():
            key = encode_key(subject.interface, address)
            if grants:
                bounded = {identity: min(-(-ns // SECOND_NS), _SECONDS_MAX) for identity, ns in grants.items()}
                updates.append((key, encode_grants(self._longest(bounded))))
            else:
                self._delete(key)
        self._update(updates)

    def retain(self, allowed: Mapping[int, frozenset[int]]) -> None:
        """Take from every entry the grants that are not its pod's any more."""
        try:
            entries = list(bpf.map_lookup_batch(self._open_fd(), KEY_BYTES, VALUE_BYTES, SCAN_ENTRIES))
        except OSError as error:
            raise PublishError(f"can't read {self._pin}: {error}") from error
        for key, raw in entries:
            interface, _ = _KEY.unpack(key)
            held = decode_grants(raw)
            kept = {identity: expires_s for identity, expires_s in held.items() if identity in allowed.get(interface, ())}
            if not kept:
                self._delete(key)
            elif kept != held:
                self._update([(key, encode_grants(kept))])

    def tick(self, now_ns: int) -> bool:
        """Take a step in clearing away; return whether the map is another one, so that all must be told anew."""
        self._follow_pin()
        if self._fd >= 0:
            self._clear_some(now_ns)
        is_another, self._is_another = self._is_another, False
        return is_another

    def status(self) -> Mapping[str, int]:
        """``entries`` is as of the last round."""
        return self._counts

    # ---- the map ----------------------------------------------------------------------------------------------------

    def _follow_pin(self) -> None:
        """Open the map anew if it is another one: what is written to a map that nobody reads opens nothing."""
        try:
            is_replaced = os.stat(self._pin).st_ino != self._inode
        except OSError:
            is_replaced = self._fd >= 0
        if is_replaced:
            self._reopen()
            self._is_another |= self._fd >= 0

    def _reopen(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._inode = -1, 0
        self._scan = None
        try:
            fd = bpf.get(self._pin)
            try:
                info, inode = bpf.map_info(fd), os.stat(self._pin).st_ino
            except BaseException:
                os.close(fd)
                raise
        except (DatapathError, OSError):
            return  # no agent has made it yet, or cleanup took it away
        if (info.key_bytes, info.value_bytes) != (KEY_BYTES, VALUE_BYTES):
            os.close(fd)
            return  # another version's
        self._fd, self._inode = fd, inode
        self._counts["capacity"] = info.max_entries

    def _open_fd(self) -> int:
        if self._fd < 0:
            self._reopen()
        if self._fd < 0:
            raise PublishError(f"{self._pin} is not there: has the agent loaded the programs?")
        return self._fd

    def _longest(self, grants: dict[int, int]) -> dict[int, int]:
        if len(grants) <= GRANTS_MAX:
            return grants
        self._counts["evicted_grants"] += len(grants) - GRANTS_MAX
        longest = sorted(grants, key=lambda identity: (-grants[identity], identity))[:GRANTS_MAX]
        return {identity: grants[identity] for identity in longest}

    def _update(self, entries: list[tuple[bytes, bytes]]) -> None:
        if not entries:
            return
        fd = self._open_fd()
        try:
            if len(entries) < BATCH_MIN or not self._takes_batches(fd, entries):
                for key, value in entries:
                    bpf.map_update(fd, key, value)
        except OSError as error:
            if error.errno in (errno.E2BIG, errno.ENOSPC):
                self._counts["full"] += 1
                capacity = self._counts["capacity"]
                raise PublishError(f"tg_names is full ({capacity} entries): raise maps.nameEntries in node.yaml") from error
            raise PublishError(f"can't write {self._pin}: {error}") from error

    def _takes_batches(self, fd: int, entries: list[tuple[bytes, bytes]]) -> bool:
        """Write ``entries`` by one call; False: this kernel has no batches for hash maps (before 5.6)."""
        try:
            bpf.map_update_batch(fd, entries)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTSUP, ENOTSUPP):
                return False
            raise
        return True

    def _delete(self, key: bytes) -> None:
        if self._fd < 0:
            return  # nothing is granted
        try:
            bpf.map_delete(self._fd, key)
        except OSError as error:
            raise PublishError(f"can't delete from {self._pin}: {error}") from error

    # ---- clearing away ----------------------------------------------------------------------------------------------

    def _clear_some(self, now_ns: int) -> None:
        if self._scan is None:
            if now_ns < self._scan_ns:
                return
            self._scan_ns = now_ns + SCAN_NS
            self._scan = bpf.map_lookup_batch(self._fd, KEY_BYTES, VALUE_BYTES, SCAN_ENTRIES)
            self._seen = 0
        now_s = now_ns // SECOND_NS
        try:
            some = list(islice(self._scan, SCAN_ENTRIES))
            for key, raw in some:
                if all(expires_s <= now_s for expires_s in decode_grants(raw).values()):
                    bpf.map_delete(self._fd, key)
                    self._counts["cleared"] += 1
                else:
                    self._seen += 1
        except OSError:
            self._scan = None  # the next round begins anew
            return
        if len(some) < SCAN_ENTRIES:
            self._scan = None
            self._counts["entries"] = self._seen
