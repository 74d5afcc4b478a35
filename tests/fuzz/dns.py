"""A coverage-guided fuzzer of the DNS readers: ``python -m tests.fuzz.dns [libFuzzer options] [CORPUS]``; ``make fuzz`` runs it.

Whatever the bytes: a reader returns or raises ProtocolError, nothing else, and within a time in proportion to their number; what
dnspython reads too, both read alike; a stream of queries gives the same operations whole and in pieces; an answer that is made
has the question's id and is no larger than the query and an OPT. The first byte chooses the target, so one corpus serves all.
"""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["proxylib"]):
    from proxylib.dns.message import Message, Rcode, malformed_answer, parse_message, read_query, refusal, resolve
    from proxylib.dns.name import to_text
    from proxylib.dns.stream import QueryStream
    from proxylib.errors import ProtocolError
    from proxylib.ops import Drop, More, Op, Pass

import dns.exception
import dns.message
import dns.rdatatype

REFUSAL_BYTES_MAX = 11
"""What an answer of ours may be longer than its query: an OPT record."""
SEEDS = (
    b"\0\x12\x34\x01\0\0\1\0\0\0\0\0\1\x03www\x04test\0\0\1\0\1\0\0\x29\x04\xd0\0\0\0\0\0\0",
    b"\1\x12\x34\x81\x80\0\1\0\2\0\0\0\0\x03www\x04test\0\0\1\0\1\xc0\x0c\0\5\0\1\0\0\0\x3c\0\5\x02ab\xc0\x10"
    b"\xc0\x26\0\1\0\1\0\0\0\x3c\0\4\x0a\0\0\1",
    b"\2\3\7\0\x1d\x12\x34\x01\0\0\1\0\0\0\0\0\0\x03www\x04test\0\0\1\0\1",
)


def on_query(data: bytes) -> None:
    """A datagram from a pod."""
    try:
        query = read_query(data)
    except ProtocolError:
        answer = malformed_answer(data)
        assert answer is None or (answer[:2] == data[:2] and len(answer) <= len(data))
        return
    assert to_text(query.name)
    for rcode in (Rcode.REFUSED, Rcode.NXDOMAIN, Rcode.SERVFAIL, Rcode.NOERROR):
        answer = refusal(data, query, rcode)
        assert answer[:2] == data[:2]
        assert len(answer) <= len(data) + REFUSAL_BYTES_MAX
        made = parse_message(answer)
        assert (made.rcode, made.questions[0].name, made.edns) == (rcode, query.name, query.edns_flags is not None)


def on_answer(data: bytes) -> None:
    """A datagram from a server."""
    try:
        message = parse_message(data)
    except ProtocolError:
        return
    if message.questions:
        resolution = resolve(message, message.questions[0].name)
        assert len(set(resolution.addresses)) == len(resolution.addresses)
        assert resolution.ttl_seconds_min <= resolution.ttl_seconds_max
    compare(data, message)


def compare(data: bytes, message: Message) -> None:
    """What dnspython reads as well has the same addresses in the same order."""
    with contextlib.suppress(dns.exception.DNSException, ValueError, NotImplementedError):
        other = dns.message.from_wire(data, one_rr_per_rrset=True)
        theirs = [
            item.to_text()
            for rrset in other.answer
            for item in rrset
            if rrset.rdclass == 1 and rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
        ]
        ours = [record.address for record in message.answers if record.address is not None]
        assert len(theirs) == len(ours)


def on_stream(data: bytes) -> None:
    """A connection of a pod: the first two bytes say how it is cut."""
    cuts, sent = data[:2], data[2:]
    assert operations(sent, ()) == operations(sent, cuts)


def operations(sent: bytes, cuts: bytes | tuple[int, ...]) -> list[Op] | None:
    """What becomes of the stream; None: it is given up."""
    stream = QueryStream(judge)
    ops: list[Op] = []
    try:
        start = 0
        for cut in [*cuts, len(sent)]:
            stop = min(len(sent), start + (cut if cut < len(sent) - start else len(sent) - start))
            ops += stream.feed(sent[start:stop])
            start = stop
    except ProtocolError:
        return None
    kept = [op for op in ops if not isinstance(op, More)]
    passed = b"".join(op.data for op in kept if isinstance(op, Pass | Drop))
    assert sent.startswith(passed)
    return kept


def judge(message: bytes) -> bytes | None:
    """As the proxy does: what can't be read is answered, every other query goes on or is refused, by its first bit."""
    try:
        query = read_query(message)
    except ProtocolError:
        return malformed_answer(message) or b""
    return refusal(message, query, Rcode.REFUSED) if message[0] & 1 else None


TARGETS = (on_query, on_answer, on_stream)


def test_one_input(data: bytes) -> None:
    """The entry point that the fuzzer calls."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


def main() -> None:
    """Try the seeds, then fuzz until told to stop (``-max_total_time=SECONDS``)."""
    for seed in SEEDS:
        test_one_input(seed)
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
