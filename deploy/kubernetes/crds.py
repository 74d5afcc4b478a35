"""The CustomResourceDefinitions of ``policy.tidegate.dev``.

Owns: names, columns, the status, and the rules on an object as a whole. The spec is schema.py's.
"""

from __future__ import annotations

from typing import Any

from deploy.kubernetes import schema
from deploy.kubernetes.schema import Schema, array, cel, integer, text
from l7filters.documents.scope import RULES_MAX

GROUP, VERSION = "policy.tidegate.dev", "v1alpha1"
CONDITIONS_MAX, NODES_MAX = 8, 10_000
MESSAGE_CHARS_MAX = 4096

_COLUMNS = (
    ("Accepted", "string", '.status.conditions[?(@.type=="Accepted")].status', "Whether the document is good.", 0),
    ("Realised", "string", '.status.conditions[?(@.type=="Realised")].status', "Whether every node has it in force.", 0),
    ("Nodes", "string", ".status.summary", "Nodes that have it in force, of those with endpoints that it selects.", 0),
    ("Mode", "string", ".spec.mode", "enforce, or audit.", 1),
    ("Age", "date", ".metadata.creationTimestamp", "", 0),
    ("Message", "string", '.status.conditions[?(@.type=="Accepted")].message', "Why it is not accepted.", 1),
)


def _status() -> Schema:
    condition = {
        "type": "object",
        "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        "properties": {
            "type": text(longest=316),
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": text(longest=1024, least=1),
            "message": text(longest=MESSAGE_CHARS_MAX),
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "observedGeneration": {"type": "integer", "format": "int64"},
        },
    }
    node = {
        "type": "object",
        "required": ["name", "state"],
        "properties": {
            "name": text(longest=253, least=1),
            "state": {"type": "string", "enum": ["pending", "realised", "failed"]},
            "generation": {"description": "Of the spec that is in force there.", "type": "integer", "format": "int64"},
            "revision": {"description": "The agent's own, as `tidegate status` shows it.", "type": "integer", "format": "int64"},
            "endpoints": integer(0, 1 << 31, "How many workloads of the node it selects."),
            "message": text(longest=MESSAGE_CHARS_MAX),
        },
    }
    return {
        "type": "object",
        "properties": {
            "conditions": {
                "type": "array",
                "maxItems": CONDITIONS_MAX,
                "items": condition,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            },
            "nodes": {
                "description": "One entry of each node that has workloads which the policy selects, or that can't realise it.",
                "type": "array",
                "maxItems": NODES_MAX,
                "items": node,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
            "summary": text("Realised nodes of all reporting ones.", longest=64),
        },
    }


def definition(kind: str, plural: str, singular: str, short: str, *, clusterwide: bool) -> dict[str, Any]:
    """One CustomResourceDefinition."""
    whole = {
        "type": "object",
        "description": "L7 network policy: who may talk to the selected workloads, and what may be said. See docs/policy.md.",
        "properties": {
            "spec": schema.spec(clusterwide=clusterwide),
            # Several in one object, as Cilium has them; their schema would double this one, so the agent alone judges them.
            "specs": array({"type": "object", "x-kubernetes-preserve-unknown-fields": True}, RULES_MAX, "Several specs."),
            "status": _status(),
        },
        "x-kubernetes-validations": [cel("has(self.spec) || has(self.specs)", "needs spec or specs")],
    }
    columns = [
        {"name": name, "type": kind_, "jsonPath": path, "priority": priority} | ({"description": words} if words else {})
        for name, kind_, path, words, priority in _COLUMNS
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "tidegate"}},
        "spec": {
            "group": GROUP,
            "scope": "Cluster" if clusterwide else "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": singular,
                "shortNames": [short],
                "categories": ["tidegate"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": whole},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }


def definitions() -> dict[str, dict[str, Any]]:
    """All of them, by file name."""
    return {
        "tidegatepolicies": definition("TidegatePolicy", "tidegatepolicies", "tidegatepolicy", "tp", clusterwide=False),
        "clustertidegatepolicies": definition(
            "ClusterTidegatePolicy", "clustertidegatepolicies", "clustertidegatepolicy", "ctp", clusterwide=True
        ),
    }
