"""The status of a node, put together from what its parts know. Pure.

Owns: which facts make an endpoint ready and a policy realised. ``agent.py`` collects the facts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import dataclass, field

from l7filters.documents import DocumentError as SourceError
from l7filters.documents import DocumentKey
from l7filters.identity import IdentityNumber
from l7filters.ir import SlotKey
from l7filters.model import Policy
from l7filters.world import Endpoint
from tidegate.flows.record import prefixed_labels, workload_name
from tidegate.realise import Realisation
from tidegate.status.node import (
    DocumentError,
    EndpointState,
    EndpointStatus,
    PolicyState,
    PolicyStatus,
    Unmanaged,
)
from tidegate.status.selection import Selection
from tidegate.worlds import Inputs

_AWAY = "what was last heard stays in force"
_UNHEARD = "until all is, the kernel goes on with what it has"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the agent knows. ``current``: the realisation is of the latest inputs. ``failed``: why the last one went wrong."""

    inputs: Inputs
    realisation: Realisation | None = None
    current: bool = False
    failed: str = ""
    attachments: Mapping[str, str] = field(default_factory=dict)
    """Endpoint key -> why it could not be attached."""
    selection: Selection | None = None
    """Of the realisation's world."""


def document_errors(inputs: Inputs, unheard: tuple[str, ...] = ()) -> tuple[DocumentError, ...]:
    """Return what is wrong with any file or object. ``unheard``: why an API server has said nothing yet."""
    kept = {(status.source, status.index) for status in inputs.policies.documents.values() if status.stale and status.in_force}
    away = () if inputs.cluster is None else inputs.cluster.problems
    return (
        *(
            _document_error(error, (error.source, error.index) in kept)
            for error in (*inputs.policies.errors, *inputs.endpoints.errors, *inputs.secrets.errors)
        ),
        *(DocumentError(source="kubernetes", index=0, path="", message=problem, hint=_AWAY, kept=True) for problem in away),
        *(DocumentError(source="kubernetes", index=0, path="", message=problem, hint=_UNHEARD) for problem in unheard),
    )


def _document_error(error: SourceError, kept: bool) -> DocumentError:
    return DocumentError(
        source=error.source, index=error.index, path=error.path, message=error.message, hint=error.hint, kept=kept
    )


def endpoint_statuses(facts: Facts) -> tuple[EndpointStatus, ...]:
    """Return the state of every local endpoint."""
    compiled = facts.realisation.compiled.endpoints if facts.realisation is not None else ()
    identities = {each.key: each.identity for each in compiled}
    return tuple(
        _endpoint_status(facts, endpoint, identities.get(endpoint.key))
        for endpoint in facts.inputs.endpoints.endpoints
        if endpoint.is_local
    )


def _endpoint_status(facts: Facts, endpoint: Endpoint, identity: IdentityNumber | None) -> EndpointStatus:
    """``identity`` None: not of the realised world."""
    realisation = facts.realisation
    attached = realisation is not None and (
        endpoint.key in realisation.surroundings.interface_indices or endpoint.key in realisation.surroundings.cgroup_ids
    )
    state, message = EndpointState.REGENERATING, ""
    if endpoint.key in facts.attachments:
        state, message = EndpointState.FAILED, facts.attachments[endpoint.key]
    elif facts.failed:
        state, message = EndpointState.FAILED, facts.failed
    elif realisation is not None and not attached and identity is not None:
        what = f"interface {endpoint.interface}" if endpoint.interface else f"cgroup {endpoint.cgroup}"
        state, message = EndpointState.WAITING, f"{what} does not exist yet"
    elif realisation is not None and facts.current:
        state = EndpointState.READY
    return EndpointStatus(
        key=endpoint.key,
        state=state,
        identity=identity or 0,
        attachment=endpoint.interface or endpoint.cgroup or "",
        addresses=tuple(str(address) for address in endpoint.addresses),
        revision=realisation.world.revision if realisation is not None and attached else 0,
        policies=facts.selection.policies_of[endpoint.key] if facts.selection is not None else 0,
        message=message,
        workload=f"{endpoint.namespace}/{workload_name(endpoint.name, prefixed_labels(endpoint.labels))}",
    )


def unmanaged(facts: Facts, statuses: tuple[EndpointStatus, ...], doors: Set[str]) -> tuple[Unmanaged, ...]:
    """Return what is on this node and not under policy. ``doors``: interfaces into other namespaces that are no uplinks."""
    found = [
        Unmanaged(name=status.key, kind="endpoint", reason=status.message or str(status.state))
        for status in statuses
        if status.state in (EndpointState.WAITING, EndpointState.FAILED)
    ]
    cluster = facts.inputs.cluster
    found += [Unmanaged(name=pod.key, kind="pod", reason=pod.reason) for pod in (() if cluster is None else cluster.unmanaged)]
    claimed = {endpoint.interface for endpoint in facts.inputs.endpoints.endpoints}
    found += [
        Unmanaged(name=name, kind="interface", reason="leads to another network namespace, and no endpoint claims it")
        for name in sorted(doors - claimed)
    ]
    return tuple(found)


def policy_statuses(facts: Facts, only: Collection[str] | None = None) -> tuple[PolicyStatus, ...]:
    """Return the state of every policy document that is in force (or of those with these keys), in the order of their keys."""
    by_key: dict[str, list[Policy]] = {}
    for policy in facts.inputs.policies.policies:
        if only is None or policy.key in only:
            by_key.setdefault(policy.key, []).append(policy)
    wrong = _wrongs(facts)
    slots = _slots_by_policy(facts.realisation)
    return tuple(_policy_status(facts, key, by_key[key], wrong.get(key), slots.get(key, ())) for key in sorted(by_key))


def _policy_status(
    facts: Facts, key: str, specs: list[Policy], wrong: tuple[str, str] | None, slots: tuple[SlotKey, ...]
) -> PolicyStatus:
    realisation = facts.realisation
    state, message, hint = PolicyState.PENDING, "", ""
    if wrong is not None:
        state, (message, hint) = PolicyState.FAILED, wrong
    elif facts.failed:
        state, message = PolicyState.FAILED, facts.failed
    elif realisation is not None and facts.current:
        unready = [slot for slot in slots if slot in realisation.unready]
        if unready:
            message = f"{len(unready)} of its {len(slots)} slots wait for Envoy; their traffic is closed"
        else:
            state = PolicyState.REALISED
    document = facts.inputs.policies.documents.get(DocumentKey(key))
    return PolicyStatus(
        key=key,
        state=state,
        revision=realisation.world.revision if realisation is not None and state is PolicyState.REALISED else 0,
        mode=str(specs[0].mode),
        source=document.source if document else "",
        endpoints=facts.selection.endpoints_of(specs) if facts.selection is not None else 0,
        message=message,
        hint=hint,
    )


def _wrongs(facts: Facts) -> dict[str, tuple[str, str]]:
    """Policy key -> (what of it is not in force and why, what to do); the first of several."""
    realisation = facts.realisation
    found: dict[str, tuple[str, str]] = {}
    if realisation is None:
        return found
    for problem in realisation.problems:
        found.setdefault(problem.policy, (f"{problem.path}: {problem.message}", problem.hint))
    for error in realisation.slot_errors:
        for policy, path in [_split(error.origin)] if error.origin else _origins(error.slot):
            found.setdefault(policy, (f"{path}: {error.message}", error.hint))
    for slot, reason in realisation.refused.items():
        for policy, path in _origins(slot):
            found.setdefault(policy, (f"{path}: Envoy refuses it: {reason}", "its last good content stays in force"))
    return found


def _slots_by_policy(realisation: Realisation | None) -> dict[str, tuple[SlotKey, ...]]:
    found: dict[str, dict[SlotKey, None]] = {}
    for slot in realisation.table.ids if realisation is not None else ():
        for policy, _ in _origins(slot):
            found.setdefault(policy, {})[slot] = None
    return {policy: tuple(slots) for policy, slots in found.items()}


def _origins(slot: SlotKey) -> Iterator[tuple[str, str]]:
    for name in (*(slot.egress or ()), *(slot.ingress or ())):
        yield _split(name)


def _split(origin: str) -> tuple[str, str]:
    policy, _, path = origin.partition(":")
    return policy, path
