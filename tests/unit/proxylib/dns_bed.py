"""A proxy in a thread, servers that answer as they are told, and knot, all on loopback."""

from __future__ import annotations

import contextlib
import errno
import itertools
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.query
import dns.rdatatype
import dns.rrset

from proxylib.dns.cache import address_text
from proxylib.dns.message import Address
from proxylib.dns.policy import AllowRule, DnsRules, Role, Roster, SlotRules, Subject, dump_roster, dump_rules
from proxylib.dns.proxy import DnsProxy
from proxylib.dns.rules import NameSelector
from proxylib.dns.settings import Grants, Settings
from proxylib.dns.store import write_atomically
from proxylib.dns.stream import frame
from proxylib.errors import PublishError
from tests.support.knot import command as knot_command

SLOT = 1
PORTS = itertools.cycle(range(23500, 23900, 2))
"""One per bed: some live side by side."""
KNOT_PORT = 23053
DEADLINE_SECONDS = 20
ROLE, INTERFACE = 300, 7
CLIENT = Subject("default/client", ("127.0.0.1", "::1"), ROLE, INTERFACE)
ROSTER = Roster(revision=1, subjects=(CLIENT,))
RULES = DnsRules(
    revision=1,
    slots={SLOT: SlotRules((AllowRule("allow-test", NameSelector(match_pattern="**.test", excepts=("secret.test",))),))},
    selectors={31: NameSelector(match_pattern="*.test"), 32: NameSelector(match_name="www.test")},
    roles={ROLE: Role((SLOT,), (31, 32))},
)


@dataclass
class FakePublisher:
    """A datapath that remembers what it was told; fails or takes its time when told to."""

    table: dict[tuple[str, str], dict[int, int]] = field(default_factory=dict)
    """(endpoint, address) -> selector -> expiry."""
    published: list[tuple[str, tuple[int, ...], tuple[str, ...]]] = field(default_factory=list)
    """(endpoint, selectors of the first address, addresses) of every call that opened something."""
    withdrawn: list[str] = field(default_factory=list)
    retained: list[dict[int, frozenset[int]]] = field(default_factory=list)
    failing: bool = False
    is_new: bool = False
    delay_seconds: float = 0

    def publish(self, subject: Subject, addresses: Mapping[Address, Grants]) -> None:
        if self.failing:
            raise PublishError("told to fail")
        time.sleep(self.delay_seconds)
        for address, grants in addresses.items():
            self.table[subject.endpoint, address_text(address)] = dict(grants)
        self.withdrawn += [address_text(address) for address, grants in addresses.items() if not grants]
        opened = {address_text(address): tuple(grants) for address, grants in addresses.items() if grants}
        if opened:
            self.published.append((subject.endpoint, next(iter(opened.values())), tuple(opened)))

    def retain(self, allowed: Mapping[int, frozenset[int]]) -> None:
        self.retained.append(dict(allowed))

    def tick(self, now_ns: int) -> bool:
        is_new, self.is_new = self.is_new, False
        return is_new

    def status(self) -> Mapping[str, int]:
        return {"entries": len(self.table)}


class Bed:
    """A proxy that asks ``server`` for whoever asks it."""

    def __init__(self, directory: Path, server: tuple[str, int], **changes: object) -> None:
        self.directory = directory
        self.port = next(PORTS)
        self.publisher = FakePublisher()
        values: dict[str, object] = {
            "rules_path": directory / "rules.json",
            "subjects_path": directory / "subjects.json",
            "cache_directory": directory / "cache",
            "report_path": directory / "reports.sock",
            "control_path": directory / "control.sock",
            "proxy_port_min": self.port - SLOT,
            "direct_server": server,
        }
        self.settings = Settings(**(values | changes))  # type: ignore[arg-type]
        self.reports = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.reports.bind(str(directory / "reports.sock"))
        self.reports.settimeout(DEADLINE_SECONDS)
        self.set_rules(RULES)
        self.set_roster(ROSTER)
        self.start()

    def start(self) -> None:
        self.proxy = DnsProxy(self.settings, self.publisher)
        self.proxy.start()
        self._thread = threading.Thread(target=self.proxy.run)
        self._thread.start()

    def stop(self) -> None:
        self.proxy.stop()
        self._thread.join(DEADLINE_SECONDS)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.stop()
        self.reports.close()

    def set_rules(self, rules: DnsRules) -> None:
        write_atomically(self.directory / "rules.json", dump_rules(rules))

    def set_roster(self, roster: Roster) -> None:
        write_atomically(self.directory / "subjects.json", dump_roster(roster))

    def ask(self, name: str, kind: str = "A", tcp: bool = False, family: int = 4, **options: object) -> dns.message.Message:
        """Ask the proxy; ids, question and case of the answer are checked by dnspython."""
        query = dns.message.make_query(name, kind, **options)  # type: ignore[arg-type]
        send = dns.query.tcp if tcp else dns.query.udp
        return send(query, "127.0.0.1" if family == 4 else "::1", DEADLINE_SECONDS, self.port)

    def count(self, name: str) -> int:
        status: Any = self.proxy.status()
        return int((status["counters"] | status["gauges"])[name])

    def until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not holds():
            assert time.monotonic() < deadline, what
            time.sleep(0.005)


def addresses(message: dns.message.Message) -> list[str]:
    """The addresses in the answer section."""
    return sorted(str(item) for rrset in message.answer for item in rrset if hasattr(item, "address"))


@contextlib.contextmanager
def bed(server: tuple[str, int], **changes: object) -> Iterator[Bed]:
    """A proxy in a directory of its own."""
    directory = Path(tempfile.mkdtemp(prefix="tgdns-"))
    made = Bed(directory, server, **changes)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory)


# ---- servers ------------------------------------------------------------------------------------------------------

Answerer = Callable[[bytes, tuple[str, int]], list[bytes]]
"""Takes a query and who sent it; returns the datagrams to send back."""


def answer_a(query: bytes, *found: str, ttl: int = 60) -> bytes:
    """A truthful answer with these addresses."""
    asked = dns.message.from_wire(query)
    message = dns.message.make_response(asked)
    name = asked.question[0].name
    for address in found:
        message.answer.append(dns.rrset.from_text(name, ttl, "IN", "AAAA" if ":" in address else "A", address))
    return message.to_wire(max_size=65535)


def _bound_both_ways(family: socket.AddressFamily, address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A UDP and a listening TCP socket on one port; with ``port`` 0, on one that is free for both."""
    while True:
        udp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            udp.bind((address, port))
            return udp, socket.create_server((address, udp.getsockname()[1]), family=family)
        except OSError as error:
            udp.close()
            # What is free for UDP may be some TCP connection's own port, also one in TIME_WAIT.
            if port or error.errno != errno.EADDRINUSE:
                raise


class FakeServer:
    """A UDP and TCP server on loopback that answers as ``answerer`` says."""

    def __init__(self, answerer: Answerer, address: str = "127.0.0.1", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.answerer = answerer
        self.asked: list[tuple[str, int]] = []
        self.udp, self.tcp = _bound_both_ways(family, address, port)
        self.port: int = self.udp.getsockname()[1]
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._serve_udp, self._serve_tcp)]
        for thread in self._threads:
            thread.start()

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, client = self.udp.recvfrom(65535)
                if client is None:
                    return  # closed
                self.asked.append(client[:2])
                for each in self.answerer(query, client[:2]):
                    self.udp.sendto(each, client)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, client = self.tcp.accept()
                with accepted, accepted.makefile("rb") as stream:
                    while len(size := stream.read(2)) == 2:
                        query = stream.read(int.from_bytes(size, "big"))
                        self.asked.append(client[:2])
                        for each in self.answerer(query, client[:2]):
                            accepted.sendall(frame(each))

    def close(self) -> None:
        for each in (self.udp, self.tcp):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)


@contextlib.contextmanager
def fake_server(answerer: Answerer, address: str = "127.0.0.1") -> Iterator[FakeServer]:
    """A fake server that is gone afterwards."""
    server = FakeServer(answerer, address)
    try:
        yield server
    finally:
        server.close()


ZONE = """www A 10.1.0.1
www AAAA fd00:1::1
alias CNAME www
svc HTTPS 1 . alpn=h2 ipv4hint=10.1.0.7 ipv6hint=fd00:1::7
secret A 10.9.9.9
"""


@contextlib.contextmanager
def knot() -> Iterator[tuple[str, int]]:
    """A real knot server with a small zone, one large answer (big.test: 60 addresses) and names host0..host499."""
    directory = Path(tempfile.mkdtemp(prefix="tgknot-"))
    lines = [f"big A 10.2.0.{number}" for number in range(60)] + [f"host{n} A 10.3.{n // 250}.{n % 250}" for n in range(500)]
    words = knot_command(directory, ("127.0.0.1", "::1"), KNOT_PORT, {"test": ZONE + "\n".join(lines)})
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        query = dns.message.make_query("www.test", "A")
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            with contextlib.suppress(OSError, dns.exception.Timeout):
                if dns.query.udp(query, "127.0.0.1", 0.2, KNOT_PORT).answer:
                    break
            assert process.poll() is None, "knotd ended"
            assert time.monotonic() < deadline, "knotd does not answer"
        yield "127.0.0.1", KNOT_PORT
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)
        shutil.rmtree(directory)
