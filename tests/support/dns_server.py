"""A DNS server that does what real ones are not asked to, on port 53: ``python -m tests.support.dns_server ADDRESS...``.

What it answers is in the name that it is asked for:

    rotate.*    an A or AAAA record out of 198.51.100.0/24 or 2001:db8:51::/64, another one each time, TTL 1
    many.*      1,000 of them in one answer (over UDP: truncated), TTL 60
    ttl-N.*     198.51.100.N with a TTL of N seconds
    alias-N.*   a CNAME to www.elsewhere.test, which has that address
    slow-N.*    the same after N milliseconds
    silent.*    nothing
    lie-id.*    first an answer with a wrong id, then the true one
    lie-name.*  first an answer to another question, then the true one
    else        198.51.100.1 or 2001:db8:51::1, TTL 60
"""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import sys
from typing import cast

import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset

UDP_BYTES_MAX = 1232
_numbers = itertools.count(1)


def _address(number: int, ipv6: bool) -> str:
    return f"2001:db8:51::{number:x}" if ipv6 else f"198.51.{100 + number // 256}.{number % 256}"


def respond(query: bytes, udp: bool) -> tuple[float, list[bytes]]:
    """Return after how long which datagrams follow."""
    asked = dns.message.from_wire(query)
    question = asked.question[0]
    name = question.name.to_text().lower()
    delay = 0.0
    hosts, ttl, owner = [1], 60, question.name
    if name.startswith("silent."):
        return 0, []
    if name.startswith("rotate."):
        hosts, ttl = [next(_numbers) % 250 + 3000], 1
    elif name.startswith("many."):
        hosts = list(range(1000, 2000))
    elif found := re.match(r"ttl-(\d+)\.", name):
        hosts, ttl = [int(found[1])], int(found[1])
    elif found := re.match(r"alias-(\d+)\.", name):
        hosts, owner = [int(found[1])], dns.name.from_text("www.elsewhere.test.")
    elif found := re.match(r"slow-(\d+)\.", name):
        delay = int(found[1]) / 1000
    message = dns.message.make_response(asked, recursion_available=True)
    kind = dns.rdatatype.to_text(question.rdtype)
    if kind in ("A", "AAAA"):
        texts = [_address(each, kind == "AAAA") for each in hosts]
        if owner != question.name:
            message.answer.append(dns.rrset.from_text(question.name, ttl, "IN", "CNAME", owner.to_text()))
        message.answer.append(dns.rrset.from_text_list(owner, ttl, "IN", kind, texts))
    wire = message.to_wire(max_size=65535)
    if udp and len(wire) > UDP_BYTES_MAX:
        short = dns.message.make_response(asked, recursion_available=True)
        short.flags |= dns.flags.TC
        wire = short.to_wire()
    lies = []
    if name.startswith("lie-id."):
        lies = [bytes([wire[0] ^ 1]) + wire[1:]]
    elif name.startswith("lie-name."):
        lies = [wire.replace(b"\x08lie-name", b"\x08lie-nama")]
    return delay, [*lies, wire]


class _Udp(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        delay, answers = respond(data, udp=True)
        asyncio.get_running_loop().call_later(delay, lambda: [self.transport.sendto(each, addr) for each in answers])


async def _tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            size = await reader.readexactly(2)
            delay, answers = respond(await reader.readexactly(int.from_bytes(size, "big")), udp=False)
            await asyncio.sleep(delay)
            for each in answers:
                writer.write(len(each).to_bytes(2, "big") + each)
    except (asyncio.IncompleteReadError, OSError):
        writer.close()


async def main() -> None:
    """Serve until killed; says "ready" when it does."""
    loop = asyncio.get_running_loop()
    for address in sys.argv[1:]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        await loop.create_datagram_endpoint(_Udp, local_addr=(address, 53), family=family)
        await asyncio.start_server(_tcp, address, 53)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
