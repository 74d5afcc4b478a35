"""What a rule's reader must know of the policy around it: its key, namespace, dialect and subject.

Owns: the two dialects of the one spec and the limits on the size of a policy. Must not know any field.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from l7filters.documents.names import namespace_name, object_name
from l7filters.documents.reader import Fields, Node
from l7filters.model import PolicyKey, RuleOrigin

RULES_MAX = 1024
"""Items of one ingress, egress, ingressDeny or egressDeny list, and of ``specs``."""
PEERS_MAX = 4096
"""Items of one peer list (toCIDRSet lists of 1,000 prefixes are common)."""
PORT_RULES_MAX = 128
"""Items of one ``toPorts``."""
PORTS_MAX = 40
"""Ports of one ``toPorts`` item; Cilium's limit."""
ICMP_FIELDS_MAX = 40
"""Fields of one ``icmps`` item; Cilium's limit."""
L7_RULES_MAX = 1024
"""Rules of one L7 list."""
MATCHES_MAX = 64
"""Headers, query parameters, topics or groups of one L7 rule."""
SERVER_NAMES_MAX = 256
EXCEPTS_MAX = 1024


class Dialect(Enum):
    """Whose spec is read: Cilium's verbatim, or Tidegate's, which has more fields and fewer accidents."""

    CILIUM = "cilium"
    TIDEGATE = "tidegate"


@dataclass(frozen=True, slots=True)
class Scope:
    """The policy around a rule. ``namespace`` None: clusterwide. ``host``: the subject is nodes."""

    key: PolicyKey
    namespace: str | None
    dialect: Dialect
    host: bool = False
    subject_is_init: bool = False

    @property
    def is_tidegate(self) -> bool:
        """Whether Tidegate's own fields are known here."""
        return self.dialect is Dialect.TIDEGATE

    def origin(self, node: Node) -> RuleOrigin:
        """Return the origin of the rule at ``node``."""
        return RuleOrigin(self.key, str(node))


def secret_place(fields: Fields, scope: Scope) -> tuple[str, str]:
    """Read the ``namespace`` and ``name`` of a Secret; a namespaced policy's own namespace is the default."""
    name_node = fields.require("name")
    namespace_node = fields.get("namespace")
    if namespace_node is None and scope.namespace is None and not fields.broken:
        fields.error("needs a namespace", "a clusterwide policy has none that could be the default")
    name = "" if name_node is None else object_name(name_node)
    namespace = scope.namespace or "" if namespace_node is None else namespace_name(namespace_node)
    return namespace, name
