"""DNS messages, as far as a proxy needs them (RFC 1035 4, RFC 6891, RFC 9460).

Owns: reading queries and answers, and making refusals. Messages are forwarded as the bytes they came in, so there is no writer
for them. Everything that names no address is passed over by its length. Must not know rules, sockets or time.

Two readers: ``read_query`` sees every query and reads only its question; ``parse_message`` reads all sections. The values here
are named tuples, not dataclasses, since they are made for every message and cost a third.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple, NewType

from proxylib.cursor import Cursor
from proxylib.dns.name import ROOT, WireName, read_name, skip_plain_name
from proxylib.errors import ProtocolError

Address = NewType("Address", bytes)
"""An IP address as it is on the wire: 4 or 16 bytes."""

HEADER_BYTES = 12
MESSAGE_BYTES_MAX = 65535
REFUSAL_PAYLOAD_BYTES = 1232
"""The UDP payload size that our own OPT names: what passes every path unfragmented (DNS flag day 2020)."""

FLAG_RESPONSE = 0x8000
FLAG_TRUNCATED = 0x0200
_FLAG_RECURSION_DESIRED = 0x0100
_FLAG_RECURSION_AVAILABLE = 0x0080
_FLAG_CHECKING_DISABLED = 0x0010
_OPCODE_MASK = 0x7800
_RCODE_MASK = 0x000F
_EDNS_DNSSEC_OK = 0x8000

_HEADER = Struct("!HHHHHH")
_QUESTION = Struct("!HH")
_RECORD = Struct("!HHIH")
_OPT = Struct("!BHHBBHH")
_QUESTION_BYTES_MIN = 5
_RECORD_BYTES_MIN = 11
_TTL_SIGN = 0x80000000

CLASS_INTERNET = 1


class Rcode(IntEnum):
    """Response codes that the proxy gives."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    REFUSED = 5


class RecordType(IntEnum):
    """Record and query types with a name; policies may name any of them."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    HINFO = 13
    MX = 15
    TXT = 16
    RP = 17
    AAAA = 28
    LOC = 29
    SRV = 33
    NAPTR = 35
    CERT = 37
    DNAME = 39
    OPT = 41
    DS = 43
    SSHFP = 44
    RRSIG = 46
    NSEC = 47
    DNSKEY = 48
    NSEC3 = 50
    NSEC3PARAM = 51
    TLSA = 52
    SMIMEA = 53
    OPENPGPKEY = 61
    SVCB = 64
    HTTPS = 65
    SPF = 99
    IXFR = 251
    AXFR = 252
    ANY = 255
    URI = 256
    CAA = 257


_TYPE_NAMES = {int(kind): kind.name for kind in RecordType}
_SERVICE_HINTS = {4: 4, 6: 16}
"""SvcParamKey -> bytes of one address: ipv4hint and ipv6hint."""


def type_name(number: int) -> str:
    """Return ``A``, ``AAAA``, ...; ``TYPE<number>`` (RFC 3597) for one without a name here."""
    return _TYPE_NAMES.get(number) or f"TYPE{number}"


class Query(NamedTuple):
    """The question of a query. ``name`` is canonical; the case that the client chose is in the message."""

    id: int
    flags: int
    name: WireName
    type: int
    class_: int
    question_end: int
    edns_flags: int | None
    """The OPT record's flags; None: the query has no OPT."""


class Service(NamedTuple):
    """What an SVCB or HTTPS record says (RFC 9460 2.2). ``target`` is the root for "the owner itself"."""

    priority: int
    target: WireName
    hints: tuple[Address, ...]


class Record(NamedTuple):
    """One resource record. ``data``: an address (A, AAAA), a name (CNAME), a Service (SVCB, HTTPS), else None."""

    name: WireName
    type: int
    class_: int
    ttl_seconds: int
    address: Address | None = None
    alias: WireName | None = None
    service: Service | None = None


class Question(NamedTuple):
    """One entry of the question section."""

    name: WireName
    type: int
    class_: int


class Message(NamedTuple):
    """A whole message."""

    id: int
    flags: int
    questions: tuple[Question, ...]
    answers: tuple[Record, ...]
    authorities: tuple[Record, ...]
    additionals: tuple[Record, ...]

    @property
    def rcode(self) -> int:
        """The header's response code."""
        return self.flags & _RCODE_MASK

    @property
    def edns(self) -> bool:
        """Whether there is an OPT record."""
        return any(record.type == RecordType.OPT for record in self.additionals)


def read_query(data: bytes) -> Query:
    """Return the question of the query ``data``; raises ProtocolError for whatever is no plain query with one question.

    Records before the additional section have no place in a query, and bytes after its end would be a message of their own.
    """
    if len(data) < HEADER_BYTES:
        raise ProtocolError("shorter than a header")
    id_, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(data)
    if flags & FLAG_RESPONSE:
        raise ProtocolError("a response where a query is expected")
    if flags & _OPCODE_MASK or questions != 1 or answers or authorities:
        raise ProtocolError("not a query with one question")
    name_end = skip_plain_name(data, HEADER_BYTES)
    end = name_end + _QUESTION.size
    if len(data) < end:
        raise ProtocolError("ends too early")
    type_, class_ = _QUESTION.unpack_from(data, name_end)
    name = WireName(data[HEADER_BYTES:name_end].lower())
    edns_flags: int | None = None
    if additionals == 1 and len(data) >= end + _OPT.size and data[end : end + 3] == b"\0\0\x29":
        *_, edns_flags, length = _OPT.unpack_from(data, end)
        if end + _OPT.size + length != len(data):
            raise ProtocolError("bytes after the end")
    elif additionals:
        edns_flags = _additional_edns_flags(data, end, additionals, name)
    elif len(data) != end:
        raise ProtocolError("bytes after the end")
    return Query(id_, flags, name, type_, class_, end, edns_flags)


def _additional_edns_flags(data: bytes, end: int, count: int, name: WireName) -> int | None:
    cursor = Cursor(data, end)
    records = _read_section(cursor, count, {HEADER_BYTES: name})
    if cursor.remaining:
        raise ProtocolError("bytes after the end")
    return next((record.ttl_seconds & 0xFFFF for record in records if record.type == RecordType.OPT), None)


def parse_message(data: bytes) -> Message:
    """Return the whole message ``data``; raises ProtocolError."""
    cursor = Cursor(data)
    id_, flags, question_count, *counts = cursor.unpack(_HEADER)
    if question_count * _QUESTION_BYTES_MIN + sum(counts) * _RECORD_BYTES_MIN > cursor.remaining:
        raise ProtocolError("counts more records than fit")
    known: dict[int, WireName] = {}
    questions = []
    for _ in range(question_count):
        name, cursor.position = read_name(data, cursor.position, known)
        questions.append(Question(name, *cursor.unpack(_QUESTION)))
    sections = [_read_section(cursor, count, known) for count in counts]
    if cursor.remaining:
        raise ProtocolError("bytes after the end")
    return Message(id_, flags, tuple(questions), *sections)


def _read_section(cursor: Cursor, count: int, known: dict[int, WireName]) -> tuple[Record, ...]:
    records = []
    for _ in range(count):
        name, cursor.position = read_name(cursor.data, cursor.position, known)
        type_, class_, ttl, size = cursor.unpack(_RECORD)
        start = cursor.position
        cursor.skip(size)
        if type_ != RecordType.OPT and ttl & _TTL_SIGN:
            ttl = 0  # RFC 2181 8
        record = Record(name, type_, class_, ttl)
        if class_ == CLASS_INTERNET and (reader := _READERS.get(type_)) is not None:
            record = reader(record, Cursor(cursor.data, start, cursor.position), known)
        records.append(record)
    return tuple(records)


def _read_a(record: Record, cursor: Cursor, known: dict[int, WireName]) -> Record:
    del known
    if cursor.remaining != 4:
        raise ProtocolError("A record without 4 bytes")
    return record._replace(address=Address(cursor.take(4)))


def _read_aaaa(record: Record, cursor: Cursor, known: dict[int, WireName]) -> Record:
    del known
    if cursor.remaining != 16:
        raise ProtocolError("AAAA record without 16 bytes")
    return record._replace(address=Address(cursor.take(16)))


def _read_cname(record: Record, cursor: Cursor, known: dict[int, WireName]) -> Record:
    alias, end = read_name(cursor.data, cursor.position, known)
    if end != cursor.end:
        raise ProtocolError("CNAME record is not one name")
    return record._replace(alias=alias)


def _read_service(record: Record, cursor: Cursor, known: dict[int, WireName]) -> Record:
    priority = cursor.u16()
    target, position = read_name(cursor.data, cursor.position, known)
    cursor.skip(position - cursor.position)
    hints: list[Address] = []
    key_before = -1
    while cursor.remaining:
        key, size = cursor.u16(), cursor.u16()
        if key <= key_before:
            raise ProtocolError("service parameters are out of order")
        key_before = key
        value = cursor.take(size)
        if (step := _SERVICE_HINTS.get(key)) is not None:
            if not value or len(value) % step:
                raise ProtocolError("address hint of a wrong size")
            hints.extend(Address(value[at : at + step]) for at in range(0, len(value), step))
    return record._replace(service=Service(priority, target, tuple(hints)))


_READERS = {
    int(RecordType.A): _read_a,
    int(RecordType.AAAA): _read_aaaa,
    int(RecordType.CNAME): _read_cname,
    int(RecordType.SVCB): _read_service,
    int(RecordType.HTTPS): _read_service,
}


class Resolution(NamedTuple):
    """What an answer says about the name that was asked for."""

    addresses: tuple[Address, ...] = ()
    """Each once, in the answer's order; also those behind aliases, hints, and of service targets."""
    aliases: tuple[WireName, ...] = ()
    types: tuple[int, ...] = ()
    ttl_seconds_min: int = 0
    """Of all records that count: how long a client may keep the answer."""
    ttl_seconds_max: int = 0
    """Of all records that count: how long a client may keep any part of it."""


def resolve(message: Message, name: WireName) -> Resolution:
    """Return what ``message`` says about ``name``: its own records and, through aliases, those of the names it leads to.

    Records of other names don't count, wherever they stand: a server can't open addresses that the question did not lead to.
    Additional records count only for the target of a service record, which clients may use unasked (RFC 9460 4.1).
    """
    if message.rcode != Rcode.NOERROR:
        return Resolution(types=tuple(dict.fromkeys(record.type for record in message.answers)))
    chain, aliases = _chain(message.answers, name)
    counted = [record for record in message.answers if record.name in chain]
    targets = {record.service.target for record in counted if record.service is not None and record.service.target != ROOT}
    if targets:
        extra = [record for record in (*message.answers, *message.additionals) if record.name in targets]
        counted += [record for record in extra if record.address is not None and record.name not in chain]
    addresses: dict[Address, None] = {}
    for record in counted:
        if record.address is not None:
            addresses[record.address] = None
        elif record.service is not None:
            addresses.update(dict.fromkeys(record.service.hints))
    ttls = [record.ttl_seconds for record in counted] or [0]
    types = tuple(dict.fromkeys(record.type for record in message.answers))
    return Resolution(tuple(addresses), aliases, types, min(ttls), max(ttls))


def _chain(answers: tuple[Record, ...], name: WireName) -> tuple[set[WireName], tuple[WireName, ...]]:
    """Follow CNAMEs from ``name``, in whatever order they stand; a loop ends where it meets itself."""
    next_of = {record.name: record.alias for record in answers if record.alias is not None}
    chain = {name}
    aliases: list[WireName] = []
    while (name_next := next_of.get(name)) is not None and name_next not in chain:
        chain.add(name_next)
        aliases.append(name_next)
        name = name_next
    return chain, tuple(aliases)


def refusal(data: bytes, query: Query, rcode: Rcode) -> bytes:
    """Return the answer to ``data`` that says ``rcode``: its question as it stood, and an OPT if the query had one."""
    kept = query.flags & (_OPCODE_MASK | _FLAG_RECURSION_DESIRED | _FLAG_CHECKING_DISABLED)
    flags = FLAG_RESPONSE | _FLAG_RECURSION_AVAILABLE | kept | rcode
    edns = query.edns_flags is not None
    opt = b"" if query.edns_flags is None else _opt(query.edns_flags)
    return _HEADER.pack(query.id, flags, 1, 0, 0, int(edns)) + data[HEADER_BYTES : query.question_end] + opt


def _opt(edns_flags: int) -> bytes:
    return _OPT.pack(0, RecordType.OPT, REFUSAL_PAYLOAD_BYTES, 0, 0, edns_flags & _EDNS_DNSSEC_OK, 0)


def malformed_answer(data: bytes) -> bytes | None:
    """Return FORMERR for a query that can't be read; None if there is no header, or it is a response (never answer those)."""
    if len(data) < HEADER_BYTES:
        return None
    id_, flags, *_ = _HEADER.unpack_from(data)
    if flags & FLAG_RESPONSE:
        return None
    kept = flags & (_OPCODE_MASK | _FLAG_RECURSION_DESIRED)
    return _HEADER.pack(id_, FLAG_RESPONSE | kept | Rcode.FORMERR, 0, 0, 0, 0)
