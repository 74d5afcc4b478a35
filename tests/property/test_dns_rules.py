"""The compiled matcher against one that is written to be read; the cache's bounds under any history."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from proxylib.dns.cache import DnsCache, EndpointKey
from proxylib.dns.message import Address
from proxylib.dns.rules import NameMatcher, NameSelector

CHARACTERS = set(string.ascii_lowercase + string.digits + "-_")

labels = st.text(alphabet="ab-", min_size=1, max_size=3)
names = st.lists(labels, min_size=1, max_size=4).map(".".join) | st.just(".") | st.just(r"a\046b.a")
pattern_labels = st.text(alphabet="ab*", min_size=1, max_size=3)
patterns = st.lists(pattern_labels, min_size=1, max_size=3).map(".".join) | st.tuples(names).map(lambda t: f"**.{t[0]}")
selectors = st.one_of(
    st.builds(NameSelector, match_name=names, excepts=st.lists(patterns, max_size=2).map(tuple)),
    st.builds(NameSelector, match_pattern=patterns, excepts=st.lists(patterns, max_size=2).map(tuple)),
)


def label_fits(pattern: str, label: str) -> bool:
    """Whether a label fits a pattern's label, star by star."""
    if not pattern:
        return not label
    if pattern[0] == "*":
        return label_fits(pattern[1:], label) or (bool(label) and label[0] in CHARACTERS and label_fits(pattern, label[1:]))
    return bool(label) and label[0] == pattern[0] and label_fits(pattern[1:], label[1:])


def fits(pattern: str, name: str) -> bool:
    """Cilium's meaning, label by label."""
    if set(pattern) == {"*"}:
        return name == "." or all(set(label) <= CHARACTERS for label in name.split("."))
    if name == ".":
        return pattern == "."
    wanted, given_ = pattern.split("."), name.split(".")
    if len(wanted) > 1 and len(wanted[0]) > 1 and set(wanted[0]) == {"*"}:
        wanted = wanted[1:]
        if len(given_) <= len(wanted) or not all(set(label) <= CHARACTERS for label in given_[: -len(wanted)]):
            return False
        given_ = given_[-len(wanted) :]
    return len(wanted) == len(given_) and all(map(label_fits, wanted, given_))


def covers(selector: NameSelector, name: str) -> bool:
    named = selector.match_name == name if selector.match_name is not None else fits(selector.match_pattern or "", name)
    return named and not any(fits(pattern, name) for pattern in selector.excepts)


@given(st.lists(selectors, max_size=8), st.lists(names, max_size=8))
def test_the_matcher_agrees_with_the_plain_reading(listed: list[NameSelector], asked: list[str]) -> None:
    matcher = NameMatcher(listed)
    for name in asked:
        assert matcher.matches(name) == tuple(index for index, selector in enumerate(listed) if covers(selector, name)), name


addresses = st.integers(0, 9).map(lambda n: Address(bytes([10, 0, 0, n])))
Step = tuple[str, str, list[Address], int, int]
steps: st.SearchStrategy[Step] = st.tuples(
    *(st.sampled_from(["a", "b"]), st.sampled_from(["x", "y", "z"]), st.lists(addresses, max_size=5)),
    *(st.integers(1, 60), st.integers(0, 9)),
)


@given(st.lists(steps, max_size=30))
def test_the_cache_keeps_its_bounds_and_never_loses_what_is_alive(
    history: list[Step],
) -> None:
    cache = DnsCache(addresses_per_name_max=4, names_per_endpoint_max=2)
    now = 0
    for endpoint, name, found, ttl, later in history:
        now += later
        key = EndpointKey(endpoint)
        before = cache.names(key, now)
        gone = cache.remember(key, name, found, now + ttl, now)
        after = cache.names(key, now)
        assert len(after) <= 2
        assert all(len(known) <= 4 for known in after.values())
        assert set(gone).isdisjoint(set(after.get(name, {})) - set(before.get(name, {})) - set(found))
        known_before = {address for known in before.values() for address in known} | set(found)
        alive = {address for known in after.values() for address in known}
        assert alive <= known_before
        assert known_before - alive <= set(gone), "whoever loses its last name is told"
        if found:
            assert cache.lacking(key, name, after.get(name, {}), now + 1) == ()
        again = DnsCache(4, 2)
        again.load(cache.dump(key, "b"), "b", now)
        assert again.names(key, now) == after
        for address in known_before:
            holders = sorted((n, known[address]) for n, known in after.items() if address in known)
            assert cache.holders(key, address, now) == tuple(holders)
