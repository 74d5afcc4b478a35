"""String predicates: ``{exact | prefix | regex, ignoreCase}`` and the short forms that stand for them.

Owns: StringMatch's notation, and the checks that a path rule can match at all. Must not know which rule it is in.
"""

from __future__ import annotations

from urllib.parse import quote

from l7filters.documents.reader import Node
from l7filters.documents.regex import regex
from l7filters.http import normalise_path
from l7filters.model import MatchKind, StringMatch

_PATH_SAFE = "/%:@!$&'()*+,;=~-._"

VALUE_CHARS_MAX = 4096


def path_problem(path: str) -> tuple[str, str] | None:
    """Return why no normalised request path equals or begins with ``path``, as (message, hint); None if one can."""
    if not path.startswith("/"):
        return "must begin with '/'", f'did you mean "/{path}"?'
    if "?" in path or "#" in path:
        return "must not hold a query or a fragment", "match the query with query: [{name: ..., value: ...}]"
    if not path.isascii() or " " in path:
        return "must be percent-encoded ASCII", f'write "{quote(path, safe=_PATH_SAFE)}"'
    normalised = normalise_path(path)
    if normalised is None:
        return "can never match: requests with such a path are refused", ""
    if normalised != path:
        return "can never match: paths are normalised before they are judged", f'write "{normalised}"'
    return None


def path_match(node: Node) -> StringMatch | None:
    """Read a path: a string is a regular expression as in Cilium; a mapping says exact, prefix or regex."""
    found = string_match(node, MatchKind.REGEX, (MatchKind.EXACT, MatchKind.PREFIX, MatchKind.REGEX))
    if found is None or found.kind is MatchKind.REGEX:
        return found
    problem = path_problem(found.value)
    if problem is not None:
        node.error(*problem)
        return None
    if found.kind is MatchKind.PREFIX and len(found.value) > 1:
        # A prefix ends at a segment whether or not it is written with its slash.
        return StringMatch(MatchKind.PREFIX, found.value.removesuffix("/"), found.ignore_case)
    return found


def string_match(node: Node, short: MatchKind, kinds: tuple[MatchKind, ...]) -> StringMatch | None:
    """Read a predicate: a plain string means ``short``, a mapping names one of ``kinds``; None after an error."""
    if not isinstance(node.value, dict):
        text = regex(node) if short is MatchKind.REGEX else node.string(chars_max=VALUE_CHARS_MAX)
        return StringMatch(short, text) if text else None
    with node.fields() as fields:
        given = fields.present(kinds)
        ignore_case = fields.read("ignoreCase", Node.boolean, False)
        if len(given) != 1:
            fields.error(f"needs exactly one of {', '.join(kinds)}" + (f", not {' and '.join(given)}" if given else ""))
            return None
        kind = MatchKind(given[0])
        value = fields.get(given[0])
        assert value is not None
        text = regex(value) if kind is MatchKind.REGEX else value.string(chars_max=VALUE_CHARS_MAX)
        if ignore_case and kind is MatchKind.REGEX:
            fields.error("ignoreCase does not go with regex", "begin the expression with (?i)")
            return None
    return StringMatch(kind, text, ignore_case) if text else None
