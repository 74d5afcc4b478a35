"""Names as the evaluator, the DNS proxy and Envoy read them: three writings of one meaning."""

from __future__ import annotations

import re2
from envoy.config.rbac.v3.rbac_pb2 import Permission
from hypothesis import given
from hypothesis import strategies as st

from l7filters.envoy.fqdn import host_names_permission, server_name_permission
from l7filters.envoy.matching import Stance
from l7filters.fqdn import names_hold
from l7filters.ir import ServerNameRule
from proxylib.dns.rules import NameMatcher, NameSelector
from tests.support.slots import origin

labels = st.text(alphabet="ab-", min_size=1, max_size=3)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
pattern_labels = st.text(alphabet="ab*", min_size=1, max_size=3)
patterns = st.lists(pattern_labels, min_size=1, max_size=3).map(".".join) | names.map(lambda name: f"**.{name}")
excepts = st.lists(patterns, max_size=2).map(tuple)
selectors = st.builds(NameSelector, match_name=names, excepts=excepts) | st.builds(
    NameSelector, match_pattern=patterns, excepts=excepts
)


def holds(permission: Permission, host: str, server_name: str) -> bool:
    """Judge as Envoy's RBAC does."""
    match permission.WhichOneof("rule"):
        case "and_rules":
            return all(holds(one, host, server_name) for one in permission.and_rules.rules)
        case "or_rules":
            return any(holds(one, host, server_name) for one in permission.or_rules.rules)
        case "not_rule":
            return not holds(permission.not_rule, host, server_name)
        case "header":
            matcher, text = permission.header.string_match, host
        case _:
            matcher, text = permission.requested_server_name, server_name
    return re2.fullmatch(matcher.safe_regex.regex, text) is not None


@given(st.lists(selectors, min_size=1, max_size=3).map(tuple), names)
def test_evaluator_dns_proxy_and_envoy_agree(listed: tuple[NameSelector, ...], name: str) -> None:
    expected = names_hold(listed, name)
    assert bool(NameMatcher(listed).matches(name)) == expected
    for stance in Stance:
        permission = host_names_permission(listed, stance)
        for host in (name, name.upper(), f"{name}.", f"{name}:80", f"{name}.:"):
            assert holds(permission, host, "") == expected, host
    rule = ServerNameRule(origin(), listed)
    assert holds(server_name_permission(rule), "", name.upper()) == expected
    assert not holds(server_name_permission(rule), "", ""), "no name is no name"
    assert not names_hold(listed, "")
