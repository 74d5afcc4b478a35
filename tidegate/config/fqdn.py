"""``fqdn`` of node.yaml: on which ports a server that a rule allows by name is asked for that name.

Owns: its fields, defaults and limits; config/node.py owns the file. Must not know rules.
"""

from __future__ import annotations

from dataclasses import dataclass

from l7filters.world import DEFAULT_FQDN_PORTS, FqdnPorts
from tidegate.config.settings import Section

PORTS_MAX = 64
"""Each is an entry of the policy map for every subject and name."""
DNS_PORT = 53


@dataclass(frozen=True, slots=True, kw_only=True)
class FqdnSection:
    """``fqdn``: TCP ports that carry TLS or HTTP wherever a rule allows a server by name; empty lists turn it off."""

    tls_ports: tuple[int, ...] = DEFAULT_FQDN_PORTS.tls
    http_ports: tuple[int, ...] = DEFAULT_FQDN_PORTS.http

    @property
    def ports(self) -> FqdnPorts:
        """As policy takes them."""
        return FqdnPorts(self.tls_ports, self.http_ports)


def parse_fqdn(section: Section) -> FqdnSection:
    """Read the section; problems are noted in it."""
    default = FqdnSection()
    parsed = FqdnSection(
        tls_ports=section.ports("tlsPorts", default.tls_ports, PORTS_MAX),
        http_ports=section.ports("httpPorts", default.http_ports, PORTS_MAX),
    )
    both = sorted({*parsed.tls_ports} & {*parsed.http_ports})
    if both:
        section.problem("httpPorts", f"{both[0]} is one of tlsPorts, too", "a port carries one or the other")
    for key, ports in (("tlsPorts", parsed.tls_ports), ("httpPorts", parsed.http_ports)):
        if DNS_PORT in ports:
            section.problem(key, f"{DNS_PORT} carries DNS", "leave it out")
    section.finish()
    return parsed
