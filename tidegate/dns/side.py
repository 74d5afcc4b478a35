"""The DNS half as the agent uses it: what the DNS proxy judges by, on disk, and how the proxy is.

Owns: the two files (written atomically, only when they change), asking the proxy whether they are in force, its state as a status
value. Must not know policies. The proxy is another process that may be dead: its files are then read when it is back, before it
listens, so nothing here waits for it for long.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from proxylib.dns.policy import DnsRules, Roster, dump_roster, dump_rules, load_roster, load_rules
from proxylib.dns.store import write_atomically
from proxylib.errors import SavedStateError
from tidegate.config.node import NodeConfig
from tidegate.dns.rules import Content, dns_content
from tidegate.processes.dns import DnsPlaces
from tidegate.realise import DnsInputs
from tidegate.status.node import DnsStatus, ProcessState

_log = structlog.get_logger()

ANSWER_TIMEOUT_S = 1.0
"""The proxy answers between two messages, and compiles thousands of rules within this."""
POLL_S = 0.5
"""How often it is asked; the numbers in /metrics are at most this old."""
ANSWER_BYTES_MAX = 256 << 10

CONTENTS_KEPT = 2
"""What was and what is to be."""


class DnsSide:
    """The DNS proxy of this node, seen from the agent. ``on_change`` is called, by ``watch``, when its state changes."""

    def __init__(self, config: NodeConfig, on_change: Callable[[], None]) -> None:
        self._places = DnsPlaces(config)
        self._on_change = on_change
        self._rules = _Document(self._places.rules, load_rules, dump_rules)
        self._roster = _Document(self._places.subjects, load_roster, dump_roster)
        self._section = config.dns
        self._contents: list[tuple[DnsInputs, Content]] = []
        self._lock = threading.Lock()
        """The files: realisations and the watch come from threads of their own."""
        self._status = DnsStatus()
        self.allowed_sample = config.flows.allowed_sample

    @property
    def status(self) -> DnsStatus:
        """How the proxy was when last asked."""
        return self._status

    def publish(self, rules: DnsInputs, before: DnsInputs | None) -> None:
        """Have the proxy judge by ``rules``, and by ``before`` where the kernel may still go by it. Blocks; raises OSError."""
        theirs = self._content_of(before) if before is not None else None
        ours = self._content_of(rules)
        self.bring(*dns_content(ours, theirs, rules.surroundings.interface_indices, self._section))

    def _content_of(self, inputs: DnsInputs) -> Content:
        """Work it out once: an unchanged policy is asked for at every pod that comes or goes."""
        for known, content in self._contents:
            if known.compiled is inputs.compiled and known.table == inputs.table:
                return content
        content = Content(inputs.compiled, inputs.table)
        self._contents = [(inputs, content), *self._contents][:CONTENTS_KEPT]
        return content

    def bring(self, rules: DnsRules, roster: Roster) -> None:
        """Put both on disk and, if something changed, wait until they are in force, or it is clear that nobody is there.

        Revisions are given here. Blocks. Raises OSError when the files can't be written.
        """
        with self._lock:
            changed = self._rules.put(rules) | self._roster.put(roster)
        if changed:
            self._ask("reload")

    async def watch(self) -> None:
        """Ask the proxy how it is until cancelled, and give it back files that were lost."""
        told: object = None
        while True:
            await asyncio.to_thread(self._look)
            if _essence(self._status) != told:
                told = _essence(self._status)
                self._on_change()
            await asyncio.sleep(POLL_S)

    def _look(self) -> None:
        with self._lock:
            restored = self._rules.restore() | self._roster.restore()
        if restored:
            _log.warning("dns_files_lost", directory=str(self._places.directory))
        self._ask("reload" if restored else "status")

    def _ask(self, what: str) -> None:
        self._status = self._read(ask(self._places.control, {"do": what, "allowed_sample": self.allowed_sample}))

    def _read(self, answer: dict[str, Any] | None) -> DnsStatus:
        wanted = frozenset(self._rules.content.slots) if self._rules.content is not None else frozenset()
        before = self._status
        if answer is None:
            message = f"does not answer at {self._places.control}"
            return replace(before, state=ProcessState.DOWN, message=message, slots=(), wanted=len(wanted), gauges={})
        lag = self._rules.revision > answer["revision"] or self._roster.revision > answer["roster_revision"]
        missing = wanted - set(answer["slots"])
        return DnsStatus(
            state=ProcessState.STARTING if lag or missing else ProcessState.READY,
            pid=answer["pid"],
            restarts=before.restarts + (before.pid not in (0, answer["pid"])),
            revision=answer["revision"],
            slots=tuple(answer["slots"]),
            wanted=len(wanted),
            message=answer["problem"] or ("its rules are not in force yet" if lag else ""),
            counters=answer["counters"],
            gauges=answer["gauges"],
            names_map=answer["publisher"],
            outcomes=tuple((each["verdict"], each["rcode"], each["qtype"], each["count"]) for each in answer["outcomes"]),
            latency_bounds_ns=tuple(answer["latency"]["bounds_ns"]),
            latency_counts=tuple(answer["latency"]["counts"]),
            latency_sum_ns=answer["latency"]["sum_ns"],
        )


class _Document:
    """One of the files: its content without the revision, and the revision that it has there."""

    def __init__(self, path: Path, load: Callable[[str], Any], dump: Callable[[Any], str]) -> None:
        self.path = path
        self.content: Any = None
        self.revision = 0
        self._dump = dump
        self._stamp: tuple[int, int] | None = None
        try:
            # What an agent before wrote: if it is what is wanted, nothing need be written.
            found = load(path.read_text())
        except (OSError, UnicodeDecodeError, SavedStateError):
            return
        self.content, self.revision = replace(found, revision=0), found.revision
        self._stamp = _stamp(path)

    def put(self, content: Any) -> bool:
        """Write ``content`` if it is not what is there; tell whether it was written. Raises OSError."""
        if content == self.content and self._stamp is not None:
            return False
        self.content = content
        self.revision += 1
        self._write()
        return True

    def restore(self) -> bool:
        """Write anew what somebody took away or changed; tell whether that was so. Raises OSError."""
        if self.content is None or self._stamp == _stamp(self.path):
            return False
        self.revision += 1
        self._write()
        return True

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self.path, self._dump(replace(self.content, revision=self.revision)))
        self._stamp = _stamp(self.path)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _essence(status: DnsStatus) -> object:
    """What of a status others wait for; numbers change all the time."""
    return (status.state, status.pid, status.revision, status.slots, status.message)


def ask(control: Path, request: dict[str, object]) -> dict[str, Any] | None:
    """Return the proxy's answer to ``request``; None if there is none in time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        asking.settimeout(ANSWER_TIMEOUT_S)
        asking.bind("")  # the kernel gives it a name of its own (unix(7), autobind), so that it can be answered
        try:
            asking.sendto(json.dumps(request).encode(), str(control))
            answer: dict[str, Any] = json.loads(asking.recv(ANSWER_BYTES_MAX))
        except (OSError, ValueError):
            return None
        return answer
