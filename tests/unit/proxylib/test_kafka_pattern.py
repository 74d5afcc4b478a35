"""Regular expressions of Kafka rules: the program means what RE2 means."""

from __future__ import annotations

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from proxylib.kafka.pattern import PROGRAM_MAX, PatternError, Step, compile_pattern

EXPRESSIONS = (
    *(
        "orders",
        "orders-.*",
        "(a|b)*c",
        "[a-z]+",
        "[^a-z]",
        "a{2,3}",
        "a{2}",
        "a{2,}",
        "a?b",
        "(?:ab)+",
        "(?i)OrDers",
        "a|",
        "|a",
    ),
    *(r"\d+", r"\D", r"\w+", r"\W", r"\s", r"\S+", r"a\.b", r"\x41", r"[\d.]+", r"[^\d]", r"[\w-]+", r"[a\]]", "[]a]", "[^]a]"),
    *("[[:alpha:]]+", "[[:^alpha:]]", "[a-]", "[-a]", "^a$", r"\Aa\z", "(?P<x>a)b", "(a(b(c)))", ".", ".*", "(?s).", "a.c", "é+"),
    *(
        "(?i)k",
        "(?i)[a-m]+",
        "(?i)(s|x)",
        "a(?i)b",
        "(a(?i)b)c",
        "a*?b+?",
        "x{0}",
        "((a?)*)*",
        "(|a)+",
        "()",
        "{",
        "a{,2}",
        "a{x}",
    ),
    *("(?i:a)b", "(?i-s:a.)", "(?U)a*", "[[:punct:]]", "[A-Z_]+[0-9]*", "(prod|stage)\\.[a-z]+\\.(in|out)"),
)
TEXTS = st.text(alphabet="abcdkKsSxyz.OPrR019_- \n\t]{,}é€\u017f\u212a\U0001f600", max_size=8)
WORDS = (
    "",
    "orders",
    "ORDERS",
    "orders-1",
    "abc",
    "c",
    "aa",
    "aaa",
    "ab",
    "A",
    "é",
    "éé",
    "prod.x.in",
    "stage.abc.out",
    "\n",
    "k",
)


def run(program: list[Step], text: bytes) -> bool:
    """The slow, obvious reading of a program."""

    def follow(at: int, found: set[int]) -> set[int]:
        if at not in found:
            found.add(at)
            if program[at][0] == "split":
                for target in program[at][1:]:
                    assert isinstance(target, int)
                    follow(target, found)
        return found

    now = follow(0, set())
    for byte in text:
        reached: set[int] = set()
        for at in now:
            kind, *bounds = program[at]
            if kind == "byte" and any(low <= byte <= high for low, high in zip(bounds[::2], bounds[1::2], strict=True)):
                follow(at + 1, reached)
        now = reached
    return any(program[at] == ("match",) for at in now)


def agrees(expression: str, text: str) -> None:
    ours = run(compile_pattern(expression), text.encode())
    theirs = re2.fullmatch(expression.encode(), text.encode()) is not None
    assert ours == theirs, (expression, text)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_program_agrees_with_re2_on_words(expression: str) -> None:
    for word in WORDS:
        agrees(expression, word)


@given(expression=st.sampled_from(EXPRESSIONS), text=TEXTS)
def test_program_agrees_with_re2_on_any_text(expression: str, text: str) -> None:
    agrees(expression, text)


@given(expression=st.text(alphabet="ab|*+?(){}[]^$.\\dwi:-12,k?", max_size=10), text=st.text(alphabet="abk12-d\n", max_size=5))
def test_what_is_compiled_means_what_re2_means(expression: str, text: str) -> None:
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(expression, options)
    except re2.error:
        return
    try:
        compile_pattern(expression)
    except PatternError:
        return
    agrees(expression, text)


@pytest.mark.parametrize("expression", [r"\bword", r"\pL", r"\Qa\E", "a^", "$a", "(?m)a", "[é]", r"\C", "[[:cntrl:]]"])
def test_what_is_not_supported_is_refused(expression: str) -> None:
    with pytest.raises(PatternError):
        compile_pattern(expression)


def test_a_program_has_a_limit() -> None:
    with pytest.raises(PatternError, match="longer than"):
        compile_pattern("(?:[a-z]{100}){60}")
    assert len(compile_pattern("a{1000}")) < PROGRAM_MAX
