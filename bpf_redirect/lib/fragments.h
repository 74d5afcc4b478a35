/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Ports of later fragments. The first fragment of a datagram carries the ports and is recorded;
 * later ones find them by (source, destination, id, protocol). One that overtakes its first
 * fragment is dropped: nobody can judge it, and its sender will try again.
 */
#ifndef TG_FRAGMENTS_H
#define TG_FRAGMENTS_H

#include "maps.h"
#include "packet.h"

static __always_inline void tg_fragment_key_of(const struct tg_packet *packet, __u32 id,
					       struct tg_fragment_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->source = packet->source;
	key->destination = packet->destination;
	key->id = id;
	/* IPv6: the header after the fragment header differs between first and later ones. */
	key->protocol = packet->is_ipv6 ? 0 : packet->protocol;
}

static __always_inline void tg_fragment_record(const struct tg_packet *packet, __u32 id)
{
	struct tg_fragment_key key;
	struct tg_fragment value = {
		.seen_ns = bpf_ktime_get_ns(),
		.source_port_be = packet->source_port_be,
		.destination_port_be = packet->destination_port_be,
		.icmp_type = packet->icmp_type,
		.protocol = packet->protocol,
	};

	tg_fragment_key_of(packet, id, &key);
	bpf_map_update_elem(TG_MAP(tg_fragments), &key, &value, BPF_ANY);
}

static __always_inline bool tg_fragment_recall(struct tg_packet *packet, __u32 id)
{
	struct tg_fragment_key key;
	struct tg_fragment *value;

	tg_fragment_key_of(packet, id, &key);
	value = bpf_map_lookup_elem(TG_MAP(tg_fragments), &key);
	if (!value || bpf_ktime_get_ns() - value->seen_ns > TG_TIMEOUT_FRAGMENT_NS)
		return false;
	packet->protocol = value->protocol;
	packet->source_port_be = value->source_port_be;
	packet->destination_port_be = value->destination_port_be;
	packet->icmp_type = value->icmp_type;
	packet->tcp_flags = packet->protocol == TG_PROTO_TCP ? TG_TCP_ACK : 0;
	return true;
}

#endif
