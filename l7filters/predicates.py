"""What one L7 rule says of one message, predicate by predicate, each with the words that explain it.

Owns: the meaning of the string, path, header, query and server name predicates, for ``evaluate`` and ``explain``. Must not
know policies, precedence or Envoy; says in plain code what ``envoy/matching.py`` says in matchers.

Where a message is ambiguous, a rule errs on the side of closing:

1. A header of several lines is one value, joined by commas. A rule that allows wants all of it to match; one that denies is
   content with any element or run of elements. An inverted predicate swaps the two.
2. Of a query parameter that occurs twice, a rule that allows accepts no value; one that denies takes it for a match.
3. A secret that isn't there: a rule that allows doesn't match; in one that denies the predicate holds.
4. ``CONNECT`` is allowed only by a rule whose method predicate spells it out.

Values of headers that hold secrets, or usually do, are never put into words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, assert_never

import re2

from l7filters.fqdn import names_hold
from l7filters.http import HttpRequest
from l7filters.model import HeaderMatch, HttpRule, MatchKind, MismatchAction, QueryMatch, RuleOrigin, SecretRef, StringMatch
from proxylib.dns.rules import NameSelector

SecretTexts = Mapping[SecretRef, str]
"""Secrets as header values: text on one line. What is missing is absent."""

NO_SECRETS: Final[SecretTexts] = {}
REGEX_CACHE_ENTRIES: Final = 4096
SHOWN_CHARACTERS_MAX: Final = 200
"""Of a value from a message that is put into words."""

_CONFIDENTIAL_HEADERS: Final = frozenset(
    {"authorization", "proxy-authorization", "cookie", "x-api-key", "x-auth-token", "x-amz-security-token"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One predicate of a rule on one message: ``TOPIC FOUND, WANTED``, as in ``method is POST, must match GET``."""

    topic: str
    found: str
    wanted: str
    holds: bool

    def __str__(self) -> str:
        return f"{self.topic} {self.found}, {self.wanted}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderAction:
    """What a rule that matches does about a header that isn't as it asks. ``value`` (for ADD and REPLACE) may be a secret."""

    origin: RuleOrigin
    header: str
    action: MismatchAction
    value: str | None = field(default=None, repr=False)


# ---- strings ------------------------------------------------------------------------------------------------------


def string_holds(match: StringMatch, text: str) -> bool:
    """Tell whether ``match`` holds for the whole of ``text``. Case is ASCII case."""
    match match.kind:
        case MatchKind.EXACT:
            return _fold(match, text) == _fold(match, match.value)
        case MatchKind.PREFIX:
            return _fold(match, text).startswith(_fold(match, match.value))
        case MatchKind.REGEX:
            return _regex(match.value, match.ignore_case).fullmatch(text.encode("utf-8", "surrogateescape")) is not None
        case _:
            assert_never(match.kind)


def _fold(match: StringMatch, text: str) -> str:
    return text.encode("utf-8", "surrogateescape").lower().decode("utf-8", "surrogateescape") if match.ignore_case else text


@lru_cache(maxsize=REGEX_CACHE_ENTRIES)
def _regex(pattern: str, ignore_case: bool) -> re2._Regexp:
    options = re2.Options()
    options.case_sensitive = not ignore_case
    options.log_errors = False
    return re2.compile(pattern, options)


def wanted_words(match: StringMatch) -> str:
    """Return what ``match`` asks for, in words."""
    case = ", in any case" if match.ignore_case else ""
    match match.kind:
        case MatchKind.EXACT:
            return f"must be {match.value or 'empty'}{case}"
        case MatchKind.PREFIX:
            return f"must begin with {match.value}{case}"
        case MatchKind.REGEX:
            return f"must match {match.value}{case}"
        case _:
            assert_never(match.kind)


def shown(text: str) -> str:
    printable = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return printable if len(printable) <= SHOWN_CHARACTERS_MAX else printable[:SHOWN_CHARACTERS_MAX] + "..."


def _check(topic: str, match: StringMatch, text: str, holds: bool) -> Check:
    return Check(topic=topic, found=f"is {shown(text)}" if text else "is empty", wanted=wanted_words(match), holds=holds)


# ---- HTTP ---------------------------------------------------------------------------------------------------------


def http_checks(rule: HttpRule, request: HttpRequest, secrets: SecretTexts, *, denies: bool) -> tuple[Check, ...]:
    """Return every predicate of ``rule`` as judged on ``request``; the rule matches when all hold. None: it always does."""
    assert not request.is_refused, "no rule judges what Envoy refuses"
    checks: list[Check] = []
    if request.is_connect and not denies and not names_connect(rule):
        checks.append(Check(topic="method", found="is CONNECT", wanted="a rule must name CONNECT to allow it", holds=False))
    if rule.method is not None:
        checks.append(_check("method", rule.method, request.method, string_holds(rule.method, request.method)))
    if rule.path is not None:
        checks.append(_path_check(rule.path, request))
    if rule.host is not None:
        holds = _host_holds(rule.host, request.authority, denies=denies)
        checks.append(_check("host", rule.host, request.authority, holds))
    if rule.names:
        checks.append(_names_check(rule.names, request.authority, denies=denies))
    checks.extend(_header_check(header, request, secrets, denies=denies) for header in rule.headers)
    checks.extend(_query_check(query, request, denies=denies) for query in rule.query)
    return tuple(checks)


def _names_check(names: tuple[NameSelector, ...], authority: str, *, denies: bool) -> Check:
    """Return the judgement of the host, its port aside, by the names under which the server was reached."""
    hosts = [host_name(authority)]
    if denies:
        hosts += [host_name(one.strip(" \t")) for one in authority.split(",")]
    return Check(
        topic="host",
        found=f"is {shown(authority)}" if authority else "is empty",
        wanted=f"must be {' or '.join(map(selector_words, names))}",
        holds=any(names_hold(names, host) for host in hosts),
    )


def host_name(authority: str) -> str:
    """Return ``authority`` without its port; what isn't a port stays."""
    host, colon, port = authority.rpartition(":")
    return host if colon and (not port or (port.isascii() and port.isdigit())) else authority


def selector_words(selector: NameSelector) -> str:
    """Return the names that ``selector`` means, in words."""
    holes = f" (not {', '.join(selector.excepts)})" if selector.excepts else ""
    return f"{selector.match_name or selector.match_pattern}{holes}"


def http_holds(rule: HttpRule, request: HttpRequest, secrets: SecretTexts, *, denies: bool) -> bool:
    """Tell whether ``rule`` matches ``request``."""
    return all(check.holds for check in http_checks(rule, request, secrets, denies=denies))


def names_connect(rule: HttpRule) -> bool:
    """Tell whether a rule means tunnels: ``CONNECT`` stands in its method predicate."""
    return rule.method is not None and "CONNECT" in rule.method.value.upper()


def _path_check(path: StringMatch, request: HttpRequest) -> Check:
    if request.normalised_path is None or request.location is None:
        return Check(topic="path", found="is not in a CONNECT request", wanted=wanted_words(path), holds=False)
    match path.kind:
        case MatchKind.REGEX:
            return _check("path", path, request.normalised_path, string_holds(path, request.normalised_path))
        case MatchKind.EXACT:
            return _check("path", path, request.location, string_holds(path, request.location))
        case MatchKind.PREFIX:
            location, prefix = _fold(path, request.location), _fold(path, path.value)
            below = prefix if prefix.endswith("/") else prefix + "/"
            holds = location == prefix or location.startswith(below)
            return Check(
                topic="path", found=f"is {shown(request.location)}", wanted=f"must be {path.value} or below", holds=holds
            )
        case _:
            assert_never(path.kind)


def _value_holds(match: StringMatch, value: str, *, elements: bool) -> bool:
    """Tell whether ``value`` matches, or, with ``elements``, any run of elements of the comma-separated list that it is."""
    if string_holds(match, value):
        return True
    if not elements:
        return False
    parts = value.split(",")
    runs = (",".join(parts[first:last]) for first in range(len(parts)) for last in range(first + 1, len(parts) + 1))
    return any(string_holds(match, form) for run in runs for form in (run, run.strip(" \t")))


def _host_holds(match: StringMatch, authority: str, *, denies: bool) -> bool:
    """Tell whether the host matches. A rule that denies means every spelling: letter case, a final dot, a port."""
    if not denies:
        return _value_holds(match, authority, elements=False)
    match = replace(match, ignore_case=True)
    parts = authority.split(",")
    runs = (",".join(parts[first:last]) for first in range(len(parts)) for last in range(first + 1, len(parts) + 1))
    for run in runs:
        for form in (run, run.strip(" \t")):
            host, colon, port = form.rpartition(":")
            names = [form, host] if colon and (not port or (port.isascii() and port.isdigit())) else [form]
            if any(string_holds(match, spelled) for name in names for spelled in (name, name.removesuffix("."))):
                return True
    return False


def _expected(header: HeaderMatch, secrets: SecretTexts) -> tuple[StringMatch | None, bool]:
    """Return (what the value is compared with, None for presence; whether that can be judged)."""
    if header.secret is None:
        return header.value, True
    text = secrets.get(header.secret)
    if text is not None:
        return StringMatch(MatchKind.EXACT, text), True
    return header.value, header.value is not None


def _header_holds(header: HeaderMatch, request: HttpRequest, expected: StringMatch | None, *, denies: bool) -> bool:
    value = request.header(header.name)
    if value is None:
        return header.invert
    if expected is None:
        return not header.invert
    return _value_holds(expected, value, elements=denies != header.invert) != header.invert


def _header_check(header: HeaderMatch, request: HttpRequest, secrets: SecretTexts, *, denies: bool) -> Check:
    expected, judged = _expected(header, secrets)
    topic = f"header {header.name}"
    if not judged:
        assert header.secret is not None
        found = f"can't be judged: secret {_secret_words(header.secret)} is missing"
        return Check(topic=topic, found=found, wanted="must equal that secret", holds=denies)
    holds = header.mismatch is not MismatchAction.FAIL or _header_holds(header, request, expected, denies=denies)
    return Check(topic=topic, found=_header_found(header, request), wanted=_header_wanted(header, expected), holds=holds)


def _header_found(header: HeaderMatch, request: HttpRequest) -> str:
    value = request.header(header.name)
    if value is None:
        return "is absent"
    if header.secret is not None or header.name in _CONFIDENTIAL_HEADERS:
        return "is [redacted]"
    return f"is {shown(value)}" if value else "is empty"


def _header_wanted(header: HeaderMatch, expected: StringMatch | None) -> str:
    if header.secret is not None:
        words = f"must equal secret {_secret_words(header.secret)}"
    elif expected is None:
        words = "must be present"
    elif header.name in _CONFIDENTIAL_HEADERS:
        words = "must have the value that the rule gives"
    else:
        words = wanted_words(expected)
    return words.replace("must", "must not", 1) if header.invert else words


def _secret_words(secret: SecretRef) -> str:
    return f"{secret.namespace}/{secret.name}, key {secret.key}"


def _query_check(query: QueryMatch, request: HttpRequest, *, denies: bool) -> Check:
    values = request.query_values(query.name)
    topic = f"query parameter {query.name}"
    wanted = "must be present" if query.value is None else wanted_words(query.value)
    if not values:
        return Check(topic=topic, found="is absent", wanted=wanted, holds=False)
    if query.value is None:
        return Check(topic=topic, found="is present", wanted=wanted, holds=True)
    if len(values) > 1:
        return Check(topic=topic, found=f"occurs {len(values)} times", wanted=f"{wanted}, once", holds=denies)
    return _check(topic, query.value, values[0], string_holds(query.value, values[0]))


def header_actions(rules: Iterable[HttpRule], request: HttpRequest, secrets: SecretTexts) -> tuple[HeaderAction, ...]:
    """Return what those of ``rules`` that match do about headers, in the order of rules; all see the request as it came."""
    found: list[HeaderAction] = []
    for rule in rules:
        if not http_holds(rule, request, secrets, denies=False):
            continue
        for header in rule.headers:
            expected, _ = _expected(header, secrets)
            if header.mismatch is MismatchAction.FAIL or _header_holds(header, request, expected, denies=False):
                continue
            sets = header.mismatch in (MismatchAction.ADD, MismatchAction.REPLACE)
            value = (expected.value if expected is not None else "") if sets else None
            found.append(HeaderAction(origin=rule.origin, header=header.name, action=header.mismatch, value=value))
    return tuple(found)


# ---- server names -------------------------------------------------------------------------------------------------


def server_name_holds(pattern: str, name: str) -> bool:
    """Tell whether a TLS server name matches a ``serverNames`` pattern; no name (empty) matches none.

    A lone ``*`` or ``**``: any name. ``**`` as a whole label: one or more labels, anywhere. ``*``: any run within its label,
    where a label that is ``*`` alone isn't empty.
    """
    if pattern in ("*", "**"):
        return name != ""
    return _labels_hold(pattern.lower().split("."), name.lower().split("."))


def _labels_hold(patterns: list[str], labels: list[str]) -> bool:
    if not patterns or not labels:
        return not patterns and not labels
    if patterns[0] == "**":
        return any(all(labels[:count]) and _labels_hold(patterns[1:], labels[count:]) for count in range(1, len(labels) + 1))
    return _label_holds(patterns[0], labels[0]) and _labels_hold(patterns[1:], labels[1:])


def _label_holds(pattern: str, label: str) -> bool:
    """Match one label, in which ``*`` stands for any run of characters."""
    if pattern == "*":
        return label != ""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == label
    *middle, last = rest
    if not label.startswith(first):
        return False
    at = len(first)
    for part in middle:
        found = label.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return label.endswith(last) and len(label) - len(last) >= at


def server_name_check(patterns: Iterable[str], name: str) -> Check:
    """Return the judgement of a server name by a union of patterns."""
    wanted = tuple(patterns)
    return Check(
        topic="server name",
        found=f"is {shown(name)}" if name else "is not sent",
        wanted=f"must match {' or '.join(wanted)}",
        holds=any(server_name_holds(pattern, name) for pattern in wanted),
    )
