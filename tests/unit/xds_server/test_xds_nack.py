"""Envoy's refusals: which resources they name, and when nothing may be concluded."""

from __future__ import annotations

import pytest

from xds_server.nack import refused_names
from xds_server.snapshot import TypeUrl

LISTENERS = "Error adding/updating listener(s) "
CLUSTERS = "Error adding/updating cluster(s) "

CASES = [
    (TypeUrl.LISTENER, f"{LISTENERS}b: no such filter\n", {"b": "no such filter"}),
    (TypeUrl.LISTENER, f"{LISTENERS}b: one\ntwo lines\nc: other\n", {"b": "one\ntwo lines", "c": "other"}),
    # A name that starts another, or stands within a reason, is not named.
    (TypeUrl.LISTENER, f"{LISTENERS}ab: address in use by a: b: c\n", {"ab": "address in use by a: b: c"}),
    # A name that contains the separator of the label.
    (TypeUrl.LISTENER, f"{LISTENERS}d: e: odd name\n", {"d: e": "odd name"}),
    (TypeUrl.CLUSTER, f"{CLUSTERS}a: bad timeout, ab: bad, comma, c: x", {"a": "bad timeout", "ab": "bad, comma", "c": "x"}),
    # Cut short by the limit of the message: what is left counts.
    (TypeUrl.LISTENER, f"{LISTENERS}a: first\nb: sec", {"a": "first", "b": "sec"}),
    (TypeUrl.LISTENER, "Proto constraint validation failed (Listener.Name: a: b)", {}),
    (TypeUrl.LISTENER, f"{LISTENERS}zzz: not ours\n", {}),
    (TypeUrl.ROUTE, f"{LISTENERS}a: not this type\n", {}),
    (TypeUrl.ROUTE, "a: no such cluster", {}),
    (TypeUrl.LISTENER, "", {}),
]


@pytest.mark.parametrize("type_url, message, expected", CASES)
def test_only_resources_in_the_place_of_a_name_are_named(type_url: TypeUrl, message: str, expected: dict[str, str]) -> None:
    assert refused_names(type_url, message, ["a", "ab", "b", "c", "d: e"]) == expected
