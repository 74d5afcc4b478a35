"""What endpoints know: bounded, per endpoint, and the same after a restart."""

from __future__ import annotations

import pytest

from proxylib.dns.cache import DnsCache, EndpointKey, parse_address
from proxylib.errors import SavedStateError

A, B = EndpointKey("default/a@10.0.0.1"), EndpointKey("default/b@10.0.0.2")
ONE, TWO, THREE = (parse_address(text) for text in ("10.1.0.1", "10.1.0.2", "fd00::3"))


def test_what_one_endpoint_resolved_the_other_does_not_know() -> None:
    cache = DnsCache()
    cache.remember(A, "x.test", (ONE,), 100, 0)
    assert cache.names(A, 0) == {"x.test": {ONE: 100}}
    assert cache.names(B, 0) == {}
    assert cache.lacking(B, "x.test", (ONE,), 50) == (ONE,)


def test_only_what_does_not_stand_long_enough_is_lacking() -> None:
    cache = DnsCache()
    cache.remember(A, "x.test", (ONE, TWO), 100, 0)
    assert cache.lacking(A, "x.test", (ONE, TWO, THREE), 100) == (THREE,)
    assert cache.lacking(A, "x.test", (ONE, TWO), 101) == (ONE, TWO)
    assert cache.lacking(A, "y.test", (ONE,), 1) == (ONE,)


def test_an_expiry_never_gets_earlier() -> None:
    cache = DnsCache()
    cache.remember(A, "x.test", (ONE,), 100, 0)
    cache.remember(A, "x.test", (ONE,), 50, 0)
    assert cache.names(A, 99) == {"x.test": {ONE: 100}}


def test_beyond_the_cap_the_soonest_to_expire_goes() -> None:
    cache = DnsCache(addresses_per_name_max=2)
    cache.remember(A, "x.test", (ONE,), 100, 0)
    cache.remember(A, "x.test", (TWO,), 50, 0)
    assert cache.remember(A, "x.test", (THREE,), 80, 0) == (TWO,)
    assert cache.names(A, 0) == {"x.test": {ONE: 100, THREE: 80}}
    assert cache.evicted_addresses == 1


def test_an_address_that_one_name_gave_up_is_still_the_others() -> None:
    cache = DnsCache(addresses_per_name_max=1)
    cache.remember(A, "x.test", (ONE,), 50, 0)
    cache.remember(A, "y.test", (ONE,), 70, 0)
    assert cache.holders(A, ONE, 0) == (("x.test", 50), ("y.test", 70))
    assert cache.remember(A, "x.test", (TWO,), 100, 0) == (ONE,)
    assert cache.holders(A, ONE, 0) == (("y.test", 70),)
    assert (cache.holders(A, ONE, 70), cache.addresses(A)) == ((), (ONE, TWO))


def test_beyond_the_names_the_longest_unrefreshed_goes() -> None:
    cache = DnsCache(names_per_endpoint_max=2)
    cache.remember(A, "x.test", (ONE,), 100, 0)
    cache.remember(A, "y.test", (TWO,), 100, 0)
    cache.remember(A, "x.test", (ONE,), 101, 0)
    assert cache.remember(A, "z.test", (THREE,), 100, 0) == (TWO,)
    assert sorted(cache.names(A, 0)) == ["x.test", "z.test"]
    assert cache.evicted_names == 1


def test_expired_answers_are_forgotten() -> None:
    cache = DnsCache()
    cache.remember(A, "x.test", (ONE,), 100, 0)
    cache.remember(A, "x.test", (TWO,), 200, 0)
    assert cache.expire(A, 150) == (ONE,)
    assert cache.names(A, 0) == {"x.test": {TWO: 200}}
    assert cache.size() == (1, 1)
    assert cache.expire(A, 200) == (TWO,)
    assert cache.endpoints == ()


def test_a_restarted_proxy_knows_what_it_knew() -> None:
    cache = DnsCache()
    cache.remember(A, "x.test", (ONE, THREE), 100, 0)
    cache.remember(A, "y.test", (ONE,), 300, 0)
    again = DnsCache()
    assert again.load(cache.dump(A, "boot"), "boot", 0) == A
    assert again.names(A, 0) == cache.names(A, 0)
    assert again.holders(A, ONE, 0) == (("x.test", 100), ("y.test", 300))
    late = DnsCache()
    late.load(cache.dump(A, "boot"), "boot", 150)
    assert late.names(A, 150) == {"y.test": {ONE: 300}}


def test_answers_of_another_boot_are_of_another_clock() -> None:
    cache = DnsCache()
    cache.remember(A, "x.test", (ONE,), 100, 0)
    again = DnsCache()
    assert again.load(cache.dump(A, "before"), "now", 0) is None
    assert again.endpoints == ()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 9}', '{"version":1,"boot":"b","endpoint":"e","names":{"n":{"x":1}}}', "[" * 9999]
)
def test_a_file_that_is_no_cache_is_said_to_be_none(text: str) -> None:
    with pytest.raises(SavedStateError):
        DnsCache().load(text, "b", 0)
