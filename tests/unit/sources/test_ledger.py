"""Which version of which document is in force."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from l7filters.documents import DocumentKey, parse_documents
from tidegate.sources.ledger import DirectoryState, FileLedger, merge, record, record_unreadable


def good(name: str, method: str = "GET") -> str:
    return (
        f"{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: {name}}}, spec: {{endpointSelector: {{}}, "
        f"ingress: [{{toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{{method: {method}}}]}}}}]}}]}}}}"
    )


def bad(name: str) -> str:
    return good(name).replace("ingress", "ingres")


NAMELESS = "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {}, spec: {}}"
BROKEN = "a: ["


def read(old: FileLedger, *documents: str) -> FileLedger:
    return record(old, parse_documents("\n---\n".join(documents), "a.yaml"))


def in_force(ledger: FileLedger) -> dict[str, str]:
    """Name -> method, with a star if the version is stale."""
    found = {}
    for key, item in ledger.in_force.items():
        assert isinstance(item.document.value, tuple)
        l7 = item.document.value[0].rules[0].to_ports[0].l7
        assert l7 is not None
        method = getattr(l7.allow[0], "method", None)
        assert method is not None
        found[key.rpartition("/")[2]] = method.value + ("*" if item.stale else "")
    return found


START = read(FileLedger(), good("a"), good("b"))


def test_good_documents_are_in_force() -> None:
    assert in_force(START) == {"a": "GET", "b": "GET"}
    assert START.errors == ()


def test_bad_version_keeps_the_last_good_one_of_that_document_alone() -> None:
    now = read(START, bad("a"), good("b", "PUT"))
    assert in_force(now) == {"a": "GET*", "b": "PUT"}
    assert len(now.errors) == 2  # the misspelt field, and no rule list at all
    assert in_force(read(now, good("a", "POST"), good("b"))) == {"a": "POST", "b": "GET"}


def test_last_good_version_outlives_several_bad_ones() -> None:
    now = START
    for _ in range(3):
        now = read(now, bad("a"), good("b"))
    assert in_force(now) == {"a": "GET*", "b": "GET"}


def test_document_that_was_never_good_is_not_in_force() -> None:
    now = read(FileLedger(), bad("a"), good("b"))
    assert in_force(now) == {"b": "GET"}
    assert list(now.bad) == ["cnp/default/a"]


def test_removed_document_goes() -> None:
    assert in_force(read(START, good("b"))) == {"b": "GET"}


def test_bad_document_that_is_removed_goes() -> None:
    assert in_force(read(read(START, bad("a"), good("b")), good("b"))) == {"b": "GET"}


def test_broken_yaml_keeps_everything_that_cannot_be_seen() -> None:
    now = read(START, good("a", "PUT"), BROKEN)
    assert in_force(now) == {"a": "PUT", "b": "GET*"}
    assert in_force(read(START, BROKEN)) == {"a": "GET*", "b": "GET*"}


def test_nameless_document_may_be_any_of_those_that_are_missing() -> None:
    assert in_force(read(START, NAMELESS, good("b", "PUT"))) == {"b": "PUT", "a": "GET*"}


def test_emptied_file_has_no_documents() -> None:
    assert in_force(read(START, "")) == {}


def test_unreadable_file_keeps_everything() -> None:
    now = record_unreadable(START, "a.yaml", "can't be read: Permission denied", "check its permissions")
    assert in_force(now) == {"a": "GET*", "b": "GET*"}
    assert [str(error) for error in now.errors] == ["a.yaml[0]: can't be read: Permission denied (check its permissions)"]


def test_second_document_of_one_key_in_a_file_is_an_error() -> None:
    now = read(FileLedger(), good("a"), good("a", "PUT"))
    assert in_force(now) == {"a": "GET"}
    assert [(error.index, error.path) for error in now.errors] == [(1, "metadata.name")]


def ledger(source: str, *documents: str) -> FileLedger:
    return record(FileLedger(), parse_documents("\n---\n".join(documents), source))


def methods(state: DirectoryState) -> dict[str, str]:
    found = {}
    for policy in state.policies:
        l7 = policy.rules[0].to_ports[0].l7
        assert l7 is not None
        found[str(policy.key)] = getattr(l7.allow[0], "method").value  # noqa: B009 (an L7Rule of any kind)
    return found


def test_first_file_by_name_wins_a_key() -> None:
    one, two = ledger("1.yaml", good("a")), ledger("2.yaml", good("a", "PUT"), good("b"))
    for ledgers in ({"1.yaml": one, "2.yaml": two}, {"2.yaml": two, "1.yaml": one}):
        state = merge(ledgers, DirectoryState())
        assert methods(state) == {"cnp/default/a": "GET", "cnp/default/b": "GET"}
        assert [(error.source, error.index, error.path) for error in state.errors] == [("2.yaml", 0, "metadata.name")]
        assert "already defined by 1.yaml" in state.errors[0].message


def test_document_with_the_key_of_a_bad_one_counts() -> None:
    state = merge({"1.yaml": ledger("1.yaml", bad("a")), "2.yaml": ledger("2.yaml", good("a", "PUT"))}, DirectoryState())
    assert methods(state) == {"cnp/default/a": "PUT"}


def test_unchanged_files_give_the_same_state() -> None:
    first = merge({"1.yaml": ledger("1.yaml", good("a"))}, DirectoryState())
    assert first.revision == 1
    assert merge({"1.yaml": ledger("1.yaml", good("a"))}, first) is first


def test_status_tells_content_revision_and_staleness() -> None:
    files = {"1.yaml": ledger("1.yaml", good("a"), good("b"))}
    first = merge(files, DirectoryState())
    files["1.yaml"] = record(files["1.yaml"], parse_documents(f"{good('a', 'PUT')}\n---\n{bad('b')}\n---\n{bad('c')}", "1.yaml"))
    second = merge(files, first)
    a, b, c = (DocumentKey(f"cnp/default/{name}") for name in "abc")
    assert (first.documents[a].revision, second.documents[a].revision) == (1, 2)
    assert first.documents[a].digest != second.documents[a].digest
    assert (second.documents[b].revision, second.documents[b].stale, second.documents[b].digest) == (
        1,
        True,
        first.documents[b].digest,
    )
    assert [error.path for error in second.documents[b].errors] == ["spec", "spec.ingres"]
    assert (second.documents[c].in_force, len(second.documents[c].errors)) == (False, 2)
    assert {status.key for status in second.policy_documents()} == {a, b, c}


@given(
    st.lists(
        st.lists(st.sampled_from([good("a"), good("b"), good("a", "PUT"), bad("a"), bad("b"), NAMELESS, BROKEN]), max_size=4),
        max_size=6,
    )
)
def test_a_document_that_was_good_goes_only_when_a_whole_reading_lacks_it(versions: list[list[str]]) -> None:
    now = FileLedger()
    for version in versions:
        parsed = parse_documents("\n---\n".join(version), "a.yaml")
        named = {document.key for document in parsed.documents}
        in_doubt = None in named
        before, now = now, record(now, parsed)
        lost = set(before.in_force) - set(now.in_force)
        assert not lost or (not in_doubt and not lost & named)
        assert all(document.key in now.in_force for document in parsed.documents if document.value is not None)
