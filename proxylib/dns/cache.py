"""What each endpoint knows: the names it resolved, and until when their addresses stand.

Owns: answers per endpoint, their bounds and their JSON form. Pure: time enters as ``now_ns`` (the monotonic clock that the
kernel's maps use too), files are the caller's. Must not know rules or selectors.

Nothing here is shared between endpoints: what one resolved opens nothing for another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import NewType

from proxylib.dns.message import Address
from proxylib.errors import SavedStateError

EndpointKey = NewType("EndpointKey", str)
"""Names one life of one endpoint; another pod of the same name has another key."""

ADDRESSES_PER_NAME_MAX = 1000
NAMES_PER_ENDPOINT_MAX = 10_000
"""So that a pod that asks for random names under an allowed pattern can't fill the node's memory: about 10 MB."""
FORMAT_VERSION = 1


def address_text(address: Address) -> str:
    """Return ``address`` as people write it."""
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)


def parse_address(text: str) -> Address:
    """Return the address that ``text`` writes; raises ValueError."""
    try:
        return Address(inet_pton(AF_INET6 if ":" in text else AF_INET, text))
    except OSError as error:
        raise ValueError(f"{text!r} is no IP address") from error


@dataclass(slots=True)
class _Endpoint:
    names: dict[str, dict[Address, int]] = field(default_factory=dict)
    """Name -> address -> expiry. Names in the order of their last refresh."""
    holders: dict[Address, set[str]] = field(default_factory=dict)
    """Address -> names that have it."""


class DnsCache:
    """All endpoints' answers. ``evicted_addresses`` and ``evicted_names`` count what a bound cost."""

    def __init__(
        self, addresses_per_name_max: int = ADDRESSES_PER_NAME_MAX, names_per_endpoint_max: int = NAMES_PER_ENDPOINT_MAX
    ) -> None:
        self.addresses_per_name_max = addresses_per_name_max
        self.names_per_endpoint_max = names_per_endpoint_max
        self.evicted_addresses = 0
        self.evicted_names = 0
        self._endpoints: dict[EndpointKey, _Endpoint] = {}

    @property
    def endpoints(self) -> tuple[EndpointKey, ...]:
        """Those that know anything."""
        return tuple(self._endpoints)

    def knows(self, key: EndpointKey) -> bool:
        """Tell whether an endpoint knows anything."""
        return key in self._endpoints

    def lacking(self, key: EndpointKey, name: str, addresses: Iterable[Address], needed_ns: int) -> tuple[Address, ...]:
        """Return those of ``addresses`` that ``name`` does not have until ``needed_ns``."""
        endpoint = self._endpoints.get(key)
        known = endpoint.names.get(name) if endpoint is not None else None
        if not known:
            return tuple(addresses)
        return tuple(address for address in addresses if known.get(address, 0) < needed_ns)

    def remember(
        self, key: EndpointKey, name: str, addresses: Iterable[Address], expires_ns: int, now_ns: int
    ) -> tuple[Address, ...]:
        """Note that ``name`` has ``addresses``; an expiry never gets earlier.

        Returns the addresses that a name of this endpoint had to give up for them.
        """
        endpoint = self._endpoints.setdefault(key, _Endpoint())
        known = endpoint.names.pop(name, {})
        endpoint.names[name] = known
        for address in addresses:
            if known.get(address, 0) < expires_ns:
                known[address] = expires_ns
                endpoint.holders.setdefault(address, set()).add(name)
        gone = _drop_expired(endpoint, name, known, now_ns)
        excess = len(known) - self.addresses_per_name_max
        if excess > 0:
            self.evicted_addresses += excess
            # Of equal expiry the first in the table goes: it was learned first.
            for address in sorted(known, key=known.__getitem__)[:excess]:
                _drop(endpoint, name, known, address)
                gone.append(address)
        if not known:
            del endpoint.names[name]
        while len(endpoint.names) > self.names_per_endpoint_max:
            self.evicted_names += 1
            oldest = next(iter(endpoint.names))
            gone += _drop_name(endpoint, oldest)
        return tuple(dict.fromkeys(gone))

    def names(self, key: EndpointKey, now_ns: int) -> dict[str, dict[Address, int]]:
        """Return what an endpoint knows: name -> address -> expiry; nothing that has expired."""
        endpoint = self._endpoints.get(key)
        found: dict[str, dict[Address, int]] = {}
        for name, known in endpoint.names.items() if endpoint is not None else ():
            alive = {address: expires_ns for address, expires_ns in known.items() if expires_ns > now_ns}
            if alive:
                found[name] = alive
        return found

    def holders(self, key: EndpointKey, address: Address, now_ns: int) -> tuple[tuple[str, int], ...]:
        """Return the names that gave an endpoint this address, with its expiry under each: several may share one."""
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            return ()
        found = ((name, endpoint.names[name][address]) for name in endpoint.holders.get(address, ()))
        return tuple(sorted((name, expires_ns) for name, expires_ns in found if expires_ns > now_ns))

    def addresses(self, key: EndpointKey) -> tuple[Address, ...]:
        """Return every address that any name of an endpoint has."""
        endpoint = self._endpoints.get(key)
        return () if endpoint is None else tuple(endpoint.holders)

    def size(self) -> tuple[int, int]:
        """Return how many names and addresses are known, over all endpoints."""
        every = self._endpoints.values()
        return sum(len(each.names) for each in every), sum(len(each.holders) for each in every)

    def expire(self, key: EndpointKey, now_ns: int) -> tuple[Address, ...]:
        """Forget what has expired for one endpoint; returns the addresses that a name of it lost."""
        endpoint = self._endpoints.get(key)
        gone: list[Address] = []
        if endpoint is None:
            return ()
        for name in list(endpoint.names):
            known = endpoint.names[name]
            gone += _drop_expired(endpoint, name, known, now_ns)
            if not known:
                del endpoint.names[name]
        if not endpoint.names:
            del self._endpoints[key]
        return tuple(dict.fromkeys(gone))

    def forget(self, key: EndpointKey) -> None:
        """Forget an endpoint that is gone."""
        self._endpoints.pop(key, None)

    def dump(self, key: EndpointKey, boot_id: str) -> str:
        """Return what one endpoint knows as JSON. ``boot_id`` says which clock its expiries are of."""
        endpoint = self._endpoints.get(key)
        names = endpoint.names if endpoint is not None else {}
        return json.dumps(
            {
                "version": FORMAT_VERSION,
                "boot": boot_id,
                "endpoint": key,
                "names": {name: {address_text(a): expiry for a, expiry in known.items()} for name, known in names.items()},
            }
        )

    def load(self, text: str, boot_id: str, now_ns: int) -> EndpointKey | None:
        """Take back what ``dump`` wrote; returns whose it is, None if it is of another boot. Raises SavedStateError."""
        try:
            document = json.loads(text)
            if document["version"] != FORMAT_VERSION:
                raise SavedStateError(f"cache has version {document['version']!r}, not {FORMAT_VERSION}")
            if document["boot"] != boot_id:
                return None
            key = EndpointKey(str(document["endpoint"]))
            found = [(str(n), parse_address(a), int(e)) for n, known in document["names"].items() for a, e in known.items()]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SavedStateError(f"cache can't be read: {error!r}") from error
        for name, address, expires_ns in found:
            self.remember(key, name, (address,), expires_ns, now_ns)
        return key


def dump_line(key: EndpointKey, name: str, addresses: Iterable[Address], expires_ns: int, boot_id: str) -> str:
    """Return one ``remember`` as a line of JSON."""
    return json.dumps([boot_id, key, name, [address_text(each) for each in addresses], expires_ns])


def load_line(text: str, boot_id: str) -> tuple[EndpointKey, str, tuple[Address, ...], int] | None:
    """Return what ``dump_line`` wrote; None if it is of another boot. Raises SavedStateError."""
    try:
        boot, key, name, addresses, expires_ns = json.loads(text)
        if boot != boot_id:
            return None
        return EndpointKey(str(key)), str(name), tuple(parse_address(str(each)) for each in addresses), int(expires_ns)
    except (ValueError, TypeError, RecursionError) as error:
        raise SavedStateError(f"journal line can't be read: {error!r}") from error


def _drop(endpoint: _Endpoint, name: str, known: dict[Address, int], address: Address) -> None:
    """Take an address from a name."""
    del known[address]
    holders = endpoint.holders[address]
    holders.discard(name)
    if not holders:
        del endpoint.holders[address]


def _drop_expired(endpoint: _Endpoint, name: str, known: dict[Address, int], now_ns: int) -> list[Address]:
    gone = [address for address, expires_ns in known.items() if expires_ns <= now_ns]
    for address in gone:
        _drop(endpoint, name, known, address)
    return gone


def _drop_name(endpoint: _Endpoint, name: str) -> list[Address]:
    known = endpoint.names.pop(name)
    gone = list(known)
    for address in gone:
        _drop(endpoint, name, known, address)
    return gone
