"""Text -> documents: which kind is read by which function, and what comes back.

Owns: the table of kinds, ``ParsedDocument`` and ``ParsedFile``. Pure; never raises for bad input: whatever the text,
each document gives a value or errors, and one bad document takes nothing from the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from l7filters.documents import cilium, kubernetes, tidegate
from l7filters.documents.kubernetes import EndpointSlice, Namespace
from l7filters.documents.metadata import DocumentKey, Head, head
from l7filters.documents.reader import DocumentError, Fields, Node, Path, Report, closest, render_path
from l7filters.documents.secrets import Secret
from l7filters.documents.yamltree import TreeDocument, lines_of, read_documents
from l7filters.model import Policy
from l7filters.world import CidrGroup, Service

DocumentValue = tuple[Policy, ...] | Namespace | Service | EndpointSlice | Secret | CidrGroup
"""What one document says; a policy document gives one Policy per spec."""

_Reader = Callable[[Fields, Head], DocumentValue]


@dataclass(frozen=True, slots=True)
class _Kind:
    word: str
    namespaced: bool
    read: _Reader


_CILIUM_KINDS = {
    "CiliumNetworkPolicy": _Kind("cnp", True, cilium.network_policy),
    "CiliumClusterwideNetworkPolicy": _Kind("ccnp", False, cilium.network_policy),
    "CiliumCIDRGroup": _Kind("cidrgroup", False, cilium.cidr_group),
}
KINDS: Mapping[str, Mapping[str, _Kind]] = {
    "cilium.io/v2": _CILIUM_KINDS,
    "cilium.io/v2alpha1": {"CiliumCIDRGroup": _CILIUM_KINDS["CiliumCIDRGroup"]},
    "policy.tidegate.dev/v1alpha1": {
        "TidegatePolicy": _Kind("tp", True, tidegate.tidegate_policy),
        "ClusterTidegatePolicy": _Kind("ctp", False, tidegate.tidegate_policy),
    },
    "networking.k8s.io/v1": {"NetworkPolicy": _Kind("knp", True, kubernetes.network_policy)},
    "v1": {
        "Namespace": _Kind("namespace", False, kubernetes.namespace),
        "Service": _Kind("service", True, kubernetes.service),
        "Secret": _Kind("secret", True, kubernetes.secret),
    },
    "discovery.k8s.io/v1": {"EndpointSlice": _Kind("endpointslice", True, kubernetes.endpoint_slice)},
}
"""apiVersion -> kind -> how to read it."""
POLICY_WORDS = frozenset({"cnp", "ccnp", "tp", "ctp", "knp"})


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """One document: its value, or errors and no value.

    ``key`` None: it can't be told which object it is meant to be. ``digest`` names its content, comments and layout aside.
    """

    index: int
    line: int
    key: DocumentKey | None
    digest: str
    value: DocumentValue | None = None
    errors: tuple[DocumentError, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """All documents of one text. ``complete`` False: from some point on the text could not be read as YAML."""

    source: str
    documents: tuple[ParsedDocument, ...] = ()
    complete: bool = True

    @property
    def errors(self) -> tuple[DocumentError, ...]:
        """All errors, in the order of the documents."""
        return tuple(error for document in self.documents for error in document.errors)

    @property
    def policies(self) -> tuple[Policy, ...]:
        """All policies of good documents."""
        return tuple(policy for document in self.documents if isinstance(document.value, tuple) for policy in document.value)

    @property
    def services(self) -> tuple[Service, ...]:
        """All Services, each with the addresses that EndpointSlices of this file give it."""
        return with_slices(
            (document.value for document in self.documents if isinstance(document.value, Service)),
            (document.value for document in self.documents if isinstance(document.value, EndpointSlice)),
        )

    @property
    def cidr_groups(self) -> tuple[CidrGroup, ...]:
        """All CIDR groups."""
        return tuple(document.value for document in self.documents if isinstance(document.value, CidrGroup))

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        """All Namespaces."""
        return tuple(document.value for document in self.documents if isinstance(document.value, Namespace))

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """All Secrets."""
        return tuple(document.value for document in self.documents if isinstance(document.value, Secret))


def with_slices(services: Iterable[Service], slices: Iterable[EndpointSlice]) -> tuple[Service, ...]:
    """Return the services with the addresses that the slices add; a slice without its Service adds nothing."""
    added: dict[tuple[str, str], list[EndpointSlice]] = {}
    for item in slices:
        added.setdefault((item.namespace, item.service), []).append(item)
    return tuple(
        replace(
            service,
            addresses=tuple(
                dict.fromkeys(
                    (
                        *service.addresses,
                        *(at for item in added.get((service.namespace, service.name), ()) for at in item.addresses),
                    )
                )
            ),
        )
        for service in services
    )


def parse_documents(text: str, source: str) -> ParsedFile:
    """Read every document of a YAML or JSON text. ``source`` names it in errors."""
    documents: list[ParsedDocument] = []
    complete = True
    failed: dict[int, list[tuple[Path, str, str]]] = {}
    for tree in read_documents(text):
        if tree.problem is not None:
            complete = complete and not tree.problem.ends_file
            documents.append(_unreadable(tree, source))
            continue
        document, found = _parse(tree.tree, source, tree.index, tree.line)
        documents.append(document)
        if found:
            failed[len(documents) - 1] = found
    if failed:
        # By position, not by index: what follows a document and can't be read may have that document's index.
        lines = lines_of(text, {documents[position].index for position in failed})
        for position, found in failed.items():
            document = documents[position]
            located = _located(document.errors, found, lines.get(document.index, {}))
            documents[position] = replace(document, errors=located)
    return ParsedFile(source, tuple(documents), complete)


def parse_object(tree: object, source: str, index: int = 0) -> ParsedDocument:
    """Read one object that is already a tree of dicts and lists (from an API server)."""
    return _parse(tree, source, index, 1)[0]


def _unreadable(tree: TreeDocument, source: str) -> ParsedDocument:
    problem = tree.problem
    assert problem is not None
    error = DocumentError("", problem.message, problem.hint, source, tree.index, problem.line)
    return ParsedDocument(tree.index, tree.line, None, "", None, (error,))


def _parse(tree: object, source: str, index: int, line: int) -> tuple[ParsedDocument, list[tuple[Path, str, str]]]:
    report = Report()
    node = Node(tree, (), report)
    key: DocumentKey | None = None
    value: DocumentValue | None = None
    kind = _kind(node)
    if kind is not None:
        with node.fields() as fields:
            who = head(fields, kind.word, namespaced=kind.namespaced)
            # The body is read even if the document has no proper name, for the sake of its other errors.
            namespace = "default" if kind.namespaced else None
            value = kind.read(fields, who or Head(kind.word, "unnamed", namespace))
            key = None if who is None else who.key
    errors = tuple(DocumentError(render_path(path), message, hint, source, index) for path, message, hint in report.found)
    document = ParsedDocument(index, line, key, _digest(tree), None if errors else value, errors)
    return document, report.found


def _kind(node: Node) -> _Kind | None:
    """Return how to read the document; None (with an error) if its kind is not known here."""
    if not isinstance(node.value, dict):
        node.error("a document must be a mapping with apiVersion and kind")
        return None
    fields = Fields(node, node.value)
    version_node, kind_node = fields.require("apiVersion"), fields.require("kind")
    if version_node is None or kind_node is None:
        return None
    version, kind = version_node.string(), kind_node.string()
    if not version or not kind:
        return None
    if version.startswith("security.istio.io/"):
        kind_node.error(f"{kind} of {version} is not supported yet", "write a TidegatePolicy")
    elif kind == "List":
        kind_node.error("a List is not supported", "write its items as documents of their own")
    elif version not in KINDS:
        homes = [home for home, kinds in KINDS.items() if kind in kinds]
        hint = f"{kind} is read from {' and '.join(homes)}" if homes else closest(version, KINDS)
        version_node.error(f'unknown apiVersion "{version}"', hint)
    elif kind not in KINDS[version]:
        kind_node.error(f'unknown kind "{kind}" of {version}', closest(kind, KINDS[version]))
    else:
        return KINDS[version][kind]
    return None


def _digest(tree: object) -> str:
    text = json.dumps(tree, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _located(
    errors: tuple[DocumentError, ...], found: list[tuple[Path, str, str]], lines: Mapping[Path, int]
) -> tuple[DocumentError, ...]:
    """Give each error the line of its path, or of the nearest ancestor that stands in the text."""
    located = []
    for error, (path, _, _) in zip(errors, found, strict=True):
        line = next((lines[path[:size]] for size in range(len(path), -1, -1) if path[:size] in lines), None)
        located.append(replace(error, line=line))
    return tuple(located)
