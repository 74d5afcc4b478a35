"""Regular expressions: the check that what a policy accepts, Envoy accepts.

Owns: the RE2 limits and the check. Envoy compiles the same expressions with the same library, some of them inside a larger
one; its bootstrap's limit (``envoy/matching.py``) leaves room for that, so it never refuses what was accepted here.
Must not know where a regular expression comes from.
"""

from __future__ import annotations

from functools import lru_cache

import re2

from l7filters.documents.reader import Node

RE2_PROGRAM_SIZE_MAX = 1000
"""Instructions of the compiled program. A literal costs about one per character, ``{n}`` multiplies."""
REGEX_CHARS_MAX = 2048
"""Of the text; a longer one can't stay below the program size and be of use."""
_CACHED_MAX = 4096


@lru_cache(maxsize=_CACHED_MAX)
def regex_problem(pattern: str) -> tuple[str, str] | None:
    """Return why RE2 (or the limit) refuses ``pattern``, as (message, hint); None if it is good."""
    options = re2.Options()
    options.log_errors = False
    try:
        size: int = re2.compile(pattern, options).programsize
    except re2.error as error:
        reason = error.args[0]
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        hint = ""
        if text.startswith("invalid perl operator"):
            hint = "RE2 has no look-around and no back-references; write the alternatives out, or use a deny rule"
        return f"is not a regular expression that RE2 takes: {text}", hint
    if size > RE2_PROGRAM_SIZE_MAX:
        return (
            f"compiles to {size} RE2 instructions; the limit is {RE2_PROGRAM_SIZE_MAX}",
            "split it into several rules, or use smaller repetition counts",
        )
    return None


def regex(node: Node) -> str:
    """Return the regular expression at ``node``; "" after an error."""
    text = node.string(chars_max=REGEX_CHARS_MAX)
    if not text:
        return ""
    problem = regex_problem(text)
    if problem is None:
        return text
    node.error(*problem)
    return ""
