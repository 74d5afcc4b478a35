"""The Python side of ``include/abi.h``: the same structs, numbers and limits, under the same names.

Owns nothing of its own: a test compiles the header and compares sizes, offsets and numbers. Fields ending in ``_be``
hold wire order as a number read natively (use ``socket.htons``); everything else is host order.
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint8, c_uint16, c_uint32, c_uint64
from enum import IntEnum, IntFlag

ABI_VERSION = 2

ENDPOINT_ADDRESSES_MAX = 8
SLOTS_MAX = 2048
IPV6_EXTENSIONS_MAX = 6
CGROUP_LEVELS_MAX = 8
REASONS_MAX = 96
HOOKS_MAX = 8
NAMES_PER_ADDRESS_MAX = 16
L7_RESERVED = 8
L7_PROBES_MAX = 32

MARK_MASK = 0x0F00
MARK_TO_PROXY = 0x0200
MARK_REPLY = 0x0400
MARK_FROM_PROXY = 0x0A00

IPCACHE_PREFIX_MAX = 128
POLICY_PREFIX_ANY = 72
POLICY_PREFIX_PROTOCOL = 80
POLICY_PREFIX_MAX = 96


class Verdict(IntEnum):
    """``enum tg_verdict``."""

    DENY = 1
    ALLOW = 2
    REDIRECT = 3


class FlowDirection(IntEnum):
    """``enum tg_direction``."""

    INGRESS = 1
    EGRESS = 2


class L7Kind(IntEnum):
    """``enum tg_l7_kind``: what the proxy said of a request."""

    ALLOWED = 1
    DENIED = 2
    AUDITED = 3
    ERROR = 4


class L7State(IntEnum):
    """``enum tg_l7_state``: what a record of ``tg_l7_verdicts`` is used for."""

    FREE = 0
    LIVE = 1
    RETIRING = 2
    OVERFLOW = 3
    WRITER = 4


class Hook(IntEnum):
    """``enum tg_hook``: where a packet was seen."""

    FROM_ENDPOINT = 0
    TO_ENDPOINT = 1
    FROM_NETDEV = 2
    FROM_HAIRPIN = 3
    CGROUP_CONNECT = 4
    CGROUP_EGRESS = 5
    CGROUP_INGRESS = 6


class PassReason(IntEnum):
    """``enum tg_reason`` below ``TG_DROP_FIRST``: the packet went on."""

    FORWARDED = 0
    REDIRECTED = 1
    FROM_PROXY = 2
    FROM_HOST = 3
    RELATED = 4
    LINK = 5
    UNTOUCHED = 6
    WOULD_DENY = 7
    HAIRPINNED = 8
    REPLY_SENT = 9
    OWN_REPLY = 10


class DropReason(IntEnum):
    """``enum tg_reason`` from ``TG_DROP_FIRST``: the packet was dropped."""

    NOT_READY = 32
    SPOOFED = 33
    POLICY_DENIED = 34
    LOOPBACK = 35
    PROXY_PORT = 36
    VLAN_TAGGED = 37
    UNKNOWN_ETHERTYPE = 38
    TRUNCATED = 39
    BAD_LENGTH = 40
    BAD_HEADER = 41
    BAD_TCP_FLAGS = 42
    EXTENSION_LIMIT = 43
    SOURCE_ROUTED = 44
    FRAGMENT_UNKNOWN = 45
    FRAGMENT_BAD = 46
    FRAGMENT_REDIRECT = 47
    REDIRECT_PROTOCOL = 48
    SLOT_NOT_READY = 49
    NO_LISTENER = 50
    NO_PAIR = 51
    ASSIGN_FAILED = 52
    CT_MISSING = 53
    CT_FULL = 54
    FLOW_MOVED = 55
    NO_HAIRPIN = 56
    HAIRPIN_STRAY = 57
    NOT_CONFIGURED = 58
    NO_HOST_ADDRESS = 59
    ICMP_REDIRECT = 60
    REDIRECT_WORKLOAD = 61
    OFFLOADED = 62


Reason = PassReason | DropReason
DROP_FIRST = 32


def reason_of(number: int) -> Reason:
    """Return the reason with ``number``; raises ValueError for one that this version does not know."""
    return DropReason(number) if number >= DROP_FIRST else PassReason(number)


class ConfigFlag(IntFlag):
    """``tg_config.flags``."""

    DENY_REPLY = 1 << 0
    CT_MISSING_RESET = 1 << 1
    TIME_WAIT_LOOKUP = 1 << 2


class PolicyFlag(IntFlag):
    """``tg_policy_value.flags``."""

    WOULD_DENY = 1 << 0
    EXPLICIT_DENY = 1 << 1


class IpcacheFlag(IntFlag):
    """``tg_ipcache_value.flags``."""

    OUTSIDE = 1 << 0


class SlotFlag(IntFlag):
    """``tg_slot.flags``."""

    AUDITED = 1 << 0


class ConntrackKind(IntEnum):
    """``enum tg_ct_kind``."""

    DIRECT = 1
    REDIRECT = 2
    HOST = 3
    RESET = 4
    PROXY = 5


class Realm(IntEnum):
    """``enum tg_realm``."""

    PODS = 0
    WORKLOADS = 1


class ConntrackFlag(IntFlag):
    """``tg_ct.flags``."""

    FROM_HIGH = 1 << 0
    ADOPTED = 1 << 1
    WOULD_DENY = 1 << 2
    DENIED = 1 << 3
    SETTLED = 1 << 4


class TcpSeen(IntFlag):
    """``tg_ct.tcp_seen``."""

    SYN = 1 << 0
    SYN_ACK = 1 << 1
    FIN = 1 << 2
    FIN_REPLY = 1 << 3
    RST = 1 << 4


class EventFlag(IntFlag):
    """``tg_event.flags``."""

    WOULD_DENY = 1 << 0
    REPLY = 1 << 1
    REJUDGED = 1 << 2


class Address(ctypes.Structure):
    """``struct tg_address``, as 16 bytes in wire order."""

    _fields_ = [("words", c_uint8 * 16)]


class Config(ctypes.Structure):
    """``struct tg_config``."""

    _fields_ = [
        ("epoch", c_uint32),
        ("flags", c_uint32),
        ("hairpin_ifindex", c_uint32),
        ("event_sample_every", c_uint32),
        ("events_per_second", c_uint32),
        ("events_burst", c_uint32),
        ("proxy_port_min", c_uint16),
        ("proxy_port_max", c_uint16),
        ("pad", c_uint32),
        ("netns_cookie", c_uint64),
        ("host_ipv4", Address),
        ("host_ipv6", Address),
    ]


class IpcacheKey(ctypes.Structure):
    """``struct tg_ipcache_key``."""

    _fields_ = [("prefix_bits", c_uint32), ("address", Address)]


class IpcacheEntry(ctypes.Structure):
    """``struct tg_ipcache_value``."""

    _fields_ = [("identity", c_uint32), ("ifindex", c_uint32), ("flags", c_uint32)]


class PolicyKey(ctypes.Structure):
    """``struct tg_policy_key``."""

    _fields_ = [
        ("prefix_bits", c_uint32),
        ("subject", c_uint32),
        ("peer", c_uint32),
        ("direction", c_uint8),
        ("protocol", c_uint8),
        ("port_be", c_uint16),
    ]


class PolicyEntry(ctypes.Structure):
    """``struct tg_policy_value``."""

    _fields_ = [("verdict", c_uint8), ("flags", c_uint8), ("slot", c_uint16)]


class NamesKey(ctypes.Structure):
    """``struct tg_names_key``."""

    _fields_ = [("ifindex", c_uint32), ("address", Address)]


class Grant(ctypes.Structure):
    """``struct tg_grant``."""

    _fields_ = [("identity", c_uint32), ("expires_s", c_uint32)]


class Names(ctypes.Structure):
    """``struct tg_names``."""

    _fields_ = [("grants", Grant * NAMES_PER_ADDRESS_MAX)]


class Slot(ctypes.Structure):
    """``struct tg_slot``."""

    _fields_ = [
        ("port_be", c_uint16),
        ("ready", c_uint8),
        ("flags", c_uint8),
        ("denies_per_second", c_uint32),
        ("offload_seconds", c_uint32),
        ("pad", c_uint32),
    ]


class PairKey(ctypes.Structure):
    """``struct tg_pair_key``."""

    _fields_ = [("egress", c_uint16), ("ingress", c_uint16)]


class Endpoint(ctypes.Structure):
    """``struct tg_endpoint``."""

    _fields_ = [("identity", c_uint32), ("address_count", c_uint32), ("addresses", Address * ENDPOINT_ADDRESSES_MAX)]


class ConntrackKey(ctypes.Structure):
    """``struct tg_ct_key``."""

    _fields_ = [
        ("low", Address),
        ("high", Address),
        ("low_port_be", c_uint16),
        ("high_port_be", c_uint16),
        ("protocol", c_uint8),
        ("realm", c_uint8),
        ("pad", c_uint8 * 2),
    ]


class Conntrack(ctypes.Structure):
    """``struct tg_ct``."""

    _fields_ = [
        ("created_ns", c_uint64),
        ("last_seen_ns", c_uint64),
        ("packets", c_uint64),
        ("bytes", c_uint64),
        ("epoch", c_uint32),
        ("source_identity", c_uint32),
        ("destination_identity", c_uint32),
        ("slot", c_uint16),
        ("policy_port_be", c_uint16),
        ("kind", c_uint8),
        ("flags", c_uint8),
        ("tcp_seen", c_uint8),
        ("pad", c_uint8),
        ("name_identity", c_uint32),
    ]


class FragmentKey(ctypes.Structure):
    """``struct tg_fragment_key``."""

    _fields_ = [("source", Address), ("destination", Address), ("id", c_uint32), ("protocol", c_uint8), ("pad", c_uint8 * 3)]


class Fragment(ctypes.Structure):
    """``struct tg_fragment``."""

    _fields_ = [
        ("seen_ns", c_uint64),
        ("source_port_be", c_uint16),
        ("destination_port_be", c_uint16),
        ("icmp_type", c_uint8),
        ("protocol", c_uint8),
        ("pad", c_uint8 * 2),
    ]


class Counter(ctypes.Structure):
    """``struct tg_counter``."""

    _fields_ = [("packets", c_uint64), ("bytes", c_uint64)]


class EventBudget(ctypes.Structure):
    """``struct tg_event_budget``."""

    _fields_ = [
        ("refilled_ns", c_uint64),
        ("milli_tokens", c_uint64),
        ("sent", c_uint64),
        ("lost", c_uint64),
        ("sampling", c_uint64),
    ]


class Event(ctypes.Structure):
    """``struct tg_event``."""

    _fields_ = [
        ("time_ns", c_uint64),
        ("source", Address),
        ("destination", Address),
        ("source_identity", c_uint32),
        ("destination_identity", c_uint32),
        ("ifindex", c_uint32),
        ("length_bytes", c_uint32),
        ("epoch", c_uint32),
        ("source_port", c_uint16),
        ("destination_port", c_uint16),
        ("slot", c_uint16),
        ("reason", c_uint16),
        ("verdict", c_uint8),
        ("hook", c_uint8),
        ("protocol", c_uint8),
        ("tcp_flags", c_uint8),
        ("flags", c_uint8),
        ("pad", c_uint8 * 3),
        ("name_identity", c_uint32),
    ]


class Connect(ctypes.Structure):
    """``struct tg_connect``."""

    _fields_ = [
        ("destination", Address),
        ("destination_port_be", c_uint16),
        ("proxy_port_be", c_uint16),
        ("identity", c_uint32),
    ]


class OriginKey(ctypes.Structure):
    """``struct tg_origin_key``."""

    _fields_ = [("client", Address), ("client_port_be", c_uint16), ("proxy_port_be", c_uint16)]


class ListenerKey(ctypes.Structure):
    """``struct tg_listener_key``."""

    _fields_ = [("port", c_uint16), ("is_ipv6", c_uint8), ("pad", c_uint8)]


class OffloadKey(ctypes.Structure):
    """``struct tg_offload_key``."""

    _fields_ = [("source", Address), ("slot", c_uint32)]


class Offload(ctypes.Structure):
    """``struct tg_offload``."""

    _fields_ = [("until_ns", c_uint64), ("packets", c_uint64)]


class L7Verdict(ctypes.Structure):
    """``struct tg_l7_verdict``."""

    _fields_ = [
        ("subject", c_uint32),
        ("peer", c_uint32),
        ("slot", c_uint16),
        ("kind", c_uint8),
        ("direction", c_uint8),
        ("state", c_uint8),
        ("pad", c_uint8 * 3),
        ("requests", c_uint64),
        ("bytes", c_uint64),
        ("last_seen_ns", c_uint64),
        ("spare", c_uint64 * 3),
    ]
