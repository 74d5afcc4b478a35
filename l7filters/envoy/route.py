"""RouteConfiguration: where a slot's policy lives, for it can change here under live connections.

Owns: the one virtual host of a slot and its routes. Must not know listeners.

Routes, in the order Envoy tries them: CONNECT (judged by rules of its own, rbac.py); paths that servers read in different ways
(refused); one per set of header mismatch actions that can be due together (headers.py); everything else. All but the refusal
go where the client was going: the original destination.
"""

from __future__ import annotations

from envoy.config.core.v3.base_pb2 import DataSource, HeaderValue, HeaderValueOption
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.config.route.v3.route_components_pb2 import DirectResponseAction, Route, RouteAction, RouteMatch, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.common.set_filter_state.v3.value_pb2 import FilterStateValue
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBACPerRoute
from envoy.extensions.filters.http.set_filter_state.v3.set_filter_state_pb2 import Config as SetFilterState
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from google.protobuf.wrappers_pb2 import BoolValue

from l7filters.envoy import names
from l7filters.envoy.faults import Faults
from l7filters.envoy.headers import HeaderAction, action_sets, header_actions
from l7filters.envoy.matching import ANYTHING, QUERY_NAME, query_names, query_state_key
from l7filters.envoy.message import duration, packed
from l7filters.envoy.names import Stage
from l7filters.envoy.rbac import route_filters
from l7filters.envoy.secrets import Secrets
from l7filters.envoy.settings import EnvoySettings
from l7filters.ir import DirectionRules, RuleSet, Slot
from l7filters.model import Direction, HttpRule

ROUTE_CONNECT = "connect"
ROUTE_AMBIGUOUS = "ambiguous"
ROUTE_ANY = "any"

AMBIGUOUS_PATH = rf"{ANYTHING}/\.\.?;{ANYTHING}"
"""A dot segment with parameters. Envoy takes them off (and the segment away), but not when the dots came percent-encoded; some
servers then go up by it, past the rule that allowed the path."""
BAD_REQUEST = 400


def directions(slot: Slot) -> list[tuple[Direction, DirectionRules]]:
    """Return the directions that a slot judges, in the order they are judged."""
    judged = ((Direction.EGRESS, slot.egress), (Direction.INGRESS, slot.ingress))
    return [(direction, rules) for direction, rules in judged if rules is not None]


def route_configuration(
    slot: Slot, name: str, cluster: str, settings: EnvoySettings, secrets: Secrets, faults: Faults
) -> RouteConfiguration:
    """Return the routes of an HTTP slot. Raises RuleProblem when the slot as a whole can't be translated."""
    judged = directions(slot)
    actions = header_actions([rule for _, rules in judged for rule in _allow(rules.enforced)], secrets, faults)
    host = VirtualHost(
        name=name,
        domains=["*"],
        request_headers_to_remove=[names.FORWARDED_PROTO_KEPT],
        routes=[
            _connect_route(judged, cluster, settings, secrets, faults),
            _ambiguous_route(judged),
            *(_route(cluster, settings, due) for due in action_sets(actions)),
            _route(cluster, settings, ()),
        ],
    )
    for direction, rules in judged:
        for filter_name, config in route_filters(direction, rules, secrets, faults).items():
            host.typed_per_filter_config[filter_name].CopyFrom(packed(config))
    host.typed_per_filter_config[names.QUERY_FILTER].CopyFrom(packed(query_state(judged)))
    return RouteConfiguration(name=name, virtual_hosts=[host], validate_clusters=BoolValue(value=False))


def _allow(rules: RuleSet) -> list[HttpRule]:
    return [rule for rule in rules.allow if isinstance(rule, HttpRule)]


def query_state(judged: list[tuple[Direction, DirectionRules]]) -> SetFilterState:
    """Return what puts the decoded query parameters that some rule compares into the request's filter state."""
    rules: list[HttpRule] = []
    for _, both in judged:
        for rule_set in (both.enforced, both.shadow):
            if rule_set is not None:
                rules += [rule for rule in (*rule_set.allow, *rule_set.deny) if isinstance(rule, HttpRule)]
    values = []
    for name in query_names(rules):
        if QUERY_NAME.fullmatch(name):  # of others no rule was translated
            source = SubstitutionFormatString(
                text_format_source=DataSource(inline_string=f"%QUERY_PARAM({name})%"), omit_empty_values=True
            )
            values.append(FilterStateValue(object_key=query_state_key(name), factory_key="envoy.string", format_string=source))
    return SetFilterState(on_request_headers=values)


def _forward(cluster: str, settings: EnvoySettings) -> RouteAction:
    """Return the way to where the client was going, with nothing added."""
    return RouteAction(
        cluster=cluster,
        timeout=duration(settings.request_timeout_seconds),
        idle_timeout=duration(settings.stream_idle_timeout_seconds),
    )


def _restored_headers() -> list[HeaderValueOption]:
    """Return what gives the client's own x-forwarded-proto back; see http.early_header_mutation."""
    kept = HeaderValue(key="x-forwarded-proto", value=f"%REQ({names.FORWARDED_PROTO_KEPT})%")
    return [HeaderValueOption(header=kept)]


def _route(cluster: str, settings: EnvoySettings, due: tuple[HeaderAction, ...]) -> Route:
    added = [option for action in due if (option := action.added()) is not None]
    removed = sorted({action.mismatch.header for action in due if action.removes()})
    return Route(
        name=names.mismatch_route(tuple(action.mismatch for action in due)) if due else ROUTE_ANY,
        match=RouteMatch(prefix="/", headers=[matcher for action in due for matcher in action.due]),
        route=_forward(cluster, settings),
        request_headers_to_remove=["x-forwarded-proto", *removed],
        request_headers_to_add=[*_restored_headers(), *added],
    )


def _ambiguous_route(judged: list[tuple[Direction, DirectionRules]]) -> Route:
    """Return the route that refuses a path that can't be judged, as Envoy refuses other malformed ones: before any rule."""
    route = Route(
        name=ROUTE_AMBIGUOUS,
        match=RouteMatch(safe_regex=RegexMatcher(regex=AMBIGUOUS_PATH)),
        direct_response=DirectResponseAction(status=BAD_REQUEST),
    )
    for direction, _ in judged:
        for stage in Stage:
            route.typed_per_filter_config[names.rbac_filter(direction, stage)].CopyFrom(packed(RBACPerRoute()))
    return route


def _connect_route(
    judged: list[tuple[Direction, DirectionRules]], cluster: str, settings: EnvoySettings, secrets: Secrets, faults: Faults
) -> Route:
    """Return the route of CONNECT, with rules of its own: only a rule that names the method can allow it.

    The upgrade is always on: without it Envoy would refuse before RBAC, close the connection and name no rule.
    """
    route = Route(
        name=ROUTE_CONNECT,
        match=RouteMatch(connect_matcher=RouteMatch.ConnectMatcher()),
        route=_forward(cluster, settings),
        request_headers_to_remove=["x-forwarded-proto"],
        request_headers_to_add=_restored_headers(),
    )
    route.route.upgrade_configs.add(upgrade_type="CONNECT", enabled=BoolValue(value=True))
    for direction, rules in judged:
        for filter_name, config in route_filters(direction, rules, secrets, faults, connect=True).items():
            route.typed_per_filter_config[filter_name].CopyFrom(packed(config))
    return route
