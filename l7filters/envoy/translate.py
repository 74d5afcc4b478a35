"""Slots to Envoy resources.

Owns: which resources a slot gives, what they refer to, and the errors beside them. One bad slot never harms another: it has
errors and no resources, so what would go there stays closed. Must not know how resources are served.

``translate_slot`` is for the agent, which translates only what changed; ``translate`` is all of it. Equal input gives equal
bytes. If the listener body of a slot id changes, give the slot a new id: listeners are never updated (listener.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from l7filters.envoy import names
from l7filters.envoy.access_log import runtime
from l7filters.envoy.cluster import original_dst_cluster, shared_cluster
from l7filters.envoy.faults import Faults
from l7filters.envoy.kafka import kafka_config
from l7filters.envoy.listener import listener
from l7filters.envoy.network import server_name_rules
from l7filters.envoy.resource import EnvoyResource, ResourceName, RuleProblem, SlotError, Translation, TypeUrl
from l7filters.envoy.route import directions, route_configuration
from l7filters.envoy.secrets import Secrets
from l7filters.envoy.settings import EnvoySettings
from l7filters.envoy.tls import TlsMaterial, originating, terminating
from l7filters.ir import Slot, SlotKey
from l7filters.model import L7Protocol
from l7filters.slots import SLOT_MAX

NO_SECRETS: Secrets = {}
_SHARED_CLUSTER = ResourceName(TypeUrl.CLUSTER, names.ORIGINAL_DST_CLUSTER)


def shared_resources(settings: EnvoySettings, allowed_sample: float | None = None) -> tuple[EnvoyResource, ...]:
    """Return the resources that belong to no slot. ``allowed_sample``: other than the setting, as while someone follows."""
    share = settings.allowed_sample if allowed_sample is None else allowed_sample
    return (
        EnvoyResource.of(TypeUrl.CLUSTER, names.ORIGINAL_DST_CLUSTER, shared_cluster(settings)),
        EnvoyResource.of(TypeUrl.RUNTIME, names.RUNTIME_LAYER, runtime(share)),
    )


def translate_slot(
    slot: Slot, slot_id: int, settings: EnvoySettings, secrets: Secrets = NO_SECRETS, allowed_sample: float | None = None
) -> Translation:
    """Return the resources of one slot. They refer to each other and to ``shared_resources``.

    ``allowed_sample``: other than the setting, as while someone follows; only Kafka slots carry it themselves.
    """
    if not 1 <= slot_id <= SLOT_MAX:
        return _refused(slot, f"slot id {slot_id} is out of range", f"at most {SLOT_MAX} slots fit")
    faults = Faults()
    try:
        match slot.key.protocol:
            case L7Protocol.HTTP:
                resources = _http_slot(slot, slot_id, settings, secrets, faults)
            case L7Protocol.TLS:
                resources = _tls_slot(slot, slot_id, settings)
            case L7Protocol.KAFKA:
                resources = _kafka_slot(slot, slot_id, settings, secrets, allowed_sample)
            case L7Protocol.DNS:
                return _refused(slot, f"Envoy judges no {slot.key.protocol} here", "this protocol needs a proxy of its own")
    except RuleProblem as problem:
        return _refused(slot, str(problem), problem.hint, faults)
    return Translation(resources=tuple(sorted(resources, key=_order)), errors=_rule_errors(slot, faults))


def translate(
    slots: Iterable[Slot], slot_ids: Mapping[SlotKey, int], settings: EnvoySettings, secrets: Secrets = NO_SECRETS
) -> Translation:
    """Return the resources of all ``slots`` and the shared ones. A secret that several slots use is there once."""
    found: dict[ResourceName, EnvoyResource] = {resource.key: resource for resource in shared_resources(settings)}
    errors: list[SlotError] = []
    for slot in slots:
        slot_id = slot_ids.get(slot.key)
        if slot_id is None:
            part = _refused(slot, "there is no slot id left", f"at most {SLOT_MAX} slots fit")
        else:
            part = translate_slot(slot, slot_id, settings, secrets)
        found.update((resource.key, resource) for resource in part.resources)
        errors.extend(part.errors)
    return Translation(resources=tuple(sorted(found.values(), key=_order)), errors=tuple(errors))


def _http_slot(slot: Slot, slot_id: int, settings: EnvoySettings, secrets: Secrets, faults: Faults) -> list[EnvoyResource]:
    name = names.slot_name(slot_id)
    resources: list[EnvoyResource] = []
    cluster = _SHARED_CLUSTER
    if slot.originating_tls is not None:
        upstream = originating(slot.originating_tls, secrets)
        cluster = ResourceName(TypeUrl.CLUSTER, names.originating_cluster(slot_id))
        made = original_dst_cluster(cluster.name, settings, upstream)
        resources += [EnvoyResource.of(TypeUrl.CLUSTER, cluster.name, made, *_keys(upstream)), *upstream.secrets]
    downstream = None if slot.terminating_tls is None else terminating(slot.terminating_tls, secrets)
    routes = route_configuration(slot, name, cluster.name, settings, secrets, faults)
    resources.append(EnvoyResource.of(TypeUrl.ROUTE, name, routes, cluster))
    references = [ResourceName(TypeUrl.ROUTE, name)]
    if downstream is not None:
        resources += downstream.secrets
        references += _keys(downstream)
    resources.append(EnvoyResource.of(TypeUrl.LISTENER, name, listener(slot, slot_id, settings, downstream), *references))
    return resources


def _kafka_slot(
    slot: Slot, slot_id: int, settings: EnvoySettings, secrets: Secrets, allowed_sample: float | None
) -> list[EnvoyResource]:
    name = names.slot_name(slot_id)
    config = kafka_config(slot, slot_id, settings, settings.allowed_sample if allowed_sample is None else allowed_sample)
    resources = [EnvoyResource.of(TypeUrl.EXTENSION, config.name, config)]
    cluster = _SHARED_CLUSTER
    if slot.originating_tls is not None:
        upstream = originating(slot.originating_tls, secrets)
        cluster = ResourceName(TypeUrl.CLUSTER, names.originating_cluster(slot_id))
        made = original_dst_cluster(cluster.name, settings, upstream, http=False)
        resources += [EnvoyResource.of(TypeUrl.CLUSTER, cluster.name, made, *_keys(upstream)), *upstream.secrets]
    downstream = None if slot.terminating_tls is None else terminating(slot.terminating_tls, secrets)
    references = [cluster, resources[0].key]
    if downstream is not None:
        resources += downstream.secrets
        references += _keys(downstream)
    resources.append(EnvoyResource.of(TypeUrl.LISTENER, name, listener(slot, slot_id, settings, downstream), *references))
    return resources


def _tls_slot(slot: Slot, slot_id: int, settings: EnvoySettings) -> list[EnvoyResource]:
    name = names.slot_name(slot_id)
    resources: list[EnvoyResource] = []
    for direction, rules in directions(slot):
        for config in server_name_rules(slot_id, direction, rules):
            resources.append(EnvoyResource.of(TypeUrl.EXTENSION, config.name, config))
    references = [_SHARED_CLUSTER, *(resource.key for resource in resources)]
    resources.append(EnvoyResource.of(TypeUrl.LISTENER, name, listener(slot, slot_id, settings, None), *references))
    return resources


def _keys(material: TlsMaterial) -> list[ResourceName]:
    return [resource.key for resource in material.secrets]


def _order(resource: EnvoyResource) -> tuple[str, str]:
    return (resource.type_url.name, resource.name)


def _refused(slot: Slot, message: str, hint: str, faults: Faults | None = None) -> Translation:
    whole = SlotError(slot=slot.key, message=message, hint=hint)
    return Translation(resources=(), errors=(whole, *(_rule_errors(slot, faults) if faults else ())))


def _rule_errors(slot: Slot, faults: Faults) -> tuple[SlotError, ...]:
    return tuple(
        SlotError(slot=slot.key, message=fault.message, hint=fault.hint, origin=fault.origin, closed=False)
        for _, fault in sorted(faults.found.items())
    )
