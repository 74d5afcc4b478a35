/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From bytes to struct tg_packet. One cursor reads everything; a read beyond the packet is
 * TG_TRUNCATED. What is let through unjudged, and what can't be judged and is dropped:
 *
 *  1. ARP, and neighbour discovery (hop limit 255) and MLD that stay on the link: TG_LINK.
 *  2. VLAN tags (in the frame or beside it) and ethertypes other than IP: dropped.
 *  3. Lengths that contradict the packet, wrong versions, IPv4 source routes, IPv6 routing
 *     headers that still have a hop to go (type 0 always), chains of more than
 *     TG_IPV6_EXTENSIONS_MAX extension headers: dropped.
 *  4. A first fragment must hold its whole L4 header; later ones need it to have been seen. No
 *     fragments of fragments.
 *  5. IPv4-mapped addresses in an IPv6 header: dropped.
 */
#ifndef TG_PARSE_H
#define TG_PARSE_H

#include "fragments.h"
#include "packet.h"

#define TG_OK TG_FORWARDED

struct tg_cursor {
	struct __sk_buff *skb;
	__u32 offset;
};

static __always_inline bool tg_read(const struct tg_cursor *cursor, void *to, __u32 size)
{
	return bpf_skb_load_bytes(cursor->skb, cursor->offset, to, size) == 0;
}

struct tg_ipv4 {
	__u8 version_words;
	__u8 tos;
	__be16 total_bytes_be;
	__be16 id_be;
	__be16 fragment_be;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__be32 source;
	__be32 destination;
};

struct tg_ipv6 {
	__be32 version_class_flow;
	__be16 payload_bytes_be;
	__u8 next_header;
	__u8 hop_limit;
	struct tg_address source;
	struct tg_address destination;
};

struct tg_tcp {
	__be16 source_port_be;
	__be16 destination_port_be;
	__be32 sequence_be;
	__be32 acknowledged_be;
	__u8 header_words; /* high nibble */
	__u8 flags;
	__be16 window_be;
	__be16 checksum;
	__be16 urgent_be;
};

struct tg_udp {
	__be16 source_port_be;
	__be16 destination_port_be;
	__be16 length_be;
	__be16 checksum;
};

struct tg_icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 id_be;
	__be16 sequence_be;
};

static __always_inline void tg_map_ipv4(struct tg_address *to, __be32 address)
{
	to->words[0] = 0;
	to->words[1] = 0;
	to->words[2] = bpf_htonl(0xffff);
	to->words[3] = address;
}

static __always_inline bool tg_is_link_scope(const struct tg_address *address)
{
	__u32 top = bpf_ntohl(address->words[0]) >> 16;

	return (top & 0xffc0) == 0xfe80 || (top & 0xff0f) == 0xff02;
}

/* ND and MLD never leave the link, so they need no verdict; anything else is judged by type. */
static __always_inline bool tg_is_link_icmpv6(const struct tg_packet *packet)
{
	__u8 type = packet->icmp_type;
	bool on_link = tg_is_link_scope(&packet->destination) || tg_is_link_scope(&packet->source);

	if (type >= 133 && type <= 137)
		return packet->hop_limit == 255 && on_link;
	if ((type >= 130 && type <= 132) || type == 143)
		return tg_is_link_scope(&packet->destination);
	return false;
}

static __always_inline enum tg_reason tg_parse_l4(struct tg_cursor *cursor,
						  struct tg_packet *packet)
{
	struct tg_tcp tcp;
	struct tg_udp udp;
	struct tg_icmp icmp;

	switch (packet->protocol) {
	case TG_PROTO_TCP:
		if (packet->l4_bytes < sizeof(tcp) || !tg_read(cursor, &tcp, sizeof(tcp)))
			return TG_TRUNCATED;
		if ((tcp.header_words >> 4) < 5)
			return TG_BAD_HEADER;
		if ((tcp.header_words >> 4) * 4 > packet->l4_bytes)
			return TG_BAD_LENGTH;
		packet->source_port_be = tcp.source_port_be;
		packet->destination_port_be = tcp.destination_port_be;
		packet->tcp_flags = tcp.flags;
		if ((tcp.flags & TG_TCP_SYN) && (tcp.flags & (TG_TCP_FIN | TG_TCP_RST)))
			return TG_BAD_TCP_FLAGS;
		return TG_OK;
	case TG_PROTO_UDP:
		if (packet->l4_bytes < sizeof(udp) || !tg_read(cursor, &udp, sizeof(udp)))
			return TG_TRUNCATED;
		if (bpf_ntohs(udp.length_be) != 0 && bpf_ntohs(udp.length_be) < sizeof(udp))
			return TG_BAD_LENGTH;
		if (packet->fragment == TG_WHOLE && !cursor->skb->gso_size &&
		    bpf_ntohs(udp.length_be) > packet->l4_bytes)
			return TG_BAD_LENGTH;
		packet->source_port_be = udp.source_port_be;
		packet->destination_port_be = udp.destination_port_be;
		return TG_OK;
	case TG_PROTO_SCTP:
		if (packet->l4_bytes < 12 || !tg_read(cursor, &udp, sizeof(udp)))
			return TG_TRUNCATED;
		packet->source_port_be = udp.source_port_be;
		packet->destination_port_be = udp.destination_port_be;
		return TG_OK;
	default:
		break;
	}
	if (!tg_is_icmp(packet))
		return TG_OK;
	if (packet->l4_bytes < sizeof(icmp) || !tg_read(cursor, &icmp, sizeof(icmp)))
		return TG_TRUNCATED;
	packet->icmp_type = icmp.type;
	if (packet->is_ipv6)
		packet->icmp_error = icmp.type >= 1 && icmp.type <= 4;
	else
		packet->icmp_error = icmp.type == 3 || icmp.type == 11 || icmp.type == 12;
	if (tg_is_echo(packet)) {
		packet->source_port_be = icmp.id_be;
		packet->destination_port_be = icmp.id_be;
	}
	return TG_OK;
}

/* A fragment whose L4 header is here, or whose ports are known. */
static __always_inline enum tg_reason
tg_parse_fragment(struct tg_cursor *cursor, struct tg_packet *packet, __u32 id, __u32 offset_units)
{
	enum tg_reason reason;

	if (offset_units) {
		/* An offset of one unit rewrites the TCP flags of the first fragment: RFC 1858. */
		if (offset_units == 1 && packet->protocol == TG_PROTO_TCP)
			return TG_FRAGMENT_BAD;
		packet->fragment = TG_FRAGMENT_LATER;
		return tg_fragment_recall(packet, id) ? TG_OK : TG_FRAGMENT_UNKNOWN;
	}
	packet->fragment = TG_FRAGMENT_FIRST;
	reason = tg_parse_l4(cursor, packet);
	if (reason != TG_OK)
		return TG_FRAGMENT_BAD;
	tg_fragment_record(packet, id);
	return TG_OK;
}

static __always_inline bool tg_has_source_route(struct tg_cursor *cursor, __u32 options_bytes)
{
	struct tg_cursor at = *cursor;
	__u32 end = cursor->offset + options_bytes;
	__u8 option[2];

	at.offset = cursor->offset;
	for (int i = 0; i < 10; i++) {
		if (at.offset >= end || !tg_read(&at, option, 1) || option[0] == 0)
			return false;
		if (option[0] == 131 || option[0] == 137)
			return true;
		if (option[0] == 1) {
			at.offset += 1;
			continue;
		}
		at.offset += 1;
		if (!tg_read(&at, option, 1) || option[0] < 2)
			return true; /* unreadable: as if it were one */
		at.offset += option[0] - 1;
	}
	return at.offset < end; /* more than ten options: unreadable too */
}

static __always_inline enum tg_reason tg_parse_ipv4(struct tg_cursor *cursor,
						    struct tg_packet *packet)
{
	struct tg_ipv4 ip;
	__u32 header_bytes, total_bytes, available = cursor->skb->len - cursor->offset;
	__u16 fragment;

	if (!tg_read(cursor, &ip, sizeof(ip)))
		return TG_TRUNCATED;
	header_bytes = (ip.version_words & 0x0f) * 4;
	if ((ip.version_words >> 4) != 4 || header_bytes < sizeof(ip))
		return TG_BAD_HEADER;
	total_bytes = bpf_ntohs(ip.total_bytes_be);
	if (!total_bytes && cursor->skb->gso_size)
		total_bytes = available; /* larger than 64 KiB: "BIG TCP" */
	if (total_bytes < header_bytes || total_bytes > available)
		return TG_BAD_LENGTH;
	tg_map_ipv4(&packet->source, ip.source);
	tg_map_ipv4(&packet->destination, ip.destination);
	packet->protocol = ip.protocol;
	packet->hop_limit = ip.ttl;
	packet->l4_bytes = total_bytes - header_bytes;
	if (header_bytes > sizeof(ip)) {
		cursor->offset += sizeof(ip);
		packet->plain = 0;
		if (tg_has_source_route(cursor, header_bytes - sizeof(ip)))
			return TG_SOURCE_ROUTED;
		cursor->offset += header_bytes - sizeof(ip);
	} else {
		cursor->offset += sizeof(ip);
	}
	packet->l4_offset = cursor->offset;
	fragment = bpf_ntohs(ip.fragment_be) & 0x3fff; /* more-fragments bit and offset */
	if (fragment)
		return tg_parse_fragment(cursor, packet, ip.id_be, fragment & 0x1fff);
	return tg_parse_l4(cursor, packet);
}

struct tg_extension {
	__u8 next_header;
	__u8 length_units;  /* of 8 bytes, not counting the first; AH: of 4, not counting two */
	__be16 fragment_be; /* routing header: type, segments left */
	__be32 fragment_id;
};

static __always_inline bool tg_is_extension(__u8 next_header)
{
	switch (next_header) {
	case TG_PROTO_HOP_BY_HOP:
	case TG_PROTO_ROUTING:
	case TG_PROTO_FRAGMENT:
	case TG_PROTO_AH:
	case TG_PROTO_DEST_OPTS:
	case TG_PROTO_MOBILITY:
		return true;
	default:
		return false;
	}
}

static __always_inline enum tg_reason tg_parse_ipv6(struct tg_cursor *cursor,
						    struct tg_packet *packet)
{
	struct tg_ipv6 ip;
	struct tg_extension extension;
	__u32 size, payload_bytes, available = cursor->skb->len - cursor->offset;
	__u32 fragment_id = 0;
	__u16 fragment = 0;
	enum tg_reason reason;
	bool last = false, fragmented = false;

	if (!tg_read(cursor, &ip, sizeof(ip)))
		return TG_TRUNCATED;
	if ((bpf_ntohl(ip.version_class_flow) >> 28) != 6)
		return TG_BAD_HEADER;
	available -= sizeof(ip);
	payload_bytes = bpf_ntohs(ip.payload_bytes_be);
	if (!payload_bytes && cursor->skb->gso_size)
		payload_bytes = available;
	if (payload_bytes > available)
		return TG_BAD_LENGTH;
	packet->source = ip.source;
	packet->destination = ip.destination;
	/* To us these are IPv4's, and so are their policies and connections. */
	if (tg_is_ipv4_mapped(&packet->source) || tg_is_ipv4_mapped(&packet->destination))
		return TG_LOOPBACK;
	packet->is_ipv6 = 1;
	packet->hop_limit = ip.hop_limit;
	packet->protocol = ip.next_header;
	packet->l4_bytes = payload_bytes;
	cursor->offset += sizeof(ip);

	for (int i = 0; i < TG_IPV6_EXTENSIONS_MAX; i++) {
		if (last || !tg_is_extension(packet->protocol))
			break;
		packet->plain = 0;
		if (!tg_read(cursor, &extension, sizeof(extension)))
			return TG_TRUNCATED;
		if (packet->protocol == TG_PROTO_ROUTING) {
			__u16 type_left = bpf_ntohs(extension.fragment_be);

			if ((type_left >> 8) == 0 || (type_left & 0xff))
				return TG_SOURCE_ROUTED;
		}
		size = ((__u32)extension.length_units + 1) * 8;
		if (packet->protocol == TG_PROTO_AH)
			size = ((__u32)extension.length_units + 2) * 4;
		if (packet->protocol == TG_PROTO_FRAGMENT) {
			if (fragmented)
				return TG_FRAGMENT_BAD;
			fragmented = true;
			size = 8;
			fragment = bpf_ntohs(extension.fragment_be) & 0xfff9;
			fragment_id = extension.fragment_id;
		}
		if (size > packet->l4_bytes)
			return TG_BAD_LENGTH;
		packet->l4_bytes -= size;
		cursor->offset += size;
		packet->protocol = extension.next_header;
		if (fragment >> 3)
			last = true; /* what follows is the middle of something */
	}
	packet->l4_offset = cursor->offset;
	if (!(fragment >> 3) && tg_is_extension(packet->protocol))
		return TG_EXTENSION_LIMIT;
	if (fragment)
		return tg_parse_fragment(cursor, packet, fragment_id, fragment >> 3);
	reason = tg_parse_l4(cursor, packet);
	if (reason != TG_OK)
		return reason;
	if (packet->protocol == TG_PROTO_ICMPV6 && tg_is_link_icmpv6(packet))
		return TG_LINK;
	return TG_OK;
}

/*
 * There are some dozen ways through a packet's headers, and each leaves other constants behind, with
 * which the verifier would go through all that follows once more.
 */
static __always_inline void tg_forget_packet(struct __sk_buff *skb, struct tg_packet *packet)
{
	volatile __u32 *words = (volatile __u32 *)packet;
	struct tg_unknown unknown = tg_unknown_of(skb->hash);

#pragma unroll
	for (int i = 0; i < sizeof(*packet) / sizeof(*words); i++)
		words[i] = tg_forget(words[i], unknown);
}

static __always_inline enum tg_reason tg_parse_ip(struct __sk_buff *skb, struct tg_packet *packet,
						  __u32 link_bytes)
{
	struct tg_cursor cursor = {.skb = skb, .offset = link_bytes};
	__u16 ethertype = bpf_ntohs((__be16)skb->protocol);

	__builtin_memset(packet, 0, sizeof(*packet));
	packet->length_bytes = skb->len;
	packet->ifindex = skb->ifindex;
	packet->plain = 1;
	if (skb->vlan_present)
		return TG_VLAN_TAGGED;
	switch (ethertype) {
	case TG_ETHERTYPE_IPV4:
		return tg_parse_ipv4(&cursor, packet);
	case TG_ETHERTYPE_IPV6:
		return tg_parse_ipv6(&cursor, packet);
	case TG_ETHERTYPE_ARP:
		return TG_LINK;
	case TG_ETHERTYPE_VLAN:
	case TG_ETHERTYPE_QINQ:
		return TG_VLAN_TAGGED;
	default:
		return TG_UNKNOWN_ETHERTYPE;
	}
}

/*
 * Fill `packet` from `skb`. `link_bytes` is the size of the link header (0 at cgroup hooks).
 * Returns TG_OK, TG_LINK (let it pass, nothing else is filled in) or a reason to drop.
 */
static __always_inline enum tg_reason tg_parse(struct __sk_buff *skb, struct tg_packet *packet,
					       __u32 link_bytes)
{
	enum tg_reason reason = tg_parse_ip(skb, packet, link_bytes);

	tg_forget_packet(skb, packet);
	return reason;
}

#endif
