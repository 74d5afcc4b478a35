"""Whatever the input: a ParsedFile, never an exception; and a bad document never gives a policy."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from l7filters.documents import parse_documents, parse_object
from tests.support.documents import CNP, KNP, TP, document

VALID = [
    document(
        CNP,
        """
        endpointSelector: {matchLabels: {a: b}}
        enableDefaultDeny: {ingress: true}
        ingress:
        - fromEndpoints: [{matchExpressions: [{key: a, operator: In, values: [x]}]}]
          toPorts:
          - ports: [{port: "80", protocol: TCP, endPort: 90}]
            terminatingTLS: {secret: {name: s}}
            rules:
              http:
              - {method: GET, path: /a, headers: ["A: b"], headerMatches: [{name: a, secret: {name: x}, mismatch: LOG}]}
        - fromEntities: [world]
          icmps: [{fields: [{type: 8, family: IPv4}]}]
        ingressDeny: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}]
        egress:
        - toServices: [{k8sService: {serviceName: db}}]
        - toFQDNs: [{matchPattern: "*.io"}]
          toPorts: [{ports: [{port: "53"}], rules: {dns: [{matchName: a.io}]}}]
        """,
    ),
    document(
        TP,
        """
        endpointSelector: {}
        mode: audit
        offload: {deniesPerSecond: 5, seconds: 5}
        observe: [{direction: egress, ports: [{port: '80', protocol: TCP}], protocol: http, sample: 0.5}]
        ingress:
        - toPorts:
          - ports: [{port: "80", protocol: TCP}]
            rules:
              http: [{path: {prefix: /a}, query: [{name: q, value: {regex: x}}], headerMatches: [{name: a, invert: true}]}]
              grpcDeny: [{service: a.B, method: C}]
          - ports: [{port: "9092", protocol: TCP}]
            rules: {kafka: [{role: produce, topics: [a, {prefix: b}], groupRegex: c}], kafkaDeny: [{apiKey: fetch}]}
        """,
    ),
    document(
        KNP,
        """
        podSelector: {}
        policyTypes: [Ingress, Egress]
        ingress:
        - from: [{podSelector: {}, namespaceSelector: {}}, {ipBlock: {cidr: 10.0.0.0/8}}]
          ports: [{port: 80, endPort: 81}]
        """,
    ),
    "{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {a: YQ==}, stringData: {b: c}}",
    "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {selector: {a: b}}}",
    "{apiVersion: cilium.io/v2, kind: CiliumCIDRGroup, metadata: {name: a}, spec: {externalCIDRs: [10.0.0.0/8]}}",
]
WORDS = [
    "",
    "a",
    "80",
    "TCP",
    "*",
    "a.b",
    "/a",
    "10.0.0.0/8",
    "GET",
    "(",
    "no",
    "In",
    "host",
    "k8s:a",
    "\x00",
    "é",
    "\ud800",
    "x" * 300,
]
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 70000), st.floats(), st.sampled_from(WORDS), st.text(max_size=8))
FIELDS = sorted({key for text in VALID for key in "".join(c if c.isalnum() else " " for c in text).split()})
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(TREES)
def test_any_tree_gives_a_document(tree: object) -> None:
    found = parse_object(tree, "t")
    assert found.value is None
    assert found.errors


@given(st.sampled_from(VALID), TREES)
def test_any_spec_gives_a_policy_or_errors(text: str, spec: object) -> None:
    tree = yaml.safe_load(text)
    tree["spec"] = spec
    found = parse_object(tree, "t")
    assert (found.value is None) == bool(found.errors)


@given(st.text(max_size=200))
def test_any_text_gives_a_file(text: str) -> None:
    parse_documents(text, "t")


@given(
    st.lists(
        st.sampled_from(
            [
                "a",
                "b: ",
                "- ",
                "[",
                "]",
                "{",
                "}",
                ",",
                ": ",
                "&x ",
                "*x",
                "!!str ",
                "<<: ",
                '"',
                "'",
                "|\n",
                "\n",
                "  ",
                "---\n",
                "# ",
            ]
        ),
        max_size=40,
    )
)
def test_any_yaml_like_text_gives_a_file(pieces: list[str]) -> None:
    parse_documents("".join(pieces), "t")


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below: list[tuple[Any, ...]] = []
    steps = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for step, value in steps:
        below += [(*path, step), *places(value, (*path, step))]
    return below


@given(st.data())
def test_mutated_document_gives_errors_or_a_value(data: st.DataObject) -> None:
    tree = copy.deepcopy(yaml.safe_load(data.draw(st.sampled_from(VALID))))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(tree)))
        parent = tree
        for step in path[:-1]:
            parent = parent[step]
        how = data.draw(st.sampled_from(["remove", "replace", "wrap", "rename"]))
        if how == "remove":
            del parent[path[-1]]
        elif how == "replace":
            parent[path[-1]] = data.draw(TREES)
        elif how == "wrap":
            parent[path[-1]] = [parent[path[-1]]]
        elif isinstance(parent, dict):
            parent[data.draw(st.sampled_from(FIELDS))] = parent.pop(path[-1])
    found = parse_object(tree, "t")
    assert (found.value is None) == bool(found.errors)


@given(st.sampled_from(VALID), st.data())
def test_text_cut_anywhere_gives_a_file(text: str, data: st.DataObject) -> None:
    parse_documents(text[: data.draw(st.integers(0, len(text)))], "t")


@given(st.sampled_from(VALID))
def test_json_and_yaml_of_one_tree_give_one_value(text: str) -> None:
    parsed, again = parse_documents(text, "t"), parse_documents(json.dumps(yaml.safe_load(text), indent=1), "t")
    assert parsed.errors == ()
    assert [document.value for document in parsed.documents] == [document.value for document in again.documents]
    assert [document.digest for document in parsed.documents] == [document.digest for document in again.documents]
