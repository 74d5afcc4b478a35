"""Labels and the selectors over them.

Owns: label keys in canonical form, requirements, selectors. Must not know policies, identities or addresses.

Canonical form of a key: without a source prefix (``k8s:app`` and ``any:app`` are ``app``), except that reserved labels
keep theirs (``reserved:host``). The namespace of an endpoint is the label ``NAMESPACE_LABEL``; the labels of that
namespace are carried under ``NAMESPACE_LABELS_PREFIX``, both as in Cilium, so that its policies mean the same here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

NAMESPACE_LABEL = "io.kubernetes.pod.namespace"
NAMESPACE_LABELS_PREFIX = "io.cilium.k8s.namespace.labels."
RESERVED_PREFIX = "reserved:"
_SOURCES_DROPPED = ("k8s:", "any:")

Labels = Mapping[str, str]


def canonical_key(key: str) -> str:
    """Return ``key`` without the source prefixes that mean "an ordinary label"."""
    for source in _SOURCES_DROPPED:
        if key.startswith(source):
            return key[len(source) :]
    return key


class Operator(StrEnum):
    """How a requirement compares; the spelling is Kubernetes'."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One predicate over labels. ``key`` is canonical; ``values`` is empty for the two existence operators."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        needs_values = self.operator in (Operator.IN, Operator.NOT_IN)
        assert bool(self.values) == needs_values, f"{self.operator} with {len(self.values)} values"

    def matches(self, labels: Labels) -> bool:
        """Tell whether ``labels`` satisfy this; a missing key satisfies NotIn, as in Kubernetes."""
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels
            case _:
                assert_never(self.operator)

    def __str__(self) -> str:
        match self.operator:
            case Operator.IN | Operator.NOT_IN:
                if self.operator is Operator.IN and len(self.values) == 1:
                    return f"{self.key}={self.values[0]}"
                word = "in" if self.operator is Operator.IN else "notin"
                return f"{self.key} {word} ({','.join(self.values)})"
            case Operator.EXISTS:
                return self.key
            case Operator.DOES_NOT_EXIST:
                return f"!{self.key}"
            case _:
                assert_never(self.operator)


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """The conjunction of its requirements; with none it selects everything (Kubernetes' ``{}``)."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """Tell whether every requirement holds for ``labels``."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def with_namespace(self, namespace: str) -> LabelSelector:
        """Return this selector confined to one namespace."""
        return LabelSelector((*self.requirements, Requirement(NAMESPACE_LABEL, Operator.IN, (namespace,))))

    def mentions(self, key: str) -> bool:
        """Tell whether some requirement is about ``key``."""
        return any(requirement.key == key for requirement in self.requirements)

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements) or "*"
