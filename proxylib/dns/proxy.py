"""The DNS proxy: the process that puts the parts together.

Owns: start, the loop, ticks, listeners per slot, loading rules, saving answers, the control socket. One thread; every handler is
short. What it holds survives it: rules and answers are files, addresses are in the kernel's maps.

Control socket (Unix datagrams, answered to the sender's own address): ``reload`` takes in the rules file now; ``counters`` asks.
Both are answered with ``{"revision", "slots": [listening], "problem": "", "counters": {...}}``. The rules file is looked at on
every tick, too, so ``reload`` is for those who must know when it is done.
"""

from __future__ import annotations

import json
import resource
import signal
import socket
from pathlib import Path
from time import monotonic_ns as clock_ns
from types import FrameType

from proxylib.dns.arbiter import Arbiter
from proxylib.dns.cache import EndpointKey
from proxylib.dns.loop import Loop
from proxylib.dns.policy import CompiledRules, DnsRules, load_rules
from proxylib.dns.report import Reporter
from proxylib.dns.settings import SAVE_NS, Counters, Publisher, Settings
from proxylib.dns.sockets import tcp_listener, udp_listener
from proxylib.dns.store import CacheFiles, RulesFile, boot_id
from proxylib.dns.tcp import TcpRelay
from proxylib.dns.udp import UdpRelay
from proxylib.errors import SavedStateError

TICK_NS = 100_000_000
LISTEN_AGAIN_NS = 1_000_000_000
"""A port that could not be had (a proxy before this one still holds it) is tried again after this long."""
CONTROL_BYTES_MAX = 64
SWEEPS_PER_TICK = 8
"""Endpoints per tick whose expired answers are forgotten."""


class DnsProxy:
    """A running proxy. ``run`` returns after ``stop``."""

    def __init__(self, settings: Settings, publisher: Publisher) -> None:
        self.counters = Counters()
        self.revision = 0
        self._problems: dict[str, str] = {}
        self._settings = settings
        self._loop = Loop()
        self._reporter = Reporter(settings.report_path, self.counters)
        self._arbiter = Arbiter(settings, publisher, self._reporter, self.counters)
        self._arbiter.rules = CompiledRules(DnsRules())
        self._udp = UdpRelay(self._loop, self._arbiter, settings, self.counters)
        self._tcp = TcpRelay(self._loop, self._arbiter, settings, self.counters)
        self._listeners: dict[int, list[socket.socket]] = {}
        self._rules_file = RulesFile(settings.rules_path)
        self._cache_files = CacheFiles(settings.cache_directory)
        self._boot_id = boot_id()
        self._control: socket.socket | None = None
        self._stopping = False
        self._tick_ns = self._listen_ns = 0
        self._sweep: list[EndpointKey] = []

    @property
    def problem(self) -> str:
        """Why the rules file that is there is not in force, a slot is not served, answers aren't saved; empty if all is well."""
        return "; ".join(self._problems.values())

    # ---- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take back rules and answers from disk, then listen. Raises OSError if the control socket can't be had."""
        _raise_file_limit()
        now_ns = clock_ns()
        for _, text in self._cache_files.read():
            try:
                self._arbiter.cache.load(text, self._boot_id, now_ns)
            except SavedStateError:
                self.counters.cache_failed += 1
        self._load_rules(now_ns, restored=True)
        if self._settings.control_path is not None:
            self._control = _control_socket(self._settings.control_path)
            self._loop.add(self._control, self._on_control)

    def run(self) -> None:
        """Serve until ``stop``, then save and close."""
        try:
            while not self._stopping:
                now_ns = clock_ns()
                if now_ns >= self._tick_ns:
                    self._tick_ns = now_ns + TICK_NS
                    self._tick(now_ns)
                self._loop.turn(max(self._tick_ns - clock_ns(), 0) / 1e9)
                self._reporter.flush()
        finally:
            self.close()

    def stop(self) -> None:
        """End ``run`` within a tick. May be called from a signal handler."""
        self._stopping = True

    def close(self) -> None:
        """Save all answers and close all sockets."""
        self._save(len(self._arbiter.changed))
        for slot in list(self._listeners):
            self._stop_listening(slot)
        self._tcp.close()
        self._udp.close()
        if self._control is not None:
            self._loop.remove(self._control)
            self._control.close()
            self._control = None
        self._reporter.close()
        self._loop.close()

    def _tick(self, now_ns: int) -> None:
        self._udp.tick(now_ns)
        self._tcp.tick(now_ns)
        self._reporter.tick(now_ns)
        self._load_rules(now_ns)
        if now_ns >= self._listen_ns:
            self._listen_ns = now_ns + LISTEN_AGAIN_NS
            self._listen()
        self._forget_expired(now_ns)
        # All that changed is saved about once per SAVE_NS, a part on each tick.
        self._save(len(self._arbiter.changed) * TICK_NS // SAVE_NS + 1)

    # ---- rules ----------------------------------------------------------------------------------------------------

    def _load_rules(self, now_ns: int, restored: bool = False) -> None:
        """Put the rules file in force if it changed. One that can't be used changes nothing: the last rules stay."""
        try:
            text = self._rules_file.changed()
            if text is None:
                return
            compiled = CompiledRules(load_rules(text))
        except (OSError, UnicodeDecodeError, SavedStateError) as error:
            self.counters.rules_failed += 1
            self._problems["rules"] = str(error)
            return
        gone = self._arbiter.replace_rules(compiled, now_ns, restored or self.counters.rules_loaded == 0)
        for key in gone:
            try:
                self._cache_files.remove(key)
            except OSError:
                self.counters.cache_failed += 1
        self.revision = compiled.rules.revision
        self.counters.rules_loaded += 1
        self._problems.pop("rules", None)
        self._listen()

    def _listen(self) -> None:
        """Serve exactly the slots of the rules, as far as their ports can be had."""
        slots = self._arbiter.rules.rules.slots.keys()
        self._problems.pop("listen", None)
        for slot in self._listeners.keys() - slots:
            self._stop_listening(slot)
        for slot in sorted(slots - self._listeners.keys()):
            port = self._settings.proxy_port_min + slot
            opened: list[socket.socket] = []
            try:
                for address in self._settings.listen_addresses:
                    opened.append(udp_listener(address, port, self._settings.mark))
                    opened.append(tcp_listener(address, port, self._settings.mark))
            except OSError as error:
                for each in opened:
                    each.close()
                self.counters.listen_failed += 1
                self._problems["listen"] = f"slot {slot} can't listen on port {port}: {error} (is CAP_NET_ADMIN missing?)"
                continue
            self._listeners[slot] = opened
            for each in opened:
                relay = self._udp if each.type == socket.SOCK_DGRAM else self._tcp
                relay.listen(slot, each)

    def _stop_listening(self, slot: int) -> None:
        for listener in self._listeners.pop(slot):
            self._loop.remove(listener)
            listener.close()

    # ---- answers on disk ------------------------------------------------------------------------------------------

    def _save(self, count_max: int) -> None:
        for key in list(self._arbiter.changed)[:count_max]:
            del self._arbiter.changed[key]
            try:
                self._cache_files.write(key, self._arbiter.cache.dump(key, self._boot_id))
                self._problems.pop("cache", None)
            except OSError as error:
                self.counters.cache_failed += 1
                self._problems["cache"] = f"answers can't be saved: {error}"

    def _forget_expired(self, now_ns: int) -> None:
        if not self._sweep:
            self._sweep = [*self._arbiter.cache.endpoints]
        for _ in range(min(SWEEPS_PER_TICK, len(self._sweep))):
            self._arbiter.cache.expire(self._sweep.pop(), now_ns)

    # ---- control --------------------------------------------------------------------------------------------------

    def _on_control(self, events: int) -> None:
        del events
        assert self._control is not None, "its handler is removed before it is closed"
        try:
            request, sender = self._control.recvfrom(CONTROL_BYTES_MAX)
            if request.strip() == b"reload":
                self._load_rules(clock_ns())
            if sender:
                self._control.sendto(json.dumps(self.status()).encode(), sender)
        except OSError:
            return  # whoever asked has gone

    def status(self) -> dict[str, object]:
        """Return what the control socket answers."""
        self.counters.set_gauges(
            in_flight=self._arbiter.in_flight,
            upstream_sockets=self._udp.sockets,
            tcp_connections=self._tcp.connections,
            evicted_addresses=self._arbiter.cache.evicted_addresses,
            evicted_names=self._arbiter.cache.evicted_names,
        )
        return {
            "revision": self.revision,
            "slots": sorted(self._listeners),
            "problem": self.problem,
            "counters": self.counters.values(),
        }


def serve(settings: Settings, publisher: Publisher) -> None:
    """Run a proxy as this process until SIGTERM or SIGINT."""
    proxy = DnsProxy(settings, publisher)

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        proxy.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    proxy.start()
    proxy.run()


def _control_socket(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        made.bind(str(path))
        path.chmod(0o600)
    except BaseException:
        made.close()
        raise
    return made


def _raise_file_limit() -> None:
    """Sockets are bounded by our own limits; the soft limit of 1024 files is below them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
