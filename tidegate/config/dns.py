"""``dns`` of node.yaml.

Owns: its fields, defaults and limits; config/node.py owns the file. Must not know the proxy's parts.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxylib.dns.policy import TTL_SECONDS_MAX, Reject
from tidegate.config.settings import Section

IN_FLIGHT_MAX = 1 << 20
"""A question in flight costs about a kilobyte."""
ADDRESSES_PER_NAME_MAX = 1 << 16
UPSTREAM_TIMEOUT_SECONDS = (0.05, 60.0)
GRACE_SECONDS_MAX = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsSection:
    """``dns``: what the DNS proxy says to pods, and its bounds."""

    reject: Reject = Reject.REFUSED
    """How a question for a name that no rule allows is answered."""
    ttl_floor_seconds: int = 0
    """An address stays reachable at least this long after the answer, whatever its TTL says."""
    grace_seconds: float = 10.0
    """How long beyond its TTL an address may still be connected to: the client's clock starts later than ours."""
    addresses_per_name_max: int = 1000
    """Addresses that one name may open for one pod at a time; of more, those that expire first go."""
    upstream_timeout_seconds: float = 4.0
    """How long a server may take; then the pod gets SERVFAIL. Below the 5 s after which stub resolvers give up by themselves."""
    in_flight_max: int = 20_000
    """Questions that wait for servers at once, for the node; beyond it: SERVFAIL."""
    in_flight_per_endpoint_max: int = 2_000


def parse_dns(section: Section) -> DnsSection:
    """Read the section; problems are noted in it."""
    default = DnsSection()
    in_flight_max = section.integer("inFlightMax", default.in_flight_max, 1, IN_FLIGHT_MAX)
    parsed = DnsSection(
        reject=section.choice("reject", Reject, default.reject),
        ttl_floor_seconds=section.integer("ttlFloorSeconds", default.ttl_floor_seconds, 0, TTL_SECONDS_MAX),
        grace_seconds=section.number("graceSeconds", default.grace_seconds, 0, GRACE_SECONDS_MAX),
        addresses_per_name_max=section.integer("addressesPerNameMax", default.addresses_per_name_max, 1, ADDRESSES_PER_NAME_MAX),
        upstream_timeout_seconds=section.number(
            "upstreamTimeoutSeconds", default.upstream_timeout_seconds, *UPSTREAM_TIMEOUT_SECONDS
        ),
        in_flight_max=in_flight_max,
        in_flight_per_endpoint_max=section.integer(
            "inFlightPerEndpointMax", min(default.in_flight_per_endpoint_max, in_flight_max), 1, IN_FLIGHT_MAX
        ),
    )
    if parsed.in_flight_per_endpoint_max > parsed.in_flight_max:
        message = f"{parsed.in_flight_per_endpoint_max} is more than inFlightMax ({parsed.in_flight_max})"
        section.problem("inFlightPerEndpointMax", message, "raise inFlightMax, too")
    section.finish()
    return parsed
