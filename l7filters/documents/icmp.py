"""ICMP fields: message types by number or name.

Owns: the names of types, per family (Cilium's, which are IANA's in CamelCase). Must not know rules.
"""

from __future__ import annotations

from enum import StrEnum

from l7filters.documents.reader import Node, closest
from l7filters.model import PortSpec, Protocol

TYPE_MAX = 255

IPV4_TYPES = {
    "EchoReply": 0,
    "DestinationUnreachable": 3,
    "Redirect": 5,
    "Echo": 8,
    "EchoRequest": 8,
    "RouterAdvertisement": 9,
    "RouterSelection": 10,
    "TimeExceeded": 11,
    "ParameterProblem": 12,
    "Timestamp": 13,
    "TimestampReply": 14,
    "Photuris": 40,
    "ExtendedEchoRequest": 42,
    "ExtendedEchoReply": 43,
}
IPV6_TYPES = {
    "DestinationUnreachable": 1,
    "PacketTooBig": 2,
    "TimeExceeded": 3,
    "ParameterProblem": 4,
    "EchoRequest": 128,
    "EchoReply": 129,
    "MulticastListenerQuery": 130,
    "MulticastListenerReport": 131,
    "MulticastListenerDone": 132,
    "RouterSolicitation": 133,
    "RouterAdvertisement": 134,
    "NeighborSolicitation": 135,
    "NeighborAdvertisement": 136,
    "RedirectMessage": 137,
    "RouterRenumbering": 138,
    "ICMPNodeInformationQuery": 139,
    "ICMPNodeInformationResponse": 140,
    "InverseNeighborDiscoverySolicitation": 141,
    "InverseNeighborDiscoveryAdvertisement": 142,
    "HomeAgentAddressDiscoveryRequest": 144,
    "HomeAgentAddressDiscoveryReply": 145,
    "MobilePrefixSolicitation": 146,
    "MobilePrefixAdvertisement": 147,
    "DuplicateAddressRequestCodeSuffix": 157,
    "DuplicateAddressConfirmationCodeSuffix": 158,
    "ExtendedEchoRequest": 160,
    "ExtendedEchoReply": 161,
}


class Family(StrEnum):
    """Address families as ``icmps`` spells them."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


def icmp_type(node: Node) -> PortSpec:
    """Read one field of an ``icmps`` item; the family is IPv4 unless given."""
    with node.fields() as fields:
        family = fields.read("family", _family, Family.IPV4)
        type_node = fields.require("type")
        names = IPV6_TYPES if family is Family.IPV6 else IPV4_TYPES
        number = 0 if type_node is None else _type_number(type_node, names)
    return PortSpec(Protocol.ICMPV6 if family is Family.IPV6 else Protocol.ICMP, number)


def _family(node: Node) -> Family:
    return Family.IPV4 if node.value == "" else node.choice(Family) or Family.IPV4


def _type_number(node: Node, names: dict[str, int]) -> int:
    if not isinstance(node.value, str):
        return node.integer(0, TYPE_MAX)
    text = node.string(chars_max=64)
    # The field is an integer or a string in Cilium; a string of digits is a number there too.
    if text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= TYPE_MAX:
        return int(text)
    if text and text not in names:
        node.error(f'unknown ICMP type "{text}" of this family', closest(text, names))
    return names.get(text, 0)
