"""From a policy file to every value on the way to Envoy and the kernel, as text that a person can review.

A case is a directory with ``policy.yaml`` and, where the common cast of tests/golden/endpoints.yaml won't do, an
``endpoints.yaml`` of its own. ``outputs`` gives the files that should stand beside them. Nothing in them depends on the
machine, on the order of a hash, or on time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.json_format import MessageToJson

from l7filters.compile import compile
from l7filters.documents import ParsedFile, SecretStore, parse_documents
from l7filters.envoy import EnvoyResource, EnvoySettings, Translation, TypeUrl, translate
from l7filters.identity import Identity, IdentityNumber, IdentityTable, LabelSet, Reserved
from l7filters.ir import CompiledPolicy, EntryKey, Slot
from l7filters.mapstate import MapState, SlotValue, derive
from l7filters.model import L7Protocol
from l7filters.predicates import selector_words
from l7filters.slots import SlotTable, assign
from l7filters.world import Node, World
from tests.support.second_reader import decode
from tidegate.sources import EndpointsState, with_backends
from tidegate.sources.endpoints import apply_endpoints, parse_endpoints, with_namespaces
from tidegate.worlds import StoredSecrets

DIRECTORY = Path(__file__).parent.parent / "golden"
INPUTS = frozenset({"policy.yaml", "endpoints.yaml"})
SETTINGS = EnvoySettings()
PORT_BASE = SETTINGS.proxy_port_min
OF_NO_CASE = frozenset({"original-dst", "tidegate"})
"""Resources that are the same everywhere; the case ``shared`` has them."""

_FILES = {
    TypeUrl.LISTENER: "listeners.yaml",
    TypeUrl.ROUTE: "routes.yaml",
    TypeUrl.CLUSTER: "clusters.yaml",
    TypeUrl.EXTENSION: "extensions.yaml",
    TypeUrl.SECRET: "secrets.yaml",
}


def cases() -> list[str]:
    """The names of all cases."""
    return sorted(path.parent.name for path in DIRECTORY.glob("*/policy.yaml"))


@dataclasses.dataclass(frozen=True)
class Case:
    """One case, taken all the way."""

    compiled: CompiledPolicy
    table: SlotTable
    secrets: StoredSecrets
    translation: Translation
    maps: MapState

    @property
    def slots(self) -> dict[int, Slot]:
        """The slots by id."""
        return {self.table.ids[slot.key]: slot for slot in self.compiled.slots}


def run(name: str) -> Case:
    """Parse, compile, number, translate and derive a case."""
    directory = DIRECTORY / name
    parsed = parse_documents((directory / "policy.yaml").read_text(), "policy.yaml")
    assert not parsed.errors, [str(error) for error in parsed.errors]
    own = directory / "endpoints.yaml"
    endpoints = apply_endpoints(
        EndpointsState(), parse_endpoints((own if own.exists() else DIRECTORY / "endpoints.yaml").read_text(), "endpoints.yaml")
    )
    assert not endpoints.errors, [str(error) for error in endpoints.errors]
    compiled = compile(_world(parsed, endpoints), IdentityTable())
    assignment = assign(SlotTable(), None, compiled)
    secrets = StoredSecrets(SecretStore(parsed.secrets))
    locals_ = sorted(local.key for local in compiled.endpoints)
    return Case(
        compiled=compiled,
        table=assignment.table,
        secrets=secrets,
        translation=translate(
            (slot for slot in compiled.slots if slot.key.protocol is not L7Protocol.DNS), assignment.table.ids, SETTINGS, secrets
        ),
        maps=derive(
            compiled,
            assignment.table,
            {key: 10 + index for index, key in enumerate(locals_)},
            {key: 1000 + index for index, key in enumerate(locals_)},
            frozenset(assignment.table.ids.values()),
            PORT_BASE,
        ),
    )


def _world(parsed: ParsedFile, endpoints: EndpointsState) -> World:
    return World(
        revision=1,
        node=Node(name="node-a", addresses=(IPv4Address("172.31.0.1"), IPv6Address("fd00:31::1"))),
        endpoints=with_namespaces(endpoints.endpoints, parsed.namespaces),
        policies=parsed.policies,
        services=with_backends(parsed.services, endpoints.entries),
        cidr_groups=parsed.cidr_groups,
    )


def outputs(name: str) -> dict[str, str]:
    """Return the text of every output file of a case; what would be empty isn't there."""
    case = run(name)
    shown = [each for each in case.translation.resources if name == "shared" or each.name not in OF_NO_CASE]
    files = {file: _resources_text(each for each in shown if each.type_url is kind) for kind, file in _FILES.items()}
    files["ir.json"] = json.dumps(_ir(case.compiled), indent=1, sort_keys=True) + "\n"
    files["maps.txt"] = _maps_text(case)
    files["errors.txt"] = "".join(
        f"{error.origin or 'slot'}: {error.message} ({error.hint}){' CLOSED' if error.closed else ''}\n"
        for error in case.translation.errors
    )
    return {file: text for file, text in files.items() if text}


# ---- resources ----------------------------------------------------------------------------------------------------


def _resources_text(resources: Iterable[EnvoyResource]) -> str:
    documents = []
    for each in resources:
        # By way of JSON, because an Any comes as an OrderedDict, which YAML would mark as Python's.
        document = json.loads(MessageToJson(decode(each), preserving_proto_field_name=True))
        documents.append(_hidden(document) if each.type_url is TypeUrl.SECRET else document)
    return yaml.safe_dump_all(documents, sort_keys=True, width=200, explicit_start=True) if documents else ""


def _hidden(value: Any) -> Any:
    """Return a secret without its bytes."""
    match value:
        case dict():
            return {key: "[redacted]" if key == "inline_bytes" else _hidden(item) for key, item in value.items()}
        case list():
            return [_hidden(item) for item in value]
        case _:
            return value


# ---- the intermediate representation ------------------------------------------------------------------------------


def _ir(compiled: CompiledPolicy) -> Any:
    names = _identity_names(compiled)
    return {
        "endpoints": _plain(compiled.endpoints),
        "entries": [{"where": _where(entry.key, names), "verdict": _plain(entry.verdict)} for entry in compiled.entries],
        "identities": {str(number): name for number, name in sorted(names.items())},
        "ipcache": [f"{entry.prefix} {names[entry.identity]}" for entry in compiled.ipcache],
        "pairs": _plain(compiled.pairs),
        "problems": _plain(compiled.problems),
        "slots": _plain(compiled.slots),
    }


def _plain(value: Any) -> Any:
    """Return JSON's view of a value: dataclasses by field with their kind, defaults left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value).__name__ == "RuleOrigin":
            return str(value)
        fields = {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != field.default
        }
        return {"kind": type(value).__name__, **fields}
    match value:
        case Enum():
            return value.name.lower()
        case IPv4Address() | IPv6Address() | IPv4Network() | IPv6Network():
            return str(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case frozenset():
            return sorted(_plain(item) for item in value)
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value


def _identity_names(compiled: CompiledPolicy) -> dict[IdentityNumber, str]:
    names = {IdentityNumber(each.value): each.name.lower().replace("_", "-") for each in Reserved}
    for number, label_set in compiled.label_set_by_number().items():
        names[number] = _label_set_name(Identity(number, label_set).label_set)
    return names


def _label_set_name(label_set: LabelSet) -> str:
    if label_set.fqdn is not None:
        return f"name {selector_words(label_set.fqdn)}"
    if label_set.cidrs:
        return "+".join(sorted(str(cidr) for cidr in label_set.cidrs))
    return ",".join(f"{key}={value}" for key, value in label_set.labels if not key.startswith("io."))


def _where(key: EntryKey, names: Mapping[IdentityNumber, str]) -> str:
    subject, peer = names[key.subject], names[key.peer]
    way = f"{subject} -> {peer}" if key.direction.value == "egress" else f"{peer} -> {subject}"
    protocol = "any" if key.protocol is None else str(key.protocol)
    return f"{key.direction} {way} {protocol}/{key.port}:{key.port_bits}"


# ---- maps ---------------------------------------------------------------------------------------------------------


def _maps_text(case: Case) -> str:
    names = _identity_names(case.compiled)
    lines = [
        f"ipcache {prefix} -> {names[value.identity]} ifindex {value.ifindex}{' outside' if value.outside else ''}"
        for prefix, value in case.maps.ipcache.items()
    ]
    for key, value in case.maps.policy.items():
        audited = " would-deny" if value.would_deny else " explicit" if value.explicit else ""
        slot = f" slot {value.slot}" if value.slot else ""
        lines.append(f"policy {_where(key, names)} = {value.verdict.name.lower()}{slot}{audited}")
    lines += [f"slot {number} {_slot_value(value)}" for number, value in case.maps.slots.items()]
    lines += [f"pair {egress},{ingress} -> slot {pair}" for (egress, ingress), pair in case.maps.pairs.items()]
    for index, endpoint in case.maps.endpoints.items():
        addresses = ",".join(str(address) for address in endpoint.addresses)
        lines.append(f"endpoint ifindex {index} = {names[endpoint.identity]} {addresses}")
    lines += [f"cgroup {number} = {names[identity]}" for number, identity in case.maps.cgroups.items()]
    return "".join(line + "\n" for line in sorted(lines))


def _slot_value(value: SlotValue) -> str:
    words = [f"port {value.port}"]
    if value.audited:
        words.append("audited")
    if value.offload is not None:
        words.append(f"offload {value.offload.denies_per_second}/s for {value.offload.seconds} s")
    return " ".join(words)
