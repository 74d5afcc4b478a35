"""The network filters of a slot: the guard of every listener, and the whole chain of TLS that is passed through unopened.

Owns: network RBAC and the TCP proxy. Must not know HTTP.

A TLS slot judges the server name that the ClientHello asks for, once, when the connection opens. Its rules are extension configs
(ECDS): an edit reaches new connections only; whoever removes a name closes the connections that were opened under it.
"""

from __future__ import annotations

from envoy.config.core.v3.address_pb2 import CidrRange
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.config_source_pb2 import ExtensionConfigSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.rbac.v3.rbac_pb2 import RBAC as RBACRules
from envoy.config.rbac.v3.rbac_pb2 import Permission, Policy, Principal
from envoy.extensions.filters.common.set_filter_state.v3.value_pb2 import FilterStateValue
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.network.set_filter_state.v3.set_filter_state_pb2 import Config as SetFilterState
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from google.protobuf.wrappers_pb2 import UInt32Value

from l7filters.envoy import names
from l7filters.envoy.access_log import tcp_access_log
from l7filters.envoy.counts import counts_log
from l7filters.envoy.fqdn import server_name_permission
from l7filters.envoy.matching import all_of, any_of
from l7filters.envoy.message import duration, from_agent, packed
from l7filters.envoy.names import Stage
from l7filters.envoy.rbac import server_names_permission
from l7filters.envoy.settings import EnvoySettings
from l7filters.ir import DirectionRules, RuleSet
from l7filters.model import Direction

GUARD_FILTER = "tidegate.guard"
SERVER_NAME_FILTER = "tidegate.server-name"
TCP_PROXY = "envoy.filters.network.tcp_proxy"
LOOPBACK_V4 = CidrRange(address_prefix="127.0.0.0", prefix_len=UInt32Value(value=8))
LOOPBACK_V6 = CidrRange(address_prefix="::1", prefix_len=UInt32Value(value=128))
RBAC_TYPE_URL = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC"


def guard(port: int) -> Filter:
    """Return what closes a connection that was made to the proxy port itself.

    Its original destination is this listener: Envoy would connect to itself, without end.
    """
    itself = all_of(
        [
            Permission(destination_port=port),
            any_of([Permission(destination_ip=LOOPBACK_V4), Permission(destination_ip=LOOPBACK_V6)]),
        ]
    )
    rules = RBACRules(
        action=RBACRules.DENY, policies={"proxy-port": Policy(permissions=[itself], principals=[Principal(any=True)])}
    )
    return Filter(name=GUARD_FILTER, typed_config=packed(RBAC(rules=rules, stat_prefix="tidegate_guard_")))


def server_name_rules(slot_id: int, direction: Direction, rules: DirectionRules) -> tuple[TypedExtensionConfig, ...]:
    """Return the two extension configs of one direction: the audit and the judgement. Raises RuleProblem.

    Network RBAC tells only what its shadow rules said. So the judging filter has its own rules as shadow rules too, and what
    policies in audit mode would say is a filter of its own, before it.
    """
    audit = RBAC(stat_prefix=_statistics(direction, "audit"))
    if rules.shadow is not None:
        audit.shadow_rules.CopyFrom(_allowed(rules.shadow))
        audit.shadow_rules_stat_prefix = names.stat_prefix(direction, Stage.ALLOW)
    judged = _allowed(rules.enforced)
    judgement = RBAC(
        rules=judged,
        shadow_rules=judged,
        shadow_rules_stat_prefix=names.stat_prefix(direction, Stage.ALLOW) + names.NETWORK_ENFORCED,
        stat_prefix=_statistics(direction, "judgement"),
    )
    return tuple(
        TypedExtensionConfig(name=name, typed_config=packed(config))
        for name, config in zip(names.server_names_configs(slot_id, direction), (audit, judgement), strict=True)
    )


def server_name_filters(slot_id: int, direction: Direction) -> list[Filter]:
    """Return the filters that ask the agent for their rules; without them the connection is closed."""
    discovery = ExtensionConfigSource(config_source=from_agent(), type_urls=[RBAC_TYPE_URL])
    return [Filter(name=name, config_discovery=discovery) for name in names.server_names_configs(slot_id, direction)]


def _statistics(direction: Direction, part: str) -> str:
    return f"tidegate.{direction}.{part}."


def server_name_passed_on() -> Filter:
    """Return the filter that makes the server name that the client asked for the one asked of the server, and verified there."""
    named = [
        FilterStateValue(
            object_key=key,
            format_string=SubstitutionFormatString(
                text_format_source=DataSource(inline_string="%REQUESTED_SERVER_NAME%"), omit_empty_values=True
            ),
            skip_if_empty=True,
            shared_with_upstream=FilterStateValue.ONCE,
        )
        for key in ("envoy.network.upstream_server_name", "envoy.network.upstream_subject_alt_names")
    ]
    return Filter(name=SERVER_NAME_FILTER, typed_config=packed(SetFilterState(on_new_connection=named)))


def tcp_proxy(
    name: str, judged: tuple[Direction, ...], settings: EnvoySettings, cluster: str = names.ORIGINAL_DST_CLUSTER
) -> Filter:
    """Return the filter that passes bytes on to the original destination."""
    config = TcpProxy(
        stat_prefix=name,
        cluster=cluster,
        idle_timeout=duration(settings.tcp_idle_timeout_seconds),
        access_log=[
            tcp_access_log(name, [(direction, Stage.ALLOW) for direction in judged], settings),
            *counts_log(name, judged, settings),
        ],
    )
    return Filter(name=TCP_PROXY, typed_config=packed(config))


def _allowed(rules: RuleSet) -> RBACRules:
    permission = server_names_permission(rules) or Permission(any=True)
    listed = [str(origin) for origin in rules.allow_all] if rules.any_server_name else []
    policies: dict[str, Policy] = {}
    if rules.any_server_name or rules.server_names or not rules.by_name:
        policies.update(dict.fromkeys(names.policy_names(listed) or [names.SERVER_NAMES_POLICY], _policy(permission)))
    by_name = names.policy_names([str(rule.origin) for rule in rules.by_name])
    policies.update(zip(by_name, (_policy(server_name_permission(rule)) for rule in rules.by_name), strict=True))
    return RBACRules(action=RBACRules.ALLOW, policies=policies)


def _policy(permission: Permission) -> Policy:
    return Policy(permissions=[permission], principals=[Principal(any=True)])
