"""The DNS proxy: the process that puts the parts together.

Owns: start, the loop, ticks, listeners per slot, loading rules, the control socket. One thread; every handler is
short. What it holds survives it: rules and answers are files, addresses are in the kernel's maps.

Control socket: Unix datagrams, answered to the sender's own address. A request is a JSON object: ``{"do": "reload"}`` takes in
the rules and subjects files now, ``{"do": "status"}`` asks; ``"allowed_sample"`` in either says which share of allowed questions
to report. The answer is ``status()``. The files are looked at on every tick, too, so ``reload`` is for those who must know when
it is done.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns as clock_ns
from types import FrameType
from typing import TypeVar

from proxylib.dns.arbiter import Arbiter
from proxylib.dns.cache import DnsCache, EndpointKey
from proxylib.dns.counters import Counters
from proxylib.dns.keeper import Keeper
from proxylib.dns.loop import Loop
from proxylib.dns.policy import CompiledRules, Roster, load_roster, load_rules
from proxylib.dns.report import Reporter
from proxylib.dns.settings import Publisher, Settings
from proxylib.dns.sockets import tcp_listener, udp_listener
from proxylib.dns.store import WatchedFile
from proxylib.dns.tcp import TcpRelay
from proxylib.dns.udp import UdpRelay
from proxylib.errors import SavedStateError

T = TypeVar("T")

TICK_NS = 100_000_000
LISTEN_AGAIN_NS = 1_000_000_000
"""A port that could not be had (a proxy before this one still holds it) is tried again after this long."""
CONTROL_BYTES_MAX = 1024
FAULTS_TOLD_MAX = 20
"""Tracebacks in the log; a fault that repeats says nothing new, and is counted."""
SWEEPS_PER_TICK = 8
"""Endpoints per tick whose expired answers are forgotten."""


class DnsProxy:
    """A running proxy. ``run`` returns after ``stop``."""

    def __init__(self, settings: Settings, publisher: Publisher) -> None:
        self.counters = Counters()
        self._problems: dict[str, str] = {}
        self._settings = settings
        self._loop = Loop()
        self._reporter = Reporter(settings.report_path, self.counters)
        self._cache = DnsCache()
        self._keeper = Keeper(self._cache, settings.cache_directory, self.counters)
        self._arbiter = Arbiter(settings, self._cache, publisher, self._reporter, self.counters, self._keeper.note)
        self._udp = UdpRelay(self._loop, self._arbiter, settings, self.counters)
        self._tcp = TcpRelay(self._loop, self._arbiter, settings, self.counters)
        self._listeners: dict[int, list[socket.socket]] = {}
        self._publisher = publisher
        self._rules_file = WatchedFile(settings.rules_path)
        self._subjects_file = WatchedFile(settings.subjects_path)
        self._rules: CompiledRules | None = None
        self._roster: Roster | None = None
        self._is_restored = False
        self._control: socket.socket | None = None
        self._stopping = False
        self._tick_ns = self._listen_ns = 0
        self._sweep: list[EndpointKey] = []

    @property
    def problem(self) -> str:
        """Why the rules file that is there is not in force, a slot is not served, answers aren't saved; empty if all is well."""
        return "; ".join(filter(None, (*self._problems.values(), self._keeper.problem)))

    # ---- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take back rules and answers from disk, then listen. Raises OSError if the control socket can't be had."""
        _raise_file_limit()
        now_ns = clock_ns()
        self._keeper.restore(now_ns)
        self._load_files(now_ns)
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
                self._turn(max(self._tick_ns - clock_ns(), 0) / 1e9)
        finally:
            self.close()

    def _turn(self, timeout_seconds: float) -> None:
        """Handle what there is. A fault of ours in one message's handling must not end DNS for the whole node."""
        try:
            self._loop.turn(timeout_seconds)
            self._reporter.flush()
        except Exception:  # noqa: BLE001  the boundary of one message
            self.counters.faults += 1
            if self.counters.faults <= FAULTS_TOLD_MAX:
                traceback.print_exc()

    def stop(self) -> None:
        """End ``run`` within a tick. May be called from a signal handler."""
        self._stopping = True

    def close(self) -> None:
        """Save all answers and close all sockets."""
        self._keeper.close()
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
        self._load_files(now_ns)
        if now_ns >= self._listen_ns:
            self._listen_ns = now_ns + LISTEN_AGAIN_NS
            self._listen()
            self._heal()
        self._forget_expired(now_ns)
        if self._publisher.tick(now_ns):
            self._arbiter.publish_all(now_ns)
        self._keeper.tick(now_ns)

    # ---- rules ----------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """Of the rules in force; 0: none were read yet."""
        return self._arbiter.rules.rules.revision

    @property
    def roster_revision(self) -> int:
        """Of the subjects in force; 0: none were read yet."""
        return self._arbiter.roster.revision

    def _load_files(self, now_ns: int) -> None:
        """Put in force what changed of rules and subjects. A file that can't be used changes nothing: the last one stays."""
        before = self._rules
        rules = self._changed(self._rules_file, "rules", lambda text: CompiledRules(load_rules(text), before))
        roster = self._changed(self._subjects_file, "subjects", load_roster)
        if rules is None and roster is None:
            return
        self._rules, self._roster = rules or self._rules, roster or self._roster
        if self._rules is None or self._roster is None:
            return  # one without the other would make all that is cached look like nobody's
        gone = self._arbiter.replace(self._rules, self._roster, now_ns, restored=not self._is_restored)
        self._is_restored = True
        self._keeper.remove(gone)
        self.counters.rules_loaded += 1
        self._listen()

    def _changed(self, file: WatchedFile, what: str, read: Callable[[str], T]) -> T | None:
        try:
            text = file.changed()
            if text is None:
                return None
            found = read(text)
        except (OSError, UnicodeDecodeError, SavedStateError) as error:
            self.counters.rules_failed += 1
            self._problems[what] = f"{file.path}: {error}"
            return None
        self._problems.pop(what, None)
        return found

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

    def _forget_expired(self, now_ns: int) -> None:
        if not self._sweep:
            self._sweep = [*self._cache.endpoints]
        for _ in range(min(SWEEPS_PER_TICK, len(self._sweep))):
            self._arbiter.forget_expired(self._sweep.pop(), now_ns)

    def _heal(self) -> None:
        """If somebody emptied our directory, begin anew in it: nobody could find us any more, and nothing would be kept."""
        path = self._settings.control_path
        if path is None or path.exists():
            return
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._keeper.begin_anew()
            made = _control_socket(path)
        except OSError as error:
            self._problems["control"] = f"{path} can't be made: {error}"
            return
        self._problems.pop("control", None)
        if self._control is not None:
            self._loop.remove(self._control)
            self._control.close()
        self._control = made
        self._loop.add(made, self._on_control)

    # ---- control --------------------------------------------------------------------------------------------------

    def _on_control(self, events: int) -> None:
        del events
        assert self._control is not None, "its handler is removed before it is closed"
        try:
            request, sender = self._control.recvfrom(CONTROL_BYTES_MAX)
            self._obey(request)
            if sender:
                self._control.sendto(json.dumps(self.status()).encode(), sender)
        except OSError:
            return  # whoever asked has gone

    def _obey(self, request: bytes) -> None:
        try:
            wish = json.loads(request)
            do, sample = wish["do"], wish.get("allowed_sample")
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # the answer says how things are, whatever was asked
        if isinstance(sample, float | int):
            self._reporter.allowed_sample = float(sample)
        if do == "reload":
            self._load_files(clock_ns())

    def status(self) -> dict[str, object]:
        """Return what the control socket answers."""
        names, addresses = self._cache.size()
        return {
            "pid": os.getpid(),
            "revision": self.revision,
            "roster_revision": self.roster_revision,
            "slots": sorted(self._listeners),
            "problem": self.problem,
            "counters": {
                **self.counters.values(),
                "evicted_addresses": self._cache.evicted_addresses,
                "evicted_names": self._cache.evicted_names,
            },
            "gauges": {
                "in_flight": self._arbiter.in_flight,
                "upstream_sockets": self._udp.sockets,
                "tcp_connections": self._tcp.connections,
                "endpoints": len(self._arbiter.roster.subjects),
                "cached_names": names,
                "cached_addresses": addresses,
            },
            "publisher": dict(self._publisher.status()),
            **self.counters.tables(),
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
