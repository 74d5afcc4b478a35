"""What an agent has to say of a policy object: its own entry of the status, the conditions, an Event. Pure.

Owns: the shape of the status of ``policy.tidegate.dev`` and who writes what of it:

1. ``status.nodes``: one entry a node, each written by that node's agent as a field manager of its own. A node has one if the
policy    selects workloads there, or can't be realised there: in a large cluster most policies concern few nodes.
2. ``Accepted`` and ``Realised``: every agent comes to the same conclusion from the same object, so any may write them, as one
shared    field manager; who finds them right already writes nothing.

``Realised`` is true when every node with a workload that the policy selects reports the object's present generation as realised.
The nodes are known from the pods, so a node that has not reported yet counts, and one that runs no agent shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from l7filters.documents import DocumentError
from tidegate.sources.kubernetes.kinds import Kind
from tidegate.sources.kubernetes.server import Tree
from tidegate.status.node import PolicyState, PolicyStatus

CONDITIONS_MANAGER = "tidegate"
MESSAGE_CHARS_MAX = 1024
ERRORS_SHOWN_MAX = 8
NODES_SHOWN_MAX = 5
REPORTER = "tidegate.dev/agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyObject:
    """A policy as the API server has it, less its spec."""

    kind: Kind
    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    """Grows with every edit of the spec."""
    good_generation: int = 0
    """The latest that could be read: what is in force; 0: none."""
    status: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """``WORD/NAMESPACE/NAME``, as policies are known everywhere else."""
        return "/".join(part for part in (self.kind.word, self.namespace, self.name) if part)


def node_manager(node: str) -> str:
    """The field manager of one node's entry."""
    return f"tidegate-{node}"


def node_entry(item: PolicyObject, status: PolicyStatus | None, node: str, present: Tree | None) -> Tree | None:
    """Return this node's entry; None if it should have none. ``present``: the one it has.

    A policy that is in force stays so while anything else of the world is being realised.
    """
    if status is None or (status.endpoints == 0 and status.state is not PolicyState.FAILED):
        return None
    if status.state is PolicyState.PENDING and present is not None and present.get("generation") == item.good_generation:
        return present
    words = f"{status.message} ({status.hint})" if status.message and status.hint else status.message
    return {
        "name": node,
        "state": str(status.state),
        "generation": item.good_generation,
        "endpoints": status.endpoints,
        **({"revision": status.revision} if status.revision else {}),
        **({"message": words[:MESSAGE_CHARS_MAX]} if words else {}),
    }


def present_entry(item: PolicyObject, node: str) -> Tree | None:
    """Return the entry of a node as the object has it."""
    return next((dict(entry) for entry in item.status.get("nodes") or () if entry.get("name") == node), None)


def is_news(wanted: Tree | None, present: Tree | None) -> bool:
    """Whether an entry must be written now: the revision alone, which grows with every change anywhere, is no news."""

    def core(entry: Tree | None) -> Tree | None:
        return None if entry is None else {key: value for key, value in entry.items() if key not in ("revision", "endpoints")}

    return core(wanted) != core(present) or (wanted or {}).get("endpoints", 0) == 0 != (present or {}).get("endpoints", 0)


def is_outstanding(item: PolicyObject) -> bool:
    """Whether the object's status says that it is not in force everywhere."""
    known = {one.get("type"): one for one in item.status.get("conditions") or ()}
    realised = known.get("Realised")
    return item.kind.has_status and (realised is None or realised.get("status") != "True")


def conditions(item: PolicyObject, errors: tuple[DocumentError, ...], expected: Iterable[str], now: str) -> Tree | None:
    """Return the shared part of the status; None if the object has it as it should be. ``expected``: nodes that must report."""
    wanted = [_accepted(item, errors), *_realised(item, frozenset(expected))]
    present = {one.get("type"): one for one in item.status.get("conditions") or ()}
    summary = _summary(item, frozenset(expected))
    if all(_same(one, present.get(one["type"])) for one in wanted) and summary == item.status.get("summary", ""):
        return None
    for one in wanted:
        known = present.get(one["type"])
        same_status = known is not None and known.get("status") == one["status"]
        one["lastTransitionTime"] = known["lastTransitionTime"] if known is not None and same_status else now
    return {"conditions": wanted, "summary": summary}


def _same(wanted: Tree, present: Mapping[str, Any] | None) -> bool:
    return present is not None and all(present.get(key) == value for key, value in wanted.items())


def _accepted(item: PolicyObject, errors: tuple[DocumentError, ...]) -> Tree:
    if not errors:
        return _condition(item, "Accepted", True, "Valid", "every field is understood")
    return _condition(item, "Accepted", False, "Invalid", rejection(item, errors))


def rejection(item: PolicyObject, errors: tuple[DocumentError, ...]) -> str:
    """Say what is wrong with an object, and what is in force instead."""
    shown = [
        f"{error.path or 'the object'}: {error.message}" + (f" ({error.hint})" if error.hint else "")
        for error in errors[:ERRORS_SHOWN_MAX]
    ]
    rest = len(errors) - len(shown)
    instead = f"generation {item.good_generation} stays in force" if item.good_generation else "nothing of it is in force"
    return "; ".join([*shown, *([f"and {rest} more"] if rest else [])])[:MESSAGE_CHARS_MAX] + f"; {instead}"


def _reports(item: PolicyObject) -> dict[str, Mapping[str, Any]]:
    return {str(entry.get("name")): entry for entry in item.status.get("nodes") or ()}


def _is_realised(item: PolicyObject, entry: Mapping[str, Any] | None) -> bool:
    return entry is not None and entry.get("state") == PolicyState.REALISED and entry.get("generation") == item.generation


def _realised(item: PolicyObject, expected: frozenset[str]) -> list[Tree]:
    reports = _reports(item)
    wanted = expected | reports.keys()
    if item.good_generation != item.generation:
        return [_condition(item, "Realised", False, "NotAccepted", "its present version can't be read")]
    failed = {name: entry for name, entry in reports.items() if entry.get("state") == PolicyState.FAILED}
    if failed:
        name, entry = sorted(failed.items())[0]
        return [_condition(item, "Realised", False, "Failed", f"{name}: {entry.get('message', '')}"[:MESSAGE_CHARS_MAX])]
    waiting = sorted(name for name in wanted if not _is_realised(item, reports.get(name)))
    if waiting:
        shown = ", ".join(waiting[:NODES_SHOWN_MAX]) + (" ..." if len(waiting) > NODES_SHOWN_MAX else "")
        return [_condition(item, "Realised", False, "Pending", f"not in force yet on {shown}")]
    words = f"in force on {len(wanted)} node{'s' if len(wanted) != 1 else ''}" if wanted else "selects no workload"
    return [_condition(item, "Realised", True, "InForce" if wanted else "SelectsNothing", words)]


def _summary(item: PolicyObject, expected: frozenset[str]) -> str:
    reports = _reports(item)
    wanted = expected | reports.keys()
    return f"{sum(_is_realised(item, reports.get(name)) for name in wanted)}/{len(wanted)}"


def _condition(item: PolicyObject, kind: str, holds: bool, reason: str, message: str) -> Tree:
    return {
        "type": kind,
        "status": "True" if holds else "False",
        "reason": reason,
        "message": message,
        "observedGeneration": item.generation,
    }


def apply_body(item: PolicyObject, status: Tree) -> Tree:
    """Return what is applied to an object's status."""
    metadata = {"name": item.name} | ({"namespace": item.namespace} if item.namespace else {})
    return {"apiVersion": item.kind.api_version, "kind": item.kind.kind, "metadata": metadata, "status": status}


def event(item: PolicyObject, errors: tuple[DocumentError, ...], node: str, now: str) -> Tree:
    """Return the Event of a rejection. Its name follows from the object's version, so that of many agents one makes it."""
    digest = hashlib.sha256(f"{item.uid} {item.generation}".encode()).hexdigest()[:16]
    namespace = item.namespace or "default"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{item.name[:200]}.{digest}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": item.kind.api_version,
            "kind": item.kind.kind,
            "name": item.name,
            **({"namespace": item.namespace} if item.namespace else {}),
            "uid": item.uid,
        },
        "type": "Warning",
        "reason": "Rejected",
        "message": rejection(item, errors),
        "action": "Read",
        "reportingComponent": REPORTER,
        "reportingInstance": node,
        "source": {"component": REPORTER, "host": node},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
