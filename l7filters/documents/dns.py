"""DNS rules and name selectors: ``rules.dns`` and ``toFQDNs``.

Owns: both lists in both dialects. Follows Cilium's CRD schema (exactly one of matchName and matchPattern), which is
stricter than its Go code. Names become lower case without the trailing dot. Must not know how names are matched.
"""

from __future__ import annotations

from l7filters.documents.names import domain_name, domain_pattern
from l7filters.documents.reader import Fields, Node, closest
from l7filters.documents.scope import EXCEPTS_MAX, Scope
from l7filters.model import DnsRule, FqdnPeer

QUERY_TYPES = (
    *("A", "AAAA", "ANY", "CAA", "CERT", "CNAME", "DNAME", "DNSKEY", "DS", "HINFO", "HTTPS", "LOC", "MX", "NAPTR", "NS"),
    *("NSEC", "NSEC3", "NSEC3PARAM", "OPENPGPKEY", "PTR", "RP", "RRSIG", "SMIMEA", "SOA", "SPF", "SRV", "SSHFP", "SVCB"),
    *("TLSA", "TXT", "URI"),
)
QUERY_TYPES_MAX = 64


def dns_rule(node: Node, scope: Scope) -> DnsRule:
    """Read one item of ``rules.dns``."""
    with node.fields() as fields:
        name, pattern = _name_or_pattern(fields)
        types: tuple[str, ...] = ()
        excepts: tuple[str, ...] = ()
        if scope.is_tidegate:
            types = tuple(_query_type(item) for item in fields.items("queryTypes", QUERY_TYPES_MAX) or [])
            excepts = _excepts(fields)
    return DnsRule(scope.origin(node), name, pattern, types, excepts)


def fqdn_peer(node: Node, scope: Scope) -> FqdnPeer:
    """Read one item of ``toFQDNs``."""
    with node.fields() as fields:
        name, pattern = _name_or_pattern(fields)
        excepts = _excepts(fields) if scope.is_tidegate else ()
    return FqdnPeer(name, pattern, excepts)


def _name_or_pattern(fields: Fields) -> tuple[str | None, str | None]:
    given = fields.present(("matchName", "matchPattern"))
    if len(given) != 1 and not fields.broken:
        fields.error("needs exactly one of matchName and matchPattern", 'matchPattern: "*" matches every name')
        return None, None
    name = fields.read("matchName", domain_name, None)
    pattern = fields.read("matchPattern", domain_pattern, None)
    return name, pattern


def _excepts(fields: Fields) -> tuple[str, ...]:
    return tuple(domain_pattern(item) for item in fields.items("except", EXCEPTS_MAX) or [])


def _query_type(node: Node) -> str:
    text = node.string(chars_max=16).upper()
    if text and text not in QUERY_TYPES:
        node.error(f'unknown query type "{text}"', closest(text, QUERY_TYPES))
    return text
