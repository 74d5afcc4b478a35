"""The listener of a slot: one proxy port, one filter chain, nothing sniffed.

Owns: sockets, listener filters and the chain. A listener never changes once made, for a change would close its connections:
rules are elsewhere (route.py, network.py, tls.py). If a slot's listener would differ, the slot needs a new id.

The listening sockets are transparent, so that the kernel program can hand them a connection meant for any address; the
accepted connection's local address then is where the client was going, which original_dst makes the destination. original_src
makes the upstream socket leave from the client's address. Both carry the mark that says "from the proxy".
"""

from __future__ import annotations

from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.core.v3.base_pb2 import TrafficDirection
from envoy.config.core.v3.socket_option_pb2 import SocketOption
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import AdditionalAddress, Listener
from envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2 import OriginalDst
from envoy.extensions.filters.listener.original_src.v3.original_src_pb2 import OriginalSrc
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from l7filters.envoy import names
from l7filters.envoy.http import http_connection_manager
from l7filters.envoy.kafka import kafka_filter
from l7filters.envoy.message import duration, packed
from l7filters.envoy.network import guard, server_name_filters, server_name_passed_on, tcp_proxy
from l7filters.envoy.settings import EnvoySettings
from l7filters.envoy.tls import TlsMaterial
from l7filters.ir import Slot
from l7filters.model import Direction, L7Protocol

MARK_FROM_PROXY = 0xA00
"""ABI: bpf_redirect/include/abi.h."""
HTTP_FILTER = "envoy.filters.network.http_connection_manager"
LOOPBACK = ("127.0.0.1", "::1")

_SOL_SOCKET = 1
_SO_MARK = 36
_TRAFFIC = {Direction.EGRESS: TrafficDirection.OUTBOUND, Direction.INGRESS: TrafficDirection.INBOUND}


def proxy_port(slot_id: int, settings: EnvoySettings) -> int:
    """Return the port that a slot listens on."""
    return settings.proxy_port_min + slot_id


def listener(slot: Slot, slot_id: int, settings: EnvoySettings, tls: TlsMaterial | None) -> Listener:
    """Return the listener of ``slot``; ``tls``: what terminates TLS."""
    judged = tuple(each for each, rules in ((Direction.EGRESS, slot.egress), (Direction.INGRESS, slot.ingress)) if rules)
    port = proxy_port(slot_id, settings)
    addresses = [_address(each, port) for each in (LOOPBACK if settings.ipv6 else LOOPBACK[:1])]
    chain = FilterChain(filters=[guard(port), *_filters(slot, slot_id, judged, settings)])
    if tls is not None:
        chain.transport_socket.CopyFrom(tls.socket)
        chain.transport_socket_connect_timeout.CopyFrom(duration(settings.listener_filters_timeout_seconds))
    made = Listener(
        name=names.slot_name(slot_id),
        stat_prefix=names.slot_name(slot_id),
        address=addresses[0],
        additional_addresses=[AdditionalAddress(address=each) for each in addresses[1:]],
        listener_filters=_listener_filters(slot, settings),
        listener_filters_timeout=duration(settings.listener_filters_timeout_seconds),
        continue_on_listener_filters_timeout=False,
        filter_chains=[chain],
        per_connection_buffer_limit_bytes=UInt32Value(value=settings.connection_buffer_bytes),
        tcp_backlog_size=UInt32Value(value=settings.tcp_backlog),
        enable_reuse_port=BoolValue(value=settings.reuse_port),
        traffic_direction=_TRAFFIC[judged[0]] if len(judged) == 1 else TrafficDirection.UNSPECIFIED,
    )
    if settings.transparent:
        made.transparent.CopyFrom(BoolValue(value=True))
        made.socket_options.add(
            description="mark: from the proxy",
            level=_SOL_SOCKET,
            name=_SO_MARK,
            int_value=MARK_FROM_PROXY,
            state=SocketOption.STATE_PREBIND,
        )
    return made


def _filters(slot: Slot, slot_id: int, judged: tuple[Direction, ...], settings: EnvoySettings) -> list[Filter]:
    name = names.slot_name(slot_id)
    if slot.key.protocol is L7Protocol.TLS:
        judging = [each for direction in judged for each in server_name_filters(slot_id, direction)]
        return [*judging, tcp_proxy(name, judged, settings)]
    if slot.key.protocol is L7Protocol.KAFKA:
        cluster = names.ORIGINAL_DST_CLUSTER if slot.originating_tls is None else names.originating_cluster(slot_id)
        sent_name = [] if slot.originating_tls is None else [server_name_passed_on()]
        return [*sent_name, kafka_filter(slot_id), tcp_proxy(name, (), settings, cluster)]
    assert slot.key.protocol is L7Protocol.HTTP
    return [Filter(name=HTTP_FILTER, typed_config=packed(http_connection_manager(name, judged, settings, sample=slot.sample)))]


def _listener_filters(slot: Slot, settings: EnvoySettings) -> list[ListenerFilter]:
    filters = [ListenerFilter(name="envoy.filters.listener.original_dst", typed_config=packed(OriginalDst()))]
    if settings.transparent:
        source = OriginalSrc(mark=MARK_FROM_PROXY)
        filters.append(ListenerFilter(name="envoy.filters.listener.original_src", typed_config=packed(source)))
    if slot.key.protocol is L7Protocol.TLS or slot.terminating_tls is not None:
        filters.append(ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=packed(TlsInspector())))
    return filters


def _address(address: str, port: int) -> Address:
    return Address(socket_address=SocketAddress(address=address, port_value=port))
