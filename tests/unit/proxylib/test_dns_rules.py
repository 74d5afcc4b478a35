"""matchName, matchPattern and except mean what Cilium says they mean."""

from __future__ import annotations

import pytest
import re2

from proxylib.dns.rules import NameMatcher, NameSelector, PatternError, pattern_expression


@pytest.mark.parametrize(
    "pattern, matched, unmatched",
    [
        ("*", ["a", "a.b.c", ".", "_x-1.y"], [r"a\046b.c"]),
        ("**", ["a.b", "."], [r"\092.a"]),
        ("***.", ["a.b", "."], []),
        ("*.cilium.io", ["a.cilium.io", "x_-9.cilium.io"], ["cilium.io", "a.b.cilium.io", "a.cilium.io.x", "axcilium.io"]),
        ("*.*", ["a.b"], [".", "a", "a.b.c"]),
        ("*.ci*.io", ["x.ci.io", "x.cilium.io"], ["x.ci.x.io", "ci.io"]),
        ("**.cilium.io", ["a.cilium.io", "a.b.cilium.io"], ["cilium.io", "xcilium.io", ".cilium.io"]),
        ("***.cilium.io", ["a.b.cilium.io"], ["cilium.io"]),
        ("sub.**.io", ["sub.x.io"], ["sub.x.y.io", "sub.io"]),
        ("a**b.io", ["ab.io", "axxb.io"], ["a.b.io"]),
        ("Www.Example.COM.", ["www.example.com"], ["wwwxexample.com", "www.example.com.x"]),
        ("prefix*", ["prefix", "prefix1"], ["prefix.a"]),
    ],
)
def test_patterns(pattern: str, matched: list[str], unmatched: list[str]) -> None:
    matcher = NameMatcher([NameSelector(match_pattern=pattern)])
    assert [name for name in matched if matcher.matches(name) != (0,)] == []
    assert [name for name in unmatched if matcher.matches(name) != ()] == []


def test_names_match_whole_and_without_case_or_dot() -> None:
    matcher = NameMatcher([NameSelector(match_name="WWW.example.com."), NameSelector(match_name=".")])
    assert [matcher.matches(name) for name in ("www.example.com", "example.com", "a.www.example.com", ".")] == [
        (0,),
        (),
        (),
        (1,),
    ]


def test_excepts_take_names_out_of_their_own_selector_only() -> None:
    matcher = NameMatcher(
        [
            NameSelector(match_pattern="*.example.com", excepts=("secret.example.com", "int-*.example.com")),
            NameSelector(match_name="secret.example.com"),
            NameSelector(match_name="a.example.com", excepts=("**.com",)),
        ]
    )
    assert matcher.matches("secret.example.com") == (1,)
    assert matcher.matches("int-1.example.com") == ()
    assert matcher.matches("a.example.com") == (0,)


def test_a_selector_is_a_name_or_a_pattern() -> None:
    for names in ((None, None), ("a", "b")):
        with pytest.raises(PatternError):
            NameSelector(*names)


def test_expression_characters_of_a_pattern_stand_for_themselves() -> None:
    assert re2.compile(pattern_expression("a.[b]+|c")).fullmatch("a.[b]+|c")
    assert not re2.compile(pattern_expression("a.[b]+|c")).fullmatch("c")


def test_thousands_of_selectors_all_answer() -> None:
    selectors = [NameSelector(match_name=f"host{n}.example.com") for n in range(3000)]
    selectors += [NameSelector(match_pattern=f"*.zone{n}.example.com") for n in range(3000)]
    matcher = NameMatcher(selectors)
    assert matcher.matches("host2999.example.com") == (2999,)
    assert matcher.matches("x.zone2999.example.com") == (5999,)
    assert matcher.matches("x.zone3000.example.com") == ()
