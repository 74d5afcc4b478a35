"""The chart and the plain manifests are one thing in two forms; the schema is what the parsers read."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import pytest
import yaml

from deploy.kubernetes import manifests
from deploy.kubernetes.__main__ import CHART, PLAIN, generated
from deploy.kubernetes.crds import definitions
from deploy.kubernetes.text import NAMESPACE, values_yaml
from deploy.kubernetes.values import tree
from l7filters.documents import parse_object
from l7filters.documents.reader import Fields
from tidegate.sources.kubernetes.kinds import KINDS

Tree = dict[str, Any]


def render(template: str, values: Tree) -> list[Tree]:
    """Evaluate what the templates use of Helm, and nothing more: an action that is left over is an error."""

    def at(path: str) -> Any:
        found: Any = values
        for step in path.split("."):
            found = found[step]
        return found

    def condition(match: re.Match[str]) -> str:
        return match[2] if at(match[1]) else ""

    text = re.sub(r"\{\{- if \.Values\.([\w.]+) \}\}\n(.*?)\{\{- end \}\}\n", condition, template, flags=re.DOTALL)

    def block(match: re.Match[str]) -> str:
        body = textwrap.indent(yaml.safe_dump(at(match[1]), sort_keys=False), " " * int(match[2]))
        return body.strip() if match[3] else "\n" + body.rstrip("\n")

    text = re.sub(
        r" ?\{\{-? toYaml \.Values\.([\w.]+) \| nindent (\d+)( \| trim)? \}\}", lambda m: (" " if m[3] else "") + block(m), text
    )
    text = re.sub(r"\{\{ \.Values\.([\w.]+) \| quote \}\}", lambda m: f'"{at(m[1])}"', text)
    text = re.sub(r"\{\{ \.Values\.([\w.]+) \}\}", lambda m: str(at(m[1])), text)
    text = text.replace("{{ .Release.Namespace }}", NAMESPACE)
    assert "{{" not in text, text[text.index("{{") :][:200]
    return [document for document in yaml.safe_load_all(text) if document]


def templates() -> str:
    return "---\n".join(path.read_text() for path in sorted((CHART / "templates").glob("*.yaml")))


def by_name(documents: list[Tree]) -> dict[tuple[str, str], Tree]:
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def plain() -> list[Tree]:
    return list(yaml.safe_load_all((PLAIN / "tidegate.yaml").read_text()))


def test_generated_files_are_as_their_source_makes_them() -> None:
    stale = [str(path) for path, content in generated().items() if not path.exists() or path.read_text() != content]
    assert stale == [], "run `make manifests`"


def test_values_yaml_says_the_defaults() -> None:
    assert yaml.safe_load(values_yaml()) == tree()


def test_the_chart_with_its_defaults_is_the_plain_manifests() -> None:
    rendered = by_name(render(templates(), tree()))
    wanted = by_name(plain())
    del wanted["Namespace", NAMESPACE]  # Helm makes it, or not, by --create-namespace
    assert rendered.keys() == wanted.keys()
    for key, document in wanted.items():
        assert rendered[key] == document, key


def test_values_reach_the_objects() -> None:
    values = tree()
    values["cni"]["enabled"] = False
    values["nodeConfig"] = {"kubernetes": {"existingPods": "leave"}}
    values["agent"]["resources"] = {"limits": {"memory": "1Gi"}}
    rendered = by_name(render(templates(), values))
    assert ("DaemonSet", "tidegate-cni") not in rendered
    assert yaml.safe_load(rendered["ConfigMap", "tidegate-node"]["data"]["node.yaml"]) == values["nodeConfig"]
    (container,) = rendered["DaemonSet", "tidegate-agent"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"limits": {"memory": "1Gi"}}


def containers(documents: list[Tree]) -> list[tuple[str, Tree]]:
    pods = [(one["metadata"]["name"], one["spec"]["template"]["spec"]) for one in documents if one["kind"] == "DaemonSet"]
    return [(name, container) for name, pod in pods for container in (*pod["containers"], *pod.get("initContainers", ()))]


def test_every_container_has_no_more_rights_than_it_names() -> None:
    for name, container in containers(plain()):
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"], name
        if container["name"] == "bpffs":
            continue  # mounts bpffs where it is missing, and ends
        assert not security.get("privileged"), name
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["capabilities"]["drop"] == ["ALL"], name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name


def test_only_the_agent_has_an_account_at_the_api_server() -> None:
    for document in plain():
        if document["kind"] == "DaemonSet":
            pod = document["spec"]["template"]["spec"]
            has_account = pod.get("serviceAccountName") == "tidegate-agent"
            assert has_account == (document["metadata"]["name"] == "tidegate-agent")
            assert has_account or pod["automountServiceAccountToken"] is False


def test_the_agents_role_reads_and_writes_nothing_but_status_and_events() -> None:
    rules = manifests.cluster_role()["rules"]
    writing = [rule for rule in rules if set(rule["verbs"]) - {"get", "list", "watch"}]
    assert [(rule["resources"], rule["verbs"]) for rule in writing] == [
        (["tidegatepolicies/status", "clustertidegatepolicies/status"], ["patch"]),
        (["events"], ["create"]),
    ]
    assert not any("secrets" in rule["resources"] for rule in rules)


def test_every_followed_kind_may_be_read() -> None:

    allowed = {
        resource for rule in manifests.cluster_role()["rules"] if "watch" in rule["verbs"] for resource in rule["resources"]
    }
    assert {kind.plural for kind in KINDS} == allowed


# ---- the schema and the parsers -------------------------------------------------------------------------------------------

_EXCLUSIVE: tuple[set[str], ...] = (
    set(),
    {"nodeSelector"},
    {"endpointSelector"},
    {"cidr", "cidrGroupRef", "k8sService"},
    {"cidr", "cidrGroupSelector", "k8sServiceSelector"},
)
"""Fields to leave out so that the parser reads those which they exclude."""


def without(value: Any, names: set[str]) -> Any:
    """A tree without the fields of these names, wherever they stand."""
    match value:
        case dict():
            return {key: without(item, names) for key, item in value.items() if key not in names}
        case list():
            return [without(item, names) for item in value]
        case _:
            return value


def example(schema: Tree, path: str, text: str = "a") -> Any:
    """An object with every field that a schema has, valid or not: what the parser asks for is what counts."""
    match schema.get("type"):
        case "object" if "properties" in schema:
            return {name: example(item, f"{path}.{name}") for name, item in schema["properties"].items()}
        case "object":
            return {text: text}
        case "array":
            return [example(schema["items"], path)]
        case "integer":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "string":
            return schema.get("enum", [text])[-1]
        case _:
            return text


def fields_of(schema: Tree, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], frozenset[str]]:
    """Path (list indexes left out) -> names of the fields of the object there."""
    found: dict[tuple[str, ...], frozenset[str]] = {}
    while schema.get("type") == "array":
        schema = schema["items"]
    if schema.get("type") == "object" and "properties" in schema:
        found[path] = frozenset(schema["properties"])
        for name, item in schema["properties"].items():
            found |= fields_of(item, (*path, name))
    return found


@pytest.mark.parametrize("name", ["tidegatepolicies", "clustertidegatepolicies"])
def test_the_schema_has_just_the_fields_that_the_parser_asks_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    definition = definitions()[name]
    whole = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    asked: dict[tuple[str, ...], set[str]] = {}
    close = Fields.close

    def note(self: Fields) -> None:
        path = tuple(step for step in self.node.path if isinstance(step, str))
        asked.setdefault(path, set()).update(self.asked)
        close(self)

    monkeypatch.setattr(Fields, "close", note)
    kind = definition["spec"]["names"]["kind"]
    namespace = {"namespace": "default"} if definition["spec"]["scope"] == "Namespaced" else {}
    for names in _EXCLUSIVE:
        document = {
            "apiVersion": "policy.tidegate.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": "a", **namespace},
            "spec": without(example(whole, "spec"), names),
        }
        parse_object(document, "test")
    for path, wanted in fields_of(whole, ("spec",)).items():
        assert path in asked, f"the parser never reads {'.'.join(path)}"
        assert wanted == asked[path], ".".join(path)
