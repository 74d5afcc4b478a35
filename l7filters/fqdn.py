"""DNS names in a judgement: the question that is asked, and which names a rule means.

Owns: the meaning of matchName, matchPattern and except in plain code, for ``evaluate`` and ``explain``; proxylib/dns/rules.py
says the same in one automaton for thousands of rules, and envoy/fqdn.py in matchers. Must not know policies or verdicts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from l7filters.model import DnsRule
from proxylib.dns.rules import NameSelector

_CHARACTERS = "[-a-z0-9_]"
_LABEL = f"{_CHARACTERS}+"
_CACHE_ENTRIES = 4096


@dataclass(frozen=True, slots=True)
class DnsQuestion:
    """A name and the type of record that is asked for (``A``, ``AAAA``, ...)."""

    name: str
    query_type: str = "A"

    def __str__(self) -> str:
        return f"{self.query_type} {self.name}"


def canonical_name(name: str) -> str:
    """Return ``name`` as rules have it: lower case, without the trailing dot."""
    return name.strip().lower().removesuffix(".")


def names_hold(selectors: Iterable[NameSelector], name: str) -> bool:
    """Tell whether one of ``selectors`` covers ``name``. An empty name is covered by none."""
    return any(selector_holds(selector, name) for selector in selectors)


def selector_holds(selector: NameSelector, name: str) -> bool:
    """Tell whether ``selector`` covers ``name``."""
    name = canonical_name(name)
    if selector.match_name is not None:
        covered = name == canonical_name(selector.match_name)
    else:
        covered = pattern_holds(selector.match_pattern or "", name)
    return covered and name != "" and not any(pattern_holds(hole, name) for hole in selector.excepts)


def pattern_holds(pattern: str, name: str) -> bool:
    """Tell whether a pattern covers ``name``: stars alone any name, ``**.`` first any labels, others a part of one label."""
    return _expression(canonical_name(pattern)).fullmatch(canonical_name(name)) is not None


@lru_cache(maxsize=_CACHE_ENTRIES)
def _expression(pattern: str) -> re.Pattern[str]:
    if set(pattern) == {"*"}:
        return re.compile(rf"{_LABEL}(\.{_LABEL})*")
    labels = pattern.split(".")
    first = rf"({_LABEL}\.)+" if len(labels) > 1 and len(labels[0]) > 1 and set(labels[0]) == {"*"} else ""
    rest = labels[1:] if first else labels
    return re.compile(first + r"\.".join(f"{_CHARACTERS}*".join(map(re.escape, re.split(r"\*+", one))) for one in rest))


def dns_holds(rule: DnsRule, question: DnsQuestion) -> bool:
    """Tell whether ``rule`` lets ``question`` be asked."""
    named = selector_holds(NameSelector(rule.match_name, rule.match_pattern, rule.excepts), question.name)
    return named and (not rule.query_types or question.query_type.upper() in rule.query_types)
