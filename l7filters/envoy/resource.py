"""A translated resource and what can be wrong with a slot.

Owns: the values that leave this package. Must not know how resources are served.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from l7filters.ir import SlotKey

_TYPE_PREFIX = "type.googleapis.com/"


class TypeUrl(StrEnum):
    """The resource types that a translation can hold."""

    CLUSTER = _TYPE_PREFIX + "envoy.config.cluster.v3.Cluster"
    LISTENER = _TYPE_PREFIX + "envoy.config.listener.v3.Listener"
    ROUTE = _TYPE_PREFIX + "envoy.config.route.v3.RouteConfiguration"
    EXTENSION = _TYPE_PREFIX + "envoy.config.core.v3.TypedExtensionConfig"
    SECRET = _TYPE_PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
    RUNTIME = _TYPE_PREFIX + "envoy.service.runtime.v3.Runtime"


class ResourceName(NamedTuple):
    """Names are unique within a type."""

    type_url: TypeUrl
    name: str


class Message(Protocol):
    """The part of a protobuf message that is needed here."""

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...  # protobuf's name


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyResource:
    """One resource. ``body`` is the serialised message, so equal bodies are equal resources; it may hold secrets.

    ``references``: the other resources of the translation that the body names.
    """

    type_url: TypeUrl
    name: str
    body: bytes = field(repr=False)
    references: frozenset[ResourceName] = frozenset()

    @classmethod
    def of(cls, type_url: TypeUrl, name: str, message: Message, *references: ResourceName) -> EnvoyResource:
        """Serialise ``message`` deterministically."""
        body = message.SerializeToString(deterministic=True)
        return cls(type_url=type_url, name=name, body=body, references=frozenset(references))

    @property
    def key(self) -> ResourceName:
        """Type and name."""
        return ResourceName(self.type_url, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotError:
    """Something in a slot that Envoy can't be given.

    ``origin`` is the rule, as ``str(RuleOrigin)``, or empty when the slot as a whole is meant. ``closed`` True: there are no
    resources for the slot, so what would go there stays closed. False: only that rule is affected, as the message says, and
    never in the direction of more being allowed.
    """

    slot: SlotKey
    message: str
    hint: str = ""
    origin: str = ""
    closed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """Resources sorted by type and name, and the errors beside them."""

    resources: tuple[EnvoyResource, ...]
    errors: tuple[SlotError, ...] = ()


class RuleProblem(ValueError):
    """Raised inside this package for one rule; it never leaves: ``translate`` makes it a SlotError."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
