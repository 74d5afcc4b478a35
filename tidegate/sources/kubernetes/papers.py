"""Policies, Services, slices and Secrets of the API server as documents in force. Pure.

Owns: parsing each object as a document of its own, and last-good retention: an object whose new version is bad stays in force as
it last was good, just as a file's documents do (sources/ledger.py). Must not know pods.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from l7filters.documents import DocumentError, ParsedFile, Secret, SecretStore, parse_object
from l7filters.model import HttpRule, Policy, SecretRef
from tidegate.sources.kubernetes.server import Tree
from tidegate.sources.ledger import DirectoryState, FileLedger, merge, record


class Papers:
    """All documents by name (``WORD/NAMESPACE/NAME``). ``watched_words``: substrings whose mention is noted (``mentioned``)."""

    def __init__(self, watched_words: Iterable[str] = ()) -> None:
        self._watched_words = tuple(watched_words)
        self._ledgers: dict[str, FileLedger] = {}
        self._trees: dict[str, Tree] = {}
        self._mentions: dict[str, frozenset[str]] = {}
        self._state = DirectoryState()
        self._changed = True

    @property
    def state(self) -> DirectoryState:
        """What is in force; the same object while nothing changed."""
        if self._changed:
            self._changed = False
            self._state = merge(self._ledgers, self._state)
        return self._state

    @property
    def mentioned(self) -> frozenset[str]:
        """The watched words that occur in some document in force."""
        return frozenset().union(*self._mentions.values())

    def put(self, name: str, tree: Tree) -> None:
        """The document ``name`` as it is now."""
        parsed = parse_object(tree, name)
        old = self._ledgers.get(name, FileLedger())
        ledger = record(old, ParsedFile(name, (parsed,)))
        if ledger == old:
            return
        self._ledgers[name] = ledger
        if parsed.value is not None:
            self._trees[name] = tree
            text = json.dumps(tree)
            mentions = frozenset(word for word in self._watched_words if word in text)
            if mentions:
                self._mentions[name] = mentions
            else:
                self._mentions.pop(name, None)
        self._changed = True

    def drop(self, name: str) -> None:
        """The document ``name`` is no more."""
        if self._ledgers.pop(name, None) is not None:
            self._trees.pop(name, None)
            self._mentions.pop(name, None)
            self._changed = True

    def errors_of(self, name: str) -> tuple[DocumentError, ...]:
        """Why the present version of a document can't be read; empty if it can."""
        ledger = self._ledgers.get(name)
        return () if ledger is None else ledger.errors

    def trees(self, words: frozenset[str]) -> dict[str, Tree]:
        """The documents of these words as they are in force, to be saved for a restart."""
        return {name: tree for name, tree in self._trees.items() if name.partition("/")[0] in words}


def secret_refs(policies: Iterable[Policy]) -> frozenset[tuple[str, str]]:
    """Return (namespace, name) of every Secret that a rule names."""
    return frozenset((ref.namespace, ref.name) for policy in policies for ref in _refs(policy))


def _refs(policy: Policy) -> Iterator[SecretRef]:
    for rule in policy.rules:
        for port_rule in rule.to_ports:
            for context in (port_rule.terminating_tls, port_rule.originating_tls):
                if context is not None:
                    yield SecretRef(context.namespace, context.secret, "")
            for one in () if port_rule.l7 is None else (*port_rule.l7.allow, *port_rule.l7.deny):
                if isinstance(one, HttpRule):
                    yield from (header.secret for header in one.headers if header.secret is not None)


class Vault:
    """The Secrets that rules name, as the API server has them."""

    def __init__(self) -> None:
        self._secrets: dict[str, Secret] = {}
        self.errors: tuple[str, ...] = ()

    def put(self, name: str, tree: Tree) -> None:
        """The Secret ``name`` as it is now; a bad one is as none."""
        value = parse_object(tree, name).value
        if isinstance(value, Secret):
            self._secrets[name] = value
        else:
            self._secrets.pop(name, None)

    def drop(self, name: str) -> None:
        """It is no more."""
        self._secrets.pop(name, None)

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget all but these."""
        kept = set(names)
        self._secrets = {name: secret for name, secret in self._secrets.items() if name in kept}

    def store(self) -> SecretStore:
        """All of them."""
        return SecretStore(self._secrets.values())
