"""What the BPF programs cost a packet of a known flow: ``python -m bench.program_time``, nanoseconds.

The kernel runs a program on the same packet again and again (BPF_PROG_TEST_RUN) in batches, and the fastest batch counts: so a
busy machine hardly disturbs. Caches are warm, which they are not between a proxy's work: compare versions by it, not requests.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from bpf_redirect import bpf
from bpf_redirect.abi import MARK_FROM_PROXY
from bpf_redirect.pins import PinRoot
from l7filters.model import Direction, Protocol
from tests.bpf import packets as p
from tests.bpf.arena import Arena, Proxy, exchange, redirect

PORT, PROXIED_PORT = {4: 8080, 6: 8090}, {4: 8081, 6: 8091}
SLOT = 7
BATCHES, REPEAT = 40, 20_000
PAYLOAD = bytes(64)


class MeasuredArena(Arena):
    """Two pods; what ``a`` sends to one port of ``b`` goes through a proxy."""

    proxy: Proxy

    def stand(self) -> None:
        """Write the policy."""
        self.pod("a")
        self.pod("b")
        self.open_all("a", "b")
        self.proxy = Proxy(self, SLOT)
        for port in PROXIED_PORT.values():
            self.rule("b", Direction.INGRESS, redirect(SLOT), protocol=int(Protocol.TCP), port=port)
        self.apply()


def flows(arena: MeasuredArena, version: int) -> Iterator[tuple[str, str, str, bytes, int, int]]:
    """Yield (what, program, interface's pod, packet, interface it came from, mark) of connections that stand."""
    a, b = arena.cluster.pods["a"], arena.cluster.pods["b"]

    def packet(source: str, source_port: int, destination: str, destination_port: int) -> bytes:
        return p.ip(source, destination, p.TCP, p.tcp(source_port, destination_port, p.ACK, payload=PAYLOAD))

    server = arena.server(b, version, PORT[version])
    client = arena.dial(a, b, version, PORT[version])
    exchange(client, arena.owned(server.accept()[0]))
    there, back = client.getsockname()[:2], client.getpeername()[:2]
    yield "allowed, from its pod", "tg_from_endp", "a", packet(*there, *back), 0, 0
    yield "allowed, to its pod", "tg_to_endp", "b", packet(*there, *back), arena.ifindexes["a"], 0

    proxied = arena.server(b, version, PROXIED_PORT[version])
    client = arena.dial(a, b, version, PROXIED_PORT[version])
    accepted = arena.proxy.accept(version)
    upstream = arena.proxy.upstream(accepted)
    peer = arena.owned(proxied.accept()[0])
    for _ in range(3):
        exchange(client, accepted)
        exchange(upstream, peer)
    there, back = client.getsockname()[:2], client.getpeername()[:2]
    yield "to the proxy, from the client", "tg_from_endp", "a", packet(*there, *back), 0, 0
    there, back = upstream.getsockname()[:2], upstream.getpeername()[:2]
    yield "to the proxy, from the server", "tg_from_endp", "b", packet(*back, *there), 0, 0
    yield "from the proxy, to the server", "tg_to_endp", "b", packet(*there, *back), 0, MARK_FROM_PROXY


def fastest_ns(program_fd: int, packet: bytes, context: bytes) -> int:
    """Return the least time of a run, averaged within a batch."""
    return min(bpf.program_run(program_fd, packet, context, repeat=REPEAT).duration_ns for _ in range(BATCHES))


def main() -> None:
    """Print a line for each kind of packet."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with MeasuredArena(f"time-{os.getpid()}", event_sample_every=0) as arena:
        arena.stand()
        programs = {
            name: bpf.get(PinRoot(arena.datapath.settings.pin_root).program(name)) for name in ("tg_from_endp", "tg_to_endp")
        }
        print(f"{'packet of 64 bytes':32}{'program':14}{'IPv4, ns':>10}{'IPv6, ns':>10}")
        for four, six in zip(flows(arena, 4), flows(arena, 6), strict=True):
            measured = []
            what, program, *_ = four
            for _, _, pod, packet, ingress, mark in (four, six):
                context = p.skb_context(ifindex=arena.ifindexes[pod], ingress_ifindex=ingress, mark=mark)
                measured.append(fastest_ns(programs[program], packet, context))
            print(f"{what:32}{program:14}{measured[0]:10}{measured[1]:10}")


if __name__ == "__main__":
    main()
