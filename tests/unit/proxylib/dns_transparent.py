"""Programs of the transparent test, each run in a network namespace: ``proxy RULES``, ``server ADDRESS...``."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from proxylib.dns.proxy import serve
from proxylib.dns.settings import Settings
from tests.unit.proxylib.dns_bed import FakePublisher, FakeServer, answer_a

DNS_PORT = 5300


def main() -> None:
    """Run until killed."""
    if sys.argv[1] == "proxy":
        rules = Path(sys.argv[2])
        serve(
            Settings(
                rules_path=rules,
                subjects_path=rules.parent / "subjects.json",
                cache_directory=rules.parent / "cache",
                control_path=rules.parent / "control.sock",
                # A wildcard address stands in for the sockets that BPF would assign; the rest is as on a node.
                listen_addresses=("0.0.0.0", "::"),
                proxy_port_min=DNS_PORT - 1,
            ),
            FakePublisher(),
        )
        return
    for address in sys.argv[2:]:
        FakeServer(lambda query, client: [answer_a(query, client[0])], address, DNS_PORT)
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
