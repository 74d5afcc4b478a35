"""``cilium.io``: CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy verbatim, and CiliumCIDRGroup.

Owns: the kinds of this group. The spec of the policies is read by spec.py in Cilium's dialect.
"""

from __future__ import annotations

from l7filters.documents.addresses import prefix
from l7filters.documents.metadata import Head
from l7filters.documents.reader import Fields
from l7filters.documents.scope import Dialect
from l7filters.documents.spec import policies
from l7filters.model import Policy
from l7filters.world import CidrGroup

CIDRS_MAX = 65536
"""Prefixes of one CiliumCIDRGroup; published block lists have tens of thousands."""


def network_policy(fields: Fields, head: Head) -> tuple[Policy, ...]:
    """Read a CiliumNetworkPolicy or CiliumClusterwideNetworkPolicy."""
    return policies(fields, head, Dialect.CILIUM)


def cidr_group(fields: Fields, head: Head) -> CidrGroup:
    """Read a CiliumCIDRGroup (v2 and v2alpha1 have one shape)."""
    cidrs = []
    spec = fields.require("spec")
    if spec is not None:
        with spec.fields() as inner:
            found = [prefix(node, bare_address=True) for node in inner.items("externalCIDRs", CIDRS_MAX) or []]
            cidrs = [network for network in found if network is not None]
    return CidrGroup(name=head.name, labels=head.labels, cidrs=tuple(dict.fromkeys(cidrs)))
