"""Which YAML is accepted, and what its scalars mean."""

from __future__ import annotations

import json

import pytest

from l7filters.documents import yamltree
from l7filters.documents.yamltree import lines_of, read_documents


def trees(text: str) -> list[object]:
    return [document.tree for document in read_documents(text)]


def problem(text: str) -> str:
    found = [document.problem for document in read_documents(text) if document.problem is not None]
    assert len(found) == 1
    return f"{found[0].line}: {found[0].message}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("80", 80),
        ("-1", -1),
        ("0", 0),
        ("0x10", "0x10"),
        ("010", "010"),
        ("0o17", "0o17"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("1_000", "1_000"),
        (".inf", ".inf"),
        ("no", False),
        ("On", True),
        ("y", "y"),
        ("true", True),
        ("~", None),
        ("", None),
        ('""', ""),
        ('"80"', "80"),
        ("'no'", "no"),
        ("!!str 80", "80"),
        ("! 80", "80"),
        ('!!int "80"', 80),
        ("=", "="),
        ("fd00::1", "fd00::1"),
    ],
)
def test_scalar_has_this_value(text: str, value: object) -> None:
    (tree,) = trees(f"[{text}]") if text else trees("[~]")
    assert tree == [value]
    assert type(tree[0]) is type(value)  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", '3: YAML: key "a" is given twice in one mapping'),
        ("a: {x: 1, x: 1}\n", '1: YAML: key "x" is given twice'),
        ("1: a\n", "1: YAML: a key must be a string"),
        ("no: a\n", "1: YAML: a key must be a string"),
        ("? [a]\n: b\n", "1: YAML: a key must be a string"),
        ("a: *x\n", '1: YAML: alias "x" names no anchor'),
        ("a: &x [*x]\n", '1: YAML: alias "x" stands inside its own anchor'),
        ("a: !!python/object:os.system x\n", '1: YAML: tag "tag:yaml.org,2002:python/object:os.system" is not allowed'),
        ("a: !!binary aGk=\n", '1: YAML: tag "tag:yaml.org,2002:binary" is not allowed'),
        ("a: !local {}\n", '1: YAML: tag "!local" is not allowed'),
        ('a: !!int "x"\n', '1: YAML: "x" is not what its tag says'),
        ("<<: 3\n", '1: YAML: "<<" must merge a mapping'),
        ("a: [\n", "2: YAML: while parsing a flow node"),
        ("\ta: 1\n", "1: YAML: while scanning"),
        ("a: \x00\n", "None: YAML: unacceptable character"),
        ("a: \ud800\n", "1: holds half of a surrogate pair"),
    ],
)
def test_text_is_refused_with_its_line(text: str, message: str) -> None:
    assert problem(text).startswith(message)


def test_documents_around_a_refused_one_are_read() -> None:
    found = list(read_documents("a: 1\n---\nb: 1\nb: 2\nc: [x, {y: z}]\n---\nd: 1\n"))
    assert [(item.index, item.tree) for item in found] == [(0, {"a": 1}), (1, None), (2, {"d": 1})]
    assert found[1].problem is not None
    assert not found[1].problem.ends_file


def test_documents_before_a_syntax_error_are_read() -> None:
    found = list(read_documents("a: 1\n---\nb: [\n"))
    assert [item.tree for item in found] == [{"a": 1}, None]
    assert found[1].problem is not None
    assert found[1].problem.ends_file


def test_empty_documents_are_skipped_but_counted() -> None:
    assert [(item.index, item.line) for item in read_documents("---\n# nothing\n---\na: 1\n---\n")] == [(1, 4)]


def test_merge_keeps_the_mappings_own_keys() -> None:
    (tree,) = trees("base: &b {x: 1, y: 2}\nused:\n  <<: *b\n  y: 3\nmany: {<<: [*b, {z: 4}]}\n")
    assert tree == {"base": {"x": 1, "y": 2}, "used": {"x": 1, "y": 3}, "many": {"x": 1, "y": 2, "z": 4}}


def test_quoted_merge_key_is_a_plain_key() -> None:
    assert trees('"<<": {x: 1}\n') == [{"<<": {"x": 1}}]


def test_json_with_tabs_is_yaml() -> None:
    tree = {"a": [1, "two", None, True, {"b": "ä\n"}]}
    assert trees(json.dumps(tree, indent="\t")) == [tree]


def test_billion_laughs_ends_at_the_node_limit() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert f"more than {yamltree.NODES_MAX} values" in problem("\n".join(lines))


def test_aliases_count_towards_the_depth() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [[[[[[*a{n - 1}]]]]]]" for n in range(1, 12)]
    assert f"deeper than {yamltree.DEPTH_MAX} levels" in problem("\n".join(lines))


@pytest.mark.parametrize("text", ["[" * 200_000, "- " * 200_000, "{a: " * 200_000])
def test_deep_nesting_is_refused_at_once(text: str) -> None:
    assert f"deeper than {yamltree.DEPTH_MAX} levels" in problem(text)


def test_depth_at_the_limit_is_read() -> None:
    deep = "[" * yamltree.DEPTH_MAX + "x" + "]" * yamltree.DEPTH_MAX
    assert len(trees(deep)) == 1


def test_number_of_documents_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamltree, "DOCUMENTS_MAX", 3)
    found = list(read_documents("a: 1\n---\n" * 3 + "b: 1\n"))
    assert [item.tree for item in found[:3]] == [{"a": 1}] * 3
    assert found[3].problem is not None
    assert "more than 3 documents" in found[3].problem.message


def test_size_of_the_text_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamltree, "TEXT_CHARS_MAX", 10)
    assert problem("a: 1234567890").endswith("is larger than 10 characters")


def test_lines_are_those_of_the_values() -> None:
    lines = lines_of("# c\na:\n  - x\n  - b: 1\n---\nz: 1\n", [0])
    assert lines == {0: {(): 2, ("a",): 3, ("a", 0): 3, ("a", 1): 4, ("a", 1, "b"): 4}}
