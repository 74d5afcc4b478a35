"""``policy.tidegate.dev``: TidegatePolicy and ClusterTidegatePolicy.

Owns: the kinds of this group. Their spec is Cilium's with more fields, read by spec.py in Tidegate's dialect; what the
dialect adds is listed in docs/policy.md, "TidegatePolicy".
"""

from __future__ import annotations

from l7filters.documents.metadata import Head
from l7filters.documents.reader import Fields
from l7filters.documents.scope import Dialect
from l7filters.documents.spec import policies
from l7filters.model import Policy


def tidegate_policy(fields: Fields, head: Head) -> tuple[Policy, ...]:
    """Read a TidegatePolicy or ClusterTidegatePolicy."""
    return policies(fields, head, Dialect.TIDEGATE)
