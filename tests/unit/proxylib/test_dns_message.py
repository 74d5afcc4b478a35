"""Messages: what is read, what is refused, what refusals look like."""

from __future__ import annotations

from ipaddress import ip_address

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest

from proxylib.dns.message import (
    Message,
    Rcode,
    malformed_answer,
    parse_message,
    read_query,
    refusal,
    resolve,
    type_name,
)
from proxylib.dns.name import to_text
from proxylib.errors import ProtocolError

QUERY = bytes.fromhex("1234 0100 0001 0000 0000 0000") + b"\x03wWw\x07example\x03com\0" + bytes.fromhex("0001 0001")
OPT = bytes.fromhex("00 0029 04d0 00 00 8000 0000")


def answer(question: str, *lines: str, additional: tuple[str, ...] = (), rcode: int = 0) -> Message:
    """An answer as dnspython writes it, compressed."""
    name, type_ = question.split()
    message = dns.message.make_response(dns.message.make_query(name, type_))
    message.set_rcode(dns.rcode.Rcode(rcode))
    for line in lines:
        message.answer.append(dns.rrset.from_text(*line.split(maxsplit=4)))
    for line in additional:
        message.additional.append(dns.rrset.from_text(*line.split(maxsplit=4)))
    return parse_message(message.to_wire(origin=dns.name.root))


def found(message: Message, name: str) -> tuple[list[str], list[str]]:
    resolution = resolve(message, dns.name.from_text(name).to_wire().lower())
    return [str(ip_address(each)) for each in resolution.addresses], [to_text(each) for each in resolution.aliases]


def test_query_is_read() -> None:
    query = read_query(QUERY)
    assert (query.id, to_text(query.name), query.type, query.class_, query.edns_flags) == (0x1234, "www.example.com", 1, 1, None)
    assert query.question_end == len(QUERY)
    with_opt = QUERY[:10] + b"\0\1" + QUERY[12:] + OPT
    assert read_query(with_opt).edns_flags == 0x8000


@pytest.mark.parametrize(
    "data, problem",
    [
        (QUERY[:11], "header"),
        (QUERY[:2] + b"\x81" + QUERY[3:], "response"),
        (QUERY[:2] + b"\x29" + QUERY[3:], "one question"),
        (QUERY[:5] + b"\0" + QUERY[6:], "one question"),
        (QUERY[:5] + b"\2" + QUERY[6:], "one question"),
        (QUERY[:7] + b"\1" + QUERY[8:], "one question"),
        (QUERY[:9] + b"\1" + QUERY[10:], "one question"),
        (QUERY + b"\0", "after the end"),
        (QUERY[:-1], "too early"),
        (QUERY[:12] + b"\xc0\x0c" + QUERY[-4:], "compressed"),
        (QUERY[:10] + b"\0\1" + QUERY[12:], "too early"),
        (QUERY[:10] + b"\0\1" + QUERY[12:] + OPT + b"x", "after the end"),
    ],
)
def test_what_is_no_plain_query_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ProtocolError, match=problem):
        read_query(data)


@pytest.mark.parametrize("edns", [False, True])
@pytest.mark.parametrize("rcode", [Rcode.REFUSED, Rcode.NXDOMAIN, Rcode.SERVFAIL])
def test_refusal_repeats_id_question_and_case(edns: bool, rcode: Rcode) -> None:
    query = dns.message.make_query("wWw.ExAmple.com", "AAAA", use_edns=0 if edns else -1, want_dnssec=edns)
    data = query.to_wire()
    reply = dns.message.from_wire(refusal(data, read_query(data), rcode))
    assert reply.id == query.id
    assert reply.question[0].name.labels == query.question[0].name.labels, "letter case included"
    assert reply.rcode() == int(rcode)
    assert bool(reply.flags & dns.flags.QR)
    assert bool(reply.flags & dns.flags.RD)
    assert (reply.edns, bool(reply.ednsflags & dns.flags.DO)) == ((0, True) if edns else (-1, False))
    assert query.is_response(reply)


def test_malformed_queries_get_format_error_and_responses_get_nothing() -> None:
    reply = malformed_answer(QUERY[:-2])
    assert reply is not None
    assert dns.message.from_wire(reply).rcode() == dns.rcode.FORMERR
    assert malformed_answer(b"short") is None
    assert malformed_answer(QUERY[:2] + b"\x80" + QUERY[3:]) is None


@pytest.mark.parametrize(
    "message, addresses, aliases",
    [
        (answer("a.test A", "a.test 60 IN A 10.0.0.1"), ["10.0.0.1"], []),
        (answer("a.test AAAA", "a.test 60 IN AAAA fd00::1"), ["fd00::1"], []),
        (
            answer("a.test A", "c.test 9 IN A 10.0.0.3", "b.test 60 IN CNAME c.test", "a.test 60 IN CNAME b.test"),
            ["10.0.0.3"],
            ["b.test", "c.test"],
        ),
        # Loops end; what hangs on them counts.
        (
            answer("a.test A", "a.test 1 IN CNAME b.test", "b.test 1 IN CNAME a.test", "b.test 1 IN A 10.0.0.9"),
            ["10.0.0.9"],
            ["b.test"],
        ),
        # Records of other names, wherever they stand, open nothing.
        (answer("a.test A", "evil.test 60 IN A 10.6.6.6", additional=("a.test 60 IN A 10.6.6.6",)), [], []),
        (answer("a.test A", "a.test 60 IN A 10.0.0.1", rcode=3), [], []),
        (
            answer("a.test HTTPS", 'a.test 60 IN HTTPS 1 . alpn="h2" ipv4hint="10.0.0.1,10.0.0.2" ipv6hint="fd00::1"'),
            ["10.0.0.1", "10.0.0.2", "fd00::1"],
            [],
        ),
        (
            answer(
                "a.test HTTPS", "a.test 60 IN HTTPS 0 b.test", additional=("b.test 60 IN A 10.0.0.5", "x.test 60 IN A 10.6.6.6")
            ),
            ["10.0.0.5"],
            [],
        ),
        (answer("a.test TXT", 'a.test 60 IN TXT "v" "w"'), [], []),
    ],
)  # fmt: skip
def test_addresses_of_an_answer(message: Message, addresses: list[str], aliases: list[str]) -> None:
    assert found(message, "a.test") == (addresses, aliases)


def test_ttl_bounds_and_negative_ttl() -> None:
    message = answer("a.test A", "a.test 300 IN CNAME b.test", "b.test 20 IN A 10.0.0.1")
    resolution = resolve(message, b"\1a\4test\0")  # type: ignore[arg-type]
    assert (resolution.ttl_seconds_min, resolution.ttl_seconds_max) == (20, 300)
    record = b"\0\0\1\0\1" + b"\xff\xff\xff\xff" + b"\0\4\x0a\0\0\1"
    assert parse_message(bytes.fromhex("0001 8000 0000 0001 0000 0000") + record).answers[0].ttl_seconds == 0


@pytest.mark.parametrize(
    "record, problem",
    [
        (b"\0\0\1\0\1\0\0\0\1\0\3abc", "A record"),
        (b"\0\0\x1c\0\1\0\0\0\1\0\4abcd", "AAAA record"),
        (b"\0\0\5\0\1\0\0\0\1\0\3\1a\0", None),
        (b"\0\0\5\0\1\0\0\0\1\0\4\1a\0\0", "CNAME"),
        (b"\0\0\x41\0\1\0\0\0\1\0\2\0\1", "too early|too long"),
        (b"\0\0\x41\0\1\0\0\0\1\0\x0b\0\1\0\0\4\0\4\x0a\0\0\1", None),
        (b"\0\0\x41\0\1\0\0\0\1\0\x0a\0\1\0\0\4\0\3\x0a\0\0", "wrong size"),
        (b"\0\0\x41\0\1\0\0\0\1\0\x0b\0\1\0\0\4\0\0\0\4\0\0", "wrong size|out of order"),
        (b"\0\0\x41\0\1\0\0\0\1\0\x0b\0\1\0\0\2\0\0\0\2\0\0", "out of order"),
        (b"\0\0\x63\0\1\0\0\0\1\xff\xff", "too early"),
    ],
)
def test_malformed_record_data(record: bytes, problem: str | None) -> None:
    data = bytes.fromhex("0001 8000 0000 0001 0000 0000") + record
    if problem is None:
        assert len(parse_message(data).answers) == 1
        return
    with pytest.raises(ProtocolError, match=problem):
        parse_message(data)


def test_counts_that_can_not_fit_are_refused_before_any_work() -> None:
    with pytest.raises(ProtocolError, match="more records than fit"):
        parse_message(bytes.fromhex("0001 8000 ffff ffff ffff ffff") + bytes(100))


def test_type_names() -> None:
    assert (type_name(65), type_name(28), type_name(65280)) == ("HTTPS", "AAAA", "TYPE65280")
