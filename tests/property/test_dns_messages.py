"""Any bytes give a message or ProtocolError; what both readers accept, both read alike; cutting a stream changes nothing."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from hypothesis import given
from hypothesis import strategies as st

from proxylib.cursor import Cursor
from proxylib.dns.message import CLASS_INTERNET, Rcode, malformed_answer, parse_message, read_query, refusal, resolve
from proxylib.dns.name import WireName, to_text
from proxylib.dns.stream import Framer, QueryStream, frame
from proxylib.errors import ProtocolError
from proxylib.ops import Drop, Inject, More, Op, Pass

labels = st.binary(min_size=1, max_size=12) | st.sampled_from([b"www", b"Example", b"com", b"a.b"])
names = st.lists(labels, max_size=6).map(lambda found: dns.name.Name([*found, b""]))
ipv4 = st.integers(0, 2**32 - 1).map(lambda n: ".".join(str(n >> s & 255) for s in (24, 16, 8, 0)))
plain = st.sampled_from(["a.test.", "b.test.", "www.a.test.", "."])


@st.composite
def rdata(draw: st.DrawFn) -> dns.rdata.Rdata:
    """Record data of the kinds that are read, and of some that are passed over."""
    text = draw(
        st.one_of(
            ipv4.map(lambda a: ("A", a)),
            st.just(("AAAA", "fd00::17")),
            plain.map(lambda n: ("CNAME", n)),
            plain.map(lambda n: ("NS", n)),
            plain.map(lambda n: ("MX", f"10 {n}")),
            plain.map(lambda n: ("SRV", f"1 2 443 {n}")),
            st.just(("TXT", '"some text" "more"')),
            st.tuples(plain, ipv4).map(lambda t: ("HTTPS", f'1 {t[0]} alpn="h2,h3" ipv4hint="{t[1]}" ipv6hint="fd00::9"')),
            plain.map(lambda n: ("SVCB", f"0 {n}")),
        )
    )
    return dns.rdata.from_text("IN", *text)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Responses as dnspython writes them: compressed, with records in every section."""
    message = dns.message.make_response(dns.message.make_query(draw(names), draw(st.sampled_from(["A", "AAAA", "HTTPS", "ANY"]))))
    message.set_rcode(dns.rcode.Rcode(draw(st.sampled_from([0, 3]))))
    for section in (message.answer, message.authority, message.additional):
        for owner, data in draw(st.lists(st.tuples(names, rdata()), max_size=5)):
            section.append(dns.rrset.from_rdata(owner, draw(st.integers(0, 2**31 - 1)), data))
    if draw(st.booleans()):
        message.use_edns(0, payload=1232)
    return message.to_wire(max_size=65535)


def canonical(name: dns.name.Name) -> bytes:
    return name.to_wire().lower()


@given(messages())
def test_both_readers_see_the_same_records(data: bytes) -> None:
    ours = parse_message(data)
    theirs = dns.message.from_wire(data, one_rr_per_rrset=True)
    assert [(q.name, q.type) for q in ours.questions] == [(canonical(q.name), int(q.rdtype)) for q in theirs.question]
    for mine, other in zip((ours.answers, ours.authorities), (theirs.answer, theirs.authority), strict=True):
        assert [(r.name, r.type, r.ttl_seconds) for r in mine] == [(canonical(r.name), int(r.rdtype), r.ttl) for r in other]
    assert ours.edns == (theirs.edns == 0)
    for record, other_set in zip(ours.answers, theirs.answer, strict=True):
        other_data = other_set[0]
        match other_set.rdtype:
            case dns.rdatatype.A | dns.rdatatype.AAAA:
                assert record.address == other_data.to_wire()
            case dns.rdatatype.CNAME:
                assert record.alias == canonical(other_data.target)
            case dns.rdatatype.HTTPS | dns.rdatatype.SVCB:
                assert record.service is not None
                hints = [address for key in (4, 6) if key in other_data.params for address in other_data.params[key].addresses]
                assert record.service.target == canonical(other_data.target)
                assert [str(ip_address(address)) for address in record.service.hints] == hints
            case _:
                assert (record.address, record.alias, record.service) == (None, None, None)


@given(messages(), st.data())
def test_a_changed_byte_gives_a_message_or_an_error(data: bytes, draw: st.DataObject) -> None:
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        changed[draw.draw(st.integers(0, len(changed) - 1))] = draw.draw(st.integers(0, 255))
    read_everything(bytes(changed[: draw.draw(st.integers(0, len(changed)))]))
    read_everything(bytes(changed))


@given(st.binary(max_size=300))
def test_any_bytes_give_a_message_or_an_error(data: bytes) -> None:
    read_everything(data)


@given(st.binary(max_size=200), st.integers(0, 3), st.integers(0, 6))
def test_any_records_give_a_message_or_an_error(body: bytes, questions: int, answers: int) -> None:
    read_everything(b"\0\1\x80\0" + bytes([0, questions, 0, answers, 0, 0, 0, 0]) + body)


def read_everything(data: bytes) -> None:
    malformed_answer(data)
    with contextlib.suppress(ProtocolError):
        message = parse_message(data)
        for record in (*message.answers, *message.additionals):
            to_text(record.name)
        resolve(message, message.questions[0].name if message.questions else WireName(b"\0"))
    with contextlib.suppress(ProtocolError):
        refused = refusal(data, read_query(data), Rcode.REFUSED)
        assert parse_message(refused).rcode == Rcode.REFUSED


@given(names, st.sampled_from(["A", "HTTPS", "TXT"]), st.booleans())
def test_the_two_query_readers_agree(name: dns.name.Name, kind: str, edns: bool) -> None:
    data = dns.message.make_query(name, kind, use_edns=0 if edns else -1).to_wire()
    query, message = read_query(data), parse_message(data)
    assert message.questions == ((query.name, query.type, CLASS_INTERNET),)
    assert (query.id, query.edns_flags is not None) == (message.id, message.edns)


@given(st.lists(labels, max_size=6), st.lists(labels, max_size=6))
def test_names_have_the_same_text_only_if_they_are_the_same(one: list[bytes], other: list[bytes]) -> None:
    wires = [WireName(b"".join(bytes([len(each)]) + each for each in found).lower() + b"\0") for found in (one, other)]
    assert (to_text(wires[0]) == to_text(wires[1])) == (wires[0] == wires[1])


# ---- streams ------------------------------------------------------------------------------------------------------

stream_messages = st.lists(st.binary(min_size=12, max_size=60), max_size=5)


def judge(message: bytes) -> bytes | None:
    """Three fates, by the first byte."""
    return (None, b"", b"refused" + message)[message[0] % 3]


def without_more(ops: list[Op]) -> list[Op]:
    return [op for op in ops if not isinstance(op, More)]


@given(stream_messages, st.data())
def test_a_stream_split_anywhere_gives_the_same_operations(sent: list[bytes], draw: st.DataObject) -> None:
    stream = b"".join(frame(message) for message in sent) + b"\0"
    cuts = sorted(draw.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    whole, pieces = QueryStream(judge), QueryStream(judge)
    expected = without_more(whole.feed(stream))
    found = [op for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True) for op in pieces.feed(stream[start:stop])]
    assert without_more(found) == expected
    assert b"".join(op.data for op in expected if isinstance(op, Pass | Drop)) + b"\0" == stream
    assert [op.data for op in expected if isinstance(op, Inject)] == [frame(b"refused" + m) for m in sent if m[0] % 3 == 2]


@given(stream_messages)
def test_a_stream_byte_by_byte_is_the_whole(sent: list[bytes]) -> None:
    stream = b"".join(frame(message) for message in sent)
    framer = Framer()
    found = []
    for at in range(len(stream)):
        missing = framer.size_bytes_missing
        assert missing >= 1
        found += framer.feed(stream[at : at + 1])
    assert found == sent


@given(st.binary(max_size=100))
def test_any_stream_gives_operations_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        QueryStream(judge).feed(data)


@given(st.binary(max_size=20), st.lists(st.integers(-2, 10), max_size=6))
def test_a_cursor_never_leaves_its_bounds(data: bytes, sizes: list[int]) -> None:
    cursor = Cursor(data, 0, len(data) // 2)
    with contextlib.suppress(ProtocolError):
        for size in sizes:
            before = cursor.position
            assert cursor.take(size) == data[before : before + size]
            assert 0 <= cursor.remaining == cursor.end - cursor.position
    assert cursor.position <= cursor.end == len(data) // 2
