"""Every query's way through the rules, and every answer's way into the datapath; the same for UDP and TCP.

Owns: the order of things. A query is judged before anything else happens; an answer's addresses are published before it is
released; what was begun is ended exactly once (``settle``, ``fail`` or ``abandon``), so that counts and bounds hold. Must not
know sockets: bytes come in and bytes go out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address

from proxylib.dns.cache import DnsCache, EndpointKey
from proxylib.dns.counters import Counters
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
from proxylib.dns.policy import TTL_SECONDS_MAX, CompiledRules, DnsRules, Judgement, Party, Reject, Roster, Subject
from proxylib.dns.report import Reason, Report, Reporter
from proxylib.dns.settings import ATTEMPTS_MAX, PUBLISH_CHUNK, REPUBLISH_NS, SECOND_NS, Grants, Publisher, Settings
from proxylib.errors import ProtocolError, PublishError

_TRANSFERS = (251, 252)
"""IXFR, AXFR: their answers are streams of messages, which this proxy does not judge."""
_BARE_RCODES = (Rcode.FORMERR, Rcode.SERVFAIL, 4, Rcode.REFUSED)
"""With these a server may leave out the question (RFC 1035 says nothing; RFC 8906 8.1.2 saw it). 4: NOTIMP."""
_OPCODE_MASK = 0x78
READINGS_MAX = 4096
READING_BYTES_MAX = 1232
"""Answers whose reading is remembered, and how long each may be: 5 MB at most. All are forgotten at once when there are more."""


class Asked:
    """A query that was admitted and is not yet answered. Mutable: it counts its attempts."""

    __slots__ = (
        "attempts",
        "audited",
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
        audited: bool,
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
        self.audited = audited
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


Remembered = Callable[[EndpointKey, str, tuple[Address, ...], int], None]
"""Takes what an endpoint learned (name, addresses, expiry) before the answer is released."""


class Arbiter:
    """The rules in force, the cache, and what is on its way."""

    def __init__(
        self,
        settings: Settings,
        cache: DnsCache,
        publisher: Publisher,
        reporter: Reporter,
        counters: Counters,
        remembered: Remembered,
    ) -> None:
        self.rules = CompiledRules(DnsRules())
        self.roster = Roster()
        self.parties: dict[str, Party] = {}
        """Address (text) -> whose it is."""
        self.cache = cache
        self.in_flight = 0
        self._settings = settings
        self._publisher = publisher
        self._reporter = reporter
        self._counters = counters
        self._remembered = remembered
        self._readings: dict[bytes, tuple[int, Resolution]] = {}
        self._in_flight_of: dict[EndpointKey, int] = {}
        self._party_of: dict[EndpointKey, Party] = {}

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
        party = self.parties.get(client[0])
        compiled = party.slots.get(slot) if party is not None else None
        if party is None or compiled is None:
            counters.unknown_subject += 1
            rcode = self.rules.rules.reject.rcode
            return self._refuse(data, query, party, client, server, slot, protocol, Reason.UNKNOWN_CLIENT, rcode)
        judged = compiled.judge(query.name, query.type)
        if judged.rule is None or query.type in _TRANSFERS:
            reason = Reason.NONE if judged.rule is None else Reason.ZONE_TRANSFER
            return self._refuse(data, query, party, client, server, slot, protocol, reason, self._rcode(judged))
        mine = self._in_flight_of.get(party.key, 0)
        deadline_ns = now_ns + self._settings.upstream_timeout_ns
        audited = not judged.shadow_allows
        asked = Asked(data, query, party, judged.rule, audited, client, server, slot, protocol, now_ns, deadline_ns)
        self.in_flight += 1
        self._in_flight_of[party.key] = mine + 1
        if self.in_flight > self._settings.in_flight_max or mine >= self._settings.in_flight_per_endpoint_max:
            counters.failed_limit += 1
            return self.fail(asked, Reason.IN_FLIGHT_LIMIT, now_ns)
        return asked

    def _rcode(self, judged: Judgement) -> Rcode:
        """Return how a query that no rule allows is answered. In this order:

        1. What a search list made of an allowed name (its labels, then others) does not exist: on REFUSED resolvers (glibc, musl)
           give up instead of going on to the name itself.
        2. A name that is allowed for other types exists: NXDOMAIN would deny all of it (RFC 8020), so it has no such record.
        3. Else as the rules say.
        """
        reject = self.rules.rules.reject
        if judged.expands_allowed:
            return Rcode.NXDOMAIN
        if judged.name_allowed and reject is Reject.NXDOMAIN:
            return Rcode.NOERROR
        return reject.rcode

    def _refuse(
        self,
        data: bytes,
        query: Query,
        party: Party | None,
        client: tuple[str, int],
        server: tuple[str, int],
        slot: int,
        protocol: str,
        reason: Reason,
        rcode: Rcode,
    ) -> bytes:
        self._counters.refused += 1
        self._counters.end("refused", rcode, query.type)
        if self._reporter.connected:
            endpoint = party.subject.endpoint if party is not None else ""
            name = to_text(query.name)
            self._reporter.add(Report("refused", reason, protocol, endpoint, client, server, slot, "", name, query.type, rcode))
        return refusal(data, query, rcode)

    # ---- answers --------------------------------------------------------------------------------------------------

    def settle(self, asked: Asked, data: bytes, now_ns: int) -> bytes:
        """Publish what the answer ``data`` says and return what the client gets: it with the client's id, or SERVFAIL."""
        try:
            rcode, resolution = self._readings[data[2:]]
        except KeyError:
            try:
                rcode, resolution = self._read(asked, data)
            except ProtocolError:
                self._counters.upstream_malformed += 1
                return self.fail(asked, Reason.UPSTREAM_MALFORMED, now_ns)
        # The rules may have changed meanwhile, and the address may be another pod's by now.
        party = self.parties.get(asked.client[0])
        if party is None or party.key != asked.party.key:
            self._counters.unknown_subject += 1
            return self.fail(asked, Reason.CLIENT_GONE, now_ns)
        if resolution.addresses and not self._publish(party, to_text(asked.query.name), resolution, now_ns):
            self._counters.failed_publish += 1
            return self.fail(asked, Reason.NOT_PUBLISHED, now_ns)
        self._end(asked)
        verdict = "audited" if asked.audited else "allowed"
        self._counters.answered += 1
        self._counters.end(verdict, rcode, asked.query.type)
        self._counters.took(now_ns - asked.started_ns)
        if self._reporter.wants_allowed() if verdict == "allowed" else self._reporter.connected:
            self._report(asked, verdict, Reason.NONE, rcode, resolution, now_ns)
        return asked.data[:2] + data[2:]

    def _read(self, asked: Asked, data: bytes) -> tuple[int, Resolution]:
        """Return an answer's code and what it says. Remembered: popular names are answered alike but for the id."""
        message = parse_message(data)
        found = message.rcode, resolve(message, asked.query.name)
        # Without its question an answer's meaning depends on what was asked; such are failures, and rare.
        if len(data) <= READING_BYTES_MAX and message.questions:
            if len(self._readings) >= READINGS_MAX:
                self._readings.clear()
            self._readings[data[2:]] = found
        return found

    def fail(self, asked: Asked, reason: Reason, now_ns: int) -> bytes:
        """End a query without an answer: return SERVFAIL for it."""
        self._end(asked)
        self._counters.failed += 1
        self._counters.end("error", Rcode.SERVFAIL, asked.query.type)
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

    def _report(self, asked: Asked, verdict: str, reason: Reason, rcode: int, resolution: Resolution, now_ns: int) -> None:
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

    # ---- publishing -----------------------------------------------------------------------------------------------

    def _publish(self, party: Party, name: str, resolution: Resolution, now_ns: int) -> bool:
        """Make an answer's addresses known; what stands for long enough already costs nothing."""
        ttl_seconds = min(max(resolution.ttl_seconds_max, self.rules.rules.ttl_seconds_min), TTL_SECONDS_MAX)
        expires_ns = now_ns + ttl_seconds * SECOND_NS + self._settings.grace_ns
        lacking = self.cache.lacking(party.key, name, resolution.addresses, expires_ns - REPUBLISH_NS)
        if not lacking:
            return True
        addresses = tuple(address for address in lacking if is_publishable(address))
        self._counters.unpublishable += len(lacking) - len(addresses)
        if not addresses:
            return True
        selectors = party.selectors.covering(name)
        if selectors:
            news = dict.fromkeys(selectors, expires_ns)
            try:
                self._publisher.publish(party.subject, {each: self._grants(party, each, now_ns, news) for each in addresses})
            except PublishError:
                self._restore(party, addresses, now_ns)
                return False
            self._counters.published += len(addresses)
        gone = self.cache.remember(party.key, name, addresses, expires_ns, now_ns)
        self._remembered(party.key, name, addresses, expires_ns)
        if gone:
            self._restore(party, gone, now_ns)
        return True

    def _grants(self, party: Party, address: Address, now_ns: int, news: Grants | None = None) -> Grants:
        """Return what ``address`` stands for: the selectors of all names that have it, each until its last name's expiry."""
        found: dict[int, int] = dict(news or {})
        for name, expires_ns in self.cache.holders(party.key, address, now_ns):
            for selector in party.selectors.covering(name):
                found[selector] = max(found.get(selector, 0), expires_ns)
        return found

    def _restore(self, party: Party, addresses: Iterable[Address], now_ns: int) -> None:
        """Let addresses stand for what the cache knows, which may be nothing any more.

        A failure leaves them open until they expire, which is all that they were promised.
        """
        wanted = {address: self._grants(party, address, now_ns) for address in addresses}
        try:
            self._publisher.publish(party.subject, wanted)
            self._counters.withdrawn += sum(not grants for grants in wanted.values())
        except PublishError:
            self._counters.failed_restore += 1

    def forget_expired(self, key: EndpointKey, now_ns: int) -> None:
        """Forget what has expired for one endpoint, in the cache and in the datapath."""
        gone = self.cache.expire(key, now_ns)
        party = self._party_of.get(key)
        if gone and party is not None:
            self._restore(party, gone, now_ns)

    # ---- rules ----------------------------------------------------------------------------------------------------

    def replace(self, rules: CompiledRules, roster: Roster, now_ns: int, restored: bool = False) -> tuple[EndpointKey, ...]:
        """Put ``rules`` and ``roster`` in force; returns the endpoints that are gone and forgotten.

        Known answers are published again for endpoints whose selectors or interface changed, so that a new policy covers names
        that were resolved under the old one. ``restored``: the cache comes from disk, and the datapath from a proxy before.
        """
        before = self._party_of
        self.rules, self.roster = rules, roster
        self.parties = rules.parties(roster)
        self._party_of = {party.key: party for party in self.parties.values()}
        self.cache.addresses_per_name_max = rules.rules.addresses_per_name_max
        gone = tuple(key for key in self.cache.endpoints if key not in self._party_of)
        for key in gone:
            if key in before:
                self._close(before[key].subject, self.cache.addresses(key))
            self.cache.forget(key)
        if restored:
            self._retain()
        for key in self.cache.endpoints:
            old, new = before.get(key), self._party_of[key]
            if old is not None and old.subject.interface != new.subject.interface:
                self._close(old.subject, self.cache.addresses(key))
                old = None
            if restored or old is None or old.selectors.selectors != new.selectors.selectors:
                self._publish_known(new, now_ns)
        return gone

    def publish_all(self, now_ns: int) -> None:
        """Tell the datapath everything anew: it has forgotten."""
        for party in self._party_of.values():
            self._publish_known(party, now_ns)

    def _close(self, subject: Subject, addresses: tuple[Address, ...]) -> None:
        try:
            self._publisher.publish(subject, {address: {} for address in addresses})
            self._counters.withdrawn += len(addresses)
        except PublishError:
            self._counters.failed_restore += 1

    def _publish_known(self, party: Party, now_ns: int) -> None:
        known = self.cache.addresses(party.key)
        for start in range(0, len(known), PUBLISH_CHUNK):
            chunk = {address: self._grants(party, address, now_ns) for address in known[start : start + PUBLISH_CHUNK]}
            try:
                self._publisher.publish(party.subject, chunk)
                self._counters.published += len(chunk)
            except PublishError:
                # Forgotten, they are published with the next answer.
                self._counters.failed_restore += 1
                self.cache.forget(party.key)
                return

    def _retain(self) -> None:
        allowed: dict[int, frozenset[int]] = {}
        for party in self._party_of.values():
            allowed[party.subject.interface] = frozenset(number for number, _ in party.selectors.selectors)
        try:
            self._publisher.retain(allowed)
        except PublishError:
            self._counters.failed_restore += 1
