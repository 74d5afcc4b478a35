"""HTTP and gRPC rules.

Owns: ``rules.http`` of both dialects, ``rules.grpc`` of Tidegate's. Semantics: docs/policy.md, "HTTP". Sources: Cilium's
``pkg/policy/api/http.go`` (fields), RFC 9110 5.1 (header names), gRPC over HTTP/2 (paths).
Must not know ports or peers.
"""

from __future__ import annotations

import re

from l7filters.documents.names import data_key
from l7filters.documents.reader import Fields, Node
from l7filters.documents.regex import regex
from l7filters.documents.scope import MATCHES_MAX, Scope, secret_place
from l7filters.documents.strings import VALUE_CHARS_MAX, path_match, string_match
from l7filters.model import HeaderMatch, HttpRule, MatchKind, MismatchAction, QueryMatch, SecretRef, StringMatch

HEADER_NAME_CHARS_MAX = 256
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_GRPC_SERVICE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*\Z")
_GRPC_METHOD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PSEUDO_FIELDS = {":path": "path", ":method": "method", ":authority": "host", "host": "host"}


def http_rule(node: Node, scope: Scope) -> HttpRule:
    """Read one item of ``rules.http`` or ``rules.httpDeny``."""
    with node.fields() as fields:
        if scope.is_tidegate:
            path = fields.read("path", path_match, None)
            method = fields.read("method", _regex_or_exact, None)
            host = fields.read("host", _regex_or_exact, None)
            query = tuple(match for item in fields.items("query", MATCHES_MAX) or [] if (match := _query_match(item)))
        else:
            path, method, host = (fields.read(name, _cilium_regex, None) for name in ("path", "method", "host"))
            query = ()
        headers = _headers(fields, scope)
    return HttpRule(scope.origin(node), path=path, method=method, host=host, headers=headers, query=query)


def grpc_rule(node: Node, scope: Scope) -> HttpRule:
    """Read one item of ``rules.grpc`` or ``rules.grpcDeny``: a POST to ``/SERVICE/METHOD``."""
    with node.fields() as fields:
        service = _matching(fields, "service", _GRPC_SERVICE, "like package.Service")
        method = _matching(fields, "method", _GRPC_METHOD, "the method's name alone")
        headers = _headers(fields, scope)
        if method and not service and "service" not in fields.values:
            fields.error("method needs a service")
    path = None
    if service:
        path = StringMatch(MatchKind.EXACT, f"/{service}/{method}") if method else StringMatch(MatchKind.PREFIX, f"/{service}")
    post = StringMatch(MatchKind.EXACT, "POST")
    return HttpRule(scope.origin(node), path=path, method=post, headers=headers, grpc=True)


def _matching(fields: Fields, name: str, syntax: re.Pattern[str], hint: str) -> str:
    node = fields.get(name)
    if node is None:
        return ""
    text = node.string(chars_max=VALUE_CHARS_MAX)
    if text and not syntax.match(text):
        node.error(f'"{text}" is not a gRPC {name}', hint)
        return ""
    return text


def _cilium_regex(node: Node) -> StringMatch | None:
    """Read a field that is a regular expression; in Cilium's dialect an empty one is the same as none."""
    if node.value == "":
        return None
    text = regex(node)
    return StringMatch(MatchKind.REGEX, text) if text else None


def _regex_or_exact(node: Node) -> StringMatch | None:
    return string_match(node, MatchKind.REGEX, (MatchKind.EXACT, MatchKind.REGEX))


def _value_match(node: Node) -> StringMatch | None:
    found = string_match(node, MatchKind.EXACT, (MatchKind.EXACT, MatchKind.PREFIX, MatchKind.REGEX))
    if found is not None and found.kind is MatchKind.EXACT and found.value != found.value.strip():
        node.error("begins or ends with a space and so can never match")
        return None
    return found


def _query_match(node: Node) -> QueryMatch | None:
    with node.fields() as fields:
        name_node = fields.require("name")
        name = "" if name_node is None else name_node.string(chars_max=VALUE_CHARS_MAX)
        value = fields.read("value", lambda at: string_match(at, MatchKind.EXACT, tuple(MatchKind)), None)
    return QueryMatch(name, value) if name else None


def _headers(fields: Fields, scope: Scope) -> tuple[HeaderMatch, ...]:
    """Read ``headers`` ("Name: value" or "Name") and ``headerMatches``."""
    plain = [_header_line(item) for item in fields.items("headers", MATCHES_MAX) or []]
    matches = [_header_match(item, scope) for item in fields.items("headerMatches", MATCHES_MAX) or []]
    return tuple(match for match in (*plain, *matches) if match is not None)


def _header_name(node: Node, text: str) -> str:
    if not text:
        return ""
    lowered = text.lower()
    if lowered in _PSEUDO_FIELDS:
        node.error(f'"{text}" is not matched as a header', f"use the field {_PSEUDO_FIELDS[lowered]}")
    elif len(text) > HEADER_NAME_CHARS_MAX or not _TOKEN.match(text):
        node.error(f'"{text[:60]}" is not a header name', 'the form is "Name: value", with a space, or "Name" alone')
    else:
        return lowered
    return ""


def _header_line(node: Node) -> HeaderMatch | None:
    """Read "Name: value", split at the first space; without one it asks only that the header is there."""
    text = node.string(chars_max=HEADER_NAME_CHARS_MAX + VALUE_CHARS_MAX)
    head, space, value = text.partition(" ")
    name = _header_name(node, head.rstrip(":") if space else head)
    if not name:
        return None
    if not space:
        return HeaderMatch(name)
    if not value or value != value.strip():
        node.error("has a value that is empty or begins or ends with a space and so can never match")
        return None
    return HeaderMatch(name, StringMatch(MatchKind.EXACT, value))


def _header_match(node: Node, scope: Scope) -> HeaderMatch | None:
    with node.fields() as fields:
        name_node = fields.require("name")
        name = "" if name_node is None else _header_name(name_node, name_node.string())
        if scope.is_tidegate:
            value = fields.read("value", _value_match, None)
            invert = fields.read("invert", Node.boolean, False)
        else:
            value = fields.read("value", _cilium_value, None)
            invert = False
        secret = fields.read("secret", lambda at: _secret(at, scope), None)
        mismatch = fields.read("mismatch", _mismatch, MismatchAction.FAIL)
        _check_action(fields, mismatch, value, invert)
    return HeaderMatch(name, value, secret, mismatch, invert) if name else None


def _cilium_value(node: Node) -> StringMatch | None:
    if node.value == "":
        return None
    text = node.string(chars_max=VALUE_CHARS_MAX)
    return StringMatch(MatchKind.EXACT, text) if text else None


def _mismatch(node: Node) -> MismatchAction:
    if node.value == "":
        return MismatchAction.FAIL
    return node.choice(MismatchAction) or MismatchAction.FAIL


def _check_action(fields: Fields, mismatch: MismatchAction, value: StringMatch | None, invert: bool) -> None:
    """Refuse combinations that ask for the impossible: a header can be set only to one literal value."""
    if fields.broken:
        return
    if mismatch in (MismatchAction.ADD, MismatchAction.REPLACE):
        if value is None and "value" not in fields.values and "secret" not in fields.values:
            fields.error(f"mismatch {mismatch} needs a value or a secret to set the header to")
        elif value is not None and value.kind is not MatchKind.EXACT:
            fields.error(f"mismatch {mismatch} needs an exact value, not a {value.kind}")
    if invert and mismatch is not MismatchAction.FAIL:
        fields.error(f"invert does not go with mismatch {mismatch}")
    if invert and "secret" in fields.values:
        fields.error("invert does not go with a secret")


def _secret(node: Node, scope: Scope) -> SecretRef | None:
    with node.fields() as fields:
        namespace, name = secret_place(fields, scope)
        key = fields.read("key", data_key, "") if scope.is_tidegate else ""
    return SecretRef(namespace, name, key) if name and namespace else None
