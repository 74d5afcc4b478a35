"""Which version of which document is in force: pure bookkeeping over parsed files.

Owns: last-good retention and the winner among documents of one key. Must not know where texts come from. Rules:

1. A good document is in force as soon as its file says so.
2. A document whose new version is bad stays in force as it last was good (``stale``), as long as its file names it.
3. Where a file holds something that can't be told to be any document (bad YAML, no name), every document of the file that
   is not there any more may be that one: all of them stay in force, stale.
4. A document is gone when its file is read without doubt and doesn't hold it, or the file is gone.
5. Of several documents with one key, the first in the order of (file name, position) wins; the others are errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from l7filters.documents import (
    POLICY_WORDS,
    DocumentError,
    DocumentKey,
    DocumentValue,
    EndpointSlice,
    Namespace,
    ParsedDocument,
    ParsedFile,
    Secret,
    SecretStore,
    with_slices,
)
from l7filters.model import Policy
from l7filters.world import CidrGroup, Service

_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class InForce:
    """The good version of a document that counts. ``stale``: its file now holds something worse."""

    document: ParsedDocument
    stale: bool = False


@dataclass(frozen=True, slots=True)
class FileLedger:
    """One file: what of it is in force, all that is wrong with it, and what of that belongs to which document.

    ``doubts`` are the errors that belong to no document that can be told: bad YAML, a missing name.
    """

    in_force: Mapping[DocumentKey, InForce] = field(default_factory=dict)
    errors: tuple[DocumentError, ...] = ()
    bad: Mapping[DocumentKey, tuple[DocumentError, ...]] = field(default_factory=dict)
    doubts: tuple[DocumentError, ...] = ()

    def errors_of(self, key: DocumentKey) -> tuple[DocumentError, ...]:
        """Why the document ``key`` is not in force as it stands in the file."""
        return self.bad.get(key, self.doubts)


def record(old: FileLedger, parsed: ParsedFile) -> FileLedger:
    """Return the ledger of a file after it was read as ``parsed``."""
    good: dict[DocumentKey, InForce] = {}
    bad: dict[DocumentKey, tuple[DocumentError, ...]] = {}
    errors: list[DocumentError] = []
    doubts: list[DocumentError] = []
    for document in parsed.documents:
        errors += document.errors
        key = document.key
        if key is None:
            doubts += document.errors
        elif document.value is None:
            bad[key] = document.errors
        elif key in good:
            first = good[key].document
            errors.append(_duplicate(document, parsed.source, f"document {first.index} of the same file"))
        else:
            good[key] = InForce(document)
    for key, kept in old.in_force.items():
        if key not in good and (doubts or key in bad):
            good[key] = InForce(kept.document, stale=True)
    return FileLedger(good, tuple(errors), bad, tuple(doubts))


def record_unreadable(old: FileLedger, source: str, problem: str, hint: str) -> FileLedger:
    """Return the ledger of a file that can't be read at all: everything stays in force, stale."""
    kept = {key: InForce(item.document, stale=True) for key, item in old.in_force.items()}
    error = DocumentError("", problem, hint, source)
    return FileLedger(kept, (error,), doubts=(error,))


def _duplicate(document: ParsedDocument, source: str, where: str) -> DocumentError:
    return DocumentError(
        "metadata.name",
        f"{document.key} is already defined by {where}, which stays in force",
        "keep one of the two",
        source,
        document.index,
        document.line,
    )


@dataclass(frozen=True, slots=True)
class DocumentStatus:
    """How a document stands. ``digest`` names the content in force ("" if none is), since state ``revision``."""

    key: DocumentKey
    source: str
    index: int
    digest: str
    revision: int
    stale: bool = False
    errors: tuple[DocumentError, ...] = ()

    @property
    def in_force(self) -> bool:
        """Whether some version of it counts."""
        return bool(self.digest)


@dataclass(frozen=True, slots=True)
class DirectoryState:
    """All documents of a directory as they count now.

    ``revision`` grows by one with every change of the rest. ``readable`` False: the directory itself can't be listed, and
    all is as it last was (empty if it never could).
    """

    revision: int = 0
    policies: tuple[Policy, ...] = ()
    services: tuple[Service, ...] = ()
    cidr_groups: tuple[CidrGroup, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    secrets: SecretStore = field(default_factory=SecretStore)
    errors: tuple[DocumentError, ...] = ()
    documents: Mapping[DocumentKey, DocumentStatus] = field(default_factory=dict)
    readable: bool = True

    def policy_documents(self) -> tuple[DocumentStatus, ...]:
        """The status of policy documents alone."""
        return tuple(status for key, status in self.documents.items() if key.split("/", 1)[0] in POLICY_WORDS)


def merge(
    ledgers: Mapping[str, FileLedger], before: DirectoryState, directory_error: DocumentError | None = None
) -> DirectoryState:
    """Return the state that the files add up to; ``before`` itself if nothing changed."""
    revision = before.revision + 1
    winners: dict[DocumentKey, tuple[str, InForce]] = {}
    errors: list[DocumentError] = [] if directory_error is None else [directory_error]
    statuses: dict[DocumentKey, DocumentStatus] = {}
    for source in sorted(ledgers):
        ledger = ledgers[source]
        errors += ledger.errors
        for key, item in ledger.in_force.items():
            if key in winners:
                if not item.stale:
                    errors.append(_duplicate(item.document, source, winners[key][0]))
                continue
            winners[key] = (source, item)
            statuses[key] = _status(key, source, item, ledger, before, revision)
    for source in sorted(ledgers):
        for key, wrong in ledgers[source].bad.items():
            if key not in statuses:
                statuses[key] = DocumentStatus(key, source, wrong[0].index, "", 0, errors=wrong)
    values = [item.document.value for _, item in winners.values()]
    state = DirectoryState(
        revision=before.revision,
        policies=tuple(policy for value in values if isinstance(value, tuple) for policy in value),
        services=with_slices(_of(values, Service), _of(values, EndpointSlice)),
        cidr_groups=_of(values, CidrGroup),
        namespaces=_of(values, Namespace),
        secrets=SecretStore(_of(values, Secret)),
        errors=tuple(errors),
        documents=statuses,
        readable=directory_error is None,
    )
    return before if state == before else replace(state, revision=revision)


def _of(values: Iterable[DocumentValue | None], kind: type[_V]) -> tuple[_V, ...]:
    return tuple(value for value in values if isinstance(value, kind))


def _status(
    key: DocumentKey, source: str, item: InForce, ledger: FileLedger, before: DirectoryState, revision: int
) -> DocumentStatus:
    """Return the status of a document in force; while its content stays the same, so does its revision."""
    digest = item.document.digest
    known = before.documents.get(key)
    since = known.revision if known is not None and known.digest == digest else revision
    errors = ledger.errors_of(key) if item.stale else ()
    return DocumentStatus(key, source, item.document.index, digest, since, item.stale, errors)
