"""The head of every document: apiVersion, kind, metadata.

Owns: what of it counts (name, namespace, labels), what is accepted unread (what an API server adds), and the key by which
a document is known. Must not know what the body means.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NewType

from l7filters.documents.names import label_map, namespace_name, object_name
from l7filters.documents.reader import Fields

DocumentKey = NewType("DocumentKey", str)
"""``WORD/NAMESPACE/NAME`` or ``WORD/NAME``; for policies the same text as their PolicyKey."""

DEFAULT_NAMESPACE = "default"
_SERVER_FIELDS = (
    *("annotations", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generateName"),
    *("generation", "managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid"),
)


@dataclass(frozen=True, slots=True)
class Head:
    """Who a document is. ``namespace`` is None for kinds without one."""

    word: str
    name: str
    namespace: str | None
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> DocumentKey:
        """The document's key."""
        place = f"{self.namespace}/" if self.namespace is not None else ""
        return DocumentKey(f"{self.word}/{place}{self.name}")


def head(fields: Fields, word: str, *, namespaced: bool) -> Head | None:
    """Read apiVersion, kind (already judged by the caller) and metadata; None if the document can't be named."""
    fields.ignore("apiVersion", "kind", "status")
    node = fields.require("metadata")
    if node is None:
        return None
    with node.fields() as metadata:
        name_node = metadata.require("name")
        name = "" if name_node is None else object_name(name_node)
        namespace = _namespace(metadata, namespaced=namespaced)
        labels: dict[str, str] = metadata.read("labels", label_map, {})
        metadata.ignore(*_SERVER_FIELDS)
    if not name or namespace == "":
        return None
    return Head(word, name, namespace, labels)


def _namespace(metadata: Fields, *, namespaced: bool) -> str | None:
    node = metadata.get("namespace")
    if namespaced:
        return DEFAULT_NAMESPACE if node is None else namespace_name(node)
    if node is not None and node.value != "":
        node.error("this kind belongs to no namespace", "remove the field")
    return None
