"""The Envoys of the arms that are not Tidegate.

Their configuration is made by the code that makes Tidegate's: same bootstrap (limits, runtime flags, statistics kept), same
connection manager, same filters, same rule, same cluster options; only how connections get to the proxy and leave it differs.
Two things are left out, both in their favour: the gRPC access log (Tidegate's samples 1 % of allowed requests) and the network
filter that guards the proxy port. ``lean`` is what one would write by hand instead: connection manager, one RBAC, router.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import Address, BindConfig, SocketAddress
from envoy.config.core.v3.socket_option_pb2 import SocketOption
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route, RouteAction, RouteMatch, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from google.protobuf.json_format import MessageToJson
from google.protobuf.wrappers_pb2 import BoolValue

from l7filters.envoy.bootstrap import BootstrapSettings, bootstrap
from l7filters.envoy.cluster import original_dst_cluster
from l7filters.envoy.faults import Faults
from l7filters.envoy.http import http_connection_manager
from l7filters.envoy.listener import HTTP_FILTER, listener
from l7filters.envoy.message import packed
from l7filters.envoy.names import ROUTER_FILTER
from l7filters.envoy.rbac import allow_rules
from l7filters.envoy.route import route_configuration
from l7filters.envoy.settings import EnvoySettings
from l7filters.ir import DirectionRules, RuleSet, Slot, SlotKey
from l7filters.model import Direction, HttpRule, L7Protocol, MatchKind, PolicyKey, RuleOrigin, StringMatch
from tests.support.netns import Pod

ALLOWED_METHOD, ALLOWED_PATH = "GET", "/[a-z0-9]*"
"""The one HTTP rule of every arm with a proxy."""
SIDECAR_MARK = 0x539
CONCURRENCY = 2
START_SECONDS = 20.0

_SOL_SOCKET, _SO_MARK = 1, 36
_ORIGIN = RuleOrigin(PolicyKey("cnp/default/bench"), "spec.ingress[0].toPorts[0].rules.http[0]")
_RULE = HttpRule(_ORIGIN, method=StringMatch(MatchKind.REGEX, ALLOWED_METHOD), path=StringMatch(MatchKind.REGEX, ALLOWED_PATH))
_RULES = RuleSet(allow=(_RULE,))
_SLOT = Slot(SlotKey(L7Protocol.HTTP, ingress=("bench",)), egress=None, ingress=DirectionRules(_RULES, None))


class ProxyError(RuntimeError):
    """An Envoy of an arm did not start."""


# ---- resources ----------------------------------------------------------------------------------------------------


def manager(name: str, cluster: str, settings: EnvoySettings, *, lean: bool) -> HttpConnectionManager:
    """Return the connection manager with its routes in it."""
    if lean:
        return _lean_manager(name, cluster)
    faults = Faults()
    made = http_connection_manager(name, (Direction.INGRESS,), settings)
    made.route_config.CopyFrom(route_configuration(_SLOT, name, cluster, settings, {}, faults))  # takes the place of rds
    assert not faults.found, faults.found
    del made.access_log[:]
    return made


def _lean_manager(name: str, cluster: str) -> HttpConnectionManager:
    faults = Faults()
    rules = RBAC(rules=allow_rules(_RULES, {}, faults, connect=False))
    assert not faults.found, faults.found
    route = Route(match=RouteMatch(prefix="/"), route=RouteAction(cluster=cluster))
    return HttpConnectionManager(
        codec_type=HttpConnectionManager.AUTO,
        stat_prefix=name,
        normalize_path=BoolValue(value=True),
        merge_slashes=True,
        generate_request_id=BoolValue(value=False),
        route_config=RouteConfiguration(name=name, virtual_hosts=[VirtualHost(name=name, domains=["*"], routes=[route])]),
        http_filters=[
            HttpFilter(name="envoy.filters.http.rbac", typed_config=packed(rules)),
            HttpFilter(name=ROUTER_FILTER, typed_config=packed(Router())),
        ],
    )


def listener_at(
    name: str, address: str, port: int, cluster: str, settings: EnvoySettings, *, captured: bool, lean: bool = False
) -> Listener:
    """Return a listener. ``captured``: connections meant for elsewhere come here, so the original destination is looked up."""
    made = listener(_SLOT, 1, settings, None)
    made.name = made.stat_prefix = name
    made.address.CopyFrom(Address(socket_address=SocketAddress(address=address, port_value=port)))
    del made.additional_addresses[:]
    if not captured:
        del made.listener_filters[:]
    chain = made.filter_chains[0]
    del chain.filters[:]
    http = Filter(name=HTTP_FILTER, typed_config=packed(manager(name, cluster, settings, lean=lean)))
    chain.filters.append(http)
    return made


def destination_cluster(name: str, settings: EnvoySettings, mark: int | None = None) -> Cluster:
    """Return the cluster that goes where the client was going; ``mark``: of its sockets, so that they aren't captured again."""
    made = original_dst_cluster(name, settings)
    if mark is not None:
        option = SocketOption(level=_SOL_SOCKET, name=_SO_MARK, int_value=mark, state=SocketOption.STATE_PREBIND)
        source = SocketAddress(address="0.0.0.0", port_value=0)
        made.upstream_bind_config.CopyFrom(BindConfig(source_address=source, socket_options=[option]))
    return made


def fixed_cluster(name: str, address: str, port: int, settings: EnvoySettings) -> Cluster:
    """Return the same cluster with one known server."""
    made = original_dst_cluster(name, settings)
    made.type = Cluster.STATIC
    made.lb_policy = Cluster.ROUND_ROBIN
    made.ClearField("cleanup_interval")
    server = Endpoint(address=Address(socket_address=SocketAddress(address=address, port_value=port)))
    made.load_assignment.CopyFrom(
        ClusterLoadAssignment(cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=server)])])
    )
    return made


def configuration(
    listeners: Iterable[Listener], clusters: Iterable[Cluster], admin_socket: Path, settings: EnvoySettings
) -> Bootstrap:
    """Return Tidegate's bootstrap with static resources in place of the agent."""
    made = bootstrap(BootstrapSettings(node_id="bench", xds_socket="/none", admin_socket=str(admin_socket)), settings)
    made.ClearField("dynamic_resources")
    del made.static_resources.clusters[:]
    layers = [layer for layer in made.layered_runtime.layers if not layer.HasField("rtds_layer")]
    del made.layered_runtime.layers[:]
    made.layered_runtime.layers.extend(layers)
    made.static_resources.listeners.extend(listeners)
    made.static_resources.clusters.extend(clusters)
    return made


# ---- processes ----------------------------------------------------------------------------------------------------


def start(pod: Pod, name: str, binary: Path, listeners: list[Listener], clusters: list[Cluster], settings: EnvoySettings) -> int:
    """Start an Envoy in the pod's namespace, wait until it serves, and return its pid. It ends with the cluster."""
    directory = pod.cluster.directory / f"envoy-{name}"
    directory.mkdir()
    made = configuration(listeners, clusters, directory / "admin.sock", settings)
    path = directory / "bootstrap.json"
    path.write_text(MessageToJson(made, preserving_proto_field_name=True))
    command = [str(binary), "--config-path", str(path), "--concurrency", str(CONCURRENCY), "--log-level", "warning"]
    with (directory / "log").open("wb") as log:
        # A session of its own, as Tidegate's has: sessions are what the scheduler shares processors among (sched(7), autogroup).
        options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True}
        child = pod.popen([*command, "--disable-hot-restart"], **options)
    deadline = time.monotonic() + START_SECONDS
    while not _serves(directory / "admin.sock"):
        if child.poll() is not None or time.monotonic() > deadline:
            raise ProxyError(f"Envoy {name} did not start:\n{(directory / 'log').read_text(errors='replace')[-3000:]}")
        time.sleep(0.05)
    assert os.path.basename(os.readlink(f"/proc/{child.pid}/exe")).startswith("envoy"), "nsenter has become Envoy"
    return child.pid


def _serves(admin_socket: Path) -> bool:
    """Ask Envoy's admin API whether it is ready."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(admin_socket))
            connection.sendall(b"GET /ready HTTP/1.1\r\nHost: envoy\r\n\r\n")
            return b" 200 " in connection.recv(256)
        except OSError:
            return False
