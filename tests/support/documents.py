"""Builders for policy documents as text, and the two ways tests look at what became of them."""

from __future__ import annotations

import textwrap

from l7filters.documents import ParsedFile, parse_documents
from l7filters.model import L7Rules, Policy, PortRule, Rule

CNP = ("cilium.io/v2", "CiliumNetworkPolicy")
CCNP = ("cilium.io/v2", "CiliumClusterwideNetworkPolicy")
TP = ("policy.tidegate.dev/v1alpha1", "TidegatePolicy")
CTP = ("policy.tidegate.dev/v1alpha1", "ClusterTidegatePolicy")
KNP = ("networking.k8s.io/v1", "NetworkPolicy")


def document(kind: tuple[str, str], spec: str, name: str = "p") -> str:
    """A policy document; ``spec`` is YAML in block style, indented as you like."""
    head = f"apiVersion: {kind[0]}\nkind: {kind[1]}\nmetadata:\n  name: {name}\nspec:\n"
    return head + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"


def only(text: str) -> Policy:
    """The one policy of a good text."""
    parsed = parse_documents(text, "test")
    assert [str(error) for error in parsed.errors] == []
    (policy,) = parsed.policies
    return policy


def rule_of(kind: tuple[str, str], rule: str, field: str = "ingress") -> Rule:
    """The rule that one item of ``field`` becomes; ``rule`` is YAML in flow style."""
    (rule_value,) = only(document(kind, f"endpointSelector: {{}}\n{field}: [{rule}]")).rules
    return rule_value


def port_rule(kind: tuple[str, str], item: str, field: str = "ingress") -> PortRule:
    """The PortRule that one ``toPorts`` item becomes."""
    (found,) = rule_of(kind, f"{{toPorts: [{item}]}}", field).to_ports
    return found


def l7(kind: tuple[str, str], rules: str, field: str = "ingress", port: str = '{port: "80", protocol: TCP}') -> L7Rules:
    """What the ``rules`` of a port become."""
    found = port_rule(kind, f"{{ports: [{port}], rules: {rules}}}", field).l7
    assert found is not None
    return found


def errors(text: str) -> list[str]:
    """``path: message`` of every error; a text with errors must give no policy of the bad document."""
    parsed = parse_documents(text, "test")
    return [f"{error.path}: {error.message}" for error in parsed.errors]


def refused(text: str, path: str, message: str) -> None:
    """Assert that the only document is refused, with an error at exactly ``path`` whose text begins with ``message``."""
    parsed: ParsedFile = parse_documents(text, "test")
    assert parsed.policies == (), parsed.policies
    found = [(error.path, error.message) for error in parsed.errors]
    assert any(at == path and said.startswith(message) for at, said in found), found
