"""Errors are collected, placed and hinted; a bad document takes nothing from the others."""

from __future__ import annotations

import pytest

from l7filters.documents import DocumentError, parse_documents, parse_object
from l7filters.documents.reader import ERRORS_MAX

GOOD = "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: %s}, spec: {endpointSelector: {}, ingress: [{}]}}"

BAD = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: bad
spec:
  endpointSelector: {}
  ingress:
  - toPorts:
    - ports:
      - port: 80
        protocol: TCPP
      rules:
        http:
        - path: /a
        - pathh: /b
"""


def test_all_errors_of_a_document_are_found_with_path_line_and_hint() -> None:
    parsed = parse_documents(f"{GOOD % 'one'}\n---\n{BAD}", "dir/a.yaml")
    ports = "spec.ingress[0].toPorts[0].ports[0]"
    assert parsed.errors == (
        DocumentError(f"{ports}.protocol", 'unknown value "TCPP"', 'did you mean "TCP"?', "dir/a.yaml", 1, 13),
        DocumentError(f"{ports}.port", "must be a string, not a number (80)", "put the value in quotes", "dir/a.yaml", 1, 12),
        DocumentError(
            "spec.ingress[0].toPorts[0].rules.http[1].pathh", "unknown field", 'did you mean "path"?', "dir/a.yaml", 1, 17
        ),
    )
    assert str(parsed.errors[0]) == f'dir/a.yaml[1] line 13: {ports}.protocol: unknown value "TCPP" (did you mean "TCP"?)'


def test_good_documents_around_a_bad_one_are_read() -> None:
    parsed = parse_documents("\n---\n".join([GOOD % "one", BAD, GOOD % "two", "a: {b", GOOD % "three"]), "a.yaml")
    assert [policy.key for policy in parsed.policies] == ["cnp/default/one", "cnp/default/two"]
    assert [document.key for document in parsed.documents] == ["cnp/default/one", "cnp/default/bad", "cnp/default/two", None]
    assert not parsed.complete


def test_text_that_breaks_off_after_a_bad_document_keeps_the_errors_of_both() -> None:
    found = [(one.index, [error.message for error in one.errors]) for one in parse_documents("{}0", "t").documents]
    assert found == [(0, ["is required", "is required"]), (0, ["YAML: did not find expected <document start>"])]


def test_bad_document_is_still_known_by_its_key() -> None:
    (document,) = parse_documents(BAD, "a.yaml").documents
    assert (document.key, document.value) == ("cnp/default/bad", None)


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("ingres", 'did you mean "ingress"?'),
        ("IngressDeny", 'did you mean "ingressDeny"?'),
        ("endpointselector", 'did you mean "endpointSelector"?'),
        (
            "qqqq",
            "known here: description, egress, egressDeny, enableDefaultDeny, endpointSelector, "
            "ingress, ingressDeny, labels, log, nodeSelector",
        ),
    ],
)
def test_unknown_field_gets_the_nearest_name_as_hint(field: str, hint: str) -> None:
    text = (GOOD % "a").replace("spec: {", f"spec: {{{field}: [{{}}], ")
    assert [(error.path, error.hint) for error in parse_documents(text, "t").errors] == [(f"spec.{field}", hint)]


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("apiVersion: cilium.io/v2, kind: CiliumNetworkPolice", 'did you mean "CiliumNetworkPolicy"?'),
        ("apiVersion: cilium.io/v2, kind: NetworkPolicy", 'did you mean "CiliumNetworkPolicy"?'),
        ("apiVersion: v1, kind: NetworkPolicy", "known here: Namespace, Secret, Service"),
        ("apiVersion: extensions/v1beta1, kind: NetworkPolicy", "NetworkPolicy is read from networking.k8s.io/v1"),
        ("apiVersion: policy.tidegate.dev/v1, kind: Foo", 'did you mean "policy.tidegate.dev/v1alpha1"?'),
    ],
)
def test_unknown_kind_gets_a_hint(kind: str, hint: str) -> None:
    (error,) = parse_documents(f"{{{kind}}}", "t").errors
    assert error.hint == hint


def test_null_gets_a_hint() -> None:
    (error,) = parse_documents((GOOD % "a").replace("ingress: [{}]", "ingress: [{}], egress: null"), "t").errors
    assert (error.path, error.hint) == ("spec.egress", "remove the field, or give it a value")


def test_number_of_errors_is_bounded() -> None:
    rules = ", ".join(["{x: 1}"] * (ERRORS_MAX * 2))
    assert len(parse_documents((GOOD % "a").replace("[{}]", f"[{rules}]"), "t").errors) == ERRORS_MAX


def test_long_and_odd_values_are_shown_short_and_escaped() -> None:
    text = (GOOD % "a").replace("[{}]", "[{fromEntities: ['" + "x" * 500 + '\', "a\\u202eb"]}]')
    shown = [error.message for error in parse_documents(text, "t").errors]
    assert shown == [f'unknown value "{"x" * 60}..."', "must not hold control or unassigned characters"]


def test_digest_ignores_layout_and_comments() -> None:
    one, two, three = (
        parse_documents(text, "t").documents[0].digest
        for text in (GOOD % "a", "# c\n" + (GOOD % "a").replace(", spec", ",\n  spec"), GOOD % "b")
    )
    assert one == two != three


def test_object_of_an_api_server_is_read_without_text() -> None:
    tree = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "a", "namespace": "b", "managedFields": [{}], "uid": "x"},
        "spec": {"endpointSelector": {}, "ingress": [{}]},
    }
    document = parse_object(tree, "kubernetes")
    assert (document.key, document.errors) == ("cnp/b/a", ())
    assert isinstance(document.value, tuple)
