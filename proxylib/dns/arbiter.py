"""Every query's way through the rules, and every answer's way into the datapath; the same for UDP and TCP.

Owns: the order of things. A query is judged before anything else happens; an answer's addresses are published before it is
released; what was begun is ended exactly once (``settle``, ``fail`` or ``abandon``), so that counts and bounds hold. Must not
know sockets: bytes come in and bytes go out.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from proxylib.dns.cache import DnsCache, EndpointKey
from proxylib.dns.message import (
    HEADER_BYTES,
    Address,
    Query,
    Rcode,
    Resolution,
    malformed_answer,
    parse_message,
    read_query,
    refusal,
    resolve,
)
from proxylib.dns.name import to_text
from proxylib.dns.policy import TTL_SECONDS_MAX, CompiledRules, Party, Subject
from proxylib.dns.report import Report, Reporter
from proxylib.dns.settings import ATTEMPTS_MAX, CONNECT_GRACE_NS, REPUBLISH_NS, SECOND_NS, Counters, Publisher, Settings
from proxylib.errors import ProtocolError, PublishError

_TRANSFERS = (251, 252)
"""IXFR, AXFR: their answers are streams of messages, which this proxy does not judge."""
_BARE_RCODES = (Rcode.FORMERR, Rcode.SERVFAIL, 4, Rcode.REFUSED)
"""With these a server may leave out the question (RFC 1035 says nothing; RFC 8906 8.1.2 saw it). 4: NOTIMP."""
_OPCODE_MASK = 0x78


class Asked:
    """A query that was admitted and is not yet answered. Mutable: it counts its attempts."""

    __slots__ = (
        "attempts",
        "client",
        "data",
        "deadline_ns",
        "party",
        "protocol",
        "query",
        "rule",
        "server",
        "slot",
        "started_ns",
    )

    def __init__(
        self,
        data: bytes,
        query: Query,
        party: Party,
        rule: str,
        client: tuple[str, int],
        server: tuple[str, int],
        slot: int,
        protocol: str,
        started_ns: int,
        deadline_ns: int,
    ) -> None:
        self.data = data
        self.query = query
        self.party = party
        self.rule = rule
        self.client = client
        self.server = server
        self.slot = slot
        self.protocol = protocol
        self.started_ns = started_ns
        self.deadline_ns = deadline_ns
        self.attempts = 1

    def is_answered_by(self, data: bytes) -> bool:
        """Tell whether ``data`` is a response to this very question, letter case included (draft-vixie-dnsext-dns0x20).

        The id has been compared by whoever found this query for it.
        """
        if len(data) < HEADER_BYTES or not data[2] & 0x80 or data[2] & _OPCODE_MASK:
            return False
        end = self.query.question_end
        if data[4:6] == b"\0\1":
            return data[HEADER_BYTES:end] == self.data[HEADER_BYTES:end]
        return len(data) == HEADER_BYTES and data[4:] == bytes(8) and data[3] & 0xF in _BARE_RCODES


def is_publishable(address: Address) -> bool:
    """Tell whether an address in an answer may ever be opened: a name must not lead to loopback or a link's own services."""
    parsed = IPv4Address(address) if len(address) == 4 else IPv6Address(address)
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified)


class Arbiter:
    """The rules in force, the cache, and what is on its way."""

    def __init__(self, settings: Settings, publisher: Publisher, reporter: Reporter, counters: Counters) -> None:
        self.rules: CompiledRules
        self.cache = DnsCache()
        self.in_flight = 0
        self.changed: dict[EndpointKey, None] = {}
        """Endpoints whose answers changed since they were saved."""
        self._settings = settings
        self._publisher = publisher
        self._reporter = reporter
        self._counters = counters
        self._in_flight_of: dict[EndpointKey, int] = {}

    # ---- queries --------------------------------------------------------------------------------------------------

    def admit(
        self, data: bytes, client: tuple[str, int], server: tuple[str, int], slot: int, protocol: str, now_ns: int
    ) -> Asked | bytes:
        """Judge a query: return it to be asked, or the answer to give at once (empty: none)."""
        counters = self._counters
        try:
            query = read_query(data)
        except ProtocolError:
            counters.malformed += 1
            return malformed_answer(data) or b""
        party = self.rules.parties.get(client[0])
        compiled = party.slots.get(slot) if party is not None else None
        if party is None or compiled is None:
            counters.unknown_subject += 1
            return self._refuse(data, query, party, client, server, slot, protocol, "no rules for this client")
        rule = compiled.judge(query.name, query.type)
        if rule is None or query.type in _TRANSFERS:
            reason = "" if rule is None else "zone transfers are not proxied"
            return self._refuse(data, query, party, client, server, slot, protocol, reason)
        mine = self._in_flight_of.get(party.key, 0)
        deadline_ns = now_ns + self._settings.upstream_timeout_ns
        asked = Asked(data, query, party, rule, client, server, slot, protocol, now_ns, deadline_ns)
        self.in_flight += 1
        self._in_flight_of[party.key] = mine + 1
        if self.in_flight > self._settings.in_flight_max or mine >= self._settings.in_flight_per_endpoint_max:
            counters.failed_limit += 1
            return self.fail(asked, "too many queries in flight", now_ns)
        return asked

    def _refuse(
        self,
        data: bytes,
        query: Query,
        party: Party | None,
        client: tuple[str, int],
        server: tuple[str, int],
        slot: int,
        protocol: str,
        reason: str,
    ) -> bytes:
        rcode = self.rules.rules.reject.rcode
        self._counters.refused += 1
        if self._reporter.connected:
            endpoint = party.subject.endpoint if party is not None else ""
            name = to_text(query.name)
            self._reporter.add(Report("refused", reason, protocol, endpoint, client, server, slot, "", name, query.type, rcode))
        return refusal(data, query, rcode)

    # ---- answers --------------------------------------------------------------------------------------------------

    def settle(self, asked: Asked, data: bytes, now_ns: int) -> bytes:
        """Publish what the answer ``data`` says and return what the client gets: it with the client's id, or SERVFAIL."""
        try:
            message = parse_message(data)
        except ProtocolError:
            self._counters.upstream_malformed += 1
            return self.fail(asked, "the server's answer can't be read", now_ns)
        # The rules may have changed meanwhile, and the address may be another pod's by now.
        party = self.rules.parties.get(asked.client[0])
        if party is None or party.key != asked.party.key:
            self._counters.unknown_subject += 1
            return self.fail(asked, "the client is gone", now_ns)
        resolution = resolve(message, asked.query.name)
        if resolution.addresses and not self._publish(party, to_text(asked.query.name), resolution, now_ns):
            self._counters.failed_publish += 1
            return self.fail(asked, "the answer could not be published", now_ns)
        self._end(asked)
        self._counters.answered += 1
        if self._reporter.connected:
            self._report(asked, "allowed", "", message.rcode, resolution, now_ns)
        return asked.data[:2] + data[2:]

    def fail(self, asked: Asked, reason: str, now_ns: int) -> bytes:
        """End a query without an answer: return SERVFAIL for it."""
        self._end(asked)
        self._counters.failed += 1
        if self._reporter.connected:
            self._report(asked, "error", reason, Rcode.SERVFAIL, Resolution(), now_ns)
        return refusal(asked.data, asked.query, Rcode.SERVFAIL)

    def may_ask_again(self, asked: Asked, now_ns: int) -> bool:
        """Note another attempt with a time of its own; False if there were enough."""
        if asked.attempts >= ATTEMPTS_MAX:
            return False
        asked.attempts += 1
        asked.deadline_ns = now_ns + self._settings.upstream_timeout_ns
        self._counters.asked_again += 1
        return True

    def abandon(self, asked: Asked) -> None:
        """End a query whose client no longer waits."""
        self._end(asked)
        self._counters.dropped += 1

    def _end(self, asked: Asked) -> None:
        self.in_flight -= 1
        key = asked.party.key
        left = self._in_flight_of[key] - 1
        if left:
            self._in_flight_of[key] = left
        else:
            del self._in_flight_of[key]

    def _report(self, asked: Asked, verdict: str, reason: str, rcode: int, resolution: Resolution, now_ns: int) -> None:
        self._reporter.add(
            Report(
                verdict,
                reason,
                asked.protocol,
                asked.party.subject.endpoint,
                asked.client,
                asked.server,
                asked.slot,
                asked.rule,
                to_text(asked.query.name),
                asked.query.type,
                rcode,
                resolution,
                now_ns - asked.started_ns,
            )
        )

    def _publish(self, party: Party, name: str, resolution: Resolution, now_ns: int) -> bool:
        """Make an answer's addresses known; what stands for long enough already costs nothing."""
        ttl_seconds = min(max(resolution.ttl_seconds_max, self.rules.rules.ttl_seconds_min), TTL_SECONDS_MAX)
        expires_ns = now_ns + ttl_seconds * SECOND_NS + CONNECT_GRACE_NS
        lacking = self.cache.lacking(party.key, name, resolution.addresses, expires_ns - REPUBLISH_NS)
        if not lacking:
            return True
        addresses = tuple(address for address in lacking if is_publishable(address))
        self._counters.unpublishable += len(lacking) - len(addresses)
        selectors = party.selectors.covering(name)
        if addresses and selectors:
            try:
                self._publisher.publish(party.subject, name, selectors, addresses, expires_ns)
            except PublishError:
                return False
            self._counters.published += len(addresses)
        if addresses:
            gone = self.cache.remember(party.key, name, addresses, expires_ns, now_ns)
            self.changed[party.key] = None
            if gone:
                self._withdraw(party.subject, gone)
        return True

    def _withdraw(self, subject: Subject, addresses: tuple[Address, ...]) -> None:
        """A failure leaves them open until they expire, which is all that they were promised."""
        try:
            self._publisher.withdraw(subject, addresses)
            self._counters.withdrawn += len(addresses)
        except PublishError:
            self._counters.failed_publish += 1

    # ---- rules ----------------------------------------------------------------------------------------------------

    def replace_rules(self, rules: CompiledRules, now_ns: int, restored: bool = False) -> tuple[EndpointKey, ...]:
        """Put ``rules`` in force; returns the endpoints that are gone and forgotten.

        Known answers are published again for endpoints whose selectors changed, so that a new policy covers names that were
        resolved under the old one. ``restored``: the cache comes from disk, publish all of it.
        """
        before = {} if restored else {party.key: _selectors_of(self.rules, party) for party in self.rules.parties.values()}
        self.rules = rules
        self.cache.addresses_per_name_max = rules.rules.addresses_per_name_max
        parties = {party.key: party for party in rules.parties.values()}
        gone = tuple(key for key in self.cache.endpoints if key not in parties)
        for key in gone:
            self.cache.forget(key)
            self.changed.pop(key, None)
        for key in self.cache.endpoints:
            if before.get(key) != _selectors_of(rules, parties[key]):
                self._publish_known(parties[key], now_ns)
        return gone

    def _publish_known(self, party: Party, now_ns: int) -> None:
        for name, known in self.cache.names(party.key, now_ns).items():
            selectors = party.selectors.covering(name)
            if not selectors:
                continue
            by_expiry: dict[int, list[Address]] = {}
            for address, expires_ns in known.items():
                by_expiry.setdefault(expires_ns, []).append(address)
            try:
                for expires_ns, addresses in by_expiry.items():
                    self._publisher.publish(party.subject, name, selectors, tuple(addresses), expires_ns)
                    self._counters.published += len(addresses)
            except PublishError:
                # Forgotten, they are published with the next answer.
                self._counters.failed_publish += 1
                self.cache.forget(party.key)
                return


def _selectors_of(rules: CompiledRules, party: Party) -> object:
    return tuple((number, rules.rules.selectors[number]) for number in sorted(set(party.subject.selectors)))
