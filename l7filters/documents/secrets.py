"""Secrets: kept out of the model, and never printed.

Owns: the value of a Secret document and the store that looks keys up. Must not know who needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from l7filters.model import SecretRef


@dataclass(frozen=True, slots=True)
class Secret:
    """One Secret; ``data`` holds the decoded values and takes no part in ``repr``."""

    namespace: str
    name: str
    data: Mapping[str, bytes] = field(repr=False)

    def __str__(self) -> str:
        return f"secret/{self.namespace}/{self.name} ({len(self.data)} keys, redacted)"


class SecretStore:
    """Look-up over Secrets. Prints as a count, compares by content."""

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        self._secrets = {(secret.namespace, secret.name): secret for secret in secrets}

    def __repr__(self) -> str:
        return f"SecretStore({len(self._secrets)} secrets, redacted)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretStore) and self._secrets == other._secrets

    def __hash__(self) -> int:
        return hash(frozenset(self._secrets))

    def __len__(self) -> int:
        return len(self._secrets)

    def __iter__(self) -> Iterator[Secret]:
        return iter(self._secrets.values())

    def get(self, namespace: str, name: str) -> Secret | None:
        """Return the Secret or None."""
        return self._secrets.get((namespace, name))

    def value(self, ref: SecretRef) -> bytes | None:
        """Return what ``ref`` points at; with an empty key, the only entry of a Secret that has exactly one."""
        secret = self.get(ref.namespace, ref.name)
        if secret is None:
            return None
        if ref.key:
            return secret.data.get(ref.key)
        return next(iter(secret.data.values())) if len(secret.data) == 1 else None
